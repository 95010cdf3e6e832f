//! What holds of any bytes that come as a proof about a log.

use ca_core::log::tree::{
    ConsistencyProof, Hash, InclusionProof, verify_consistency, verify_inclusion,
};

/// Reads `data`; says whether it was accepted. Panics if a promise is broken.
pub(crate) fn holds(data: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(data) else { return false };
    match (InclusionProof::parse(text), ConsistencyProof::parse(text)) {
        (Ok(_), Ok(_)) => panic!("two proofs in one text"),
        (Ok(proof), Err(_)) => {
            assert_eq!(proof.to_string(), text);
            let head = proof.checkpoint.unverified().head;
            // Of no leaf can the hash be that of nothing.
            let leaf = Hash::EMPTY;
            let is_leaf = verify_inclusion(leaf, proof.index, head, &proof.path).is_ok();
            assert!(!is_leaf || (head.size == 1 && head.root == leaf));
            true
        }
        (Err(_), Ok(proof)) => {
            assert_eq!(proof.to_string(), text);
            let (old, new) = (proof.old.unverified().head, proof.new.unverified().head);
            let is_older = verify_consistency(old, new, &proof.path).is_ok();
            assert!(!is_older || old.size <= new.size);
            true
        }
        (Err(one), Err(other)) => {
            for shown in [one.to_string(), other.to_string()] {
                assert!(shown.len() < 2048 && !shown.contains(char::is_control), "{shown}");
            }
            false
        }
    }
}
