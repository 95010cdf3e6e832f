//! The sealed form of a private key: AES-256-GCM under a key that is kept elsewhere.
//!
//! | offset | bytes | content |
//! |---|---|---|
//! | 0 | 8 | `mintseal` |
//! | 8 | 1 | format version, 1 |
//! | 9 | 1 | kind of key: 1 ec-p256, 2 ec-p384, 3 rsa-2048, 4 rsa-3072, 5 rsa-4096, 6 ed25519, 7 ml-dsa-44, 8 ml-dsa-65 |
//! | 10 | 12 | random nonce (SP 800-38D §8.2.2) |
//! | 22 | n | the encrypted PKCS#8 (RFC 5958) |
//! | 22 + n | 16 | authentication tag |
//!
//! The associated data binds the bytes to their place: the first ten bytes, then trust domain and key
//! name, each after its length as two big-endian bytes. A file that was renamed, or copied to another
//! trust domain, does not open.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ca_core::key::{KeyError, KeyName, KeyType};
use zeroize::Zeroizing;

use crate::blocking;
use crate::secret::{SecretSource, trim_line_end};

const MAGIC: &[u8; 8] = b"mintseal";
const VERSION: u8 = 1;
const HEADER: usize = MAGIC.len() + 2;
const TAG: usize = 16;
/// No sealed file is longer: the PKCS#8 of an RSA-4096 key has about 2400 bytes.
pub(super) const LONGEST: usize = 8192;

/// The key under which software keys are sealed. Wiped when dropped, never shown. In a box, since a key
/// that is moved would leave a copy on each stack that it was on.
pub struct SealKey(Box<Zeroizing<[u8; 32]>>);

impl fmt::Debug for SealKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SealKey(…)")
    }
}

impl SealKey {
    /// Reads the key: 32 bytes as they are, or as 64 hexadecimal digits or 44 characters of base64 with
    /// a line end or without.
    ///
    /// # Errors
    /// [`KeyError::Setup`] naming the source, what is wrong with it and what to do.
    pub async fn read(source: &SecretSource) -> Result<Self, KeyError> {
        let source = source.clone();
        blocking::run(&source.to_string(), move || Self::read_now(&source)).await
    }

    /// Makes a key and writes it to a file that did not exist, as base64, mode 0600.
    ///
    /// # Errors
    /// [`KeyError::Setup`] if the file exists or cannot be written.
    pub async fn create_file(path: &Path) -> Result<Self, KeyError> {
        let path = path.to_owned();
        blocking::run(&path.display().to_string(), move || Self::create_now(&path)).await
    }

    fn read_now(source: &SecretSource) -> Result<Self, KeyError> {
        let bytes = source.read()?;
        Self::parse(&bytes).ok_or_else(|| {
            source.unusable(
                "a seal key is 32 bytes, 64 hexadecimal digits or 44 characters of base64; \
                 make one with: openssl rand -base64 32"
                    .to_owned(),
            )
        })
    }

    fn create_now(path: &Path) -> Result<Self, KeyError> {
        let setup = |reason: String| KeyError::Setup {
            place: format!("seal key file {}", path.display()),
            reason,
        };
        let mut key = Box::new(Zeroizing::new([0; 32]));
        aws_lc_rs::rand::fill(&mut key[..])
            .map_err(|_| setup("the system gives no random bytes".to_owned()))?;
        let text = Zeroizing::new(STANDARD.encode(&key[..]) + "\n");
        write_new(path, text.as_bytes()).map_err(|error| setup(error.to_string()))?;
        Ok(Self(key))
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let mut key = Box::new(Zeroizing::new([0; 32]));
        if bytes.len() == key.len() {
            key.copy_from_slice(bytes);
            return Some(Self(key));
        }
        let text = trim_line_end(bytes);
        match text.len() {
            64 => {
                for (byte, digits) in key.iter_mut().zip(text.chunks_exact(2)) {
                    *byte = hex_digit(digits[0])? << 4 | hex_digit(digits[1])?;
                }
            }
            44 => {
                let mut decoded = Zeroizing::new([0; 33]);
                let length = STANDARD.decode_slice(text, &mut decoded[..]).ok()?;
                key.copy_from_slice(decoded.get(..length).filter(|_| length == 32)?);
            }
            _ => return None,
        }
        Some(Self(key))
    }

    /// The file content that holds `pkcs8` for this name in this trust domain.
    pub(super) fn seal(
        &self,
        place: &Place<'_>,
        key_type: KeyType,
        pkcs8: &[u8],
    ) -> Result<Vec<u8>, KeyError> {
        let failed = |_| KeyError::Unavailable {
            place: "the cryptography library".to_owned(),
            reason: "it could not seal a key".to_owned(),
        };
        let mut nonce = [0; NONCE_LEN];
        aws_lc_rs::rand::fill(&mut nonce).map_err(failed)?;
        let header = header(key_type);
        let mut content = Zeroizing::new(Vec::with_capacity(pkcs8.len() + TAG));
        content.extend_from_slice(pkcs8);
        self.cipher()
            .seal_in_place_append_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(place.associated_data(&header)),
                &mut *content,
            )
            .map_err(failed)?;
        Ok([&header[..], &nonce, &content].concat())
    }

    /// The key in `sealed`.
    pub(super) fn open(&self, place: &Place<'_>, sealed: &[u8]) -> Result<Unsealed, KeyError> {
        let refused = |reason: &str| KeyError::Unsafe {
            name: place.name.clone(),
            reason: format!("{} {reason}", place.path.display()),
        };
        if sealed.len() > LONGEST || sealed.len() < HEADER + NONCE_LEN + TAG {
            return Err(refused("has not the length of a sealed key; restore it from a backup"));
        }
        let (header, rest) = sealed.split_at(HEADER);
        let (nonce, content) = rest.split_at(NONCE_LEN);
        let key_type = match (header.strip_prefix(MAGIC), header[8], key_type(header[9])) {
            (None, ..) => return Err(refused("is not a sealed key")),
            (_, version, _) if version != VERSION => {
                return Err(refused("has a format that this version does not know"));
            }
            (_, _, None) => {
                return Err(refused("holds a kind of key that this version does not know"));
            }
            (_, _, Some(key_type)) => key_type,
        };
        let nonce =
            Nonce::try_assume_unique_for_key(nonce).expect("NONCE_LEN bytes were split off");
        let mut content = Zeroizing::new(content.to_vec());
        let length = self
            .cipher()
            .open_in_place(nonce, Aad::from(place.associated_data(header)), &mut content)
            .map_err(|_| {
                refused(
                    "does not open: another seal key, another name or trust domain, or changed \
                     bytes; restore the file or the seal key from a backup",
                )
            })?
            .len();
        content.truncate(length);
        Ok(Unsealed { key_type, pkcs8: content })
    }

    fn cipher(&self) -> LessSafeKey {
        let key = UnboundKey::new(&AES_256_GCM, &self.0[..]).expect("AES-256 takes 32 bytes");
        LessSafeKey::new(key)
    }
}

/// Writes a file that did not exist, and its name, to the disk; or leaves none behind.
fn write_new(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut options = OpenOptions::new();
    let mut file = options.write(true).create_new(true).mode(0o600).open(path)?;
    let written = file.write_all(content).and_then(|()| file.sync_all());
    if written.is_err() {
        // Half a key in the way of the next try. The error that is returned says what is wrong.
        let _ = std::fs::remove_file(path);
    }
    written.and_then(|()| sync_parent(path))
}

/// Has the name of `path` flushed: keys sealed under a seal key that a power cut took away are lost.
pub(super) fn sync_parent(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => File::open(parent)?.sync_all(),
        _ => File::open(".")?.sync_all(),
    }
}

/// What a sealed key holds.
pub(super) struct Unsealed {
    pub(super) key_type: KeyType,
    pub(super) pkcs8: Zeroizing<Vec<u8>>,
}

/// What a sealed key is bound to, and the file to name when it does not fit.
pub(super) struct Place<'a> {
    pub(super) trust_domain: &'a str,
    pub(super) name: &'a KeyName,
    pub(super) path: PathBuf,
}

impl Place<'_> {
    fn associated_data(&self, header: &[u8]) -> Vec<u8> {
        let mut data = header.to_vec();
        for part in [self.trust_domain, self.name.as_str()] {
            let length = u16::try_from(part.len()).expect("a key name has at most 320 bytes");
            data.extend_from_slice(&length.to_be_bytes());
            data.extend_from_slice(part.as_bytes());
        }
        data
    }
}

fn header(key_type: KeyType) -> [u8; HEADER] {
    let mut header = [VERSION; HEADER];
    header[..MAGIC.len()].copy_from_slice(MAGIC);
    let code = KeyType::ALL.iter().position(|&known| known == key_type);
    header[9] = u8::try_from(code.expect("ALL holds every kind") + 1).expect("six kinds");
    header
}

/// The order of [`KeyType::ALL`] is part of the format; `the_codes_of_the_format_are_fixed` holds it.
fn key_type(code: u8) -> Option<KeyType> {
    KeyType::ALL.get(usize::from(code).checked_sub(1)?).copied()
}

fn hex_digit(character: u8) -> Option<u8> {
    char::from(character).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TEXT: &str = "QUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUE=";

    fn name(text: &str) -> KeyName {
        KeyName::parse(text).unwrap()
    }

    fn place(name: &KeyName) -> Place<'_> {
        Place { trust_domain: "a.test", name, path: "/keys/x509+1.sealed".into() }
    }

    fn key() -> SealKey {
        SealKey::parse(&[b'A'; 32]).unwrap()
    }

    #[test]
    fn a_seal_key_is_read_from_bytes_hexadecimal_and_base64() {
        let hex = "41".repeat(32);
        for text in [TEXT, &format!("{TEXT}\n"), &hex, &format!("{hex}\r\n"), &"A".repeat(32)] {
            assert_eq!(SealKey::parse(text.as_bytes()).unwrap().0, key().0, "{text:?}");
        }
        let short = TEXT.replace("UE=", "U==");
        for text in ["", "4711", &hex[1..], &hex.replace('4', "g"), &short, &TEXT[1..]] {
            assert!(SealKey::parse(text.as_bytes()).is_none(), "{text:?}");
        }
        assert_eq!(format!("{:?}", key()), "SealKey(…)");
    }

    #[test]
    fn the_codes_of_the_format_are_fixed() {
        let codes = KeyType::ALL.map(|kind| (header(kind)[9], kind.name()));
        let expected = [
            "ec-p256",
            "ec-p384",
            "rsa-2048",
            "rsa-3072",
            "rsa-4096",
            "ed25519",
            "ml-dsa-44",
            "ml-dsa-65",
        ];
        assert_eq!(codes.map(|(_, name)| name), expected);
        assert_eq!(codes.map(|(code, _)| code), [1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(&header(KeyType::Ed25519), b"mintseal\x01\x06");
    }

    #[test]
    fn a_key_of_another_name_domain_or_seal_does_not_open() {
        let (own, other) = (name("mintmark/a.test/x509/1"), name("mintmark/a.test/x509/2"));
        let sealed = key().seal(&place(&own), KeyType::EcP256, b"pkcs8").unwrap();
        let opened = key().open(&place(&own), &sealed).ok().unwrap();
        assert_eq!((opened.key_type, &opened.pkcs8[..]), (KeyType::EcP256, &b"pkcs8"[..]));
        let elsewhere = Place { trust_domain: "b.test", ..place(&own) };
        let refusals = [
            key().open(&place(&other), &sealed),
            key().open(&elsewhere, &sealed),
            SealKey::parse(&[b'B'; 32]).unwrap().open(&place(&own), &sealed),
        ];
        for refusal in refusals {
            assert!(matches!(refusal, Err(KeyError::Unsafe { .. })));
        }
    }

    #[test]
    fn every_flipped_bit_and_every_truncation_is_refused() {
        let own = name("mintmark/a.test/x509/1");
        let sealed = key().seal(&place(&own), KeyType::EcP256, b"a private key").unwrap();
        for bit in 0..sealed.len() * 8 {
            let mut flipped = sealed.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(key().open(&place(&own), &flipped).is_err(), "bit {bit}");
        }
        for length in 0..sealed.len() {
            assert!(key().open(&place(&own), &sealed[..length]).is_err(), "{length} bytes");
        }
        assert!(key().open(&place(&own), &[&sealed[..], &[0]].concat()).is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_opening_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let own = name("mintmark/a.test/x509/1");
            prop_assert!(key().open(&place(&own), &bytes).is_err());
            let headed = [&b"mintseal\x01\x01"[..], &bytes].concat();
            prop_assert!(key().open(&place(&own), &headed).is_err());
        }
    }
}
