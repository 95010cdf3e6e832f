//! Every way to tamper with a log that we know of, and that each is found where it was done.

use std::fs;

use proptest::prelude::*;

use super::super::block::{self, Group, HEADER, Header, Position};
use super::super::entry::Opening;
use super::super::testing::{FIRST_DAY, TestLog, record};
use super::super::tree::checkpoint::tests::{TestKey, signed};
use super::*;
use crate::clock::Timestamp;
use crate::log::Durability;
use crate::log::local::{LocalLog, LogSettings, RealDisk};

fn report(log: &TestLog, known: &[KnownHead]) -> Report {
    verify(&log.directory(), &log.key.log_key(), known, &mut |_, _, _| {}).unwrap()
}

#[track_caller]
fn findings(log: &TestLog) -> Vec<Finding> {
    let findings = report(log, &[]).findings;
    assert!(!findings.is_empty());
    assert_eq!(findings.more, 0);
    findings.listed
}

/// Where each block of a file begins and ends.
fn blocks(segment: &Segment) -> Vec<(usize, usize)> {
    let content = segment.read().unwrap();
    segment
        .blocks(&content)
        .map(|block| block.map(|(offset, block)| (offset, offset + block.length)).unwrap())
        .collect()
}

fn elsewhere(checkpoint: Checkpoint) -> KnownHead {
    KnownHead { checkpoint, from: "on paper".to_owned() }
}

/// Changes a file.
fn edit(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut content = fs::read(path).unwrap();
    change(&mut content);
    fs::write(path, content).unwrap();
}

#[test]
fn a_log_that_nobody_touched_has_no_findings() {
    let log = TestLog::with_entries();
    let report = report(&log, &[elsewhere(log.checkpoint())]);
    assert_eq!(report.findings.listed, []);
    assert_eq!((report.size, report.end, report.runs, report.pruned), (1003, 1003, 2, 0));
    assert_eq!(report.agreeing.len(), 2);
    assert_eq!(report.unfinished, None);
}

#[test]
fn heads_of_any_size_agree_with_the_tree() {
    let log = TestLog::with_entries();
    let tiles = TileReader::new(log.path(), 1003);
    let sizes = [0, 1, 255, 256, 257, 512, 700, 768, 1002, 1003];
    let heads = sizes
        .map(|size| elsewhere(signed(&log.key, Head { size, root: root(size, &tiles).unwrap() })));
    let report = report(&log, &heads);
    assert_eq!(report.findings.listed, []);
    assert_eq!(report.agreeing.len(), sizes.len() + 1);
}

#[test]
fn a_log_that_is_being_written_has_no_findings() {
    let mut log = TestLog::with_entries();
    let older = log.checkpoint();
    log.run(1001..1100, 200);
    log.sign(older.unverified().head);
    let last = log.segments().pop().unwrap();
    let length = fs::metadata(&last.path).unwrap().len();
    edit(&last.path, |content| {
        let torn = content[..500].to_vec();
        content.extend(torn);
        content.resize(content.len() + 100_000, 0);
    });
    let report = report(&log, &[]);
    assert_eq!(report.findings.listed, []);
    assert_eq!((report.size, report.end), (1003, 1103));
    assert_eq!(report.unfinished.unwrap().offset, length);
}

#[test]
fn a_flipped_byte_is_found_in_its_block() {
    let log = TestLog::with_entries();
    for (segment, at) in log.segments().iter().zip([0, 3, 7, 11, 5, 0]) {
        let (start, end) = blocks(segment)[at];
        for offset in [start, start + 30, start + HEADER + 5, end - 1] {
            let kept = segment.read().unwrap();
            edit(&segment.path, |content| content[offset] ^= 0x10);
            let found = findings(&log);
            let Place::Block { path, offset, .. } = &found[0].place else { panic!("{found:?}") };
            assert_eq!((path, *offset), (&segment.path, start as u64), "{found:?}");
            fs::write(&segment.path, kept).unwrap();
        }
    }
    assert_eq!(report(&log, &[]).findings.listed, []);
}

#[test]
fn a_removed_block_leaves_a_gap() {
    let log = TestLog::with_entries();
    let segment = &log.segments()[1];
    let (start, end) = blocks(segment)[4];
    edit(&segment.path, |content| drop(content.drain(start..end)));
    let found = findings(&log);
    assert_eq!(found.len(), 1, "{found:?}");
    let path = segment.path.clone();
    assert_eq!(found[0].place, Place::Block { path, offset: start as u64, next: 241 });
    assert!(found[0].what.contains("begins with entry 251, and 241 is next"), "{found:?}");
}

#[test]
fn a_block_of_zeros_is_found() {
    let log = TestLog::with_entries();
    let segment = &log.segments()[1];
    let (start, end) = blocks(segment)[4];
    edit(&segment.path, |content| content[start..end].fill(0));
    let found = findings(&log);
    let path = segment.path.clone();
    assert_eq!(found[0].place, Place::Block { path, offset: start as u64, next: 241 });
}

#[test]
fn a_removed_last_block_of_a_file_is_missed_before_the_next() {
    let log = TestLog::with_entries();
    let segments = log.segments();
    let (start, _) = blocks(&segments[1]).pop().unwrap();
    edit(&segments[1].path, |content| content.truncate(start));
    let found = findings(&log);
    assert_eq!(found[0].place, Place::File(segments[2].path.clone()));
    assert!(found[0].what.contains("entries 391 to 400 are missing"), "{found:?}");
}

#[test]
fn a_removed_file_is_missed_before_the_next() {
    let log = TestLog::with_entries();
    let segments = log.segments();
    fs::remove_file(&segments[2].path).unwrap();
    let found = findings(&log);
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0].place, Place::File(segments[3].path.clone()));
    assert!(found[0].what.contains("entries 401 to 600 are missing"), "{found:?}");
}

#[test]
fn a_removed_first_file_is_missed_too() {
    let log = TestLog::with_entries();
    let segments = log.segments();
    fs::remove_file(&segments[0].path).unwrap();
    let found = findings(&log);
    assert_eq!(found[0].place, Place::File(segments[1].path.clone()));
    assert!(found[0].what.contains("entries 0 to 200 are missing"), "{found:?}");
}

/// Writes the blocks of a file anew, from the block `from` on, each entry as `change` has it, with seals that agree.
fn rewrite(segment: &Segment, change: impl Fn(u64, Vec<u8>) -> Vec<u8>) {
    let content = segment.read().unwrap();
    let (mut rewritten, mut previous) = (Vec::new(), None);
    for block in segment.blocks(&content) {
        let (_, block) = block.unwrap();
        let header = &block.header;
        let mut group = Group::default();
        for (index, entry) in (header.first..).zip(block.entries()) {
            let time = Entry::decode(entry).unwrap().time();
            group.add(time, |into| into.extend(change(index, entry.to_vec())));
        }
        let position = Position {
            writer: header.writer,
            number: header.number,
            first: header.first,
            flushed: header.flushed,
            previous: previous.unwrap_or(header.previous),
        };
        previous = Some(block::write(&mut rewritten, &position, &group));
    }
    fs::write(&segment.path, rewritten).unwrap();
}

#[test]
fn a_rewritten_record_in_sealed_blocks_is_found_by_the_tree() {
    let log = TestLog::with_entries();
    // The last file: no later one names its seals.
    let segment = log.segments().pop().unwrap();
    rewrite(&segment, |_, entry| entry);
    assert_eq!(report(&log, &[]).findings.listed, []);
    rewrite(&segment, |index, mut entry| {
        if index == 1002 {
            // A byte of its digest.
            entry[30] ^= 1;
        }
        entry
    });
    let found = findings(&log);
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0].place, Place::Entry { path: segment.path, offset: 0, index: 1002 });
    assert!(found[0].what.contains("not the one in the tree"), "{found:?}");
}

#[test]
fn a_rewritten_file_before_another_of_its_run_breaks_the_chain_too() {
    let log = TestLog::with_entries();
    let segments = log.segments();
    rewrite(&segments[1], |index, mut entry| {
        entry[30] ^= u8::from(index == 300);
        entry
    });
    let found = findings(&log);
    let places: Vec<_> = found.iter().map(|finding| &finding.place).collect();
    let [Place::Entry { index: 300, .. }, Place::Block { path, offset: 0, next: 401 }] = places[..]
    else {
        panic!("{found:?}")
    };
    assert_eq!(*path, segments[2].path);
}

#[test]
fn a_record_and_its_hash_rewritten_together_are_found_by_the_root() {
    let log = TestLog::with_entries();
    let segment = log.segments().pop().unwrap();
    let leaf = std::cell::Cell::new(None);
    rewrite(&segment, |index, mut entry| {
        if index == 1002 {
            entry[30] ^= 1;
            leaf.set(Some(Hash::leaf(&entry)));
        }
        entry
    });
    let tile = log.path().join("tile/0/003.p/235");
    edit(&tile, |content| content[234 * 32..].copy_from_slice(leaf.take().unwrap().as_bytes()));
    let found = findings(&log);
    let head = Place::Head(log.path().join(CHECKPOINT).display().to_string());
    assert_eq!((found.len(), &found[0].place), (1, &head), "{found:?}");
}

#[test]
fn a_head_of_another_key_is_refused() {
    let log = TestLog::with_entries();
    let forged = signed(&TestKey::new(), log.head());
    fs::write(log.path().join(CHECKPOINT), forged.to_string()).unwrap();
    let found = findings(&log);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(matches!(&found[0].place, Place::Head(from) if from.ends_with("log/checkpoint")));
    assert!(found[0].what.contains("no signature by"), "{found:?}");
}

#[test]
fn a_head_of_the_right_key_over_another_tree_is_found() {
    let log = TestLog::with_entries();
    log.sign(Head { size: 1003, root: Hash::EMPTY });
    let found = findings(&log);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(matches!(&found[0].place, Place::Head(from) if from.ends_with("log/checkpoint")));
    assert!(found[0].what.contains("its 1003 entries have the root"), "{found:?}");
}

#[test]
fn a_head_that_is_gone_or_no_head_is_found() {
    let log = TestLog::with_entries();
    let path = log.path().join(CHECKPOINT);
    for nonsense in [&b"nonsense"[..], b"", &[0xff; 100], &[b'a'; 200_000]] {
        fs::write(&path, nonsense).unwrap();
        assert_eq!(findings(&log)[0].place, Place::File(path.clone()));
    }
    fs::remove_file(&path).unwrap();
    assert_eq!(findings(&log)[0].place, Place::File(path));
}

#[test]
fn a_tail_that_was_cut_is_missed() {
    let log = TestLog::with_entries();
    let segments = log.segments();
    // Down to the middle of a file; and the newest file as a whole, with the block before it.
    let (start, _) = blocks(&segments[4])[7];
    edit(&segments[4].path, |content| content.truncate(start));
    fs::remove_file(&segments[5].path).unwrap();
    let found = findings(&log);
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0].place, Place::File(segments[4].path.clone()));
    assert!(found[0].what.contains("end before entry 872"), "{found:?}");
}

#[test]
fn a_block_torn_below_the_signed_head_is_no_block_being_written() {
    let log = TestLog::with_entries();
    let last = log.segments().pop().unwrap();
    edit(&last.path, |content| content.truncate(content.len() - 1));
    let report = report(&log, &[]);
    assert_eq!(report.unfinished, None);
    assert!(matches!(report.findings.listed[0].place, Place::Block { next: 1002, .. }));
}

#[test]
fn an_older_copy_is_found_by_a_head_kept_elsewhere_alone() {
    let mut log = TestLog::with_entries();
    let older = log.copy("older");
    log.run(1001..1300, 200);
    let newest = log.checkpoint();
    log.replace_by(&older);
    assert_eq!(report(&log, &[]).findings.listed, [], "nothing in the copy tells");
    let found = report(&log, &[elsewhere(newest)]).findings.listed;
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0].place, Place::Head("on paper".to_owned()));
    assert!(found[0].what.contains("older copy"), "{found:?}");
}

#[test]
fn a_log_made_anew_by_who_has_the_key_is_found_by_a_head_kept_elsewhere_alone() {
    let log = TestLog::with_entries();
    let kept = log.checkpoint();
    let mut other = TestLog::new();
    other.run(2000..3100, 200);
    log.replace_by(&other.path());
    log.sign(log.head());
    assert_eq!(report(&log, &[]).findings.listed, [], "nothing in the directory tells");
    let found = report(&log, &[elsewhere(kept)]).findings.listed;
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0].place, Place::Head("on paper".to_owned()));
    assert!(found[0].what.contains("its 1003 entries have the root"), "{found:?}");
}

#[test]
fn a_flipped_byte_in_a_tile_is_found_there() {
    let log = TestLog::with_entries();
    let upper = log.path().join("tile/1/000.p/3");
    edit(&upper, |content| content[40] ^= 1);
    let found = findings(&log);
    assert_eq!(found[0].place, Place::Tile(upper.clone()), "{found:?}");
    assert!(found[0].what.contains("hash 1 is not that of tile 1 of level 0"), "{found:?}");
    edit(&upper, |content| content[40] ^= 1);

    let lower = log.path().join("tile/0/001");
    edit(&lower, |content| content[44 * 32] ^= 1);
    let found = findings(&log);
    assert_eq!(found[0].place, Place::Head(log.path().join(CHECKPOINT).display().to_string()));
    assert_eq!(found[1].place, Place::Tile(upper));
    assert!(matches!(found[2].place, Place::Entry { index: 300, .. }), "{found:?}");
    edit(&lower, |content| content[44 * 32] ^= 1);

    edit(&lower, |content| content.truncate(100));
    assert_eq!(findings(&log)[0].place, Place::Tile(lower.clone()));
    fs::remove_file(&lower).unwrap();
    assert_eq!(findings(&log)[0].place, Place::Tile(lower));
}

#[test]
fn a_run_whose_number_was_had_before_is_found() {
    let log = TestLog::with_entries();
    let settings = LogSettings { directory: log.path(), durability: Durability::Durable };
    let now = record(1100, 200).time;
    let open = |number| {
        let writer = WriterId::new(number).unwrap();
        LocalLog::open(&settings, Arc::new(RealDisk), writer, &[], now).unwrap().close();
    };
    open(3);
    // The writer itself refuses such a number: it is put in afterwards, and the tree made anew over it.
    let segment = log.segments().pop().unwrap();
    let content = segment.read().unwrap();
    let (_, block) = segment.blocks(&content).next().unwrap().unwrap();
    let Entry::Opening(opening) = Entry::decode(block.entries().next().unwrap()).unwrap() else {
        panic!("a run begins with its opening")
    };
    let writer = WriterId::new(2).unwrap();
    let mut group = Group::default();
    group.add(now, |into| Entry::Opening(Opening { writer, ..opening }).encode(into));
    let Header { number, first, flushed, previous, .. } = block.header;
    let mut rewritten = Vec::new();
    block::write(&mut rewritten, &Position { writer, number, first, flushed, previous }, &group);
    fs::write(&segment.path, rewritten).unwrap();
    fs::remove_dir_all(log.path().join("tile")).unwrap();
    open(4);
    log.sign(log.head());
    let found = findings(&log);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(matches!(found[0].place, Place::Block { offset: 0, next: 1003, .. }), "{found:?}");
    assert!(found[0].what.contains("run 2 comes after run 2"), "{found:?}");
}

#[test]
fn many_findings_are_counted_and_twenty_listed() {
    let log = TestLog::with_entries();
    let mut bad = 0;
    for segment in log.segments() {
        for (start, _) in blocks(&segment).into_iter().step_by(2) {
            bad += 1;
            edit(&segment.path, |content| content[start + HEADER + 4] ^= 1);
        }
    }
    let findings = report(&log, &[]).findings;
    assert_eq!(findings.listed.len(), Findings::MOST_LISTED);
    assert!(findings.count() >= bad, "{} of {bad}", findings.count());
}

#[test]
fn records_that_were_pruned_are_not_missed_and_their_hashes_are() {
    let log = TestLog::with_entries();
    let now = Timestamp::from_unix((FIRST_DAY + 100) * 86_400);
    let before = record(400, 200).time;
    let plan =
        super::super::prune::plan(&log.directory(), &log.key.log_key(), before, now).unwrap();
    super::super::prune::prune(&log.directory(), &plan).unwrap();
    let whole = report(&log, &[]);
    assert_eq!((whole.findings.listed, whole.pruned, whole.size), (vec![], 401, 1003));
    let tile = log.path().join("tile/0/000");
    edit(&tile, |content| content[0] ^= 1);
    assert!(!report(&log, &[]).findings.is_empty());
    edit(&tile, |content| content[0] ^= 1);
    fs::write(log.path().join("records/pruned"), "601\n").unwrap();
    assert_eq!(report(&log, &[]).findings.listed, [], "what is left over is passed by");
    fs::write(log.path().join("records/pruned"), "201\n").unwrap();
    assert!(findings(&log)[0].what.contains("entries 201 to 400 are missing"));
}

/// The files whose content a signed head covers.
fn covered(log: &TestLog) -> Vec<PathBuf> {
    let size = log.head().size;
    let tiles = (0..2).flat_map(|level| (0..).map_while(move |at| TileName::of(level, at, size)));
    let mut files: Vec<_> = tiles.map(|name| log.path().join(name.to_string())).collect();
    files.extend(log.segments().into_iter().map(|segment| segment.path));
    files.push(log.path().join(CHECKPOINT));
    files
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3))]

    #[test]
    fn a_change_anywhere_is_found(
        changes in prop::collection::vec(
            (any::<prop::sample::Index>(), any::<prop::sample::Index>(), 0..=255_u8), 40,
        ),
    ) {
        let log = TestLog::with_entries();
        let files = covered(&log);
        prop_assert_eq!(files.len(), 4 + 1 + 6 + 1);
        for (file, at, flip) in changes {
            let path = file.get(&files);
            let kept = fs::read(path).unwrap();
            let at = at.index(kept.len());
            edit(path, |content| match flip {
                0 => content.truncate(at),
                flip => content[at] ^= flip,
            });
            prop_assert!(!report(&log, &[]).findings.is_empty(), "{path:?} at {at}, {flip}");
            fs::write(path, kept).unwrap();
        }
        prop_assert!(report(&log, &[]).findings.is_empty());
    }
}
