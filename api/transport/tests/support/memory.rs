//! What lies in the memory of a process that should not.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt as _;

/// A secret as it may lie in memory without being found there.
pub(crate) const MASK: u8 = 0x5a;

/// Whether all bytes of that secret lie somewhere in the memory of this process.
pub(crate) fn is_in_memory(masked: &[u8]) -> io::Result<bool> {
    let memory = File::open("/proc/self/mem")?;
    let mut part = vec![0; 1 << 20];
    let mut found = false;
    for line in fs::read_to_string("/proc/self/maps")?.lines() {
        let number = |text: &str| u64::from_str_radix(text, 16).ok();
        let range = line.split_once(' ').filter(|(_, rest)| rest.starts_with("rw"));
        let bounds = range.and_then(|(range, _)| range.split_once('-'));
        let Some((start, end)) = bounds.map(|(start, end)| (number(start), number(end))) else {
            continue;
        };
        let (mut at, end) = (start.unwrap_or_default(), end.unwrap_or_default());
        while at < end {
            let Ok(count @ 1..) = memory.read_at(&mut part, at) else { break };
            found |= part[..count].windows(masked.len()).any(|window| {
                window.iter().zip(masked).all(|(byte, masked)| byte ^ MASK == *masked)
            });
            // What was read must not be found in its turn.
            part.fill(0);
            at += count.saturating_sub(masked.len()).max(1) as u64;
        }
    }
    Ok(found)
}
