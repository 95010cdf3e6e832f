//! Which keys sign no more: one flag per name, shared by the store and every handle it gave out.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ca_core::key::{KeyError, KeyName, SignError};

/// The flags of a store. Grows with the number of keys that were ever used, and no further.
#[derive(Debug, Default)]
pub(crate) struct Retirements(Mutex<BTreeMap<KeyName, Retired>>);

/// Whether one key is retired; clones share the flag.
#[derive(Debug, Clone, Default)]
pub(crate) struct Retired(Arc<AtomicBool>);

impl Retirements {
    /// The flag of a key that exists.
    pub(crate) fn of(&self, name: &KeyName) -> Retired {
        self.flags().entry(name.clone()).or_default().clone()
    }

    /// Whether that name was retired.
    pub(crate) fn contains(&self, name: &KeyName) -> bool {
        self.flags().get(name).is_some_and(Retired::is_set)
    }

    fn flags(&self) -> MutexGuard<'_, BTreeMap<KeyName, Retired>> {
        // A flag is set or it is not: a panic elsewhere leaves nothing half done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Retired {
    pub(crate) fn set(&self) {
        self.0.store(true, Ordering::Release);
    }

    pub(crate) fn is_set(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }

    /// The refusal of a retired key.
    pub(crate) fn check(&self, key: &KeyName) -> Result<(), SignError> {
        if self.is_set() {
            let reason = "it is retired; sign with the active authority's key".to_owned();
            return Err(SignError::Refused { key: key.to_string(), reason });
        }
        Ok(())
    }
}

/// Refuses a name of a trust domain that the store does not serve.
pub(crate) fn check_domain(name: &KeyName, trust_domain: &str) -> Result<(), KeyError> {
    if name.trust_domain() == trust_domain {
        return Ok(());
    }
    let reason = format!("this store serves the trust domain {trust_domain} alone");
    Err(KeyError::Unsafe { name: name.clone(), reason })
}
