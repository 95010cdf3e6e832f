//! `mintmark key probe`

use std::io::{self, Write as _};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use ca_core::key::{
    KeyError, KeyName, KeyStore, Priority, SignError, SignatureAlgorithm, SigningKey, ToBeSigned,
    Urgency,
};
use hdrhistogram::Histogram;
use keymanager::Verification;
use serde::Serialize;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

use super::list::Store;
use super::saturation::{Saturation, Search};
use super::{Chosen, close, no_key};
use crate::cli::{Output, ProbeKeys};
use crate::command::run_on;
use crate::config::{AwsKmsSettings, Backend, KeySettings, TransitSettings};
use crate::exit::Failure;
use crate::keys;
use crate::output::{Screen, columns};
use crate::server::shutdown_signal;

/// How long a signature may take at most; longer ones are errors.
const PATIENCE: Duration = Duration::from_secs(30);
/// How many signatures may wait: more than there are callers, and for longer than they would. What the queue
/// refuses in service would be measured as the device's.
const WAITING: (u32, Duration) = (65_536, Duration::from_secs(60));

/// What was measured, as programs see it.
#[derive(Serialize)]
struct Report {
    store: Store,
    key: String,
    algorithm: String,
    seconds_per_step: f64,
    steps: Vec<Step>,
    /// The number that saturates the device.
    saturated_by: Option<usize>,
    /// The highest number that was tried, if that still brought more.
    not_saturated_by: Option<usize>,
    interrupted: bool,
    /// Why there are no steps with more.
    note: Option<String>,
}

/// One number of signatures at once.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Step {
    at_once: usize,
    per_second: f64,
    p50_ms: f64,
    p99_ms: f64,
    errors: u64,
}

/// Measures the rate of more and more signatures at once until more of them bring nothing.
pub(super) fn probe(arguments: &ProbeKeys, screen: &mut Screen<'_>) -> Result<(), Failure> {
    let chosen = Chosen::load(&arguments.place)?;
    // Software keys sign where they are called: on every processor.
    let runtime = Runtime::new().map_err(Failure::failed)?;
    let report = run_on(runtime, measure(arguments, &chosen))?;
    if screen.form() == Output::Json {
        return screen.json(&report);
    }
    screen.text(&table(&report))
}

async fn measure(arguments: &ProbeKeys, chosen: &Chosen) -> Result<Report, Failure> {
    let shutdown = shutdown_signal().map_err(Failure::failed)?;
    tokio::pin!(shutdown);
    let mut report = tokio::select! {
        started = start(arguments, chosen) => started?,
        () = &mut shutdown => return Err(Failure::failed("interrupted before anything was measured")),
    };
    let name = KeyName::parse(&report.key).map_err(Failure::failed)?;
    let mut search = Search::up_to(arguments.sessions.into());
    while let Some(at_once) = search.next() {
        let step = tokio::select! {
            step = step(chosen, &name, at_once, arguments.seconds) => step,
            () = &mut shutdown => {
                report.interrupted = true;
                break;
            }
        };
        match step {
            Ok(step) => {
                progress(&step);
                search.measured(at_once, step.per_second);
                report.steps.push(step);
            }
            // The device has no room for so many.
            Err(error) if !report.steps.is_empty() => {
                search.refused(at_once);
                report.note = Some(format!("{at_once} at once are not to be had: {error}"));
            }
            Err(error) => return Err(Failure::failed(error)),
        }
    }
    report.steps.sort_by_key(|step| step.at_once);
    if !report.interrupted {
        match search.answer() {
            Some(Saturation::At(number)) => report.saturated_by = Some(number),
            Some(Saturation::Beyond(number)) => report.not_saturated_by = Some(number),
            None => {}
        }
    }
    Ok(report)
}

/// Opens the store as it is configured, finds the key, and lets go of both.
async fn start(arguments: &ProbeKeys, chosen: &Chosen) -> Result<Report, Failure> {
    let store = chosen.open().await.map_err(Failure::failed)?;
    let (name, key) = match &arguments.key {
        Some(name) => {
            let key = store.find(name).await.map_err(Failure::failed)?;
            (name.clone(), key.ok_or_else(|| no_key(name, &*store))?)
        }
        None => first_usable(&*store, chosen).await?,
    };
    let report = Report {
        store: Store::of(chosen, store.description()),
        key: name.to_string(),
        algorithm: algorithm(chosen, &*key).to_string(),
        seconds_per_step: arguments.seconds.as_secs_f64(),
        steps: Vec::new(),
        saturated_by: None,
        not_saturated_by: None,
        interrupted: false,
        note: None,
    };
    close((store, key)).await;
    Ok(report)
}

async fn first_usable(
    store: &dyn KeyStore,
    chosen: &Chosen,
) -> Result<(KeyName, Arc<dyn SigningKey>), Failure> {
    for name in store.list().await.map_err(Failure::failed)? {
        match store.find(&name).await {
            Ok(Some(key)) => return Ok((name, key)),
            Ok(None) => {}
            Err(error) if error.is_of_one_key() => {}
            Err(error) => return Err(Failure::failed(error)),
        }
    }
    Err(Failure::failed(format!(
        "there is no key of {} in {} to sign with; make one with `mintmark key create`",
        chosen.trust_domain(),
        store.description().place
    )))
}

/// As an authority with that key would sign.
fn algorithm(chosen: &Chosen, key: &dyn SigningKey) -> SignatureAlgorithm {
    let wanted = chosen.settings.authorities.rsa_scheme.algorithm(key.public_key().kind());
    if key.algorithms().contains(&wanted) { wanted } else { key.algorithm() }
}

/// Measures one number. A token gets so many sessions, and two callers for each, so that none waits for work;
/// elsewhere as many callers as are to be under way.
async fn step(
    chosen: &Chosen,
    name: &KeyName,
    at_once: usize,
    span: Duration,
) -> Result<Step, KeyError> {
    let settings = with_room_for(chosen.keys(), at_once);
    let callers = match settings.backend {
        Backend::Pkcs11(_) => 2 * at_once,
        Backend::Software(_) | Backend::AwsKms(_) | Backend::Transit(_) => at_once,
    };
    let store = keys::open(&settings, chosen.trust_domain(), Default::default()).await?;
    let found = store.find(name).await;
    let measured = match found {
        Ok(Some(key)) => {
            let algorithm = algorithm(chosen, &*key);
            let step = load(&key, algorithm, callers, span).await;
            close(key).await;
            Ok(Step { at_once, ..step })
        }
        Ok(None) => Err(KeyError::NotFound(name.clone())),
        Err(error) => Err(error),
    };
    close(store).await;
    let step = measured?;
    match step.per_second {
        0.0 => Err(KeyError::Unavailable {
            place: format!("key {name}"),
            reason: format!("it signed nothing in {span:?}; {} tries failed", step.errors),
        }),
        _ => Ok(step),
    }
}

/// The settings with as many at once, and nothing between the callers and the device: signatures are not
/// verified, and the queue refuses none.
fn with_room_for(settings: &KeySettings, at_once: usize) -> KeySettings {
    let mut settings = KeySettings { verification: Verification::Off, ..settings.clone() };
    match &mut settings.backend {
        Backend::Pkcs11(token) => {
            token.sessions = u16::try_from(at_once).unwrap_or(u16::MAX);
            (token.queue, token.queue_wait) = WAITING;
        }
        Backend::AwsKms(AwsKmsSettings { pace, .. })
        | Backend::Transit(TransitSettings { pace, .. }) => {
            pace.in_flight = u16::try_from(at_once).unwrap_or(u16::MAX);
            pace.queue_wait = WAITING.1;
        }
        Backend::Software(_) => {}
    }
    settings
}

/// What the callers of a step have seen.
struct Seen {
    microseconds: Histogram<u64>,
    errors: u64,
}

/// Has so many callers sign one after the other for a while. The first fifth is warming up and not counted.
async fn load(
    key: &Arc<dyn SigningKey>,
    algorithm: SignatureAlgorithm,
    callers: usize,
    span: Duration,
) -> Step {
    let most = u64::try_from(PATIENCE.as_micros()).unwrap_or(u64::MAX);
    let microseconds = Histogram::new_with_max(most, 3).expect("bounds of a histogram");
    let seen = Arc::new(Mutex::new(Seen { microseconds, errors: 0 }));
    let start = Instant::now() + span / 5;
    let end = start + span;
    let mut tasks = JoinSet::new();
    for number in (0_u64..).take(callers) {
        let (key, seen) = (Arc::clone(key), Arc::clone(&seen));
        tasks.spawn(async move { call(&*key, algorithm, number, start..end, &seen).await });
    }
    while tasks.join_next().await.is_some() {}
    let seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
    let milliseconds = |quantile| {
        let found = Duration::from_micros(seen.microseconds.value_at_quantile(quantile));
        found.as_secs_f64() * 1000.0
    };
    Step {
        at_once: callers,
        per_second: seen.microseconds.len() as f64 / span.as_secs_f64(),
        p50_ms: milliseconds(0.5),
        p99_ms: milliseconds(0.99),
        errors: seen.errors,
    }
}

/// One caller: signs until the end, each time another message.
async fn call(
    key: &dyn SigningKey,
    algorithm: SignatureAlgorithm,
    number: u64,
    counted: std::ops::Range<Instant>,
    seen: &Mutex<Seen>,
) {
    let mut nonce = [0; 32];
    nonce[..8].copy_from_slice(&number.to_be_bytes());
    for round in 0_u64.. {
        nonce[8..16].copy_from_slice(&round.to_be_bytes());
        let message = ToBeSigned::probe(nonce, algorithm);
        let begin = Instant::now();
        if begin >= counted.end {
            return;
        }
        let signed = key.sign(message, Urgency::within(Priority::Bulk, PATIENCE, begin)).await;
        let end = Instant::now();
        if end >= counted.start {
            let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
            let took = u64::try_from((end - begin).as_micros()).unwrap_or(u64::MAX);
            match &signed {
                Ok(_) if end < counted.end => seen.microseconds.saturating_record(took),
                Ok(_) => {}
                // However late it comes: a device that hangs is no slow one.
                Err(_) => seen.errors += 1,
            }
        }
        match signed {
            Ok(_) => {}
            Err(SignError::Busy { retry_after, .. }) => tokio::time::sleep(retry_after).await,
            // A device that fails is not asked in a hurry.
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
        // A software key answers without waiting once: others, and the end, get their turn.
        tokio::task::yield_now().await;
    }
}

/// Tells who waits what has been found so far.
fn progress(step: &Step) {
    let Step { at_once, per_second, p50_ms, p99_ms, errors } = step;
    // Nobody is left to be told that standard error is closed.
    let _ = writeln!(
        io::stderr(),
        "{at_once} at once: {per_second:.0} per second, p50 {p50_ms:.2} ms, p99 {p99_ms:.2} ms, {errors} errors"
    );
}

fn table(report: &Report) -> String {
    let line = |step: &Step| {
        let Step { at_once, per_second, p50_ms, p99_ms, errors } = step;
        [
            at_once.to_string(),
            format!("{per_second:.0}"),
            format!("{p50_ms:.2} ms"),
            format!("{p99_ms:.2} ms"),
            errors.to_string(),
        ]
    };
    let rows = report.steps.iter().map(line).collect();
    let table = columns(["At once", "Per second", "p50", "p99", "Errors"], rows);
    let verdict = match (report.saturated_by, report.not_saturated_by) {
        _ if report.interrupted => "interrupted: what saturates it is not known".to_owned(),
        (Some(number), _) => format!("{number} at once saturate it"),
        (None, Some(number)) => {
            format!("{number} at once do not saturate it; try more with --sessions N")
        }
        (None, None) => "what saturates it is not known".to_owned(),
    };
    let note = report.note.as_ref().map(|note| format!("note: {note}\n")).unwrap_or_default();
    let Report { store, key, algorithm, .. } = report;
    format!("{key}, {algorithm}, in {}\n\n{table}\n\n{verdict}\n{note}", store.place)
}
