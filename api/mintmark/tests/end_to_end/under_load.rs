//! What befalls a signer while front ends ask it for SVIDs without a pause.

use std::collections::HashSet;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use ca_core::log::entry::Entry;

use crate::front_end::FrontEnd;
use crate::site::{Site, entries};

/// SHA-256 of everything that a log says was issued.
fn logged(log: &Path) -> HashSet<[u8; 32]> {
    let issued = entries(log).into_iter().filter_map(|entry| match entry {
        Entry::Issuance(record) => Some(record.digest),
        _ => None,
    });
    issued.collect()
}

/// Times, shortest first, as median and longest.
fn median_and_longest(mut times: Vec<Duration>) -> (Duration, Duration) {
    times.sort();
    (times[times.len() / 2], times[times.len() - 1])
}

#[test]
#[expect(clippy::print_stderr, reason = "figures are what a long run is made for")]
fn a_killed_signer_has_logged_what_it_released_and_is_back_as_soon_as_it_is_ready() {
    let kills = std::env::var("SOAK_SIGNER_KILLS").map_or(100, |count| count.parse().unwrap());
    let mut site = Site::with_sealed_keys();
    site.set("log_level = \"trace\"", "log_level = \"info\"");
    let address = site.serve_front_ends();
    let mut server = site.start();
    let front_end = FrontEnd::start(&site, &address, "edge");
    front_end.gets_more_than(0);
    // What it does when nothing happens.
    let rate = |front_end: &FrontEnd| {
        let (before, since) = (front_end.minted(), Instant::now());
        sleep(Duration::from_millis(500));
        (front_end.minted() - before) as f64 / since.elapsed().as_secs_f64()
    };
    let undisturbed = rate(&front_end);
    let (mut to_ready, mut to_first, mut rates) = (Vec::new(), Vec::new(), Vec::new());
    for kill in 0..kills {
        sleep(Duration::from_millis(20 + 37 * (kill % 7)));
        let lost = front_end.lost();
        server.kill();
        let killed = Instant::now();
        server = site.start();
        to_ready.push(killed.elapsed());
        let (ready, before) = (Instant::now(), front_end.minted());
        front_end.gets_more_than(before);
        to_first.push(ready.elapsed());
        assert!(front_end.lost() > lost, "what was under way is told to be lost");
        // It costs half a second each time.
        if kill % 10 == 9 {
            rates.push(rate(&front_end) / undisturbed);
        }
    }
    let released = front_end.stop();
    server.stop();
    let logged = logged(&site.path("store/log"));
    let missing = released.difference(&logged).count();
    assert_eq!(missing, 0, "of {} that were released", released.len());
    let ((ready, longest_ready), (first, longest)) =
        (median_and_longest(to_ready), median_and_longest(to_first));
    eprintln!(
        "soak: signer killed {kills} times: {} released, {} logged, none missing; ready again after {ready:.1?} \
         (longest {longest_ready:.1?}), first answer {first:.1?} later (longest {longest:.1?}), rates after that beside \
         the one before: {rates:.2?}",
        released.len(),
        logged.len(),
    );
    site.mintmark(&["log", "verify", "--config", "mintmark.toml"]).succeeded();
}

#[test]
fn a_front_end_that_is_withdrawn_is_cut_off_within_a_second_and_others_go_on() {
    let mut site = Site::with_sealed_keys();
    let address = site.serve_front_ends();
    let server = site.start();
    let [one, other] = ["one", "other"].map(|name| FrontEnd::start(&site, &address, name));
    one.gets_more_than(100);
    other.gets_more_than(100);

    site.mintmark(&["frontend", "withdraw", "one"]).succeeded();
    let withdrawn = Instant::now();
    while one.refused().is_none() {
        assert!(withdrawn.elapsed() < Duration::from_secs(5), "it is still let in");
        sleep(Duration::from_millis(1));
    }
    let cut_off = withdrawn.elapsed();
    let (had, others) = (one.minted(), other.minted());
    other.gets_more_than(others + 100);
    assert_eq!(one.minted(), had, "nothing more for who was withdrawn");
    assert_eq!(other.lost(), 0, "its stream was left alone");
    assert!(cut_off < Duration::from_secs(1), "{cut_off:?}");

    one.stop();
    other.stop();
    let log = server.stop();
    let line = log.lines().find(|line| line.contains("turned away") && line.contains("withdrawn"));
    let line = line.unwrap_or_else(|| panic!("no line of it in {log}"));
    assert!(line.contains("/mintmark/frontend/one"), "{line}");
}
