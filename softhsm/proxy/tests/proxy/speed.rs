//! Slots and latency.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use pkcs11_proxy::{Control, Function};

use crate::client::{Client, sign, until};

const SECOND: Duration = Duration::from_secs(1);

/// Signatures per second of so many callers, in this time after a start of a tenth of a second.
fn rate(client: &Client, callers: usize, time: Duration) -> f64 {
    let (done, end) = (AtomicU64::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        for _ in 0..callers {
            let session = client.another_session().unwrap();
            let (done, end, key) = (&done, &end, client.key);
            scope.spawn(move || {
                while !end.load(Ordering::Relaxed) {
                    sign(&session, key).unwrap();
                    done.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        std::thread::sleep(SECOND / 10);
        let (before, start) = (done.load(Ordering::Relaxed), Instant::now());
        std::thread::sleep(time);
        let made = done.load(Ordering::Relaxed) - before;
        let elapsed = start.elapsed();
        end.store(true, Ordering::Relaxed);
        made as f64 / elapsed.as_secs_f64()
    })
}

fn time_of(what: impl FnOnce()) -> Duration {
    let start = Instant::now();
    what();
    start.elapsed()
}

#[test]
fn a_full_device_makes_slots_by_latency_signatures() {
    let client = Client::new();
    // Six callers to a slot: one that a busy machine wakes late does not leave its slot idle.
    for (slots, latency, callers) in [(1, 5, 12), (4, 10, 24), (8, 20, 48)] {
        client.device.set_slots(slots);
        client.device.set_latency(Function::Sign, Duration::from_millis(latency));
        let limit = f64::from(slots) * 1000.0 / latency as f64;
        let measured = rate(&client, callers, 2 * SECOND);
        let part = measured / limit;
        assert!(
            (0.98..=1.02).contains(&part),
            "{slots} slots, {latency} ms: {measured} of {limit}"
        );
    }
    assert_eq!(client.device.most_signing(), 48, "all callers were inside at once");
    assert_eq!(client.device.signing(), 0);
}

#[test]
fn the_real_work_is_part_of_the_latency() {
    let client = Client::new();
    let latency = Duration::from_millis(20);
    client.device.set_latency(Function::Sign, latency);
    client.sign().unwrap();
    let shortest = (0..5).map(|_| time_of(|| drop(client.sign().unwrap()))).min().unwrap();
    assert!((latency..latency.mul_f64(1.1)).contains(&shortest), "{shortest:?}");
}

#[test]
fn without_a_limit_all_callers_are_served_at_once() {
    let client = Client::new();
    client.device.set_latency(Function::Sign, Duration::from_millis(100));
    let sessions: Vec<_> = (0..20).map(|_| client.another_session().unwrap()).collect();
    let all = time_of(|| {
        std::thread::scope(|scope| {
            for session in sessions {
                scope.spawn(move || sign(&session, client.key).unwrap());
            }
        });
    });
    assert!(all < SECOND, "one after the other takes two seconds: {all:?}");
}

#[test]
fn asking_for_the_length_costs_nothing_unless_told() {
    const LATENCY: Duration = Duration::from_millis(200);
    let client = Client::new();
    let quick = time_of(|| drop(client.sign().unwrap()));
    assert!(quick < LATENCY, "{quick:?}");
    client.device.set_latency(Function::SignLength, LATENCY);
    let asked = time_of(|| drop(client.sign().unwrap()));
    assert!(asked >= LATENCY, "{asked:?}");
    let opened = time_of(|| drop(client.another_session().unwrap()));
    assert!(opened < LATENCY, "each function has its own: {opened:?}");
    client.device.set_latency(Function::OpenSession, LATENCY);
    let opened = time_of(|| drop(client.another_session().unwrap()));
    assert!(opened >= LATENCY, "{opened:?}");
}

#[test]
fn callers_get_their_slots_in_the_order_of_arrival() {
    let client = Client::new();
    client.device.set_slots(1);
    client.device.set_latency(Function::Sign, Duration::from_millis(100));
    let order = std::sync::Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for number in 0..5 {
            let session = client.another_session().unwrap();
            let (order, key) = (&order, client.key);
            scope.spawn(move || {
                sign(&session, key).unwrap();
                order.lock().unwrap().push(number);
            });
            until(|| client.device.signing() == number + 1);
            std::thread::sleep(Duration::from_millis(10));
        }
    });
    assert_eq!(order.into_inner().unwrap(), [0, 1, 2, 3, 4]);
}

#[test]
fn a_change_reaches_those_who_still_wait_for_a_slot() {
    let client = Client::new();
    client.device.set_slots(1);
    client.device.set_latency(Function::Sign, SECOND);
    let sessions: Vec<_> = (0..6).map(|_| client.another_session().unwrap()).collect();
    let all = time_of(|| {
        std::thread::scope(|scope| {
            for session in sessions {
                scope.spawn(move || sign(&session, client.key).unwrap());
            }
            std::thread::sleep(SECOND / 10);
            // By a second handle on the same file, as another process has it.
            let other = Control::open(client.device.path()).unwrap();
            other.set_latency(Function::Sign, Duration::ZERO);
        });
    });
    assert!((SECOND..3 * SECOND).contains(&all), "one was in the slot, five waited: {all:?}");
}
