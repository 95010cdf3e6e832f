//! How a front end comes to be, changes and ends. Each step is a function of the record before it; the registry
//! commits what comes out.

use thiserror::Error;

use super::{
    EnrolledKey, FrontEnd, FrontEndName, HANDOVER, MOST_FRONT_ENDS, MOST_HANDOVERS, MOST_KEYS,
    NotAdmitted, Terms,
};
use crate::clock::Timestamp;
use crate::serial::Serial;
use crate::store::StoreError;

/// What an administrator wants of a front end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Enrolment {
    /// Its name.
    pub name: FrontEndName,
    /// What it may ask for.
    pub terms: Terms,
    /// What is to become of one that is there.
    pub existing: Existing,
}

/// What an enrolment may do to a front end that is there already. By itself it adds a key to one of the same
/// terms, for another instance, and does nothing else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Existing {
    /// Give it other terms; its keys stay.
    pub replace: bool,
    /// Take it in again though it was withdrawn, without its old keys.
    pub again: bool,
}

/// A key that has got its SVID.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Certified {
    /// SHA-256 of its `SubjectPublicKeyInfo`.
    pub fingerprint: [u8; 32],
    /// The serial number of the SVID.
    pub serial: Serial,
    /// The last second of the SVID.
    pub not_after: Timestamp,
}

/// An enrolment that was decided on, to be committed once the key has its SVID. What it may do to a front end that is
/// there is what was found then: one that was withdrawn since, or has got other terms, is not what was decided on.
#[derive(Debug, Clone)]
pub struct Checked {
    pub(super) enrolment: Enrolment,
    found: Option<FrontEnd>,
}

impl Checked {
    /// The front end's name.
    #[must_use]
    pub fn name(&self) -> &FrontEndName {
        &self.enrolment.name
    }

    /// The enrolment, as far as it was decided on what is there now.
    fn of_now(&self, before: Option<&FrontEnd>) -> Enrolment {
        let same = |is: fn(&FrontEnd, &FrontEnd) -> bool| {
            self.found.as_ref().zip(before).is_some_and(|(found, before)| is(found, before))
        };
        let Existing { replace, again } = self.enrolment.existing;
        let existing = Existing {
            replace: replace
                && same(|found, before| {
                    (&found.terms, found.withdrawn_at) == (&before.terms, before.withdrawn_at)
                }),
            // A record that is withdrawn changes by being taken in again, and that is counted.
            again: again && same(|found, before| found.revision == before.revision),
        };
        Enrolment { existing, ..self.enrolment.clone() }
    }
}

/// The certificate by which an instance is known that wants the next one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shown {
    /// SHA-256 of its `SubjectPublicKeyInfo`.
    pub fingerprint: [u8; 32],
    /// Its first second.
    pub not_before: Timestamp,
    /// Its last second.
    pub not_after: Timestamp,
}

impl Shown {
    /// When half of its life is over, from when on the next may be asked for.
    #[must_use]
    pub fn renewable_from(&self) -> Timestamp {
        self.not_before.plus(self.not_after.since(self.not_before) / 2)
    }
}

/// A renewal that was decided on, to be committed once the key has its SVID. It takes the place of what the same key was
/// given before, as that was known then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckedRenewal {
    pub(super) name: FrontEndName,
    by: [u8; 32],
    /// The key that `by` was given before and that nobody has shown.
    successor: Option<[u8; 32]>,
}

/// Why a front end is not as it was to be.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum FrontEndError {
    /// The state store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// It is there, on other terms.
    #[error(
        "front end {name} is enrolled on other terms: they differ in {}; give the same to add an instance, or \
         --replace to change them for all of its instances",
        differences.join(", ")
    )]
    OtherTerms {
        /// The front end.
        name: FrontEndName,
        /// The options of the command line that differ.
        differences: Vec<&'static str>,
    },
    /// It was withdrawn.
    #[error(
        "front end {name} was withdrawn at {since}; choose another name, or take it in again with --again"
    )]
    Withdrawn {
        /// The front end.
        name: FrontEndName,
        /// Since when.
        since: Timestamp,
    },
    /// There is none of that name.
    #[error("there is no front end {0}; `mintmark frontend list` shows those that there are")]
    Unknown(FrontEndName),
    /// It has as many keys as one may have.
    #[error(
        "front end {0} has {MOST_KEYS} keys, and no more are kept; withdraw it and enrol those that run, or give \
         further instances a name of their own"
    )]
    TooManyKeys(FrontEndName),
    /// There are as many as there may be.
    #[error(
        "there are {MOST_FRONT_ENDS} front ends, and no more are kept; share names between instances"
    )]
    TooMany,
    /// The next certificate is asked for too early.
    #[error(
        "the certificate of front end {name} is renewed after half of its life; ask from {from} on"
    )]
    TooEarly {
        /// The front end.
        name: FrontEndName,
        /// From when on it may be asked for.
        from: Timestamp,
    },
    /// Its record has no room for another key now.
    #[error(
        "so many keys of front end {0} are being replaced that its record has no room for another; try again in {n} \
         minutes",
        n = HANDOVER.as_secs() / 60
    )]
    HandingOver(FrontEndName),
    /// Whoever wants a key renewed is not the front end, or the key that it wants was replaced.
    #[error(transparent)]
    NotAdmitted(#[from] NotAdmitted),
    /// Others changed it again and again, or what a decision was made on.
    #[error("the record of front end {0} was changed by others in between; try again")]
    Contended(FrontEndName),
}

impl FrontEnd {
    /// Decides on an enrolment of that key, for the front end that is there, if one is.
    pub(super) fn checked(
        before: Option<Self>,
        enrolment: &Enrolment,
        fingerprint: &[u8; 32],
        now: Timestamp,
    ) -> Result<Checked, FrontEndError> {
        Self::may_enroll(before.as_ref(), enrolment, fingerprint, now)?;
        Ok(Checked { enrolment: enrolment.clone(), found: before })
    }

    fn may_enroll(
        before: Option<&Self>,
        enrolment: &Enrolment,
        fingerprint: &[u8; 32],
        now: Timestamp,
    ) -> Result<(), FrontEndError> {
        let Some(before) = before else { return Ok(()) };
        let name = || enrolment.name.clone();
        if let Some(since) = before.withdrawn_at {
            let refused = FrontEndError::Withdrawn { name: name(), since };
            return if enrolment.existing.again { Ok(()) } else { Err(refused) };
        }
        let differences = before.terms.differences(&enrolment.terms);
        if !differences.is_empty() && !enrolment.existing.replace {
            return Err(FrontEndError::OtherTerms { name: name(), differences });
        }
        if before.instances_beside(fingerprint, now) >= MOST_KEYS {
            return Err(FrontEndError::TooManyKeys(name()));
        }
        before.may_take(fingerprint, now)
    }

    /// The front end with that key and these terms.
    ///
    /// # Errors
    /// [`FrontEndError`], if what is there does not let it.
    pub fn enrolled(
        before: Option<&Self>,
        enrolment: &Enrolment,
        key: &Certified,
        now: Timestamp,
    ) -> Result<Self, FrontEndError> {
        Self::may_enroll(before, enrolment, &key.fingerprint, now)?;
        let Enrolment { name, terms, .. } = enrolment;
        let mut next = match before {
            // The keys of a front end that was withdrawn do not come back with it.
            Some(before) if before.withdrawn_at.is_some() => {
                Self { keys: Vec::new(), enrolled_at: now, withdrawn_at: None, ..before.clone() }
            }
            Some(before) => before.clone(),
            None => Self {
                name: name.clone(),
                terms: terms.clone(),
                keys: Vec::new(),
                enrolled_at: now,
                withdrawn_at: None,
                revision: 0,
                later: Default::default(),
            },
        };
        next.terms = terms.clone();
        next.take_key(key, None, now);
        // What a person has enrolled goes with no renewal of another key.
        for known in next.keys.iter_mut().filter(|known| known.fingerprint == key.fingerprint) {
            known.renewed_from = None;
        }
        next.revision += 1;
        Ok(next)
    }

    /// As [`enrolled`](Self::enrolled), by what was decided before.
    pub(super) fn enrolled_as_checked(
        before: Option<&Self>,
        checked: &Checked,
        key: &Certified,
        now: Timestamp,
    ) -> Result<Self, FrontEndError> {
        Self::enrolled(before, &checked.of_now(before), key, now)
    }

    /// Decides whether an instance that shows a certificate for one of the keys may have the next one, for the key of
    /// that fingerprint.
    pub(super) fn checked_renewal(
        &self,
        shown: &Shown,
        fingerprint: &[u8; 32],
        now: Timestamp,
    ) -> Result<CheckedRenewal, FrontEndError> {
        self.admit(&shown.fingerprint, now)?;
        let from = shown.renewable_from();
        if now < from {
            return Err(FrontEndError::TooEarly { name: self.name.clone(), from });
        }
        self.renewing(&shown.fingerprint, fingerprint, now)?;
        let (name, by) = (self.name.clone(), shown.fingerprint);
        Ok(CheckedRenewal { name, by, successor: self.successor(&by) })
    }

    /// As [`renewed`](Self::renewed), by what was decided before. A key that `by` was given since is not removed: its
    /// instance may have it.
    pub(super) fn renewed_as_checked(
        &self,
        checked: &CheckedRenewal,
        key: &Certified,
        now: Timestamp,
    ) -> Result<Self, FrontEndError> {
        let next = self.renewed(&checked.by, key, now)?;
        if self.successor(&checked.by) == checked.successor {
            Ok(next)
        } else {
            Err(FrontEndError::Contended(self.name.clone()))
        }
    }

    /// The front end with a new key, or the same with a new SVID, for an instance that has shown that it holds the key
    /// `by`. That key may ask again, for an answer gets lost, and what it asked for before goes then; once the new one
    /// is seen, it [takes over](Self::taken_over).
    pub(super) fn renewed(
        &self,
        by: &[u8; 32],
        key: &Certified,
        now: Timestamp,
    ) -> Result<Self, FrontEndError> {
        let mut next = self.renewing(by, &key.fingerprint, now)?;
        next.take_key(key, Some(*by).filter(|by| *by != key.fingerprint), now);
        next.revision = self.revision + 1;
        Ok(next)
    }

    /// The front end with room for what the key `by` asks for.
    fn renewing(
        &self,
        by: &[u8; 32],
        fingerprint: &[u8; 32],
        now: Timestamp,
    ) -> Result<Self, FrontEndError> {
        self.admit(by, now)?;
        // Whoever asks is seen.
        let mut next = self.taken_over(by, now).unwrap_or_else(|| self.clone());
        next.keys
            .retain(|known| known.renewed_from != Some(*by) || known.fingerprint == *fingerprint);
        next.may_take(fingerprint, now)?;
        Ok(next)
    }

    /// The front end now that an instance has shown the key `by`: the key that asked for it is replaced. It asks for
    /// nothing from then on, and ends when what was opened with it has had time to end. `None` if there is nothing
    /// to change.
    ///
    /// Until then both are good, for nobody knows which of them its holder has; from then on the older one is of use to
    /// a thief alone.
    pub(super) fn taken_over(&self, by: &[u8; 32], now: Timestamp) -> Option<Self> {
        let predecessor = self.admit(by, now).ok()?.renewed_from?;
        let stands = |known: &&EnrolledKey| known.replaced_at.is_none() && known.not_after >= now;
        self.key(&predecessor).filter(stands)?;
        let mut next = self.clone();
        let known = next.keys.iter_mut().find(|known| known.fingerprint == predecessor)?;
        known.replaced_at = Some(now);
        // Whence it came is over; what is stored of a key does not grow.
        known.renewed_from = None;
        known.not_after = known.not_after.min(now.plus(HANDOVER));
        next.revision += 1;
        Some(next)
    }

    /// The front end withdrawn; `None` if it is.
    pub(crate) fn withdrawn(&self, now: Timestamp) -> Option<Self> {
        let withdrawn =
            Self { withdrawn_at: Some(now), revision: self.revision + 1, ..self.clone() };
        self.withdrawn_at.is_none().then_some(withdrawn)
    }

    /// The key that was given to the key `by`; there is one at most.
    fn successor(&self, by: &[u8; 32]) -> Option<[u8; 32]> {
        let given = self.keys.iter().find(|known| known.renewed_from == Some(*by));
        given.map(|known| known.fingerprint)
    }

    /// Whether that key may be one of its keys, and its record has room. One that was replaced is not to come back: it
    /// was, for all that is known here, stolen.
    fn may_take(&self, fingerprint: &[u8; 32], now: Timestamp) -> Result<(), FrontEndError> {
        if let Some(at) = self.key(fingerprint).and_then(|known| known.replaced_at) {
            return Err(NotAdmitted::Replaced { name: self.name.clone(), at }.into());
        }
        if self.living_beside(fingerprint, now).count() < MOST_KEYS + MOST_HANDOVERS {
            Ok(())
        } else {
            Err(FrontEndError::HandingOver(self.name.clone()))
        }
    }

    /// Its instances, as far as can be told by keys.
    fn instances_beside(&self, fingerprint: &[u8; 32], now: Timestamp) -> usize {
        let stands = |known: &EnrolledKey| known.replaced_at.is_none() && known.not_after >= now;
        let of_another = |known: &EnrolledKey| {
            let predecessor = known.renewed_from.and_then(|key| self.key(&key));
            predecessor.is_some_and(stands)
        };
        self.living_beside(fingerprint, now)
            .filter(|known| stands(known) && !of_another(known))
            .count()
    }

    fn living_beside(
        &self,
        fingerprint: &[u8; 32],
        now: Timestamp,
    ) -> impl Iterator<Item = &EnrolledKey> {
        self.keys
            .iter()
            .filter(move |known| known.not_after >= now && known.fingerprint != *fingerprint)
    }

    /// Those that have ended make room.
    fn take_key(&mut self, key: &Certified, renewed_from: Option<[u8; 32]>, now: Timestamp) {
        let Certified { fingerprint, serial, not_after } = *key;
        self.keys.retain(|known| known.not_after >= now || known.fingerprint == fingerprint);
        match self.keys.iter_mut().find(|known| known.fingerprint == fingerprint) {
            Some(known) => (known.serial, known.not_after) = (serial, not_after),
            None => self.keys.push(EnrolledKey {
                fingerprint,
                serial,
                not_after,
                enrolled_at: now,
                renewed_from,
                replaced_at: None,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frontend::{Grants, PathScope, Wanted};

    const NOW: Timestamp = Timestamp::EPOCH;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_unix(seconds)
    }

    fn enrolment(path: &str, existing: Existing) -> Enrolment {
        let path_scopes = vec![PathScope::parse(path).unwrap()];
        let terms = Terms::new(Wanted { path_scopes, ..Wanted::default() }).unwrap();
        Enrolment { name: FrontEndName::parse("edge").unwrap(), terms, existing }
    }

    fn key(number: u8, end: i64) -> Certified {
        let serial = Serial::from_bytes([number.max(1); 20]);
        Certified { fingerprint: [number; 32], serial, not_after: at(end) }
    }

    fn enroll(
        before: Option<&FrontEnd>,
        path: &str,
        key: &Certified,
    ) -> Result<FrontEnd, FrontEndError> {
        FrontEnd::enrolled(before, &enrolment(path, Existing::default()), key, NOW)
    }

    fn fingerprints(front_end: &FrontEnd) -> Vec<u8> {
        front_end.keys().iter().map(|key| key.fingerprint[0]).collect()
    }

    #[test]
    fn the_same_terms_add_a_key_and_the_same_key_gets_a_new_end() {
        let first = enroll(None, "/a", &key(1, 10)).unwrap();
        let second = enroll(Some(&first), "/a", &key(2, 10)).unwrap();
        assert_eq!((fingerprints(&second), second.revision()), (vec![1, 2], 2));
        let again = enroll(Some(&second), "/a", &key(1, 20)).unwrap();
        assert_eq!(fingerprints(&again), [1, 2]);
        assert_eq!(again.keys()[0].not_after, at(20));
    }

    #[test]
    fn other_terms_are_taken_only_where_that_is_said_and_keep_the_keys() {
        let first = enroll(None, "/a", &key(1, 10)).unwrap();
        let error = enroll(Some(&first), "/b", &key(2, 10)).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("differ in path-scope") && text.contains("--replace"), "{text}");
        let replace = enrolment("/b", Existing { replace: true, again: false });
        let replaced = FrontEnd::enrolled(Some(&first), &replace, &key(2, 10), NOW).unwrap();
        assert_eq!(replaced.terms(), &replace.terms);
        assert_eq!(fingerprints(&replaced), [1, 2]);
    }

    #[test]
    fn what_was_withdrawn_comes_back_only_where_that_is_said_and_without_its_keys() {
        let withdrawn = enroll(None, "/a", &key(1, 10)).unwrap().withdrawn(at(5)).unwrap();
        assert_eq!(withdrawn.withdrawn(at(6)), None);
        let replace = enrolment("/a", Existing { replace: true, again: false });
        let error = FrontEnd::enrolled(Some(&withdrawn), &replace, &key(2, 10), at(6)).unwrap_err();
        assert!(
            matches!(error, FrontEndError::Withdrawn { since, .. } if since == at(5)),
            "{error}"
        );
        assert!(error.to_string().contains("--again"));
        let again = enrolment("/b", Existing { replace: false, again: true });
        let back = FrontEnd::enrolled(Some(&withdrawn), &again, &key(2, 10), at(6)).unwrap();
        assert_eq!((fingerprints(&back), back.withdrawn_at()), (vec![2], None));
        assert_eq!((back.enrolled_at(), back.revision()), (at(6), 3));
    }

    #[test]
    fn so_many_keys_are_kept_and_those_that_have_ended_make_room() {
        let mut front_end = enroll(None, "/a", &key(0, 10)).unwrap();
        for number in 1..64 {
            front_end = enroll(Some(&front_end), "/a", &key(number, 10)).unwrap();
        }
        assert_eq!(front_end.keys().len(), MOST_KEYS);
        let full = enroll(Some(&front_end), "/a", &key(64, 10)).unwrap_err();
        assert!(full.to_string().contains("64 keys"), "{full}");
        assert!(enroll(Some(&front_end), "/a", &key(7, 20)).is_ok(), "it is there already");
        let same = enrolment("/a", Existing::default());
        let later = FrontEnd::enrolled(Some(&front_end), &same, &key(64, 99), at(11)).unwrap();
        assert_eq!(fingerprints(&later), [64]);
    }

    fn renewed(front_end: &FrontEnd, by: u8, to: u8, now: i64) -> Result<FrontEnd, FrontEndError> {
        front_end.renewed(&[by; 32], &key(to, now + 1_000_000), at(now))
    }

    #[track_caller]
    fn refused(error: FrontEndError) -> NotAdmitted {
        let FrontEndError::NotAdmitted(reason) = error else { panic!("{error}") };
        reason
    }

    #[test]
    fn a_renewal_whose_answer_was_lost_can_be_asked_for_again_and_leaves_nothing_behind() {
        let first = enroll(None, "/a", &key(1, 10_000)).unwrap();
        let lost = renewed(&first, 1, 2, 5).unwrap();
        assert_eq!(fingerprints(&lost), [1, 2]);
        assert_eq!(lost.keys()[0].not_after, at(10_000), "nobody has seen the new one");
        let second = renewed(&lost, 1, 3, 5).unwrap();
        assert_eq!(fingerprints(&second), [1, 3]);
        assert_eq!(second.keys()[1].renewed_from, Some([1; 32]));
        assert_eq!(fingerprints(&renewed(&second, 1, 3, 5).unwrap()), [1, 3], "the same key");
        assert_eq!((second.revision(), lost.revision()), (3, 2));
    }

    #[test]
    fn a_key_whose_successor_was_seen_neither_renews_nor_removes_it_and_ends_soon() {
        let first = enroll(None, "/a", &key(1, 10_000)).unwrap();
        assert_eq!(first.taken_over(&[1; 32], at(5)), None, "it replaces nothing");
        let both = renewed(&first, 1, 2, 5).unwrap();
        assert_eq!(both.taken_over(&[1; 32], at(6)), None, "the older one was seen");
        let seen = both.taken_over(&[2; 32], at(6)).unwrap();
        assert_eq!((fingerprints(&seen), seen.revision()), (vec![1, 2], 3));
        assert_eq!(seen.taken_over(&[2; 32], at(7)), None, "once is enough");

        // Whoever has the older key is not let in, and gets nothing that would throw the instance out.
        let reason = refused(renewed(&seen, 1, 9, 7).unwrap_err());
        assert!(matches!(reason, NotAdmitted::Replaced { at: since, .. } if since == at(6)));
        assert!(reason.to_string().contains("somebody else does"), "{reason}");
        assert!(matches!(seen.admit(&[1; 32], at(7)), Err(NotAdmitted::Replaced { .. })));
        // What was opened with it has ten minutes.
        assert!(seen.keep(&[1; 32], at(606)).is_ok());
        assert!(matches!(seen.keep(&[1; 32], at(607)), Err(NotAdmitted::Replaced { .. })));
        assert!(seen.admit(&[2; 32], at(607)).is_ok());

        // It does not come back by its successor or by a person either.
        refused(renewed(&seen, 2, 1, 7).unwrap_err());
        refused(enroll(Some(&seen), "/a", &key(1, 10_000)).unwrap_err());
    }

    #[test]
    fn a_key_that_renews_was_seen() {
        let first = enroll(None, "/a", &key(1, 10_000)).unwrap();
        let second = renewed(&first, 1, 2, 5).unwrap();
        let third = renewed(&second, 2, 3, 6).unwrap();
        assert_eq!((fingerprints(&third), third.revision()), (vec![1, 2, 3], 3));
        let fourth = renewed(&third, 3, 4, 6).unwrap();
        let replaced = fourth.keys().iter().filter(|key| key.replaced_at.is_some());
        assert!(
            replaced.clone().count() == 2 && replaced.clone().all(|key| key.renewed_from.is_none())
        );
        refused(renewed(&third, 1, 9, 7).unwrap_err());
        let later = renewed(&third, 2, 3, 607).unwrap();
        assert_eq!(fingerprints(&later), [2, 3], "what has ended is gone");
        // A new SVID for the key itself is no new key.
        let same = renewed(&later, 3, 3, 608).unwrap();
        assert_eq!(fingerprints(&same), [2, 3]);
        assert_eq!(same.keys()[1].not_after, at(1_000_608));
        assert!(same.admit(&[3; 32], at(609)).is_ok());
    }

    #[test]
    fn what_a_person_has_enrolled_goes_with_no_renewal_of_another_key() {
        let first = enroll(None, "/a", &key(1, 10_000)).unwrap();
        let both = renewed(&first, 1, 2, 5).unwrap();
        let enrolled = enroll(Some(&both), "/a", &key(2, 10_000)).unwrap();
        assert_eq!(fingerprints(&renewed(&enrolled, 1, 3, 6).unwrap()), [1, 2, 3]);
    }

    #[test]
    fn the_next_certificate_is_given_after_half_of_the_life_of_this_one() {
        let first = enroll(None, "/a", &key(1, 200)).unwrap();
        let shown = Shown { fingerprint: [1; 32], not_before: at(100), not_after: at(201) };
        assert_eq!(shown.renewable_from(), at(150));
        let early = first.checked_renewal(&shown, &[2; 32], at(149)).unwrap_err();
        assert!(matches!(early, FrontEndError::TooEarly { from, .. } if from == at(150)));
        assert!(early.to_string().contains("ask from 1970-01-01T00:02:30Z on"), "{early}");
        assert!(first.checked_renewal(&shown, &[2; 32], at(150)).is_ok());
        assert!(first.checked_renewal(&shown, &[1; 32], at(150)).is_ok(), "the same key");
        let unknown = Shown { fingerprint: [3; 32], ..shown };
        refused(first.checked_renewal(&unknown, &[2; 32], at(150)).unwrap_err());
    }

    #[test]
    fn a_renewal_removes_only_what_it_was_decided_on() {
        let first = enroll(None, "/a", &key(1, 10_000)).unwrap();
        let shown = Shown { fingerprint: [1; 32], not_before: at(-100), not_after: at(10) };
        let check = |found: &FrontEnd| found.checked_renewal(&shown, &[9; 32], at(5)).unwrap();
        let commit = |before: &FrontEnd, checked: &CheckedRenewal| {
            before.renewed_as_checked(checked, &key(9, 10_000), at(6))
        };
        let (second, third) =
            (renewed(&first, 1, 2, 5).unwrap(), renewed(&first, 1, 3, 5).unwrap());
        // As it was found, and with another instance that came in between.
        assert_eq!(fingerprints(&commit(&first, &check(&first)).unwrap()), [1, 9]);
        assert_eq!(fingerprints(&commit(&second, &check(&second)).unwrap()), [1, 9]);
        let more = enroll(Some(&second), "/a", &key(4, 10_000)).unwrap();
        assert_eq!(fingerprints(&commit(&more, &check(&second)).unwrap()), [1, 4, 9]);
        // Another was given since, for none and for one.
        for (found, present) in [(&first, &second), (&second, &third)] {
            let error = commit(present, &check(found)).unwrap_err();
            assert!(matches!(error, FrontEndError::Contended(_)), "{error}");
        }
        // That it was seen is the better reason.
        let seen = second.taken_over(&[2; 32], at(5)).unwrap();
        refused(commit(&seen, &check(&first)).unwrap_err());
    }

    #[test]
    fn a_full_record_has_room_for_the_renewals_of_its_instances_some_at_a_time() {
        let mut front_end = enroll(None, "/a", &key(0, 10_000)).unwrap();
        for number in 1..64 {
            front_end = enroll(Some(&front_end), "/a", &key(number, 10_000)).unwrap();
        }
        for number in 0..24 {
            front_end = renewed(&front_end, number, 100 + number, 5).unwrap();
        }
        let full = renewed(&front_end, 30, 130, 5).unwrap_err();
        assert!(full.to_string().contains("try again in 10 minutes"), "{full}");
        // A lost answer needs no more room, and a pair of keys is one instance.
        assert!(renewed(&front_end, 3, 200, 5).is_ok());
        let error = enroll(Some(&front_end), "/a", &key(201, 10_000)).unwrap_err();
        assert!(matches!(error, FrontEndError::TooManyKeys(_)), "{error}");
        for number in 0..24 {
            front_end = front_end.taken_over(&[100 + number; 32], at(6)).unwrap();
        }
        assert!(renewed(&front_end, 30, 130, 606).is_err());
        assert!(renewed(&front_end, 30, 130, 607).is_ok());
    }

    #[test]
    fn an_enrolment_undoes_only_what_it_was_decided_on() {
        let (replace, again) = (
            enrolment("/b", Existing { replace: true, again: false }),
            enrolment("/a", Existing { replace: true, again: true }),
        );
        let check = |found: Option<&FrontEnd>, wanted: &Enrolment| {
            FrontEnd::checked(found.cloned(), wanted, &[9; 32], at(5)).unwrap()
        };
        let commit = |before: Option<&FrontEnd>, checked: &Checked| {
            FrontEnd::enrolled_as_checked(before, checked, &key(9, 10_000), at(6))
        };
        let live = enroll(None, "/a", &key(1, 10_000)).unwrap();
        let withdrawn = live.withdrawn(at(5)).unwrap();
        let back = enroll(None, "/c", &key(2, 10_000)).unwrap();
        let back = FrontEnd { revision: withdrawn.revision + 1, ..back };
        let withdrawn_again = back.withdrawn(at(5)).unwrap();
        let more = enroll(Some(&live), "/a", &key(3, 10_000)).unwrap();

        let on = |front_end: Result<FrontEnd, FrontEndError>| front_end.unwrap().terms().clone();
        // As it was found, and with another instance that came in between.
        assert_eq!(on(commit(Some(&live), &check(Some(&live), &replace))), replace.terms);
        assert_eq!(on(commit(Some(&more), &check(Some(&live), &replace))), replace.terms);
        assert_eq!(on(commit(Some(&withdrawn), &check(Some(&withdrawn), &again))), again.terms);
        assert_eq!(on(commit(None, &check(None, &replace))), replace.terms);
        // Withdrawn since, once or again; or there since; or on terms that nobody has looked at.
        for (found, wanted, present) in [
            (Some(&live), &again, &withdrawn),
            (Some(&live), &replace, &withdrawn),
            (Some(&withdrawn), &again, &withdrawn_again),
            (None, &again, &withdrawn),
        ] {
            let error = commit(Some(present), &check(found, wanted)).unwrap_err();
            assert!(matches!(error, FrontEndError::Withdrawn { .. }), "{error}");
        }
        for (found, wanted) in [(Some(&live), &replace), (Some(&withdrawn), &again), (None, &again)]
        {
            let error = commit(Some(&back), &check(found, wanted)).unwrap_err();
            assert!(matches!(error, FrontEndError::OtherTerms { .. }), "{error}");
        }
    }

    #[test]
    fn other_instances_are_left_alone_by_a_renewal() {
        let first = enroll(None, "/a", &key(1, 10)).unwrap();
        let both = enroll(Some(&first), "/a", &key(2, 10)).unwrap();
        let renewed = both.renewed(&[1; 32], &key(3, 20), NOW).unwrap();
        assert_eq!(fingerprints(&renewed), [1, 2, 3]);
    }

    #[test]
    fn a_key_that_opens_nothing_is_not_renewed() {
        let first = enroll(None, "/a", &key(1, 10)).unwrap();
        let unknown = refused(renewed(&first, 2, 9, 10).unwrap_err());
        assert!(matches!(unknown, NotAdmitted::UnknownKey { .. }));
        let ended = refused(renewed(&first, 1, 9, 11).unwrap_err());
        assert!(matches!(ended, NotAdmitted::KeyEnded { .. }));
        let withdrawn = refused(renewed(&first.withdrawn(at(5)).unwrap(), 1, 9, 6).unwrap_err());
        assert!(matches!(withdrawn, NotAdmitted::Withdrawn { .. }));
    }

    #[test]
    fn terms_are_those_that_were_asked_for() {
        let path_scopes = vec![PathScope::parse("/").unwrap()];
        let grants = Grants { named: true, ..Grants::default() };
        let terms = Terms::new(Wanted { path_scopes, grants, ..Wanted::default() }).unwrap();
        let wanted = Enrolment { terms, ..enrolment("/", Existing::default()) };
        let made = FrontEnd::enrolled(None, &wanted, &key(1, 10), NOW).unwrap();
        assert_eq!((made.terms(), made.revision()), (&wanted.terms, 1));
        assert_eq!(made.terms().grants().names(), ["named"]);
    }
}
