//! What keeps a server from starting: each with its exit code, the thing, the reason and what to do.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use rustix::process::geteuid;

use crate::site::{Site, write_private};
use crate::token::CA_KEY;

#[test]
fn a_wrong_pin_is_tried_once_and_told_without_being_shown() {
    let mut site = Site::with_token();
    let wrong = "0000-wrong-0000";
    write_private(&site.path("wrong"), wrong.as_bytes());
    site.keep_secret(wrong);
    site.set("token/pin", "wrong");
    // OpenSC's spy stands before the module and writes down what is called.
    let (module, calls) = (site.token().module.clone(), site.path("calls"));
    site.set(&module, spy().to_str().unwrap());
    site.variables.push(("PKCS11SPY", module));
    site.variables.push(("PKCS11SPY_OUTPUT", calls.to_str().unwrap().to_owned()));

    let texts =
        ["token \"mintmark\"", "refused the PIN", "; it is not tried again", "correct the PIN"];
    site.refused_start().failed_saying(3, &texts);
    let calls = fs::read_to_string(calls).unwrap();
    assert_eq!(calls.matches(": C_Login\n").count(), 1, "{calls}");
    assert!(site.token().remembers_a_wrong_pin());
}

fn spy() -> PathBuf {
    let folders = ["/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64"];
    let mut places = folders.iter().map(|folder| PathBuf::from(folder).join("pkcs11-spy.so"));
    places.find(|place| place.exists()).expect("OpenSC's pkcs11-spy.so, installed by `make test`")
}

#[test]
fn two_keys_of_one_name_are_refused() {
    let site = Site::with_token();
    site.start().stop();
    site.token().plant(CA_KEY, &[]);
    let texts = ["2 keys are named", CA_KEY, "token \"mintmark\"", "delete or rename all but"];
    site.refused_start().failed_saying(1, &texts);
}

#[test]
fn a_key_that_can_leave_the_token_is_refused() {
    let site = Site::with_token();
    site.token().plant(CA_KEY, &["--extractable"]);
    let texts = [CA_KEY, "is refused", "it can be exported from the token", "make a new key"];
    site.refused_start().failed_saying(1, &texts);
    // Refused, and left to the person who has to know where it came from.
    assert_eq!(site.token().private_keys().len(), 1);
}

#[test]
fn a_key_that_may_do_more_than_sign_is_refused() {
    let site = Site::with_token();
    site.token().plant(CA_KEY, &["--usage-derive"]);
    site.refused_start().failed_saying(1, &[CA_KEY, "is refused", "it may do more than sign"]);
}

#[test]
fn an_imported_key_is_refused() {
    let site = Site::with_token();
    let key = site.path("imported.der");
    let key = key.to_str().unwrap();
    let make = ["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"];
    crate::token::openssl(&[&make[..], &["-outform", "DER", "-out", key]].concat());
    for object in ["privkey", "pubkey"] {
        let file = match object {
            "privkey" => key.to_owned(),
            _ => {
                let public = format!("{key}.public");
                let take = ["pkey", "-inform", "DER", "-in", key, "-pubout", "-outform", "DER"];
                crate::token::openssl(&[&take[..], &["-out", &public]].concat());
                public
            }
        };
        let write = ["--write-object", &file, "--type", object, "--label", CA_KEY, "--id", "01"];
        site.token().tool(&write);
    }
    site.refused_start().failed_saying(1, &[CA_KEY, "is refused"]);
}

#[test]
fn a_token_that_is_missing_is_named_with_those_that_are_there() {
    let mut site = Site::with_token();
    site.set("token = \"mintmark\"", "token = \"elsewhere\"");
    let texts = ["\"elsewhere\"", "no such token", "It has \"mintmark\"", "--init-token"];
    site.refused_start().failed_saying(3, &texts);
}

#[test]
fn a_module_that_is_missing_says_what_to_install() {
    let mut site = Site::with_token();
    let module = site.token().module.clone();
    site.set(&module, "/nowhere/libsofthsm2.so");
    let texts = ["/nowhere/libsofthsm2.so", "No such file", "apt-get install softhsm2"];
    site.refused_start().failed_saying(3, &texts);
}

#[test]
fn a_pin_file_that_others_can_read_is_refused_with_the_command_that_helps() {
    let site = Site::with_token();
    let pin = site.path("token/pin");
    fs::set_permissions(&pin, Permissions::from_mode(0o644)).unwrap();
    let texts = ["mode 0644", &format!("chmod 600 {}", pin.display())];
    site.refused_start().failed_saying(3, &texts);
}

#[test]
fn a_data_directory_that_cannot_be_written_is_refused() {
    let site = Site::with_token();
    let store = site.path("store");
    fs::create_dir(&store).unwrap();
    fs::set_permissions(&store, Permissions::from_mode(0o500)).unwrap();
    let run = if geteuid().is_root() {
        // Root without the powers that make modes mean nothing to it.
        site.refused_start_by("setpriv", &["--bounding-set=-dac_override,-dac_read_search"])
    } else {
        site.refused_start()
    };
    let texts = [store.to_str().unwrap(), "Permission denied", "give this user the directory"];
    run.failed_saying(1, &texts);
    fs::set_permissions(&store, Permissions::from_mode(0o700)).unwrap();
    site.start().stop();
}

#[test]
fn a_full_disk_is_told_and_the_next_start_finds_order() {
    let site = Site::with_token();
    // A limit on the size of a file (in blocks of 512 bytes) fails writes as a full disk does: at once,
    // while the store is made, and when the first authority is committed.
    for blocks in ["0", "16", "200"] {
        let limited = format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$0\" \"$@\"");
        let run = site.refused_start_by("sh", &["-c", &limited]);
        let store = site.path("store");
        run.failed_saying(1, &[store.to_str().unwrap(), "File too large", "the disk is full"]);
    }
    let server = site.start();
    assert_eq!(site.bundle()["sequence_number"], 2);
    assert_eq!(site.token().private_keys().len(), 3);
    server.stop();
}

#[test]
fn an_unknown_configuration_key_names_the_nearest_one() {
    let mut site = Site::with_sealed_keys();
    site.configuration.push_str("[issuing]\ndefault_x509_svid_tll = \"1h\"\n");
    let place = format!("{}:14:1: ", site.path("mintmark.toml").display());
    let texts = [&place, "unknown key \"default_x509_svid_tll\"", "\"default_x509_svid_ttl\"?"];
    site.refused_start().failed_saying(3, &texts);
}

#[test]
fn a_socket_path_that_the_system_cannot_bind_is_refused() {
    let mut site = Site::with_sealed_keys();
    let long = "s".repeat(120);
    site.set("admin.sock", &long);
    site.refused_start().failed_saying(3, &[&long, "at most 107", "choose a shorter one"]);
}

#[test]
fn another_seal_key_or_trust_domain_does_not_open_what_is_there() {
    let mut site = Site::with_sealed_keys();
    site.start().stop();
    let seal = site.path("seal.key");
    let right = fs::read(&seal).unwrap();
    write_private(&seal, &[1; 32]);
    let err = site.refused_start().failed(1);
    assert!(err.contains("seal"), "{err}");
    write_private(&seal, &right);

    site.set("name = \"example.org\"", "name = \"other.test\"");
    let texts = ["belongs to trust domain example.org, not to other.test", "[trust_domain] name"];
    site.refused_start().failed_saying(1, &texts);
}

#[test]
fn a_seal_key_that_is_missing_is_told_before_anything_is_bound() {
    let site = Site::with_sealed_keys();
    fs::remove_file(site.path("seal.key")).unwrap();
    site.refused_start().failed_saying(3, &["seal.key", "mode 0600"]);
    assert!(!site.path("admin.sock").exists());
}

#[test]
fn a_reserved_section_is_refused_as_reserved() {
    let mut site = Site::with_sealed_keys();
    site.configuration.push_str("[frontend]\n");
    site.refused_start().failed_saying(3, &["section [frontend] is reserved"]);
}

#[test]
fn a_check_looks_for_the_token_and_leaves_its_pin_alone() {
    let mut site = Site::with_token();
    site.start().stop();
    let path = site.path("mintmark.toml");
    let check = ["check", "--config", path.to_str().unwrap()];
    write_private(&site.path("token/pin"), b"0000-wrong-0000");
    let found = site.mintmark(&check).succeeded();
    assert!(found.contains("its PIN was not tried"), "{found}");
    assert!(!site.token().remembers_a_wrong_pin());

    site.set("token = \"mintmark\"", "token = \"elsewhere\"");
    fs::write(&path, &site.configuration).unwrap();
    let run = site.mintmark(&check);
    assert_eq!(run.code, Some(3), "{}{}", run.out, run.err);
    assert!(run.out.contains("FAULT") && run.out.contains("no such token"), "{}", run.out);
}
