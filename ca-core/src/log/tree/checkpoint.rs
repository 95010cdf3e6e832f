//! Checkpoints: a tree's head, signed by the log (C2SP tlog-checkpoint, in a C2SP signed-note).
//!
//! The log signs by ECDSA on P-256, since HSMs and cloud KMS do: signature type 2 of signed-note. A log that
//! is public, or that witnesses of the public network watch, would have to sign by Ed25519 as well (C2SP
//! tlog-tiles, "Checkpoints"); this one is its operator's own.

use std::fmt;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use thiserror::Error;

use super::merkle::{Hash, Head};
use super::text::{TextError, base64, bounded, decimal};
use crate::excerpt::Excerpt;
use crate::key::{
    KeyKind, PublicKey, SignError, Signature, SignatureAlgorithm, SigningKey, ToBeSigned, Urgency,
};

/// The name of a log, which is that of its key too, such as `a.example/mintmark/one` (C2SP tlog-checkpoint,
/// "Note text"; signed-note, "Format"). Witnesses' keys have names of the same form.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Origin(String);

impl Origin {
    /// Reads a name: 1 to 255 bytes without spaces, control characters and plus signs.
    ///
    /// # Errors
    /// [`TextError`].
    pub fn parse(text: &str) -> Result<Self, TextError> {
        bounded("name of a log", text, 255)?;
        let stranger = |c: char| c.is_whitespace() || c.is_control() || c == '+';
        if text.is_empty() || text.contains(stranger) {
            let reason = format!("{} is empty or holds a space or a plus sign", Excerpt::of(text));
            return Err(TextError::new("name of a log", reason));
        }
        Ok(Self(text.to_owned()))
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Origin({:?})", self.0)
    }
}

/// What a checkpoint says, before anyone has signed it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckpointBody {
    /// Which log.
    pub origin: Origin,
    /// Its tree.
    pub head: Head,
}

impl CheckpointBody {
    /// The note text, which is what is signed: three lines (C2SP tlog-checkpoint, "Note text").
    #[must_use]
    pub fn text(&self) -> String {
        format!("{}\n{}\n{}\n", self.origin, self.head.size, self.head.root)
    }

    /// Reads the three lines without the newline at their end. Extension lines are refused: this log
    /// writes none, and nobody could audit them.
    fn parse(text: &str) -> Result<Self, TextError> {
        let mut lines = text.split('\n');
        let mut line = |missing| lines.next().ok_or(TextError::new(CHECKPOINT, missing));
        let origin = Origin::parse(line("it has no origin")?)?;
        let size = decimal(line("it has no size")?);
        let size = size.ok_or(TextError::new(CHECKPOINT, "its size is no plain number"))?;
        let root = Hash::from_base64(line("it has no root hash")?);
        let root = root.ok_or(TextError::new(CHECKPOINT, "its root is not a hash in base64"))?;
        if lines.next().is_some() {
            return Err(TextError::new(CHECKPOINT, "it has more lines than origin, size and root"));
        }
        Ok(Self { origin, head: Head { size, root } })
    }
}

/// A checkpoint as it is written down: shows as the signed note. Says nothing about whether a signature
/// verifies; [`LogKey::verify`] does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    body: CheckpointBody,
    signatures: Vec<NoteSignature>,
}

/// One signature line of a note (C2SP signed-note, "Signatures").
#[derive(Debug, Clone, PartialEq, Eq)]
struct NoteSignature {
    name: Origin,
    key_id: [u8; 4],
    signature: Vec<u8>,
}

const CHECKPOINT: &str = "checkpoint";

impl Checkpoint {
    /// The longest that is read: sixteen signatures of the longest kind (C2SP signed-note, "Format").
    pub const LONGEST: usize = 128 * 1024;

    /// Reads a checkpoint, as its log serves it. Signatures of others, witnesses for example, are kept.
    ///
    /// # Errors
    /// [`TextError`].
    pub fn parse(text: &str) -> Result<Self, TextError> {
        bounded(CHECKPOINT, text, Self::LONGEST)?;
        let unended = || TextError::new(CHECKPOINT, "a signature line has no end");
        let unsigned = || TextError::new(CHECKPOINT, "no empty line parts text and signatures");
        // signed-note, "Format": the last empty line is what parts them.
        let (body, signatures) = text.rsplit_once("\n\n").ok_or_else(unsigned)?;
        let lines = signatures.strip_suffix('\n').ok_or_else(unended)?.split('\n');
        let signatures = lines.map(NoteSignature::parse).collect::<Result<_, _>>()?;
        Ok(Self { body: CheckpointBody::parse(body)?, signatures })
    }

    /// What it says. Not to be believed before [`LogKey::verify`].
    #[must_use]
    pub fn unverified(&self) -> &CheckpointBody {
        &self.body
    }
}

impl fmt::Display for Checkpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.body.text())?;
        self.signatures.iter().try_for_each(|signature| writeln!(f, "{signature}"))
    }
}

impl NoteSignature {
    fn parse(line: &str) -> Result<Self, TextError> {
        let malformed = || TextError::new(CHECKPOINT, "a signature line is malformed");
        let (name, signature) = line
            .strip_prefix("\u{2014} ")
            .and_then(|rest| rest.split_once(' '))
            .ok_or_else(malformed)?;
        let bytes = base64(signature).ok_or_else(malformed)?;
        let (key_id, signature) = bytes.split_first_chunk().ok_or_else(malformed)?;
        if signature.is_empty() {
            return Err(malformed());
        }
        let signature = signature.to_vec();
        Ok(Self { name: Origin::parse(name)?, key_id: *key_id, signature })
    }
}

impl fmt::Display for NoteSignature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = [&self.key_id, &self.signature[..]].concat();
        write!(f, "\u{2014} {} {}", self.name, BASE64_STANDARD.encode(bytes))
    }
}

/// Signs a checkpoint by the key of the log, which is named as the log is (C2SP tlog-checkpoint,
/// "Signatures"). The caller has made sure that the log has signed no head that this one does not continue.
///
/// # Errors
/// Those of the key, and [`SignError::Refused`] if it is no key on P-256.
pub async fn sign(
    body: CheckpointBody,
    key: &dyn SigningKey,
    urgency: Urgency,
) -> Result<Checkpoint, SignError> {
    let log = LogKey::new(body.origin.clone(), key.public_key().clone()).map_err(|error| {
        SignError::Refused { key: key.public_key().key_id().to_string(), reason: error.to_string() }
    })?;
    let message = ToBeSigned::tree_head(&body, ALGORITHM);
    let signature = key.sign_checked(message, urgency).await?.x509();
    let signature = NoteSignature { key_id: log.key_id(), name: log.name, signature };
    Ok(Checkpoint { body, signatures: vec![signature] })
}

const ALGORITHM: SignatureAlgorithm = SignatureAlgorithm::EcdsaP256Sha256;

/// The key by which a log's checkpoints are verified: a name and a key on P-256.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogKey {
    name: Origin,
    key: PublicKey,
}

/// Why a key cannot be a log's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("a key of type {0} cannot sign checkpoints; use one of type EC P-256")]
pub struct LogKeyError(KeyKind);

/// ECDSA (C2SP signed-note, "Signature types").
const SIGNATURE_TYPE: u8 = 2;

const VERIFIER_KEY: &str = "verifier key";

impl LogKey {
    /// The key of the log of that name.
    ///
    /// # Errors
    /// [`LogKeyError`] for a key of another kind.
    pub fn new(name: Origin, key: PublicKey) -> Result<Self, LogKeyError> {
        match key.kind() {
            KeyKind::EcP256 => Ok(Self { name, key }),
            other => Err(LogKeyError(other)),
        }
    }

    /// Reads a verifier key (C2SP signed-note, "Verifier keys"), of signature type 2.
    ///
    /// # Errors
    /// [`TextError`].
    pub fn parse(vkey: &str) -> Result<Self, TextError> {
        let refused = |reason: &str| TextError::new(VERIFIER_KEY, reason);
        bounded(VERIFIER_KEY, vkey, 1024)?;
        let mut parts = vkey.splitn(3, '+');
        let (Some(name), Some(key_id), Some(key)) = (parts.next(), parts.next(), parts.next())
        else {
            return Err(refused("it is not of the form <name>+<key id>+<key>"));
        };
        let key = base64(key).ok_or_else(|| refused("its key is not base64"))?;
        let Some((&SIGNATURE_TYPE, spki)) = key.split_first() else {
            return Err(refused("its signature type is not 2, ECDSA"));
        };
        let key = PublicKey::from_spki(spki).map_err(|error| refused(&error.to_string()))?;
        let key = Self::new(Origin::parse(name)?, key).map_err(|e| refused(&e.to_string()))?;
        if key.key_id_text() == key_id {
            Ok(key)
        } else {
            Err(refused("its key id is not that of its key"))
        }
    }

    /// The verifier key, as other programs are told it: `<name>+<key id>+<type and key>` (C2SP signed-note,
    /// "Verifier keys").
    #[must_use]
    pub fn vkey(&self) -> String {
        let key = [&[SIGNATURE_TYPE], self.key.spki()].concat();
        format!("{}+{}+{}", self.name, self.key_id_text(), BASE64_STANDARD.encode(key))
    }

    /// The name of the log.
    #[must_use]
    pub fn name(&self) -> &Origin {
        &self.name
    }

    /// Of type 2, unlike the others: the beginning of SHA-256 over the `SubjectPublicKeyInfo` (C2SP
    /// signed-note, "Signature types").
    fn key_id(&self) -> [u8; 4] {
        *self.key.fingerprint().first_chunk().expect("SHA-256 has 32 bytes")
    }

    fn key_id_text(&self) -> String {
        format!("{:08x}", u32::from_be_bytes(self.key_id()))
    }

    /// Believes a checkpoint of this log, if this key has signed it. Signatures by other keys are ignored;
    /// a wrong one by this key spoils the note (C2SP signed-note, "Signatures").
    ///
    /// # Errors
    /// [`CheckpointError`].
    pub fn verify(&self, checkpoint: &Checkpoint) -> Result<VerifiedCheckpoint, CheckpointError> {
        let CheckpointBody { origin, head } = &checkpoint.body;
        if *origin != self.name {
            let (found, wanted) = (Excerpt::of(origin.as_str()), self.name.clone());
            return Err(CheckpointError::OtherLog { found, wanted });
        }
        let (text, key_id) = (checkpoint.body.text(), self.key_id());
        let signatures = checkpoint.signatures.iter();
        let ours: Vec<bool> = signatures
            .filter(|signature| signature.name == self.name && signature.key_id == key_id)
            .map(|signature| self.has_signed(&text, &signature.signature))
            .collect();
        match ours.iter().all(|&good| good) {
            _ if ours.is_empty() => Err(CheckpointError::NotSigned { vkey: self.vkey() }),
            false => Err(CheckpointError::WrongSignature { vkey: self.vkey() }),
            true => Ok(VerifiedCheckpoint { origin: origin.clone(), head: *head }),
        }
    }

    fn has_signed(&self, text: &str, signature: &[u8]) -> bool {
        Signature::from_x509(ALGORITHM, signature)
            .is_ok_and(|signature| self.key.verifies(text.as_bytes(), &signature))
    }
}

/// Why a checkpoint is not believed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum CheckpointError {
    /// It is another log's.
    #[error(
        "the checkpoint is of the log {found}, not of {wanted}; give the key or the checkpoint of the same log"
    )]
    OtherLog {
        /// The log that it names.
        found: Excerpt,
        /// The log of the key.
        wanted: Origin,
    },
    /// The key has not signed it.
    #[error("the checkpoint bears no signature by {vkey}; ask the log's operator which key signs")]
    NotSigned {
        /// The key.
        vkey: String,
    },
    /// A signature in the key's name is wrong.
    #[error(
        "the signature of the checkpoint by {vkey} is wrong: it was changed or forged; do not rely on it"
    )]
    WrongSignature {
        /// The key.
        vkey: String,
    },
}

/// What a log has signed: only [`LogKey::verify`] makes one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedCheckpoint {
    origin: Origin,
    head: Head,
}

impl VerifiedCheckpoint {
    /// Which log.
    #[must_use]
    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    /// Its tree.
    #[must_use]
    pub fn head(&self) -> Head {
        self.head
    }
}

#[cfg(test)]
pub(in crate::log) mod tests {
    use std::time::{Duration, Instant};

    use async_trait::async_trait;
    use aws_lc_rs::rand::SystemRandom;
    use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair};
    use proptest::prelude::*;

    use super::*;
    use crate::key::{Priority, Purpose};

    /// A key of a test.
    #[derive(Debug)]
    pub(in crate::log) struct TestKey(EcdsaKeyPair, PublicKey);

    impl TestKey {
        pub(in crate::log) fn new() -> Self {
            let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).unwrap();
            let public = PublicKey::from_ec_point(pair.public_key().as_ref()).unwrap();
            Self(pair, public)
        }

        pub(in crate::log) fn log_key(&self) -> LogKey {
            LogKey::new(origin(), self.1.clone()).unwrap()
        }
    }

    #[async_trait]
    impl SigningKey for TestKey {
        async fn sign(&self, message: ToBeSigned, _: Urgency) -> Result<Signature, SignError> {
            assert_eq!(message.purpose(), Purpose::TreeHead);
            let der = self.0.sign(&SystemRandom::new(), message.message()).unwrap();
            Ok(Signature::from_x509(message.algorithm(), der.as_ref()).unwrap())
        }

        fn algorithms(&self) -> &[SignatureAlgorithm] {
            &[ALGORITHM]
        }

        fn public_key(&self) -> &PublicKey {
            &self.1
        }
    }

    fn origin() -> Origin {
        Origin::parse("a.example/mintmark/one").unwrap()
    }

    pub(in crate::log) fn signed(key: &TestKey, head: Head) -> Checkpoint {
        let urgency = Urgency::within(Priority::Bulk, Duration::from_secs(1), Instant::now());
        let body = CheckpointBody { origin: origin(), head };
        futures_util::FutureExt::now_or_never(sign(body, key, urgency)).unwrap().unwrap()
    }

    const HEAD: Head = Head { size: 0, root: Hash::EMPTY };

    #[test]
    fn a_checkpoint_is_read_back_as_it_was_written_and_verifies() {
        let key = TestKey::new();
        let checkpoint = signed(&key, Head { size: 20_852_163, root: Hash::EMPTY });
        let text = checkpoint.to_string();
        let start = "a.example/mintmark/one\n20852163\n47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\n\n\u{2014} a.example/mintmark/one ";
        assert!(text.starts_with(start), "{text}");
        let read = Checkpoint::parse(&text).unwrap();
        assert_eq!(read, checkpoint);
        let verified = key.log_key().verify(&read).unwrap();
        assert_eq!((verified.head(), verified.origin()), (checkpoint.body.head, &origin()));
    }

    #[test]
    fn the_key_id_of_rekors_key_is_the_one_in_rekors_checkpoints() {
        let key = "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE2G2Y+2tabdTV5BcGiBIx0a9fAFwrkBbmLSGtks4L3qX6yYY0zufBnhC8Ur/iy55GhWP/9A/bY2LhC30M9+RYtw==";
        let spki = base64(key).unwrap();
        let log = LogKey::new(
            Origin::parse("rekor.sigstore.dev").unwrap(),
            PublicKey::from_spki(&spki).unwrap(),
        )
        .unwrap();
        // The beginning of the log id that Rekor's entries name.
        assert_eq!(log.key_id_text(), "c0d23d6a");
        assert!(log.vkey().starts_with("rekor.sigstore.dev+c0d23d6a+AjBZMBMGByqGSM49"));
        assert_eq!(LogKey::parse(&log.vkey()), Ok(log));
    }

    #[test]
    fn signatures_of_strangers_are_kept_and_ignored() {
        let key = TestKey::new();
        let text = signed(&key, HEAD).to_string();
        let text = format!(
            "{text}\u{2014} witness.example AAAAAAAA\n\u{2014} a.example/mintmark/one AAAAAAAA\n"
        );
        let checkpoint = Checkpoint::parse(&text).unwrap();
        assert_eq!(checkpoint.to_string(), text);
        assert!(key.log_key().verify(&checkpoint).is_ok());
        let stranger = TestKey::new().log_key();
        let refused = stranger.verify(&checkpoint).unwrap_err();
        assert!(matches!(refused, CheckpointError::NotSigned { .. }), "{refused}");
    }

    #[test]
    fn a_changed_checkpoint_or_that_of_another_log_is_not_believed() {
        let key = TestKey::new();
        let mut checkpoint = signed(&key, HEAD);
        let log = key.log_key();
        let other = LogKey { name: Origin::parse("b.example").unwrap(), ..log.clone() };
        assert!(matches!(other.verify(&checkpoint), Err(CheckpointError::OtherLog { .. })));
        let wrong = |checkpoint: &Checkpoint| {
            matches!(log.verify(checkpoint), Err(CheckpointError::WrongSignature { .. }))
        };
        // One good signature does not make up for a wrong one in the same name.
        let mut twice = checkpoint.clone();
        twice.signatures.push(NoteSignature { signature: vec![0], ..twice.signatures[0].clone() });
        assert!(wrong(&twice));
        checkpoint.body.head.size = 1;
        assert!(wrong(&checkpoint));
    }

    #[test]
    fn what_is_no_checkpoint_is_refused() {
        let good = signed(&TestKey::new(), HEAD).to_string();
        assert!(Checkpoint::parse(&good).is_ok());
        let root = HEAD.root.to_string();
        for (from, to) in [
            ("\n0\n", "\n00\n"),
            ("\n0\n", "\n+0\n"),
            ("\n0\n", "\n-1\n"),
            ("\n0\n", "\n\n"),
            ("\n0\n", "\n18446744073709551616\n"),
            ("\n0\n", "\n0\r\n"),
            ("a.example/mintmark/one\n0", "\n0"),
            ("a.example/mintmark/one\n0", "a example\n0"),
            ("a.example/mintmark/one\n0", "a\u{a0}example\n0"),
            ("a.example/mintmark/one\n0", "a+example\n0"),
            ("47DEQ", "47DE"),
            ("uFU=\n", "uFU\n"),
            ("uFU=\n", "uFV=\n"),
            (&root, ""),
            (&root, "AAAA"),
            ("uFU=\n", "uFU=\nextension\n"),
            ("\n\n", "\n"),
            ("\n\n", "\n\n\n"),
            ("\u{2014} ", "- "),
            ("\u{2014} ", "\u{2014}  "),
            ("\u{2014} ", "\u{2014} + "),
        ] {
            let text = good.replacen(from, to, 1);
            assert_ne!(text, good);
            assert!(Checkpoint::parse(&text).is_err(), "{text}");
        }
        let unsigned = good.split_inclusive("\n\n").next().unwrap();
        assert!(Checkpoint::parse(unsigned).is_err());
        assert!(Checkpoint::parse(good.trim_end()).is_err());
        assert!(Checkpoint::parse(&format!("{good}\n")).is_err());
        assert!(Checkpoint::parse(&format!("{good}\u{2014} w AAAAAA==\n")).is_err());
        let many = good.clone() + &"\u{2014} witness.example AAAAAAAA\n".repeat(5000);
        assert!(Checkpoint::parse(&many).is_err());
    }

    #[test]
    fn a_verifier_key_with_a_fault_is_refused() {
        let good = TestKey::new().log_key().vkey();
        assert!(LogKey::parse(&good).is_ok());
        let [name, id, key] = *good.splitn(3, '+').collect::<Vec<_>>() else { unreachable!() };
        let flipped = if id.starts_with('0') { "1" } else { "0" }.to_owned() + &id[1..];
        for bad in [
            format!("{name}+{key}"),
            format!("+{id}+{key}"),
            format!("{name}+{flipped}+{key}"),
            format!("{name}+0{id}+{key}"),
            format!("{name}+{id}+AQ{}", &key[2..]),
            format!("{name}+{id}+{}", &key[..key.len() - 4]),
            format!("{name}+{id}+"),
            format!("{good}\n"),
        ] {
            assert!(LogKey::parse(&bad).is_err(), "{bad}");
        }
        let ed25519 = PublicKey::from_ed25519(&[7; 32]).unwrap();
        assert!(LogKey::new(origin(), ed25519).is_err());
    }

    proptest! {
        #[test]
        fn no_text_makes_the_readers_panic(text in any::<String>(), pieces in pieces()) {
            for text in [text, pieces] {
                let _ = (Origin::parse(&text), LogKey::parse(&text));
                if let Ok(checkpoint) = Checkpoint::parse(&text) {
                    prop_assert_eq!(checkpoint.to_string(), text);
                }
            }
        }
    }

    /// Texts of the pieces of which checkpoints and proofs consist.
    pub(in crate::log) fn pieces() -> impl Strategy<Value = String> {
        let piece = prop::sample::select(vec![
            "\n",
            "\n",
            "\n\n",
            "\u{2014} ",
            "a.example",
            " ",
            "+",
            "0",
            "17",
            "AAAA",
            "AAAAAAAA",
            "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=",
            "index ",
            "extra ",
            "=",
            "c2sp.org/tlog-proof@v1\n",
            "mintmark/consistency-proof@v1\n",
            "a.example\n17\n47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\n\n\u{2014} a.example AAAAAAAA\n",
        ]);
        prop::collection::vec(piece, 0..24).prop_map(|pieces| pieces.concat())
    }
}
