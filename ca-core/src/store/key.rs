//! The layout of the keys. Changing what is here changes what is on disk.
//!
//! A key is one tag byte and then what the tag says, encoded so that bytes sort as the values do:
//! integers big-endian, texts with `00` written as `00 ff` and ended by `00 00`. Within a tag no key is
//! the beginning of another.
//!
//! | tag | key | value |
//! |---|---|---|
//! | `00` | name | `schema`: layout and who may read it; `epoch`: the restore epoch |
//! | `01` | trust domain, authority id | an authority |
//! | `02` | trust domain, kind of slot | which authorities are prepared, active, old |
//! | `03` | trust domain | head of the bundle |
//! | `0f` | trust domain, key name | the retirement of a key |
//! | `10` | version | change record |
//! | `11` | | version of the newest change record: the one key to watch |
//! | `12` | commit id | version |
//! | `13` | trust domain, name of the log | key, last run and newest signed head of an issuance log |
//! | `14` | trust domain, name | a front end: its terms and its keys |
//!
//! `04` to `0e` are kept for bundle history, registration entries and their indexes, nodes, join tokens,
//! federation, leases and heartbeats; `1f` for an issuance log in the same store. `00` and `10` to `12`
//! are written by the store alone.

use std::fmt;

use bytes::{BufMut, Bytes, BytesMut};

use super::{CommitId, Limit, Version};

const META: u8 = 0x00;
const AUTHORITY: u8 = 0x01;
const SLOT: u8 = 0x02;
const BUNDLE_HEAD: u8 = 0x03;
const RETIREMENT: u8 = 0x0f;
const CHANGE: u8 = 0x10;
const CHANGE_HEAD: u8 = 0x11;
const COMMIT_ID: u8 = 0x12;
const ISSUANCE_LOG: u8 = 0x13;
const FRONT_END: u8 = 0x14;
const LAST_TAG: u8 = 0x1f;

/// A trust domain by its number in this store; names are long and keys are many.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TrustDomainNumber(pub u32);

impl TrustDomainNumber {
    /// The trust domain that this store is for.
    pub const OWN: Self = Self(1);
}

/// A row of authorities that follow each other. The numbers are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Slot {
    /// Those that sign X.509-SVIDs.
    X509 = 1,
    /// Those that sign JWT-SVIDs.
    Jwt = 2,
}

/// Layout number and who may read and write it.
#[must_use]
pub fn schema() -> Key {
    Build::new(META).text("schema").done()
}

/// The restore epoch of every [`Cursor`](super::Cursor).
#[must_use]
pub fn epoch() -> Key {
    Build::new(META).text("epoch").done()
}

/// One authority. An id too long for a key is [`Limit::Key`].
pub fn authority(domain: TrustDomainNumber, id: &str) -> Result<Key, Limit> {
    Build::new(AUTHORITY).number(domain.0).text(id).within_limit()
}

/// Every authority of a trust domain.
#[must_use]
pub fn authorities(domain: TrustDomainNumber) -> KeyRange {
    KeyRange::starting_with(&Build::new(AUTHORITY).number(domain.0).done())
}

/// Which authorities are prepared, active and old: the only key that a rotation compares.
#[must_use]
pub fn slot(domain: TrustDomainNumber, slot: Slot) -> Key {
    Build::new(SLOT).number(domain.0).bytes(&[slot as u8]).done()
}

/// Sequence number and content of the bundle.
#[must_use]
pub fn bundle_head(domain: TrustDomainNumber) -> Key {
    Build::new(BUNDLE_HEAD).number(domain.0).done()
}

/// The retirement of a key in a key store. A name too long for a key is [`Limit::Key`].
pub fn retirement(domain: TrustDomainNumber, name: &str) -> Result<Key, Limit> {
    Build::new(RETIREMENT).number(domain.0).text(name).within_limit()
}

/// Every retirement of a trust domain.
#[must_use]
pub fn retirements(domain: TrustDomainNumber) -> KeyRange {
    KeyRange::starting_with(&Build::new(RETIREMENT).number(domain.0).done())
}

/// The issuance log of a signer. A name too long for a key is [`Limit::Key`].
pub fn issuance_log(domain: TrustDomainNumber, name: &str) -> Result<Key, Limit> {
    Build::new(ISSUANCE_LOG).number(domain.0).text(name).within_limit()
}

/// Every issuance log of a trust domain.
#[must_use]
pub fn issuance_logs(domain: TrustDomainNumber) -> KeyRange {
    KeyRange::starting_with(&Build::new(ISSUANCE_LOG).number(domain.0).done())
}

/// A front end. A name too long for a key is [`Limit::Key`].
pub fn front_end(domain: TrustDomainNumber, name: &str) -> Result<Key, Limit> {
    Build::new(FRONT_END).number(domain.0).text(name).within_limit()
}

/// Every front end of a trust domain.
#[must_use]
pub fn front_ends(domain: TrustDomainNumber) -> KeyRange {
    KeyRange::starting_with(&Build::new(FRONT_END).number(domain.0).done())
}

/// What the commit of this version touched.
#[must_use]
pub fn change(version: Version) -> Key {
    Build::new(CHANGE).bytes(version.bytes()).done()
}

/// Every change record, oldest first.
#[must_use]
pub fn changes() -> KeyRange {
    KeyRange::starting_with(&Build::new(CHANGE).done())
}

/// The version of the newest change record.
#[must_use]
pub fn change_head() -> Key {
    Build::new(CHANGE_HEAD).done()
}

/// The version that the commit of this id made.
#[must_use]
pub fn commit_id(id: CommitId) -> Key {
    Build::new(COMMIT_ID).bytes(id.bytes()).done()
}

/// The bytes of a key: a tag of the layout and at most [`MAX_BYTES`](Self::MAX_BYTES) in all.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(Bytes);

impl Key {
    /// Most bytes of a key.
    pub const MAX_BYTES: usize = 1 << 10;

    /// The key of these bytes, or `None` if they have no tag of the layout or are too many. For keys that
    /// come back from a store or a backup; the functions of this module make the keys to ask for.
    #[must_use]
    pub fn from_bytes(bytes: Bytes) -> Option<Self> {
        let tagged = bytes.first().is_some_and(|&tag| tag <= LAST_TAG);
        (tagged && bytes.len() <= Self::MAX_BYTES).then_some(Self(bytes))
    }

    /// Its bytes, which sort as keys do.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

/// Lower-case hexadecimal.
impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({})", Hex(&self.0))
    }
}

/// Keys from one to another, never none.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyRange {
    start: Bytes,
    end: Bytes,
}

impl KeyRange {
    /// From `start` up to and without `end`; `None` if there is nothing between them.
    #[must_use]
    pub fn between(start: &Key, end: &Key) -> Option<Self> {
        (start < end).then(|| Self { start: start.0.clone(), end: end.0.clone() })
    }

    /// Every key that begins with `prefix`, itself included.
    #[must_use]
    pub fn starting_with(prefix: &Key) -> Self {
        let kept = prefix.0.iter().rposition(|&byte| byte < 0xff).expect("a tag is below ff");
        let mut end = prefix.0[..=kept].to_vec();
        end[kept] += 1;
        Self { start: prefix.0.clone(), end: end.into() }
    }

    /// This key alone.
    #[must_use]
    pub fn one(key: &Key) -> Self {
        Self { start: key.0.clone(), end: [&key.0, &[0][..]].concat().into() }
    }

    /// The first key that is in it, stored or not.
    #[must_use]
    pub fn start(&self) -> &[u8] {
        &self.start
    }

    /// The first key after it.
    #[must_use]
    pub fn end(&self) -> &[u8] {
        &self.end
    }

    /// Whether `key` is in it.
    #[must_use]
    pub fn contains(&self, key: &Key) -> bool {
        self.start <= key.0 && key.0 < self.end
    }

    /// Whether a key can be in both.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        self.start < other.end && other.start < self.end
    }

    /// Whether it reaches into what only the store itself may write.
    pub(super) fn is_of_the_store(&self) -> bool {
        [META..AUTHORITY, CHANGE..COMMIT_ID + 1]
            .iter()
            .any(|tags| self.start[..] < [tags.end][..] && [tags.start][..] < self.end[..])
    }

    /// The range of these bounds, or `None` if there is nothing between them.
    pub(super) fn from_bytes(start: Bytes, end: Bytes) -> Option<Self> {
        (start < end).then_some(Self { start, end })
    }
}

/// Lower-case hexadecimal.
impl fmt::Debug for KeyRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyRange({}..{})", Hex(&self.start), Hex(&self.end))
    }
}

struct Hex<'a>(&'a [u8]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// A key being put together.
struct Build(BytesMut);

impl Build {
    fn new(tag: u8) -> Self {
        let mut bytes = BytesMut::with_capacity(64);
        bytes.put_u8(tag);
        Self(bytes)
    }

    fn number(self, number: u32) -> Self {
        self.bytes(&number.to_be_bytes())
    }

    /// Bytes whose number follows from the tag.
    fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.put_slice(bytes);
        self
    }

    /// `00` becomes `00 ff`, `00 00` ends: a text sorts before every longer text that begins with it.
    fn text(mut self, text: &str) -> Self {
        for byte in text.bytes() {
            self.0.put_u8(byte);
            if byte == 0 {
                self.0.put_u8(0xff);
            }
        }
        self.bytes(&[0, 0])
    }

    /// A key with a part that may be too long.
    fn within_limit(self) -> Result<Key, Limit> {
        let key = self.done();
        if key.0.len() > Key::MAX_BYTES { Err(Limit::Key(key.0.len())) } else { Ok(key) }
    }

    /// A key whose parts cannot be too long.
    fn done(self) -> Key {
        Key(self.0.freeze())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key(bytes: &[u8]) -> Key {
        Key::from_bytes(Bytes::copy_from_slice(bytes)).unwrap()
    }

    #[test]
    fn the_layout_on_disk_does_not_change() {
        let own = TrustDomainNumber::OWN;
        let hex = |key: Key| Hex(key.bytes()).to_string();
        assert_eq!(hex(schema()), "00736368656d610000");
        assert_eq!(hex(epoch()), "0065706f63680000");
        assert_eq!(hex(authority(own, "ab\0c").unwrap()), "0100000001616200ff630000");
        assert_eq!(hex(slot(own, Slot::X509)), "020000000101");
        assert_eq!(hex(slot(own, Slot::Jwt)), "020000000102");
        assert_eq!(hex(bundle_head(own)), "0300000001");
        assert_eq!(hex(retirement(own, "m/1").unwrap()), "0f000000016d2f310000");
        assert_eq!(hex(issuance_log(own, "a/1").unwrap()), "1300000001612f310000");
        assert_eq!(hex(front_end(own, "edge").unwrap()), "1400000001656467650000");
        assert_eq!(hex(change(Version::from_bytes([7; 12]))), "10070707070707070707070707");
        assert_eq!(hex(change_head()), "11");
        assert_eq!(hex(commit_id(CommitId::from_bytes([9; 16]))), format!("12{}", "09".repeat(16)));
    }

    #[test]
    fn a_key_has_a_known_tag_and_at_most_1024_bytes() {
        assert_eq!(Key::from_bytes(Bytes::new()), None);
        assert_eq!(Key::from_bytes(Bytes::from_static(&[0x20])), None);
        assert!(Key::from_bytes(vec![1; 1_024].into()).is_some());
        assert_eq!(Key::from_bytes(vec![1; 1_025].into()), None);
        let id = |length| authority(TrustDomainNumber::OWN, &"a".repeat(length));
        assert!(id(1_017).is_ok());
        assert_eq!(id(1_018), Err(Limit::Key(1_025)));
    }

    #[test]
    fn a_prefix_range_holds_what_begins_with_it_and_nothing_else() {
        let range = KeyRange::starting_with(&key(&[1, 0xff]));
        assert!(range.contains(&key(&[1, 0xff])) && range.contains(&key(&[1, 0xff, 0xff])));
        assert!(!range.contains(&key(&[2])) && !range.contains(&key(&[1, 0xfe, 0xff])));
        assert!(
            authorities(TrustDomainNumber(7))
                .contains(&authority(TrustDomainNumber(7), "").unwrap())
        );
        assert!(
            !authorities(TrustDomainNumber(7))
                .contains(&authority(TrustDomainNumber(8), "").unwrap())
        );
    }

    #[test]
    fn ranges_that_only_touch_do_not_overlap() {
        let range = |start: &[u8], end: &[u8]| KeyRange::between(&key(start), &key(end)).unwrap();
        assert!(!range(&[1], &[2]).overlaps(&range(&[2], &[3])));
        assert!(range(&[1], &[2, 0]).overlaps(&KeyRange::one(&key(&[2]))));
        assert_eq!(KeyRange::between(&key(&[2]), &key(&[2])), None);
    }

    #[test]
    fn the_store_keeps_its_own_keys_from_commits() {
        let of_the_store = |start: &[u8], end: &[u8]| {
            KeyRange::between(&key(start), &key(end)).unwrap().is_of_the_store()
        };
        assert!(KeyRange::one(&schema()).is_of_the_store());
        assert!(KeyRange::one(&commit_id(CommitId::from_bytes([0xff; 16]))).is_of_the_store());
        assert!(of_the_store(&[0x0f], &[0x14]) && of_the_store(&[0, 1], &[2]));
        assert!(!of_the_store(&[0x01], &[0x10]) && !of_the_store(&[0x13], &[0x1f]));
    }

    proptest! {
        #[test]
        fn keys_sort_as_what_they_are_made_of(a in "[\\x00-\\x03]{0,6}", b in "[\\x00-\\x03]{0,6}", x: u32, y: u32) {
            let made = |number, text: &str| authority(TrustDomainNumber(number), text).unwrap();
            prop_assert_eq!(made(x, &a).cmp(&made(y, &b)), (x, &a).cmp(&(y, &b)));
        }

        #[test]
        fn no_key_begins_another(a in "[\\x00-\\x03]{0,6}", b in "[\\x00-\\x03]{0,6}") {
            let made = |text: &str| authority(TrustDomainNumber::OWN, text).unwrap();
            prop_assert_eq!(made(&a).bytes().starts_with(made(&b).bytes()), a == b);
        }
    }
}
