//! What SoftHSM itself shows when its files are held or taken away, each in a process of its own: nobody
//! else may be using the library when the store has it initialised anew.

use std::ffi::OsString;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ca_core::key::{KeyStore, SignError, SigningKey, StoreHealth};
use keymanager::pkcs11::Settings;
use rustix::fs::{FlockOperation, fcntl_lock};
use softhsm::Token;

use crate::bench::{Figures, LONG, Opened, is_alone, name, pin, settings, sign, signers, tell};
use crate::load::{Load, Margin, SLACK, Tally};
use crate::log;
use crate::soak::{random_below, signatures};

/// A store on SoftHSM, without the proxy.
struct Bare {
    token: Token,
    figures: Figures,
}

impl Bare {
    fn new() -> Self {
        let token = Token::fresh();
        log::start(&pin(&token));
        Self { token, figures: Figures::new() }
    }

    async fn open(&self, stall_limit: Duration) -> Opened {
        let settings = settings(self.token.module().to_owned(), &self.token, &self.figures);
        let opened = Opened::of(Settings { stall_limit, ..settings }).await;
        opened.warm_up(4).await;
        opened
    }

    /// Its only token's directory.
    fn directory(&self) -> PathBuf {
        let tokens = self.token.configuration().with_file_name("tokens");
        let mut found = std::fs::read_dir(tokens).unwrap();
        found.next().unwrap().unwrap().path()
    }

    /// Takes the token away for a time.
    fn remove(&self, time: Duration) {
        let (here, away) = (self.directory(), self.token.configuration().with_file_name("away"));
        std::fs::rename(&here, &away).unwrap();
        std::thread::sleep(time);
        std::fs::rename(&away, &here).unwrap();
    }

    /// Has another process hold the token's lock for a time, from when this returns.
    fn hold(&self, test: &str, time: Duration) -> Child {
        let started = self.token.configuration().with_file_name("held");
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", test, "--nocapture"])
            .env(HOLD, self.directory().join("generation"))
            .env(HOLD_TIME, time.as_millis().to_string())
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let end = Instant::now() + LONG;
        while std::fs::remove_file(&started).is_err() {
            assert!(Instant::now() < end, "nobody holds the lock");
            std::thread::sleep(Duration::from_millis(1));
        }
        child
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            assert_eq!(log::leak(), None, "the PIN was logged");
        }
    }
}

const HOLD: &str = "FAULT_TEST_HOLD";
const HOLD_TIME: &str = "FAULT_TEST_HOLD_MILLISECONDS";

/// Whether this process was started to hold a lock, which it then has done.
fn was_holder() -> bool {
    let (Some(path), Ok(time)) = (std::env::var_os(HOLD), std::env::var(HOLD_TIME)) else {
        return false;
    };
    hold_lock(&path, Duration::from_millis(time.parse().unwrap()));
    true
}

fn hold_lock(path: &OsString, time: Duration) {
    let path = Path::new(path);
    let file = File::options().read(true).write(true).open(path).unwrap();
    fcntl_lock(&file, FlockOperation::LockExclusive).unwrap();
    // Beside the tokens' directory.
    let home = path.ancestors().nth(3).unwrap();
    File::create(home.join("held")).unwrap();
    std::thread::sleep(time);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_that_another_process_holds_costs_no_caller_more_than_its_deadline() {
    const NAME: &str =
        "alone::a_lock_that_another_process_holds_costs_no_caller_more_than_its_deadline";
    if was_holder() || !is_alone(NAME) {
        return;
    }
    let bare = Bare::new();
    let opened = bare.open(Duration::from_secs(20)).await;
    let margin = Margin::measure();
    let mut holder = bare.hold(NAME, Duration::from_millis(700));
    let urgency = crate::bench::within(Duration::from_millis(200));
    let error = opened.key.sign(crate::bench::probe(&*opened.key), urgency).await.unwrap_err();
    let overrun = urgency.deadline.elapsed();
    assert!(matches!(error, SignError::Late { .. }), "{error}");
    let patient = opened.sign(LONG).await;
    assert!(patient.is_ok(), "{patient:?}");
    assert!(overrun <= margin.end().await + SLACK, "{overrun:?}");
    assert!(holder.wait().unwrap().success());
    opened.signs().await;
    assert_eq!((opened.health(), signers(&bare.token)), (StoreHealth::Good, 4));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_whose_files_go_and_come_back_signs_again_each_time() {
    if !is_alone("alone::a_token_whose_files_go_and_come_back_signs_again_each_time") {
        return;
    }
    let bare = Bare::new();
    let opened = bare.open(Duration::from_secs(20)).await;
    for _ in 0..6 {
        let signing = sign(&*opened.key, LONG);
        let removal =
            async { tokio::task::block_in_place(|| bare.remove(Duration::from_millis(150))) };
        let (answer, ()) = tokio::join!(signing, removal);
        answer.unwrap();
        opened.signs().await;
        assert_eq!(opened.store.list().await.unwrap(), [name("x509/1")]);
    }
    assert_eq!(opened.health(), StoreHealth::Good);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_another_process_makes_is_seen_without_a_restart() {
    if !is_alone("alone::a_key_that_another_process_makes_is_seen_without_a_restart") {
        return;
    }
    let bare = Bare::new();
    let opened = bare.open(Duration::from_secs(20)).await;
    let made = make_key(&bare.token, "x509/2");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    assert_eq!(opened.store.list().await.unwrap(), [name("x509/1"), name("x509/2")]);
    opened.signs().await;
}

/// Another program makes a key.
fn make_key(token: &Token, text: &str) -> Output {
    let label = name(text).to_string();
    Command::new("pkcs11-tool")
        .env("SOFTHSM2_CONF", token.configuration())
        .arg("--module")
        .arg(token.module())
        .args(["--token-label", token.label(), "--login", "--pin", &pin(token)])
        .args(["--keypairgen", "--key-type", "EC:prime256v1", "--label", &label, "--id", "77"])
        .output()
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn among_random_faults_of_soft_hsm_nothing_wrong_is_released_and_no_answer_is_lost() {
    const NAME: &str =
        "alone::among_random_faults_of_soft_hsm_nothing_wrong_is_released_and_no_answer_is_lost";
    if was_holder() || !is_alone(NAME) {
        return;
    }
    let bare = Bare::new();
    let opened = bare.open(Duration::from_secs(20)).await;
    let (before, wanted) = (Tally::counted(&bare.figures), signatures());
    let (margin, started) = (Margin::measure(), Instant::now());
    let keys: Vec<Arc<dyn SigningKey>> = vec![Arc::clone(&opened.key)];
    let load = Load { keys, callers: 32, patience: Duration::from_millis(900) };
    let done = AtomicBool::new(false);
    let (tally, disturbances) = std::thread::scope(|scope| {
        let disturbing = scope.spawn(|| {
            let mut disturbances = 0;
            while !done.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(random_below(100)));
                disturbances += 1;
                let time = Duration::from_millis(random_below(100));
                match disturbances % 8 {
                    1 => bare.remove(time),
                    // SoftHSM trips over itself now and then when two processes start together.
                    3 => drop(make_key(&bare.token, &format!("jwt/{disturbances}"))),
                    _ => drop(bare.hold(NAME, time).wait()),
                }
            }
            disturbances
        });
        let tally = tokio::task::block_in_place(|| {
            let runtime = tokio::runtime::Handle::current();
            runtime.block_on(load.run(move |signed| signed >= wanted))
        });
        done.store(true, Ordering::Relaxed);
        (tally, disturbing.join().unwrap())
    });
    let (took, margin) = (started.elapsed(), margin.end().await);
    tell(&format!("random faults of SoftHSM: {} in {took:.1?}", tally.summary()));
    tell(&format!(
        "random faults of SoftHSM: {disturbances} disturbances, generation {}, {} tries again; the machine \
         wakes a task {margin:?} late at worst",
        bare.figures.generation(),
        bare.figures.sum("retries_total", &[]),
    ));
    tally
        .reasons
        .iter()
        .for_each(|reason| tell(&format!("random faults of SoftHSM: told: {reason}")));
    tally.check(&before, &bare.figures);
    assert!(tally.overrun <= margin + SLACK, "{:?} past a deadline, {margin:?}", tally.overrun);
    opened.signs().await;
    assert_eq!((opened.health(), signers(&bare.token)), (StoreHealth::Good, 4));
}

/// Two tokens of one library, of which one goes: each new initialisation costs the other its sessions.
#[tokio::test(flavor = "multi_thread")]
async fn a_store_whose_token_is_away_lets_another_on_the_same_library_work() {
    if !is_alone("alone::a_store_whose_token_is_away_lets_another_on_the_same_library_work") {
        return;
    }
    let (bare, figures) = (Bare::new(), Figures::new());
    let directory = bare.directory();
    let opened = bare.open(Duration::from_secs(20)).await;
    let token = Token::fresh();
    let other = Opened::of(settings(token.module().to_owned(), &token, &figures)).await;
    other.warm_up(4).await;
    let away = bare.token.configuration().with_file_name("away");
    std::fs::rename(&directory, &away).unwrap();
    let started = Instant::now();
    let key = Arc::clone(&opened.key);
    let late = tokio::spawn(async move { sign(&*key, Duration::from_secs(1)).await });
    while started.elapsed() < Duration::from_secs(5) {
        other.signs().await;
    }
    let error = late.await.unwrap().unwrap_err();
    assert!(matches!(error, SignError::Late { .. }), "{error}");
    // At once, and after 1 s and 2 s more; a try every half a second would be ten.
    let times = figures.generation() - 1;
    assert!((1..=4).contains(&times), "initialised anew {times} times");
    assert!(matches!(opened.health(), StoreHealth::Ailing(_)), "{:?}", opened.health());
    assert_eq!(figures.sum("errors_total", &[]), 0, "nothing of the other has failed");
    std::fs::rename(&away, &directory).unwrap();
    opened.signs().await;
    other.signs().await;
}
