//! Keeps what is in this process's memory, keys and PINs among it, out of core dumps, swap and other
//! processes of the same user.
//!
//! It is the whole process that is guarded and not single pages: a key that signs lies in the heap of the
//! cryptography library, and in a token's library lies what that keeps of a PIN. What is left is in
//! `docs/security.md`.

use std::fmt;
use std::hint::black_box;

use rustix::io::Errno;
use rustix::mm::{MlockAllFlags, mlockall, munlockall};
use rustix::process::{
    DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit,
};

/// Guards the memory of this process, as far as the system permits. To be called before any key or PIN
/// is read, while the process has one thread; a second call changes nothing.
///
/// Afterwards only root can attach to the process or read its memory (`PR_SET_DUMPABLE`, prctl(2)), it
/// leaves no core dump, and, if that is permitted, none of its pages is ever swapped out.
#[must_use]
pub fn guard_process() -> Protection {
    let gaps = [
        hide().err().map(Gap::Readable),
        forbid_core_files().err().map(Gap::CoreFiles),
        lock().err().map(Gap::Swappable),
    ];
    Protection { gaps: gaps.into_iter().flatten().collect() }
}

/// How far the memory of this process is guarded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Protection {
    gaps: Vec<Gap>,
}

/// What the memory is not guarded against, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Gap {
    /// Other processes of the same user may read it, and it may be dumped.
    Readable(String),
    /// A crash may leave a file with all that is in it.
    CoreFiles(String),
    /// It may be swapped out to a disk.
    Swappable(String),
}

impl Protection {
    /// What is missing; empty if nothing is.
    #[must_use]
    pub fn gaps(&self) -> &[Gap] {
        &self.gaps
    }

    /// Writes one line, and one for each gap. Called once the log is there.
    pub fn log(&self) {
        tracing::info!("{self}");
        for gap in &self.gaps {
            tracing::warn!("{gap}");
        }
    }

    fn lacks(&self, kind: impl Fn(&Gap) -> bool) -> bool {
        self.gaps.iter().any(kind)
    }
}

impl fmt::Display for Protection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let readable = self.lacks(|gap| matches!(gap, Gap::Readable(_)));
        let core_files = self.lacks(|gap| matches!(gap, Gap::CoreFiles(_)));
        let swappable = self.lacks(|gap| matches!(gap, Gap::Swappable(_)));
        let readers = if readable { "for all processes of this user" } else { "for root alone" };
        let dumps = if readable && core_files { "may be dumped" } else { "is never dumped" };
        let swap = if swappable { "may be swapped out" } else { "is never swapped out" };
        write!(f, "memory of this process is readable {readers}, {dumps} and {swap}")
    }
}

impl fmt::Display for Gap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Readable(reason) => write!(
                f,
                "processes of this user may read keys and PINs in this process's memory: {reason}"
            ),
            Self::CoreFiles(reason) => {
                write!(f, "a crash may leave a file with keys and PINs in it: {reason}")
            }
            Self::Swappable(reason) => {
                write!(f, "memory that holds keys and PINs may be swapped out to a disk: {reason}")
            }
        }
    }
}

fn hide() -> Result<(), String> {
    set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .map_err(|error| format!("the system refused PR_SET_DUMPABLE: {error}"))
}

/// The second bolt: a process that is not dumpable is not dumped, whatever its limit. The limit alone
/// would not do, for the kernel ignores it where dumps are piped to a program (core(5)).
fn forbid_core_files() -> Result<(), String> {
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })
        .map_err(|error| format!("the system refused RLIMIT_CORE 0: {error}"))
}

/// Locks all pages, those to come when they are first touched, so that nothing grows by it.
///
/// Not under a limit that holds: then every allocation beyond it would fail, in the middle of work.
fn lock() -> Result<(), String> {
    let limit = raised_limit();
    let refused = |reason: &dyn fmt::Display| {
        let limit = limit.map_or("none".to_owned(), |bytes| format!("{} KiB", bytes / 1024));
        format!(
            "it is not locked ({reason}; limit of locked memory: {limit}); set \
             LimitMEMLOCK=infinity in the unit, or give the process CAP_IPC_LOCK"
        )
    };
    match mlockall(MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT) {
        Ok(()) => {}
        // mlock(2): the limit is too low, or is 0 and CAP_IPC_LOCK is missing.
        Err(Errno::NOMEM | Errno::AGAIN | Errno::PERM) => return Err(refused(&"not permitted")),
        Err(error) => return Err(refused(&error)),
    }
    if limit.is_none_or(can_exceed) {
        return Ok(());
    }
    match munlockall() {
        Ok(()) => Err(refused(&"it would soon reach its limit")),
        Err(error) => Err(refused(&format!("and cannot be unlocked: {error}"))),
    }
}

/// The limit of locked memory in bytes, as high as this process may set it; nothing if there is none.
fn raised_limit() -> Option<u64> {
    let Rlimit { maximum, .. } = getrlimit(Resource::Memlock);
    // Were it refused, the limit that holds would be found below.
    let _ = setrlimit(Resource::Memlock, Rlimit { current: maximum, maximum });
    getrlimit(Resource::Memlock).current
}

/// Whether more than `limit` bytes can be had while everything is locked: the limit does not hold for
/// CAP_IPC_LOCK, and a capability that was granted in a container may count for nothing outside of it.
fn can_exceed(limit: u64) -> bool {
    let Ok(beyond) = usize::try_from(limit.saturating_add(1)) else { return false };
    let mut room = Vec::<u8>::new();
    let reserved = room.try_reserve_exact(beyond).is_ok();
    // Never touched, so it costs addresses only; and must not be optimised away.
    black_box(room.as_ptr());
    reserved
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_holds_and_what_is_missing_is_said_in_words() {
        let whole = Protection { gaps: Vec::new() };
        assert_eq!(
            whole.to_string(),
            "memory of this process is readable for root alone, is never dumped and is never \
             swapped out"
        );
        let gap = Gap::Swappable("it is not locked".to_owned());
        assert!(gap.to_string().contains("may be swapped out to a disk: it is not locked"));
        let partly = Protection { gaps: vec![gap] };
        assert!(partly.to_string().ends_with("is never dumped and may be swapped out"));
    }
}
