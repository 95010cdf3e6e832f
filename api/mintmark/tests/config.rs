//! What `mintmark.toml` accepts, what it refuses, and where it says the fault is.
#![expect(clippy::unwrap_used, reason = "tests state their expectations by unwrapping")]

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ca_core::authority::KeyCreation;
use ca_core::issuing::{IssuingMode, LongTtl};
use ca_core::key::{KeyType, RsaScheme};
use keymanager::pkcs11::{Hashing, Template, TokenSelector};
use keymanager::{SecretSource, Verification};
use mintmark::config::{
    self, AdminSection, Backend, ConfigError, File, IssuingSection, KeySection, LogSection,
    MetricsSection, Pkcs11Settings, ServerSection, Settings, SignerSection, StoreSection,
    SubjectSection, TemplateSection, TrustDomainSection,
};
use mintmark_signer::signing::Limits;
use serde::Deserialize;
use serde::de::{self, Deserializer, Visitor};

const MINIMAL: &str = r#"
[trust_domain]
name = "example.org"
[keys.main]
type = "software"
dir = "keys"
seal_key = { file = "seal.key" }
[store]
dir = "/var/lib/mintmark/store"
"#;

fn parse(text: &str) -> Result<Settings, ConfigError> {
    config::parse(text, Path::new("/etc/mintmark/mintmark.toml"))
}

/// The faults of a text as `line:column: problem`.
fn faults(text: &str) -> Vec<String> {
    match parse(text) {
        Err(ConfigError::Invalid(faults)) => faults
            .iter()
            .map(|fault| format!("{}:{}: {}", fault.line, fault.column, fault.problem))
            .collect(),
        other => panic!("the text should be refused as invalid: {other:?}"),
    }
}

/// The one fault of the minimal text with `more` behind it; lines are counted from `more`.
fn fault_of(more: &str) -> String {
    let found = faults(&format!("{MINIMAL}{more}"));
    assert_eq!(found.len(), 1, "{found:?}");
    let before = MINIMAL.matches('\n').count();
    let (line, rest) = found[0].split_once(':').unwrap();
    format!("{}:{rest}", line.parse::<usize>().unwrap() - before)
}

#[test]
fn a_minimal_file_has_every_default() {
    let settings = parse(MINIMAL).unwrap();
    assert_eq!(settings.trust_domain.name(), "example.org");
    assert_eq!(settings.admin.socket, Path::new("/run/mintmark/admin.sock"));
    assert_eq!(settings.authority_keys, "main");
    assert_eq!(settings.authorities.ca_key_type, KeyType::EcP256);
    assert_eq!(settings.authorities.lifetimes.default_ttl, Duration::from_secs(3_600));
    assert_eq!(settings.authorities.tokens.default_ttl, Duration::from_secs(300));
    assert_eq!(settings.authorities.ca_ttl, Duration::from_secs(365 * 86_400));
    assert_eq!(settings.authorities.lifetimes.backdate, Duration::from_secs(10));
    assert_eq!(settings.authorities.refresh_hint, Duration::from_secs(300));
    assert_eq!(settings.metrics, None);
    let IssuingMode::Delegated(delegation) = settings.issuing_mode else { panic!("delegated") };
    assert_eq!(delegation.key_type, KeyType::EcP256);
    assert_eq!(delegation.life, Duration::from_secs(6 * 3_600));
    assert_eq!(delegation.long_ttl, LongTtl::Authority);
}

#[test]
fn issuing_keys_are_like_the_authority_and_never_outlive_it_unless_told_otherwise() {
    let mode = |text: &str| parse(&format!("{MINIMAL}\n[issuing]\n{text}")).unwrap().issuing_mode;
    assert_eq!(mode("mode = \"direct\"\n"), IssuingMode::Direct);
    let delegated = |text: &str| match mode(text) {
        IssuingMode::Delegated(delegation) => delegation,
        IssuingMode::Direct => panic!("{text}"),
    };
    let short = delegated("ca_ttl = \"2h\"\nca_key_type = \"ec-p384\"\n");
    assert_eq!((short.life, short.key_type), (Duration::from_secs(2 * 3_600), KeyType::EcP384));
    let told = "issuing_key_type = \"ec-p256\"\nissuing_key_life = \"1h\"\nlong_ttl = \"refuse\"\n";
    let told = delegated(told);
    assert_eq!((told.life, told.key_type), (Duration::from_secs(3_600), KeyType::EcP256));
    assert_eq!(told.long_ttl, LongTtl::Refuse);
}

#[test]
fn what_means_nothing_without_an_issuing_key_is_refused_by_name() {
    for line in
        ["issuing_key_type = \"ec-p256\"", "issuing_key_life = \"1h\"", "long_ttl = \"refuse\""]
    {
        let found = fault_of(&format!("[issuing]\nmode = \"direct\"\n{line}\n"));
        let key = line.split(' ').next().unwrap();
        let problem = format!("key {key:?} means nothing for mode = \"direct\"; remove it");
        assert!(found.starts_with("3:") && found.ends_with(&problem), "{found}");
    }
}

#[test]
fn relative_paths_start_at_the_folder_of_the_file() {
    let settings = parse(MINIMAL).unwrap();
    let Backend::Software(software) = &settings.keys["main"].backend else { panic!("software") };
    assert_eq!(software.dir, Path::new("/etc/mintmark/keys"));
    assert_eq!(software.seal_key, SecretSource::File(PathBuf::from("/etc/mintmark/seal.key")));
    assert_eq!(settings.store_dir, Path::new("/var/lib/mintmark/store"));
}

#[test]
fn an_unknown_key_names_the_nearest_one_and_its_place() {
    assert_eq!(
        fault_of("[issuing]\nca_ttl = \"24h\"\n  default_x509_svid_tll = \"1h\"\n"),
        "3:3: unknown key \"default_x509_svid_tll\"; did you mean \"default_x509_svid_ttl\"?"
    );
    assert_eq!(
        fault_of("[server.admin]\nsockets = \"x\"\n"),
        "2:1: unknown key \"sockets\"; did you mean \"socket\"?"
    );
    assert_eq!(
        fault_of("[isuing]\nca_ttl = \"24h\"\n"),
        "1:2: unknown key \"isuing\"; did you mean \"issuing\"?"
    );
    assert_eq!(
        fault_of("[keys.other]\ntype = \"software\"\nsealkey = { file = \"x\" }\n"),
        "3:1: unknown key \"sealkey\"; did you mean \"seal_key\"?"
    );
    assert_eq!(
        fault_of("[keys.other]\ntype = \"pkcs12\"\n"),
        "2:8: unknown value \"pkcs12\"; did you mean \"pkcs11\"?"
    );
    assert_eq!(
        fault_of("[keys.other]\ntype = \"software\"\nseal_key = { fiel = \"x\" }\n"),
        "3:14: unknown value \"fiel\"; did you mean \"file\"?"
    );
}

#[test]
fn a_key_that_is_like_no_other_lists_what_is_known() {
    assert_eq!(
        fault_of("[server]\ncolour = 1\n"),
        "2:1: unknown key \"colour\"; known here: log_level, log_format, admin"
    );
}

#[test]
fn reserved_sections_say_that_they_are_reserved() {
    for (section, purpose) in [
        ("frontend", "the front end's listeners"),
        ("attestors.x509pop", "how nodes and workloads prove who they are"),
    ] {
        let name = section.split('.').next().unwrap();
        assert_eq!(
            fault_of(&format!("[{section}]\n")),
            format!(
                "1:2: section [{name}] is reserved for {purpose} and has no settings in this version; remove it"
            )
        );
    }
}

#[test]
fn a_span_of_time_needs_its_unit() {
    assert_eq!(
        fault_of("[issuing]\nca_ttl = 3600\n"),
        "2:10: invalid type: integer `3600`, expected a span of time in quotes, such as \"10s\", \"30m\" or \"1h\""
    );
    assert_eq!(
        fault_of("[issuing]\nca_ttl = \"3600\"\n"),
        "2:10: \"3600\" is no span of time; write it like \"10s\", \"30m\", \"1h\" or \"1h30m\""
    );
}

#[test]
fn spans_out_of_bounds_are_refused() {
    for (line, problem) in [
        ("ca_ttl = \"0s\"", "ca_ttl = \"0s\" is no life; write at least \"1s\""),
        ("backdate = \"2h\"", "backdate = \"2h\" is too long; at most \"1h\""),
        (
            "issuing_key_life = \"0s\"",
            "issuing_key_life = \"0s\" is no life; write at least \"1s\"",
        ),
        (
            "ca_ttl = \"1h\"\nissuing_key_life = \"61m\"",
            "issuing_key_life = \"1h1m\" is too long; at most \"1h\"",
        ),
        (
            "default_x509_svid_ttl = \"366d\"",
            "default_x509_svid_ttl = \"366d\" is too long; at most \"365d\"",
        ),
    ] {
        let found = fault_of(&format!("[issuing]\n{line}\n"));
        assert!(found.ends_with(problem), "{found}");
    }
}

#[test]
fn a_trust_domain_is_checked_where_it_is_written() {
    let found = faults(&MINIMAL.replace("example.org", "Example.org"));
    assert!(found[0].starts_with("3:8: "), "{found:?}");
    assert!(found[0].contains("trust domain must be lower case"), "{found:?}");
}

#[test]
fn a_missing_key_is_named() {
    assert_eq!(
        faults(&MINIMAL.replace("name = \"example.org\"", "")),
        ["2:1: key \"name\" is missing here"]
    );
    assert_eq!(
        faults(&MINIMAL.replace("dir = \"keys\"", "")),
        ["4:1: key \"dir\" is missing here; type = \"software\" needs it"]
    );
}

#[test]
fn every_fault_is_told_at_once() {
    let found = faults(
        "[trust_domain]\nname = \"a\"\n[store]\ndir = \"s\"\n[keys.a]\ntype = \"pkcs11\"\ndir = \"x\"\n\
         module = \"m\"\nsessions = 0\n[keys.b]\ntype = \"software\"\ndir = \"x\"\n\
         seal_key = { env = \"K\" }\n",
    );
    assert_eq!(found.len(), 5, "{found:#?}");
    assert!(found[0].contains("several key stores are described (a, b)"));
    assert!(found[1].starts_with("7:7: key \"dir\" means nothing for type = \"pkcs11\""));
    assert!(found[2].starts_with("5:1: key \"token\" or \"serial\" is missing"));
    assert!(found[3].starts_with("5:1: key \"pin\" is missing"));
    assert!(found[4].starts_with("9:12: sessions = 0 is out of bounds; 1 to 1024"));
}

#[test]
fn the_authority_keys_must_be_described() {
    assert_eq!(
        fault_of("[issuing]\nkeys = \"hsm\"\n"),
        "2:8: there is no section [keys.hsm]; sections are: main"
    );
}

#[test]
fn a_socket_path_that_the_system_cannot_bind_is_refused() {
    let found = fault_of(&format!("[server.admin]\nsocket = \"/run/{}\"\n", "x".repeat(103)));
    assert!(found.starts_with("2:10: socket path /run/xxx"), "{found}");
    assert!(found.contains("has 108 bytes"), "{found}");
    parse(&format!("{MINIMAL}[server.admin]\nsocket = \"/run/{}\"\n", "x".repeat(102))).unwrap();
}

#[test]
fn metrics_are_told_at_an_ip_address_with_a_port() {
    for address in ["127.0.0.1:9464", "[::1]:9464", "0.0.0.0:80"] {
        let settings = parse(&format!("{MINIMAL}[metrics]\nlisten = \"{address}\"\n")).unwrap();
        assert_eq!(settings.metrics.unwrap().to_string(), address);
    }
    for wrong in ["localhost:9464", "127.0.0.1", ":9464", "127.0.0.1:0", "::1:9464", "/run/x"] {
        let found = fault_of(&format!("[metrics]\nlisten = \"{wrong}\"\n"));
        let problem =
            format!("2:10: listen = {wrong:?} is no IP address with a port; write it like ");
        assert!(found.starts_with(&problem), "{found}");
    }
    let found = fault_of("[metrics]\nlisen = \"127.0.0.1:9464\"\n");
    assert_eq!(found, "2:1: unknown key \"lisen\"; did you mean \"listen\"?");
}

#[test]
fn a_key_type_that_signs_no_tokens_is_refused_for_tokens_only() {
    let settings = parse(&format!("{MINIMAL}[issuing]\nca_key_type = \"ed25519\"\n")).unwrap();
    assert_eq!(settings.authorities.ca_key_type, KeyType::Ed25519);
    assert_eq!(settings.authorities.jwt_key_type, KeyType::EcP256);
    let found = fault_of("[issuing]\njwt_key_type = \"ed25519\"\n");
    assert!(found.starts_with("2:16: a key of type ed25519 cannot sign JWT-SVIDs"), "{found}");
    let found = fault_of("[issuing]\nca_key_type = \"p256\"\n");
    assert!(found.starts_with("2:15: unknown key type \"p256\"; one of ec-p256"), "{found}");
}

#[test]
fn a_subject_that_no_certificate_can_carry_is_refused() {
    for (line, problem) in [
        (
            "country = [\"Germany\"]",
            "ca_subject cannot stand in a certificate: name has 7 characters in",
        ),
        (
            "common_name = \"\"",
            "ca_subject cannot stand in a certificate: name has 0 characters in",
        ),
        ("country = []", "ca_subject is empty"),
    ] {
        let found = fault_of(&format!("[issuing.ca_subject]\n{line}\n"));
        assert!(found.contains(problem), "{found}");
    }
}

#[test]
fn broken_toml_is_placed() {
    let found = fault_of("[server\nlog_level = \"info\"\n");
    assert!(found.starts_with("1:8: "), "{found}");
}

#[test]
fn a_file_that_is_missing_says_how_to_name_another() {
    let error = config::load(Path::new("/nowhere/mintmark.toml")).unwrap_err().to_string();
    assert!(error.contains("/nowhere/mintmark.toml: no such file"), "{error}");
    assert!(error.contains("--config"), "{error}");
}

#[test]
fn a_file_that_is_no_configuration_is_refused_unread() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("big.toml");
    std::fs::write(&path, "#".repeat(300_000)).unwrap();
    let error = config::load(&path).unwrap_err().to_string();
    assert!(error.contains("is longer than"), "{error}");
}

const TOKEN: &str = r#"
[trust_domain]
name = "example.org"
[store]
dir = "store"
[keys.hsm]
type = "pkcs11"
"#;

/// The token of a section that says `more`.
fn token(more: &str) -> Pkcs11Settings {
    let settings = parse(&format!("{TOKEN}{more}")).unwrap();
    match &settings.keys["hsm"].backend {
        Backend::Pkcs11(token) => token.clone(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_key_store_says_who_makes_keys_and_what_is_verified() {
    let settings = parse(MINIMAL).unwrap();
    assert_eq!(settings.keys["main"].verification, Verification::INSIDE);
    assert_eq!(settings.authorities.key_creation, KeyCreation::Auto);
    let with = |line: &str| parse(&MINIMAL.replace("[store]", &format!("{line}\n[store]")));
    let settings = with("create = \"never\"\nverify = \"sampled(7)\"").unwrap();
    assert_eq!(settings.authorities.key_creation, KeyCreation::Never);
    let sampled = Verification::Sampled(7.try_into().unwrap());
    assert_eq!(settings.keys["main"].verification, sampled);
    for (text, chosen) in [("always", Verification::Always), ("off", Verification::Off)] {
        let settings = with(&format!("verify = \"{text}\"")).unwrap();
        assert_eq!(settings.keys["main"].verification, chosen);
    }
    for text in ["sampled", "sampled()", "sampled(0)", "sampled(+1)", "sampled(4294967296)", "On"] {
        let refused = with(&format!("verify = \"{text}\"")).unwrap_err().to_string();
        assert!(refused.contains("\"sampled(N)\" for one of N is expected"), "{text}: {refused}");
    }
    assert!(with("create = \"manual\"").is_err());
}

#[test]
fn a_token_is_named_by_keys_or_by_a_uri_and_by_nothing_twice() {
    let base = "pin = { file = \"pin\" }\nmodule = \"p.so\"\n";
    assert_eq!(token(&format!("{base}serial = \"1\"")).token, TokenSelector::serial("1"));
    let by_uri = token("uri = \"pkcs11:token=a;model=m?module-path=/p.so&pin-source=file:/pin\"");
    assert_eq!(by_uri.module, Path::new("/p.so"));
    assert_eq!(by_uri.token, TokenSelector::label("a").with_model("m"));
    assert_eq!(by_uri.pin, SecretSource::File(PathBuf::from("/pin")));
    let beside = token(&format!("{base}uri = \"pkcs11:token=a\""));
    assert_eq!(beside.module, Path::new("/etc/mintmark/p.so"));

    for (more, said) in [
        (
            format!("{base}uri = \"pkcs11:token=a\"\ntoken = \"a\""),
            "\"token\" is said by \"uri\" too",
        ),
        (
            format!("{base}uri = \"pkcs11:token=a?module-path=/p\""),
            "\"module\" is said by \"uri\" too",
        ),
        ("uri = \"pkcs11:token=a\"\npin = { env = \"P\" }".to_owned(), "\"module\" is missing"),
        (format!("{base}uri = \"pkcs11:token=a?pin-value=1234\""), "mode 0600"),
        (base.to_owned(), "\"token\" or \"serial\" is missing"),
    ] {
        let found = faults(&format!("{TOKEN}{more}"));
        assert!(found.len() == 1 && found[0].contains(said), "{found:?}");
        assert!(!found[0].contains("1234"), "{found:?}");
    }
}

#[test]
fn waits_of_a_token_have_bounds() {
    let base = "token = \"a\"\npin = { file = \"pin\" }\nmodule = \"p.so\"\n";
    let set = token(&format!(
        "{base}queue_wait = \"1ms\"\nstall_limit = \"10m\"\nprobe_interval = \"1s\"\nhash = \"device\""
    ));
    assert_eq!((set.queue_wait, set.hashing), (Duration::from_millis(1), Hashing::Device));
    assert_eq!(
        (set.stall_limit, set.probe_interval),
        (Duration::from_secs(600), Duration::from_secs(1))
    );
    for (line, said) in [
        ("queue_wait = \"0ms\"", "queue_wait = \"0s\" is out of bounds; \"1ms\" to \"1m\""),
        ("queue_wait = \"61s\"", "queue_wait = \"61s\" is out of bounds"),
        ("stall_limit = \"99ms\"", "stall_limit = \"99ms\" is out of bounds; \"100ms\" to \"10m\""),
        ("probe_interval = \"999ms\"", "\"1s\" to \"60m\""),
        ("probe_interval = \"1h\"", "no wait; write it like"),
        ("queue_wait = 50", "a wait in quotes"),
        ("hash = \"hsm\"", "unknown value"),
    ] {
        let found = faults(&format!("{TOKEN}{base}{line}"));
        assert!(found.len() == 1 && found[0].contains(said), "{found:?}");
    }
}

#[test]
fn a_template_may_say_less_and_never_that_a_key_may_leave() {
    let base = "token = \"a\"\npin = { file = \"pin\" }\nmodule = \"p.so\"\n[keys.hsm.template]\n";
    let changed =
        token(&format!("{base}omit = [\"copyable\", \"wrap\"]\nset = {{ modifiable = true }}"));
    let omit = ["copyable".to_owned(), "wrap".to_owned()];
    let expected = Template::new(&omit, &[("modifiable".to_owned(), true)]).unwrap();
    assert_eq!(changed.template, expected);
    for attribute in ["sensitive", "extractable", "sign", "token", "private"] {
        for line in [format!("omit = [\"{attribute}\"]"), format!("set = {{ {attribute} = true }}")]
        {
            let found = faults(&format!("{TOKEN}{base}{line}"));
            let said = format!("\"{attribute}\" cannot be");
            assert!(found.len() == 1 && found[0].contains(&said), "{found:?}");
            assert!(!found[0].starts_with("1:1"), "{found:?}");
        }
    }
}

#[test]
fn key_stores_on_the_network_have_a_pace_and_keys_of_their_own() {
    let remote = |lines: &str| {
        let text = TOKEN.replace("type = \"pkcs11\"\n", lines);
        parse(&text).map(|settings| settings.keys["hsm"].clone())
    };
    let kms = remote("type = \"aws_kms\"\nregion = \"eu-central-1\"\nrate = 500").unwrap();
    assert_eq!(kms.verification, Verification::Always);
    let Backend::AwsKms(kms) = kms.backend else { panic!("{kms:?}") };
    assert_eq!((kms.deletion_days, kms.pace.in_flight, kms.pace.rate), (30, 128, 500));
    let transit =
        "type = \"transit\"\naddress = \"https://v:8200\"\naccess_token = { file = \"t\" }";
    let transit = remote(transit).unwrap();
    let Backend::Transit(transit) = transit.backend else { panic!("{transit:?}") };
    assert_eq!((transit.mount.as_str(), transit.pace.in_flight), ("transit", 32));
    assert_eq!(transit.access_token, SecretSource::File("/etc/mintmark/t".into()));

    for (lines, said) in [
        ("type = \"aws_kms\"", "\"region\" is missing"),
        ("type = \"aws_kms\"\nregion = \"x\"\nmount = \"m\"", "\"mount\" means nothing"),
        ("type = \"aws_kms\"\nregion = \"x\"\nsessions = 4", "\"sessions\" means nothing"),
        ("type = \"aws_kms\"\nregion = \"x\"\ndeletion_days = 6", "7 to 30"),
        ("type = \"aws_kms\"\nregion = \"x\"\nin_flight = 4097", "1 to 4096"),
        ("type = \"aws_kms\"\nregion = \"x\"\nattempt_timeout = \"9ms\"", "\"10ms\" to \"1m\""),
        ("type = \"transit\"\naddress = \"https://v\"", "\"access_token\" is missing"),
    ] {
        let refused = remote(lines).unwrap_err().to_string();
        assert!(refused.contains(said), "{lines}: {refused}");
    }
    let own = faults(&MINIMAL.replace("[store]", "rate = 1\n[store]"));
    assert_eq!(own, ["8:8: key \"rate\" means nothing for type = \"software\"; remove it"]);
}

#[test]
fn rsa_keys_sign_by_the_scheme_that_is_set() {
    let settings = parse(&format!("{MINIMAL}[issuing]\nrsa_scheme = \"pss\"\n")).unwrap();
    assert_eq!(settings.authorities.rsa_scheme, RsaScheme::Pss);
    assert_eq!(
        fault_of("[issuing]\nrsa_scheme = \"oaep\"\n"),
        "2:14: unknown RSA scheme \"oaep\"; \"pkcs1\" or \"pss\" is expected"
    );
}

fn sample() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/mintmark.toml");
    std::fs::read_to_string(path).unwrap()
}

/// The sample with every setting that is off turned on.
fn sample_all_on() -> String {
    let on = |line: &str| match line.strip_prefix('#') {
        Some(setting) if setting.starts_with(|c: char| c.is_ascii_lowercase()) => {
            setting.to_owned()
        }
        _ => line.to_owned(),
    };
    let all_on = sample().lines().map(on).collect::<Vec<_>>().join("\n");
    // A window belongs to this one.
    all_on.replace("durability = \"durable\"", "durability = \"relaxed\"")
}

#[test]
fn the_annotated_sample_is_a_configuration() {
    let settings = parse(&sample()).unwrap();
    assert_eq!(settings.keys.len(), 5);
    let all_on = parse(&sample_all_on()).unwrap();
    assert!(all_on.admin.group.is_some() && all_on.authorities.tokens.issuer.is_some());
    assert!(settings.metrics.is_none() && all_on.metrics.is_some());
}

#[test]
fn a_signing_listener_serves_as_many_as_is_said() {
    let with = |lines: &str| parse(&format!("{MINIMAL}\n[signer]\n{lines}"));
    let (address, usual) = with("listen = \"10.0.0.5:8443\"").unwrap().signing.unwrap();
    assert_eq!((address.port(), usual), (8443, Limits::default()));
    let set = "connections = 4096\nconnections_per_front_end = 4000\nhandshakes_per_address = 256";
    let (_, limits) = with(&format!("listen = \"10.0.0.5:8443\"\n{set}")).unwrap().signing.unwrap();
    let said = (limits.connections, limits.connections_of_a_peer, limits.handshakes_of_an_address);
    assert_eq!(said, (4096, 4000, 256));
    for (line, part) in [
        ("connections = 0", "connections = 0 is out of bounds; 1 to 65536"),
        ("handshakes_per_address = 257", "handshakes_per_address = 257 is out of bounds; 1 to 256"),
    ] {
        let error = with(&format!("listen = \"10.0.0.5:8443\"\n{line}")).unwrap_err();
        assert!(error.to_string().contains(part), "{error}");
    }
    let error = with("connections = 10").unwrap_err().to_string();
    assert!(error.contains("means nothing without \"listen\""), "{error}");
}

#[test]
fn the_annotated_sample_shows_the_defaults() {
    let shown = parse(&sample()).unwrap();
    let bare = parse(MINIMAL).unwrap();
    assert_eq!((shown.logging, &shown.admin), (bare.logging, &bare.admin));
    let mut authorities = bare.authorities;
    authorities.ca_subject = shown.authorities.ca_subject.clone();
    assert_eq!(format!("{:?}", shown.authorities), format!("{authorities:?}"));
    let defaults = [
        "create",
        "verify",
        "sessions",
        "queue",
        "queue_wait",
        "stall_limit",
        "probe_interval",
        "hash",
        "read_write_sessions",
        "omit",
        "set",
        "deletion_days",
        "mount",
        "in_flight",
        "rate",
        "attempt_timeout",
    ];
    let unsaid = defaults
        .iter()
        .fold(sample(), |text, key| text.replace(&format!("\n{key} ="), &format!("\n#{key} =")));
    assert_eq!(parse(&unsaid).unwrap().keys, shown.keys);
}

#[test]
fn the_annotated_sample_has_every_key() {
    let sample: toml::Table = toml::from_str(&sample_all_on()).unwrap();
    let section = |name: &str| sample[name].as_table().unwrap().clone();
    let keys = section("keys");
    let all_stores: toml::Table =
        keys.values().flat_map(|store| store.as_table().unwrap().clone()).collect();
    let template = keys["hsm"]["template"].as_table().unwrap().clone();
    let admin = section("server")["admin"].as_table().unwrap().clone();
    let subject = section("issuing")["ca_subject"].as_table().unwrap().clone();
    for (name, fields, present) in [
        ("", fields::<File>(), sample.clone()),
        ("trust_domain", fields::<TrustDomainSection>(), section("trust_domain")),
        ("server", fields::<ServerSection>(), section("server")),
        ("server.admin", fields::<AdminSection>(), admin),
        ("keys.<name>", fields::<KeySection>(), all_stores),
        ("keys.<name>.template", fields::<TemplateSection>(), template),
        ("store", fields::<StoreSection>(), section("store")),
        ("issuing", fields::<IssuingSection>(), section("issuing")),
        ("issuing.ca_subject", fields::<SubjectSection>(), subject),
        ("signer", fields::<SignerSection>(), section("signer")),
        ("log", fields::<LogSection>(), section("log")),
        ("metrics", fields::<MetricsSection>(), section("metrics")),
    ] {
        for field in fields {
            assert!(present.contains_key(*field), "docs/mintmark.toml lacks {field} in [{name}]");
        }
    }
}

/// The keys that a section's type reads.
fn fields<'de, T: Deserialize<'de>>() -> &'static [&'static str] {
    T::deserialize(FieldNames).err().map(|Fields(names)| names).unwrap()
}

/// Answers a type that wants to be read with the names that it asks for.
struct FieldNames;

#[derive(Debug)]
struct Fields(&'static [&'static str]);

impl fmt::Display for Fields {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

impl std::error::Error for Fields {}

impl de::Error for Fields {
    fn custom<T: fmt::Display>(message: T) -> Self {
        panic!("a section is read as a struct: {message}")
    }
}

impl<'de> Deserializer<'de> for FieldNames {
    type Error = Fields;

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        _visitor: V,
    ) -> Result<V::Value, Fields> {
        Err(Fields(fields))
    }

    fn deserialize_any<V: Visitor<'de>>(self, _visitor: V) -> Result<V::Value, Fields> {
        panic!("a section is read as a struct")
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option
        unit unit_struct newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}
