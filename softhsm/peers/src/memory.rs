//! What can be found in the memory of a process while it runs: all that a core dump of it would hold.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;

/// How often each of `secrets` is in the memory that the process may write to. Of a process that guards
/// itself, root alone gets an answer.
///
/// # Errors
/// What the system says of `/proc/PID/maps` and `/proc/PID/mem`, such as `PermissionDenied`.
pub fn search(process: u32, secrets: &[&[u8]]) -> io::Result<Vec<usize>> {
    let process = PathBuf::from(format!("/proc/{process}"));
    let maps = fs::read_to_string(process.join("maps"))?;
    let memory = File::open(process.join("mem"))?;
    let mut counts = vec![0; secrets.len()];
    for (start, end) in maps.lines().filter_map(writable) {
        let content = read(&memory, start, end);
        for (count, secret) in counts.iter_mut().zip(secrets) {
            *count += occurrences(&content, secret);
        }
    }
    Ok(counts)
}

/// Begin and end of a mapping that the process may write to (proc(5)).
fn writable(line: &str) -> Option<(u64, u64)> {
    let (range, rest) = line.split_once(' ')?;
    let (start, end) = range.split_once('-')?;
    let number = |text| u64::from_str_radix(text, 16).ok();
    rest.starts_with("rw").then_some((number(start)?, number(end)?))
}

/// A mapping that went away since it was listed reads as nothing.
fn read(memory: &File, start: u64, end: u64) -> Vec<u8> {
    let mut content = vec![0; usize::try_from(end - start).unwrap_or_default()];
    match memory.read_exact_at(&mut content, start) {
        Ok(()) => content,
        Err(_) => Vec::new(),
    }
}

/// How often a text is in another.
#[must_use]
pub fn occurrences(content: &[u8], secret: &[u8]) -> usize {
    const PAGE: usize = 4096;
    let Some(first) = secret.first() else { return 0 };
    let of_page = |page: usize| {
        // A secret may begin on this page and end on the next.
        let part = &content[page..content.len().min(page + PAGE + secret.len() - 1)];
        // Most pages are empty, and this is quick.
        if part.contains(first) {
            part.windows(secret.len()).filter(|bytes| *bytes == secret).count()
        } else {
            0
        }
    };
    (0..content.len()).step_by(PAGE).map(of_page).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_counted_wherever_it_begins() {
        let mut content = vec![0; 3 * 4096];
        for place in [0, 4090, 8192, 3 * 4096 - 6] {
            content[place..place + 6].copy_from_slice(b"secret");
        }
        assert_eq!(occurrences(&content, b"secret"), 4);
        assert_eq!(occurrences(&content, b"secre7"), 0);
        assert_eq!(occurrences(b"short", b"longer than it"), 0);
    }
}
