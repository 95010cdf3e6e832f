//! Targets in this process, which cost nothing: what the generator itself can do, and what each kind of
//! loop makes of a server that stalls.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use super::{Fault, Item, Svid, Target};
use crate::ledger::Ledger;

/// Answers at once, where it is asked.
#[derive(Debug)]
pub struct Empty;

impl Target for Empty {
    fn send(&self, items: &[Item], ledger: &Arc<Ledger>) {
        ledger.deliver(items.iter().map(|item| (*item, Ok(Svid::Nothing))));
    }
}

/// Answers at once, but for a regular stall, in which everything waits for its end.
#[derive(Debug)]
pub struct Stall {
    batches: SyncSender<Batch>,
}

type Batch = (Vec<Item>, Arc<Ledger>);

impl Stall {
    /// Stalls for `stall` at the end of each `every`, from now on. At most `waiting` batches wait.
    pub fn start(every: Duration, stall: Duration, waiting: usize) -> io::Result<Self> {
        let (batches, asked) = sync_channel(waiting);
        let start = Instant::now();
        // Ends with its target: the channel closes.
        thread::Builder::new().name("stall".to_owned()).spawn(move || {
            serve(&asked, || wait_out(start.elapsed(), every, stall));
        })?;
        Ok(Self { batches })
    }
}

impl Target for Stall {
    fn send(&self, items: &[Item], ledger: &Arc<Ledger>) {
        if self.batches.try_send((items.to_vec(), ledger.clone())).is_err() {
            let full = || Fault { code: "RESOURCE_EXHAUSTED", message: "too many wait".to_owned() };
            ledger.deliver(items.iter().map(|item| (*item, Err(full()))));
        }
    }
}

fn serve(asked: &Receiver<Batch>, wait: impl Fn()) {
    for (items, ledger) in asked {
        wait();
        ledger.deliver(items.into_iter().map(|item| (item, Ok(Svid::Nothing))));
    }
}

fn wait_out(now: Duration, every: Duration, stall: Duration) {
    let into = now.as_nanos() % every.as_nanos();
    if into >= (every - stall).as_nanos() {
        let left = u64::try_from(every.as_nanos() - into).expect("a plan is shorter than a day");
        thread::sleep(Duration::from_nanos(left));
    }
}
