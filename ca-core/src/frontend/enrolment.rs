//! How a front end comes to be, changes and ends. Each step is a function of the record before it; the registry
//! commits what comes out.

use thiserror::Error;

use super::{EnrolledKey, FrontEnd, FrontEndName, MOST_FRONT_ENDS, MOST_KEYS, NotAdmitted, Terms};
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
    /// Whoever wants a key renewed is not the front end.
    #[error(transparent)]
    NotAdmitted(#[from] NotAdmitted),
    /// Others changed it again and again.
    #[error(
        "the record of front end {0} was changed by others in between, several times; try again"
    )]
    Contended(FrontEndName),
}

impl FrontEnd {
    /// Whether an enrolment of that key may be, for the front end that is there, if one is.
    pub(super) fn may_enroll(
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
        before.room_for(fingerprint, now)
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
        next.revision += 1;
        Ok(next)
    }

    /// The front end with a new key, or the same with a new SVID, for an instance that has shown that it holds
    /// the key `by`. That key stays as long as its SVID does, or until the new one is renewed, so that an answer
    /// that is lost can be asked for again; what an earlier asking brought goes.
    pub(super) fn renewed(
        &self,
        by: &[u8; 32],
        key: &Certified,
        now: Timestamp,
    ) -> Result<Self, FrontEndError> {
        let known = self.admit(by, now)?;
        let predecessor = known.renewed_from;
        let mut next = self.clone();
        next.keys.retain(|known| {
            let superseded =
                known.renewed_from == Some(*by) || Some(known.fingerprint) == predecessor;
            !superseded || known.fingerprint == key.fingerprint
        });
        next.room_for(&key.fingerprint, now)?;
        next.take_key(key, Some(*by).filter(|by| *by != key.fingerprint), now);
        next.revision += 1;
        Ok(next)
    }

    /// The front end withdrawn; `None` if it is.
    pub(crate) fn withdrawn(&self, now: Timestamp) -> Option<Self> {
        let withdrawn =
            Self { withdrawn_at: Some(now), revision: self.revision + 1, ..self.clone() };
        self.withdrawn_at.is_none().then_some(withdrawn)
    }

    /// Whether it has room for that key beside those that have not ended.
    fn room_for(&self, fingerprint: &[u8; 32], now: Timestamp) -> Result<(), FrontEndError> {
        let others =
            |known: &&EnrolledKey| known.not_after >= now && known.fingerprint != *fingerprint;
        if self.keys.iter().filter(others).count() < MOST_KEYS {
            Ok(())
        } else {
            Err(FrontEndError::TooManyKeys(self.name.clone()))
        }
    }

    /// Those that have ended make room.
    fn take_key(&mut self, key: &Certified, renewed_from: Option<[u8; 32]>, now: Timestamp) {
        let Certified { fingerprint, serial, not_after } = *key;
        self.keys.retain(|known| known.not_after >= now || known.fingerprint == fingerprint);
        match self.keys.iter_mut().find(|known| known.fingerprint == fingerprint) {
            Some(known) => (known.serial, known.not_after) = (serial, not_after),
            None => {
                let enrolled_at = now;
                self.keys.push(EnrolledKey {
                    fingerprint,
                    serial,
                    not_after,
                    enrolled_at,
                    renewed_from,
                });
            }
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

    #[test]
    fn a_renewal_whose_answer_was_lost_can_be_asked_for_again_and_leaves_nothing_behind() {
        let first = enroll(None, "/a", &key(1, 10)).unwrap();
        let lost = first.renewed(&[1; 32], &key(2, 20), at(5)).unwrap();
        assert_eq!(fingerprints(&lost), [1, 2]);
        let second = lost.renewed(&[1; 32], &key(3, 20), at(5)).unwrap();
        assert_eq!(fingerprints(&second), [1, 3]);
        assert_eq!(second.keys()[1].renewed_from, Some([1; 32]));
        // Once the new one has shown that it works, the one before it goes.
        let third = second.renewed(&[3; 32], &key(4, 30), at(6)).unwrap();
        assert_eq!(fingerprints(&third), [3, 4]);
        // A new SVID for the key itself is no new key.
        let same = third.renewed(&[4; 32], &key(4, 40), at(7)).unwrap();
        assert_eq!(fingerprints(&same), [4]);
        assert_eq!(same.keys()[0].not_after, at(40));
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
        let refused = |front_end: &FrontEnd, by: u8, now| {
            let error = front_end.renewed(&[by; 32], &key(9, 20), now).unwrap_err();
            let FrontEndError::NotAdmitted(reason) = error else { panic!("{error}") };
            reason
        };
        assert!(matches!(refused(&first, 2, at(10)), NotAdmitted::UnknownKey { .. }));
        assert!(matches!(refused(&first, 1, at(11)), NotAdmitted::KeyEnded { .. }));
        let withdrawn = first.withdrawn(at(5)).unwrap();
        assert!(matches!(refused(&withdrawn, 1, at(6)), NotAdmitted::Withdrawn { .. }));
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
