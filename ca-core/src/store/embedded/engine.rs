//! What happens on the engine's thread: questions to redb, and what its failures mean.

use std::fmt;
use std::io;
use std::ops::Bound;
use std::panic::{AssertUnwindSafe, catch_unwind};

use bytes::Bytes;
use redb::backends::FileBackend;
use redb::{
    Database, ReadOnlyTable, ReadableDatabase, ReadableTable, StorageBackend, Table,
    TableDefinition, WriteTransaction,
};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::directory::{Directory, way_out};
use crate::store::change::ChangeRecord;
use crate::store::{
    Change, Check, Commit, CommitId, CommitOutcome, Consistency, Cursor, Entry, Key, KeyRange, Op,
    Page, Snapshot, StoreError, Version, WatchGap, key, record,
};

/// The one table. A value stands behind the 12 bytes of the version that wrote it.
const STATE: TableDefinition<&[u8], &[u8]> = TableDefinition::new("state");
/// Pages of the file kept in memory, in bytes. The state of most sites fits.
const CACHE: usize = 32 << 20;
/// Change records that a follower takes at once: at most 100 keys of 1 KiB each.
const BATCH: usize = 16;

/// The layout that this code writes. A later one counts up.
const LAYOUT: u32 = 1;
/// Format byte of the records under tag `00`.
const FORMAT: u8 = 1;

/// The record `00 schema`: which layout the store has, and the oldest code that may use it.
#[derive(Debug, Serialize, Deserialize)]
struct Schema {
    layout: u32,
    min_reader: u32,
    min_writer: u32,
}

/// The record `00 epoch`.
#[derive(Debug, Serialize, Deserialize)]
struct Epoch {
    epoch: u32,
}

/// The redb database and the place in its history.
pub(super) struct Engine {
    place: String,
    database: Database,
    epoch: u32,
    /// Number of the last commit; zero before the first.
    head: u64,
    /// Number of the oldest change record there is, or of the next commit.
    oldest: u64,
    kept: u64,
    /// Wakes the followers. `None` once the engine is fenced, which ends them.
    announce: Option<watch::Sender<Version>>,
    /// After the database, so that the file is closed before the directory is let go.
    _directory: Option<Directory>,
}

/// An engine, and where its newest version is announced.
pub(super) struct Opened {
    pub(super) engine: Engine,
    pub(super) head: watch::Receiver<Version>,
}

impl Engine {
    /// Opens or makes the store of a directory.
    pub(super) fn open(directory: Directory, kept: u64) -> Result<Opened, StoreError> {
        let place = directory.database().display().to_string();
        let refused = |failure: Failure| failure.unusable(&place);
        let database = match directory.open_database()? {
            Some(file) => caught(|| check(FileBackend::new(file)?)).map_err(refused)?,
            None => {
                let file = directory.create_database()?;
                let database = caught(|| make(FileBackend::new(file)?)).map_err(refused)?;
                directory.finish_database()?;
                database
            }
        };
        Self::start(place, database, kept, Some(directory))
    }

    /// Makes a store on `backend`.
    #[cfg(any(test, feature = "testing"))]
    pub(super) fn over(backend: impl StorageBackend, kept: u64) -> Result<Opened, StoreError> {
        let place = "state store in memory".to_owned();
        let database = caught(|| make(backend)).map_err(|failure| failure.unusable(&place))?;
        Self::start(place, database, kept, None)
    }

    fn start(
        place: String,
        database: Database,
        kept: u64,
        directory: Option<Directory>,
    ) -> Result<Opened, StoreError> {
        let begin = caught(|| begin(&database)).map_err(|failure| failure.unusable(&place))?;
        begin.schema.check(&place)?;
        let (announce, head) = watch::channel(version_of(begin.head));
        let engine = Self {
            place,
            database,
            epoch: begin.epoch,
            head: begin.head,
            oldest: begin.oldest,
            kept,
            announce: Some(announce),
            _directory: directory,
        };
        Ok(Opened { engine, head })
    }

    pub(super) fn get(
        &mut self,
        keys: &[Key],
        consistency: Consistency,
    ) -> Result<Snapshot, StoreError> {
        self.reaches(consistency)?;
        let at = self.cursor(self.head);
        self.guarded(|engine| {
            let table = engine.table()?;
            let entries = keys.iter().map(|key| entry(&table, key)).collect::<Result<_, _>>()?;
            Ok(Snapshot { at, entries })
        })
    }

    pub(super) fn scan(
        &mut self,
        range: &KeyRange,
        after: Option<&Key>,
        limit: usize,
        consistency: Consistency,
    ) -> Result<Page, StoreError> {
        self.reaches(consistency)?;
        let at = self.cursor(self.head);
        self.guarded(|engine| {
            let (entries, more) = page(&engine.table()?, range, after, limit)?;
            Ok(Page { at, entries, more })
        })
    }

    pub(super) fn outcome(&mut self, id: CommitId) -> Result<Option<Version>, StoreError> {
        self.guarded(|engine| version_at(&engine.table()?, &key::commit_id(id)))
    }

    /// The next changes after `from`, none if there are none yet.
    pub(super) fn changes_after(
        &mut self,
        from: Cursor,
    ) -> Result<Result<Vec<Change>, WatchGap>, StoreError> {
        let known = match number_of(from.version) {
            Some(number) if from.epoch == self.epoch => {
                (self.oldest..=self.head + 1).contains(&(number + 1)).then_some(number)
            }
            _ => None,
        };
        let Some(number) = known else { return Ok(Err(WatchGap { from })) };
        self.guarded(|engine| {
            let table = engine.table()?;
            let next = (number + 1..=engine.head).take(BATCH);
            let changes = next.map(|number| {
                let touched = change(&table, number)?.touched;
                Ok(Change { cursor: engine.cursor(number), touched })
            });
            changes.collect::<Result<_, Failure>>().map(Ok)
        })
    }

    /// Applies a commit and tells the followers.
    pub(super) fn commit(&mut self, commit: &Commit) -> Result<CommitOutcome, StoreError> {
        let verdict = self.guarded(|engine| engine.verdict(commit))?;
        if let Some(known) = verdict {
            return Ok(known);
        }
        let (transaction, oldest) =
            caught(|| self.write(commit)).map_err(|failure| self.fence(failure).determinate())?;
        let place = &self.place;
        caught(|| Ok(transaction.commit()?)).map_err(|failure| {
            // Some of it may have reached the disk; only the next start can tell.
            let reason = format!("{place}: {failure}");
            self.announce = None;
            StoreError::Indeterminate { reason }
        })?;
        self.head += 1;
        self.oldest = oldest;
        let version = version_of(self.head);
        if let Some(announce) = &self.announce {
            announce.send_replace(version);
        }
        Ok(CommitOutcome::Done(version))
    }

    /// What is known of a commit before anything is written; `None` if it is to be applied.
    fn verdict(&self, commit: &Commit) -> Result<Option<CommitOutcome>, Failure> {
        let table = self.table()?;
        if let Some(version) = version_at(&table, &key::commit_id(commit.id()))? {
            return Ok(Some(CommitOutcome::Done(version)));
        }
        for (index, check) in commit.checks().iter().enumerate() {
            if !self.holds(&table, check)? {
                return Ok(Some(CommitOutcome::Conflict { check: index }));
            }
        }
        let nothing_to_do = commit.ops().is_empty();
        Ok(nothing_to_do.then_some(CommitOutcome::Done(version_of(self.head))))
    }

    fn holds(&self, table: &ReadOnlyTable<&[u8], &[u8]>, check: &Check) -> Result<bool, Failure> {
        match check {
            Check::Absent(key) => Ok(entry(table, key)?.is_none()),
            Check::At(key, version) => {
                Ok(entry(table, key)?.is_some_and(|entry| entry.version == *version))
            }
            // Asked of the journal and not of the entries: a key that was deleted left no entry.
            Check::RangeUnchanged(range, version) => {
                let known = number_of(*version)
                    .filter(|number| (self.oldest..=self.head + 1).contains(&(number + 1)));
                let Some(number) = known else { return Ok(false) };
                for number in number + 1..=self.head {
                    if change(table, number)?.touches(range) {
                        return Ok(false);
                    }
                }
                Ok(true)
            }
        }
    }

    /// Everything that a commit writes, not yet committed, and the number of the oldest change record
    /// that it leaves.
    fn write(&self, commit: &Commit) -> Result<(WriteTransaction, u64), Failure> {
        let transaction = begin_write(&self.database)?;
        let number = self.head + 1;
        let version = version_of(number);
        let oldest = {
            let mut table = transaction.open_table(STATE)?;
            for op in commit.ops() {
                match op {
                    Op::Put(key, value) => put(&mut table, key, version, value)?,
                    Op::Delete(key) => drop(table.remove(key.bytes())?),
                    Op::DeleteRange(range) => {
                        table.retain_in(range.start()..range.end(), |_, _| false)?;
                    }
                }
            }
            let change = ChangeRecord::of(commit).encode();
            put(&mut table, &key::change(version), version, &change)?;
            put(&mut table, &key::change_head(), version, version.bytes())?;
            put(&mut table, &key::commit_id(commit.id()), version, version.bytes())?;
            sweep(&mut table, self.oldest, number.saturating_sub(self.kept))?
        };
        Ok((transaction, oldest))
    }

    /// Reads, unless the engine is fenced; fences it if that fails.
    fn guarded<T>(
        &mut self,
        read: impl FnOnce(&Self) -> Result<T, Failure>,
    ) -> Result<T, StoreError> {
        if self.announce.is_none() {
            return Err(StoreError::Fenced { place: self.place.clone() });
        }
        caught(|| read(self)).map_err(|failure| self.fence(failure))
    }

    /// The engine takes nothing more: what the file holds is no longer known.
    fn fence(&mut self, failure: Failure) -> StoreError {
        self.announce = None;
        failure.unusable(&self.place)
    }

    fn reaches(&self, consistency: Consistency) -> Result<(), StoreError> {
        match consistency {
            Consistency::AtLeast(version) if version > version_of(self.head) => {
                Err(StoreError::Unavailable {
                    place: self.place.clone(),
                    reason: format!(
                        "version {version} is asked for and {} is the newest; read again later",
                        version_of(self.head)
                    ),
                })
            }
            _ => Ok(()),
        }
    }

    fn cursor(&self, number: u64) -> Cursor {
        Cursor { epoch: self.epoch, version: version_of(number) }
    }

    fn table(&self) -> Result<ReadOnlyTable<&'static [u8], &'static [u8]>, Failure> {
        Ok(self.database.begin_read()?.open_table(STATE)?)
    }
}

/// Opens what is there, with every checksum of the file verified: a damaged file is an error now and not
/// a surprise later.
fn check(backend: impl StorageBackend) -> Result<Database, Failure> {
    if backend.len()? == 0 {
        return Err(Failure::Record("it is empty".to_owned()));
    }
    Ok(Database::builder()
        .set_cache_size(CACHE)
        .set_check_integrity_on_open(true)
        .create_with_backend(backend)?)
}

/// Makes an empty store.
fn make(backend: impl StorageBackend) -> Result<Database, Failure> {
    let database = Database::builder().set_cache_size(CACHE).create_with_backend(backend)?;
    let transaction = begin_write(&database)?;
    {
        let mut table = transaction.open_table(STATE)?;
        let schema = Schema { layout: LAYOUT, min_reader: LAYOUT, min_writer: LAYOUT };
        put(&mut table, &key::schema(), Version::ZERO, &record::encode(FORMAT, &schema))?;
        let epoch = Epoch { epoch: 1 };
        put(&mut table, &key::epoch(), Version::ZERO, &record::encode(FORMAT, &epoch))?;
    }
    transaction.commit()?;
    Ok(database)
}

/// Every write goes through here, with the default durability, which is a flush before the answer. The
/// two-phase commit keeps an older state valid until the new one is on the disk, whoever chose the
/// contents; quick repair makes the start after a crash independent of the size of the file.
fn begin_write(database: &Database) -> Result<WriteTransaction, Failure> {
    let mut transaction = database.begin_write()?;
    transaction.set_two_phase_commit(true);
    transaction.set_quick_repair(true);
    Ok(transaction)
}

/// Where a store stands when it is opened.
struct Begin {
    schema: Schema,
    epoch: u32,
    head: u64,
    oldest: u64,
}

fn begin(database: &Database) -> Result<Begin, Failure> {
    let table = database.begin_read()?.open_table(STATE)?;
    let schema = entry(&table, &key::schema())?.ok_or_else(|| missing("schema"))?;
    let epoch = entry(&table, &key::epoch())?.ok_or_else(|| missing("epoch"))?;
    let unreadable = |error: StoreError| Failure::Record(error.to_string());
    let head = version_at(&table, &key::change_head())?.unwrap_or(Version::ZERO);
    let head = number_of(head).ok_or_else(|| missing("change head"))?;
    let (first, _) = page(&table, &key::changes(), None, 1)?;
    let oldest = first.first().map_or(Some(head + 1), |entry| number_of(entry.version));
    Ok(Begin {
        schema: record::decode(FORMAT, &schema).map_err(unreadable)?,
        epoch: record::decode::<Epoch>(FORMAT, &epoch).map_err(unreadable)?.epoch,
        head,
        oldest: oldest.ok_or_else(|| missing("oldest change"))?,
    })
}

impl Schema {
    fn check(&self, place: &str) -> Result<(), StoreError> {
        if self.min_reader.max(self.min_writer) <= LAYOUT {
            return Ok(());
        }
        Err(StoreError::Unavailable {
            place: place.to_owned(),
            reason: format!(
                "it has layout {} and this release knows layouts up to {LAYOUT}; start the release that wrote it",
                self.layout
            ),
        })
    }
}

fn entry(
    table: &impl ReadableTable<&'static [u8], &'static [u8]>,
    key: &Key,
) -> Result<Option<Entry>, Failure> {
    let stored = table.get(key.bytes())?;
    stored.map(|stored| parse(key.clone(), stored.value())).transpose()
}

/// The entries of a range, and whether there are more.
fn page(
    table: &ReadOnlyTable<&[u8], &[u8]>,
    range: &KeyRange,
    after: Option<&Key>,
    limit: usize,
) -> Result<(Vec<Entry>, bool), Failure> {
    let start = match after {
        Some(after) if after.bytes() >= range.end() => return Ok((Vec::new(), false)),
        Some(after) if after.bytes() >= range.start() => Bound::Excluded(after.bytes()),
        _ => Bound::Included(range.start()),
    };
    let limit = limit.clamp(1, Page::ENTRIES);
    let (mut entries, mut bytes) = (Vec::new(), 0);
    for stored in table.range::<&[u8]>((start, Bound::Excluded(range.end())))? {
        if entries.len() == limit || bytes >= Page::BYTES {
            return Ok((entries, true));
        }
        let (key, value) = stored?;
        let key = Key::from_bytes(Bytes::copy_from_slice(key.value()))
            .ok_or_else(|| missing("a key of the layout"))?;
        let entry = parse(key, value.value())?;
        bytes += entry.value.len();
        entries.push(entry);
    }
    Ok((entries, false))
}

fn parse(key: Key, stored: &[u8]) -> Result<Entry, Failure> {
    let (version, value) =
        stored.split_first_chunk().ok_or_else(|| missing("the version of a value"))?;
    let version = Version::from_bytes(*version);
    Ok(Entry { key, value: Bytes::copy_from_slice(value), version })
}

fn put(
    table: &mut Table<'_, &'static [u8], &'static [u8]>,
    key: &Key,
    version: Version,
    value: &[u8],
) -> Result<(), Failure> {
    let stored = [&version.bytes()[..], value].concat();
    table.insert(key.bytes(), &stored[..])?;
    Ok(())
}

/// The version that a record of the store itself holds.
fn version_at(table: &ReadOnlyTable<&[u8], &[u8]>, key: &Key) -> Result<Option<Version>, Failure> {
    let Some(entry) = entry(table, key)? else { return Ok(None) };
    let bytes = entry.value[..].try_into().map_err(|_| missing("a version"))?;
    Ok(Some(Version::from_bytes(bytes)))
}

/// The change record of a commit by its number.
fn change(
    table: &impl ReadableTable<&'static [u8], &'static [u8]>,
    number: u64,
) -> Result<ChangeRecord, Failure> {
    let entry = entry(table, &key::change(version_of(number)))?;
    let record = entry.and_then(|entry| ChangeRecord::decode(entry.value));
    record.ok_or_else(|| missing("a change record"))
}

/// Removes change records from `oldest` to `last`, each with its commit id, and gives the number of the
/// oldest one left. Two at most, so that no commit pays for a limit that was lowered.
fn sweep(
    table: &mut Table<'_, &'static [u8], &'static [u8]>,
    oldest: u64,
    last: u64,
) -> Result<u64, Failure> {
    let mut next = oldest;
    for number in (oldest..=last).take(2) {
        let id = change(table, number)?.id;
        table.remove(key::change(version_of(number)).bytes())?;
        table.remove(key::commit_id(id).bytes())?;
        next = number + 1;
    }
    Ok(next)
}

/// Commits are numbered without gaps, from one.
fn version_of(number: u64) -> Version {
    let mut bytes = [0; 12];
    bytes[..8].copy_from_slice(&number.to_be_bytes());
    Version::from_bytes(bytes)
}

/// The number of a version, if this engine can have given it.
fn number_of(version: Version) -> Option<u64> {
    let (number, rest) = version.bytes().split_first_chunk()?;
    let number = u64::from_be_bytes(*number);
    (rest == [0; 4] && number < u64::MAX).then_some(number)
}

/// Why redb gave no answer.
#[derive(Debug)]
enum Failure {
    /// An error of redb, or of the disk.
    Redb(Box<redb::Error>),
    /// redb trusts parts of its file and panics where they are wrong.
    Panic,
    /// A record is not as this module writes it.
    Record(String),
}

fn missing(what: &str) -> Failure {
    Failure::Record(format!("{what} is missing or malformed"))
}

impl<E: Into<redb::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Redb(Box::new(error.into()))
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Redb(error) => match &**error {
                redb::Error::Io(error) => write!(f, "{error}; {}", way_out(error)),
                error => write!(f, "{error}"),
            },
            Self::Panic => f.write_str("reading it made the engine panic"),
            Self::Record(what) => f.write_str(what),
        }
    }
}

impl Failure {
    /// Whether the file is wrong, and not the disk or the moment.
    fn is_corruption(&self) -> bool {
        match self {
            Self::Panic | Self::Record(_) => true,
            Self::Redb(error) => match &**error {
                redb::Error::Io(error) => {
                    matches!(
                        error.kind(),
                        io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof
                    )
                }
                redb::Error::Corrupted(_)
                | redb::Error::TableDoesNotExist(_)
                | redb::Error::TableTypeMismatch { .. }
                | redb::Error::TableIsMultimap(_)
                | redb::Error::TypeDefinitionChanged { .. } => true,
                _ => false,
            },
        }
    }

    /// The store cannot be used any more.
    fn unusable(self, place: &str) -> StoreError {
        let place = place.to_owned();
        if self.is_corruption() {
            let reason = format!("{self}; move the file away and restore a backup in its place");
            StoreError::Corrupt { place, reason }
        } else {
            StoreError::Unavailable { place, reason: self.to_string() }
        }
    }
}

impl StoreError {
    /// The same reason, for a commit that was certainly not applied.
    fn determinate(self) -> Self {
        match self {
            Self::Unavailable { place, reason } => {
                Self::Determinate { reason: format!("{place}: {reason}") }
            }
            other => other,
        }
    }
}

/// Runs code of redb; a panic of it is a failure like any other. What it held is not used again, because
/// every failure fences the engine.
fn caught<T>(work: impl FnOnce() -> Result<T, Failure>) -> Result<T, Failure> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or(Err(Failure::Panic))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use redb::backends::InMemoryBackend;

    use super::*;

    fn open(directory: &Path) -> Result<Engine, StoreError> {
        Engine::open(Directory::lock(directory)?, 10).map(|opened| opened.engine)
    }

    /// Puts a value where only the store itself may.
    fn overwrite(directory: &Path, key: &Key, value: &[u8]) {
        let engine = open(directory).unwrap();
        let transaction = begin_write(&engine.database).unwrap();
        put(&mut transaction.open_table(STATE).unwrap(), key, Version::ZERO, value).unwrap();
        transaction.commit().unwrap();
    }

    #[test]
    fn the_records_of_the_store_do_not_change() {
        let mut engine = Engine::over(InMemoryBackend::new(), 10).unwrap().engine;
        let snapshot = engine.get(&[key::schema(), key::epoch()], Consistency::Strong).unwrap();
        let values = snapshot.entries.into_iter().map(|entry| entry.unwrap().value);
        let expected =
            [&b"\x01{\"layout\":1,\"min_reader\":1,\"min_writer\":1}"[..], b"\x01{\"epoch\":1}"];
        assert_eq!(values.collect::<Vec<_>>(), expected);
    }

    #[test]
    fn a_newer_layout_is_refused_unless_it_says_that_old_code_may_use_it() {
        let place = tempfile::tempdir().unwrap();
        let newer = |reader: u32, writer: u32| {
            let schema = Schema { layout: 7, min_reader: reader, min_writer: writer };
            let value = record::encode(FORMAT, &schema);
            overwrite(place.path(), &key::schema(), &value);
            open(place.path()).map(|_| ())
        };
        assert_eq!(newer(1, 1), Ok(()));
        let error = newer(1, 2).unwrap_err();
        assert!(matches!(error, StoreError::Unavailable { .. }), "{error:?}");
        assert!(error.to_string().contains("layout 7"), "{error}");
    }

    #[test]
    fn a_record_of_the_store_that_is_malformed_is_corruption() {
        for (key, value) in [
            (key::schema(), &b""[..]),
            (key::schema(), b"\x01{}"),
            (key::epoch(), b"\x02{\"epoch\":1}"),
            (key::change_head(), b"\0"),
            (key::change_head(), &[0xff; 12]),
        ] {
            let place = tempfile::tempdir().unwrap();
            overwrite(place.path(), &key, value);
            let error = open(place.path()).map(|_| ()).unwrap_err();
            assert!(matches!(error, StoreError::Corrupt { .. }), "{error:?}");
            assert!(error.to_string().contains("state.redb"), "{error}");
        }
    }

    #[test]
    fn a_panic_of_redb_is_corruption_and_fences() {
        let mut engine = Engine::over(InMemoryBackend::new(), 10).unwrap().engine;
        let error = engine.guarded::<()>(|_| panic!("as redb does")).unwrap_err();
        assert!(matches!(error, StoreError::Corrupt { .. }), "{error:?}");
        let error = engine.get(&[], Consistency::Strong).unwrap_err();
        assert!(matches!(error, StoreError::Fenced { .. }), "{error:?}");
    }

    #[test]
    fn versions_are_numbers_and_sort_as_numbers() {
        for number in [0, 1, 255, 256, u64::MAX - 1] {
            assert_eq!(number_of(version_of(number)), Some(number));
            assert!(version_of(number) < version_of(number + 1));
        }
        assert_eq!(number_of(Version::from_bytes([0xff; 12])), None);
        assert_eq!(number_of(version_of(u64::MAX)), None, "no commit can follow it");
    }
}
