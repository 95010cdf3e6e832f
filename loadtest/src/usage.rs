//! What a process takes of the machine: CPU time and memory, as Linux says (proc(5)).

use std::fs;
use std::time::Duration;

use rustix::param::clock_ticks_per_second;

/// A process on this machine.
#[derive(Debug, Clone)]
pub struct Process {
    folder: String,
}

/// What it has taken so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// CPU time of all its threads, to a hundredth of a second.
    pub cpu: Duration,
    /// Memory that is not swapped out, bytes.
    pub resident: u64,
}

impl Process {
    /// This one.
    #[must_use]
    pub fn this() -> Self {
        Self { folder: "/proc/self".to_owned() }
    }

    /// The one with this id.
    #[must_use]
    pub fn of(pid: u32) -> Self {
        Self { folder: format!("/proc/{pid}") }
    }

    /// What it has taken; nothing if there is no such process any more.
    #[must_use]
    pub fn usage(&self) -> Option<Usage> {
        let stat = fs::read_to_string(format!("{}/stat", self.folder)).ok()?;
        let status = fs::read_to_string(format!("{}/status", self.folder)).ok()?;
        Some(Usage { cpu: cpu(&stat)?, resident: resident(&status)? })
    }
}

/// User and system time: the 14th and 15th value, counted after a name that may hold anything.
fn cpu(stat: &str) -> Option<Duration> {
    let (_, values) = stat.rsplit_once(')')?;
    let mut values = values.split_ascii_whitespace().skip(11);
    let (user, system): (u64, u64) = (values.next()?.parse().ok()?, values.next()?.parse().ok()?);
    Some(Duration::from_nanos((user + system) * (1_000_000_000 / clock_ticks_per_second().max(1))))
}

fn resident(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kibibytes * 1_024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_whose_name_is_made_to_confuse_is_read_right() {
        let stat = "7 (a) R 1 (b) S 1 2 3 4 5 6 7 8 9 10 150 50 0 0 20";
        assert_eq!(
            cpu(stat).unwrap() * u32::try_from(clock_ticks_per_second()).unwrap(),
            Duration::from_secs(200)
        );
        assert_eq!(resident("Name:\tx\nVmRSS:\t    1024 kB\n"), Some(1 << 20));
        assert_eq!((cpu("7 (a"), resident("")), (None, None));
    }

    #[test]
    fn this_process_has_taken_something_and_one_that_is_gone_nothing() {
        assert!(Process::this().usage().unwrap().resident > 0);
        assert_eq!(Process::of(u32::MAX).usage(), None);
    }
}
