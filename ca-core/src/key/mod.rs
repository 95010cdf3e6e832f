//! Keys: what they are, what may be signed with them, and the two seams behind which they live.
//!
//! *Using* a key ([`SigningKey`]) is apart from *managing* keys ([`KeyStore`]); the road of a mint sees
//! only the first. `keymanager` implements both; `contract` (feature `testing`) says what they owe.

mod algorithm;
#[cfg(any(test, feature = "testing"))]
pub mod contract;
mod message;
mod public;
mod signature;
mod store;
mod urgency;

pub use algorithm::{KeyType, RsaScheme, SignatureAlgorithm};
pub use message::{PROBE_PREFIX, Purpose, ToBeSigned};
pub use public::{KeyId, KeyKind, PublicKey, PublicKeyError, Verifier};
pub use signature::{Signature, SignatureError};
pub use store::{
    ExpiredKey, KeyDescription, KeyError, KeyName, KeyNameError, KeyStore, Reach, SignError,
    SigningKey, SignsHere, StoreDescription, StoreHealth,
};
pub use urgency::{Priority, Urgency};
