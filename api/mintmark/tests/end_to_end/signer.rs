//! `mintmark signer`: how it starts, what it tells the service manager, and what it refuses.

use std::fs;
use std::net::TcpListener;
use std::os::unix::net::UnixDatagram;
use std::process::Command;
use std::time::Duration;

use crate::site::{BINARY, Site};

#[test]
fn a_signer_without_an_address_does_not_start_and_says_what_to_set() {
    let mut site = Site::with_sealed_keys();
    site.role = "signer";
    let texts = ["mintmark signer", "set listen in [signer]", "mintmark server"];
    site.refused_start().failed_saying(3, &texts);
    assert!(!site.path("keys").exists(), "no key was made");
}

#[test]
fn an_address_that_is_taken_is_told_and_the_server_ends() {
    let mut site = Site::with_sealed_keys();
    let address = site.serve_front_ends();
    let _holder = TcpListener::bind(&address).unwrap();
    site.refused_start().failed_saying(1, &[&address, "is in use", "choose another"]);
}

#[test]
fn the_service_manager_is_told_when_a_signer_is_ready_and_when_it_stops() {
    let mut site = Site::with_sealed_keys();
    site.serve_front_ends();
    let path = site.path("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    manager.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    site.variables.push(("NOTIFY_SOCKET", path.to_str().unwrap().to_owned()));
    let told = || {
        let mut message = [0; 64];
        let length = manager.recv(&mut message).unwrap();
        String::from_utf8(message[..length].to_vec()).unwrap()
    };
    let server = site.spawn();
    assert_eq!(told().trim_end(), "READY=1");
    // What is ready answers.
    site.mintmark(&["healthcheck"]).succeeded();
    server.stop();
    assert_eq!(told().trim_end(), "STOPPING=1");
}

#[test]
fn the_units_that_are_shipped_are_good_units() {
    let folder = tempfile::tempdir().unwrap();
    for role in ["signer", "server"] {
        let name = format!("mintmark-{role}.service");
        let shipped = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/systemd");
        let unit = fs::read_to_string(format!("{shipped}/{name}")).unwrap();
        let start = format!("ExecStart=/usr/bin/mintmark {role} --config");
        assert!(unit.contains(&start), "{unit}");
        let here = folder.path().join(&name);
        fs::write(&here, unit.replace("/usr/bin/mintmark", BINARY)).unwrap();
        let verified =
            Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(&here).output();
        let verified = verified.expect("systemd-analyze, installed by `make test`");
        let told = String::from_utf8_lossy(&verified.stderr);
        assert!(verified.status.success() && told.is_empty(), "{told}");
    }
}
