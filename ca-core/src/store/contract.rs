//! What every state store owes: one suite, run by each implementation.
#![expect(clippy::unwrap_used, reason = "a suite states its expectations as tests do")]

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::{FutureExt, join, join_all};
use futures_util::stream::StreamExt;

use super::{
    Change, Check, Commit, CommitOutcome, Consistency, Cursor, Entry, Key, KeyRange, Limit, Op,
    Page, StateStore, StoreError, Touched, Version, WatchGap,
};

type Store = Arc<dyn StateStore>;

/// Runs the suite. `open` gives a new, empty store that keeps the change records and commit ids of as
/// many commits as it is told.
///
/// # Panics
/// If the store breaks a promise; the message and the line say which.
pub async fn state_store<S: StateStore + 'static>(open: impl AsyncFn(u64) -> S) {
    const PLENTY: u64 = 1_000;
    let open = async |commits| {
        let store: Store = Arc::new(open(commits).await);
        store
    };

    entries_come_back_in_the_order_of_their_keys(open(PLENTY).await).await;
    pages_hold_each_entry_once_while_others_write(open(PLENTY).await).await;
    a_page_ends_at_its_limits(open(PLENTY).await).await;
    a_snapshot_answers_in_the_order_of_the_question(open(PLENTY).await).await;
    reads_are_as_new_as_is_asked_for(open(PLENTY).await).await;

    each_check_holds_or_nothing_is_applied(open(PLENTY).await).await;
    a_key_made_again_has_changed(open(PLENTY).await).await;
    a_range_check_sees_what_comes_and_what_goes(open(PLENTY).await).await;
    a_range_check_fails_when_nobody_remembers(open(4).await).await;
    a_commit_without_operations_only_checks(open(PLENTY).await).await;
    a_range_is_deleted_and_nothing_beside_it(open(PLENTY).await).await;
    a_commit_at_every_limit_is_applied(open(PLENTY).await).await;

    concurrent_increments_are_all_counted(open(PLENTY).await).await;
    a_token_is_redeemed_once(open(PLENTY).await).await;
    a_scan_never_sees_half_a_commit(open(PLENTY).await).await;
    a_commit_is_known_by_its_id_and_applied_once(open(PLENTY).await).await;
    a_commit_whose_answer_is_lost_is_resolved_by_its_id(open(PLENTY).await).await;
    commit_ids_are_forgotten_with_their_changes(open(4).await).await;

    changes_come_from_any_cursor_complete_and_in_order(open(PLENTY).await).await;
    a_waiting_watcher_is_woken(open(PLENTY).await).await;
    a_cursor_that_is_not_known_is_a_gap(open(4).await).await;
    a_slow_watcher_ends_in_a_gap(open(4).await).await;
    reading_and_replaying_converges(open(PLENTY).await).await;
}

async fn entries_come_back_in_the_order_of_their_keys(store: Store) {
    let mut suffixes: Vec<&[u8]> = vec![
        b"ab",
        b"",
        b"\xff\xff",
        b"\0",
        b"b",
        b"a\0",
        b"\xff",
        b"\0\xff",
        b"a",
        b"\0\0",
        b"\x01",
        b"\x7f",
        b"\x80",
    ];
    put_all(&store, suffixes.iter().map(|suffix| (key(suffix), Bytes::from_static(b"v")))).await;
    suffixes.sort();
    let expected: Vec<Key> = suffixes.iter().map(|suffix| key(suffix)).collect();
    assert_eq!(keys(&scan(&store, &everything()).await), expected);

    let below_a = KeyRange::starting_with(&key(b"a"));
    assert_eq!(keys(&scan(&store, &below_a).await), [key(b"a"), key(b"a\0"), key(b"ab")]);
    let one = KeyRange::one(&key(b"a"));
    assert_eq!(keys(&scan(&store, &one).await), [key(b"a")]);
}

async fn pages_hold_each_entry_once_while_others_write(store: Store) {
    let numbered = |n: u32| key(format!("{n:03}").as_bytes());
    put_all(&store, (0..30).map(|n| (numbered(n * 10), Bytes::new()))).await;
    let (mut seen, mut after) = (Vec::new(), None);
    for round in 0.. {
        let page = page(&store, &everything(), after.as_ref(), 7).await;
        assert!(page.entries.len() <= 7);
        seen.extend(keys(&page));
        after = seen.last().cloned();
        if !page.more {
            break;
        }
        // Comes and goes behind, at and before the next page, without moving what stays.
        put(&store, &numbered(round), b"").await;
        put(&store, &numbered(999 - round), b"").await;
        apply(
            &store,
            vec![],
            vec![Op::Delete(after.clone().expect("a page that goes on has entries"))],
        )
        .await
        .unwrap();
    }
    let stayed: Vec<Key> = (0..30).map(|n| numbered(n * 10)).collect();
    let met: Vec<Key> = seen.iter().filter(|key| stayed.contains(key)).cloned().collect();
    assert_eq!(met, stayed);
    assert!(seen.is_sorted_by(|one, next| one < next), "{seen:?}");
}

async fn a_page_ends_at_its_limits(store: Store) {
    let value = Bytes::from(vec![7; Commit::VALUE_BYTES]);
    for first in [0_u8, 7, 14] {
        let entries = (first..first + 7).map(|n| (key(&[n]), value.clone()));
        put_all(&store, entries).await;
    }
    let whole = page(&store, &everything(), None, usize::MAX).await;
    assert!(whole.more, "21 values of 64 KiB are more than a page");
    assert_eq!(whole.entries.len(), Page::BYTES / Commit::VALUE_BYTES);
    assert_eq!(page(&store, &everything(), None, 0).await.entries.len(), 1);

    let exact = page(&store, &everything(), Some(&key(&[17])), 3).await;
    assert_eq!((exact.entries.len(), exact.more), (3, false));
    let one_short = page(&store, &everything(), Some(&key(&[17])), 2).await;
    assert_eq!((one_short.entries.len(), one_short.more), (2, true));

    let behind = page(&store, &KeyRange::one(&key(&[3])), Some(&key(&[9])), 5).await;
    assert_eq!((behind.entries.len(), behind.more), (0, false));
    let before = page(&store, &KeyRange::one(&key(&[3])), Some(&key(&[1])), 5).await;
    assert_eq!(keys(&before), [key(&[3])]);
}

async fn a_snapshot_answers_in_the_order_of_the_question(store: Store) {
    let first = put(&store, &key(b"a"), b"1").await;
    let second = put(&store, &key(b"b"), b"2").await;
    assert!(Version::ZERO < first && first < second, "{first} {second}");
    let asked = [key(b"b"), key(b"missing"), key(b"a"), key(b"b")];
    let snapshot = store.get(&asked, Consistency::Strong).await.unwrap();
    let b = Some(Entry { key: key(b"b"), value: Bytes::from_static(b"2"), version: second });
    let a = Some(Entry { key: key(b"a"), value: Bytes::from_static(b"1"), version: first });
    assert_eq!(snapshot.entries, [b.clone(), None, a, b]);
    assert_eq!(snapshot.at.version, second);

    let hundred_and_one = vec![key(b"a"); 101];
    let refused = store.get(&hundred_and_one, Consistency::Strong).await;
    assert_eq!(refused, Err(StoreError::TooLarge(Limit::Operations(101))));
    assert!(store.get(&hundred_and_one[1..], Consistency::Strong).await.is_ok());
}

async fn reads_are_as_new_as_is_asked_for(store: Store) {
    let version = put(&store, &key(b"a"), b"1").await;
    let at_least = Consistency::AtLeast(version);
    assert!(store.get(&[key(b"a")], at_least).await.unwrap().entries[0].is_some());
    assert_eq!(store.scan(&everything(), None, 9, at_least).await.unwrap().entries.len(), 1);
    let not_yet = Consistency::AtLeast(Version::from_bytes([0xff; 12]));
    let refused = store.get(&[key(b"a")], not_yet).await;
    assert!(matches!(refused, Err(StoreError::Unavailable { .. })), "{refused:?}");
    let refused = store.scan(&everything(), None, 9, not_yet).await;
    assert!(matches!(refused, Err(StoreError::Unavailable { .. })), "{refused:?}");
}

async fn each_check_holds_or_nothing_is_applied(store: Store) {
    let (a, b) = (key(b"a"), key(b"b"));
    let version = put(&store, &a, b"1").await;
    let write = || vec![Op::Put(b.clone(), Bytes::from_static(b"2")), Op::Delete(a.clone())];
    let (absent, at) = (Check::Absent(b.clone()), Check::At(a.clone(), version));
    for (checks, failed) in [
        (vec![Check::Absent(a.clone())], 0),
        (vec![Check::At(b.clone(), version)], 0),
        (vec![absent.clone(), Check::At(a.clone(), Version::ZERO)], 1),
        (vec![at.clone(), absent.clone(), Check::RangeUnchanged(everything(), Version::ZERO)], 2),
    ] {
        let outcome = apply(&store, checks, write()).await;
        assert_eq!(outcome, Ok(CommitOutcome::Conflict { check: failed }));
        assert_eq!(map(&store).await, [(a.clone(), Bytes::from_static(b"1"))].into());
    }
    let range = Check::RangeUnchanged(everything(), version);
    let outcome = apply(&store, vec![absent, at, range], write()).await;
    assert!(matches!(outcome, Ok(CommitOutcome::Done(_))), "{outcome:?}");
    assert_eq!(map(&store).await, [(b, Bytes::from_static(b"2"))].into());
}

async fn a_key_made_again_has_changed(store: Store) {
    let a = key(b"a");
    let before = put(&store, &a, b"same").await;
    apply(&store, vec![], vec![Op::Delete(a.clone())]).await.unwrap();
    let after = put(&store, &a, b"same").await;
    assert_ne!(before, after);
    let op = || vec![Op::Put(a.clone(), Bytes::new())];
    let stale = apply(&store, vec![Check::At(a.clone(), before)], op()).await;
    assert_eq!(stale, Ok(CommitOutcome::Conflict { check: 0 }));
    let fresh = apply(&store, vec![Check::At(a.clone(), after)], op()).await;
    assert!(matches!(fresh, Ok(CommitOutcome::Done(_))), "{fresh:?}");
}

async fn a_range_check_sees_what_comes_and_what_goes(store: Store) {
    let range = KeyRange::starting_with(&key(b"r"));
    let inside = Op::Put(key(b"r1"), Bytes::new());
    put(&store, &key(b"r0"), b"").await;
    for (change, seen) in [
        (inside.clone(), true),
        (inside, true),
        (Op::Delete(key(b"r1")), true),
        (Op::DeleteRange(between(b"q", b"r0")), true),
        (Op::DeleteRange(between(b"q", b"r")), false),
        (Op::Put(key(b"q"), Bytes::new()), false),
        (Op::Put(key(b"s"), Bytes::new()), false),
    ] {
        let read = scan(&store, &range).await.at.version;
        apply(&store, vec![], vec![change.clone()]).await.unwrap();
        let check = Check::RangeUnchanged(range.clone(), read);
        let outcome = apply(&store, vec![check], vec![]).await.unwrap();
        assert_eq!(outcome == CommitOutcome::Conflict { check: 0 }, seen, "{change:?}");
    }
}

async fn a_range_check_fails_when_nobody_remembers(store: Store) {
    let read = put(&store, &key(b"a"), b"").await;
    let elsewhere = KeyRange::starting_with(&key(b"r"));
    let check = async |version| {
        apply(&store, vec![Check::RangeUnchanged(elsewhere.clone(), version)], vec![])
            .await
            .unwrap()
    };
    for _ in 0..4 {
        put(&store, &key(b"a"), b"").await;
        assert!(matches!(check(read).await, CommitOutcome::Done(_)));
    }
    put(&store, &key(b"a"), b"").await;
    assert_eq!(check(read).await, CommitOutcome::Conflict { check: 0 });
    assert_eq!(
        check(Version::from_bytes([0xff; 12])).await,
        CommitOutcome::Conflict { check: 0 },
        "a version that is not of this store"
    );
}

async fn a_commit_without_operations_only_checks(store: Store) {
    let a = key(b"a");
    let version = put(&store, &a, b"1").await;
    let reading = Commit::new(vec![Check::At(a.clone(), version)], vec![]).unwrap();
    assert_eq!(store.commit(reading.clone()).await, Ok(CommitOutcome::Done(version)));
    assert_eq!(store.outcome(reading.id()).await, Ok(None));
    let failing = apply(&store, vec![Check::Absent(a.clone())], vec![]).await;
    assert_eq!(failing, Ok(CommitOutcome::Conflict { check: 0 }));
    let head = store.get(&[a], Consistency::Strong).await.unwrap().at;
    assert_eq!(head.version, version, "nothing was recorded");
}

async fn a_range_is_deleted_and_nothing_beside_it(store: Store) {
    let around: [&[u8]; 5] = [b"q\xff", b"r", b"r\0", b"r\xff\xff", b"s"];
    put_all(&store, around.iter().map(|suffix| (key(suffix), Bytes::new()))).await;
    let range = KeyRange::starting_with(&key(b"r"));
    apply(&store, vec![], vec![Op::DeleteRange(range.clone())]).await.unwrap();
    assert_eq!(keys(&scan(&store, &everything()).await), [key(b"q\xff"), key(b"s")]);
    let nothing_there = apply(&store, vec![], vec![Op::DeleteRange(range)]).await;
    assert!(matches!(nothing_there, Ok(CommitOutcome::Done(_))), "{nothing_there:?}");
    let nothing_there = apply(&store, vec![], vec![Op::Delete(key(b"r"))]).await;
    assert!(matches!(nothing_there, Ok(CommitOutcome::Done(_))), "{nothing_there:?}");
}

async fn a_commit_at_every_limit_is_applied(store: Store) {
    // 100 operations and 100 checks on keys of 1024 bytes leave room for values up to 512 KiB in all.
    let long = |n: u8| key(&[vec![n; Key::MAX_BYTES - 1], vec![]].concat());
    let keys: Vec<Key> = (0..100).map(long).collect();
    let keys_bytes = 200 * Key::MAX_BYTES;
    let mut left = Commit::BYTES - keys_bytes;
    let ops: Vec<Op> = keys
        .iter()
        .map(|key| {
            let length = left.min(Commit::VALUE_BYTES);
            left -= length;
            Op::Put(key.clone(), vec![9; length].into())
        })
        .collect();
    let checks = keys.iter().cloned().map(Check::Absent).collect();
    let outcome = apply(&store, checks, ops).await;
    assert!(matches!(outcome, Ok(CommitOutcome::Done(_))), "{outcome:?}");
    let stored = map(&store).await;
    assert_eq!(stored.len(), 100);
    assert_eq!(stored.values().map(Bytes::len).sum::<usize>(), Commit::BYTES - keys_bytes);
    assert!(stored.values().all(|value| value.iter().all(|&byte| byte == 9)));
}

async fn concurrent_increments_are_all_counted(store: Store) {
    const TASKS: u32 = 16;
    const EACH: u32 = 5;
    let counter = key(b"counter");
    join_all((0..TASKS).map(async |_| {
        for _ in 0..EACH {
            while !increment(&store, &counter).await {}
        }
    }))
    .await;
    assert_eq!(number(&store, &counter).await.0, TASKS * EACH);
}

async fn a_token_is_redeemed_once(store: Store) {
    let token = key(b"token");
    let version = put(&store, &token, b"").await;
    let redeemed = join_all((0_u8..64).map(async |n| {
        let ops = vec![Op::Delete(key(b"token")), Op::Put(key(&[b'n', n]), Bytes::new())];
        let check = Check::At(key(b"token"), version);
        matches!(apply(&store, vec![check], ops).await.unwrap(), CommitOutcome::Done(_))
    }))
    .await;
    assert_eq!(redeemed.iter().filter(|&&done| done).count(), 1);
    assert_eq!(scan(&store, &KeyRange::starting_with(&key(b"n"))).await.entries.len(), 1);
}

async fn a_scan_never_sees_half_a_commit(store: Store) {
    const ACCOUNTS: u8 = 4;
    let account = |n: u8| key(&[b'a', n % ACCOUNTS]);
    put_all(&store, (0..ACCOUNTS).map(|n| (account(n), encode(100)))).await;
    let transfers = join_all((0..ACCOUNTS).map(async |from| {
        for step in 1..20 {
            let (payer, payee) = (account(from), account(from + 1 + step % (ACCOUNTS - 1)));
            let (has, paid_at) = number(&store, &payer).await;
            let (had, got_at) = number(&store, &payee).await;
            let checks = vec![Check::At(payer.clone(), paid_at), Check::At(payee.clone(), got_at)];
            let ops = vec![Op::Put(payer, encode(has - 1)), Op::Put(payee, encode(had + 1))];
            apply(&store, checks, ops).await.unwrap();
        }
    }));
    let auditor = async {
        for _ in 0..40 {
            let page = scan(&store, &everything()).await;
            let total: u32 = page.entries.iter().map(|entry| decode(&entry.value)).sum();
            assert_eq!(total, 400);
        }
    };
    join(transfers, auditor).await;
}

async fn a_commit_is_known_by_its_id_and_applied_once(store: Store) {
    let a = key(b"a");
    let commit = Commit::new(
        vec![Check::Absent(a.clone())],
        vec![Op::Put(a.clone(), Bytes::from_static(b"1"))],
    )
    .unwrap();
    assert_eq!(store.outcome(commit.id()).await, Ok(None));
    let done = store.commit(commit.clone()).await.unwrap();
    let CommitOutcome::Done(version) = done else { panic!("{done:?}") };
    assert_eq!(store.outcome(commit.id()).await, Ok(Some(version)));

    put(&store, &a, b"2").await;
    assert_eq!(store.commit(commit).await, Ok(done), "sent again, it answers as the first time");
    assert_eq!(map(&store).await[&a], "2", "and is not applied again");

    let refused = Commit::new(vec![Check::Absent(a.clone())], vec![Op::Delete(a)]).unwrap();
    assert_eq!(store.commit(refused.clone()).await, Ok(CommitOutcome::Conflict { check: 0 }));
    assert_eq!(store.outcome(refused.id()).await, Ok(None));
}

async fn a_commit_whose_answer_is_lost_is_resolved_by_its_id(store: Store) {
    let counter = key(b"counter");
    for expected in 1..=20 {
        let (value, version) = number(&store, &counter).await;
        let check = match value {
            0 => Check::Absent(counter.clone()),
            _ => Check::At(counter.clone(), version),
        };
        let op = Op::Put(counter.clone(), encode(value + 1));
        let commit = Commit::new(vec![check], vec![op]).unwrap();
        // The caller goes away once the commit is on its way, applied or not.
        let _ = store.commit(commit.clone()).now_or_never();
        if store.outcome(commit.id()).await.unwrap().is_none() {
            let outcome = store.commit(commit).await;
            assert!(matches!(outcome, Ok(CommitOutcome::Done(_))), "{outcome:?}");
        }
        assert_eq!(number(&store, &counter).await.0, expected);
    }
}

async fn commit_ids_are_forgotten_with_their_changes(store: Store) {
    let commit = Commit::new(vec![], vec![Op::Put(key(b"a"), Bytes::new())]).unwrap();
    let id = commit.id();
    store.commit(commit).await.unwrap();
    for _ in 0..3 {
        put(&store, &key(b"b"), b"").await;
        assert!(store.outcome(id).await.unwrap().is_some());
    }
    put(&store, &key(b"b"), b"").await;
    assert_eq!(store.outcome(id).await, Ok(None));
}

async fn changes_come_from_any_cursor_complete_and_in_order(store: Store) {
    let start = start(&store).await;
    let mut versions = Vec::new();
    for n in 0..40_u8 {
        versions.push(put(&store, &key(&[n]), b"").await);
    }
    let range = KeyRange::starting_with(&key(&[0]));
    let ops = vec![Op::Delete(key(&[9])), Op::DeleteRange(range.clone())];
    let last = done(apply(&store, vec![], ops).await);
    versions.push(last);

    let all: Vec<Change> = take(&store, start, versions.len()).await;
    let seen: Vec<Version> = all.iter().map(|change| change.cursor.version).collect();
    assert_eq!(seen, versions);
    for (n, change) in (0_u8..).zip(&all[..40]) {
        assert_eq!(change.touched, [Touched::Key(key(&[n]))]);
    }
    assert_eq!(all[40].touched, [Touched::Key(key(&[9])), Touched::Range(range)]);

    for (index, change) in all.iter().enumerate() {
        let rest = take(&store, change.cursor, all.len() - index - 1).await;
        assert_eq!(rest, all[index + 1..]);
    }
}

async fn a_waiting_watcher_is_woken(store: Store) {
    let start = start(&store).await;
    let mut early = store.changes(start);
    assert!(early.next().now_or_never().is_none(), "nothing has changed yet");
    let watcher = async {
        let mut seen = Vec::new();
        while seen.len() < 20 {
            seen.push(early.next().await.unwrap().unwrap().cursor.version);
        }
        seen
    };
    let writer = async {
        let mut written = Vec::new();
        for n in 0..20_u8 {
            written.push(put(&store, &key(&[n]), b"").await);
        }
        written
    };
    let (seen, written) = join(watcher, writer).await;
    assert_eq!(seen, written);
}

async fn a_cursor_that_is_not_known_is_a_gap(store: Store) {
    let start = start(&store).await;
    for _ in 0..5 {
        put(&store, &key(b"a"), b"").await;
    }
    let head = store.get(&[], Consistency::Strong).await.unwrap().at;
    let other_epoch = Cursor { epoch: head.epoch + 1, ..head };
    let future = Cursor { version: Version::from_bytes([0xff; 12]), ..head };
    for unknown in [start, other_epoch, future] {
        let items: Vec<_> = store.changes(unknown).collect().await;
        assert_eq!(items, [Err(WatchGap { from: unknown })]);
    }
    assert!(store.changes(head).next().now_or_never().is_none(), "the newest cursor is known");
}

async fn a_slow_watcher_ends_in_a_gap(store: Store) {
    let mut watcher = store.changes(start(&store).await);
    let first = put(&store, &key(b"a"), b"").await;
    let seen = watcher.next().await.unwrap().unwrap();
    assert_eq!(seen.cursor.version, first);
    for _ in 0..5 {
        put(&store, &key(b"a"), b"").await;
    }
    assert_eq!(watcher.next().await, Some(Err(WatchGap { from: seen.cursor })));
    assert_eq!(watcher.next().await, None);
}

async fn reading_and_replaying_converges(store: Store) {
    let numbered = |n: u32| key(format!("{:02}", n % 50).as_bytes());
    put_all(&store, (0..50).map(|n| (numbered(n), encode(n)))).await;
    let writer = async {
        for n in 0..100_u32 {
            let at = numbered(n * 37);
            let op = if n % 3 == 0 { Op::Delete(at) } else { Op::Put(at, encode(1_000 + n)) };
            apply(&store, vec![], vec![op]).await.unwrap();
        }
    };
    let reader = async {
        let (mut copy, mut from, mut after) = (BTreeMap::new(), None, None);
        loop {
            let page = page(&store, &everything(), after.as_ref(), 5).await;
            from.get_or_insert(page.at);
            after = page.entries.last().map(|entry| entry.key.clone());
            copy.extend(page.entries.into_iter().map(|entry| (entry.key, entry.value)));
            if !page.more {
                break (copy, from.expect("there was a page"));
            }
        }
    };
    let ((), (mut copy, from)) = join(writer, reader).await;
    replay(&store, from, &mut copy).await;
    assert_eq!(copy, map(&store).await);
}

/// Brings `copy` from `from` up to date by reading what each change touched.
async fn replay(store: &Store, from: Cursor, copy: &mut BTreeMap<Key, Bytes>) {
    let mut changes = store.changes(from);
    let head = store.get(&[], Consistency::Strong).await.unwrap().at;
    let mut at = from;
    while at != head {
        let change = changes.next().await.unwrap().unwrap();
        at = change.cursor;
        for touched in change.touched {
            let Touched::Key(key) = touched else { panic!("no range was deleted") };
            let snapshot =
                store.get(std::slice::from_ref(&key), Consistency::Strong).await.unwrap();
            match &snapshot.entries[0] {
                Some(entry) => copy.insert(key, entry.value.clone()),
                None => copy.remove(&key),
            };
        }
    }
}

/// A key of the suite: any bytes under a tag that has no meaning to the store.
fn key(suffix: &[u8]) -> Key {
    Key::from_bytes([&[0x01], suffix].concat().into()).expect("a short key with a tag")
}

fn everything() -> KeyRange {
    KeyRange::starting_with(&key(b""))
}

fn between(start: &[u8], end: &[u8]) -> KeyRange {
    KeyRange::between(&key(start), &key(end)).expect("the end is after the start")
}

fn encode(number: u32) -> Bytes {
    Bytes::copy_from_slice(&number.to_be_bytes())
}

fn decode(value: &[u8]) -> u32 {
    u32::from_be_bytes(value.try_into().expect("four bytes were put"))
}

fn keys(page: &Page) -> Vec<Key> {
    page.entries.iter().map(|entry| entry.key.clone()).collect()
}

async fn apply(
    store: &Store,
    checks: Vec<Check>,
    ops: Vec<Op>,
) -> Result<CommitOutcome, StoreError> {
    store.commit(Commit::new(checks, ops).expect("within the limits")).await
}

fn done(outcome: Result<CommitOutcome, StoreError>) -> Version {
    match outcome {
        Ok(CommitOutcome::Done(version)) => version,
        other => panic!("the commit was not applied: {other:?}"),
    }
}

async fn put(store: &Store, key: &Key, value: &'static [u8]) -> Version {
    let op = Op::Put(key.clone(), Bytes::from_static(value));
    done(apply(store, vec![], vec![op]).await)
}

async fn put_all(store: &Store, entries: impl Iterator<Item = (Key, Bytes)>) {
    let ops = entries.map(|(key, value)| Op::Put(key, value)).collect();
    done(apply(store, vec![], ops).await);
}

async fn page(store: &Store, range: &KeyRange, after: Option<&Key>, limit: usize) -> Page {
    store.scan(range, after, limit, Consistency::Strong).await.expect("a page")
}

async fn scan(store: &Store, range: &KeyRange) -> Page {
    let page = page(store, range, None, Page::ENTRIES).await;
    assert!(!page.more, "the suite scans what fits into a page");
    page
}

async fn map(store: &Store) -> BTreeMap<Key, Bytes> {
    let page = scan(store, &everything()).await;
    page.entries.into_iter().map(|entry| (entry.key, entry.value)).collect()
}

/// The number at `key`, zero if there is none.
async fn number(store: &Store, key: &Key) -> (u32, Version) {
    let snapshot = store.get(std::slice::from_ref(key), Consistency::Strong).await.expect("a read");
    match &snapshot.entries[0] {
        Some(entry) => (decode(&entry.value), entry.version),
        None => (0, Version::ZERO),
    }
}

/// Tries to count `key` up; false if someone else was faster.
async fn increment(store: &Store, key: &Key) -> bool {
    let (value, version) = number(store, key).await;
    let check = match value {
        0 => Check::Absent(key.clone()),
        _ => Check::At(key.clone(), version),
    };
    let op = Op::Put(key.clone(), encode(value + 1));
    matches!(apply(store, vec![check], vec![op]).await, Ok(CommitOutcome::Done(_)))
}

/// The cursor of a store to which nothing has been committed.
async fn start(store: &Store) -> Cursor {
    store.get(&[], Consistency::Strong).await.expect("a read").at
}

/// The first `count` changes after `from`.
async fn take(store: &Store, from: Cursor, count: usize) -> Vec<Change> {
    let changes: Vec<_> = store.changes(from).take(count).collect().await;
    changes.into_iter().collect::<Result<_, _>>().expect("no gap")
}
