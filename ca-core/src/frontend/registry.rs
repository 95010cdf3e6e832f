//! What a process knows of all front ends: read for each connection, and followed as others change it.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use futures_util::StreamExt as _;
use tokio::sync::watch;

use super::record::{decode, encode};
use super::{
    Budgets, Certified, Checked, CheckedRenewal, Enrolment, FrontEnd, FrontEndError, FrontEndName,
    MOST_FRONT_ENDS, Shown,
};
use crate::clock::Timestamp;
use crate::store::key::{TrustDomainNumber, front_end, front_ends};
use crate::store::{
    Change, Check, Commit, CommitOutcome, Consistency, Cursor, Entry, Key, Op, Page, StateStore,
    StoreError, Touched, Version,
};

/// Commits that are tried again because another process was faster.
const MOST_TRIES: usize = 16;
/// How often a commit is sent whose outcome is unknown: sent again, it answers as the first time.
const MOST_SENDS: usize = 3;

/// The front ends of a trust domain. What this process changes it sees at once; what others change it sees for as
/// long as somebody [follows](Self::follow).
pub struct FrontEnds {
    store: Arc<dyn StateStore>,
    /// Replaced as a whole: who reads waits for a pointer to be swapped, and never for what goes before that.
    view: RwLock<Arc<View>>,
    /// Held while the next view is made of the present one.
    making: Mutex<()>,
    /// Counts what has changed in the view.
    changes: watch::Sender<u64>,
}

type View = BTreeMap<FrontEndName, Known>;

/// A front end, the commit that wrote it, and what is left of its budgets in this process.
#[derive(Clone)]
struct Known {
    front_end: Arc<FrontEnd>,
    budgets: Arc<Budgets>,
    version: Version,
}

impl FrontEnds {
    /// Reads what there is. A record that cannot be read is a front end that is not accepted: the log says so.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn load(store: Arc<dyn StateStore>) -> Result<Arc<Self>, StoreError> {
        let (changes, _) = watch::channel(0);
        let (view, making) = (RwLock::default(), Mutex::default());
        let front_ends = Self { store, view, making, changes };
        front_ends.reload().await?;
        Ok(Arc::new(front_ends))
    }

    /// The front end of that name, withdrawn or not; takes no lock that is held for longer than it takes to swap a
    /// pointer.
    #[must_use]
    pub fn get(&self, name: &FrontEndName) -> Option<Arc<FrontEnd>> {
        self.view().get(name).map(|known| Arc::clone(&known.front_end))
    }

    /// What is left of the budgets of that front end in this process. All that speak for it share them; other
    /// rates in its record are other budgets.
    #[must_use]
    pub fn budgets(&self, name: &FrontEndName) -> Option<Arc<Budgets>> {
        self.view().get(name).map(|known| Arc::clone(&known.budgets))
    }

    /// At most `limit` front ends in the order of their names, from the first one after `after`, or from the
    /// first.
    #[must_use]
    pub fn list(&self, after: Option<&FrontEndName>, limit: usize) -> Vec<Arc<FrontEnd>> {
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        let view = self.view();
        let found = view.range::<FrontEndName, _>((start, Bound::Unbounded)).take(limit);
        found.map(|(_, known)| Arc::clone(&known.front_end)).collect()
    }

    /// Told whenever any front end has changed; then [`get`](Self::get) tells what it is now. The number means
    /// nothing.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Resolves as soon as the front end is no longer as `known`, with what it is now: withdrawn, on other terms,
    /// with other keys, or gone. At once if that was so before it was asked, so that no change is missed.
    pub async fn changed(&self, known: &FrontEnd) -> Option<Arc<FrontEnd>> {
        let mut changes = self.subscribe();
        loop {
            let present = self.get(known.name());
            if present.as_deref() != Some(known) {
                return present;
            }
            // The sender is in `self`, so this ends only by a change.
            let _ = changes.changed().await;
        }
    }

    /// Decides on an enrolment of the key of that fingerprint: to be asked before an SVID is minted for it.
    ///
    /// # Errors
    /// As [`enroll`](Self::enroll).
    pub async fn check(
        &self,
        enrolment: &Enrolment,
        fingerprint: &[u8; 32],
        now: Timestamp,
    ) -> Result<Checked, FrontEndError> {
        let found = self.read(&enrolment.name).await?;
        self.check_room(found.is_none())?;
        let before = found.map(|(front_end, _)| front_end);
        FrontEnd::checked(before, enrolment, fingerprint, now)
    }

    /// Makes a front end, adds a key to it, or does what [`Existing`](super::Existing) allows, as it was
    /// [decided](Self::check). Others may have come in between: what they did is undone only if the decision was made
    /// in its knowledge.
    ///
    /// # Errors
    /// As [`enroll`](Self::enroll).
    pub async fn enroll_checked(
        &self,
        checked: &Checked,
        key: &Certified,
        now: Timestamp,
    ) -> Result<Arc<FrontEnd>, FrontEndError> {
        self.change(checked.name(), |before| {
            self.check_room(before.is_none())?;
            FrontEnd::enrolled_as_checked(before, checked, key, now).map(Some)
        })
        .await
    }

    /// Decides and enrols, for a key that has its SVID.
    ///
    /// # Errors
    /// [`FrontEndError`]. Nothing is changed then, unless it is [`StoreError::Indeterminate`].
    pub async fn enroll(
        &self,
        enrolment: &Enrolment,
        key: &Certified,
        now: Timestamp,
    ) -> Result<Arc<FrontEnd>, FrontEndError> {
        let checked = self.check(enrolment, &key.fingerprint, now).await?;
        self.enroll_checked(&checked, key, now).await
    }

    /// Decides whether an instance that shows that certificate is given the next one, for the key of that fingerprint:
    /// to be asked before it is minted.
    ///
    /// # Errors
    /// [`FrontEndError::TooEarly`], and those of [`renew_key`](Self::renew_key).
    pub async fn check_renewal(
        &self,
        name: &FrontEndName,
        shown: &Shown,
        fingerprint: &[u8; 32],
        now: Timestamp,
    ) -> Result<CheckedRenewal, FrontEndError> {
        let found = self.read(name).await?;
        let (before, _) = found.ok_or_else(|| FrontEndError::Unknown(name.clone()))?;
        before.checked_renewal(shown, fingerprint, now)
    }

    /// Gives an instance that has shown that it holds a key a new one, or the same key with a new SVID, as it was
    /// [decided](Self::check_renewal). The key that asks may ask again, and what it got before goes then, until the new
    /// one [takes over](Self::take_over).
    ///
    /// # Errors
    /// [`FrontEndError`]: [`Contended`](FrontEndError::Contended) if the key that asks was given another since the
    /// decision, [`NotAdmitted`](super::NotAdmitted) if it opens nothing any more.
    pub async fn renew_key(
        &self,
        checked: &CheckedRenewal,
        key: &Certified,
        now: Timestamp,
    ) -> Result<Arc<FrontEnd>, FrontEndError> {
        self.change(&checked.name, |before| {
            let before = before.ok_or_else(|| FrontEndError::Unknown(checked.name.clone()))?;
            before.renewed_as_checked(checked, key, now).map(Some)
        })
        .await
    }

    /// Writes down that an instance has shown the key `by`, once, if that key came by a renewal: the key before it ends
    /// soon, and asks for nothing more.
    ///
    /// # Errors
    /// [`FrontEndError`].
    pub async fn take_over(
        &self,
        name: &FrontEndName,
        by: &[u8; 32],
        now: Timestamp,
    ) -> Result<(), FrontEndError> {
        let is_due = |known: Arc<FrontEnd>| known.taken_over(by, now).is_some();
        if !self.get(name).is_some_and(is_due) {
            return Ok(());
        }
        let taken_over = self.change(name, |before| {
            let before = before.ok_or_else(|| FrontEndError::Unknown(name.clone()))?;
            Ok(before.taken_over(by, now))
        });
        taken_over.await.map(drop)
    }

    /// Ends a front end: none of its keys opens anything from then on. One that is withdrawn stays as it is.
    ///
    /// # Errors
    /// [`FrontEndError`].
    pub async fn withdraw(
        &self,
        name: &FrontEndName,
        now: Timestamp,
    ) -> Result<Arc<FrontEnd>, FrontEndError> {
        self.change(name, |before| {
            let before = before.ok_or_else(|| FrontEndError::Unknown(name.clone()))?;
            Ok(before.withdrawn(now))
        })
        .await
    }

    /// Reads everything anew, and then each change as it comes, until the store fails: whoever calls it waits a
    /// little and calls it again. Meanwhile what others change is not seen.
    pub async fn follow(&self) -> StoreError {
        loop {
            let from = match self.reload().await {
                Ok(cursor) => cursor,
                Err(error) => return error,
            };
            let mut changes = self.store.changes(from);
            loop {
                match changes.next().await {
                    Some(Ok(change)) => match self.take_in(&change).await {
                        Ok(Seen::All) => {}
                        Ok(Seen::NotAll) => break,
                        Err(error) => return error,
                    },
                    Some(Err(_gap)) => break,
                    None => {
                        let place = "feed of changes of the state store".to_owned();
                        let reason = "it has ended; the process should stop".to_owned();
                        return StoreError::Unavailable { place, reason };
                    }
                }
            }
        }
    }

    fn view(&self) -> Arc<View> {
        Arc::clone(&self.view.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn check_room(&self, is_new: bool) -> Result<(), FrontEndError> {
        let full = is_new && self.view().len() >= MOST_FRONT_ENDS;
        if full { Err(FrontEndError::TooMany) } else { Ok(()) }
    }

    /// Decides on the newest record and commits, again if another was faster. `decide` gives `None` where nothing
    /// is to be done.
    async fn change(
        &self,
        name: &FrontEndName,
        decide: impl Fn(Option<&FrontEnd>) -> Result<Option<FrontEnd>, FrontEndError>,
    ) -> Result<Arc<FrontEnd>, FrontEndError> {
        for _ in 0..MOST_TRIES {
            let found = self.read(name).await?;
            let (before, read_at) = found.unzip();
            let Some(next) = decide(before.as_ref())? else {
                let unchanged = before.ok_or_else(|| FrontEndError::Unknown(name.clone()))?;
                return Ok(Arc::new(unchanged));
            };
            if let Some(version) = self.write(&next, read_at).await? {
                let next = Arc::new(next);
                self.learn(name, Some((Arc::clone(&next), version)), version);
                return Ok(next);
            }
        }
        Err(FrontEndError::Contended(name.clone()))
    }

    async fn read(&self, name: &FrontEndName) -> Result<Option<(FrontEnd, Version)>, StoreError> {
        let snapshot = self.store.get(&[key_of(name)?], Consistency::Strong).await?;
        let entry = snapshot.entries.into_iter().flatten().next();
        entry.map(|entry| Ok((decode(&entry)?, entry.version))).transpose()
    }

    /// Writes if nobody has since it was read; the version that this made.
    async fn write(
        &self,
        front_end: &FrontEnd,
        read_at: Option<Version>,
    ) -> Result<Option<Version>, StoreError> {
        let key = key_of(front_end.name())?;
        let check = match read_at {
            Some(version) => Check::At(key.clone(), version),
            None => Check::Absent(key.clone()),
        };
        let commit = Commit::new(vec![check], vec![Op::Put(key, encode(front_end))])?;
        let mut outcome = self.store.commit(commit.clone()).await;
        for _ in 1..MOST_SENDS {
            if !matches!(outcome, Err(StoreError::Indeterminate { .. })) {
                break;
            }
            outcome = self.store.commit(commit.clone()).await;
        }
        match outcome? {
            CommitOutcome::Done(version) => Ok(Some(version)),
            CommitOutcome::Conflict { .. } => Ok(None),
        }
    }

    /// Takes what was read at some moment into the view, unless the view is newer.
    fn learn(&self, name: &FrontEndName, read: Option<(Arc<FrontEnd>, Version)>, at: Version) {
        let making = self.making();
        let view = self.view();
        let known = view.get(name);
        if known.is_some_and(|known| known.version >= read.as_ref().map_or(at, |(_, at)| *at)) {
            return;
        }
        let learned = read.map(|(front_end, version)| Known::new(front_end, version, known));
        let mut next = View::clone(&view);
        match learned {
            Some(learned) => drop(next.insert(name.clone(), learned)),
            None => drop(next.remove(name)),
        }
        self.show(next, making);
    }

    /// Reads everything, and gives the moment from which on changes have to be followed.
    async fn reload(&self) -> Result<Cursor, StoreError> {
        let range = front_ends(TrustDomainNumber::OWN);
        let (mut read, mut first, mut after) = (Vec::new(), None, None);
        loop {
            let page = self.store.scan(&range, after.as_ref(), Page::ENTRIES, Consistency::Strong);
            let page = page.await?;
            let begun = *first.get_or_insert(page.at);
            after = page.entries.last().map(|entry| entry.key.clone());
            let readable = |entry| Some((Arc::new(readable(entry)?), entry.version));
            read.extend(page.entries.iter().filter_map(readable));
            if !page.more {
                self.replace(read, begun.version);
                return Ok(begun);
            }
        }
    }

    /// What this process has written after the reading began stays.
    fn replace(&self, read: Vec<(Arc<FrontEnd>, Version)>, begun: Version) {
        let making = self.making();
        let view = self.view();
        let mut next = View::new();
        for (front_end, version) in read {
            let name = front_end.name().clone();
            let known = Known::new(front_end, version, view.get(&name));
            next.insert(name, known);
        }
        for (name, known) in view.iter().filter(|(_, known)| known.version > begun) {
            let newer = next.get(name).is_none_or(|read| read.version < known.version);
            if newer {
                next.insert(name.clone(), known.clone());
            }
        }
        self.show(next, making);
    }

    fn making(&self) -> MutexGuard<'_, ()> {
        self.making.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next view, by whoever makes it of the present one.
    fn show(&self, next: View, making: MutexGuard<'_, ()>) {
        let next = Arc::new(next);
        let before = {
            let mut view = self.view.write().unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut *view, next)
        };
        drop(making);
        drop(before);
        self.changes.send_modify(|count| *count += 1);
    }

    /// Reads what a change has touched. A record that cannot be read any more is gone from the view.
    async fn take_in(&self, change: &Change) -> Result<Seen, StoreError> {
        let range = front_ends(TrustDomainNumber::OWN);
        for touched in &change.touched {
            let key = match touched {
                Touched::Key(key) if range.contains(key) => key.clone(),
                Touched::Range(touched) if touched.overlaps(&range) => return Ok(Seen::NotAll),
                Touched::Key(_) | Touched::Range(_) => continue,
            };
            let snapshot = self.store.get(std::slice::from_ref(&key), Consistency::Strong).await?;
            let at = snapshot.at.version;
            let entry = snapshot.entries.into_iter().flatten().next();
            let read = entry.as_ref().and_then(|entry| Some((readable(entry)?, entry.version)));
            let name = read.as_ref().map(|(front_end, _)| front_end.name().clone());
            // A key names one front end: what cannot be read is found by it.
            let name = name.or_else(|| self.named_by(&key));
            if let Some(name) = name {
                self.learn(&name, read.map(|(front_end, at)| (Arc::new(front_end), at)), at);
            }
        }
        Ok(Seen::All)
    }

    fn named_by(&self, key: &Key) -> Option<FrontEndName> {
        let view = self.view();
        view.keys().find(|name| key_of(name).is_ok_and(|named| named == *key)).cloned()
    }
}

/// How far a change was taken in.
enum Seen {
    All,
    /// It may have touched more than it names.
    NotAll,
}

impl Known {
    /// What was used of its budgets stays used, if the rates are the same.
    fn new(front_end: Arc<FrontEnd>, version: Version, before: Option<&Self>) -> Self {
        let rates = front_end.terms().rates();
        let kept = before.map(|known| &known.budgets).filter(|budgets| budgets.rates() == rates);
        let budgets = kept.map_or_else(|| Arc::new(Budgets::full(*rates)), Arc::clone);
        Self { front_end, budgets, version }
    }
}

/// The front end of an entry, and a line in the log if it cannot be read. Its name must be that of its key.
fn readable(entry: &Entry) -> Option<FrontEnd> {
    match decode(entry) {
        Ok(front_end) if key_of(front_end.name()).is_ok_and(|key| key == entry.key) => {
            Some(front_end)
        }
        Ok(front_end) => {
            let name = front_end.name();
            tracing::error!(key = ?entry.key, %name, "a front end is recorded under another's name; it is not accepted");
            None
        }
        Err(error) => {
            tracing::error!(%error, "a front end cannot be read; it is not accepted");
            None
        }
    }
}

fn key_of(name: &FrontEndName) -> Result<Key, StoreError> {
    Ok(front_end(TrustDomainNumber::OWN, name.as_str())?)
}

impl fmt::Debug for FrontEnds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FrontEnds({} of {:?})", self.view().len(), self.store)
    }
}

#[cfg(test)]
mod tests;
