//! One run: everything made and connected before the clock starts, then its parts one after another, each
//! with a thread that keeps the pace and one that watches.

use std::io;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use aws_lc_rs::error::Unspecified;
use hdrhistogram::Histogram;
use thiserror::Error;
use tokio::runtime::{Builder, Runtime};

use crate::asks::{AskError, Asks};
use crate::calibration::Calibration;
use crate::check::{Bundle, Checker, CheckerBroken};
use crate::course::{Course, Watcher, Window};
use crate::ledger::{Ledger, record, spans};
use crate::pace::{self, MonotonicTime};
use crate::plan::{Plan, TargetPlan};
use crate::report::{Calibrations, KneeReport, Measured, Report, Step};
use crate::shape::{Knee, Schedule, Search, Shape};
use crate::target::local::{Empty, Stall};
use crate::target::signer::{Server as SignerServer, SignerError};
use crate::target::spire::{ConnectError, Server};
use crate::target::{Item, Target};
use crate::usage::Process;

/// Why a run gives no report.
#[derive(Debug, Error)]
pub enum RunError {
    /// The operating system gives no threads.
    #[error("cannot start: {0}; close other programs, or raise the limit on threads")]
    Threads(#[source] io::Error),
    /// There is nobody to ask.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// Nor any signer.
    #[error(transparent)]
    Signer(#[from] SignerError),
    /// There is nothing to ask with.
    #[error(transparent)]
    Asks(#[from] AskError),
    /// Answers cannot be checked any more.
    #[error(transparent)]
    Checks(#[from] CheckerBroken),
    /// The cryptography library does not work.
    #[error("cannot calibrate: AWS-LC does not sign on this machine")]
    Calibration(#[from] Unspecified),
}

/// What a run is doing, for whoever looks on.
#[derive(Debug)]
pub enum Glance<'a> {
    /// A part begins, which is described and will send for so long.
    Begins(&'a str, Duration),
    /// A window of it is over.
    Window(&'a Window),
    /// Answers that wait for their check are checked.
    Checks,
}

/// Does what `plan` says and reports. Blocks; `look` is called from several threads, one at a time.
pub fn run(plan: &Plan, look: &(dyn Fn(Glance<'_>) + Sync)) -> Result<Report, RunError> {
    let runtime = Builder::new_multi_thread().enable_all().build().map_err(RunError::Threads)?;
    let session = Session::prepare(plan, &runtime, look)?;
    let before = Calibration::measure()?;
    if !plan.warm_up.is_zero() {
        session.part("warm-up", session.warm_up())?;
    }
    let (knee, part) = session.measure()?;
    let after = Calibration::measure()?;
    let checks = session.checker.as_ref().map(|checker| checker.findings());
    Ok(Report::new(plan, knee, part, checks, Calibrations { before, after }))
}

/// What all parts of a run have in common.
struct Session<'a> {
    plan: &'a Plan,
    asks: Arc<Asks>,
    target: Box<dyn Target>,
    checker: Option<Arc<Checker>>,
    server: Option<Process>,
    look: &'a (dyn Fn(Glance<'_>) + Sync),
}

/// How the requests of a part are sent.
#[derive(Debug, Clone, Copy)]
enum Drive {
    Open(Schedule),
    Closed { duration: Duration },
}

impl<'a> Session<'a> {
    /// Connects first: a server that cannot be reached is told before any key is made.
    fn prepare(
        plan: &'a Plan,
        runtime: &Runtime,
        look: &'a (dyn Fn(Glance<'_>) + Sync),
    ) -> Result<Self, RunError> {
        let checked = plan.check_share > 0.0;
        let (target, asks, checker): (Box<dyn Target>, _, _) = match &plan.target {
            TargetPlan::Spire { socket, connections, .. } => {
                let server = runtime.block_on(Server::connect(socket, *connections))?;
                let bundle = checked.then(|| runtime.block_on(server.bundle())).transpose()?;
                let asks = Arc::new(Asks::make(plan)?);
                let checker = checker(plan, bundle, &asks)?;
                let handle = runtime.handle().clone();
                let target = server.ready(asks.clone(), plan.answer_within, handle);
                (Box::new(target), asks, checker)
            }
            TargetPlan::Signer { .. } => {
                let server = runtime.block_on(SignerServer::connect(plan))?;
                let bundle = checked.then(|| runtime.block_on(server.bundle())).transpose()?;
                let asks = Arc::new(Asks::make(plan)?);
                let checker = checker(plan, bundle, &asks)?;
                let target = runtime.block_on(server.ready(plan, &asks))?;
                (Box::new(target), asks, checker)
            }
            TargetPlan::Empty => (Box::new(Empty), Arc::new(Asks::make(plan)?), None),
            TargetPlan::Stall { every, stall } => {
                let asks = Arc::new(Asks::make(plan)?);
                let waiting = plan.max_in_flight as usize;
                let target = Stall::start(*every, *stall, waiting).map_err(RunError::Threads)?;
                (Box::new(target), asks, None)
            }
        };
        let server = plan.target.server_pid().or_else(|| target.server()).map(Process::of);
        Ok(Self { plan, asks, target, checker, server, look })
    }

    fn warm_up(&self) -> Drive {
        let duration = self.plan.warm_up;
        match self.plan.shape {
            Shape::Constant { rate: from, batch, .. }
            | Shape::Ramp { from, batch, .. }
            | Shape::Knee(Knee { from, batch, .. }) => {
                Drive::Open(Schedule::even(from, batch, duration))
            }
            Shape::Closed { .. } => Drive::Closed { duration },
        }
    }

    /// The part whose figures are the run's, after whatever has to come before it.
    fn measure(&self) -> Result<(Option<KneeReport>, Part), RunError> {
        let drive = match self.plan.shape {
            Shape::Constant { rate, batch, duration } => {
                Drive::Open(Schedule::even(rate, batch, duration))
            }
            Shape::Ramp { from, to, batch, duration } => {
                Drive::Open(Schedule::new(from, to, batch, duration))
            }
            Shape::Closed { duration, .. } => Drive::Closed { duration },
            Shape::Knee(knee) => {
                let found = self.search(knee)?;
                let half = (found.knee.unwrap_or(knee.from) / 2).max(1);
                let schedule = Schedule::even(half, knee.batch, knee.duration);
                let part =
                    self.part(&format!("half of the knee, {half}/s"), Drive::Open(schedule))?;
                return Ok((Some(found), part));
            }
        };
        Ok((None, self.part("measurement", drive)?))
    }

    fn search(&self, knee: Knee) -> Result<KneeReport, RunError> {
        let (mut search, mut steps) = (Search::new(knee), Vec::new());
        while let Some(rate) = search.next() {
            let schedule = Schedule::even(rate, knee.batch, knee.step);
            let part = self.part(&format!("step at {rate}/s"), Drive::Open(schedule))?;
            let step = Step::judge(rate, Measured::of(&part), &knee);
            search.tried(step.verdict());
            steps.push(step);
        }
        Ok(KneeReport {
            knee: search.knee(),
            bounded: search.is_bounded(),
            generator_limit: search.generator_limit(),
            steps,
        })
    }

    /// Sends what `drive` says, until the last answer is there and checked.
    fn part(&self, name: &str, drive: Drive) -> Result<Part, RunError> {
        let most = self.plan.most_in_flight();
        let planned = match drive {
            Drive::Open(schedule) => schedule.duration(),
            Drive::Closed { duration } => duration,
        };
        (self.look)(Glance::Begins(name, planned));
        let ledger = Arc::new(Ledger::new(Instant::now(), most.into(), self.checker.clone()));
        let watcher = Watcher {
            ledger: &ledger,
            window: self.plan.window.unwrap_or_else(|| window(planned)),
            checker: self.checker.as_ref(),
            server: self.server.as_ref(),
        };
        let (course, lateness) = thread::scope(|scope| {
            let (lasting, over) = mpsc::channel();
            let watching = scope
                .spawn(move || watcher.watch(&over, |window| (self.look)(Glance::Window(window))));
            let sending = scope.spawn(|| self.send(drive, &ledger));
            let lateness = sending.join().expect(THREADS);
            ledger.settle(planned + self.plan.answer_within + GRACE);
            drop(lasting);
            (watching.join().expect(THREADS), lateness)
        });
        if let Some(checker) = &self.checker {
            (self.look)(Glance::Checks);
            checker.settle()?;
        }
        Ok(Part { counts: ledger.counts(), course, lateness, planned })
    }

    /// Keeps the pace on this thread; returns how late items left, where they had a time.
    fn send(&self, drive: Drive, ledger: &Arc<Ledger>) -> Option<Histogram<u64>> {
        match drive {
            Drive::Open(schedule) => Some(self.send_on_time(&schedule, ledger)),
            Drive::Closed { duration } => {
                self.send_in_turn(duration, ledger);
                None
            }
        }
    }

    fn send_on_time(&self, schedule: &Schedule, ledger: &Arc<Ledger>) -> Histogram<u64> {
        let mut lateness = spans();
        let mut time = MonotonicTime::on_this_thread(ledger.instant(Duration::ZERO));
        pace::keep(schedule, self.asks.count(), &mut time, |items, now| {
            for item in items {
                record(&mut lateness, now.saturating_sub(item.intended));
            }
            match ledger.offer(items.len()) {
                0 => {}
                sent => self.target.send(&items[..sent], ledger),
            }
        });
        lateness
    }

    /// Callers that have their answer ask again at once: the intended time of a request is when it leaves.
    fn send_in_turn(&self, duration: Duration, ledger: &Arc<Ledger>) {
        let asks = u64::from(self.asks.count());
        let (mut items, mut next) = (Vec::new(), 0);
        loop {
            let free = ledger.wait_for_callers(duration);
            let intended = ledger.now();
            if intended >= duration {
                return;
            }
            items.clear();
            items.extend((next..next + free as u64).map(|index| Item {
                index,
                ask: u32::try_from(index % asks).expect("a place is below a length"),
                intended,
            }));
            next += ledger.offer(free) as u64;
            self.target.send(&items, ledger);
        }
    }
}

fn checker(
    plan: &Plan,
    bundle: Option<Bundle>,
    asks: &Arc<Asks>,
) -> Result<Option<Arc<Checker>>, RunError> {
    let start = |bundle| Checker::start(plan.check_share, bundle, Arc::clone(asks));
    let checker = bundle.map(start).transpose().map_err(RunError::Threads)?;
    Ok(checker.map(Arc::new))
}

/// How long after its time an answer is waited for beyond what a target waits itself.
const GRACE: Duration = Duration::from_secs(1);
const THREADS: &str = "a thread of a run does not panic";

/// How long a window lasts: a second; less in a short part, more in one that has thousands.
fn window(planned: Duration) -> Duration {
    const MOST: u32 = 3_600;
    const LEAST: u32 = 20;
    let second = Duration::from_secs(1);
    (planned / LEAST).max(Duration::from_millis(50)).min(second).max(planned / MOST)
}

/// A part of a run that is over.
#[derive(Debug)]
pub struct Part {
    /// What was sent.
    pub counts: crate::ledger::Counts,
    /// What came back, and when.
    pub course: Course,
    /// How late items left; not known of a closed loop, in which they have no time.
    pub lateness: Option<Histogram<u64>>,
    /// How long requests were to be sent.
    pub planned: Duration,
}
