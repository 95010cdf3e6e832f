//! Who may show who they are: so many at once, and so many of one address, so that one cannot take all places.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use thiserror::Error;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Limits;

/// An address has as many handshakes under way as one may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("{0} handshakes of this address are under way, as many as may be")]
pub(super) struct Crowded(usize);

/// Counts handshakes.
pub(super) struct Doorstep {
    all: Arc<Semaphore>,
    most_of_one: usize,
    /// No entry for none, so there are never more than handshakes.
    of: Mutex<HashMap<Source, usize>>,
}

/// Who is counted as one: an IPv4 address, or 64 bits of an IPv6 address, which is what one machine is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Source(IpAddr);

impl Source {
    fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V6(address) => {
                let [a, b, c, d, ..] = address.segments();
                Self(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into())
            }
            ipv4 => Self(ipv4),
        }
    }
}

impl Doorstep {
    pub(super) fn of(limits: Limits) -> Arc<Self> {
        Arc::new(Self {
            all: Arc::new(Semaphore::new(limits.handshakes)),
            most_of_one: limits.handshakes_of_an_address,
            of: Mutex::default(),
        })
    }

    /// Waits until there is room for one more.
    pub(super) async fn room(&self) -> OwnedSemaphorePermit {
        Arc::clone(&self.all).acquire_owned().await.expect("the semaphore is never closed")
    }

    /// Takes that room for somebody of that address.
    pub(super) fn step_on(
        self: &Arc<Self>,
        address: IpAddr,
        room: OwnedSemaphorePermit,
    ) -> Result<Standing, Crowded> {
        let source = Source::of(address);
        let mut of = self.lock();
        let count = of.get(&source).copied().unwrap_or_default();
        if count >= self.most_of_one {
            return Err(Crowded(count));
        }
        of.insert(source, count + 1);
        Ok(Standing { doorstep: Arc::clone(self), source, _room: room })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Source, usize>> {
        self.of.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A handshake under way.
pub(super) struct Standing {
    doorstep: Arc<Doorstep>,
    source: Source,
    _room: OwnedSemaphorePermit,
}

impl Drop for Standing {
    fn drop(&mut self) {
        let mut of = self.doorstep.lock();
        match of.get_mut(&self.source) {
            Some(1) | None => drop(of.remove(&self.source)),
            Some(count) => *count -= 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_address_leaves_room_for_others_and_gives_its_own_back() {
        let limits = Limits { handshakes: 5, handshakes_of_an_address: 2, ..Limits::default() };
        let doorstep = Doorstep::of(limits);
        let step_on =
            async |address: &str| doorstep.step_on(address.parse().unwrap(), doorstep.room().await);
        let first = step_on("192.0.2.1").await.ok().unwrap();
        // The same machine, as a listener on all addresses is told of it.
        let _second = step_on("::ffff:192.0.2.1").await.ok().unwrap();
        assert_eq!(step_on("192.0.2.1").await.err(), Some(Crowded(2)));
        let _other = step_on("192.0.2.2").await.ok().unwrap();
        let _third = step_on("2001:db8:0:1::1").await.ok().unwrap();
        let fourth = step_on("2001:db8:0:1:ffff::2").await.ok().unwrap();
        drop(fourth);
        let _fifth = step_on("2001:db8:0:2::1").await.ok().unwrap();
        drop(first);
        assert!(step_on("192.0.2.1").await.is_ok());
        assert_eq!(doorstep.lock().len(), 4);
    }
}
