//! Long runs: seconds here, minutes in `make soak`, which sets the counts. They print what they saw.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ca_core::key::{KeyStore, KeyType, SigningKey, StoreHealth};
use cryptoki::context::Pkcs11;
use pkcs11_proxy::cryptoki_sys::*;
use pkcs11_proxy::{Effect, Function, When};

use crate::bench::{
    Bench, LONG, count, descriptors, is_alone, name, resident, sign, signers, tell, threads, until,
};
use crate::load::{Load, Margin, SLACK, Tally};

/// How many signatures are made among random faults.
pub(crate) fn signatures() -> u64 {
    count("SOAK_SIGNATURES", 3_000)
}

/// What a device may do at any time, by chance in millionths of the calls of a function.
const CHANCES: &[(Function, u32, Effect)] = &[
    (Function::SignInit, 1_000, Effect::Fail(CKR_SESSION_HANDLE_INVALID)),
    (Function::SignInit, 1_000, Effect::Fail(CKR_KEY_HANDLE_INVALID)),
    (Function::SignInit, 500, Effect::Fail(CKR_KEY_FUNCTION_NOT_PERMITTED)),
    (Function::SignInit, 1_000, Effect::Lose(CKR_FUNCTION_FAILED)),
    (Function::SignInit, 300, Effect::Fail(CKR_DEVICE_REMOVED)),
    (Function::Sign, 1_000, Effect::Fail(CKR_USER_NOT_LOGGED_IN)),
    (Function::Sign, 2_000, Effect::Fail(CKR_DEVICE_ERROR)),
    (Function::Sign, 1_000, Effect::Lose(CKR_GENERAL_ERROR)),
    (Function::Sign, 1_000, Effect::Fail(0x8000_4711)),
    (Function::Sign, 2_000, Effect::Fail(CKR_DEVICE_MEMORY)),
    (Function::Sign, 5_000, Effect::Corrupt),
    (Function::Sign, 1_000, Effect::Hang(Duration::from_millis(30))),
    (Function::OpenSession, 20_000, Effect::Fail(CKR_SESSION_COUNT)),
    (Function::Login, 20_000, Effect::Fail(CKR_FUNCTION_FAILED)),
    (Function::FindObjects, 10_000, Effect::Fail(CKR_GENERAL_ERROR)),
    (Function::Initialize, 100_000, Effect::Fail(CKR_GENERAL_ERROR)),
];

#[tokio::test(flavor = "multi_thread")]
async fn among_random_faults_nothing_wrong_is_released_and_no_answer_is_lost() {
    let bench = Bench::new();
    let opened = bench.open().await;
    let other = opened.store.create(&name("jwt/1"), KeyType::EcP256).await.unwrap();
    opened.warm_up(4).await;
    bench.device.set_seed(count("SOAK_SEED", 1));
    for &(function, chance, effect) in CHANCES {
        bench.fault(function, When::Chance(chance), effect);
    }
    let (before, wanted) = (Tally::counted(&bench.figures), signatures());
    let (margin, started) = (Margin::measure(), Instant::now());
    let keys: Vec<Arc<dyn SigningKey>> = vec![Arc::clone(&opened.key), other];
    let load = Load { keys, callers: 32, patience: Duration::from_millis(900) };
    let (tally, disturbed) = disturbing(&bench, load.run(move |signed| signed >= wanted)).await;
    let (took, margin) = (started.elapsed(), margin.end().await);
    let wrong = bench.figures.sum("wrong_signatures_total", &[]);
    tell(&format!("random faults on the proxy: {} in {took:.1?}", tally.summary()));
    tell(&format!(
        "random faults on the proxy: {} recoveries, {disturbed} disturbances, {wrong} wrong signatures \
         held back, {} tries again; the machine wakes a task {margin:?} late at worst",
        bench.device.calls(Function::Initialize),
        bench.figures.sum("retries_total", &[]),
    ));
    tally
        .reasons
        .iter()
        .for_each(|reason| tell(&format!("random faults on the proxy: told: {reason}")));
    tally.check(&before, &bench.figures);
    assert!(tally.overrun <= margin + SLACK, "{:?} past a deadline, {margin:?}", tally.overrun);
    assert!(wrong > 0 && bench.figures.sum("retries_total", &[]) > wrong, "there were faults");
    bench.device.clear_rules();
    bench.device.set_needs_initialize(false);
    opened.signs().await;
    assert_eq!(opened.health(), StoreHealth::Good);
    assert_eq!(signers(&bench.token), 4);
}

/// Does to the device what no single call does, until `load` is through. Says how often.
async fn disturbing(bench: &Bench, load: impl Future<Output = Tally>) -> (Tally, u64) {
    let context = Pkcs11::new(pkcs11_proxy::module_path().unwrap()).unwrap();
    let done = AtomicBool::new(false);
    let load = async {
        let tally = load.await;
        done.store(true, Ordering::Relaxed);
        tally
    };
    let disturb = async {
        let mut disturbances = 0;
        while !done.load(Ordering::Relaxed) {
            let pause = Duration::from_millis(random_below(200));
            tokio::time::sleep(pause).await;
            disturbances += 1;
            match disturbances % 5 {
                0 => bench.device.remove_device(Duration::ZERO),
                1 => bench.device.set_needs_initialize(disturbances % 8 == 1),
                2 => bench.device.remove_device(Duration::from_millis(random_below(80))),
                3 => log_out(&context),
                // The library is finalised under the store.
                _ => drop(context.clone().finalize()),
            }
        }
        disturbances
    };
    tokio::join!(load, disturb)
}

/// Somebody else in the process logs out of the token under the store, if it is there.
fn log_out(context: &Pkcs11) {
    for slot in context.get_slots_with_initialized_token().unwrap_or_default() {
        if let Ok(session) = context.open_ro_session(slot) {
            let _ = session.logout();
        }
    }
}

/// A random number.
pub(crate) fn random_below(below: u64) -> u64 {
    let mut bytes = [0; 8];
    aws_lc_rs::rand::fill(&mut bytes).unwrap();
    u64::from_le_bytes(bytes) % below
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_was_away_costs_no_answer_and_is_at_full_rate_within_a_second() {
    let bench = Bench::new();
    let away = Duration::from_millis(count("SOAK_AWAY_MILLISECONDS", 700));
    let opened = bench.open().await;
    // As hardware has it, so that the rate is the device's and not that of a busy machine.
    bench.device.set_latency(Function::Sign, Duration::from_millis(5));
    opened.warm_up(4).await;
    bench.device.set_needs_initialize(true);
    let before = Tally::counted(&bench.figures);
    let load = |callers, patience| Load { keys: vec![Arc::clone(&opened.key)], callers, patience };
    let second = Duration::from_secs(1);
    let (start, margin) = (Instant::now(), Margin::measure());
    let (gone, back) = (start + second, start + second + away);
    let end = back + 2 * second;
    let removal = async {
        tokio::time::sleep_until(gone.into()).await;
        bench.device.remove_device(back.saturating_duration_since(Instant::now()));
    };
    let (hasty, patient, ()) = tokio::join!(
        load(8, Duration::from_millis(250)).run(move |_| Instant::now() >= end),
        load(8, LONG).run(move |_| Instant::now() >= end),
        removal,
    );
    let margin = margin.end().await;
    assert_eq!(patient.failures(), 0, "who could wait was served: {patient:?}");
    let mut tally = hasty;
    tally.add(patient);
    tally.check(&before, &bench.figures);
    let rate = |from: Instant| {
        let first = ((from - start).as_millis() / 100) as usize;
        tally.tenths.iter().skip(first).take(10).sum::<u64>()
    };
    let (first, last) = (rate(start), rate(back + second));
    // To a tenth of a second.
    let returned = ((back - start).as_millis() / 100) as usize;
    let again = tally.tenths.iter().skip(returned).position(|&signed| signed > 0).unwrap();
    tell(&format!("token away for {away:?}: {}", tally.summary()));
    tell(&format!(
        "token away for {away:?}: {first}/s before, {last}/s in the second that begins a second after its \
         return; the first signature within {} ms of it; the machine wakes a task {margin:?} late at worst",
        100 * (again + 1),
    ));
    assert!(tally.overrun <= margin + SLACK, "{:?} past a deadline, {margin:?}", tally.overrun);
    assert!(last >= first / 2, "{first}/s before, {last}/s after");
    assert_eq!(opened.health(), StoreHealth::Good);
}

#[tokio::test(flavor = "multi_thread")]
async fn recoveries_leave_nothing_behind() {
    if !is_alone("soak::recoveries_leave_nothing_behind") {
        return;
    }
    let bench = Bench::new();
    let opened = bench.open().await;
    let all_sign = async || {
        let calls = [(); 8].map(|()| {
            let key = Arc::clone(&opened.key);
            tokio::spawn(async move { sign(&*key, LONG).await })
        });
        for call in calls {
            call.await.unwrap().unwrap();
        }
    };
    let recovered = || bench.device.calls(Function::Initialize) - 1;
    let recover = async |times: u64| {
        // Two faults that meet are one recovery, so it is those that are counted.
        let end = recovered() + times;
        while recovered() < end {
            let code = [CKR_DEVICE_REMOVED, CKR_CRYPTOKI_NOT_INITIALIZED, CKR_TOKEN_NOT_PRESENT];
            let fault = bench.fail_next(Function::SignInit, code[recovered() as usize % 3]);
            all_sign().await;
            bench.device.remove(fault);
        }
        // Each session is opened again, the managing one too.
        opened.warm_up(4).await;
        assert_eq!(opened.store.list().await.unwrap().len(), 1);
        until("all sessions", || bench.device.sessions_open() == 5).await;
    };
    // What is only made once is made.
    recover(20).await;
    let before = (descriptors(), signers(&bench.token), threads(""), resident());
    let (times, started) = (count("SOAK_RECOVERIES", 100), Instant::now());
    recover(times).await;
    let took = started.elapsed();
    // tokio's threads for blocking calls end after ten idle seconds; there are no more than before.
    let after = (descriptors(), signers(&bench.token), threads(""), resident());
    tell(&format!(
        "{times} recoveries in {took:.1?}: descriptors {} to {}, signing threads {} to {}, all threads {} to \
         {}, memory {} to {} KiB; 5 sessions open, {} calls with a handle of the past",
        before.0,
        after.0,
        before.1,
        after.1,
        before.2,
        after.2,
        before.3,
        after.3,
        bench.device.strays(),
    ));
    assert_eq!((after.0, after.1), (before.0, before.1));
    assert!(after.2 <= before.2, "{} threads, {} before", after.2, before.2);
    assert!(after.3 < before.3 + 16 * 1024, "{} KiB, {} before", after.3, before.3);
    assert_eq!(bench.figures.sessions("open"), 5);
    drop(opened);
    until("no session", || bench.device.sessions_open() == 0).await;
    until("no thread", || signers(&bench.token) == 0).await;
}
