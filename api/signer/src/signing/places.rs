//! How many connections there are, in all and of each peer.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ca_core::id::SpiffeId;
use thiserror::Error;

use super::Limits;

/// Why there is no place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub(super) enum NoPlace {
    #[error("{0} connections are open, as many as may be")]
    Full(usize),
    #[error("this peer has {0} connections open, as many as one may")]
    OfPeer(usize),
}

/// Hands out places.
pub(super) struct Places {
    limits: Limits,
    taken: Mutex<Taken>,
}

#[derive(Default)]
struct Taken {
    all: usize,
    /// No entry for none.
    of: HashMap<SpiffeId, usize>,
}

impl Places {
    pub(super) fn of(limits: Limits) -> Arc<Self> {
        Arc::new(Self { limits, taken: Mutex::default() })
    }

    /// A place for a connection of that peer, until it is dropped.
    pub(super) fn take(self: &Arc<Self>, peer: &SpiffeId) -> Result<Place, NoPlace> {
        let mut taken = self.lock();
        if taken.all >= self.limits.connections {
            return Err(NoPlace::Full(taken.all));
        }
        let of_peer = taken.of.get(peer).copied().unwrap_or_default();
        if of_peer >= self.limits.connections_of_a_peer {
            return Err(NoPlace::OfPeer(of_peer));
        }
        taken.all += 1;
        taken.of.insert(peer.clone(), of_peer + 1);
        Ok(Place { places: Arc::clone(self), peer: peer.clone() })
    }

    fn lock(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place that is taken.
pub(super) struct Place {
    places: Arc<Places>,
    peer: SpiffeId,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.lock();
        taken.all -= 1;
        match taken.of.get_mut(&self.peer) {
            Some(1) | None => drop(taken.of.remove(&self.peer)),
            Some(of_peer) => *of_peer -= 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_given_back_and_nobody_takes_anothers() {
        let limits = Limits { connections: 3, connections_of_a_peer: 2, ..Limits::default() };
        let places = Places::of(limits);
        let id = |name| SpiffeId::parse(&format!("spiffe://a.test/{name}")).unwrap();
        let (one, other) = (id("one"), id("other"));
        let first = places.take(&one).ok().unwrap();
        let _second = places.take(&one).ok().unwrap();
        assert_eq!(places.take(&one).err(), Some(NoPlace::OfPeer(2)));
        let third = places.take(&other).ok().unwrap();
        assert_eq!(places.take(&other).err(), Some(NoPlace::Full(3)));
        drop(first);
        drop(third);
        assert!(places.take(&one).is_ok());
        assert_eq!(places.lock().of.len(), 1);
    }
}
