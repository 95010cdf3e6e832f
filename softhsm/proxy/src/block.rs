//! The control block: numbers in a file that the module and the tests have mapped.

#![expect(unsafe_code, reason = "maps a file and reads it as a block of atomics; see `Mapping`")]

use std::fs::File;
use std::ops::Deref;
use std::ptr::{self, NonNull};
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicU32, AtomicU64};

use cryptoki_sys::{CK_MECHANISM_TYPE, CK_RV, CKR_DEVICE_REMOVED};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

use crate::lie::LieCell;
use crate::rule::{RuleCell, Verdict, mixed};
use crate::{Function, wait};

/// How many rules there may be at once.
pub(crate) const RULES: usize = 16;
/// How many lies there may be at once, and how many hidden mechanisms.
pub(crate) const LIES: usize = 8;
/// More slots than any device has; more are as good as no limit.
pub(crate) const MOST_SLOTS: u32 = 4096;

/// What a file of this layout begins with. The size is in it, as a module of another build may differ.
pub(crate) const MARK: u64 = 0x4d4d_5058_0000_0000 | size_of::<Block>() as u64;

/// Everything that can be set and read. All zero is a device without faults.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Block {
    /// [`MARK`].
    pub(crate) mark: AtomicU64,
    /// Counts what may change a sleeper's mind; sleepers wait on it.
    pub(crate) bell: AtomicU32,
    /// Counts the changes of slots and latencies.
    pub(crate) setting: AtomicU32,
    pub(crate) slots: AtomicU32,
    /// Calls that a rule holds now.
    pub(crate) hanging: Gauge,
    /// Counts the releases of held calls.
    pub(crate) releases: AtomicU64,
    pub(crate) seed: AtomicU64,
    /// Most sessions at once; 0 for no limit.
    pub(crate) session_limit: AtomicU64,
    pub(crate) sessions: Gauge,
    /// Calls inside `C_Sign` with a buffer.
    pub(crate) signing: Gauge,
    /// Calls with a session of before the last start of the library.
    pub(crate) strays: AtomicU64,
    /// Counts the removals of the device.
    pub(crate) removals: AtomicU64,
    /// Away until then, as [`wait::now`] counts.
    pub(crate) away_until: AtomicU64,
    /// What a device that is away answers; 0 for `CKR_DEVICE_REMOVED`.
    pub(crate) away_code: AtomicU64,
    /// Not 0: a device that came back works after a new `C_Initialize` only.
    pub(crate) needs_initialize: AtomicU32,
    /// Each as the type + 1; 0 for none.
    pub(crate) hidden_mechanisms: [AtomicU64; LIES],
    pub(crate) lies: [LieCell; LIES],
    pub(crate) rules: [RuleCell; RULES],
    /// Nanoseconds by function.
    pub(crate) latencies: [AtomicU64; Function::COUNT],
    pub(crate) calls: [AtomicU64; Function::COUNT],
}

impl Block {
    pub(crate) const fn new() -> Self {
        Self {
            mark: AtomicU64::new(0),
            bell: AtomicU32::new(0),
            setting: AtomicU32::new(0),
            slots: AtomicU32::new(0),
            hanging: Gauge::new(),
            releases: AtomicU64::new(0),
            seed: AtomicU64::new(0),
            session_limit: AtomicU64::new(0),
            sessions: Gauge::new(),
            signing: Gauge::new(),
            strays: AtomicU64::new(0),
            removals: AtomicU64::new(0),
            away_until: AtomicU64::new(0),
            away_code: AtomicU64::new(0),
            needs_initialize: AtomicU32::new(0),
            hidden_mechanisms: [const { AtomicU64::new(0) }; LIES],
            lies: [const { LieCell::new() }; LIES],
            rules: [const { RuleCell::new() }; RULES],
            latencies: [const { AtomicU64::new(0) }; Function::COUNT],
            calls: [const { AtomicU64::new(0) }; Function::COUNT],
        }
    }

    /// Counts a call; what the rules say of it.
    pub(crate) fn arrive(&self, function: Function) -> Option<Verdict> {
        self.calls[function.index()].fetch_add(1, Relaxed);
        let seed = self.seed.load(Relaxed);
        let mut verdict = None;
        for (place, rule) in (0..).zip(&self.rules) {
            let said = rule.judge(function, mixed(seed ^ place));
            verdict = verdict.or(said);
        }
        verdict
    }

    pub(crate) fn latency(&self, function: Function) -> u64 {
        self.latencies[function.index()].load(Relaxed)
    }

    pub(crate) fn slots(&self) -> u32 {
        self.slots.load(Relaxed).min(MOST_SLOTS)
    }

    pub(crate) fn setting(&self) -> u32 {
        self.setting.load(Acquire)
    }

    pub(crate) fn bell(&self) -> u32 {
        self.bell.load(Acquire)
    }

    pub(crate) fn bell_word(&self) -> &AtomicU32 {
        &self.bell
    }

    pub(crate) fn removals(&self) -> u64 {
        self.removals.load(Acquire)
    }

    /// What a device that is away answers now, or would answer.
    pub(crate) fn away_code(&self) -> CK_RV {
        match self.away_code.load(Relaxed) {
            0 => CKR_DEVICE_REMOVED,
            code => code,
        }
    }

    pub(crate) fn is_away(&self) -> bool {
        let until = self.away_until.load(Acquire);
        until != 0 && wait::now() < until
    }

    pub(crate) fn hides_mechanism(&self, mechanism: CK_MECHANISM_TYPE) -> bool {
        self.hidden_mechanisms
            .iter()
            .any(|hidden| hidden.load(Relaxed) == mechanism.wrapping_add(1))
    }

    /// Waits as [`Effect::Hang`](crate::Effect::Hang) says.
    pub(crate) fn hang(&self, nanoseconds: u64) {
        let end = wait::now().saturating_add(nanoseconds);
        // Read before the call shows as held: who releases it after having seen it must be seen here.
        let releases = self.releases.load(Acquire);
        self.hanging.enter(0);
        loop {
            let seen = self.bell();
            if self.releases.load(Acquire) != releases || wait::now() >= end {
                break;
            }
            wait::sleep(&self.bell, seen, end);
        }
        self.hanging.leave();
    }
}

/// How many there are now, and how many there were at most.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Gauge {
    now: AtomicU64,
    most: AtomicU64,
}

impl Gauge {
    const fn new() -> Self {
        Self { now: AtomicU64::new(0), most: AtomicU64::new(0) }
    }

    pub(crate) fn now(&self) -> u64 {
        self.now.load(Acquire)
    }

    pub(crate) fn most(&self) -> u64 {
        self.most.load(Acquire)
    }

    /// One more, unless that is more than `limit` (0 for none).
    pub(crate) fn enter(&self, limit: u64) -> bool {
        let more = |now| (limit == 0 || now < limit).then_some(now + 1);
        let Ok(before) = self.now.fetch_update(Release, Relaxed, more) else { return false };
        self.most.fetch_max(before + 1, Release);
        true
    }

    pub(crate) fn leave(&self) {
        // Two processes on one file may have cleared each other's.
        let _ = self.now.fetch_update(Release, Relaxed, |now| now.checked_sub(1));
    }

    pub(crate) fn clear(&self) {
        self.now.store(0, Release);
    }

    /// Forgets the past.
    pub(crate) fn restart(&self) {
        self.most.store(self.now(), Release);
    }
}

/// A control file in memory.
#[derive(Debug)]
pub(crate) struct Mapping(NonNull<Block>);

// SAFETY: a block is atomics alone, which threads may share, and it belongs to no thread.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps a file that is as long as a block. It must not be cut short while it is mapped.
    pub(crate) fn of(file: &File) -> std::io::Result<Self> {
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: the kernel chooses the place, so no memory of ours is replaced.
        let memory = unsafe {
            mmap(ptr::null_mut(), size_of::<Block>(), access, MapFlags::SHARED, file, 0)
        }?;
        let block = NonNull::new(memory.cast::<Block>());
        block.map(Self).ok_or_else(|| std::io::Error::other("mapped at address 0"))
    }
}

impl Deref for Mapping {
    type Target = Block;

    fn deref(&self) -> &Block {
        // SAFETY: the memory is mapped until the drop, as long as a block and aligned to a page; any
        // bits are a valid `Block`, and others change them as atomics alone.
        unsafe { self.0.as_ref() }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: `of` mapped exactly this, and references into it have ended with the borrow of self.
        // A failure leaves it mapped, which harms nobody.
        let _ = unsafe { munmap(self.0.as_ptr().cast(), size_of::<Block>()) };
    }
}
