//! Disks that fail while a pipeline mints, and clocks that jump: what is released is in the log, and the log goes
//! on or says that it cannot.
#![expect(clippy::unwrap_used, reason = "the helpers of tests state expectations as tests do")]

mod minting;

use std::collections::HashSet;
use std::io;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ca_core::clock::{Clock, Timestamp};
use ca_core::id::SpiffeId;
use ca_core::log::entry::Entry;
use ca_core::log::local::{Disk, LocalLog, LogFile, LogSettings, RealDisk};
use ca_core::log::records::Segment;
use ca_core::log::tree::{Frontier, Hash, Head};
use ca_core::log::{
    Appending, Caller, Document, Durability, IssuanceLog as _, IssuanceRecord, LogError, WriterId,
};
use ca_core::mint::MintError;
use ca_core::pipeline::Minted;
use keymanager::SoftwareStore;
use minting::{Answer, Leaves, Minting};

const DAY: i64 = 86_400;

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_releases_nothing_and_is_made_good_when_there_is_room_again() {
    // Nothing of a write reaches the disk, or a part of it that ends anywhere.
    for part in [0, 1, 91, 200, 5_000] {
        let world = World::new().await;
        let mut released = answers(world.minting.certificates(64).await);
        world.disk.leave_room(part);
        for _ in 0..3 {
            for refused in world.minting.certificates(64).await {
                let Err(MintError::Log(LogError::Unwritable(why))) = refused else {
                    panic!("{refused:?} on a full disk")
                };
                assert!(why.contains("No space left"), "{why}");
            }
        }
        world.disk.make_room();
        released.extend(answers(world.minting.certificates(64).await));
        released.extend(answers(world.minting.certificates(3).await));
        let entries = world.close_and_read();
        assert_eq!(released.len(), 131, "part {part}");
        // Two openings and the issuing key; what was refused has left nothing.
        assert_eq!(entries.len(), released.len() + 3, "part {part}");
        assert_logged(&released, &entries);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_full_disk_left_behind_does_not_come_back_after_a_crash() {
    let world = World::new().await;
    let mut released = answers(world.minting.certificates(64).await);
    // Of a write of several blocks, whole ones are there.
    world.disk.leave_room(100_000);
    let records: Vec<_> = (0..2_000).map(|number| record(at(0), number)).collect();
    let refused = append(&world.log, &records).await;
    assert!(matches!(refused, Err(LogError::Unwritable(_))), "{refused:?}");
    world.disk.make_room();
    released.extend(answers(world.minting.certificates(1).await));
    // As the process would leave it that is killed now: the rest of the failed write is still there.
    let left = tempfile::tempdir().unwrap();
    std::fs::create_dir(left.path().join("records")).unwrap();
    for segment in Segment::list(world.directory.path()).unwrap() {
        std::fs::copy(&segment.path, Segment::of(left.path(), segment.first).path).unwrap();
    }
    let log = open(left.path(), Arc::new(RealDisk), 2);
    assert!(log.opened().torn.is_some(), "the rest is cut off");
    drop(log);
    let entries = read(left.path());
    assert_eq!(entries.len(), released.len() + 3);
    assert_logged(&released, &entries);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_flush_ends_the_log_and_the_next_start_has_all_that_was_released() {
    let world = World::new().await;
    let released = answers(world.minting.certificates(64).await);
    world.disk.flush_fails.store(true, Ordering::Relaxed);
    let calls: Vec<_> = (0..8).map(|_| world.minting.certificates(32)).collect();
    for refused in futures_util::future::join_all(calls).await.into_iter().flatten() {
        assert!(matches!(refused, Err(MintError::Log(LogError::Failed(_)))), "{refused:?}");
    }
    assert!(matches!(world.log.failed().await, LogError::Failed(_)));
    let written = world.disk.writes.load(Ordering::Relaxed);
    // Though the disk says that it is well again: what it dropped it has dropped.
    world.disk.flush_fails.store(false, Ordering::Relaxed);
    for refused in world.minting.certificates(64).await {
        assert!(matches!(refused, Err(MintError::Log(LogError::Failed(_)))), "{refused:?}");
    }
    let refused = append(&world.log, &[record(at(0), 1)]).await;
    assert!(matches!(refused, Err(LogError::Failed(_))), "{refused:?}");
    assert_eq!(world.disk.writes.load(Ordering::Relaxed), written, "nothing is written any more");
    assert_logged(&released, &world.close_and_read());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_disk_takes_a_bounded_amount_and_then_the_log_is_busy_at_once() {
    let world = World::new().await;
    world.disk.flush_hangs.store(true, Ordering::Relaxed);
    let records: Vec<_> = (0..256).map(|number| record(at(0), number)).collect();
    let mut taken = Vec::new();
    // Until not even one more finds a place.
    for several in [&records[..], &records[..1]] {
        loop {
            let (started, mut answer) = (Instant::now(), append(&world.log, several));
            match futures_util::FutureExt::now_or_never(&mut answer) {
                None => taken.push((several.len(), answer)),
                Some(Err(LogError::Busy)) => {
                    assert!(started.elapsed() < Duration::from_secs(1), "at once");
                    break;
                }
                Some(other) => panic!("{other:?} of a disk that hangs"),
            }
        }
    }
    let count: usize = taken.iter().map(|(count, _)| count).sum();
    // 16 MiB wait, and 4 MiB more are being flushed.
    let most = 21 * 1024 * 1024 / 80;
    assert!(count > 50_000 && count < most, "{count} records wait");
    for refused in world.minting.certificates(64).await {
        assert!(matches!(refused, Err(MintError::Log(LogError::Busy))), "{refused:?}");
    }
    world.disk.flush_hangs.store(false, Ordering::Relaxed);
    for (_, answer) in taken {
        assert_eq!(answer.await, Ok(()), "what was taken is written");
    }
    let released = answers(world.minting.certificates(64).await);
    let entries = world.close_and_read();
    assert!(entries.len() >= count + released.len());
    assert_logged(&released, &entries);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_days_file_that_cannot_be_made_holds_the_log_up_and_no_longer() {
    let world = World::new().await;
    let mut released = answers(world.minting.certificates(10).await);
    world.clock.jump(DAY);
    world.disk.create_fails.store(true, Ordering::Relaxed);
    for _ in 0..2 {
        for refused in world.minting.certificates(10).await {
            let is = matches!(refused, Err(MintError::Log(LogError::Unwritable(_))));
            assert!(is, "{refused:?}");
        }
    }
    world.disk.create_fails.store(false, Ordering::Relaxed);
    released.extend(answers(world.minting.certificates(10).await));
    let entries = world.close_and_read();
    assert_eq!((released.len(), entries.len()), (20, 23));
    assert_logged(&released, &entries);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_64_mib_is_followed_by_the_next_also_if_that_fails_at_first() {
    const MIB: usize = 1024 * 1024;
    let world = World::new().await;
    let long = vec!["a".repeat(4_000); 4];
    let records: Vec<_> = (0..128)
        .map(|number| {
            let document = Document::Jwt { audience: long.clone() };
            IssuanceRecord { document, ..record(at(0), number) }
        })
        .collect();
    let mut taken = 0;
    while world.size_of_records() < 64 * MIB as u64 {
        append(&world.log, &records).await.unwrap();
        taken += 1;
    }
    world.disk.create_fails.store(true, Ordering::Relaxed);
    let refused = append(&world.log, &records).await;
    assert!(matches!(refused, Err(LogError::Unwritable(_))), "{refused:?}");
    world.disk.create_fails.store(false, Ordering::Relaxed);
    append(&world.log, &records).await.unwrap();
    taken += 1;
    let released = answers(world.minting.certificates(10).await);
    assert_eq!(Segment::list(world.directory.path()).unwrap().len(), 2);
    let entries = world.close_and_read();
    assert_eq!(entries.len(), taken * records.len() + 10 + 3);
    assert_logged(&released, &entries);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_jumps_moves_validity_and_leaves_the_log_in_order() {
    let world = World::new().await;
    let mut released = Vec::new();
    let jumps = [3_600, DAY, -DAY - 1_800, 3 * DAY, -2 * DAY, 5, -5, 30 * DAY, -30 * DAY, -40];
    for (turn, jump) in jumps.into_iter().enumerate() {
        world.clock.jump(jump);
        let now = world.clock.now();
        let before = released.len();
        for minted in world.minting.certificates(20).await {
            let minted = minted.unwrap_or_else(|error| panic!("at {now}: {error}"));
            let Minted::X509(svid) = &minted else { panic!("a certificate") };
            assert_eq!(svid.expires_at, now.plus(Duration::from_secs(3_600)), "turn {turn}");
            released.push(Answer::of(&minted));
        }
        assert_eq!(released.len(), before + 20);
    }
    // Before the authority began to be valid.
    world.clock.jump(-100 * DAY);
    for refused in world.minting.certificates(20).await {
        assert!(matches!(refused, Err(MintError::X509(_))), "{refused:?}");
    }
    let entries = world.close_and_read();
    assert_logged(&released, &entries);
    // In the order of the answers, each with the time that the clock had.
    let mut now = at(0).unix();
    let minted: Vec<_> = entries.iter().filter_map(issued).filter(|one| !is_ca(one)).collect();
    for (jump, records) in jumps.into_iter().zip(minted.chunks(20)) {
        now += jump;
        assert!(records.iter().all(|record| record.time.unix() == now), "at {now}");
        assert!(records.iter().all(|record| record.not_after.unix() == now + 3_600));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_jumps_between_callers_stops_nobody() {
    let world = World::new().await;
    let (stop, clock) = (Arc::new(AtomicBool::new(false)), Arc::clone(&world.clock));
    let jumping = std::thread::spawn({
        let stop = Arc::clone(&stop);
        move || {
            while !stop.load(Ordering::Relaxed) {
                clock.seconds.store(at(fastrand::i64(0..6)).unix(), Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(2));
            }
        }
    });
    let caller = async || {
        let mut released = Vec::new();
        for _ in 0..20 {
            released.extend(answers(world.minting.certificates(fastrand::usize(1..64)).await));
        }
        released
    };
    let callers = (0..4).map(|_| caller());
    let released = futures_util::future::join_all(callers).await.concat();
    stop.store(true, Ordering::Relaxed);
    jumping.join().unwrap();
    assert!(Segment::list(world.directory.path()).unwrap().len() > 5, "days began");
    assert_logged(&released, &world.close_and_read());
}

/// A limit on the size of files stands for the full disk: the system itself refuses, in the middle of a write.
#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_is_really_full_releases_nothing() {
    const NAME: &str = "a_disk_that_is_really_full_releases_nothing";
    const CHILD: &str = "LOG_FAULTS_CHILD";
    if let Some(directory) = std::env::var_os(CHILD) {
        return mint_until_the_disk_is_full(Path::new(&directory)).await;
    }
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let output = Command::new("sh")
        .args(["-c", "trap '' XFSZ; ulimit -f 8192; exec \"$0\" \"$@\""])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", NAME, "--nocapture"])
        .env(CHILD, directory.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "signal {:?}: {said}", output.status.signal());
    let log = open(directory.path(), Arc::new(RealDisk), 2);
    drop(log);
    let entries = read(directory.path());
    let released = std::fs::read(directory.path().join("released")).unwrap();
    let logged: HashSet<[u8; 32]> =
        entries.iter().filter_map(issued).map(|one| one.digest).collect();
    let (digests, rest) = released.as_chunks::<32>();
    assert!(rest.is_empty() && digests.len() > 500, "{} released", digests.len());
    assert!(digests.iter().all(|digest| logged.contains(digest)));
}

async fn mint_until_the_disk_is_full(directory: &Path) {
    let clock = Arc::new(Jumping::default());
    let log = Arc::new(open(directory, Arc::new(RealDisk), 1));
    let keys = SoftwareStore::in_memory("faults.test");
    let minting = Minting::start(&keys, Leaves::ByIssuingKey, log, clock).await;
    let (mut released, mut refused) = (Vec::new(), 0);
    while refused < 200 {
        for answer in minting.certificates(64).await {
            match answer {
                Ok(minted) => released.extend(Answer::of(&minted).digest),
                Err(MintError::Log(LogError::Unwritable(_))) => refused += 1,
                Err(other) => panic!("{other:?}"),
            }
        }
    }
    std::fs::write(directory.join("released"), released).unwrap();
}

/// A pipeline over a log on a disk with faults, by a clock that jumps.
struct World {
    minting: Minting,
    log: Arc<LocalLog>,
    disk: Arc<Faults>,
    clock: Arc<Jumping>,
    directory: tempfile::TempDir,
}

impl World {
    async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (disk, clock) = (Arc::new(Faults::default()), Arc::new(Jumping::default()));
        let log = Arc::new(open(directory.path(), Arc::new(Faulty(disk.clone())), 1));
        let keys = SoftwareStore::in_memory("faults.test");
        let minting = Minting::start(&keys, Leaves::ByIssuingKey, log.clone(), clock.clone()).await;
        Self { minting, log, disk, clock, directory }
    }

    fn size_of_records(&self) -> u64 {
        self.disk.end.load(Ordering::Relaxed)
    }

    /// Closes the log and opens it again, as the next start would, and reads it whole.
    fn close_and_read(self) -> Vec<Entry> {
        self.minting.pipeline.close();
        self.log.close();
        let kept = self.log.kept().borrow().head;
        drop((self.minting, self.log));
        let settings = settings(self.directory.path());
        // The pipeline ends on its own time, and has the log until then.
        let (end, writer) = (Instant::now() + Duration::from_secs(10), WriterId::new(2).unwrap());
        let log = loop {
            let known = [(kept, "the run before")];
            match LocalLog::open(&settings, Arc::new(RealDisk), writer, &known, at(0)) {
                Ok(log) => break log,
                Err(error) => assert!(Instant::now() < end, "{error}"),
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        drop(log);
        read(self.directory.path())
    }
}

fn settings(directory: &Path) -> LogSettings {
    LogSettings { directory: directory.to_owned(), durability: Durability::Durable }
}

fn open(directory: &Path, disk: Arc<dyn Disk>, writer: u32) -> LocalLog {
    let writer = WriterId::new(writer).unwrap();
    LocalLog::open(&settings(directory), disk, writer, &[], at(0)).unwrap()
}

/// All entries, whose tree is the one that each opening names.
fn read(directory: &Path) -> Vec<Entry> {
    let (mut entries, mut tree) = (Vec::new(), Frontier::new());
    for segment in Segment::list(directory).unwrap() {
        assert_eq!(segment.first, tree.size(), "no gap");
        let content = segment.read().unwrap();
        for block in segment.blocks(&content) {
            for bytes in block.unwrap().1.entries() {
                let entry = Entry::decode(bytes).unwrap();
                if let Entry::Opening(opening) = &entry {
                    assert_eq!(opening.continues, tree.head());
                }
                tree.push(Hash::leaf(bytes));
                entries.push(entry);
            }
        }
    }
    let Head { size, .. } = tree.head();
    assert_eq!(size, entries.len() as u64);
    entries
}

fn issued(entry: &Entry) -> Option<&IssuanceRecord> {
    match entry {
        Entry::Issuance(record) => Some(record),
        Entry::Opening(_) => None,
    }
}

fn is_ca(record: &IssuanceRecord) -> bool {
    record.caller == Caller::Signer
}

fn answers(minted: Vec<Result<Minted, MintError>>) -> Vec<Answer> {
    minted.into_iter().map(|answer| Answer::of(&answer.unwrap())).collect()
}

fn assert_logged(released: &[Answer], entries: &[Entry]) {
    let logged: HashSet<Answer> = entries
        .iter()
        .filter_map(issued)
        .filter_map(|record| match record.document {
            Document::X509 { serial, .. } => {
                Some(Answer { serial: Some(*serial.bytes()), digest: record.digest })
            }
            Document::Jwt { .. } => None,
        })
        .collect();
    let missing = released.iter().filter(|answer| !logged.contains(answer)).count();
    assert_eq!(missing, 0, "of {} released", released.len());
    let distinct: HashSet<_> = released.iter().map(|answer| answer.serial).collect();
    assert_eq!(distinct.len(), released.len(), "no serial number twice");
}

fn record(time: Timestamp, number: usize) -> IssuanceRecord {
    IssuanceRecord {
        document: Document::Jwt { audience: vec![number.to_string()] },
        digest: [number as u8; 32],
        id: SpiffeId::parse("spiffe://faults.test/w").unwrap(),
        not_before: time,
        not_after: time,
        authority: "aa".into(),
        issuing_key: None,
        caller: Caller::Signer,
        time,
    }
}

fn at(day: i64) -> Timestamp {
    Timestamp::from_unix(1_800_057_600 + day * DAY)
}

/// A clock that stands still until it is told to jump.
struct Jumping {
    seconds: AtomicI64,
}

impl Default for Jumping {
    fn default() -> Self {
        Self { seconds: at(0).unix().into() }
    }
}

impl Jumping {
    fn jump(&self, seconds: i64) {
        self.seconds.fetch_add(seconds, Ordering::Relaxed);
    }
}

impl Clock for Jumping {
    fn now(&self) -> Timestamp {
        Timestamp::from_unix(self.seconds.load(Ordering::Relaxed))
    }
}

/// What is wrong with a disk now.
#[derive(Default)]
struct Faults {
    /// How many bytes of each write find room, if not all do.
    room: Mutex<Option<usize>>,
    create_fails: AtomicBool,
    flush_fails: AtomicBool,
    /// Flushes take until this is over.
    flush_hangs: AtomicBool,
    writes: AtomicU64,
    /// Where the last write has ended in its file.
    end: AtomicU64,
}

impl Faults {
    fn leave_room(&self, bytes: usize) {
        *self.room.lock().unwrap() = Some(bytes);
    }

    fn make_room(&self) {
        *self.room.lock().unwrap() = None;
    }
}

/// The machine's disk, with faults that are set while it is written.
struct Faulty(Arc<Faults>);

impl Disk for Faulty {
    fn create(&self, path: &Path) -> io::Result<Box<dyn LogFile>> {
        if self.0.create_fails.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let file = RealDisk.create(path)?;
        Ok(Box::new(FaultyFile { file, faults: Arc::clone(&self.0) }))
    }
}

struct FaultyFile {
    file: Box<dyn LogFile>,
    faults: Arc<Faults>,
}

impl LogFile for FaultyFile {
    fn write_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.faults.writes.fetch_add(1, Ordering::Relaxed);
        let room = self.faults.room.lock().unwrap().unwrap_or(usize::MAX);
        self.file.write_at(&bytes[..room.min(bytes.len())], offset)?;
        if room < bytes.len() {
            return Err(io::Error::from_raw_os_error(rustix::io::Errno::NOSPC.raw_os_error()));
        }
        self.faults.end.store(offset + bytes.len() as u64, Ordering::Relaxed);
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        while self.faults.flush_hangs.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(1));
        }
        if self.faults.flush_fails.load(Ordering::Relaxed) {
            return Err(io::Error::from_raw_os_error(rustix::io::Errno::IO.raw_os_error()));
        }
        self.file.flush()
    }

    fn end(&mut self, length: u64) -> io::Result<()> {
        self.file.end(length)
    }
}

/// Hands records over as the pipeline does.
fn append(log: &LocalLog, records: &[IssuanceRecord]) -> Appending {
    let issued: Vec<_> = records.iter().map(IssuanceRecord::as_issuance).collect();
    log.append(&issued)
}
