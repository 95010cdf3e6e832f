//! The entries of the log as bytes: what the tree's leaves are hashed from, and what stays readable for ever.
//!
//! An entry is a format byte, a kind byte, and fields in a fixed order; integers are big-endian, texts and
//! lists are preceded by their length. The same entry always has the same bytes, and bytes that any other
//! entry would have are refused, so that an entry's hash names exactly one entry.

use std::sync::Arc;

use thiserror::Error;

use super::tree::{Hash, Head};
use super::{Caller, Document, Durability, Issuance, IssuanceRecord, Issued, WriterId};
use crate::clock::Timestamp;
use crate::id::SpiffeId;
use crate::profile::Profile;
use crate::serial::Serial;

/// The longest entry in bytes: C2SP tlog-tiles writes its length in 16 bits, and a block holds several.
pub const LONGEST_ENTRY: usize = 16 * 1024;

/// The first byte of every entry of this release.
const FORMAT: u8 = 1;
const OPENING: u8 = 1;
const ISSUANCE: u8 = 2;

/// One leaf of the tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// A run of a signer begins.
    Opening(Opening),
    /// Something was issued.
    Issuance(IssuanceRecord),
}

/// What the first entry of a run says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opening {
    /// Names the blocks of this run; no other run of any signer has it.
    pub writer: WriterId,
    /// The tree that the run continues.
    pub continues: Head,
    /// What an answer of the log means in this run.
    pub durability: Durability,
    /// When it began.
    pub time: Timestamp,
}

/// Bytes that are no entry.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum EntryError {
    /// Written by a newer release.
    #[error("entry has format {0}; this release reads format {FORMAT}: use a newer one")]
    Format(u8),
    /// It ends within a field.
    #[error("entry ends within its {0}")]
    Short(&'static str),
    /// Bytes follow its last field.
    #[error("entry has {0} bytes too many")]
    Long(usize),
    /// A field has a value that none may have.
    #[error("{0} of an entry is none that can be written")]
    Field(&'static str),
}

impl Entry {
    /// When it was written.
    #[must_use]
    pub fn time(&self) -> Timestamp {
        match self {
            Self::Opening(opening) => opening.time,
            Self::Issuance(record) => record.time,
        }
    }

    /// Appends its bytes.
    pub fn encode(&self, into: &mut Vec<u8>) {
        match self {
            Self::Opening(opening) => opening.encode(into),
            Self::Issuance(record) => record.as_issuance().encode(into),
        }
    }

    /// Reads what [`encode`](Self::encode) writes, and nothing else.
    pub fn decode(bytes: &[u8]) -> Result<Self, EntryError> {
        let mut fields = Fields(bytes);
        let format = fields.byte("format")?;
        if format != FORMAT {
            return Err(EntryError::Format(format));
        }
        let entry = match fields.byte("kind")? {
            OPENING => Self::Opening(Opening::decode(&mut fields)?),
            ISSUANCE => Self::Issuance(IssuanceRecord::decode(&mut fields)?),
            _ => return Err(EntryError::Field("kind")),
        };
        if fields.0.is_empty() { Ok(entry) } else { Err(EntryError::Long(fields.0.len())) }
    }
}

impl Opening {
    pub(super) fn encode(&self, into: &mut Vec<u8>) {
        into.extend([FORMAT, OPENING]);
        put_time(into, self.time);
        into.extend(self.writer.number().to_be_bytes());
        into.extend(self.continues.size.to_be_bytes());
        into.extend(self.continues.root.as_bytes());
        match self.durability {
            Durability::Durable => into.push(0),
            Durability::Relaxed { window_ms } => {
                into.push(1);
                into.extend(window_ms.to_be_bytes());
            }
        }
    }

    fn decode(fields: &mut Fields<'_>) -> Result<Self, EntryError> {
        let time = fields.time("time")?;
        let writer = WriterId::new(fields.u32("writer")?).ok_or(EntryError::Field("writer"))?;
        let size = fields.u64("size of the tree")?;
        let root = Hash::from_bytes(fields.array("root of the tree")?);
        let durability = match fields.byte("durability")? {
            0 => Durability::Durable,
            1 => Durability::Relaxed { window_ms: fields.u32("window")? },
            _ => return Err(EntryError::Field("durability")),
        };
        Ok(Self { writer, continues: Head { size, root }, durability, time })
    }
}

const X509: u8 = 1;
const JWT: u8 = 2;

impl Issuance<'_> {
    pub(super) fn encode(&self, into: &mut Vec<u8>) {
        into.extend([FORMAT, ISSUANCE]);
        put_time(into, self.time);
        put_time(into, self.not_before);
        put_time(into, self.not_after);
        into.extend_from_slice(self.digest);
        put_text(into, self.authority);
        put_text(into, self.issuing_key.map_or("", |key| key));
        self.caller.encode(into);
        put_text(into, self.id.as_str());
        match self.document {
            Issued::X509 { profile, serial, key_digest } => {
                into.extend([X509, profile_tag(profile)]);
                into.extend_from_slice(serial.bytes());
                into.extend_from_slice(key_digest);
            }
            Issued::Jwt { audience } => {
                into.push(JWT);
                put_length(into, audience.len());
                audience.iter().for_each(|value| put_text(into, value));
            }
        }
    }
}

impl IssuanceRecord {
    fn decode(fields: &mut Fields<'_>) -> Result<Self, EntryError> {
        let time = fields.time("time")?;
        let not_before = fields.time("first second")?;
        let not_after = fields.time("last second")?;
        let digest = fields.array("digest")?;
        let authority: Arc<str> = fields.text("authority")?.into();
        let issuing_key = fields.text("issuing key")?;
        let issuing_key = (!issuing_key.is_empty()).then(|| issuing_key.into());
        let caller = Caller::decode(fields)?;
        let id = SpiffeId::parse(fields.text("id")?).map_err(|_| EntryError::Field("id"))?;
        let document = match fields.byte("document")? {
            X509 => Document::X509 {
                profile: profile_of(fields.byte("profile")?).ok_or(EntryError::Field("profile"))?,
                serial: fields.serial("serial number")?,
                key_digest: fields.array("key digest")?,
            },
            JWT => {
                let count = fields.u16("audience")?;
                let values = (0..count).map(|_| fields.text("audience").map(str::to_owned));
                Document::Jwt { audience: values.collect::<Result<_, _>>()? }
            }
            _ => return Err(EntryError::Field("document")),
        };
        Ok(Self {
            document,
            digest,
            id,
            not_before,
            not_after,
            authority,
            issuing_key,
            caller,
            time,
        })
    }
}

const SIGNER: u8 = 1;
const LOCAL: u8 = 2;
const LOCAL_PROCESS: u8 = 3;
const FRONT_END: u8 = 4;

impl Caller {
    fn encode(&self, into: &mut Vec<u8>) {
        match self {
            Self::Signer => into.push(SIGNER),
            Self::Local { uid, pid: None } => {
                into.push(LOCAL);
                into.extend(uid.to_be_bytes());
            }
            Self::Local { uid, pid: Some(pid) } => {
                into.push(LOCAL_PROCESS);
                into.extend(uid.to_be_bytes());
                into.extend(pid.to_be_bytes());
            }
            Self::FrontEnd { name, instance } => {
                into.push(FRONT_END);
                put_text(into, name);
                put_text(into, instance);
            }
        }
    }

    fn decode(fields: &mut Fields<'_>) -> Result<Self, EntryError> {
        match fields.byte("caller")? {
            SIGNER => Ok(Self::Signer),
            LOCAL => Ok(Self::Local { uid: fields.u32("caller")?, pid: None }),
            LOCAL_PROCESS => {
                let uid = fields.u32("caller")?;
                let pid = i32::from_be_bytes(fields.array("caller")?);
                Ok(Self::Local { uid, pid: Some(pid) })
            }
            FRONT_END => {
                let name = fields.text("caller")?.into();
                Ok(Self::FrontEnd { name, instance: fields.text("caller")?.into() })
            }
            _ => Err(EntryError::Field("caller")),
        }
    }
}

/// Written into the log for ever: a number is never given to another profile.
fn profile_tag(profile: Profile) -> u8 {
    match profile {
        Profile::Workload => 1,
        Profile::Agent => 2,
        Profile::Server => 3,
        Profile::DownstreamCa => 4,
        Profile::IssuingCa => 5,
        Profile::Root => 6,
    }
}

fn profile_of(tag: u8) -> Option<Profile> {
    Profile::ALL.into_iter().find(|&profile| profile_tag(profile) == tag)
}

fn put_time(into: &mut Vec<u8>, time: Timestamp) {
    into.extend(time.unix().to_be_bytes());
}

/// A text of at most 65,535 bytes. All that is written is far shorter: ids, key ids and audiences are bounded
/// where they are made.
fn put_text(into: &mut Vec<u8>, text: &str) {
    put_length(into, text.len());
    into.extend_from_slice(text.as_bytes());
}

fn put_length(into: &mut Vec<u8>, length: usize) {
    into.extend(u16::try_from(length).expect("bounded where it was made").to_be_bytes());
}

/// What is left to read of an entry.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn bytes(&mut self, length: usize, field: &'static str) -> Result<&'a [u8], EntryError> {
        let (bytes, rest) = self.0.split_at_checked(length).ok_or(EntryError::Short(field))?;
        self.0 = rest;
        Ok(bytes)
    }

    fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], EntryError> {
        Ok(self.bytes(N, field)?.try_into().expect("as long as was asked for"))
    }

    fn byte(&mut self, field: &'static str) -> Result<u8, EntryError> {
        self.array(field).map(|[byte]| byte)
    }

    fn u16(&mut self, field: &'static str) -> Result<u16, EntryError> {
        self.array(field).map(u16::from_be_bytes)
    }

    fn u32(&mut self, field: &'static str) -> Result<u32, EntryError> {
        self.array(field).map(u32::from_be_bytes)
    }

    fn u64(&mut self, field: &'static str) -> Result<u64, EntryError> {
        self.array(field).map(u64::from_be_bytes)
    }

    fn time(&mut self, field: &'static str) -> Result<Timestamp, EntryError> {
        let unix = i64::from_be_bytes(self.array(field)?);
        let time = Timestamp::from_unix(unix);
        if time.unix() == unix { Ok(time) } else { Err(EntryError::Field(field)) }
    }

    fn text(&mut self, field: &'static str) -> Result<&'a str, EntryError> {
        let length = self.u16(field)?;
        let bytes = self.bytes(usize::from(length), field)?;
        std::str::from_utf8(bytes).map_err(|_| EntryError::Field(field))
    }

    fn serial(&mut self, field: &'static str) -> Result<Serial, EntryError> {
        let bytes = self.array(field)?;
        let serial = Serial::from_bytes(bytes);
        if *serial.bytes() == bytes { Ok(serial) } else { Err(EntryError::Field(field)) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn caller() -> impl Strategy<Value = Caller> {
        prop_oneof![
            Just(Caller::Signer),
            (any::<u32>(), any::<Option<i32>>()).prop_map(|(uid, pid)| Caller::Local { uid, pid }),
            ("[a-z0-9.-]{1,64}", "[A-Za-z0-9._-]{0,64}").prop_map(|(name, instance)| {
                Caller::FrontEnd { name: name.into(), instance: instance.into() }
            }),
        ]
    }

    fn document() -> impl Strategy<Value = Document> {
        let x509 = (0..Profile::ALL.len(), any::<[u8; 20]>(), any::<[u8; 32]>()).prop_map(
            |(profile, serial, key_digest)| Document::X509 {
                profile: Profile::ALL[profile],
                serial: Serial::from_bytes(serial),
                key_digest,
            },
        );
        let jwt =
            prop::collection::vec(".{1,20}", 1..4).prop_map(|audience| Document::Jwt { audience });
        prop_oneof![x509, jwt]
    }

    fn issuance() -> impl Strategy<Value = Entry> {
        let time = || (0..=Timestamp::MAX.unix()).prop_map(Timestamp::from_unix);
        let key = || "[0-9a-f]{40}";
        (document(), any::<[u8; 32]>(), "[a-z]{1,30}", (time(), time(), time()))
            .prop_flat_map(move |(document, digest, path, times)| {
                (Just((document, digest, path, times)), key(), prop::option::of(key()), caller())
            })
            .prop_map(|((document, digest, path, times), authority, issuing_key, caller)| {
                Entry::Issuance(IssuanceRecord {
                    document,
                    digest,
                    id: SpiffeId::from_parts("a.test", &format!("/{path}")).unwrap(),
                    not_before: times.0,
                    not_after: times.1,
                    authority: authority.into(),
                    issuing_key: issuing_key.map(Into::into),
                    caller,
                    time: times.2,
                })
            })
    }

    fn opening() -> impl Strategy<Value = Entry> {
        (1..=WriterId::LAST, any::<u64>(), any::<[u8; 32]>(), any::<Option<u32>>()).prop_map(
            |(writer, size, root, window)| {
                Entry::Opening(Opening {
                    writer: WriterId::new(writer).unwrap(),
                    continues: Head { size, root: Hash::from_bytes(root) },
                    durability: window
                        .map_or(Durability::Durable, |window_ms| Durability::Relaxed { window_ms }),
                    time: Timestamp::from_unix(1_700_000_000),
                })
            },
        )
    }

    fn encoded(entry: &Entry) -> Vec<u8> {
        let mut bytes = Vec::new();
        entry.encode(&mut bytes);
        bytes
    }

    proptest! {
        #[test]
        fn what_is_written_is_what_is_read(entry in prop_oneof![issuance(), opening()]) {
            let bytes = encoded(&entry);
            prop_assert!(bytes.len() <= LONGEST_ENTRY);
            prop_assert_eq!(Entry::decode(&bytes), Ok(entry));
        }

        #[test]
        fn bytes_that_are_read_are_those_that_would_be_written(
            entry in prop_oneof![issuance(), opening()],
            at in any::<prop::sample::Index>(),
            flip in 1..=255u8,
        ) {
            let mut bytes = encoded(&entry);
            let at = at.index(bytes.len());
            bytes[at] ^= flip;
            if let Ok(other) = Entry::decode(&bytes) {
                prop_assert_eq!(encoded(&other), bytes);
            }
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let _ = Entry::decode(&bytes);
        }

        #[test]
        fn an_entry_that_is_cut_is_refused(
            entry in prop_oneof![issuance(), opening()],
            at in any::<prop::sample::Index>(),
        ) {
            let bytes = encoded(&entry);
            prop_assert!(Entry::decode(&bytes[..at.index(bytes.len())]).is_err());
        }
    }

    /// Written by the first release that had this format: it must be readable for ever.
    #[test]
    fn a_golden_entry_stays_what_it_is() {
        golden(Caller::Local { uid: 5, pid: Some(6) }, "030000000500000006");
        let front_end = Caller::FrontEnd { name: "fe".into(), instance: "i1".into() };
        golden(front_end, "04 00026665 00026931");
    }

    #[track_caller]
    fn golden(caller: Caller, caller_hex: &str) {
        let record = IssuanceRecord {
            document: Document::X509 {
                profile: Profile::Workload,
                serial: Serial::from_bytes([0x11; 20]),
                key_digest: [0x22; 32],
            },
            digest: [0x33; 32],
            id: SpiffeId::parse("spiffe://a.test/w").unwrap(),
            not_before: Timestamp::from_unix(0x0102),
            not_after: Timestamp::from_unix(0x0304),
            authority: "aa".into(),
            issuing_key: Some("bb".into()),
            caller,
            time: Timestamp::from_unix(0x0506),
        };
        let entry = Entry::Issuance(record);
        let bytes = encoded(&entry);
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let expected = [
            "0102",
            "0000000000000506",
            "0000000000000102",
            "0000000000000304",
            &"33".repeat(32),
            "00026161",
            "00026262",
            &caller_hex.replace(' ', ""),
            "0011",
            "7370696666653a2f2f612e746573742f77",
            "0101",
            &"11".repeat(20),
            &"22".repeat(32),
        ];
        assert_eq!(hex, expected.concat());
        assert_eq!(Entry::decode(&bytes), Ok(entry));
    }
}
