//! What a log makes of what the last run left behind.

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;

use super::super::Document;
use super::super::records::{Fault, Segment};
use super::*;
use crate::id::SpiffeId;
use crate::log::{Caller, IssuanceRecord};

const DAY: i64 = 86_400;
/// More than fit into two blocks, so that one write is of several.
const MANY: usize = 1_000;

/// A directory for logs, and the next writer.
struct Place {
    directory: tempfile::TempDir,
    writer: u32,
}

impl Place {
    fn new() -> Self {
        let directory = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        Self { directory, writer: 0 }
    }

    /// With a copy of what another one holds.
    fn copy_of(other: &Self) -> Self {
        let copy = Self { writer: other.writer, ..Self::new() };
        copy_all(other.path(), copy.path());
        copy
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    fn open(&mut self, known: &[(Head, &'static str)]) -> Result<LocalLog, OpenError> {
        self.writer += 1;
        let directory = self.path().to_owned();
        let settings = LogSettings { directory, durability: Durability::Durable };
        let writer = WriterId::new(self.writer).unwrap();
        LocalLog::open(&settings, Arc::new(RealDisk), writer, known, at(0))
    }

    /// One run that appends so many records at each time, and the tree that it ends with.
    async fn run(&mut self, appends: &[(Timestamp, usize)]) -> Head {
        let log = self.open(&[]).unwrap();
        for &(time, count) in appends {
            let records: Vec<_> = (0..count).map(|number| record(time, number)).collect();
            append(&log, &records).await.unwrap();
        }
        log.close();
        log.kept().borrow().head
    }

    fn segments(&self) -> Vec<Segment> {
        Segment::list(self.path()).unwrap()
    }

    fn remove_tiles(&self) {
        fs::remove_dir_all(self.path().join("tile")).unwrap();
    }
}

fn copy_all(from: &Path, to: &Path) {
    for file in fs::read_dir(from).unwrap() {
        let file = file.unwrap();
        let to = to.join(file.file_name());
        if file.file_type().unwrap().is_dir() {
            fs::create_dir_all(&to).unwrap();
            copy_all(&file.path(), &to);
        } else {
            fs::copy(file.path(), to).unwrap();
        }
    }
}

fn at(day: i64) -> Timestamp {
    Timestamp::from_unix(1_800_057_600 + day * DAY)
}

fn record(time: Timestamp, number: usize) -> IssuanceRecord {
    IssuanceRecord {
        document: Document::Jwt { audience: vec![format!("audience {number}")] },
        digest: [number as u8; 32],
        id: SpiffeId::parse("spiffe://a.test/w").unwrap(),
        not_before: time,
        not_after: time,
        authority: "aa".into(),
        issuing_key: None,
        caller: Caller::Signer,
        time,
    }
}

/// Where the blocks of a segment stand.
fn blocks(segment: &Segment) -> Vec<Range<usize>> {
    let content = segment.read().unwrap();
    let blocks = segment.blocks(&content).map(Result::unwrap);
    blocks.map(|(at, block)| at..at + block.length).collect()
}

fn change(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(path).unwrap();
    change(&mut bytes);
    fs::write(path, bytes).unwrap();
}

fn zero(path: &Path, range: Range<usize>) {
    change(path, |bytes| bytes[range].fill(0));
}

fn is_damaged<T>(result: &Result<T, OpenError>) -> bool {
    matches!(result, Err(OpenError::Damaged(_)))
}

#[tokio::test]
async fn an_end_torn_at_any_byte_is_cut_off_and_what_was_before_it_stays() {
    let mut place = Place::new();
    place.run(&[(at(0), 2), (at(0), 1)]).await;
    let segment = &place.segments()[0];
    let whole = segment.read().unwrap();
    let last = blocks(segment).pop().unwrap();
    let expect = |bytes: &[u8], is_torn: bool, what: &str| {
        fs::write(&segment.path, bytes).unwrap();
        let found = recovery::find(place.path()).unwrap();
        assert_eq!((found.entries, found.torn.is_some()), (3, is_torn), "{what}");
        found.cut().unwrap();
        assert_eq!(fs::read(&segment.path).unwrap(), whole[..last.start], "{what}");
    };
    for end in last.clone() {
        let is_torn = end > last.start;
        expect(&whole[..end], is_torn, &format!("ends at {end}"));
        let mut padded = whole[..end].to_vec();
        padded.resize(whole.len() + 9_000, 0);
        expect(&padded, is_torn, &format!("zeros from {end}"));
        let mut holed = whole.clone();
        holed[last.start..=end].fill(0);
        expect(&holed, end + 1 < last.end, &format!("zeros up to {end}"));
        let mut flipped = whole.clone();
        flipped[end] ^= 0x10;
        expect(&flipped, true, &format!("byte {end} flipped"));
    }
}

#[tokio::test]
async fn damage_before_something_that_was_flushed_later_is_refused_and_left_as_it_is() {
    let mut place = Place::new();
    place.run(&[(at(0), 1), (at(0), 1), (at(0), 1)]).await;
    let segment = &place.segments()[0];
    let whole = segment.read().unwrap();
    let blocks = blocks(segment);
    let [opening, first, .., last] = blocks.as_slice() else { panic!("four blocks") };
    for offset in opening.start..first.end {
        let mut flipped = whole.clone();
        flipped[offset] ^= 0x04;
        fs::write(&segment.path, &flipped).unwrap();
        assert!(is_damaged(&recovery::find(place.path())), "byte {offset} flipped");
    }
    for range in [opening.clone(), first.clone(), opening.start..last.start, 0..8] {
        let mut holed = whole.clone();
        holed[range.clone()].fill(0);
        fs::write(&segment.path, &holed).unwrap();
        assert!(is_damaged(&place.open(&[])), "zeros at {range:?}");
        assert_eq!(fs::read(&place.segments()[0].path).unwrap(), holed, "left as it is");
    }
}

#[tokio::test]
async fn blocks_of_one_write_may_reach_the_disk_in_any_order() {
    let same_file = (&[(at(0), MANY)][..], 1, 1);
    let new_file = (&[(at(0), 1), (at(1), MANY)][..], 0, 2);
    for (appends, lost, before) in [same_file, new_file] {
        let mut place = Place::new();
        place.run(appends).await;
        place.remove_tiles();
        let segment = place.segments().pop().unwrap();
        let blocks = blocks(&segment);
        assert!(blocks.len() > lost + 1, "the write was of several");
        zero(&segment.path, blocks[lost].clone());
        let found = recovery::find(place.path()).unwrap();
        assert_eq!(found.entries, before, "{appends:?}: the write is as if it had not been");
        assert!(found.torn.is_some());
    }
}

#[tokio::test]
async fn a_lost_first_block_of_a_day_is_damage_once_a_later_one_has_been_flushed_after_it() {
    let mut place = Place::new();
    place.run(&[(at(0), 1), (at(1), MANY), (at(1), 1)]).await;
    let segment = place.segments().pop().unwrap();
    let blocks = blocks(&segment);
    zero(&segment.path, blocks[0].clone());
    assert!(is_damaged(&recovery::find(place.path())));
}

#[tokio::test]
async fn a_file_before_a_torn_one_was_flushed_and_has_no_torn_end() {
    let mut place = Place::new();
    place.run(&[(at(0), 1), (at(1), 1)]).await;
    place.remove_tiles();
    let segments = place.segments();
    change(&segments[1].path, |bytes| bytes.truncate(50));
    let found = recovery::find(place.path()).unwrap();
    assert_eq!((found.entries, found.segments.len()), (2, 1), "the second day was torn");
    change(&segments[0].path, |bytes| *bytes.last_mut().unwrap() ^= 1);
    assert!(is_damaged(&place.open(&[])), "the first day was not");
    assert!(segments[1].path.exists(), "left as it is");
}

#[tokio::test]
async fn tiles_that_are_gone_are_made_again_from_the_records() {
    let mut place = Place::new();
    place.run(&[(at(0), MANY), (at(1), 5)]).await;
    let head = place.run(&[(at(1), 300)]).await;
    place.remove_tiles();
    let log = place.open(&[(head, "a test")]).unwrap();
    assert_eq!(log.opened(), &Opened { continues: head, torn: None });
}

#[tokio::test]
async fn a_file_that_is_missing_in_the_middle_is_damage_when_its_hashes_are_gone_too() {
    let mut place = Place::new();
    let head = place.run(&[(at(0), 5), (at(1), 5), (at(2), 5)]).await;
    fs::remove_file(&place.segments()[1].path).unwrap();
    let log = place.open(&[(head, "a test")]).expect("its hashes are there");
    drop(log);
    place.remove_tiles();
    let Err(OpenError::Damaged(damage)) = place.open(&[]) else { panic!("it is damaged") };
    assert!(matches!(damage.fault, Fault::Order(_)), "{damage}");
}

#[tokio::test]
async fn a_log_that_ends_before_a_known_head_is_refused_and_left_as_it_is() {
    let mut place = Place::new();
    place.run(&[(at(0), 5)]).await;
    let mut older = Place::copy_of(&place);
    let head = place.run(&[(at(0), 1)]).await;
    let refused = older.open(&[(head, "a test")]).unwrap_err();
    assert!(matches!(refused, OpenError::CutOff { entries: 6, known, .. } if known == head));
    assert!(older.open(&[]).is_ok(), "nobody knows better");

    let segment = place.segments().pop().unwrap();
    change(&segment.path, |bytes| bytes.truncate(bytes.len() - 1));
    let torn = segment.read().unwrap();
    let refused = place.open(&[(head, "a test")]).unwrap_err();
    assert!(matches!(refused, OpenError::CutOff { entries: 7, .. }), "{refused}");
    assert_eq!(segment.read().unwrap(), torn, "left as it is");
}

#[tokio::test]
async fn records_that_end_before_their_own_tiles_are_refused() {
    let mut place = Place::new();
    let head = place.run(&[(at(0), 5), (at(0), 5)]).await;
    let segment = place.segments().pop().unwrap();
    let last = blocks(&segment).pop().unwrap();
    change(&segment.path, |bytes| bytes.truncate(last.start));
    let refused = place.open(&[]).unwrap_err();
    assert!(matches!(refused, OpenError::CutOff { entries: 6, known, .. } if known == head));
    place.remove_tiles();
    assert!(place.open(&[]).is_ok(), "nobody knows better");
}

#[tokio::test]
async fn another_log_than_the_known_head_was_signed_over_is_refused() {
    let (mut place, mut other) = (Place::new(), Place::new());
    let head = place.run(&[(at(0), 5)]).await;
    other.run(&[(at(1), 5)]).await;
    let refused = other.open(&[(head, "a test")]).unwrap_err();
    assert!(matches!(refused, OpenError::OtherTree { known, .. } if known == head), "{refused}");
}

#[tokio::test]
async fn a_log_whose_older_records_are_gone_is_continued_over_its_hashes_alone() {
    let mut place = Place::new();
    let head = place.run(&[(at(0), 5)]).await;
    fs::remove_file(&place.segments()[0].path).unwrap();
    // What a crash leaves of a day that had just begun.
    fs::write(Segment::of(place.path(), head.size).path, b"MINTLOG1 torn").unwrap();
    let log = place.open(&[(head, "a test")]).unwrap();
    assert_eq!(log.opened().continues, head);
    drop(log);
    place.remove_tiles();
    let refused = place.open(&[]).unwrap_err();
    assert!(matches!(refused, OpenError::HashesMissing { records: 6, hashes: 0 }), "{refused}");
}

#[tokio::test]
async fn a_run_whose_number_was_had_is_refused_and_the_log_left_as_it_is() {
    let mut place = Place::new();
    place.run(&[(at(0), 5)]).await;
    place.run(&[(at(0), 5), (at(1), 5)]).await;
    let segments = place.segments();
    for number in [1, 2] {
        place.writer = number - 1;
        let refused = place.open(&[]).unwrap_err();
        let is_old = matches!(refused, OpenError::OldWriter { last, .. } if last.number() == 2);
        assert!(is_old, "{refused}");
        assert!(refused.to_string().contains("Restore the newest copy of the state store"));
    }
    assert_eq!(place.segments(), segments);
    place.writer = 2;
    assert!(place.open(&[]).is_ok());
}

#[tokio::test]
async fn a_log_is_open_once() {
    let mut place = Place::new();
    let log = place.open(&[]).unwrap();
    let refused = place.open(&[]).unwrap_err();
    assert!(matches!(&refused, OpenError::InUse(where_) if Path::new(where_) == place.path()));
    drop(log);
    assert!(place.open(&[]).is_ok());
}

#[tokio::test]
async fn a_log_whose_tiles_cannot_be_written_goes_on_and_closes_at_once() {
    let mut place = Place::new();
    let log = place.open(&[]).unwrap();
    let head = log.opened().continues;
    let in_the_way: PathBuf = place.path().join("tile");
    fs::write(&in_the_way, "").unwrap();
    for number in 0..200 {
        append(&log, &[record(at(0), number)]).await.unwrap();
    }
    let mut kept = log.kept();
    kept.wait_for(|kept| kept.trouble.is_some()).await.unwrap();
    let obstacles = log.obstacles(Instant::now());
    assert!(obstacles[0].starts_with("the disk takes no hashes"), "{obstacles:?}");
    for number in 0..20 {
        append(&log, &[record(at(0), number)]).await.unwrap();
    }
    assert_eq!(kept.borrow().head, head, "no head that is not kept");
    let started = Instant::now();
    log.close();
    assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
    drop(log);
    fs::remove_file(&in_the_way).unwrap();
    assert_eq!(place.open(&[]).unwrap().opened().continues.size, 221);
}

/// A disk whose second write is a fault of ours.
struct Panicking;

impl Disk for Panicking {
    fn create(&self, _: &Path) -> std::io::Result<Box<dyn LogFile>> {
        Ok(Box::new(PanickingFile { writes: 0 }))
    }
}

struct PanickingFile {
    writes: usize,
}

impl LogFile for PanickingFile {
    fn write_at(&mut self, _: &[u8], _: u64) -> std::io::Result<()> {
        self.writes += 1;
        assert!(self.writes < 2, "a fault of ours");
        Ok(())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }

    fn end(&mut self, _: u64) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn a_log_whose_writer_panics_refuses_and_says_that_it_has_failed() {
    let place = Place::new();
    let directory = place.path().to_owned();
    let settings = LogSettings { directory, durability: Durability::Durable };
    let writer = WriterId::new(1).unwrap();
    let log = LocalLog::open(&settings, Arc::new(Panicking), writer, &[], at(0)).unwrap();
    for _ in 0..3 {
        let refused = append(&log, &[record(at(0), 0)]).await;
        assert!(matches!(refused, Err(LogError::Failed(_))), "{refused:?}");
    }
    assert!(matches!(log.failed().await, LogError::Failed(_)));
    let obstacles = log.obstacles(Instant::now());
    assert!(obstacles[0].starts_with("the issuance log failed and takes nothing"), "{obstacles:?}");
}

/// A disk that takes a write only while it is told to.
#[derive(Clone, Default)]
struct Full(Arc<AtomicBool>);

impl Disk for Full {
    fn create(&self, _: &Path) -> std::io::Result<Box<dyn LogFile>> {
        Ok(Box::new(self.clone()))
    }
}

impl LogFile for Full {
    fn write_at(&mut self, _: &[u8], _: u64) -> std::io::Result<()> {
        if self.0.load(Ordering::Relaxed) {
            Err(std::io::ErrorKind::StorageFull.into())
        } else {
            Ok(())
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }

    fn end(&mut self, _: u64) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn a_full_disk_is_an_obstacle_until_it_takes_something_or_nobody_has_tried_for_a_while() {
    let (place, disk, metrics) = (Place::new(), Full::default(), LogMetrics::default());
    let directory = place.path().to_owned();
    let settings = LogSettings { directory, durability: Durability::Durable };
    let writer = WriterId::new(1).unwrap();
    let on_disk = Arc::new(disk.clone());
    let log =
        LocalLog::open_counted(&settings, on_disk, writer, &[], at(0), metrics.clone()).unwrap();
    let obstacles = |after| log.obstacles(Instant::now() + Duration::from_secs(after));
    append(&log, &[record(at(0), 0)]).await.unwrap();
    assert_eq!(obstacles(0), [] as [String; 0]);
    disk.0.store(true, Ordering::Relaxed);
    append(&log, &[record(at(0), 0)]).await.unwrap_err();
    assert!(obstacles(0)[0].starts_with("issuance log cannot be written: "), "{:?}", obstacles(0));
    assert_eq!(obstacles(40), [] as [String; 0], "somebody has to try it again");
    disk.0.store(false, Ordering::Relaxed);
    append(&log, &[record(at(0), 0)]).await.unwrap();
    assert_eq!(obstacles(0), [] as [String; 0]);

    assert!(obstacles(70)[0].starts_with("no head of the issuance log"), "{:?}", obstacles(70));
    log.signed(3, Instant::now());
    assert_eq!(obstacles(70), [] as [String; 0]);

    let mut registry = Registry::default();
    metrics.register(&mut registry);
    let mut text = String::new();
    encode(&mut text, &registry).unwrap();
    for line in [
        "mintmark_log_refused_total{reason=\"unwritable\"} 1\n",
        "mintmark_log_flush_seconds_count 3\n",
        "mintmark_log_flush_entries_sum 3.0\n",
    ] {
        assert!(text.contains(line), "{line} is not in {text}");
    }
}

/// Hands records over as the pipeline does.
fn append(log: &LocalLog, records: &[IssuanceRecord]) -> Appending {
    let issued: Vec<_> = records.iter().map(IssuanceRecord::as_issuance).collect();
    log.append(&issued)
}
