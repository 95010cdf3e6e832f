//! Searching the log: through the index where there is one to be asked, else record by record.

use std::fs::File;
use std::ops::ControlFlow;

use super::block::{Block, BlockError, LONGEST_BLOCK};
use super::directory::{LogDirectory, ReadError};
use super::entry::Entry;
use super::index::{Index, IndexKey};
use super::reading::{Cursor, Logged, each_of, entries, read_at};
use super::records::{Damage, Segment};
use super::{Document, IssuanceRecord};
use crate::clock::Timestamp;
use crate::id::SpiffeId;
use crate::serial::Serial;

/// Which records are wanted: those that meet all that is set.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Query {
    /// For this ID, or for one below it.
    pub id: Option<IdQuery>,
    /// The certificate of this serial number.
    pub serial: Option<Serial>,
    /// Signed by this authority, or by this issuing key.
    pub authority: Option<String>,
    /// Written at this time or later.
    pub since: Option<Timestamp>,
    /// Written at this time or before.
    pub until: Option<Timestamp>,
    /// About what is valid then.
    pub valid_at: Option<Timestamp>,
}

/// Which IDs are wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IdQuery {
    /// This one.
    Exactly(SpiffeId),
    /// All whose beginning is this text, which ends with a slash.
    Below(String),
}

impl IdQuery {
    /// Reads an ID, or the beginning of several: `spiffe://example.org/shop/*`.
    ///
    /// # Errors
    /// Why it is none.
    pub fn parse(text: &str) -> Result<Self, String> {
        let Some(above) = text.strip_suffix("/*") else {
            return Ok(Self::Exactly(SpiffeId::parse(text).map_err(|error| error.to_string())?));
        };
        let id = SpiffeId::parse(above).map_err(|error| error.to_string())?;
        Ok(Self::Below(format!("{id}/")))
    }

    fn matches(&self, id: &SpiffeId) -> bool {
        match self {
            Self::Exactly(wanted) => wanted == id,
            Self::Below(beginning) => id.as_str().starts_with(beginning),
        }
    }
}

impl Query {
    /// Whether a record is one of those that are wanted.
    #[must_use]
    pub fn matches(&self, record: &IssuanceRecord) -> bool {
        let has_serial = |wanted: &Serial| matches!(&record.document, Document::X509 { serial, .. } if serial == wanted);
        let is_by = |wanted: &String| {
            *record.authority == **wanted || record.issuing_key.as_deref() == Some(wanted)
        };
        let is_valid = |at: Timestamp| (record.not_before..=record.not_after).contains(&at);
        self.id.as_ref().is_none_or(|wanted| wanted.matches(&record.id))
            && self.serial.as_ref().is_none_or(has_serial)
            && self.authority.as_ref().is_none_or(is_by)
            && self.since.is_none_or(|since| record.time >= since)
            && self.until.is_none_or(|until| record.time <= until)
            && self.valid_at.is_none_or(is_valid)
    }

    /// What an index can be asked for: what occurs least.
    fn key(&self) -> Option<IndexKey> {
        let id = || match &self.id {
            Some(IdQuery::Exactly(id)) => Some(IndexKey::id(id.as_str())),
            _ => None,
        };
        let authority = || self.authority.as_deref().map(IndexKey::authority);
        self.serial.as_ref().map(IndexKey::serial).or_else(id).or_else(authority)
    }

    fn may_be_within(&self, (first, last): (Timestamp, Timestamp)) -> bool {
        self.since.is_none_or(|since| last >= since)
            && self.until.is_none_or(|until| first <= until)
    }

    fn wants_index(&self) -> bool {
        self.key().is_some() || self.since.is_some() || self.until.is_some()
    }
}

/// Visits the records that are wanted, in their order, until the visitor breaks. Every one is looked at itself;
/// indexes only say where to look, and are made where they are missing.
///
/// # Errors
/// [`ReadError`], and those of the visitor.
pub fn search<E: From<ReadError>>(
    log: &LogDirectory,
    query: &Query,
    use_index: bool,
    mut found: impl FnMut(u64, IssuanceRecord) -> Result<ControlFlow<()>, E>,
) -> Result<(), E> {
    let mut visit = |logged: Logged| match logged.entry {
        Entry::Issuance(record) if query.matches(&record) => found(logged.index, record),
        _ => Ok(ControlFlow::Continue(())),
    };
    if !(use_index && query.wants_index()) {
        return Cursor::new(log, 0).each(visit);
    }
    let segments = log.segments()?;
    let Some((last, finished)) = segments.split_last() else { return Ok(()) };
    for segment in finished {
        if search_finished(log, query, segment, &mut visit)?.is_break() {
            return Ok(());
        }
    }
    Cursor::new(log, last.first).each(visit)
}

/// Visits the entries of a file that is not written any more, all of them or those to which its index leads.
fn search_finished<E: From<ReadError>>(
    log: &LogDirectory,
    query: &Query,
    segment: &Segment,
    visit: &mut impl FnMut(Logged) -> Result<ControlFlow<()>, E>,
) -> Result<ControlFlow<()>, E> {
    let index = Index::of(log, segment)?;
    if !query.may_be_within(index.times()) {
        return Ok(ControlFlow::Continue(()));
    }
    let Some(key) = query.key() else { return each_of(segment, visit) };
    let candidates = index.blocks(key);
    if candidates.is_empty() {
        return Ok(ControlFlow::Continue(()));
    }
    let file = File::open(&segment.path).map_err(ReadError::disk(&segment.path))?;
    let mut buffer = vec![0; LONGEST_BLOCK];
    for offset in candidates {
        let length = read_at(&file, &mut buffer, offset).map_err(ReadError::disk(&segment.path))?;
        for logged in entries_at(segment, offset, &buffer[..length])? {
            if visit(logged)?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
    }
    Ok(ControlFlow::Continue(()))
}

/// The entries of the block to which an index leads.
fn entries_at(segment: &Segment, offset: u64, bytes: &[u8]) -> Result<Vec<Logged>, ReadError> {
    let damage = |fault| Damage { path: segment.path.clone(), offset, fault };
    match Block::read(bytes) {
        Ok(Some(block)) => Ok(entries(&block, 0).collect::<Result<_, _>>().map_err(damage)?),
        Ok(None) => Err(damage(BlockError::Magic.into()).into()),
        Err(error) => Err(damage(error.into()).into()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use proptest::prelude::*;

    use super::super::testing::{DAY, FIRST_DAY, TestLog, digest, id, record, serial};
    use super::*;

    fn found(log: &LogDirectory, query: &Query, use_index: bool) -> Vec<(u64, IssuanceRecord)> {
        let mut all = Vec::new();
        search(log, query, use_index, |index, record| {
            all.push((index, record));
            Ok::<_, ReadError>(ControlFlow::Continue(()))
        })
        .unwrap();
        all
    }

    fn day(number: i64) -> Timestamp {
        Timestamp::from_unix((FIRST_DAY + number) * DAY)
    }

    #[test]
    fn a_serial_number_finds_its_record_alone() {
        let log = TestLog::with_entries();
        for number in [0, 300, 1000] {
            let query = Query { serial: Some(serial(number)), ..Query::default() };
            let found = found(&log.directory(), &query, true);
            let [(_, record)] = &found[..] else { panic!("{found:?}") };
            assert_eq!(record.digest, digest(number));
        }
        assert!(log.path().join("index").exists());
    }

    #[test]
    fn an_index_that_leads_nowhere_changes_no_result_once_it_is_damaged() {
        let log = TestLog::with_entries();
        let query = Query { id: Some(IdQuery::Exactly(id(3))), ..Query::default() };
        let wanted = found(&log.directory(), &query, true);
        assert_eq!(wanted.len(), 143);
        for file in fs::read_dir(log.path().join("index")).unwrap() {
            let path = file.unwrap().path();
            let mut content = fs::read(&path).unwrap();
            content[100] ^= 1;
            fs::write(path, content).unwrap();
        }
        assert_eq!(found(&log.directory(), &query, true), wanted);
    }

    #[test]
    fn a_search_can_end_early() {
        let log = TestLog::with_entries();
        for query in [
            Query::default(),
            Query { authority: Some("cc".to_owned()), ..Query::default() },
            Query { since: Some(day(1)), ..Query::default() },
        ] {
            let mut count = 0;
            search(&log.directory(), &query, true, |_, _| {
                count += 1;
                Ok::<_, ReadError>(ControlFlow::Break(()))
            })
            .unwrap();
            assert_eq!(count, 1);
        }
    }

    #[test]
    fn an_id_and_the_beginning_of_ids_are_read() {
        assert_eq!(IdQuery::parse("spiffe://a.test/shop/w1"), Ok(IdQuery::Exactly(id(1))));
        let below = IdQuery::parse("spiffe://a.test/shop/*").unwrap();
        assert!(below.matches(&id(1)));
        assert!(!IdQuery::parse("spiffe://a.test/sho/*").unwrap().matches(&id(1)));
        assert!(IdQuery::parse("spiffe://a.test/*").unwrap().matches(&id(1)));
        assert!(IdQuery::parse("/*").is_err() && IdQuery::parse("shop").is_err());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4))]

        #[test]
        fn every_search_finds_what_reading_all_finds(
            queries in prop::collection::vec((
                prop::option::of(0..7_u64), prop::option::of(0..1001_u64), any::<bool>(),
                prop::option::of(prop::sample::select(vec!["aa", "bb", "cc", "dd"])),
                prop::option::of(0..7_i64), prop::option::of(0..7_i64), prop::option::of(0..7_i64),
            ), 12),
        ) {
            let log = TestLog::with_entries();
            let all: Vec<_> = (0..1001).map(|number| record(number, 200)).collect();
            for (workload, number, below, authority, since, until, valid) in queries {
                let id = workload.map(|number| match below {
                    true => IdQuery::Below("spiffe://a.test/shop/".to_owned()),
                    false => IdQuery::Exactly(id(number)),
                });
                let query = Query {
                    id,
                    serial: number.filter(|number| number % 3 == 0).map(serial),
                    authority: authority.map(str::to_owned),
                    since: since.map(day),
                    until: until.map(day),
                    valid_at: valid.map(|number| Timestamp::from_unix(day(number).unix() + 2_000)),
                };
                let wanted: Vec<_> = all.iter().filter(|record| query.matches(record)).collect();
                for use_index in [true, false, true] {
                    let found = found(&log.directory(), &query, use_index);
                    prop_assert!(found.iter().map(|(_, record)| record).eq(wanted.iter().copied()));
                }
            }
        }
    }
}
