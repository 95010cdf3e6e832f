//! `mintmark log`: what was issued is found, proven and verified, by the command and by a program of others, beside
//! a server and without one.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::other_programs::judge;
use crate::site::{Run, Site, WORKLOAD, json};

const OTHER: &str = "spiffe://example.org/shop/db";

/// Where a running server has what it says of its log.
const BY_SERVER: &str = "the state store, by the server that has it open";

/// Runs `mintmark log` with these arguments on the site's configuration.
fn log(site: &Site, arguments: &[&str]) -> Run {
    let path = site.path("mintmark.toml");
    site.mintmark(&[&["log"], arguments, &["--config", path.to_str().unwrap()]].concat())
}

fn lines(text: &str) -> Vec<Value> {
    text.lines().map(json).collect()
}

fn directory(site: &Site) -> PathBuf {
    site.path("store/log")
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn mint(site: &Site, id: &str, folder: &str) {
    site.mintmark(&["x509", "mint", "--spiffe-id", id, "--write", folder]).succeeded();
}

/// A site whose server ran twice and is stopped: two certificates and a token are in the log, beside
/// what each run writes for itself, and `early` is the head
/// after the first of them.
fn stopped() -> Site {
    let site = Site::with_sealed_keys();
    let server = site.start();
    mint(&site, WORKLOAD, "web");
    server.stop();
    fs::copy(directory(&site).join("checkpoint"), site.path("early")).unwrap();
    let server = site.start();
    mint(&site, OTHER, "db");
    fs::write(site.path("token"), site.jwt("a")).unwrap();
    server.stop();
    site
}

#[test]
fn the_newest_entries_are_shown_to_people_and_programs() {
    let site = stopped();
    let table = log(&site, &["tail"]).succeeded();
    for word in [WORKLOAD, OTHER, "run 1 after 0 entries", "run 2 after 3 entries", "for a"] {
        assert!(table.contains(word), "{word}: {table}");
    }
    let found = lines(&log(&site, &["tail", "-n", "2", "--output", "json"]).succeeded());
    assert_eq!(found.len(), 2);
    assert_eq!((&found[0]["kind"], &found[0]["spiffe_id"]), (&"x509".into(), &OTHER.into()));
    assert_eq!((&found[1]["kind"], &found[1]["audience"][0]), (&"jwt".into(), &"a".into()));
    assert_eq!(log(&site, &["tail", "-n", "0", "--output", "json"]).succeeded(), "");
}

#[test]
fn what_was_issued_is_found_by_what_names_it() {
    let site = stopped();
    let shown = site.mintmark(&["x509", "show", "web/svid.pem", "--output", "json"]).succeeded();
    let serial = json(&shown)[0]["serial_number"].as_str().unwrap().to_owned();
    let search = |arguments: &[&str]| {
        let output = ["--output", "json"];
        let indexed = log(&site, &[&["search"], arguments, &output].concat()).succeeded();
        let read =
            log(&site, &[&["search", "--no-index"], arguments, &output].concat()).succeeded();
        assert_eq!(indexed, read);
        lines(&indexed)
    };
    let [found] = &search(&["--serial", &serial])[..] else { panic!("{serial}") };
    assert_eq!((&found["spiffe_id"], &found["index"]), (&WORKLOAD.into(), &2.into()));
    let authority = found["authority"].as_str().unwrap();
    let issuing_key = found["issuing_key"].as_str().unwrap();
    assert_eq!(search(&["--authority", authority]).len(), 4);
    assert_eq!(search(&["--authority", issuing_key]).len(), 1);
    assert_eq!(search(&["--id", WORKLOAD]).len(), 2, "a certificate and the token");
    assert_eq!(search(&["--id", "spiffe://example.org/shop/*"]).len(), 3);
    assert_eq!(search(&["--id", OTHER, "--since", "1h"]).len(), 1);
    assert_eq!(search(&["--until", "1h"]).len(), 0);
    assert_eq!(search(&["--valid-at", "0s", "--id", OTHER]).len(), 1);
    assert!(directory(&site).join("index/00000000000000000000.idx").exists());
    log(&site, &["search", "--serial", "12"]).failed_saying(2, &["40 hexadecimal digits"]);
    log(&site, &["search", "--since", "noon"]).failed_saying(2, &["2026-11-24"]);
}

#[test]
fn a_server_indexes_the_files_that_have_ended() {
    let site = stopped();
    let (ended, written) = ([0, 3], 7);
    let index = |first: u64| directory(&site).join(format!("index/{first:020}.idx"));
    // The second run may have had the time to index the file of the first.
    let _ = fs::remove_dir_all(directory(&site).join("index"));
    let server = site.start();
    let limit = Instant::now() + Duration::from_secs(20);
    while !ended.iter().all(|&first| index(first).exists()) {
        assert!(Instant::now() < limit, "{}", server.log());
        sleep(Duration::from_millis(20));
    }
    assert!(!index(written).exists());
    assert!(server.stop().contains("a file of the issuance log was indexed"));
}

#[test]
fn a_program_of_others_accepts_the_proofs_and_the_copy() {
    let site = stopped();
    let vkey = fs::read_to_string(directory(&site).join("vkey")).unwrap();
    let vkey = ["--vkey", vkey.trim_end()];
    let files = ["proof", "entry", "copy", "early"].map(|name| site.path(name));
    let [proof, entry, copy, early] = files.each_ref().map(|path| text(path));

    let shown = log(&site, &["export", "--tiles", copy]).succeeded();
    assert!(shown.contains("7 entries"), "{shown}");
    let head = format!("{copy}/checkpoint");
    for what in [&["--certificate", "web/svid.pem"], &["--token", "token"], &["--index", "0"]] {
        let files = ["--write", proof, "--entry", entry];
        let shown = log(&site, &[&["prove"], &what[..], &files].concat()).succeeded();
        assert!(shown.contains("the state store"), "{shown}");
        let inclusion = ["--inclusion", proof, "--entry", entry];
        let of_copy = ["--checkpoint", &head, "--tiles", copy];
        judge("tree_judge.py", &[&vkey[..], &inclusion, &of_copy].concat());
    }
    let printed = log(&site, &["prove", "--index", "0"]).succeeded();
    assert_eq!(printed, fs::read_to_string(proof).unwrap());

    let growth = log(&site, &["prove", "--from", early]).succeeded();
    fs::write(proof, growth).unwrap();
    judge("tree_judge.py", &[&vkey[..], &["--consistency", proof]].concat());
}

#[test]
fn what_is_not_in_the_log_is_not_proven() {
    let (site, other) = (stopped(), stopped());
    let foreign = other.path("web/svid.pem");
    let foreign = ["prove", "--certificate", text(&foreign)];
    log(&site, &foreign).failed_saying(1, &["no record of this certificate"]);
    log(&site, &["prove", "--index", "7"]).failed_saying(1, &["no entry 7"]);
    let foreign = other.path("early");
    log(&site, &["prove", "--from", text(&foreign)]).failed_saying(1, &["no signature by"]);
    log(&site, &["prove"]).failed_saying(2, &["--certificate"]);
}

#[test]
fn a_log_is_verified_against_the_state_store_and_heads_kept_elsewhere() {
    let site = stopped();
    let table = log(&site, &["verify"]).succeeded();
    assert!(table.contains("as it was signed") && !table.contains("note"), "{table}");
    let early = site.path("early");
    let verify = ["verify", "--head", text(&early), "--output", "json"];
    let shown = json(&log(&site, &verify).succeeded());
    assert_eq!(shown["good"], true);
    assert_eq!((&shown["entries"], &shown["runs"]), (&7.into(), &2.into()));
    assert_eq!(shown["key_from"], "the state store");
    let sizes: Vec<_> =
        shown["heads"].as_array().unwrap().iter().map(|head| &head["size"]).collect();
    assert_eq!(sizes, [3, 7, 7]);

    // An auditor with a copy, and no configuration.
    let directory = directory(&site);
    let alone = ["log", "verify", "--dir", text(&directory)];
    let table = site.mintmark(&alone).succeeded();
    assert!(table.contains("the log itself") && table.contains("note: no head"), "{table}");
    let vkey = fs::read_to_string(directory.join("vkey")).unwrap();
    let table = site.mintmark(&[&alone[..], &["--key", vkey.trim_end()]].concat()).succeeded();
    assert!(table.contains("the command line"), "{table}");
    let place = site.path("web");
    site.mintmark(&["log", "verify", "--dir", text(&place)])
        .failed_saying(1, &["holds no issuance log"]);
}

#[test]
fn what_was_changed_or_replaced_is_named() {
    let site = stopped();
    let segment = directory(&site).join("records/00000000000000000000.seg");
    let kept = fs::read(&segment).unwrap();
    let mut changed = kept.clone();
    changed[150] ^= 1;
    fs::write(&segment, changed).unwrap();
    let run = log(&site, &["verify"]);
    assert_eq!(run.code, Some(1));
    for word in [text(&segment), "byte 0", "does not agree with its seal", "NOT as it was signed"] {
        assert!(run.out.contains(word), "{word}: {}", run.out);
    }
    assert!(run.err.contains("1 finding"), "{}", run.err);
    // The server has made an index, which leads past the damage.
    let whole = ["search", "--id", WORKLOAD, "--no-index"];
    log(&site, &whole).failed_saying(1, &["mintmark log verify"]);
    fs::write(&segment, kept).unwrap();

    // An older copy: the server starts no more over it, and only what is outside of it tells.
    let server = site.start();
    mint(&site, OTHER, "db");
    server.stop();
    let last = fs::read_dir(directory(&site).join("records")).unwrap();
    let last = last.map(|file| file.unwrap().path()).max().unwrap();
    fs::remove_file(last).unwrap();
    let early = site.path("early");
    fs::copy(&early, directory(&site).join("checkpoint")).unwrap();
    fs::write(directory(&site).join("tile/size"), "6\n").unwrap();
    let run = log(&site, &["verify"]);
    assert_eq!(run.code, Some(1));
    assert!(run.out.contains("signed head in the state store: it is over"), "{}", run.out);
}

#[test]
fn nothing_is_pruned_while_what_it_records_is_alive() {
    let site = stopped();
    for arguments in [&["prune", "--before", "0s", "--dry-run"][..], &["prune", "--before", "0s"]] {
        let table = log(&site, arguments).succeeded();
        assert!(table.contains("records of 0 entries") && table.contains("stays: "), "{table}");
    }
    log(&site, &["verify"]).succeeded();
}

#[test]
fn entries_are_exported_as_text() {
    let site = stopped();
    let found = lines(&log(&site, &["export"]).succeeded());
    assert_eq!(found.len(), 7);
    assert!(found.iter().map(|entry| &entry["index"]).eq(&[0, 1, 2, 3, 4, 5, 6]));
    assert_eq!(found[3]["continues_size"], 3);
    let file = site.path("entries.csv");
    let written = log(&site, &["export", "--format", "csv", "--write", text(&file)]).succeeded();
    assert!(written.contains("entries.csv"), "{written}");
    let csv = fs::read_to_string(file).unwrap();
    assert_eq!(csv.lines().count(), 8);
    assert!(csv.starts_with("index,kind,time,spiffe_id,"), "{csv}");
    assert_eq!(log(&site, &["export", "--until", "1h"]).succeeded(), "");
}

#[test]
fn everything_that_reads_works_beside_a_server() {
    let site = Site::with_sealed_keys();
    let server = site.start();
    mint(&site, WORKLOAD, "web");
    let limit = Instant::now() + Duration::from_secs(20);
    let proof = loop {
        let run = log(&site, &["prove", "--certificate", "web/svid.pem"]);
        if run.code == Some(0) {
            break run.out;
        }
        assert!(run.err.contains("try again in a second") && Instant::now() < limit, "{run:?}");
        sleep(Duration::from_millis(50));
    };
    assert!(proof.starts_with("c2sp.org/tlog-proof@v1\nindex 2\n"), "{proof}");
    let shown = json(&log(&site, &["verify", "--output", "json"]).succeeded());
    assert_eq!((&shown["good"], &shown["entries"]), (&true.into(), &3.into()));
    assert_eq!(shown["notes"], json("[]"));
    assert_eq!(shown["key_from"], BY_SERVER);
    assert_eq!(shown["heads"][1]["from"], format!("in {BY_SERVER}"), "{shown}");

    let tail = ["log", "tail", "-n", "1", "--follow", "--output", "json", "--dir", "store/log"];
    let mut child = site.command(&tail).stdout(Stdio::piped()).spawn().unwrap();
    let mut followed = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut next = || json(&followed.next().unwrap().unwrap());
    assert_eq!(next()["index"], 2);
    mint(&site, OTHER, "db");
    assert_eq!(next()["spiffe_id"], OTHER);
    child.kill().unwrap();
    child.wait().unwrap();

    assert!(log(&site, &["search", "--id", OTHER]).succeeded().contains(OTHER));
    server.stop();
    log(&site, &["verify"]).succeeded();
}

/// Waits until the log's newest head is over so many entries.
fn await_head(site: &Site, size: u64) {
    let (limit, wanted) = (Instant::now() + Duration::from_secs(20), size.to_string());
    loop {
        let head = fs::read_to_string(directory(site).join("checkpoint")).unwrap_or_default();
        if head.lines().nth(1) == Some(&wanted) {
            return;
        }
        assert!(Instant::now() < limit, "{head}");
        sleep(Duration::from_millis(50));
    }
}

#[test]
fn an_older_copy_beside_a_running_server_is_found_without_a_head_from_elsewhere() {
    let site = Site::with_sealed_keys();
    let server = site.start();
    mint(&site, WORKLOAD, "web");
    await_head(&site, 3);
    let (whole, copy) = (directory(&site), site.path("copy"));
    let status = Command::new("cp").arg("-a").arg(&whole).arg(&copy).status().unwrap();
    assert!(status.success());
    mint(&site, OTHER, "db");
    await_head(&site, 4);
    log(&site, &["verify"]).succeeded();

    fs::rename(&whole, site.path("away")).unwrap();
    fs::rename(&copy, &whole).unwrap();
    let run = log(&site, &["verify"]);
    assert_eq!(run.code, Some(1), "{run:?}");
    let found = format!("signed head in {BY_SERVER}: it is over 4 entries");
    assert!(run.out.contains(&found), "{}", run.out);
    let alone = site.mintmark(&["log", "verify", "--dir", text(&whole)]).succeeded();
    assert!(alone.contains("as it was signed"), "the copy alone is good: {alone}");

    // Without the server's word it is said that nothing was compared.
    let path = site.path("mintmark.toml");
    let elsewhere = site.configuration.replace("admin.sock", "nobody.sock");
    fs::write(&path, elsewhere).unwrap();
    let table = log(&site, &["verify"]).succeeded();
    assert!(table.contains("has the state store open, and cannot reach a server"), "{table}");
    server.kill();
}
