//! Whether answers are right: checked against the bundle that was fetched before the run, by threads that
//! step back for everybody else.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, SystemTime};

use async_channel::{Receiver, Sender};
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256,
    VerificationAlgorithm,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use mintmark_proto::signing::v1 as signing;
use mintmark_proto::spire::types;
use rustix::process::setpriority_process;
use rustix::time::{ClockId, clock_gettime};
use rustls_pki_types::{CertificateDer, TrustAnchor, UnixTime};
use serde::Serialize;
use serde_json::Value;
use thiserror::Error;
use webpki::{ALL_VERIFICATION_ALGS, EndEntityCert, KeyUsage, anchor_from_trusted_cert};

use crate::asks::{AUDIENCE, Ask, AskedKey, Asks};
use crate::ledger::one_line;
use crate::target::Svid;

/// Checks answers beside a run.
#[derive(Debug)]
pub struct Checker {
    share: f64,
    claims: Sender<Vec<Claim>>,
    work: Arc<Work>,
}

/// An answer that says it is the right one.
#[derive(Debug)]
pub struct Claim {
    /// What was asked: a place in the [`Asks`].
    pub ask: u32,
    /// What came.
    pub svid: Svid,
}

/// What the checks found.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Findings {
    /// Answers that were checked.
    pub checked: u64,
    /// Those that were to be checked and were let go, because too many waited.
    pub skipped: u64,
    /// Those of the checked that are wrong, by what is wrong with them.
    pub wrong: Vec<Wrong>,
    /// CPU time of the checks, which is none of the generator's cost per item.
    #[serde(rename = "cpu_seconds", serialize_with = "crate::plan::seconds")]
    pub cpu: Duration,
}

/// Answers that are wrong alike.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Wrong {
    /// What is wrong.
    pub what: &'static str,
    /// How many.
    pub count: u64,
    /// What was said of the first.
    pub first: String,
}

impl Findings {
    /// How many answers were wrong.
    #[must_use]
    pub fn wrong_answers(&self) -> u64 {
        self.wrong.iter().map(|wrong| wrong.count).sum()
    }
}

/// What the threads that check share with the one that asks them.
#[derive(Debug)]
struct Work {
    bundle: Bundle,
    asks: Arc<Asks>,
    waiting: AtomicUsize,
    skipped: AtomicUsize,
    /// Whether a thread has panicked: what it had will never be checked.
    broken: AtomicBool,
    book: Mutex<Book>,
}

/// A thread that checks has panicked, which is a fault of the generator.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error(
    "a check of an answer has panicked, as the message above says; report it, and run with --check 0 until it is mended"
)]
pub struct CheckerBroken;

/// Says so, if it is dropped by a panic.
struct Breaks<'a>(&'a AtomicBool);

impl Drop for Breaks<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.store(true, Ordering::Release);
        }
    }
}

#[derive(Debug, Default)]
struct Book {
    checked: u64,
    wrong: BTreeMap<&'static str, (u64, String)>,
    cpu: Duration,
}

/// Most answers that wait for their check: some 200 MB. More of them are let go, and counted.
const MOST_WAITING: usize = 131_072;

impl Checker {
    /// Checks a `share` of the answers to `asks`, 0 to 1, against `bundle`, on a thread for each core.
    pub fn start(share: f64, bundle: Bundle, asks: Arc<Asks>) -> std::io::Result<Self> {
        let (claims, handed_over) = async_channel::bounded(MOST_WAITING);
        let work = Arc::new(Work {
            bundle,
            asks,
            waiting: AtomicUsize::new(0),
            skipped: AtomicUsize::new(0),
            broken: AtomicBool::new(false),
            book: Mutex::default(),
        });
        for _ in 0..thread::available_parallelism().map_or(1, NonZeroUsize::get) {
            let (work, handed_over) = (work.clone(), handed_over.clone());
            // Ends with the checker: the channel closes.
            let check = move || work.check_all(&handed_over);
            thread::Builder::new().name("check".to_owned()).spawn(check)?;
        }
        Ok(Self { share, claims, work })
    }

    /// Whether the answer to item `index` is to be checked: the wanted share, spread evenly.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "an index of a day is exact")]
    pub fn wants(&self, index: u64) -> bool {
        let before = (index as f64 * self.share).floor();
        ((index + 1) as f64 * self.share).floor() > before
    }

    /// Takes answers over, unless too many wait.
    pub fn hand_over(&self, claims: Vec<Claim>) {
        let count = claims.len();
        let waiting = self.work.waiting.fetch_add(count, Ordering::AcqRel);
        if waiting + count > MOST_WAITING || self.claims.try_send(claims).is_err() {
            self.work.waiting.fetch_sub(count, Ordering::AcqRel);
            self.work.skipped.fetch_add(count, Ordering::Relaxed);
        }
    }

    /// Blocks until every answer that was taken over is checked, or never will be.
    pub fn settle(&self) -> Result<(), CheckerBroken> {
        loop {
            if self.work.broken.load(Ordering::Acquire) {
                return Err(CheckerBroken);
            }
            if self.work.waiting.load(Ordering::Acquire) == 0 {
                return Ok(());
            }
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// CPU time of the checks so far.
    #[must_use]
    pub fn cpu(&self) -> Duration {
        self.work.open_book().cpu
    }

    /// What was found so far.
    #[must_use]
    pub fn findings(&self) -> Findings {
        let book = self.work.open_book();
        let wrong = book.wrong.iter().map(|(what, (count, first))| Wrong {
            what,
            count: *count,
            first: first.clone(),
        });
        Findings {
            checked: book.checked,
            skipped: self.work.skipped.load(Ordering::Relaxed) as u64,
            wrong: wrong.collect(),
            cpu: book.cpu,
        }
    }
}

impl Work {
    fn open_book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn check_all(&self, handed_over: &Receiver<Vec<Claim>>) {
        // The last in line for a core: what is measured comes first. Nice values are a thread's (nice(2)),
        // and raising one's own is never refused.
        let _ = setpriority_process(None, 19);
        let _breaks = Breaks(&self.broken);
        let mut issuers = Issuers::default();
        while let Ok(claims) = handed_over.recv_blocking() {
            let count = claims.len();
            let results: Vec<_> =
                claims.iter().map(|claim| self.check(claim, &mut issuers)).collect();
            self.book(results);
            self.waiting.fetch_sub(count, Ordering::AcqRel);
        }
    }

    #[expect(clippy::disallowed_methods, reason = "a claim's door; the clock is read here alone")]
    fn check(&self, claim: &Claim, issuers: &mut Issuers) -> Result<(), Doubt> {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        self.bundle.check(self.asks.at(claim.ask), &claim.svid, issuers, now)
    }

    fn book(&self, results: Vec<Result<(), Doubt>>) {
        // The thread's whole time each time; the difference to what it was is what this batch took.
        thread_local! {
            static BEFORE: std::cell::Cell<Duration> = const { std::cell::Cell::new(Duration::ZERO) };
        }
        let time = clock_gettime(ClockId::ThreadCPUTime);
        let spent = Duration::try_from(time).unwrap_or_default();
        let mut book = self.open_book();
        book.cpu += spent.saturating_sub(BEFORE.replace(spent));
        for result in results {
            book.checked += 1;
            if let Err(doubt) = result {
                let first = || (0, one_line(&doubt.to_string()));
                book.wrong.entry(doubt.what()).or_insert_with(first).0 += 1;
            }
        }
    }
}

/// What a server's answers are checked with.
#[derive(Debug)]
pub struct Bundle {
    roots: Vec<TrustAnchor<'static>>,
    keys: BTreeMap<String, TokenKey>,
}

/// A key that signs tokens, and with which of the algorithms: a header has no say in it (RFC 8725 §3.1).
#[derive(Debug)]
struct TokenKey {
    algorithm: &'static str,
    key: ParsedPublicKey,
}

/// Why a bundle cannot be used.
#[derive(Debug, Error)]
pub enum BundleError {
    /// One of its certificates.
    #[error("its X.509 authority {0} is no certificate that can be trusted: {1}")]
    Root(usize, webpki::Error),
}

/// Algorithms of tokens (RFC 7518 §3.1), each tried on a key until one takes it.
const TOKEN_ALGORITHMS: [(&str, &dyn VerificationAlgorithm); 3] = [
    ("ES256", &ECDSA_P256_SHA256_FIXED),
    ("ES384", &ECDSA_P384_SHA384_FIXED),
    ("RS256", &RSA_PKCS1_2048_8192_SHA256),
];

impl TryFrom<types::Bundle> for Bundle {
    type Error = BundleError;

    fn try_from(bundle: types::Bundle) -> Result<Self, BundleError> {
        let roots = bundle.x509_authorities.iter().map(|root| &root.asn1);
        let keys = bundle.jwt_authorities.iter().map(|key| (&*key.key_id, &key.public_key));
        Self::of(roots, keys)
    }
}

impl TryFrom<signing::Bundle> for Bundle {
    type Error = BundleError;

    fn try_from(bundle: signing::Bundle) -> Result<Self, BundleError> {
        let roots = bundle.x509_authorities.iter().map(|root| &root.certificate);
        let keys = bundle.jwt_authorities.iter().map(|key| (&*key.key_id, &key.public_key));
        Self::of(roots, keys)
    }
}

impl Bundle {
    /// Of root certificates, and of public keys by their `kid`.
    fn of<'a>(
        roots: impl Iterator<Item = &'a Bytes>,
        keys: impl Iterator<Item = (&'a str, &'a Bytes)>,
    ) -> Result<Self, BundleError> {
        let roots = roots.enumerate().map(|(place, root)| {
            anchor_from_trusted_cert(&CertificateDer::from(&root[..]))
                .map(|anchor| anchor.to_owned())
                .map_err(|error| BundleError::Root(place, error))
        });
        let keys = keys.filter_map(|(kid, key)| {
            // A key of another kind is none of ours; a token by it is in doubt.
            let found = TOKEN_ALGORITHMS.iter().find_map(|(name, algorithm)| {
                let key = ParsedPublicKey::new(*algorithm, key).ok()?;
                Some(TokenKey { algorithm: name, key })
            });
            found.map(|found| (kid.to_owned(), found))
        });
        Ok(Self { roots: roots.collect::<Result<_, _>>()?, keys: keys.collect() })
    }
}

/// Why an answer is not what was asked for.
#[derive(Debug, Error, PartialEq)]
pub enum Doubt {
    /// It is something else, or cannot be read.
    #[error("the answer is not of the kind that was asked for: {0}")]
    Form(String),
    /// Another key is in it.
    #[error("the certificate for {0} has another key than its CSR")]
    Key(String),
    /// It is somebody else's.
    #[error("the answer is for {found}, not for {asked}")]
    Id {
        /// Whom it names.
        found: String,
        /// Whom the request named.
        asked: String,
    },
    /// It does not verify.
    #[error("the chain of {id} does not verify to the bundle: {source}")]
    Chain {
        /// Whose.
        id: String,
        /// Why.
        source: webpki::Error,
    },
    /// Nor does the token.
    #[error("the token for {0} is not signed by the key of the bundle that it names")]
    Signature(String),
    /// It is for others.
    #[error("the token for {0} has another audience")]
    Audience(String),
    /// Its life is over, or has not begun.
    #[error("the token for {0} is not valid now")]
    Life(String),
}

impl Doubt {
    /// In a word.
    #[must_use]
    pub fn what(&self) -> &'static str {
        match self {
            Self::Form(_) => "form",
            Self::Key(_) => "key",
            Self::Id { .. } => "id",
            Self::Chain { .. } => "chain",
            Self::Signature(_) => "signature",
            Self::Audience(_) => "audience",
            Self::Life(_) => "life",
        }
    }
}

/// Intermediates that were verified to the bundle a moment ago: most answers of a run have the same, and
/// verifying them again each time would double the cost of a check.
#[derive(Debug, Default)]
pub struct Issuers {
    last: Option<Issuer>,
}

#[derive(Debug)]
struct Issuer {
    intermediates: Vec<Bytes>,
    anchor: TrustAnchor<'static>,
    until: Duration,
}

/// How long verified intermediates count as such.
const ISSUER_LIFE: Duration = Duration::from_secs(10);

impl Bundle {
    /// Whether `svid` is what `ask` asked for, at `now` since 1970.
    pub fn check(
        &self,
        ask: &Ask,
        svid: &Svid,
        issuers: &mut Issuers,
        now: Duration,
    ) -> Result<(), Doubt> {
        match (svid, &ask.key) {
            (Svid::X509(chain), Some(key)) => self.check_x509(ask, key, chain, issuers, now),
            (Svid::Jwt(token), None) => self.check_jwt(ask, token, now),
            _ => Err(Doubt::Form("another kind of SVID".to_owned())),
        }
    }

    fn check_x509(
        &self,
        ask: &Ask,
        key: &AskedKey,
        chain: &[Bytes],
        issuers: &mut Issuers,
        now: Duration,
    ) -> Result<(), Doubt> {
        let [leaf, intermediates @ ..] = chain else {
            return Err(Doubt::Form("there is no certificate".to_owned()));
        };
        let leaf = CertificateDer::from(&leaf[..]);
        let leaf =
            EndEntityCert::try_from(&leaf).map_err(|error| Doubt::Form(error.to_string()))?;
        let id = ask.id.to_string();
        let names: Vec<_> = leaf.valid_uri_names().collect();
        if names != [&*id] {
            return Err(Doubt::Id { found: names.join(" and "), asked: id });
        }
        if *leaf.subject_public_key_info() != key.public[..] {
            return Err(Doubt::Key(id));
        }
        self.verify_chain(&leaf, intermediates, issuers, now)
            .map_err(|source| Doubt::Chain { id, source })
    }

    /// Verifies the path for client authentication (X509-SVID §5), by way of what was verified a moment ago.
    fn verify_chain(
        &self,
        leaf: &EndEntityCert<'_>,
        intermediates: &[Bytes],
        issuers: &mut Issuers,
        now: Duration,
    ) -> Result<(), webpki::Error> {
        let time = UnixTime::since_unix_epoch(now);
        let usage = || KeyUsage::client_auth();
        if let Some(known) = &issuers.last
            && known.until > now
            && known.intermediates == intermediates
        {
            let anchors = std::slice::from_ref(&known.anchor);
            let algorithms = ALL_VERIFICATION_ALGS;
            let verified =
                leaf.verify_for_usage(algorithms, anchors, &[], time, usage(), None, None);
            return verified.map(|_| ());
        }
        let between: Vec<_> =
            intermediates.iter().map(|der| CertificateDer::from(&der[..])).collect();
        let (roots, algorithms) = (&self.roots, ALL_VERIFICATION_ALGS);
        let path = leaf.verify_for_usage(algorithms, roots, &between, time, usage(), None, None)?;
        // One that the path does not lead over was verified by nobody: the leaf may be a root's own.
        let verified = |issuer: &CertificateDer<'_>| {
            path.intermediate_certificates().any(|on_it| on_it.der() == *issuer)
        };
        if let [issuer] = &between[..]
            && verified(issuer)
        {
            let (anchor, until) = (anchor_from_trusted_cert(issuer)?.to_owned(), now + ISSUER_LIFE);
            issuers.last = Some(Issuer { intermediates: intermediates.to_vec(), anchor, until });
        }
        Ok(())
    }

    /// Verifies a token (JWT-SVID §5).
    fn check_jwt(&self, ask: &Ask, token: &str, now: Duration) -> Result<(), Doubt> {
        let form = || Doubt::Form("it is no JWS".to_owned());
        let (signed, signature) = token.rsplit_once('.').ok_or_else(form)?;
        let (header, claims) = signed.split_once('.').ok_or_else(form)?;
        let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|_| form())?;
        let (header, claims) = (json(header).ok_or_else(form)?, json(claims).ok_or_else(form)?);

        let id = ask.id.to_string();
        let key = header["kid"].as_str().and_then(|kid| self.keys.get(kid));
        let verified = key.is_some_and(|TokenKey { algorithm, key }| {
            header["alg"] == **algorithm && key.verify_sig(signed.as_bytes(), &signature).is_ok()
        });
        if !verified {
            return Err(Doubt::Signature(id));
        }
        if claims["sub"] != *id {
            return Err(Doubt::Id { found: claims["sub"].to_string(), asked: id });
        }
        let for_us = match &claims["aud"] {
            Value::Array(values) => values.iter().any(|value| value == AUDIENCE),
            value => value == AUDIENCE,
        };
        if !for_us {
            return Err(Doubt::Audience(id));
        }
        if claims["exp"].as_u64().is_none_or(|end| end <= now.as_secs()) {
            return Err(Doubt::Life(id));
        }
        Ok(())
    }
}

fn json(part: &str) -> Option<Value> {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{Plan, Settings};
    use rcgen::{
        BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose,
        IsCa, KeyPair, PublicKeyData as _, SanType,
    };

    fn asks() -> Arc<Asks> {
        let mut settings = Settings::default();
        let text = "[ask]\nspiffe_id = \"spiffe://a.test/b\"\nids = 1\n[load]\nrate = 1\nduration = \"1s\"";
        settings.read("p.toml".as_ref(), text).unwrap();
        Arc::new(Asks::make(&Plan::check(settings).unwrap()).unwrap())
    }

    fn authority(name: &str) -> CertifiedIssuer<'static, KeyPair> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
    }

    /// An ask with a key of its own, and what `issuer` makes of it.
    fn issued(issuer: &CertifiedIssuer<'static, KeyPair>) -> (Ask, Bytes) {
        let pair = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::URI("spiffe://a.test/b".try_into().unwrap())];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let leaf = params.signed_by(&pair, issuer).unwrap().der().to_vec();
        let public = pair.subject_public_key_info().into();
        let key = Some(AskedKey { public, csr: Bytes::new() });
        (Ask { id: "spiffe://a.test/b".parse().unwrap(), key }, leaf.into())
    }

    #[test]
    fn an_intermediate_that_was_only_shown_verifies_nothing() {
        let (root, stranger) = (authority("root"), authority("stranger"));
        let authorities = vec![types::X509Certificate {
            asn1: root.as_ref().der().to_vec().into(),
            ..types::X509Certificate::default()
        }];
        let bundle = types::Bundle { x509_authorities: authorities, ..types::Bundle::default() };
        let bundle = Bundle::try_from(bundle).unwrap();
        let shown: Bytes = stranger.as_ref().der().to_vec().into();
        let (mut issuers, now) = (Issuers::default(), Duration::from_secs(1_800_000_000));
        let mut check = |issuer| {
            let (ask, leaf) = issued(issuer);
            bundle.check(&ask, &Svid::X509(vec![leaf, shown.clone()]), &mut issuers, now)
        };
        // The root itself has signed it; the other certificate is beside the path.
        assert_eq!(check(&root), Ok(()));
        assert_eq!(check(&stranger).unwrap_err().what(), "chain");
    }

    #[test]
    fn a_check_that_panics_ends_the_wait_for_it() {
        let bundle = Bundle { roots: Vec::new(), keys: BTreeMap::new() };
        let checker = Checker::start(1.0, bundle, asks()).unwrap();
        // There is no such ask.
        checker.hand_over(vec![Claim { ask: u32::MAX, svid: Svid::Nothing }]);
        assert_eq!(checker.settle(), Err(CheckerBroken));
        assert_eq!(checker.findings().checked, 0);
    }
}
