//! Lies about attributes of private keys, for what the real module cannot make.

use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicU32, AtomicU64};

use cryptoki_sys::CK_ATTRIBUTE_TYPE;

/// What is said of an attribute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lie {
    /// The device does not know it: `CKR_ATTRIBUTE_TYPE_INVALID`, length unavailable.
    Hidden,
    /// It is a boolean with this value.
    Boolean(bool),
}

/// A lie in the control block.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct LieCell {
    /// [`FREE`], [`CLAIMED`], or which lie.
    state: AtomicU32,
    attribute: AtomicU64,
}

const FREE: u32 = 0;
const CLAIMED: u32 = 1;
const HIDDEN: u32 = 2;
const FALSE: u32 = 3;
const TRUE: u32 = 4;

impl LieCell {
    pub(crate) const fn new() -> Self {
        Self { state: AtomicU32::new(FREE), attribute: AtomicU64::new(0) }
    }

    /// Sets the lie if the cell is free.
    pub(crate) fn take(&self, attribute: CK_ATTRIBUTE_TYPE, lie: Lie) -> bool {
        if self.state.compare_exchange(FREE, CLAIMED, Acquire, Relaxed).is_err() {
            return false;
        }
        self.attribute.store(attribute, Relaxed);
        let state = match lie {
            Lie::Hidden => HIDDEN,
            Lie::Boolean(false) => FALSE,
            Lie::Boolean(true) => TRUE,
        };
        self.state.store(state, Release);
        true
    }

    pub(crate) fn free(&self) {
        self.state.store(FREE, Release);
    }

    /// The lie and what it is about, if there is one.
    pub(crate) fn get(&self) -> Option<(CK_ATTRIBUTE_TYPE, Lie)> {
        let lie = match self.state.load(Acquire) {
            HIDDEN => Lie::Hidden,
            FALSE => Lie::Boolean(false),
            TRUE => Lie::Boolean(true),
            _ => return None,
        };
        Some((self.attribute.load(Relaxed), lie))
    }
}
