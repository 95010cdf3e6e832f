//! The Merkle tree over the issuance log: its hashes, its tiles on disk, its signed checkpoints and its
//! proofs. What it proves: a record is in the log, and the log only ever grows.
//!
//! The tree is that of RFC 6962 §2.1; tiles, checkpoints and proofs are those of C2SP, so that anyone's
//! tools can read them.

mod bundle;
pub mod checkpoint;
mod merkle;
mod name;
mod proof;
mod reader;
mod text;
mod tiles;

pub use bundle::{BundleError, read_entries, write_entry};
pub use checkpoint::{
    Checkpoint, CheckpointBody, CheckpointError, LogKey, LogKeyError, Origin, VerifiedCheckpoint,
    sign as sign_checkpoint,
};
pub use merkle::{
    Frontier, Hash, Hashes, Head, NoProof, ProofError, consistency_proof, inclusion_proof, root,
    verify_consistency, verify_inclusion,
};
pub use name::{BundleName, TileName, WIDTH};
pub use proof::{ConsistencyProof, InclusionProof, NotProven};
pub(in crate::log) use reader::complete;
pub use reader::{TileError, TileReader};
pub use text::TextError;
pub use tiles::{Tiles, flushed_size};
