//! The embedded store where it hurts: killed in mid-commit, on a full disk, on a damaged file, started
//! twice. A test that needs a process of its own starts this binary again, with itself as the only test
//! and a directory in `STORE_TEST_CHILD`.
#![expect(clippy::unwrap_used, reason = "the helpers of tests state expectations as tests do")]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use bytes::Bytes;
use ca_core::store::{
    Commit, CommitOutcome, Consistency, Embedded, Key, KeyRange, Op, Page, StateStore, StoreError,
    key,
};

const CHILD: &str = "STORE_TEST_CHILD";
const VALUE: usize = 3_000;
/// In the file that is damaged.
const COMMITS: u64 = 20;

#[tokio::test]
async fn what_was_acknowledged_survives_a_kill_and_nothing_is_partial() {
    const NAME: &str = "what_was_acknowledged_survives_a_kill_and_nothing_is_partial";
    if let Some(directory) = std::env::var_os(CHILD) {
        let store = Embedded::open(Path::new(&directory)).unwrap();
        let error = commit_until_an_error(&store).await;
        panic!("{error}");
    }
    let directory = tempfile::tempdir().unwrap();
    let mut before = 0;
    for round in 0..12 {
        let mut child = start_again(NAME, directory.path(), "exec \"$0\" \"$@\"");
        let acknowledged = read_until_killed(&mut child).max(before);
        let store = Embedded::open(directory.path()).unwrap();
        let found = commits_found(&store).await;
        assert!(
            (acknowledged..=acknowledged + 1).contains(&found),
            "round {round}: {acknowledged} acknowledged, {found} found"
        );
        before = found;
    }
    assert!(before > 50, "the children got to commit, {before} times");
}

#[tokio::test]
async fn a_full_disk_is_an_error_and_loses_nothing_acknowledged() {
    const NAME: &str = "a_full_disk_is_an_error_and_loses_nothing_acknowledged";
    if let Some(directory) = std::env::var_os(CHILD) {
        return report_the_full_disk(Path::new(&directory)).await;
    }
    let directory = tempfile::tempdir().unwrap();
    // A limit on the size of files stands for the full disk: writing beyond it fails. In blocks of 512
    // bytes: less than a new store takes, then enough for some commits.
    for (blocks, least) in [(64, 0), (8_192, 10)] {
        let limited = format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$0\" \"$@\"");
        let child = start_again(NAME, directory.path(), &limited);
        let output = child.wait_with_output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{text}");
        assert!(text.contains("the disk is full"), "{text}");
        assert!(!String::from_utf8_lossy(&output.stderr).contains("panicked"));
        let acknowledged = text.lines().filter_map(number_of).max().unwrap_or(0);
        assert!(acknowledged >= least, "{text}");
        let store = Embedded::open(directory.path()).unwrap();
        let found = commits_found(&store).await;
        assert!((acknowledged..=acknowledged + 1).contains(&found), "{found} found\n{text}");
    }
}

#[tokio::test]
async fn a_flipped_byte_is_an_error_or_changes_nothing() {
    for closed in [true, false] {
        let sound = SoundStore::make(closed).await;
        let header = (0..400).step_by(7).filter(|&offset| offset != COMMIT_SELECTOR);
        // In turn near the start of a page, where its structure is, and among its values.
        let pages = (0..sound.file.len() / 4_096).map(|n| n * 4_096 + [40, 2_500][n % 2]);
        let mut errors = 0;
        for offset in header.chain(pages) {
            let mut file = sound.file.clone();
            file[offset] ^= 0x41;
            let what = format!("byte {offset} flipped, closed {closed}");
            errors += usize::from(sound.is_refused_or_whole(&file, &what).await);
        }
        assert!(errors > 50, "pages in use are verified: {errors} errors, closed {closed}");
    }
}

/// The byte of redb's header that says which of the two newest commits is the newest. Nothing in the file
/// vouches for it.
const COMMIT_SELECTOR: usize = 9;

#[tokio::test]
async fn the_one_byte_without_a_checksum_costs_the_last_commit_at_worst() {
    for (closed, bit) in
        [true, false].into_iter().flat_map(|closed| (0..8).map(move |n| (closed, n)))
    {
        let mut sound = SoundStore::make(closed).await;
        sound.file[COMMIT_SELECTOR] ^= 1 << bit;
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("state.redb"), &sound.file).unwrap();
        match Embedded::open(directory.path()) {
            Ok(store) => {
                let found = commits_found(&store).await;
                assert!((COMMITS - 1..=COMMITS).contains(&found), "{found} found, bit {bit}");
            }
            Err(error) => assert!(matches!(error, StoreError::Corrupt { .. }), "{error:?}"),
        }
    }
}

#[tokio::test]
async fn a_file_cut_short_is_an_error_or_changes_nothing() {
    for closed in [true, false] {
        let sound = SoundStore::make(closed).await;
        let length = sound.file.len();
        for end in (0..length).step_by(length / 40).chain([1, 63, 64, 320, 4_095, length - 1]) {
            let what = format!("{end} bytes of {length}, closed {closed}");
            sound.is_refused_or_whole(&sound.file[..end], &what).await;
        }
        assert!(sound.is_refused_or_whole(&[], "an empty file").await, "empty is not new");
        assert!(sound.is_refused_or_whole(&[0; 9_000], "zeros").await);
        assert!(sound.is_refused_or_whole(b"[store]\npath = 1\n", "a text").await);
    }
}

#[tokio::test]
async fn a_directory_is_open_once() {
    let directory = tempfile::tempdir().unwrap();
    let first = Embedded::open(directory.path()).unwrap();
    let error = Embedded::open(directory.path()).unwrap_err().to_string();
    for expected in [
        directory.path().to_str().unwrap(),
        &format!("process {} has it open", std::process::id()),
        "stop that process",
    ] {
        assert!(error.contains(expected), "{error}");
    }
    drop(first);
    Embedded::open(directory.path()).expect("free again once the first is dropped");
}

#[tokio::test]
async fn state_survives_a_restart_and_is_private_to_its_owner() {
    let place = tempfile::tempdir().unwrap();
    let directory = place.path().join("new").join("state");
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let at = {
        let store = Embedded::open(&directory).unwrap();
        apply(&store, numbered(1)).await.unwrap();
        store.get(&[], Consistency::Strong).await.unwrap().at
    };
    assert_eq!(mode(&directory), 0o700);
    for file in std::fs::read_dir(&directory).unwrap() {
        assert_eq!(mode(&file.unwrap().path()), 0o600);
    }
    let store = Embedded::open(&directory).unwrap();
    assert_eq!(commits_found(&store).await, 1);
    assert_eq!(store.get(&[], Consistency::Strong).await.unwrap().at, at);
}

#[test]
fn a_directory_that_cannot_be_used_is_an_error_that_names_it() {
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("file");
    std::fs::write(&file, "").unwrap();
    let locked = place.path().join("locked");
    std::fs::create_dir(&locked).unwrap();
    std::fs::set_permissions(&locked, PermissionsExt::from_mode(0o500)).unwrap();
    std::fs::set_permissions(place.path(), PermissionsExt::from_mode(0o755)).unwrap();
    for (directory, way_out) in [
        (file.clone(), "choose a path"),
        (file.join("below"), "choose a path"),
        (locked.clone(), "with mode 0700"),
        (locked.join("below"), "with mode 0700"),
    ] {
        let error = open_as_nobody(directory.clone(), &locked).to_string();
        assert!(error.contains(directory.to_str().unwrap()), "{error}");
        assert!(error.contains(way_out), "{error}");
    }
}

#[test]
fn a_directory_that_others_may_write_to_is_refused_and_left_alone() {
    let place = tempfile::tempdir().unwrap();
    for mode in [0o770, 0o702, 0o1777] {
        std::fs::set_permissions(place.path(), PermissionsExt::from_mode(mode)).unwrap();
        let error = Embedded::open(place.path()).map(|_| ()).unwrap_err();
        assert!(matches!(error, StoreError::Unavailable { .. }), "{error:?}");
        assert!(error.to_string().contains("chmod go-w /"), "{error}");
        assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 0);
    }
    std::fs::set_permissions(place.path(), PermissionsExt::from_mode(0o755)).unwrap();
    Embedded::open(place.path()).expect("others may look");
}

/// Root may write everywhere, so a thread that is root becomes someone else first; the threads that it
/// starts are that someone as well.
fn open_as_nobody(directory: PathBuf, owned: &Path) -> StoreError {
    const NOBODY: u32 = 65_534;
    let is_root = rustix::process::geteuid().is_root();
    if is_root {
        chown(owned, Some(NOBODY), None).unwrap();
    }
    let opening = std::thread::spawn(move || {
        if is_root {
            rustix::thread::set_thread_uid(rustix::process::Uid::from_raw(NOBODY)).unwrap();
        }
        Embedded::open(&directory).map(|_| ()).unwrap_err()
    });
    opening.join().unwrap()
}

/// Starts this test alone in a process of its own, by way of a shell that may set limits first.
fn start_again(test: &str, directory: &Path, shell: &str) -> Child {
    Command::new("sh")
        .args(["-c", shell])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(CHILD, directory)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// The child: commits without end and says which commit was acknowledged.
async fn commit_until_an_error(store: &Embedded) -> StoreError {
    for number in commits_found(store).await + 1.. {
        match apply(store, numbered(number)).await {
            Ok(CommitOutcome::Done(_)) => say(&format!("\nacknowledged {number}\n")),
            Ok(conflict) => panic!("nothing was checked: {conflict:?}"),
            Err(error) => return error,
        }
    }
    unreachable!("the numbers do not end")
}

async fn report_the_full_disk(directory: &Path) {
    let store = match Embedded::open(directory) {
        Ok(store) => store,
        Err(error) => return say(&format!("\n{error}\n")),
    };
    let error = commit_until_an_error(&store).await;
    assert!(
        matches!(error, StoreError::Indeterminate { .. } | StoreError::Determinate { .. }),
        "{error:?}"
    );
    say(&format!("\n{error}\n"));
    let next = apply(&store, numbered(1)).await;
    assert!(matches!(next, Err(StoreError::Fenced { .. })), "{next:?}");
}

/// Past the capture of the test harness, and flushed.
fn say(text: &str) {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).unwrap();
}

/// Reads what the child acknowledges, kills it after a random number of commits and in the middle of one,
/// and gives the last number that it said.
fn read_until_killed(child: &mut Child) -> u64 {
    let mut random = [0; 4];
    SystemRandom::new().fill(&mut random).unwrap();
    let (commits, delay) = (random[0] % 24, u16::from_be_bytes([random[2], random[3]]) % 8_000);
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    let mut last = 0;
    for _ in 0..=commits {
        last = lines.by_ref().find_map(|line| number_of(&line)).unwrap_or(last);
    }
    std::thread::sleep(Duration::from_micros(delay.into()));
    child.kill().unwrap();
    child.wait().unwrap();
    lines.filter_map(|line| number_of(&line)).last().unwrap_or(last)
}

fn number_of(line: &str) -> Option<u64> {
    line.strip_prefix("acknowledged ")?.parse().ok()
}

/// Three entries that are there together or not at all.
fn numbered(number: u64) -> Vec<Op> {
    [b'a', b'b', b'c'].map(|letter| Op::Put(entry_key(letter, number), value(number))).to_vec()
}

fn entry_key(letter: u8, number: u64) -> Key {
    let name = format!("{}-{number:08}", char::from(letter));
    key::authority(key::TrustDomainNumber::OWN, &name).unwrap()
}

fn value(number: u64) -> Bytes {
    number.to_be_bytes().iter().copied().cycle().take(VALUE).collect()
}

async fn apply(store: &Embedded, ops: Vec<Op>) -> Result<CommitOutcome, StoreError> {
    store.commit(Commit::new(vec![], ops)?).await
}

/// How many commits of [`numbered`] there are, each one whole and none missing before another.
async fn commits_found(store: &Embedded) -> u64 {
    let entries = every_entry(store).await.unwrap();
    let commits = u64::try_from(entries.len() / 3).unwrap();
    for number in 1..=commits {
        for letter in [b'a', b'b', b'c'] {
            assert_eq!(entries.get(&entry_key(letter, number)), Some(&value(number)));
        }
    }
    assert_eq!(entries.len() % 3, 0, "a commit is there in part");
    commits
}

async fn every_entry(store: &Embedded) -> Result<BTreeMap<Key, Bytes>, StoreError> {
    let range: KeyRange = key::authorities(key::TrustDomainNumber::OWN);
    let (mut entries, mut after) = (BTreeMap::new(), None);
    loop {
        let page: Page =
            store.scan(&range, after.as_ref(), Page::ENTRIES, Consistency::Strong).await?;
        after = page.entries.last().map(|entry| entry.key.clone());
        entries.extend(page.entries.into_iter().map(|entry| (entry.key, entry.value)));
        if !page.more {
            return Ok(entries);
        }
    }
}

/// The file of a store, closed or as a crash after its last commit leaves it, and what is in it.
struct SoundStore {
    file: Vec<u8>,
    entries: BTreeMap<Key, Bytes>,
}

impl SoundStore {
    async fn make(closed: bool) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = Embedded::open(directory.path()).unwrap();
        for number in 1..=COMMITS {
            apply(&store, numbered(number)).await.unwrap();
        }
        let entries = every_entry(&store).await.unwrap();
        let file = directory.path().join("state.redb");
        let crashed = std::fs::read(&file).unwrap();
        drop(store);
        Self { file: if closed { std::fs::read(&file).unwrap() } else { crashed }, entries }
    }

    /// Opens and reads a damaged copy: true if that is refused, with an error that says what to do.
    async fn is_refused_or_whole(&self, damaged: &[u8], what: &str) -> bool {
        let directory = directory_without_a_disk();
        let file = directory.path().join("state.redb");
        std::fs::write(&file, damaged).unwrap();
        let error = match Embedded::open(directory.path()) {
            Err(error) => error,
            Ok(store) => match every_entry(&store).await {
                Ok(entries) => {
                    assert_eq!(entries.len(), self.entries.len(), "{what} loses entries");
                    assert!(entries == self.entries, "{what} changes entries");
                    return false;
                }
                Err(error) => error,
            },
        };
        let text = error.to_string();
        assert!(matches!(error, StoreError::Corrupt { .. }), "{what}: {error:?}");
        assert!(
            text.contains(file.to_str().unwrap()) && text.contains("restore a backup"),
            "{text}"
        );
        true
    }
}

/// For hundreds of stores that need not survive a crash: flushing them would take most of the test's time.
fn directory_without_a_disk() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}
