//! Time and waiting: to the nanosecond that was asked for, as far as the kernel can.

use std::cell::Cell;
use std::num::{NonZeroU32, NonZeroU64};
use std::sync::atomic::AtomicU32;

use rustix::thread::futex;
use rustix::time::{ClockId, Timespec, clock_gettime};

const SECOND: u64 = 1_000_000_000;

/// Nanoseconds of `CLOCK_MONOTONIC`, which all processes of a machine share.
pub(crate) fn now() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    // Neither is negative on this clock.
    now.tv_sec.cast_unsigned() * SECOND + now.tv_nsec.cast_unsigned()
}

/// Sleeps until `end` (as [`now`] counts), or until `bell` is rung or no longer shows `seen`. May come
/// back early: the caller looks again. It is an absolute sleep like `clock_nanosleep`, which cannot be woken.
pub(crate) fn sleep(bell: &AtomicU32, seen: u32, end: u64) {
    tighten_timers();
    let end =
        Timespec { tv_sec: (end / SECOND).cast_signed(), tv_nsec: (end % SECOND).cast_signed() };
    // Why it ended does not matter.
    let _ = futex::wait_bitset(bell, futex::Flags::empty(), seen, Some(&end), NonZeroU32::MAX);
}

/// Wakes who sleeps on `bell`, in every process.
pub(crate) fn ring(bell: &AtomicU32) {
    bell.fetch_add(1, std::sync::atomic::Ordering::Release);
    // The kernel takes the number as a signed one.
    let everyone = i32::MAX.cast_unsigned();
    let _ = futex::wake(bell, futex::Flags::empty(), everyone);
}

/// The kernel may end a thread's sleep 50 us late to save wake-ups; this thread's ends on time.
fn tighten_timers() {
    thread_local! {
        static DONE: Cell<bool> = const { Cell::new(false) };
    }
    if !DONE.replace(true) {
        // A kernel that refuses is late; the rates measured say so.
        let _ = rustix::thread::set_current_timer_slack(Some(NonZeroU64::MIN));
    }
}
