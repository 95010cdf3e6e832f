//! What a server tells those who watch it, and what it leaves to those who should not.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::ExitStatusExt as _;
use std::thread::sleep;
use std::time::{Duration, Instant};

use pkcs11_proxy::{CONTROL_VARIABLE, Control, MODULE_VARIABLE, module_path};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::site::{Site, WORKLOAD};
use crate::token::CA_KEY;

/// A port that was free a moment ago.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Has a site's metrics told, and gives the port.
pub(crate) fn watched(site: &mut Site) -> u16 {
    let port = free_port();
    site.configuration.push_str(&format!("[metrics]\nlisten = \"127.0.0.1:{port}\"\n"));
    port
}

pub(crate) fn get(port: u16, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: watcher\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    Some(answer)
}

#[test]
fn what_was_minted_and_signed_is_told_without_secrets() {
    for mut site in [Site::with_sealed_keys(), Site::with_token()] {
        let port = watched(&mut site);
        let server = site.start();
        assert!(get(port, "/ready").unwrap().starts_with("HTTP/1.1 200"));
        site.mintmark(&["x509", "mint", "--spiffe-id", WORKLOAD, "--write", "svid"]).succeeded();
        site.jwt("shop");
        let refused = site.mintmark(&[
            "jwt",
            "mint",
            "--spiffe-id",
            "spiffe://other.test/x",
            "--audience",
            "a",
        ]);
        assert_ne!(refused.code, Some(0));

        let metrics = get(port, "/metrics").unwrap();
        site.assert_tells_no_secret(&metrics);
        assert!(!metrics.contains("eyJ") && !metrics.contains(WORKLOAD), "{metrics}");
        for line in [
            "mintmark_svids_total{kind=\"x509\",outcome=\"minted\"} 1",
            "mintmark_svids_total{kind=\"jwt\",outcome=\"minted\"} 1",
            "mintmark_svids_total{kind=\"jwt\",outcome=\"refused\"} 1",
            "mintmark_log_durability{mode=\"durable\",window_ms=\"0\"} 1",
            "mintmark_log_refused_total{reason=\"unwritable\"} 0",
            "mintmark_log_flush_seconds_count ",
            "mintmark_log_written_bytes_total ",
        ] {
            assert!(metrics.contains(line), "{line} is not in {metrics}");
        }
        let store = if site.configuration.contains("[keys.hsm]") { "hsm" } else { "files" };
        let signed = format!("{{store=\"{store}\",key=\"{CA_KEY}\",outcome=\"signed\"}} ");
        assert!(metrics.contains(&signed), "{signed} is not in {metrics}");
        // The opening, the issuing key's certificate, what was minted.
        await_answer(port, "/metrics", "mintmark_log_entries 4\n");
        await_answer(port, "/metrics", "mintmark_log_unsigned_seconds 0.0\n");
        assert!(get(port, "/healthz").unwrap().starts_with("HTTP/1.1 200"));
        assert!(get(port, "/readyz").unwrap().starts_with("HTTP/1.1 200"));
        server.stop();
        assert_eq!(get(port, "/live"), None);
    }
}

#[test]
fn a_server_that_is_not_ready_yet_says_so_and_lives() {
    let mut site = Site::with_sealed_keys();
    // RSA keys of this size take a while to be made.
    site.configuration.push_str("[issuing]\nca_key_type = \"rsa-4096\"\n");
    let port = watched(&mut site);
    let server = site.spawn();
    let limit = Instant::now() + Duration::from_secs(60);
    let first = loop {
        if let Some(answer) = get(port, "/ready") {
            break answer;
        }
        assert!(Instant::now() < limit, "{}", server.log());
    };
    assert!(first.starts_with("HTTP/1.1 503"), "{first}");
    assert!(first.ends_with("starting: keys and authorities are not ready\n"), "{first}");
    assert!(get(port, "/live").unwrap().starts_with("HTTP/1.1 200"));
    await_answer(port, "/ready", "HTTP/1.1 200");
    server.stop();
}

#[test]
fn a_server_without_its_token_is_not_ready_until_the_token_is_back() {
    let mut site = Site::with_token();
    let port = watched(&mut site);
    let device = failing(&mut site);
    let server = site.start();
    assert!(get(port, "/ready").unwrap().starts_with("HTTP/1.1 200"));

    device.remove_device(Duration::MAX);
    let told = await_answer(port, "/ready", "HTTP/1.1 503");
    assert!(told.contains("the keys cannot be used now: "), "{told}");
    site.assert_tells_no_secret(&told);
    assert!(get(port, "/live").unwrap().starts_with("HTTP/1.1 200"));
    let metrics = get(port, "/metrics").unwrap();
    assert!(metrics.contains("mintmark_key_healthy{store=\"hsm\"} 0"), "{metrics}");
    site.assert_tells_no_secret(&metrics);

    device.restore_device();
    await_answer(port, "/ready", "HTTP/1.1 200");
    site.jwt("shop");
    await_answer(port, "/metrics", "mintmark_key_healthy{store=\"hsm\"} 1");
    server.stop();
}

/// Has a site reach its token through a module that fails on demand.
pub(crate) fn failing(site: &mut Site) -> Control {
    let (module, control) = (site.token().module.clone(), site.path("control"));
    let device = Control::create(&control).unwrap();
    site.set(&module, module_path().unwrap().to_str().unwrap());
    site.variables.push((MODULE_VARIABLE, module));
    site.variables.push((CONTROL_VARIABLE, control.to_str().unwrap().to_owned()));
    device
}

/// Asks until this is answered, longer than any time between two probes of a token.
pub(crate) fn await_answer(port: u16, path: &str, text: &str) -> String {
    let limit = Instant::now() + Duration::from_secs(60);
    loop {
        let answer = get(port, path).unwrap();
        if answer.contains(text) {
            return answer;
        }
        assert!(Instant::now() < limit, "{text:?} is not in {answer}");
        sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_taken_metrics_port_is_refused_before_anything_is_made() {
    let mut site = Site::with_sealed_keys();
    let port = watched(&mut site);
    let _taken = TcpListener::bind(("127.0.0.1", port)).unwrap();
    let texts = [&format!("metrics address 127.0.0.1:{port} is in use"), "[metrics] listen"];
    site.refused_start().failed_saying(1, &texts);
    assert!(!site.path("store").exists() && !site.path("admin.sock").exists());
}

#[test]
fn a_check_tells_who_can_watch_and_how_memory_is_guarded() {
    let mut site = Site::with_sealed_keys();
    watched(&mut site);
    site.set("127.0.0.1", "0.0.0.0");
    let path = site.path("mintmark.toml");
    fs::write(&path, &site.configuration).unwrap();
    let check = ["check", "--output", "json", "--config", path.to_str().unwrap()];
    let found = site.mintmark(&check).succeeded();
    assert!(found.contains("whoever reaches it"), "{found}");
    assert!(found.contains("readable for root alone, is never dumped"), "{found}");
}

#[test]
fn a_crash_leaves_no_core_dump_and_no_secret() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Core);
    // Handed on to the server, so that it alone can be what forbids one.
    setrlimit(Resource::Core, Rlimit { current: maximum, maximum }).unwrap();
    for site in [Site::with_token(), Site::with_sealed_keys()] {
        let server = site.start();
        site.jwt("shop");
        let limits = fs::read_to_string(format!("/proc/{}/limits", server.pid().as_raw_nonzero()));
        let limits = limits.unwrap();
        let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
        assert_eq!(core.split_whitespace().nth(4), Some("0"), "{core}");
        let (status, log) = server.crash();
        assert!(status.signal() == Some(6) && !status.core_dumped(), "{status}");
        assert!(log.contains("readable for root alone, is never dumped"), "{log}");
        let locked = log.contains("is never swapped out");
        assert_ne!(locked, log.contains("LimitMEMLOCK=infinity"), "{log}");
        let left = fs::read_dir(site.path("")).unwrap().map(|file| file.unwrap().file_name());
        let left: Vec<String> = left.map(|name| name.into_string().unwrap()).collect();
        assert!(!left.iter().any(|name| name.starts_with("core")), "{left:?}");
    }
}
