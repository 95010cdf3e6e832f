//! The tree of RFC 6962 §2.1: hashes, the right edge while it grows, proofs and their verification.

use std::fmt;

use aws_lc_rs::digest::{Context, SHA256, digest};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use thiserror::Error;

/// SHA-256 of a leaf, of an inner node, or of nothing (RFC 6962 §2.1).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Hash([u8; 32]);

impl Hash {
    /// How many bytes a hash has.
    pub const LENGTH: usize = 32;

    /// The root of the tree without leaves: SHA-256 of nothing (RFC 6962 §2.1).
    pub const EMPTY: Self = Self(
        *b"\xe3\xb0\xc4\x42\x98\xfc\x1c\x14\x9a\xfb\xf4\xc8\x99\x6f\xb9\x24\x27\xae\x41\xe4\x64\x9b\x93\x4c\xa4\x95\x99\x1b\x78\x52\xb8\x55",
    );

    /// The hash of a leaf: SHA-256 of `00 || entry` (RFC 6962 §2.1).
    #[must_use]
    pub fn leaf(entry: &[u8]) -> Self {
        let mut start = [0; SHORT];
        match start.get_mut(1..=entry.len()) {
            Some(room) => {
                room.copy_from_slice(entry);
                Self::prefixed_leaf(&start[..=entry.len()])
            }
            None => {
                let mut context = Context::new(&SHA256);
                context.update(&[0]);
                context.update(entry);
                Self::of_digest(context.finish().as_ref())
            }
        }
    }

    /// The hash of a leaf whose entry stands behind a zero byte already.
    pub(crate) fn prefixed_leaf(prefixed: &[u8]) -> Self {
        debug_assert_eq!(prefixed.first(), Some(&0));
        Self::of(prefixed)
    }

    /// The hash of a node above two: SHA-256 of `01 || left || right` (RFC 6962 §2.1).
    #[must_use]
    pub fn node(left: Self, right: Self) -> Self {
        let mut message = [1; 1 + 2 * Self::LENGTH];
        message[1..=Self::LENGTH].copy_from_slice(&left.0);
        message[1 + Self::LENGTH..].copy_from_slice(&right.0);
        Self::of(&message)
    }

    /// A hash that was stored or sent.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; Self::LENGTH]) -> Self {
        Self(bytes)
    }

    /// Its bytes, to be stored or sent.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; Self::LENGTH] {
        &self.0
    }

    /// Reads a hash in base64 (RFC 4648 §4, padded), as checkpoints and proofs hold it.
    pub(super) fn from_base64(text: &str) -> Option<Self> {
        let is_long_enough = text.len() == Self::LENGTH.div_ceil(3) * 4;
        let bytes = is_long_enough.then(|| BASE64_STANDARD.decode(text).ok()).flatten()?;
        Some(Self(bytes.try_into().ok()?))
    }

    fn of(message: &[u8]) -> Self {
        Self::of_digest(digest(&SHA256, message).as_ref())
    }

    fn of_digest(digest: &[u8]) -> Self {
        Self(digest.try_into().expect("SHA-256 has 32 bytes"))
    }
}

/// A leaf of up to so many bytes is hashed in one go, from the stack.
const SHORT: usize = 1024;

/// Base64, as checkpoints and proofs hold it.
impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&BASE64_STANDARD.encode(self.0))
    }
}

/// Hexadecimal.
impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// A tree, whole: so many leaves, and the hash over all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// How many leaves it has.
    pub size: u64,
    /// The hash of its root.
    pub root: Hash,
}

/// The right edge of a tree: all that is needed to add leaves and to know the root.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Frontier {
    size: u64,
    /// The complete subtrees of which the tree consists, the largest first: one for each bit of `size`.
    subtrees: Vec<Hash>,
}

impl Frontier {
    /// The edge of the tree without leaves.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The edge of a tree of that size whose hashes are stored.
    ///
    /// # Errors
    /// Those of `hashes`.
    pub fn read<H: Hashes>(size: u64, hashes: &H) -> Result<Self, H::Error> {
        let mut subtrees = Vec::new();
        let mut start = 0;
        for level in (0..u64::BITS).rev().filter(|level| size >> level & 1 == 1) {
            subtrees.push(hashes.hash(level, start >> level)?);
            start |= 1 << level;
        }
        Ok(Self { size, subtrees })
    }

    /// From the complete subtrees themselves, the largest first: one for each bit of `size`.
    pub(super) fn of(size: u64, subtrees: Vec<Hash>) -> Self {
        debug_assert_eq!(subtrees.len() as u32, size.count_ones());
        Self { size, subtrees }
    }

    /// Adds the hash of the next leaf.
    pub fn push(&mut self, leaf: Hash) {
        let mut hash = leaf;
        // Each one bit at the end of the size is a subtree that the leaf makes the left half of another.
        for _ in 0..self.size.trailing_ones() {
            let left = self.subtrees.pop().expect("a subtree for each bit of the size");
            hash = Hash::node(left, hash);
        }
        self.subtrees.push(hash);
        self.size = self.size.checked_add(1).expect("no log comes to 2^64 leaves");
    }

    /// How many leaves the tree has.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Size and root of the tree.
    #[must_use]
    pub fn head(&self) -> Head {
        let upwards = self.subtrees.iter().rev().copied();
        let root = upwards.reduce(|right, left| Hash::node(left, right)).unwrap_or(Hash::EMPTY);
        Head { size: self.size, root }
    }
}

/// The stored hashes of a tree.
pub trait Hashes {
    /// Why a hash cannot be had.
    type Error;

    /// The hash of the complete subtree of the 2^`level` leaves that begin with the leaf
    /// `index` · 2^`level`.
    ///
    /// # Errors
    /// If it is not stored, or cannot be read.
    fn hash(&self, level: u32, index: u64) -> Result<Hash, Self::Error>;
}

/// Why there is no proof.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum NoProof<E> {
    /// There is no such leaf.
    #[error(
        "the log has no entry {index}: its tree has {size} leaves, counted from 0; wait for a checkpoint that covers the entry"
    )]
    NoLeaf {
        /// The leaf asked for.
        index: u64,
        /// The size of the tree.
        size: u64,
    },
    /// The older tree has more leaves than the newer.
    #[error(
        "a tree of {new} leaves does not continue one of {old}; give the older checkpoint first"
    )]
    Shrinks {
        /// The size of the older tree.
        old: u64,
        /// The size of the newer tree.
        new: u64,
    },
    /// A hash cannot be had.
    #[error(transparent)]
    Hashes(#[from] E),
}

/// The root of the tree of the first `size` leaves: MTH of RFC 6962 §2.1.
///
/// # Errors
/// Those of `hashes`.
pub fn root<H: Hashes>(size: u64, hashes: &H) -> Result<Hash, H::Error> {
    subtree(0, size, hashes)
}

/// Proves that the leaf `index` is in the tree of `size` leaves: PATH of RFC 6962 §2.1.1, the leaf's
/// sibling first.
///
/// # Errors
/// [`NoProof::NoLeaf`], or those of `hashes`.
pub fn inclusion_proof<H: Hashes>(
    index: u64,
    size: u64,
    hashes: &H,
) -> Result<Vec<Hash>, NoProof<H::Error>> {
    if index >= size {
        return Err(NoProof::NoLeaf { index, size });
    }
    let (mut start, mut end, mut path) = (0, size, Vec::new());
    while end - start > 1 {
        let middle = middle(start, end);
        if index < middle {
            path.push(subtree(middle, end, hashes)?);
            end = middle;
        } else {
            path.push(subtree(start, middle, hashes)?);
            start = middle;
        }
    }
    path.reverse();
    Ok(path)
}

/// Proves that the tree of `new` leaves continues that of `old`: PROOF of RFC 6962 §2.1.2. Empty if they
/// are the same, or the older has no leaves.
///
/// # Errors
/// [`NoProof::Shrinks`], or those of `hashes`.
pub fn consistency_proof<H: Hashes>(
    old: u64,
    new: u64,
    hashes: &H,
) -> Result<Vec<Hash>, NoProof<H::Error>> {
    if old > new {
        return Err(NoProof::Shrinks { old, new });
    }
    if old == 0 {
        return Ok(Vec::new());
    }
    let (mut start, mut end, mut path) = (0, new, Vec::new());
    while end != old {
        let middle = middle(start, end);
        if old <= middle {
            path.push(subtree(middle, end, hashes)?);
            end = middle;
        } else {
            path.push(subtree(start, middle, hashes)?);
            start = middle;
        }
    }
    // The verifier has the root of the older tree already.
    if start > 0 {
        path.push(subtree(start, end, hashes)?);
    }
    path.reverse();
    Ok(path)
}

/// Where the leaves from `start` to `end`, two or more, part: the left half has the largest power of two
/// that is smaller than their number.
fn middle(start: u64, end: u64) -> u64 {
    start + (1 << (end - start - 1).ilog2())
}

/// MTH of the leaves from `start` to `end`, where `start` is as round as the halving of a tree makes it.
fn subtree<H: Hashes>(start: u64, end: u64, hashes: &H) -> Result<Hash, H::Error> {
    let mut root = None;
    let (mut end, mut left) = (end, end - start);
    while left > 0 {
        let level = left.trailing_zeros();
        end -= 1 << level;
        left &= left - 1;
        let hash = hashes.hash(level, end >> level)?;
        root = Some(root.map_or(hash, |right| Hash::node(hash, right)));
    }
    Ok(root.unwrap_or(Hash::EMPTY))
}

/// Why a proof proves nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ProofError {
    /// The tree has no such leaf.
    #[error(
        "inclusion is not proven: a tree of {size} leaves has no leaf {index}, counted from 0; check the index"
    )]
    NoLeaf {
        /// The leaf.
        index: u64,
        /// The size of the tree.
        size: u64,
    },
    /// The older tree has more leaves than the newer.
    #[error(
        "consistency is not proven: a tree of {new} leaves does not continue one of {old}; give the older checkpoint first, and if it is the older, the log was cut: tell its auditors"
    )]
    Shrinks {
        /// The size of the older tree.
        old: u64,
        /// The size of the newer tree.
        new: u64,
    },
    /// There are too many or too few hashes for these sizes.
    #[error(
        "the proof does not fit: {found} hashes cannot be a proof for these sizes; get it again, for these checkpoints"
    )]
    Length {
        /// How many hashes it has.
        found: usize,
    },
    /// The proof leads to another root.
    #[error(
        "the proof leads to the root {found}, but the checkpoint of {size} leaves has {wanted}: the entry or the checkpoint is another, or the log was changed; tell its auditors"
    )]
    OtherRoot {
        /// The size of the tree.
        size: u64,
        /// Its root.
        wanted: Hash,
        /// The root to which the proof leads.
        found: Hash,
    },
}

/// Checks that the leaf of that hash is number `index` of the tree (RFC 9162 §2.1.3.2).
///
/// # Errors
/// [`ProofError`], if the proof does not show it.
pub fn verify_inclusion(
    leaf: Hash,
    index: u64,
    head: Head,
    proof: &[Hash],
) -> Result<(), ProofError> {
    let Some(last) = head.size.checked_sub(1).filter(|last| index <= *last) else {
        return Err(ProofError::NoLeaf { index, size: head.size });
    };
    let mut ascent = Ascent { node: index, last };
    let mut root = leaf;
    for &hash in proof {
        root = match ascent.step() {
            Some(Side::Left) => Hash::node(hash, root),
            Some(Side::Right) => Hash::node(root, hash),
            None => return Err(ProofError::Length { found: proof.len() }),
        };
    }
    ascent.at_root(proof)?;
    same_root(head, root)
}

/// Checks that the newer tree begins with all leaves of the older one (RFC 9162 §2.1.4.2).
///
/// # Errors
/// [`ProofError`], if the proof does not show it.
pub fn verify_consistency(old: Head, new: Head, proof: &[Hash]) -> Result<(), ProofError> {
    if old.size > new.size {
        return Err(ProofError::Shrinks { old: old.size, new: new.size });
    }
    if old.size == 0 || old.size == new.size {
        let none = proof.is_empty().then_some(()).ok_or(ProofError::Length { found: proof.len() });
        let root = if old.size == 0 { Hash::EMPTY } else { new.root };
        return none.and_then(|()| same_root(old, root));
    }
    // Up to the first node that is a right child or the root: its left siblings are all of the old tree.
    let ones = (old.size - 1).trailing_ones();
    let mut ascent = Ascent { node: (old.size - 1) >> ones, last: (new.size - 1) >> ones };
    let (start, rest) = match proof.split_first() {
        Some(_) if old.size.is_power_of_two() => (old.root, proof),
        Some((&first, rest)) => (first, rest),
        None => return Err(ProofError::Length { found: 0 }),
    };
    let (mut old_root, mut new_root) = (start, start);
    for &hash in rest {
        match ascent.step() {
            Some(Side::Left) => {
                old_root = Hash::node(hash, old_root);
                new_root = Hash::node(hash, new_root);
            }
            Some(Side::Right) => new_root = Hash::node(new_root, hash),
            None => return Err(ProofError::Length { found: proof.len() }),
        }
    }
    ascent.at_root(proof)?;
    same_root(old, old_root)?;
    same_root(new, new_root)
}

/// The way from a node to the root: `fn` and `sn` of RFC 9162 §2.1.3.2.
struct Ascent {
    /// The number of the node in its level.
    node: u64,
    /// The number of the last node in that level.
    last: u64,
}

/// On which side of a node its sibling is.
enum Side {
    Left,
    Right,
}

impl Ascent {
    /// One hash further up; says where that hash goes. `None` at the root.
    fn step(&mut self) -> Option<Side> {
        if self.last == 0 {
            return None;
        }
        let is_right = self.node & 1 == 1;
        let side = if is_right || self.node == self.last { Side::Left } else { Side::Right };
        if matches!(side, Side::Left) && !is_right {
            // The last node of a level has no sibling until it is a right child. Not 0, since it is `last`.
            self.up(self.node.trailing_zeros());
        }
        self.up(1);
        Some(side)
    }

    fn up(&mut self, levels: u32) {
        self.node >>= levels;
        self.last >>= levels;
    }

    fn at_root(&self, proof: &[Hash]) -> Result<(), ProofError> {
        if self.last == 0 { Ok(()) } else { Err(ProofError::Length { found: proof.len() }) }
    }
}

fn same_root(head: Head, found: Hash) -> Result<(), ProofError> {
    if head.root == found {
        return Ok(());
    }
    Err(ProofError::OtherRoot { size: head.size, wanted: head.root, found })
}

#[cfg(test)]
pub(super) mod tests {
    use std::convert::Infallible;

    use proptest::prelude::*;

    use super::*;

    /// The hashes of a tree in memory, straight from the leaves.
    pub(in super::super) struct Leaves(pub(in super::super) Vec<Hash>);

    impl Hashes for Leaves {
        type Error = Infallible;

        fn hash(&self, level: u32, index: u64) -> Result<Hash, Infallible> {
            let first = (index << level) as usize;
            Ok(mth(&self.0[first..first + (1 << level)]))
        }
    }

    /// The hashes of a tree that is too large to have: any hash will do.
    struct Endless;

    impl Hashes for Endless {
        type Error = Infallible;

        fn hash(&self, level: u32, index: u64) -> Result<Hash, Infallible> {
            assert!(level < 64 && index <= u64::MAX >> level);
            Ok(Hash::leaf(&[&level.to_be_bytes()[..], &index.to_be_bytes()].concat()))
        }
    }

    /// RFC 6962 §2.1, as it is written.
    pub(in super::super) fn mth(leaves: &[Hash]) -> Hash {
        match leaves {
            [] => Hash::EMPTY,
            [leaf] => *leaf,
            _ => {
                let (left, right) = leaves.split_at(half(leaves.len()));
                Hash::node(mth(left), mth(right))
            }
        }
    }

    /// RFC 6962 §2.1.1, as it is written.
    fn path(m: usize, leaves: &[Hash]) -> Vec<Hash> {
        if leaves.len() == 1 {
            return Vec::new();
        }
        let k = half(leaves.len());
        let (left, right) = leaves.split_at(k);
        if m < k {
            [path(m, left), vec![mth(right)]].concat()
        } else {
            [path(m - k, right), vec![mth(left)]].concat()
        }
    }

    /// RFC 6962 §2.1.2, as it is written.
    fn subproof(m: usize, leaves: &[Hash], b: bool) -> Vec<Hash> {
        if m == leaves.len() {
            return if b { Vec::new() } else { vec![mth(leaves)] };
        }
        let k = half(leaves.len());
        let (left, right) = leaves.split_at(k);
        if m <= k {
            [subproof(m, left, b), vec![mth(right)]].concat()
        } else {
            [subproof(m - k, right, false), vec![mth(left)]].concat()
        }
    }

    fn half(n: usize) -> usize {
        let mut k = 1;
        while 2 * k < n {
            k *= 2;
        }
        k
    }

    pub(in super::super) fn leaves(count: u64) -> Vec<Hash> {
        (0..count).map(|index| Hash::leaf(&index.to_be_bytes())).collect()
    }

    fn head(leaves: &[Hash]) -> Head {
        Head { size: leaves.len() as u64, root: mth(leaves) }
    }

    /// The entries of Certificate Transparency's reference tree.
    const REFERENCE: [&[u8]; 8] = [
        b"",
        b"\x00",
        b"\x10",
        b"\x20\x21",
        b"\x30\x31",
        b"\x40\x41\x42\x43",
        b"\x50\x51\x52\x53\x54\x55\x56\x57",
        b"\x60\x61\x62\x63\x64\x65\x66\x67\x68\x69\x6a\x6b\x6c\x6d\x6e\x6f",
    ];

    /// Its roots, with one leaf, two, and so on.
    const REFERENCE_ROOTS: [&str; 8] = [
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
        "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
        "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
        "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
        "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
    ];

    #[test]
    fn roots_are_those_of_the_reference_of_certificate_transparency() {
        let hashes = Leaves(REFERENCE.map(Hash::leaf).to_vec());
        let mut frontier = Frontier::new();
        assert_eq!(frontier.head(), Head { size: 0, root: Hash::EMPTY });
        for (index, wanted) in REFERENCE_ROOTS.iter().enumerate() {
            frontier.push(hashes.0[index]);
            assert_eq!(format!("{:?}", frontier.head().root), *wanted);
            assert_eq!(root(frontier.size(), &hashes), Ok(frontier.head().root));
        }
    }

    #[test]
    fn a_proof_is_that_of_the_reference_of_certificate_transparency() {
        let hashes = Leaves(REFERENCE.map(Hash::leaf).to_vec());
        let texts = |proof: Vec<Hash>| proof.iter().map(|h| format!("{h:?}")).collect::<Vec<_>>();
        assert_eq!(
            texts(inclusion_proof(5, 8, &hashes).unwrap()),
            [
                "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
                "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
                "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
            ]
        );
        assert_eq!(
            texts(consistency_proof(6, 8, &hashes).unwrap()),
            [
                "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
                "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
                "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
            ]
        );
    }

    #[test]
    fn a_leaf_hashes_alike_below_and_above_the_room_on_the_stack() {
        for length in [0, 1, SHORT - 2, SHORT - 1, SHORT, SHORT + 1, 5000] {
            let entry = vec![7; length];
            let whole = [&[0], &entry[..]].concat();
            assert_eq!(Hash::leaf(&entry), Hash::of(&whole), "{length}");
        }
    }

    #[test]
    fn every_proof_of_a_small_tree_is_that_of_the_rfc_and_verifies() {
        let all = leaves(70);
        for size in 0..=70_u64 {
            let tree = &all[..size as usize];
            let hashes = Leaves(tree.to_vec());
            for index in 0..size {
                let proof = inclusion_proof(index, size, &hashes).unwrap();
                assert_eq!(proof, path(index as usize, tree));
                verify_inclusion(tree[index as usize], index, head(tree), &proof).unwrap();
            }
            for old in 0..=size {
                let proof = consistency_proof(old, size, &hashes).unwrap();
                if old > 0 {
                    assert_eq!(proof, subproof(old as usize, tree, true));
                }
                verify_consistency(head(&all[..old as usize]), head(tree), &proof).unwrap();
            }
            assert_eq!(Frontier::read(size, &hashes).unwrap().head(), head(tree));
        }
    }

    #[test]
    fn what_is_beyond_the_tree_has_no_proof() {
        let hashes = Leaves(leaves(4));
        assert_eq!(inclusion_proof(4, 4, &hashes), Err(NoProof::NoLeaf { index: 4, size: 4 }));
        assert_eq!(consistency_proof(4, 3, &hashes), Err(NoProof::Shrinks { old: 4, new: 3 }));
    }

    #[test]
    fn two_roots_for_one_size_are_not_consistent() {
        let (one, other) = (head(&leaves(3)), Head { size: 3, root: Hash::EMPTY });
        assert!(verify_consistency(one, other, &[]).is_err());
        assert!(verify_consistency(Head { size: 0, root: one.root }, one, &[]).is_err());
    }

    proptest! {
        #[test]
        fn no_proof_verifies_for_another_leaf_index_size_or_path(
            size in 2_u64..300, index in any::<prop::sample::Index>(), harm in 0..6,
            place in any::<prop::sample::Index>(), other in any::<[u8; 32]>(),
        ) {
            let tree = leaves(size);
            let mut index = index.index(tree.len()) as u64;
            let mut proof = inclusion_proof(index, size, &Leaves(tree.clone())).unwrap();
            let (mut leaf, mut head) = (tree[index as usize], head(&tree));
            match harm {
                0 => leaf = Hash(other),
                1 => index = (index + 1) % size,
                2 => head.root = Hash(other),
                3 => proof.push(Hash(other)),
                4 => drop(proof.pop()),
                _ => { let place = place.index(proof.len()); proof[place] = Hash(other); }
            }
            prop_assert!(verify_inclusion(leaf, index, head, &proof).is_err());
        }

        #[test]
        fn no_consistency_verifies_with_a_changed_head_or_path(
            new in 2_u64..300, old in any::<prop::sample::Index>(), harm in 0..5,
            place in any::<prop::sample::Index>(), other in any::<[u8; 32]>(),
        ) {
            let tree = leaves(new);
            let old = 1 + old.index(tree.len() - 1);
            let mut proof = consistency_proof(old as u64, new, &Leaves(tree.clone())).unwrap();
            let (mut older, mut newer) = (head(&tree[..old]), head(&tree));
            match harm {
                0 => older.root = Hash(other),
                1 => newer.root = Hash(other),
                2 => proof.push(Hash(other)),
                3 => drop(proof.pop()),
                _ => { let place = place.index(proof.len()); proof[place] = Hash(other); }
            }
            prop_assert!(verify_consistency(older, newer, &proof).is_err());
        }

        #[test]
        fn no_numbers_make_a_proof_or_its_verification_panic(
            a in any::<u64>(), b in any::<u64>(), shift in 0..64_u32, length in 0..70_usize,
        ) {
            for (a, b) in [(a, b), (a >> shift, b), (b >> shift, a), (a, a), (u64::MAX - 1, u64::MAX)] {
                let proof = vec![Hash::EMPTY; length];
                let head = |size| Head { size, root: Hash::EMPTY };
                let _ = verify_inclusion(Hash::EMPTY, a, head(b), &proof);
                let _ = verify_consistency(head(a), head(b), &proof);
                if let Ok(proof) = inclusion_proof(a, b, &Endless) {
                    prop_assert!(proof.len() <= 64);
                }
                if let Ok(proof) = consistency_proof(a, b, &Endless) {
                    prop_assert!(proof.len() <= 65);
                }
                let frontier = Frontier::read(b, &Endless).unwrap();
                prop_assert_eq!(frontier.head().root, root(b, &Endless).unwrap());
            }
        }
    }
}
