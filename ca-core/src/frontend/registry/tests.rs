use std::sync::Mutex;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use futures_util::future::join_all;
use futures_util::stream::BoxStream;

use super::*;
use crate::frontend::{Existing, NotAdmitted, PathScope, Terms, Wanted};
use crate::pipeline::admission::Class;
use crate::serial::Serial;
use crate::store::{CommitId, Embedded, KeyRange, Snapshot, WatchGap};

const NOW: Timestamp = Timestamp::EPOCH;
/// Longer than anything here takes, on whatever machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A store whose answers get lost: as many as this list says, before or after the commit was applied.
#[derive(Debug)]
struct Lossy {
    store: Embedded,
    losses: Mutex<Vec<Lost>>,
    gaps: Mutex<usize>,
}

#[derive(Debug, Clone, Copy)]
enum Lost {
    BeforeItWasApplied,
    AfterItWasApplied,
}

impl Lossy {
    fn new() -> Arc<Self> {
        let store = Embedded::in_memory().unwrap();
        Arc::new(Self { store, losses: Mutex::default(), gaps: Mutex::default() })
    }
}

#[async_trait]
impl StateStore for Lossy {
    async fn get(&self, keys: &[Key], consistency: Consistency) -> Result<Snapshot, StoreError> {
        self.store.get(keys, consistency).await
    }

    async fn scan(
        &self,
        range: &KeyRange,
        after: Option<&Key>,
        limit: usize,
        consistency: Consistency,
    ) -> Result<Page, StoreError> {
        self.store.scan(range, after, limit.min(2), consistency).await
    }

    async fn commit(&self, commit: Commit) -> Result<CommitOutcome, StoreError> {
        let lost = self.losses.lock().unwrap().pop();
        if !matches!(lost, Some(Lost::BeforeItWasApplied)) {
            let outcome = self.store.commit(commit).await;
            if lost.is_none() {
                return outcome;
            }
        }
        Err(StoreError::Indeterminate { reason: "the answer was lost".to_owned() })
    }

    async fn outcome(&self, id: CommitId) -> Result<Option<Version>, StoreError> {
        self.store.outcome(id).await
    }

    fn changes(&self, from: Cursor) -> BoxStream<'static, Result<Change, WatchGap>> {
        let mut gaps = self.gaps.lock().unwrap();
        if *gaps > 0 {
            *gaps -= 1;
            return futures_util::stream::iter([Err(WatchGap { from })]).boxed();
        }
        self.store.changes(from)
    }
}

fn name(text: &str) -> FrontEndName {
    FrontEndName::parse(text).unwrap()
}

fn enrolment(text: &str) -> Enrolment {
    let path_scopes = vec![PathScope::parse("/ns").unwrap()];
    let terms = Terms::new(Wanted { path_scopes, ..Wanted::default() }).unwrap();
    Enrolment { name: name(text), terms, existing: Existing::default() }
}

fn key(number: u8) -> Certified {
    let serial = Serial::from_bytes([number.max(1); 20]);
    Certified { fingerprint: [number; 32], serial, not_after: Timestamp::MAX }
}

/// What an instance shows that holds the key of that number.
fn shown(number: u8) -> Shown {
    Shown { fingerprint: [number; 32], not_before: NOW, not_after: NOW }
}

/// Decides and commits, as if nothing were minted in between.
async fn renew(front_ends: &FrontEnds, by: u8, to: u8) -> Result<Arc<FrontEnd>, FrontEndError> {
    let checked = front_ends.check_renewal(&name("edge"), &shown(by), &[to; 32], NOW).await?;
    front_ends.renew_key(&checked, &key(to), NOW).await
}

async fn load(store: &Arc<Lossy>) -> Arc<FrontEnds> {
    FrontEnds::load(Arc::clone(store) as Arc<dyn StateStore>).await.unwrap()
}

async fn recorded(store: &Arc<Lossy>, text: &str) -> FrontEnd {
    (*load(store).await.get(&name(text)).unwrap()).clone()
}

#[tokio::test]
async fn what_is_enrolled_is_known_at_once_and_after_a_restart() {
    let store = Lossy::new();
    let front_ends = load(&store).await;
    assert_eq!(front_ends.get(&name("edge")), None);
    assert!(front_ends.budgets(&name("edge")).is_none());
    let enrolled = front_ends.enroll(&enrolment("edge"), &key(1), NOW).await.unwrap();
    assert_eq!(front_ends.get(&name("edge")), Some(Arc::clone(&enrolled)));
    assert_eq!(recorded(&store, "edge").await, *enrolled);
    let unknown = front_ends.withdraw(&name("other"), NOW).await.unwrap_err();
    assert!(matches!(unknown, FrontEndError::Unknown(_)), "{unknown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn instances_that_are_enrolled_at_once_by_several_processes_all_have_their_keys() {
    let store = Lossy::new();
    let processes = [load(&store).await, load(&store).await];
    let enrolling = (0..8).map(|number: u8| {
        let front_ends = Arc::clone(&processes[usize::from(number) % 2]);
        tokio::spawn(async move { front_ends.enroll(&enrolment("edge"), &key(number), NOW).await })
    });
    for enrolled in join_all(enrolling).await {
        enrolled.unwrap().unwrap();
    }
    let front_end = recorded(&store, "edge").await;
    let mut keys: Vec<u8> = front_end.keys().iter().map(|key| key.fingerprint[0]).collect();
    keys.sort_unstable();
    assert_eq!(keys, (0..8).collect::<Vec<_>>());
    assert_eq!(front_end.revision(), 8);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_withdrawal_is_not_undone_by_a_renewal_beside_it() {
    for round in 0..20 {
        let store = Lossy::new();
        let (here, there) = (load(&store).await, load(&store).await);
        here.enroll(&enrolment("edge"), &key(1), NOW).await.unwrap();
        let renewing = tokio::spawn(async move { renew(&there, 1, 2).await });
        here.withdraw(&name("edge"), NOW).await.unwrap();
        match renewing.await.unwrap() {
            Ok(before) => assert_eq!(before.withdrawn_at(), None),
            Err(FrontEndError::NotAdmitted(NotAdmitted::Withdrawn { .. })) => {}
            Err(other) => panic!("round {round}: {other}"),
        }
        assert_eq!(recorded(&store, "edge").await.withdrawn_at(), Some(NOW), "round {round}");
    }
}

#[tokio::test]
async fn a_commit_whose_answer_is_lost_is_done_once() {
    for lost in [Lost::BeforeItWasApplied, Lost::AfterItWasApplied] {
        let store = Lossy::new();
        let front_ends = load(&store).await;
        store.losses.lock().unwrap().extend([lost, lost]);
        let enrolled = front_ends.enroll(&enrolment("edge"), &key(1), NOW).await.unwrap();
        assert_eq!((enrolled.revision(), enrolled.keys().len()), (1, 1), "{lost:?}");
        assert_eq!(recorded(&store, "edge").await, *enrolled);
        // Where it stays unknown, it is told as that, and asking again does the right thing.
        store.losses.lock().unwrap().extend([lost; 3]);
        let unknown = front_ends.withdraw(&name("edge"), NOW).await.unwrap_err();
        let indeterminate =
            matches!(unknown, FrontEndError::Store(StoreError::Indeterminate { .. }));
        assert!(indeterminate, "{unknown}");
        let withdrawn = front_ends.withdraw(&name("edge"), NOW).await.unwrap();
        assert_eq!((withdrawn.withdrawn_at(), withdrawn.revision()), (Some(NOW), 2), "{lost:?}");
    }
}

#[tokio::test]
async fn what_another_process_changes_is_told_to_who_waits_for_it() {
    let store = Lossy::new();
    let (here, there) = (load(&store).await, load(&store).await);
    let following = {
        let here = Arc::clone(&here);
        tokio::spawn(async move { here.follow().await })
    };
    let mut any = here.subscribe();
    there.enroll(&enrolment("edge"), &key(1), NOW).await.unwrap();
    there.enroll(&enrolment("other"), &key(1), NOW).await.unwrap();
    let found = tokio::time::timeout(PATIENCE, async {
        loop {
            if let (Some(found), Some(_)) = (here.get(&name("edge")), here.get(&name("other"))) {
                return found;
            }
            any.changed().await.unwrap();
        }
    });
    let known = found.await.unwrap();

    let waiting = {
        let (here, known) = (Arc::clone(&here), Arc::clone(&known));
        tokio::spawn(async move { here.changed(&known).await })
    };
    // Of another front end it hears nothing.
    there.withdraw(&name("other"), NOW).await.unwrap();
    there.withdraw(&name("edge"), NOW).await.unwrap();
    let told = tokio::time::timeout(PATIENCE, waiting).await.unwrap().unwrap().unwrap();
    assert_eq!((told.name(), told.withdrawn_at()), (&name("edge"), Some(NOW)));
    // Whoever asks late is told at once.
    assert_eq!(here.changed(&known).await, Some(told));
    following.abort();
}

#[tokio::test]
async fn changes_that_were_missed_are_read_anew() {
    let store = Lossy::new();
    let (here, there) = (load(&store).await, load(&store).await);
    let mut changes = here.subscribe();
    // More than one page.
    for number in 0..5 {
        there.enroll(&enrolment(&format!("edge-{number}")), &key(number), NOW).await.unwrap();
    }
    *store.gaps.lock().unwrap() = 3;
    let following = {
        let here = Arc::clone(&here);
        tokio::spawn(async move { here.follow().await })
    };
    let all = tokio::time::timeout(PATIENCE, changes.wait_for(|_| here.list(None, 9).len() == 5));
    all.await.unwrap().unwrap();
    assert_eq!(here.list(Some(&name("edge-1")), 2).len(), 2);
    assert_eq!(here.list(Some(&name("edge-1")), 2)[0].name(), &name("edge-2"));
    assert!(here.list(Some(&name("edge-4")), 2).is_empty());
    following.abort();
}

#[tokio::test]
async fn a_record_that_cannot_be_read_is_a_front_end_that_is_not_accepted() {
    let store = Lossy::new();
    let (here, there) = (load(&store).await, load(&store).await);
    for text in ["edge", "other"] {
        there.enroll(&enrolment(text), &key(1), NOW).await.unwrap();
    }
    let following = {
        let here = Arc::clone(&here);
        tokio::spawn(async move { here.follow().await })
    };
    let mut changes = here.subscribe();
    let both = tokio::time::timeout(PATIENCE, changes.wait_for(|_| here.list(None, 9).len() == 2));
    both.await.unwrap().unwrap();

    // As a release writes it whose records this one must not read; and a record that was put under another name.
    let key_of_edge = key_of(&name("edge")).unwrap();
    let swapped = Op::Put(key_of_edge.clone(), encode(&here.get(&name("other")).unwrap()));
    let later = Op::Put(key_of_edge, b"\x02{}".to_vec().into());
    for op in [later, swapped] {
        store.store.commit(Commit::new(Vec::new(), vec![op]).unwrap()).await.unwrap();
        let gone = changes.wait_for(|_| here.get(&name("edge")).is_none());
        tokio::time::timeout(PATIENCE, gone).await.unwrap().unwrap();
        assert_eq!(load(&store).await.list(None, 9).len(), 1);
    }
    assert!(here.get(&name("other")).is_some());
    following.abort();
}

#[tokio::test]
async fn a_record_that_cannot_be_read_is_not_written_over() {
    let store = Lossy::new();
    let front_ends = load(&store).await;
    let later = Op::Put(key_of(&name("edge")).unwrap(), b"\x02{}".to_vec().into());
    store.store.commit(Commit::new(Vec::new(), vec![later]).unwrap()).await.unwrap();
    let refused = front_ends.enroll(&enrolment("edge"), &key(1), NOW).await.unwrap_err();
    let corrupt = matches!(refused, FrontEndError::Store(StoreError::Corrupt { .. }));
    assert!(corrupt, "{refused}");
}

#[tokio::test]
async fn what_is_used_of_a_budget_stays_used_until_the_rates_change() {
    let store = Lossy::new();
    let front_ends = load(&store).await;
    let with_rate = |text: &str| {
        let mut wanted =
            Wanted { path_scopes: vec![PathScope::parse("/ns").unwrap()], ..Wanted::default() };
        wanted.rates.total = Some(text.parse().unwrap());
        let existing = Existing { replace: true, again: false };
        Enrolment { terms: Terms::new(wanted).unwrap(), existing, ..enrolment("edge") }
    };
    let now = Instant::now();
    let take = || front_ends.budgets(&name("edge")).unwrap().take(Class::New, 1, now);
    front_ends.enroll(&with_rate("1"), &key(1), NOW).await.unwrap();
    take().unwrap();
    front_ends.enroll(&with_rate("1"), &key(2), NOW).await.unwrap();
    take().unwrap_err();
    front_ends.reload().await.unwrap();
    take().unwrap_err();
    front_ends.enroll(&with_rate("2"), &key(2), NOW).await.unwrap();
    take().unwrap();
}

/// Asks for a front end, on another thread, whenever a line is logged.
struct Asks {
    front_ends: Arc<FrontEnds>,
    answered: Arc<Mutex<Vec<bool>>>,
}

impl tracing::Subscriber for Asks {
    fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}

    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}

    fn event(&self, _: &tracing::Event<'_>) {
        let (front_ends, (answer, answered)) =
            (Arc::clone(&self.front_ends), std::sync::mpsc::channel());
        std::thread::spawn(move || answer.send(front_ends.get(&name("edge")).is_some()));
        let answered = answered.recv_timeout(Duration::from_secs(5)).unwrap_or(false);
        self.answered.lock().unwrap().push(answered);
    }

    fn enter(&self, _: &tracing::span::Id) {}

    fn exit(&self, _: &tracing::span::Id) {}
}

#[tokio::test]
async fn nobody_waits_while_records_are_read() {
    let store = Lossy::new();
    let front_ends = load(&store).await;
    front_ends.enroll(&enrolment("edge"), &key(1), NOW).await.unwrap();
    let later = Op::Put(key_of(&name("other")).unwrap(), b"\x02{}".to_vec().into());
    store.store.commit(Commit::new(Vec::new(), vec![later]).unwrap()).await.unwrap();
    // A record that cannot be read has a line in the log, in the middle of reading all of them.
    let answered = Arc::new(Mutex::new(Vec::new()));
    let asks = Asks { front_ends: Arc::clone(&front_ends), answered: Arc::clone(&answered) };
    let guard = tracing::subscriber::set_default(asks);
    front_ends.reload().await.unwrap();
    drop(guard);
    assert_eq!(answered.lock().unwrap()[..], [true]);
}

#[tokio::test]
async fn what_came_between_a_decision_and_its_commit_is_not_undone() {
    let store = Lossy::new();
    let (here, there) = (load(&store).await, load(&store).await);
    here.enroll(&enrolment("edge"), &key(1), NOW).await.unwrap();
    let existing = Existing { replace: true, again: true };
    let wanted = Enrolment { existing, ..enrolment("edge") };
    let checked = here.check(&wanted, &[2; 32], NOW).await.unwrap();
    there.withdraw(&name("edge"), NOW).await.unwrap();
    let refused = here.enroll_checked(&checked, &key(2), NOW).await.unwrap_err();
    assert!(matches!(refused, FrontEndError::Withdrawn { .. }), "{refused}");
    assert!(recorded(&store, "edge").await.withdrawn_at().is_some());
    // Whoever knows of it may.
    let checked = here.check(&wanted, &[2; 32], NOW).await.unwrap();
    here.enroll_checked(&checked, &key(2), NOW).await.unwrap();
    let back = recorded(&store, "edge").await;
    assert_eq!((back.withdrawn_at(), back.keys().len()), (None, 1));
}

#[tokio::test]
async fn of_two_renewals_at_once_the_later_does_not_remove_what_the_earlier_gave() {
    let store = Lossy::new();
    let (here, there) = (load(&store).await, load(&store).await);
    here.enroll(&enrolment("edge"), &key(1), NOW).await.unwrap();
    let edge = name("edge");
    let slow = there.check_renewal(&edge, &shown(1), &[2; 32], NOW).await.unwrap();
    renew(&here, 1, 3).await.unwrap();
    let late = there.renew_key(&slow, &key(2), NOW).await.unwrap_err();
    assert!(matches!(late, FrontEndError::Contended(_)), "{late}");
    assert!(recorded(&store, "edge").await.admit(&[3; 32], NOW).is_ok());
    // Whoever knows of it may.
    renew(&there, 1, 4).await.unwrap();
    let keys = recorded(&store, "edge").await.keys().to_vec();
    assert_eq!(keys.iter().map(|key| key.fingerprint[0]).collect::<Vec<_>>(), [1, 4]);
}

#[tokio::test]
async fn a_key_takes_over_once_and_its_predecessor_renews_no_more() {
    let store = Lossy::new();
    let (here, there) = (load(&store).await, load(&store).await);
    here.enroll(&enrolment("edge"), &key(1), NOW).await.unwrap();
    renew(&here, 1, 2).await.unwrap();
    let before = recorded(&store, "edge").await;
    here.take_over(&name("edge"), &[1; 32], NOW).await.unwrap();
    assert_eq!(recorded(&store, "edge").await, before, "nothing is written for the older one");
    here.take_over(&name("edge"), &[2; 32], NOW).await.unwrap();
    here.take_over(&name("edge"), &[2; 32], NOW).await.unwrap();
    let after = recorded(&store, "edge").await;
    assert_eq!(after.revision(), before.revision() + 1);
    // A process that has not seen it yet decides by what is stored.
    let refused = renew(&there, 1, 3).await.unwrap_err();
    assert!(
        matches!(refused, FrontEndError::NotAdmitted(NotAdmitted::Replaced { .. })),
        "{refused}"
    );
}

#[tokio::test]
async fn an_enrolment_that_would_be_refused_is_told_before_anything_is_minted() {
    let store = Lossy::new();
    let front_ends = load(&store).await;
    let wanted = enrolment("edge");
    front_ends.check(&wanted, &[1; 32], NOW).await.unwrap();
    assert_eq!(front_ends.get(&name("edge")), None);
    front_ends.enroll(&wanted, &key(1), NOW).await.unwrap();
    front_ends.withdraw(&name("edge"), NOW).await.unwrap();
    let refused = front_ends.check(&wanted, &[2; 32], NOW).await.unwrap_err();
    assert!(matches!(refused, FrontEndError::Withdrawn { .. }), "{refused}");
}
