//! Whether a signature is verified before it is released.
//!
//! A device that signs wrongly (a bit flip, a driver's bug, a key that was swapped) costs its caller a
//! certificate that nobody accepts, and with some schemes the key itself. What comes from outside this
//! process is checked by default, what is signed inside it is sampled.

use std::cell::Cell;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicBool, Ordering};

use ca_core::key::{
    KeyName, PublicKey, PublicKeyError, Purpose, SignError, Signature, SignatureAlgorithm,
    ToBeSigned, Verifier,
};

use crate::metrics::StoreMetrics;

/// Which signatures on leaves and tokens are verified. Those on CA certificates and our own requests always
/// are, and who asks for a probe verifies it, since that is what a probe is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verification {
    /// Each.
    Always,
    /// One of so many.
    Sampled(NonZeroU32),
    /// None.
    Off,
}

impl Verification {
    /// For keys outside this process: a verification costs less than the way there.
    pub const OUTSIDE: Self = Self::Always;
    /// For keys in this process, where a verification costs three times the signature.
    pub const INSIDE: Self = Self::Sampled(NonZeroU32::new(1024).expect("not zero"));
}

/// How the keys of a store are watched.
#[derive(Debug, Clone)]
pub struct Oversight {
    /// Which signatures are verified before they are released.
    pub verification: Verification,
    /// Where everything is counted.
    pub metrics: StoreMetrics,
}

/// Raises the alarm: a device that signs wrongly has to be looked at by a person.
pub(crate) fn alarm(key: &KeyName, place: &str) {
    tracing::error!(
        %key,
        place,
        "a signature does not verify and was not released; it is tried once more. Check the device"
    );
}

/// The refusal after the second wrong signature.
pub(crate) fn wrong(key: &KeyName) -> SignError {
    let reason =
        "two signatures in a row did not verify with its public key and were not released; \
                  stop using the device until it is checked"
            .to_owned();
    SignError::Wrong { key: key.to_string(), reason }
}

/// Verifies what one key signs, as often as is set.
#[derive(Debug)]
pub(crate) struct Verifiers {
    verification: Verification,
    /// One for each algorithm of the key.
    verifiers: Vec<(SignatureAlgorithm, Verifier)>,
    /// Whether it has signed nothing yet: its first signature is looked at.
    is_new: AtomicBool,
}

thread_local! {
    /// How many signatures this thread has made that might have been looked at. Each thread counts for itself:
    /// one count for all would have the cores wait for each other with each signature.
    static SIGNED: Cell<u32> = const { Cell::new(0) };
}

impl Verifiers {
    pub(crate) fn new(
        public_key: &PublicKey,
        verification: Verification,
    ) -> Result<Self, PublicKeyError> {
        let verifiers =
            public_key.kind().algorithms().iter().map(|&algorithm| {
                public_key.verifier(algorithm).map(|verifier| (algorithm, verifier))
            });
        let verifiers = verifiers.collect::<Result<_, _>>()?;
        Ok(Self { verification, verifiers, is_new: AtomicBool::new(true) })
    }

    /// Whether the signature may be released: it verifies, or it is not one of those that are looked at.
    pub(crate) fn accepts(&self, message: &ToBeSigned, signature: &Signature) -> bool {
        !self.is_due(message.purpose()) || self.verifies(message, signature)
    }

    /// Whether the signature is by this key over that message.
    pub(crate) fn verifies(&self, message: &ToBeSigned, signature: &Signature) -> bool {
        let algorithm = message.algorithm();
        let verifier = self.verifiers.iter().find(|(known, _)| *known == algorithm);
        verifier.is_some_and(|(_, verifier)| verifier.verifies(message.message(), signature))
    }

    /// Whether the next signature for that purpose is to be looked at. Counts.
    pub(crate) fn is_due(&self, purpose: Purpose) -> bool {
        match (purpose, self.verification) {
            (Purpose::CaCertificate | Purpose::Request | Purpose::TreeHead, _) => true,
            (_, Verification::Always) => true,
            (_, Verification::Off) => false,
            (_, Verification::Sampled(n)) => {
                if self.is_new.load(Ordering::Relaxed) && self.is_new.swap(false, Ordering::Relaxed)
                {
                    return true;
                }
                let signed = SIGNED.get().wrapping_add(1);
                SIGNED.set(signed);
                signed.is_multiple_of(n.get())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verifiers(verification: Verification) -> Verifiers {
        let key = PublicKey::from_ed25519(&[7; 32]).unwrap();
        Verifiers::new(&key, verification).unwrap()
    }

    fn due(verifiers: &Verifiers, purpose: Purpose) -> usize {
        (0..100).filter(|_| verifiers.is_due(purpose)).count()
    }

    #[test]
    fn leaves_and_tokens_are_verified_as_set_and_the_rest_always() {
        let sampled = Verification::Sampled(NonZeroU32::new(10).unwrap());
        for (verification, count) in
            [(Verification::Always, 100..=100), (sampled, 9..=11), (Verification::Off, 0..=0)]
        {
            let verifiers = verifiers(verification);
            assert!(count.contains(&due(&verifiers, Purpose::Certificate)), "{verification:?}");
            assert!(count.contains(&due(&verifiers, Purpose::Token)), "{verification:?}");
            for always in [Purpose::CaCertificate, Purpose::Request, Purpose::TreeHead] {
                assert_eq!(due(&verifiers, always), 100, "{always:?}");
            }
        }
    }

    #[test]
    fn the_first_signature_of_a_sampled_key_is_verified() {
        assert!(verifiers(Verification::INSIDE).is_due(Purpose::Certificate));
    }
}
