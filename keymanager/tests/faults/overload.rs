//! More work than the device can do.

use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use ca_core::key::{Priority, SignError, Urgency};
use keymanager::pkcs11::Settings;
use pkcs11_proxy::{Effect, Function, When};

use crate::bench::{Bench, LONG, Opened, probe, resident, tell, until};

/// A store whose only session waits in a call until it is let go, so that the queue only fills.
async fn held(bench: &Bench, queue: usize) -> Opened {
    let settings = Settings {
        sessions: 1,
        queue,
        queue_wait: Duration::from_secs(60),
        stall_limit: Duration::from_secs(600),
        probe_interval: Duration::from_secs(3600),
        ..bench.settings()
    };
    let opened = Opened::of(settings).await;
    opened.warm_up(1).await;
    bench.fault(Function::Sign, When::Nth(1), Effect::Hang(Duration::MAX));
    let key = Arc::clone(&opened.key);
    tokio::spawn(async move { crate::bench::sign(&*key, LONG * 4).await });
    until("the call that holds", || bench.device.hanging() == 1).await;
    opened
}

type Call<'a> =
    Pin<Box<dyn Future<Output = Result<ca_core::key::Signature, SignError>> + Send + 'a>>;

async fn once(call: &mut Call<'_>) -> Poll<Result<ca_core::key::Signature, SignError>> {
    std::future::poll_fn(|context| Poll::Ready(call.as_mut().poll(context))).await
}

/// Asks until one is refused; gives those that wait.
async fn fill<'a>(opened: &'a Opened, priority: Priority) -> Vec<Call<'a>> {
    let mut waiting = Vec::new();
    loop {
        let urgency = Urgency::within(priority, LONG * 4, Instant::now());
        let mut call: Call<'a> = Box::pin(opened.key.sign(probe(&*opened.key), urgency));
        match once(&mut call).await {
            Poll::Pending => waiting.push(call),
            Poll::Ready(Err(SignError::Busy { .. })) => return waiting,
            Poll::Ready(other) => panic!("{other:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_thousand_are_refused_at_once_in_flat_memory() {
    const REFUSED: u32 = 100_000;
    let bench = Bench::new();
    let opened = held(&bench, 4096).await;
    let waiting = fill(&opened, Priority::Expiring).await;
    assert_eq!(waiting.len(), 4096);
    let before = resident();
    let (mut slowest, started) = (Duration::ZERO, Instant::now());
    let mut slow = 0;
    for _ in 0..REFUSED {
        let urgency = Urgency::within(Priority::New, LONG, Instant::now());
        let mut call: Call<'_> = Box::pin(opened.key.sign(probe(&*opened.key), urgency));
        let asked = Instant::now();
        let answer = once(&mut call).await;
        let took = asked.elapsed();
        assert!(matches!(answer, Poll::Ready(Err(SignError::Busy { .. }))), "{answer:?}");
        slowest = slowest.max(took);
        slow += u32::from(took >= Duration::from_millis(5));
    }
    let (whole, grown) = (started.elapsed(), resident().saturating_sub(before));
    tell(&format!(
        "queue full: {REFUSED} refused in {whole:?}, the slowest in {slowest:?}; memory grew by {grown} KiB"
    ));
    // A busy machine may take the processor away in the middle of one.
    assert!(slow <= REFUSED / 1000, "{slow} took 5 ms or more, the slowest {slowest:?}");
    assert!(whole < Duration::from_millis(5) * REFUSED / 100, "{whole:?}");
    assert!(grown < 4096, "{grown} KiB");
    drop(waiting);
    // Abandoned places are free after some milliseconds.
    tokio::time::sleep(Duration::from_millis(50)).await;
    bench.device.release();
    opened.signs().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_lower_class_is_refused_first() {
    let bench = Bench::new();
    let opened = held(&bench, 1000).await;
    // The pace is that of a soft token, and the wait long: the bound is the queue's own.
    let mut waiting = Vec::new();
    let mut lengths = Vec::new();
    for priority in [Priority::Bulk, Priority::Refresh, Priority::New, Priority::Expiring] {
        waiting.extend(fill(&opened, priority).await);
        lengths.push(waiting.len());
    }
    assert!(lengths.is_sorted_by(|less, more| less < more), "{lengths:?}");
    drop(waiting);
    bench.device.release();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_expired_or_been_abandoned_is_not_signed() {
    let bench = Bench::new();
    let opened = held(&bench, 4096).await;
    let signed = bench.device.calls(Function::Sign);
    let mut abandoned = Vec::new();
    for _ in 0..200 {
        let urgency = Urgency::within(Priority::New, LONG, Instant::now());
        let mut call: Call<'_> = Box::pin(opened.key.sign(probe(&*opened.key), urgency));
        assert!(once(&mut call).await.is_pending());
        abandoned.push(call);
    }
    drop(abandoned);
    let mut expired = Vec::new();
    for _ in 0..200 {
        let key = Arc::clone(&opened.key);
        expired.push(tokio::spawn(async move {
            crate::bench::sign(&*key, Duration::from_millis(50)).await
        }));
    }
    for call in expired {
        let error = call.await.unwrap().unwrap_err();
        assert!(matches!(error, SignError::Late { .. }), "{error}");
    }
    bench.device.release();
    opened.signs().await;
    // The one that held the session was counted when it began.
    assert_eq!(bench.device.calls(Function::Sign), signed + 1);
    assert_eq!(bench.figures.outcomes("abandoned"), 200);
    assert_eq!(bench.figures.outcomes("late"), 200);
}
