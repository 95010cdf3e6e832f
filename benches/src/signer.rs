//! A key in a token beside a bare `C_Sign` loop on the same token, in signatures per second.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use ca_core::key::{
    KeyName, KeyStore as _, KeyType, Priority, SignatureAlgorithm, SigningKey, ToBeSigned, Urgency,
};
use cryptoki::context::Pkcs11;
use cryptoki::mechanism::Mechanism;
use cryptoki::object::{Attribute, ObjectClass, ObjectHandle};
use cryptoki::session::Session;
use futures_util::StreamExt as _;
use keymanager::pkcs11::{Settings, TokenSelector};
use keymanager::{Pkcs11Store, SecretSource};
use softhsm::Token;
use tokio::runtime::Runtime;

use crate::paired::{Row, wall_rate};

const TRUST_DOMAIN: &str = "bench.test";
/// Signatures under way at once: enough that the session never waits for its next job.
const IN_FLIGHT: usize = 32;

/// One session: the hand-over to the session's thread and back must not show.
pub(crate) fn softhsm_one_session() -> anyhow::Result<Row> {
    let directory = tempfile::tempdir()?;
    softhsm::environment::configure(directory.path())?;
    let token = Token::create(directory.path(), "bench")?;
    // The server's kind of runtime: how it is woken is part of the hand-over.
    let runtime = tokio::runtime::Builder::new_multi_thread().build()?;
    let name = KeyName::parse(&format!("mintmark/{TRUST_DOMAIN}/x509/1"))?;
    let settings = Settings {
        module: token.module().to_owned(),
        token: TokenSelector::label(token.label()),
        pin: SecretSource::File(token.pin_file().to_owned()),
        sessions: 1,
        queue: 4 * IN_FLIGHT,
        read_write_sessions: false,
    };
    let key = runtime.block_on(async {
        let store = Pkcs11Store::open(settings, TRUST_DOMAIN).await?;
        store.create(&name, KeyType::EcP256).await
    })?;
    let bare = Bare::open(&token, &name)?;
    Ok(wall_rate(
        "signer/softhsm/p256/k1",
        "bare C_Sign loop, 1 thread",
        |slice| sign_for(&runtime, &*key, slice),
        |slice| bare.sign_for(slice),
    ))
}

/// Signs for about `slice` with [`IN_FLIGHT`] callers, and answers how often.
fn sign_for(runtime: &Runtime, key: &dyn SigningKey, slice: Duration) -> u64 {
    let start = Instant::now();
    let jobs =
        std::iter::repeat_with(|| ToBeSigned::probe([7; 32], SignatureAlgorithm::EcdsaP256Sha256))
            .take_while(|_| start.elapsed() < slice)
            .map(|probe| key.sign(probe, urgency()));
    runtime.block_on(futures_util::stream::iter(jobs).buffer_unordered(IN_FLIGHT).fold(
        0,
        |count, signed| async move {
            signed.expect("the queue holds all callers");
            count + 1
        },
    ))
}

/// The limit: the same token, key and digest by nothing but the calls that a signature needs.
struct Bare {
    session: Session,
    key: ObjectHandle,
    digest: Vec<u8>,
}

impl Bare {
    /// The library is initialised and logged in by the key store: both belong to the process.
    fn open(token: &Token, name: &KeyName) -> anyhow::Result<Self> {
        let module = Pkcs11::new(token.module())?;
        let mut slots = module.get_slots_with_token()?.into_iter();
        let slot = slots
            .find(|&slot| {
                module.get_token_info(slot).is_ok_and(|info| info.serial_number() == token.serial())
            })
            .context("the token is not in any slot")?;
        let session = module.open_ro_session(slot)?;
        let template = [
            Attribute::Class(ObjectClass::PRIVATE_KEY),
            Attribute::Label(name.as_str().as_bytes().to_vec()),
        ];
        let key = session.find_objects(&template)?.pop().context("the key is not in the token")?;
        Ok(Self { session, key, digest: vec![0x5a; 32] })
    }

    fn sign_for(&self, slice: Duration) -> u64 {
        let start = Instant::now();
        let mut count = 0;
        while start.elapsed() < slice {
            self.session.sign(&Mechanism::Ecdsa, self.key, &self.digest).expect("the token signs");
            count += 1;
        }
        count
    }
}

fn urgency() -> Urgency {
    Urgency::within(Priority::New, Duration::from_secs(10), Instant::now())
}
