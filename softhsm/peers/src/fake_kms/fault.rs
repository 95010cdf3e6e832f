//! The ways in which a service fails its clients.

use fastrand::Rng;

use super::Operation;

/// One way to fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fault {
    /// The connection ends before anything is done.
    DropBefore,
    /// The work is done, and the connection ends instead of an answer.
    DropAfter,
    /// HTTP 500 `KMSInternalException`; nothing is done.
    InternalError,
    /// HTTP 503 `DependencyTimeoutException`; nothing is done.
    DependencyTimeout,
    /// The work is done and the answer is no JSON.
    GarbageBody,
    /// Nothing is ever answered; the connection stays.
    Hang,
    /// The answer to `Sign` names the key that was asked for, and another has signed.
    WrongSigner,
    /// The answer to `Sign`, `GetPublicKey` or `DescribeKey` names another key.
    WrongKey,
    /// The answer to `Sign` names another algorithm.
    WrongAlgorithm,
    /// One bit of the signature that `Sign` answers is wrong.
    CorruptedSignature,
}

impl Fault {
    /// Every fault.
    pub const ALL: [Self; 10] = [
        Self::DropBefore,
        Self::DropAfter,
        Self::InternalError,
        Self::DependencyTimeout,
        Self::GarbageBody,
        Self::Hang,
        Self::WrongSigner,
        Self::WrongKey,
        Self::WrongAlgorithm,
        Self::CorruptedSignature,
    ];

    /// Whether an answer to `operation` can show it.
    pub(super) fn shows_in(self, operation: Operation) -> bool {
        match self {
            Self::WrongSigner | Self::WrongAlgorithm | Self::CorruptedSignature => {
                operation == Operation::Sign
            }
            Self::WrongKey => matches!(
                operation,
                Operation::Sign | Operation::GetPublicKey | Operation::DescribeKey
            ),
            _ => true,
        }
    }
}

/// How probable each fault is. A request meets one at most.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Faults([f64; Fault::ALL.len()]);

impl Faults {
    /// Sets the probability of a fault, 0 to 1. Together they are at most 1: beyond that, the last ones
    /// in the order of [`Fault::ALL`] come less often than they are set. A fault that an operation
    /// cannot show leaves the answer as it is.
    pub fn set(&mut self, fault: Fault, probability: f64) {
        self.0[fault as usize] = probability;
    }

    /// The probability of a fault.
    #[must_use]
    pub fn of(&self, fault: Fault) -> f64 {
        self.0[fault as usize]
    }

    /// Draws the fault of one request, if it meets any.
    pub(super) fn draw(&self, random: &mut Rng) -> Option<Fault> {
        let mut left = random.f64();
        Fault::ALL.into_iter().find(|&fault| {
            left -= self.of(fault);
            left < 0.0
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_fault_has_its_share() {
        let mut faults = Faults::default();
        faults.set(Fault::DropAfter, 0.1);
        faults.set(Fault::CorruptedSignature, 0.2);
        let mut random = Rng::with_seed(1);
        let draws: Vec<_> = (0..10_000).map(|_| faults.draw(&mut random)).collect();
        let share = |fault| draws.iter().filter(|&&draw| draw == fault).count();
        assert!((900..1100).contains(&share(Some(Fault::DropAfter))));
        assert!((1850..2150).contains(&share(Some(Fault::CorruptedSignature))));
        assert_eq!(
            share(None) + share(Some(Fault::DropAfter)) + share(Some(Fault::CorruptedSignature)),
            10_000
        );
    }

    #[test]
    fn without_probabilities_nothing_fails() {
        let mut random = Rng::with_seed(1);
        assert!((0..1000).all(|_| Faults::default().draw(&mut random).is_none()));
    }
}
