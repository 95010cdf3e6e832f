//! What a server and the command line refuse to mint, by exit code and text.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use ca_core::log::Caller;
use ca_core::log::entry::Entry;
use mintmark_proto::spire::svid::v1::MintX509svidRequest;
use mintmark_proto::spire::svid::v1::svid_client::SvidClient;

use crate::site::{BINARY, Run, Site, WORKLOAD, entries, json};
use crate::token::openssl;
use crate::watching::{get, watched};
use crate::wire::connect;

/// CSRs with proof of possession, as other programs make them.
const GOOD: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../ca-core/tests/corpus/csr");
/// CSRs that prove nothing or break a rule (`bad-…`), and odd ones that do neither.
const FUZZ: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fuzz/corpus/csr");

fn files(folder: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap();
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(files.len() > 10, "{folder}");
    files
}

fn mint(site: &Site, csr: &Path) -> Run {
    site.mintmark(&["x509", "mint", "--csr", csr.to_str().unwrap(), "--write", "never"])
}

#[test]
fn csrs_that_prove_nothing_are_refused_and_leave_nothing() {
    let site = Site::with_sealed_keys();
    let server = site.start();
    let bad = files(FUZZ)
        .into_iter()
        .filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with("bad-"));
    for path in bad {
        let err = mint(&site, &path).failed(1);
        assert!(err.contains(path.to_str().unwrap()), "{}: {err}", path.display());
    }
    assert!(!site.path("never").exists());
    server.stop();
    let workloads = entries(&site.path("store/log")).into_iter().filter(|entry| match entry {
        Entry::Issuance(record) => record.caller != Caller::Signer,
        Entry::Opening(_) => false,
    });
    assert_eq!(workloads.count(), 0, "nothing was issued");
}

#[test]
fn damaged_csrs_of_other_programs_are_refused() {
    let site = Site::with_sealed_keys();
    let server = site.start();
    for path in files(GOOD).iter().filter(|path| path.to_str().unwrap().contains("p256")) {
        let whole = fs::read(path).unwrap();
        let mut forged = whole.clone();
        *forged.last_mut().unwrap() ^= 1;
        for (damaged, text) in [
            (whole[..whole.len() - 1].to_vec(), "cut short"),
            ([&whole[..], b"x"].concat(), "trailing bytes"),
            (forged, "signature"),
        ] {
            let file = site.path("damaged.der");
            fs::write(&file, damaged).unwrap();
            mint(&site, &file).failed_saying(1, &[text]);
        }
    }
    assert!(!site.path("never").exists());
    server.stop();
}

#[test]
fn names_that_a_csr_may_not_ask_for_are_refused_by_the_server() {
    let site = Site::with_sealed_keys();
    let server = site.start();
    let key = site.path("workload.pem");
    let key = key.to_str().unwrap();
    openssl(&["genpkey", "-algorithm", "ed25519", "-out", key]);
    let long = format!("URI:spiffe://example.org/{}", "a".repeat(2_029));
    for (names, texts) in [
        ("DNS:a.test", &["URI SAN is required", "exactly one SPIFFE ID"][..]),
        ("URI:spiffe://example.org/a,URI:spiffe://example.org/b", &["only one URI", "has 2 URI"]),
        ("URI:https://example.org/a", &["URI SAN is invalid", "start with spiffe://"]),
        ("URI:spiffe://example.org:8080/a", &["URI SAN is invalid", "a port"]),
        ("URI:spiffe://example.org/a?b", &["URI SAN is invalid", "a query"]),
        ("URI:spiffe://example.org/%41", &["URI SAN is invalid", "percent-encoding"]),
        ("URI:spiffe://Example.org/a", &["URI SAN is invalid", "must be lower case"]),
        ("URI:spiffe://example.org/a/../b", &["URI SAN is invalid", "'..'"]),
        ("URI:spiffe://example.org/a/", &["URI SAN is invalid", "end with a slash"]),
        ("URI:spiffe://example.org", &["URI SAN is invalid", "has no path"]),
        (&long, &["URI SAN is invalid", "at most 2048"]),
        ("URI:spiffe://other.test/a", &["\"other.test\"", "speaks for \"example.org\" only"]),
        ("URI:spiffe://example.org/spire/server", &["is reserved", "choose another"]),
        ("URI:spiffe://example.org/mintmark/x", &["is reserved", "choose another"]),
        ("URI:spiffe://example.org/a,DNS:a b", &["DNS name is invalid"]),
    ] {
        let csr = site.path("request.pem");
        let extension = format!("subjectAltName={names}");
        let request = ["req", "-new", "-subj", "/", "-key", key, "-addext", &extension];
        openssl(&[&request[..], &["-out", csr.to_str().unwrap()]].concat());
        mint(&site, &csr).failed_saying(1, texts);
    }
    let ten = Path::new(FUZZ).join("good-ten-uris");
    mint(&site, &ten).failed_saying(1, &["only one URI SAN is expected", "has 10 URI"]);
    assert!(!site.path("never").exists());
    server.stop();
}

#[tokio::test]
async fn a_thousand_bad_requests_leave_few_lines_and_a_count_at_every_log_level() {
    let mut site = Site::with_sealed_keys();
    site.set("log_level = \"trace\"", "log_level = \"error\"");
    let port = watched(&mut site);
    let server = site.start();
    let before = entries(&site.path("store/log")).len();
    let mut svids = SvidClient::new(connect(&site).await);
    for _ in 0..1_000 {
        let request = MintX509svidRequest { csr: b"no CSR".as_slice().into(), ttl: 0 };
        svids.mint_x509svid(request).await.unwrap_err();
    }
    let metrics = get(port, "/metrics").unwrap();
    let suppressed = |line: &str| -> u64 {
        let rest = line.split_once("suppressed=").map_or("0", |(_, rest)| rest);
        rest.split(' ').next().unwrap().parse().unwrap()
    };
    let log = server.stop();
    let lines: Vec<&str> = log.lines().filter(|line| line.contains("mintmark::audit")).collect();
    assert!((50..500).contains(&lines.len()), "{} lines", lines.len());
    assert!(lines[0].contains("reason=CSR: ") && lines[0].contains("local uid"), "{}", lines[0]);
    let untold: u64 = lines.iter().map(|line| suppressed(line)).sum();
    let total = format!("mintmark_audit_suppressed_total{{kind=\"request\"}} {untold}\n");
    assert!(metrics.contains(&total), "{total} is not in {metrics}");
    let told = lines.iter().filter(|line| line.contains("asked=")).count();
    assert_eq!(told as u64 + untold, 1_000, "{log}");
    assert_eq!(entries(&site.path("store/log")).len(), before, "a refusal is no entry");
}

#[test]
fn what_a_csr_asks_beyond_its_names_is_not_granted() {
    let site = Site::with_sealed_keys();
    let server = site.start();
    let (key, csr) = (site.path("key"), site.path("request.pem"));
    let (key, csr) = (key.to_str().unwrap(), csr.to_str().unwrap());
    openssl(&["genpkey", "-algorithm", "ed25519", "-out", key]);
    let name = format!("subjectAltName=URI:{WORKLOAD}");
    let wishes = ["basicConstraints=critical,CA:TRUE", "keyUsage=keyCertSign,cRLSign"];
    let request = ["req", "-new", "-subj", "/", "-key", key, "-out", csr, "-addext", &name];
    openssl(&[&request[..], &["-addext", wishes[0], "-addext", wishes[1]]].concat());
    site.mintmark(&["x509", "mint", "--csr", csr, "--write", "svid"]).succeeded();
    let leaf = site.path("svid/svid.pem");
    let shown = openssl(&["x509", "-in", leaf.to_str().unwrap(), "-noout", "-text"]);
    let shown = String::from_utf8(shown).unwrap();
    assert!(shown.contains("CA:FALSE") || !shown.contains("Basic Constraints"), "{shown}");
    assert!(shown.contains("Digital Signature") && !shown.contains("Certificate Sign"), "{shown}");
    server.stop();
}

#[test]
fn ids_and_audiences_that_no_token_may_have_are_refused() {
    let site = Site::with_sealed_keys();
    let server = site.start();
    let long = format!("spiffe://example.org/{}", "a".repeat(2_028));
    let jwt = |id: &str, audience: &str| {
        site.mintmark(&["jwt", "mint", "--spiffe-id", id, "--audience", audience])
    };
    for (id, text) in [
        ("spiffe://example.org:80/a", "a port"),
        ("spiffe://example.org/a?b", "a query"),
        ("spiffe://example.org/%61", "percent-encoding"),
        ("spiffe://Example.org/a", "must be lower case"),
        ("spiffe://example.org/../a", "'..'"),
        ("spiffe://example.org/a/", "end with a slash"),
        (&long, "at most 2048"),
    ] {
        jwt(id, "x").failed_saying(2, &[text]);
    }
    let foreign = ["\"other.test\"", "speaks for \"example.org\" only"];
    jwt("spiffe://other.test/a", "x").failed_saying(1, &foreign);
    jwt("spiffe://example.org/spire/agent/a", "x").failed_saying(1, &["is reserved", "choose"]);
    jwt("spiffe://example.org", "x").failed_saying(1, &["has no path"]);
    jwt(WORKLOAD, "").failed_saying(1, &["at least one audience", "not empty"]);
    assert!(!server.stop().contains("JWT-SVID minted"));
}

#[test]
fn a_life_is_at_least_a_second_and_ends_with_its_authority() {
    let site = Site::with_sealed_keys();
    let server = site.start();
    let mint = |ttl: &str, folder: &str| {
        let ttl = format!("--ttl={ttl}");
        site.mintmark(&["x509", "mint", "--spiffe-id", WORKLOAD, &ttl, "--write", folder])
    };
    for ttl in ["0", "-1h", "60"] {
        mint(ttl, "never").failed_saying(2, &["write it like"]);
    }
    mint("0s", "never").failed_saying(2, &["leave --ttl out for the server's default"]);
    mint("100000d", "never").failed_saying(2, &["longer than 68 years"]);
    assert!(!site.path("never").exists());

    // Longer than the authority lives: accepted, and cut to its end.
    mint("20000d", "svid").succeeded();
    let end = |name: &str| {
        let file = site.path("svid").join(name);
        let arguments = ["x509", "show", file.to_str().unwrap(), "--output", "json"];
        json(&site.mintmark(&arguments).succeeded())[0]["not_after"].clone()
    };
    assert!(end("svid.pem").is_string());
    assert_eq!(end("svid.pem"), end("bundle.pem"));
    server.stop();
}

#[test]
fn a_result_that_cannot_be_written_is_a_failure_that_leaves_nothing_half() {
    let site = Site::with_sealed_keys();
    let server = site.start();
    let limited = "trap '' XFSZ; ulimit -f 0; exec \"$0\" \"$@\"";
    let output = Command::new("sh")
        .args(["-c", limited, BINARY, "x509", "mint", "--spiffe-id", WORKLOAD, "--write", "full"])
        .env("MINTMARK_SOCKET", site.path("admin.sock"))
        .current_dir(site.path(""))
        .output();
    let said = ["cannot write full/key.pem", "File too large"];
    site.run(output.unwrap()).failed_saying(1, &said);
    assert_eq!(fs::read_dir(site.path("full")).unwrap().count(), 0);

    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let mut command = site.command(&["jwt", "mint", "--spiffe-id", WORKLOAD, "--audience", "x"]);
    let output = command.stdout(Stdio::from(full)).output().unwrap();
    site.run(output).failed_saying(1, &["No space left on device"]);
    server.stop();
}
