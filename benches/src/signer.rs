//! Keys of a PKCS#11 token beside bare `C_Sign` loops on the same token.

mod bare;
mod calls;
pub(crate) mod token;

use std::time::{Duration, Instant};

use ca_core::key::{KeyType, Priority, Urgency};
use keymanager::Verification;
use pkcs11_proxy::{Function, testing};

use crate::paired::{self, Row, wall_rate};
use token::{Device, Setup};

/// Callers of a soft token: enough that no session waits for its next job.
const CALLERS: usize = 512;

/// `k` sessions on SoftHSM, with or without verification: the hand-over to the sessions' threads and back must
/// not show.
pub(crate) fn softhsm(
    key_type: KeyType,
    sessions: usize,
    verification: Verification,
) -> anyhow::Result<Row> {
    let verified = verification == Verification::Always;
    let device = Device::SoftHsm;
    let setup = Setup { device, key_type, sessions, verification, runtime_threads: 1 };
    let opened = setup.open()?;
    let mut bare = opened.bare(sessions)?;
    let mut what = format!("bare C_Sign loop, {sessions} threads");
    if verified {
        bare = bare.verifying(opened.key.public_key(), key_type)?;
        what.push_str(", verifying");
    }
    let kind = if key_type == KeyType::EcP256 { "p256" } else { "rsa2048" };
    let name =
        format!("signer/softhsm/{kind}/k{sessions}{}", if verified { "/verified" } else { "" });
    Ok(wall_rate(
        &name,
        &what,
        |slice| opened.sign_for(CALLERS, slice),
        |slice| bare.sign_for(slice),
    ))
}

/// As [`softhsm()`] with P-256 and two sessions, but with callers on as many threads as the runtime takes by
/// default: it wakes a second one whenever the first finds work.
pub(crate) fn softhsm_on_all_threads() -> anyhow::Result<Row> {
    let runtime_threads = std::thread::available_parallelism()?.get();
    let (device, key_type, sessions) = (Device::SoftHsm, KeyType::EcP256, 2);
    let verification = Verification::Off;
    let opened = Setup { device, key_type, sessions, verification, runtime_threads }.open()?;
    let mut bare = opened.bare(sessions)?;
    Ok(wall_rate(
        "signer/softhsm/p256/k2/runtime-on-all-cores",
        "bare C_Sign loop, 2 threads",
        |slice| opened.sign_for(CALLERS, slice),
        |slice| bare.sign_for(slice),
    ))
}

/// One caller, one session: what the way to the session's thread and back adds to a signature, beside what a
/// bare thread adds that is handed a word, makes the same signature and hands a word back. A core that has
/// slept through a signature wakes slower than one that was asked a moment ago, so the word alone would
/// compare nothing.
pub(crate) fn softhsm_idle() -> anyhow::Result<Row> {
    let setup = Setup {
        device: Device::SoftHsm,
        key_type: KeyType::EcP256,
        sessions: 1,
        verification: Verification::Off,
        runtime_threads: 2,
    };
    let opened = setup.open()?;
    let mut bare = opened.bare(1)?;
    let mut hopped = opened.bare(1)?;
    let slice = Duration::from_millis(100);
    let alone = median(bare.times(slice * 10));
    Ok(paired::medians(
        "signer/softhsm/p256/idle-added-p50",
        "bare hop between two threads",
        || median(opened.times(1, slice)).saturating_sub(alone),
        || median(hopped.times_over_a_hop(slice)).saturating_sub(alone),
    ))
}

/// A device as hardware is: 2 ms a signature, 30 at a time.
pub(crate) fn proxy() -> anyhow::Result<Row> {
    let proxied = Proxied::open(Verification::Off)?;
    let Proxied { opened, mut bare, _device } = proxied;
    Ok(wall_rate(
        "signer/proxy-2ms-30-slots/p256",
        "bare C_Sign loop, 30 threads",
        |slice| opened.sign_for(2 * SLOTS, slice),
        |slice| bare.sign_for(slice),
    ))
}

/// The slowest in a hundred on that device, with twice as many callers as it has slots.
pub(crate) fn proxy_p99() -> anyhow::Result<Row> {
    let proxied = Proxied::open(Verification::Off)?;
    let Proxied { opened, mut bare, _device } = proxied;
    let slice = Duration::from_millis(500);
    Ok(paired::medians(
        "signer/proxy-2ms-30-slots/p256/p99",
        "bare C_Sign loop, 30 threads, p99",
        || percentile(opened.times(2 * SLOTS, slice), 99),
        || percentile(bare.times(slice), 99),
    ))
}

/// As [`proxy_p99()`], for the limit itself: twice as many callers as slots have to wait for a turn, whatever
/// hands the turns out.
pub(crate) fn proxy_p99_of_an_ideal_queue() -> anyhow::Result<Row> {
    let proxied = Proxied::open(Verification::Off)?;
    let Proxied { opened, mut bare, _device } = proxied;
    let mut alone = opened.bare(SLOTS)?;
    let slice = Duration::from_millis(500);
    Ok(paired::medians(
        "signer/proxy-2ms-30-slots/p256/p99/queue-for-nothing",
        "bare C_Sign loop, 30 threads, p99",
        || percentile(bare.times_in_a_queue(2 * SLOTS, slice), 99),
        || percentile(alone.times(slice), 99),
    ))
}

pub(crate) const SLOTS: usize = 30;

/// As `docs/keys.md` has it: what saturates the device, and a little more, so that no slot is empty while its
/// answer is on its way to a thread and the next job on its way back.
pub(crate) const SESSIONS: usize = SLOTS + 2;

pub(crate) struct Proxied {
    pub(crate) opened: token::Opened,
    pub(crate) bare: bare::Bare,
    /// Kept: without it the device is as fast as SoftHSM.
    pub(crate) _device: testing::Turn,
}

impl Proxied {
    pub(crate) fn open(verification: Verification) -> anyhow::Result<Self> {
        let device = testing::device();
        let setup = Setup {
            device: Device::Proxy,
            key_type: KeyType::EcP256,
            sessions: SESSIONS,
            verification,
            runtime_threads: 1,
        };
        let opened = setup.open()?;
        let bare = opened.bare(SLOTS)?;
        device.set_slots(SLOTS as u32);
        device.set_latency(Function::Sign, Duration::from_millis(2));
        Ok(Self { opened, bare, _device: device })
    }
}

fn median(times: Vec<Duration>) -> Duration {
    percentile(times, 50)
}

pub(crate) fn percentile(mut times: Vec<Duration>, percent: usize) -> Duration {
    times.sort_unstable();
    times.get(times.len() * percent / 100).copied().unwrap_or_default()
}

fn urgency() -> Urgency {
    Urgency::within(Priority::New, Duration::from_secs(10), Instant::now())
}
