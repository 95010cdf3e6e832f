//! The paired runner: what we claim and its limit take turns, A B A B, in short slices.
//!
//! A shared machine changes its speed by more than half within seconds. Two measurements of different
//! minutes say nothing about each other; two of neighbouring slices do. Each pair gives one ratio, and
//! best and median of both sides are kept.

use std::time::{Duration, Instant};

use serde::Serialize;

/// Pairs of a row.
pub(crate) const ROUNDS: usize = 40;
/// How long one slice runs, about.
const SLICE: Duration = Duration::from_millis(25);

/// Which way of a figure is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Better {
    /// Costs.
    Lower,
    /// Rates.
    Higher,
}

/// Best and median of one side.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Figure {
    pub(crate) best: f64,
    pub(crate) median: f64,
}

/// The limit of a row: a figure with the name of what was measured.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Limit {
    pub(crate) name: String,
    pub(crate) best: f64,
    pub(crate) median: f64,
}

/// One claim beside its limit. `ratio` is the median over the pairs; 1 is the limit itself and less is
/// worse, whichever way is better.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) unit: &'static str,
    pub(crate) better: Better,
    pub(crate) measured: Figure,
    pub(crate) limit: Limit,
    pub(crate) ratio: f64,
}

/// Compares the cost of two operations in microseconds of this thread's CPU time. Each closure does its
/// operation once.
pub(crate) fn thread_cost(
    name: &str,
    limit: &str,
    mut measured: impl FnMut(),
    mut raw: impl FnMut(),
) -> Row {
    let (ours, theirs) = (batch(&mut measured), batch(&mut raw));
    let pairs = rounds(|| slice(&mut measured, ours), || slice(&mut raw, theirs));
    row(name, limit, "us/op", Better::Lower, &pairs)
}

/// Compares the cost of two operations in microseconds of CPU time of all threads of this process, those of
/// the runtime and of the log included. Each closure does so many operations, on all cores.
pub(crate) fn process_cost(
    name: &str,
    limit: &str,
    mut measured: impl FnMut(u64),
    mut raw: impl FnMut(u64),
) -> Row {
    let (ours, theirs) = (filling(&mut measured), filling(&mut raw));
    let cost = |operation: &mut dyn FnMut(u64), count: u64| {
        let start = process_time();
        operation(count);
        (process_time() - start) / count as f64
    };
    let pairs = rounds(|| cost(&mut measured, ours), || cost(&mut raw, theirs));
    row(name, limit, "us/op", Better::Lower, &pairs)
}

/// How many operations on all cores fill some slices.
fn filling(operation: &mut impl FnMut(u64)) -> u64 {
    let slice = SLICE * 8;
    let mut count = 64;
    loop {
        let start = Instant::now();
        operation(count);
        let took = start.elapsed();
        if took >= slice / 4 {
            return (count as f64 * slice.as_secs_f64() / took.as_secs_f64()) as u64;
        }
        count *= 2;
    }
}

/// CPU time of this process in microseconds.
fn process_time() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.tv_sec as f64 * 1e6 + time.tv_nsec as f64 / 1e3
}

/// Compares two rates in operations per second of wall time. Each closure runs for about the given time
/// and answers how many operations it did.
pub(crate) fn wall_rate(
    name: &str,
    limit: &str,
    mut measured: impl FnMut(Duration) -> u64,
    mut raw: impl FnMut(Duration) -> u64,
) -> Row {
    let slice = SLICE * 8;
    let rate = |operations: u64, since: Instant| operations as f64 / since.elapsed().as_secs_f64();
    measured(slice);
    raw(slice);
    let pairs = rounds(
        || {
            let start = Instant::now();
            rate(measured(slice), start)
        },
        || {
            let start = Instant::now();
            rate(raw(slice), start)
        },
    );
    row(name, limit, "op/s", Better::Higher, &pairs)
}

/// Compares two times in microseconds, such as medians. Each closure measures its own.
pub(crate) fn medians(
    name: &str,
    limit: &str,
    mut measured: impl FnMut() -> Duration,
    mut raw: impl FnMut() -> Duration,
) -> Row {
    let microseconds = |time: Duration| time.as_secs_f64() * 1e6;
    measured();
    raw();
    let pairs = rounds(|| microseconds(measured()), || microseconds(raw()));
    row(name, limit, "us", Better::Lower, &pairs)
}

/// Compares rates with a limit that is known and not measured, such as a quota.
pub(crate) fn against(
    name: &str,
    unit: &'static str,
    limit_name: &str,
    limit: f64,
    rates: &[f64],
) -> Row {
    let pairs: Vec<(f64, f64)> = rates.iter().map(|&rate| (rate, limit)).collect();
    row(name, limit_name, unit, Better::Higher, &pairs)
}

fn rounds(mut measured: impl FnMut() -> f64, mut raw: impl FnMut() -> f64) -> Vec<(f64, f64)> {
    (0..ROUNDS)
        .map(|round| {
            // Each side goes first in every other round, so that neither profits from the order.
            if round % 2 == 0 {
                let ours = measured();
                (ours, raw())
            } else {
                let theirs = raw();
                (measured(), theirs)
            }
        })
        .collect()
}

/// How many operations fill a slice.
fn batch(operation: &mut impl FnMut()) -> u32 {
    let mut count = 1u32;
    loop {
        let start = Instant::now();
        (0..count).for_each(|_| operation());
        let took = start.elapsed();
        if took >= SLICE / 4 {
            let scale = SLICE.as_secs_f64() / took.as_secs_f64();
            return ((f64::from(count) * scale) as u32).max(1);
        }
        count *= 2;
    }
}

/// Microseconds of thread CPU time per operation.
fn slice(operation: &mut impl FnMut(), count: u32) -> f64 {
    let start = thread_time();
    (0..count).for_each(|_| operation());
    (thread_time() - start) / f64::from(count)
}

/// CPU time of this thread in microseconds.
fn thread_time() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    time.tv_sec as f64 * 1e6 + time.tv_nsec as f64 / 1e3
}

fn row(name: &str, limit: &str, unit: &'static str, better: Better, pairs: &[(f64, f64)]) -> Row {
    let of_limit = |(measured, raw): &(f64, f64)| match better {
        Better::Lower => raw / measured,
        Better::Higher => measured / raw,
    };
    let measured = figure(better, pairs.iter().map(|pair| pair.0).collect());
    let raw = figure(better, pairs.iter().map(|pair| pair.1).collect());
    Row {
        name: name.to_owned(),
        unit,
        better,
        measured,
        limit: Limit { name: limit.to_owned(), best: raw.best, median: raw.median },
        ratio: figure(Better::Higher, pairs.iter().map(of_limit).collect()).median,
    }
}

fn figure(better: Better, mut values: Vec<f64>) -> Figure {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    let median = if values.len().is_multiple_of(2) {
        f64::midpoint(values[middle - 1], values[middle])
    } else {
        values[middle]
    };
    let best = match better {
        Better::Lower => values[0],
        Better::Higher => values[values.len() - 1],
    };
    Figure { best, median }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ratio_is_below_one_when_the_claim_is_worse_than_the_limit() {
        let pairs = [(2.0, 1.0), (4.0, 2.0), (10.0, 5.0)];
        let cost = row("a", "b", "us/op", Better::Lower, &pairs);
        assert_eq!((cost.ratio, cost.measured.best, cost.measured.median), (0.5, 2.0, 4.0));
        let rate = row("a", "b", "op/s", Better::Higher, &pairs);
        assert_eq!((rate.ratio, rate.measured.best, rate.limit.median), (2.0, 10.0, 2.0));
    }
}
