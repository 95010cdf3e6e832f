//! The slots of the device: how many calls it works on at once, and for how long each.
//!
//! A call learns on arrival when it will end, as a queue with that many servers would serve it, and
//! sleeps once. Nobody hands a slot over, so waking late delays one caller and never the queue: with more
//! callers than slots the rate is slots by latency. With just as many, each slot also waits for its caller to
//! wake up and come again, which takes some 0.05 to 0.1 ms.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::{Mutex, PoisonError};

use crate::block::Block;
use crate::{Function, wait};

/// The queue of this process.
#[derive(Debug, Default)]
pub(crate) struct Slots(Mutex<Plan>);

#[derive(Debug, Default)]
struct Plan {
    /// The setting that `free` was made for.
    setting: u32,
    /// When each slot is free again.
    free: BinaryHeap<Reverse<u64>>,
}

/// A call's time in a slot.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Turn {
    setting: u32,
    start: u64,
    end: u64,
}

impl Slots {
    /// The next slot, if the function takes time at all.
    pub(crate) fn book(&self, block: &Block, function: Function) -> Option<Turn> {
        let latency = block.latency(function);
        if latency == 0 {
            return None;
        }
        let mut plan = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        plan.follow(block);
        let (setting, now) = (plan.setting, wait::now());
        let Some(mut free) = plan.free.peek_mut() else {
            // As many as come.
            return Some(Turn { setting, start: now, end: now.saturating_add(latency) });
        };
        let start = now.max(free.0);
        let end = start.saturating_add(latency);
        *free = Reverse(end);
        Some(Turn { setting, start, end })
    }

    /// Sleeps until the turn has ended. Whoever still waits for a slot when the setting changes takes
    /// a turn under the new one.
    pub(crate) fn wait(&self, block: &Block, function: Function, booked: Option<Turn>) {
        let mut turn = booked;
        while let Some(Turn { setting, start, end }) = turn {
            let (seen, now) = (block.bell(), wait::now());
            if now >= end {
                return;
            }
            if block.setting() != setting && now < start {
                turn = self.book(block, function);
                continue;
            }
            wait::sleep(block.bell_word(), seen, end);
        }
    }
}

impl Plan {
    /// Starts anew, with every slot free, when the setting has changed.
    fn follow(&mut self, block: &Block) {
        let setting = block.setting();
        if self.setting != setting {
            self.setting = setting;
            self.free = (0..block.slots()).map(|_| Reverse(0)).collect();
        }
    }
}
