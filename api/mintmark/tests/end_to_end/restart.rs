//! Ends of a server, wanted and not, and what the next one finds.

use std::fs;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::thread::sleep;
use std::time::Duration;

use crate::site::{Site, WORKLOAD};
use crate::token::{CA_KEY, openssl};

/// The header of a JWT, which names the key.
fn header(token: &str) -> String {
    token.split('.').next().unwrap().to_owned()
}

#[test]
fn a_restart_keeps_authority_sequence_and_kid() {
    let site = Site::with_token();
    let server = site.start();
    let bundle = site.bundle();
    let header_before = header(&site.jwt("a"));
    site.mintmark(&["x509", "mint", "--spiffe-id", WORKLOAD, "--write", "before"]).succeeded();
    server.stop();

    let server = site.start();
    assert_eq!(site.bundle(), bundle);
    assert_eq!(header(&site.jwt("a")), header_before);
    site.mintmark(&["x509", "mint", "--spiffe-id", WORKLOAD, "--write", "after"]).succeeded();
    // Each verifies with what the other run handed out.
    for (bundle, svid) in [("before", "after"), ("after", "before")] {
        let (bundle, svid) =
            (site.path(bundle).join("bundle.pem"), site.path(svid).join("svid.pem"));
        let [bundle, svid] = [&bundle, &svid].map(|path| path.to_str().unwrap());
        openssl(&["verify", "-x509_strict", "-CAfile", bundle, "-untrusted", svid, svid]);
    }
    assert_eq!(site.token().private_keys().len(), 3);
    server.stop();
}

#[test]
fn a_killed_server_leaves_a_socket_that_the_next_one_replaces() {
    let site = Site::with_token();
    let server = site.start();
    let bundle = site.bundle();
    server.kill();

    let socket = site.path("admin.sock");
    let stale = fs::symlink_metadata(&socket).unwrap();
    assert!(stale.file_type().is_socket());
    site.mintmark(&["healthcheck"]).failed_saying(4, &["nobody listens there any more"]);

    let server = site.start();
    assert_eq!(site.bundle(), bundle);
    let fresh = fs::symlink_metadata(&socket).unwrap();
    assert_eq!(fresh.mode() & 0o777, 0o600);
    server.stop();
    assert!(!socket.exists(), "a server that ends in order takes its socket with it");
}

#[test]
fn a_second_server_is_refused_and_the_first_goes_on() {
    let mut site = Site::with_token();
    let first_configuration = site.configuration.clone();
    let running = site.start();

    // The same directories by another socket: the lock of the state tells.
    site.set("admin.sock", "other.sock");
    let store = site.path("store");
    let process = format!("process {} has it open; stop that process", running.pid());
    site.refused_start().failed_saying(1, &[store.to_str().unwrap(), &process]);
    assert!(!site.path("other.sock").exists());

    // The same socket by another state directory.
    site.configuration = first_configuration;
    site.set("dir = \"store\"", "dir = \"elsewhere\"");
    let socket = site.path("admin.sock");
    let taken = "is in use by a running server; stop that server, or choose another path";
    site.refused_start().failed_saying(1, &[socket.to_str().unwrap(), taken]);

    site.mintmark(&["healthcheck"]).succeeded();
    running.stop();
}

#[test]
fn a_first_start_killed_at_any_moment_is_taken_up_by_the_next() {
    let site = Site::with_sealed_keys();
    for milliseconds in [1, 2, 4, 6, 8, 10, 12, 14, 16, 20, 25, 30, 40, 60] {
        let server = site.spawn();
        sleep(Duration::from_millis(milliseconds));
        server.kill();
    }
    let server = site.start();
    let bundle = site.bundle();
    for authorities in ["x509_authorities", "jwt_authorities"] {
        assert_eq!(bundle[authorities].as_array().unwrap().len(), 1, "{bundle}");
    }
    site.mintmark(&["x509", "mint", "--spiffe-id", WORKLOAD, "--write", "svid"]).succeeded();
    let keys = fs::read_dir(site.path("keys")).unwrap();
    let sealed =
        keys.filter(|entry| entry.as_ref().unwrap().path().extension() == Some("key".as_ref()));
    assert!(sealed.count() <= 2, "a start that was cut short leaves no key behind");
    server.stop();
}

#[test]
fn half_a_key_that_a_killed_start_left_in_the_token_is_passed_over() {
    let site = Site::with_token();
    // SoftHSM writes the public half of a pair first; only that is there if it is killed in between.
    let files = ["key", "public.der"].map(|name| site.path(name));
    let [key, public] = files.each_ref().map(|path| path.to_str().unwrap());
    openssl(&["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", key]);
    openssl(&["pkey", "-in", key, "-pubout", "-outform", "DER", "-out", public]);
    site.token().tool(&["--write-object", public, "--type", "pubkey", "--label", CA_KEY]);

    let server = site.start();
    site.mintmark(&["x509", "mint", "--spiffe-id", WORKLOAD, "--write", "svid"]).succeeded();
    let keys = site.token().private_keys();
    assert!(keys.iter().any(|key| key.contains("mintmark/example.org/x509/2")), "{keys:?}");
    server.stop();
}

#[test]
fn an_interrupted_server_ends_in_order() {
    let site = Site::with_sealed_keys();
    site.start().interrupt();
    assert!(!site.path("admin.sock").exists());
    site.mintmark(&["healthcheck"]).failed_saying(4, &["no such socket"]);
}
