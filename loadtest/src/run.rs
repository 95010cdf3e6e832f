//! One run: a thread that keeps the pace, a runtime on which requests wait for their answers.

use std::io;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use thiserror::Error;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::client::{ClientError, Fault, MintClient};
use crate::pace::{Departure, MonotonicTime};
use crate::plan::Plan;
use crate::report::{Answers, Departures, Report};

/// How long after its intended time a request may be answered. Longer than a server of ours lets a mint
/// last, so that its own word on the matter comes first.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// Why a run gives no report.
#[derive(Debug, Error)]
pub enum RunError {
    /// The operating system gives no threads.
    #[error("cannot start: {0}; close other programs, or raise the limit on threads")]
    Runtime(#[source] io::Error),
    /// There is nobody to ask, or nothing to ask with.
    #[error(transparent)]
    Client(#[from] ClientError),
}

impl RunError {
    /// Whether no server could be reached.
    #[must_use]
    pub fn is_unreachable(&self) -> bool {
        matches!(self, Self::Client(ClientError::Unreachable { .. }))
    }
}

/// Does what `plan` says and reports. Blocks: the calling thread keeps the pace.
pub fn run(plan: &Plan) -> Result<Report, RunError> {
    let runtime = Builder::new_multi_thread().enable_all().build().map_err(RunError::Runtime)?;
    let client = runtime.block_on(MintClient::connect(plan))?;
    let run = Arc::new(Run {
        client,
        start: Instant::now(),
        slots: Arc::new(Semaphore::new(plan.max_in_flight as usize)),
        answers: Mutex::new(Answers::new()),
    });
    let departures = run.send(plan, &runtime);
    // Whoever holds every slot knows that no request is under way.
    let _all = runtime
        .block_on(run.slots.acquire_many(plan.max_in_flight))
        .expect("the semaphore is never closed");
    let answers = run.answers.lock().expect(RECORDING);
    Ok(Report::new(plan, &departures, &answers))
}

/// What the requests of a run share.
struct Run {
    client: MintClient,
    start: Instant,
    /// One for each request that may be under way.
    slots: Arc<Semaphore>,
    answers: Mutex<Answers>,
}

const RECORDING: &str = "recording an answer does not panic";

impl Run {
    /// Sends what there is a slot for, each at its time, and returns when the last has left.
    fn send(self: &Arc<Self>, plan: &Plan, runtime: &Runtime) -> Departures {
        let mut departures = Departures::new();
        let mut time = MonotonicTime::on_this_thread(self.start);
        plan.schedule().keep(&mut time, |departure| {
            let slot = self.slots.clone().try_acquire_owned().ok();
            departures.record(&departure, slot.is_some());
            if let Some(slot) = slot {
                runtime.spawn(self.clone().ask(departure, slot));
            }
        });
        departures
    }

    /// Sends one request, waits for its answer and records it.
    async fn ask(self: Arc<Self>, departure: Departure, slot: OwnedSemaphorePermit) {
        let deadline = self.start + departure.intended + ANSWER_TIMEOUT;
        let asking = self.client.mint(departure.index);
        let outcome = tokio::time::timeout_at(deadline.into(), asking)
            .await
            .unwrap_or_else(|_| Err(Fault::unanswered(ANSWER_TIMEOUT)));
        let now = self.start.elapsed();
        self.answers.lock().expect(RECORDING).record(departure.intended, now, outcome);
        drop(slot);
    }
}
