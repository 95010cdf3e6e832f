//! Which key of a store is probed next, and what a probe says of the store and what of its key alone.

use std::collections::BTreeMap;
use std::sync::Arc;

use ca_core::key::KeyName;

use crate::metrics::KeyMetrics;

/// The keys of a store in their turns.
#[derive(Default)]
pub(crate) struct Probes {
    turn: usize,
    /// Those whose last probe was not signed, and whether that was told.
    failing: BTreeMap<KeyName, bool>,
}

impl Probes {
    /// The next of the keys in use.
    pub(crate) fn next<K>(&mut self, in_use: &[Arc<K>]) -> Option<Arc<K>> {
        let next = in_use.get(self.turn % in_use.len().max(1)).map(Arc::clone);
        self.turn = self.turn.wrapping_add(1);
        next
    }

    /// A probe by `key` was signed and verified, or was not. Says whether that is news of the store: a key that goes on
    /// failing while others sign is told of by itself, for what the others are for goes on.
    pub(crate) fn conclude<'a>(
        &mut self,
        key: &KeyName,
        metrics: &KeyMetrics,
        outcome: &Result<(), String>,
        in_use: impl Iterator<Item = &'a KeyName> + Clone,
    ) -> bool {
        self.failing.retain(|failing, _| in_use.clone().any(|name| name == failing));
        metrics.usable(outcome.is_ok());
        let Err(reason) = outcome else {
            self.failing.remove(key);
            return true;
        };
        let fail_all = self.failing.len() >= in_use.count();
        match self.failing.get_mut(key) {
            Some(told) if !fail_all => {
                if !std::mem::replace(told, true) {
                    tracing::error!(%key, reason, "a key does not sign, though others do");
                }
                false
            }
            Some(_) => true,
            None => {
                self.failing.insert(key.clone(), false);
                true
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::StoreMetrics;

    #[test]
    fn all_keys_have_their_turn() {
        let (mut probes, keys) = (Probes::default(), [1, 2, 3].map(Arc::new));
        let turns: Vec<i32> = (0..7).map(|_| *probes.next(&keys).unwrap()).collect();
        assert_eq!(turns, [1, 2, 3, 1, 2, 3, 1]);
        assert_eq!(probes.next::<i32>(&[]), None);
        assert!(probes.next(&keys[..1]).is_some(), "whatever the turn");
    }

    #[test]
    fn a_key_that_goes_on_failing_alone_is_no_news_of_its_store() {
        let names = ["x509/1", "jwt/1"].map(|key| format!("mintmark/a.test/{key}"));
        let [ca, jwt] = names.map(|name| KeyName::parse(&name).unwrap());
        let (mut probes, store) = (Probes::default(), StoreMetrics::default());
        let (fails, works) = (Err("gone".to_owned()), Ok(()));
        let mut probed = |key: &KeyName, outcome| {
            let in_use = [&ca, &jwt].into_iter();
            probes.conclude(key, &store.key(key), outcome, in_use)
        };
        assert!(probed(&ca, &fails), "it may be the device");
        assert!(probed(&jwt, &works), "it is not");
        assert!(!probed(&ca, &fails), "it is the key");
        assert!(probed(&jwt, &fails), "it may be the device again");
        assert!(probed(&ca, &fails), "none signs");
        assert!(probed(&jwt, &works) && probed(&ca, &works));
    }
}
