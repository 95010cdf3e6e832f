//! What a server lets anybody see of a PIN, a token or a key, after it has worked for a while at the most
//! talkative level: in what it prints and tells, in what it writes, and in its memory.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use peers::memory;
use peers::openbao::OpenBao;

use crate::site::{Server, Site, WORKLOAD, entries};
use crate::watching::{await_answer, get, watched};

/// How many SVIDs of each kind are minted.
const MINTS: usize = 120;

#[test]
fn a_pin_is_in_nothing_that_a_server_tells_or_writes_nor_in_its_memory() {
    let mut site = Site::with_token();
    let pin = site.token().pin.clone();
    let server = worked(&mut site);
    // It is read for each login. What read it, the binding and the library keep none.
    if let Some(count) = in_memory(&server, &pin) {
        assert_eq!(count, 0);
    }
    told_and_written_nothing(&site, &pin, &["token"]);
    crashed_without_a_trace(&site, server);
}

#[test]
fn a_vault_token_is_in_nothing_that_a_server_tells_or_writes_and_in_memory_alone() {
    let vault = OpenBao::start().unwrap();
    let mut site = Site::with_transit(&vault);
    let token = fs::read_to_string(site.path("vault-token")).unwrap();
    let server = worked(&mut site);
    // It is renewed by what is held of it, and each request carries it.
    if let Some(count) = in_memory(&server, &token) {
        assert!(count > 0, "the search finds what is there");
    }
    told_and_written_nothing(&site, &token, &["vault-token"]);
    crashed_without_a_trace(&site, server);
}

/// A server that has minted, refused and been asked for everything that it tells.
fn worked(site: &mut Site) -> Server {
    site.variables.push(("RUST_LOG", "trace".to_owned()));
    let port = watched(site);
    let server = site.start();
    for number in 0..MINTS {
        let folder = format!("svid-{}", number % 2);
        let x509 = ["x509", "mint", "--spiffe-id", WORKLOAD, "--write", &folder];
        site.mintmark(&x509).succeeded();
        site.jwt("shop");
    }
    let foreign = ["--spiffe-id", "spiffe://other.test/x", "--audience", "a"];
    site.mintmark(&[&["jwt", "mint"][..], &foreign].concat()).failed(1);
    site.key(&["list"]).succeeded();
    site.key(&["show", "mintmark/example.org/x509/1"]).succeeded();
    site.key(&["verify", "--all"]).succeeded();
    site.key(&["retire", "mintmark/example.org/x509/1"]).failed(1);
    let metrics = await_answer(port, "/metrics", "mintmark_svids_total");
    assert!(metrics.contains(&format!("outcome=\"minted\"}} {MINTS}\n")), "{metrics}");
    for told in [metrics, get(port, "/ready").unwrap(), get(port, "/live").unwrap()] {
        site.assert_tells_no_secret(&told);
    }
    server
}

/// How often a secret is in the memory of a server; `None` where the system lets nobody look but root.
fn in_memory(server: &Server, secret: &str) -> Option<usize> {
    let process = server.pid().as_raw_nonzero().get().unsigned_abs();
    match memory::search(process, &[secret.as_bytes()]) {
        Ok(counts) => Some(counts[0]),
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
            assert!(!rustix::process::geteuid().is_root(), "{error}");
            None
        }
    }
}

/// Searches the log, which was written at its most detailed level, and every file but those that hold the secret
/// by their nature: what the site was given, and the private key of a workload, which was asked for.
#[track_caller]
fn told_and_written_nothing(site: &Site, secret: &str, given: &[&str]) {
    let log = fs::read_to_string(site.path("log")).unwrap();
    assert!(entries(&site.path("store/log")).len() >= 2 * MINTS, "all of it was minted here");
    site.assert_tells_no_secret(&log);
    let hexadecimal: String = secret.bytes().map(|byte| format!("{byte:02x}")).collect();
    let forms = [secret.to_owned(), STANDARD.encode(secret), hexadecimal];
    let mut files = 0;
    each_file(&site.path(""), given, &mut |path, content| {
        files += 1;
        for form in &forms {
            let found = memory::occurrences(content, form.as_bytes());
            assert_eq!(found, 0, "a secret is in {}", path.display());
        }
        let is_asked_for = path.ends_with("svid-0/key.pem") || path.ends_with("svid-1/key.pem");
        let keys = memory::occurrences(content, b"PRIVATE KEY");
        assert!(keys == 0 || is_asked_for, "a private key is in {}", path.display());
    });
    assert!(files >= 6, "{files} files were searched: the state, the log, the SVIDs");
}

fn each_file(folder: &Path, left_out: &[&str], seen: &mut dyn FnMut(&Path, &[u8])) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if left_out.iter().any(|name| path.ends_with(name)) {
            continue;
        }
        let kind = fs::symlink_metadata(&path).unwrap().file_type();
        if kind.is_dir() {
            each_file(&path, &[], seen);
        } else if kind.is_file() {
            seen(&path, &fs::read(&path).unwrap());
        }
    }
}

/// Forces an abort: neither a dump nor a last word is left.
#[track_caller]
fn crashed_without_a_trace(site: &Site, server: Server) {
    let (status, _) = server.crash();
    assert!(status.signal() == Some(6) && !status.core_dumped(), "{status}");
    let names = fs::read_dir(site.path("")).unwrap().map(|file| file.unwrap().file_name());
    let names: Vec<String> = names.map(|name| name.into_string().unwrap()).collect();
    assert!(!names.iter().any(|name| name.starts_with("core")), "{names:?}");
}
