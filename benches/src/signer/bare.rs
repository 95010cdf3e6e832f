//! The limit: the calls that a signature needs and nothing else, on as many threads as there are sessions.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256, VerificationAlgorithm,
};
use ca_core::key::{KeyType, PublicKey};
use cryptoki::context::Pkcs11;
use cryptoki::object::{Attribute, ObjectClass, ObjectHandle};
use cryptoki::session::Session;
use cryptoki_sys::{CK_MECHANISM_TYPE, CKM_ECDSA, CKM_RSA_PKCS};

use super::calls::Calls;

/// Sessions of a token, each with a key's handle, and the two calls of a signature.
pub(crate) struct Bare {
    calls: Calls,
    sessions: Vec<(Session, ObjectHandle)>,
    mechanism: CK_MECHANISM_TYPE,
    input: Vec<u8>,
    message: Vec<u8>,
    /// Verifies each signature too, if it is there.
    verifier: Option<ParsedPublicKey>,
}

impl Bare {
    /// Sessions on the token of that serial number. The library is initialised and logged in by the key
    /// store: both belong to the process.
    pub(crate) fn open(
        module: &Path,
        serial: &str,
        label: &str,
        key_type: KeyType,
        sessions: usize,
    ) -> anyhow::Result<Self> {
        let context = Pkcs11::new(module)?;
        let slot = context.get_slots_with_token()?.into_iter().find(|&slot| {
            context.get_token_info(slot).is_ok_and(|info| info.serial_number() == serial)
        });
        let slot = slot.context("the token is not in any slot")?;
        let template = [
            Attribute::Class(ObjectClass::PRIVATE_KEY),
            Attribute::Label(label.as_bytes().to_vec()),
        ];
        let open = || {
            let session = context.open_ro_session(slot)?;
            let found = session.find_objects(&template)?.pop();
            anyhow::Ok((session, found.context("the key is not in the token")?))
        };
        let sessions = (0..sessions).map(|_| open()).collect::<anyhow::Result<_>>()?;
        let message = vec![0x5a; 300];
        let hash = digest(&SHA256, &message);
        let (mechanism, input) = match key_type {
            KeyType::EcP256 => (CKM_ECDSA, hash.as_ref().to_vec()),
            _ => (CKM_RSA_PKCS, [DIGEST_INFO, hash.as_ref()].concat()),
        };
        let calls = Calls::load(module)?;
        Ok(Self { calls, sessions, mechanism, input, message, verifier: None })
    }

    /// Verifies each signature from now on, by the cheapest way there is.
    pub(crate) fn verifying(self, key: &PublicKey, key_type: KeyType) -> anyhow::Result<Self> {
        let algorithm: &'static dyn VerificationAlgorithm = match key_type {
            KeyType::EcP256 => &ECDSA_P256_SHA256_FIXED,
            _ => &RSA_PKCS1_2048_8192_SHA256,
        };
        let verifier = ParsedPublicKey::new(algorithm, key.key_bits());
        let verifier = verifier.map_err(|_| anyhow::anyhow!("the public key is unusable"))?;
        Ok(Self { verifier: Some(verifier), ..self })
    }

    /// Signs for that long on every session, and answers how long each signature took.
    pub(crate) fn times(&mut self, slice: Duration) -> Vec<Duration> {
        let end = Instant::now() + slice;
        self.on_each(|round| {
            let mut times = Vec::new();
            let mut before = Instant::now();
            while before < end {
                round();
                let now = Instant::now();
                times.push(now - before);
                before = now;
            }
            times
        })
        .concat()
    }

    /// As [`times`](Self::times), for so many callers in one queue that costs nothing: each comes back the
    /// moment its signature is done, and waits for its turn behind the others. What is answered is how long
    /// each waited for its turn and its signature.
    pub(crate) fn times_in_a_queue(&mut self, callers: usize, slice: Duration) -> Vec<Duration> {
        let start = Instant::now();
        let queue = Mutex::new(VecDeque::from(vec![start; callers]));
        let turn = || queue.lock().expect("nothing panics").pop_front();
        self.on_each(|round| {
            let mut times = Vec::new();
            while let Some(asked) = turn() {
                round();
                let now = Instant::now();
                times.push(now - asked);
                if now >= start + slice {
                    break;
                }
                queue.lock().expect("nothing panics").push_back(now);
            }
            times
        })
        .concat()
    }

    /// Signs for that long on every session, and answers how often.
    pub(crate) fn sign_for(&mut self, slice: Duration) -> u64 {
        let end = Instant::now() + slice;
        let counts = self.on_each(|round| {
            let mut count = 0;
            while Instant::now() < end {
                round();
                count += 1;
            }
            count
        });
        counts.into_iter().sum()
    }

    /// Signs so often, on all sessions together.
    pub(crate) fn sign(&mut self, count: u64) {
        let begun = AtomicU64::new(0);
        self.on_each(|round| {
            while begun.fetch_add(1, Ordering::Relaxed) < count {
                round();
            }
        });
    }

    /// As [`times`](Self::times), on one session, each signature asked for by another thread: the cheapest
    /// way there and back that the standard library has.
    pub(crate) fn times_over_a_hop(&mut self, slice: Duration) -> Vec<Duration> {
        let (there, asked) = mpsc::sync_channel::<()>(1);
        let (answer, back) = mpsc::sync_channel::<()>(1);
        let asking = thread::spawn(move || {
            let end = Instant::now() + slice;
            let mut times = Vec::new();
            let mut before = Instant::now();
            while before < end {
                there.send(()).expect("the other thread waits");
                back.recv().expect("the other thread answers");
                let now = Instant::now();
                times.push(now - before);
                before = now;
            }
            times
        });
        let (asked, answer) = (Mutex::new(asked), answer);
        self.on_each(|round| {
            let asked = asked.lock().expect("there is one session");
            while asked.recv().is_ok() {
                round();
                if answer.send(()).is_err() {
                    break;
                }
            }
        });
        asking.join().expect("the asking thread does not panic")
    }

    /// Runs `work` on a thread for each session; what it is given signs once.
    fn on_each<T: Send>(&mut self, work: impl Fn(&mut dyn FnMut()) -> T + Sync) -> Vec<T> {
        let (calls, mechanism) = (self.calls, self.mechanism);
        let (input, message, verifier) = (&self.input, &self.message, &self.verifier);
        let work = &work;
        thread::scope(|scope| {
            let threads: Vec<_> = self
                .sessions
                .iter_mut()
                .map(|(session, key)| {
                    let key = *key;
                    scope.spawn(move || {
                        let mut buffer = [0; 512];
                        work(&mut || {
                            let signature = calls.sign(session, key, mechanism, input, &mut buffer);
                            if let Some(verifier) = verifier {
                                let verified = verifier.verify_sig(message, signature);
                                verified.expect("the token signs well");
                            }
                        })
                    })
                })
                .collect();
            threads.into_iter().map(|t| t.join().expect("the loop does not panic")).collect()
        })
    }
}

/// `DigestInfo` of SHA-256 before its digest (RFC 8017 §9.2 note 1).
const DIGEST_INFO: &[u8] =
    b"\x30\x31\x30\x0d\x06\x09\x60\x86\x48\x01\x65\x03\x04\x02\x01\x05\x00\x04\x20";
