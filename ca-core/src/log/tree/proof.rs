//! Proofs as text, each with the checkpoints that it is about, so that it can be checked by itself.

use std::fmt;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use thiserror::Error;

use super::checkpoint::{Checkpoint, CheckpointError, LogKey, VerifiedCheckpoint};
use super::merkle::{Hash, ProofError, verify_consistency, verify_inclusion};
use super::text::{TextError, base64, bounded, decimal, hashes};

/// Why a proof does not convince.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum NotProven {
    /// A checkpoint is not believed.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The hashes do not show it.
    #[error(transparent)]
    Proof(#[from] ProofError),
}

/// The proof that an entry is in a log. Shows as C2SP tlog-proof, "Format", has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InclusionProof {
    /// What else is needed to know the entry; nobody has signed it.
    pub extra: Option<Vec<u8>>,
    /// The number of the entry in the log, from 0.
    pub index: u64,
    /// The hashes, from the leaf's sibling up.
    pub path: Vec<Hash>,
    /// The tree in which the entry is.
    pub checkpoint: Checkpoint,
}

const INCLUSION: &str = "inclusion proof";
const INCLUSION_START: &str = "c2sp.org/tlog-proof@v1";

impl InclusionProof {
    /// The longest that is read: a checkpoint, and as much again.
    pub const LONGEST: usize = 2 * Checkpoint::LONGEST;

    /// Reads a proof (C2SP tlog-proof, "Format").
    ///
    /// # Errors
    /// [`TextError`].
    pub fn parse(text: &str) -> Result<Self, TextError> {
        let refused = |reason| TextError::new(INCLUSION, reason);
        bounded(INCLUSION, text, Self::LONGEST)?;
        let (start, checkpoint) =
            text.split_once("\n\n").ok_or_else(|| refused("it has no checkpoint"))?;
        let mut lines = start.split('\n').peekable();
        if lines.next() != Some(INCLUSION_START) {
            return Err(refused("its first line is not c2sp.org/tlog-proof@v1"));
        }
        let extra = lines.next_if(|line| line.starts_with("extra "));
        let extra = extra.map(|line| {
            base64(&line["extra ".len()..]).ok_or_else(|| refused("its extra data is not base64"))
        });
        let index = lines.next().and_then(|line| line.strip_prefix("index "));
        let index = index.and_then(decimal).ok_or_else(|| refused("it has no plain index"))?;
        Ok(Self {
            extra: extra.transpose()?,
            index,
            path: hashes(INCLUSION, lines)?,
            checkpoint: Checkpoint::parse(checkpoint)?,
        })
    }

    /// Checks that the entry with that [leaf hash](Hash::leaf) is in the log, by the log's signature (C2SP
    /// tlog-proof, "Verifying a tlog proof"; without witnesses).
    ///
    /// # Errors
    /// [`NotProven`].
    pub fn verify(&self, leaf: Hash, key: &LogKey) -> Result<VerifiedCheckpoint, NotProven> {
        let checkpoint = key.verify(&self.checkpoint)?;
        verify_inclusion(leaf, self.index, checkpoint.head(), &self.path)?;
        Ok(checkpoint)
    }
}

impl fmt::Display for InclusionProof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{INCLUSION_START}")?;
        if let Some(extra) = &self.extra {
            writeln!(f, "extra {}", BASE64_STANDARD.encode(extra))?;
        }
        writeln!(f, "index {}", self.index)?;
        self.path.iter().try_for_each(|hash| writeln!(f, "{hash}"))?;
        write!(f, "\n{}", self.checkpoint)
    }
}

/// The proof that a log has only grown between two checkpoints.
///
/// C2SP has no text for it. This one is made after tlog-proof: the line `mintmark/consistency-proof@v1`; the
/// hashes of RFC 6962 §2.1.2 in base64, one in a line; an empty line; the older checkpoint; an empty line;
/// the newer checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsistencyProof {
    /// The hashes, as RFC 6962 §2.1.2 orders them.
    pub path: Vec<Hash>,
    /// The older tree.
    pub old: Checkpoint,
    /// The newer tree.
    pub new: Checkpoint,
}

const CONSISTENCY: &str = "consistency proof";
const CONSISTENCY_START: &str = "mintmark/consistency-proof@v1";

impl ConsistencyProof {
    /// The longest that is read: two checkpoints, and as much again as one.
    pub const LONGEST: usize = 3 * Checkpoint::LONGEST;

    /// Reads a proof.
    ///
    /// # Errors
    /// [`TextError`].
    pub fn parse(text: &str) -> Result<Self, TextError> {
        let refused = |reason| TextError::new(CONSISTENCY, reason);
        bounded(CONSISTENCY, text, Self::LONGEST)?;
        // A checkpoint holds one empty line, before its signatures.
        let places: Vec<usize> = text.match_indices("\n\n").map(|(at, _)| at).take(3).collect();
        let [start, _, between] = places[..] else {
            return Err(refused("it has not two checkpoints"));
        };
        let mut lines = text[..start].split('\n');
        if lines.next() != Some(CONSISTENCY_START) {
            return Err(refused("its first line is not mintmark/consistency-proof@v1"));
        }
        Ok(Self {
            path: hashes(CONSISTENCY, lines)?,
            old: Checkpoint::parse(&text[start + 2..=between])?,
            new: Checkpoint::parse(&text[between + 2..])?,
        })
    }

    /// Checks that the newer tree continues the older, by the log's signatures.
    ///
    /// # Errors
    /// [`NotProven`].
    pub fn verify(
        &self,
        key: &LogKey,
    ) -> Result<(VerifiedCheckpoint, VerifiedCheckpoint), NotProven> {
        let (old, new) = (key.verify(&self.old)?, key.verify(&self.new)?);
        verify_consistency(old.head(), new.head(), &self.path)?;
        Ok((old, new))
    }
}

impl fmt::Display for ConsistencyProof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{CONSISTENCY_START}")?;
        self.path.iter().try_for_each(|hash| writeln!(f, "{hash}"))?;
        write!(f, "\n{}\n{}", self.old, self.new)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::checkpoint::tests::{TestKey, pieces, signed};
    use super::super::merkle::tests::{Leaves, leaves, mth};
    use super::super::{Head, consistency_proof, inclusion_proof};
    use super::*;

    fn head(leaves: &[Hash]) -> Head {
        Head { size: leaves.len() as u64, root: mth(leaves) }
    }

    fn inclusion(key: &TestKey, index: u64, size: u64) -> InclusionProof {
        let all = leaves(size);
        let checkpoint = signed(key, head(&all));
        let path = inclusion_proof(index, size, &Leaves(all)).unwrap();
        InclusionProof { extra: None, index, path, checkpoint }
    }

    fn consistency(key: &TestKey, old: u64, new: u64) -> ConsistencyProof {
        let all = leaves(new);
        let (older, newer) = (signed(key, head(&all[..old as usize])), signed(key, head(&all)));
        let path = consistency_proof(old, new, &Leaves(all)).unwrap();
        ConsistencyProof { path, old: older, new: newer }
    }

    #[test]
    fn an_inclusion_proof_is_written_as_tlog_proof_says() {
        let proof =
            InclusionProof { extra: Some(vec![1, 2, 3]), ..inclusion(&TestKey::new(), 1, 3) };
        let text = format!(
            "c2sp.org/tlog-proof@v1\nextra AQID\nindex 1\n{}\n{}\n\n{}",
            proof.path[0], proof.path[1], proof.checkpoint
        );
        assert_eq!(proof.to_string(), text);
        assert_eq!(InclusionProof::parse(&text), Ok(proof));
    }

    #[test]
    fn proofs_are_read_back_as_they_were_written_and_verify() {
        let key = TestKey::new();
        let all = leaves(9);
        for size in 1..=9 {
            for index in 0..size {
                let proof = inclusion(&key, index, size);
                let read = InclusionProof::parse(&proof.to_string()).unwrap();
                assert_eq!(read, proof);
                let verified = read.verify(all[index as usize], &key.log_key()).unwrap();
                assert_eq!(verified.head().size, size);
            }
            for old in 0..=size {
                let proof = consistency(&key, old, size);
                let read = ConsistencyProof::parse(&proof.to_string()).unwrap();
                assert_eq!(read, proof);
                let (older, newer) = read.verify(&key.log_key()).unwrap();
                assert_eq!((older.head().size, newer.head().size), (old, size));
            }
        }
    }

    #[test]
    fn proofs_with_anothers_signature_leaf_or_order_do_not_convince() {
        let (key, stranger) = (TestKey::new(), TestKey::new());
        let proof = inclusion(&key, 3, 7);
        let leaf = leaves(7)[3];
        assert!(proof.verify(leaf, &key.log_key()).is_ok());
        let refused = proof.verify(leaf, &stranger.log_key());
        assert!(matches!(refused, Err(NotProven::Checkpoint(_))));
        let refused = proof.verify(Hash::leaf(b"another"), &key.log_key());
        assert!(matches!(refused, Err(NotProven::Proof(ProofError::OtherRoot { .. }))));
        let ConsistencyProof { path, old, new } = consistency(&key, 3, 7);
        let turned = ConsistencyProof { path, old: new, new: old };
        let refused = turned.verify(&key.log_key());
        assert!(matches!(refused, Err(NotProven::Proof(ProofError::Shrinks { .. }))));
    }

    #[test]
    fn what_is_no_proof_is_refused() {
        let key = TestKey::new();
        let good = inclusion(&key, 1, 3).to_string();
        for (from, to) in [
            ("@v1", "@v2"),
            ("index 1", "index 01"),
            ("index 1", "index"),
            ("index 1", "extra ?\nindex 1"),
            ("index 1", "extra AQID\nextra AQID\nindex 1"),
            ("index 1\n", "index 1\nAAAA\n"),
            ("index 1\n", "index 1\n\n"),
            ("\n\n", "\n"),
            ("c2sp", "\nc2sp"),
        ] {
            let text = good.replacen(from, to, 1);
            assert_ne!(text, good);
            assert!(InclusionProof::parse(&text).is_err(), "{text}");
        }
        let many = "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\n".repeat(66);
        let long = good.replacen("index 1\n", &format!("index 1\n{many}"), 1);
        assert!(InclusionProof::parse(&long).is_err());
        let good = consistency(&key, 2, 3).to_string();
        for (from, to) in
            [("@v1", "@v2"), ("v1\n", "v1\nAAAA\n"), ("\n\n", "\n"), ("\n\n", "\n\n\n")]
        {
            let text = good.replacen(from, to, 1);
            assert!(ConsistencyProof::parse(&text).is_err(), "{text}");
        }
        let half = good.rsplitn(3, "\n\n").last().unwrap();
        assert!(ConsistencyProof::parse(half).is_err());
    }

    proptest! {
        #[test]
        fn no_text_makes_the_readers_panic(text in any::<String>(), pieces in pieces()) {
            for text in [text, pieces] {
                for start in ["", "c2sp.org/tlog-proof@v1\nindex 0\n", "mintmark/consistency-proof@v1\n"] {
                    let text = format!("{start}{text}");
                    if let Ok(proof) = InclusionProof::parse(&text) {
                        prop_assert_eq!(proof.to_string(), text.clone());
                    }
                    if let Ok(proof) = ConsistencyProof::parse(&text) {
                        prop_assert_eq!(proof.to_string(), text);
                    }
                }
            }
        }
    }
}
