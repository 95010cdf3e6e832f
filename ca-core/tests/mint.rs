//! Authorities and minting as a whole, judged by readers that know nothing of ours.

#![expect(clippy::unwrap_used, reason = "tests state their expectations by unwrapping")]

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ca_core::authority::{
    self, Authorities, AuthorityError, AuthoritySettings, CaSubject, KeyCreation,
};
use ca_core::bundle::Surface;
use ca_core::certificate::CaCertificate;
use ca_core::clock::Timestamp;
use ca_core::csr::{Csr, VerifiedCsr, VerifiedKey};
use ca_core::id::{SpiffeId, TrustDomain};
use ca_core::issuer::{IssueError, Issuer, Lifetimes, X509Svid};
use ca_core::issuing::{DelegationSettings, IssuingMode, LongTtl};
use ca_core::key::{
    ExpiredKey, KeyDescription, KeyError, KeyName, KeyStore, KeyType, Priority, PublicKey,
    RsaScheme, SignError, Signature, SignatureAlgorithm, SigningKey, StoreDescription, ToBeSigned,
    Urgency,
};
use ca_core::log::{Appending, Caller, Document, Issuance, IssuanceLog, IssuanceRecord, LogError};
use ca_core::mint::{Mint, MintError};
use ca_core::name::{Attribute, Name};
use ca_core::policy::{self, Refusal};
use ca_core::serial::{RandomSerials, SerialSource as _};
use ca_core::store::{self, Commit, Consistency, Embedded, Op, StateStore};
use ca_core::token::TokenSettings;
use der::{Decode as _, Encode as _};
use keymanager::SoftwareStore;
use rcgen::{CertificateParams, KeyPair, SanType};
use x509_cert::Certificate;

const NOW: Timestamp = Timestamp::EPOCH;
const CALLER: Caller = Caller::Local { uid: 7, pid: Some(8) };

fn now() -> Timestamp {
    NOW.plus(Duration::from_secs(1_800_000_000))
}

fn urgency() -> Urgency {
    Urgency::within(Priority::New, Duration::from_secs(60), Instant::now())
}

fn settings(ca_key_type: KeyType) -> AuthoritySettings {
    AuthoritySettings {
        trust_domain: TrustDomain::parse("example.test").unwrap(),
        ca_key_type,
        jwt_key_type: match ca_key_type.signature_algorithm().jws() {
            Some(_) => ca_key_type,
            None => KeyType::EcP256,
        },
        key_creation: KeyCreation::Auto,
        rsa_scheme: RsaScheme::Pkcs1,
        ca_ttl: Duration::from_secs(86_400),
        ca_subject: CaSubject {
            country: vec!["CH".to_owned()],
            organization: vec!["Example".to_owned()],
            common_name: Some("Example Root".to_owned()),
        },
        lifetimes: Lifetimes::default(),
        tokens: TokenSettings {
            issuer: Some("https://oidc.example.test".to_owned()),
            ..TokenSettings::default()
        },
        refresh_hint: Duration::from_secs(300),
    }
}

/// Keeps every record, or refuses each.
#[derive(Default)]
struct Kept {
    records: Mutex<Vec<IssuanceRecord>>,
    broken: bool,
}

impl IssuanceLog for Kept {
    fn append(&self, issued: &[Issuance<'_>]) -> Appending {
        if self.broken {
            let error = LogError::Unwritable("disk is gone".to_owned());
            return Box::pin(std::future::ready(Err(error)));
        }
        self.records.lock().unwrap().extend(issued.iter().map(Issuance::to_record));
        Box::pin(std::future::ready(Ok(())))
    }
}

struct World {
    store: Embedded,
    keys: SoftwareStore,
    _directory: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        Self {
            store: Embedded::open(directory.path()).unwrap(),
            keys: SoftwareStore::in_memory("example.test"),
            _directory: directory,
        }
    }

    async fn start(
        &self,
        settings: &AuthoritySettings,
        now: Timestamp,
    ) -> Result<Authorities, AuthorityError> {
        authority::establish(
            settings,
            &self.store,
            &self.keys,
            &RandomSerials::new(),
            now,
            urgency(),
        )
        .await
    }
}

async fn mint(key_type: KeyType) -> (Mint, Arc<Kept>) {
    let authorities = World::new().start(&settings(key_type), now()).await.unwrap();
    let log = Arc::new(Kept::default());
    (Mint::new(authorities, IssuingMode::Direct, Box::new(RandomSerials::new()), log.clone()), log)
}

fn csr(names: Vec<SanType>) -> VerifiedCsr {
    let key = KeyPair::generate().unwrap();
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name = rcgen::DistinguishedName::new();
    parameters.subject_alt_names = names;
    parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let request = parameters.serialize_request(&key).unwrap();
    Csr::parse(request.der()).unwrap().verify().unwrap()
}

fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

fn dns(text: &str) -> SanType {
    SanType::DnsName(text.try_into().unwrap())
}

/// `rustls-webpki` as the stranger: the chain must verify to the bundle for both usages.
fn stranger_accepts(mint: &Mint, svid: &X509Svid, at: Timestamp) {
    let roots: Vec<_> = mint
        .bundle()
        .x509_authorities
        .iter()
        .map(|root| rustls_pki_types::CertificateDer::from(root.certificate.der().to_vec()))
        .collect();
    let anchors: Vec<_> =
        roots.iter().map(|root| webpki::anchor_from_trusted_cert(root).unwrap()).collect();
    let leaf = rustls_pki_types::CertificateDer::from(svid.leaf.to_vec());
    let leaf = webpki::EndEntityCert::try_from(&leaf).unwrap();
    let intermediates: Vec<_> = svid
        .intermediates
        .iter()
        .map(|der| rustls_pki_types::CertificateDer::from(der.to_vec()))
        .collect();
    let time = Duration::from_secs(u64::try_from(at.unix()).unwrap());
    for usage in [webpki::KeyUsage::client_auth(), webpki::KeyUsage::server_auth()] {
        leaf.verify_for_usage(
            webpki::ALL_VERIFICATION_ALGS,
            &anchors,
            &intermediates,
            rustls_pki_types::UnixTime::since_unix_epoch(time),
            usage,
            None,
            None,
        )
        .unwrap();
    }
}

#[tokio::test]
async fn a_leaf_verifies_by_a_stranger_under_an_authority_of_every_kind() {
    for key_type in KeyType::ALL {
        let (mint, _) = mint(key_type).await;
        let grant = policy::mint_x509(
            mint.trust_domain(),
            &csr(vec![uri("spiffe://example.test/web"), dns("web.example.test")]),
            600,
        )
        .unwrap();
        let svid = mint.x509(grant, CALLER, now(), urgency()).await.unwrap();
        assert_eq!(svid.intermediates.len(), 0, "a self-signed root is never part of the chain");
        stranger_accepts(&mint, &svid, now());
        assert_eq!(svid.expires_at, now().plus(Duration::from_secs(600)));
    }
}

#[tokio::test]
async fn a_csr_that_asks_for_a_ca_gets_a_plain_leaf() {
    let (mint, _) = mint(KeyType::EcP256).await;
    let request = csr(vec![uri("spiffe://example.test/web")]);
    assert!(request.requested.ca);
    let grant = policy::mint_x509(mint.trust_domain(), &request, 0).unwrap();
    let svid = mint.x509(grant, CALLER, now(), urgency()).await.unwrap();
    let leaf = Certificate::from_der(&svid.leaf).unwrap();
    let extensions = leaf.tbs_certificate().extensions().unwrap();
    let constraints = extensions.iter().find(|e| e.extn_id.to_string() == "2.5.29.19").unwrap();
    assert_eq!((constraints.critical, constraints.extn_value.as_bytes()), (true, &[0x30, 0][..]));
    let usage = extensions.iter().find(|e| e.extn_id.to_string() == "2.5.29.15").unwrap();
    assert_eq!((usage.critical, usage.extn_value.as_bytes()), (true, &[3, 2, 7, 0x80][..]));
}

#[tokio::test]
async fn what_is_released_is_in_the_log() {
    let (mint, log) = mint(KeyType::EcP256).await;
    let request = csr(vec![uri("spiffe://example.test/web")]);
    let grant = policy::mint_x509(mint.trust_domain(), &request, 0).unwrap();
    let svid = mint.x509(grant, CALLER, now(), urgency()).await.unwrap();
    let id = SpiffeId::parse("spiffe://example.test/job").unwrap();
    let audience = vec!["a".to_owned(), String::new(), "b c".to_owned()];
    let grant = policy::mint_jwt(mint.trust_domain(), id, audience, 60).unwrap();
    let token = mint.jwt(grant, CALLER, now(), urgency()).await.unwrap();

    let records = log.records.lock().unwrap();
    let Document::X509 { serial, .. } = records[0].document else { panic!("a certificate first") };
    let leaf = Certificate::from_der(&svid.leaf).unwrap();
    assert_eq!(leaf.tbs_certificate().serial_number().as_bytes(), serial.bytes());
    let tbs = leaf.tbs_certificate().to_der().unwrap();
    let sha256 = |bytes: &[u8]| aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
    assert_eq!(records[0].digest, sha256(&tbs).as_ref());
    assert_eq!(records[0].caller, CALLER);
    assert_eq!(records[0].authority, *mint.authorities().x509.authority());
    assert_eq!(
        records[1].document,
        Document::Jwt { audience: vec!["a".to_owned(), "b c".to_owned()] }
    );
    let (input, _) = token.token().rsplit_once('.').unwrap();
    assert_eq!(records[1].digest, sha256(input.as_bytes()).as_ref());
    assert!(!format!("{token:?}").contains(token.token()));
}

#[tokio::test]
async fn nothing_is_released_that_the_log_refused() {
    let authorities = World::new().start(&settings(KeyType::EcP256), now()).await.unwrap();
    let log = Arc::new(Kept { broken: true, ..Kept::default() });
    let mint = Mint::new(authorities, IssuingMode::Direct, Box::new(RandomSerials::new()), log);
    let request = csr(vec![uri("spiffe://example.test/web")]);
    let grant = policy::mint_x509(mint.trust_domain(), &request, 0).unwrap();
    assert!(matches!(mint.x509(grant, CALLER, now(), urgency()).await, Err(MintError::Log(_))));
}

#[tokio::test]
async fn a_leaf_never_outlives_its_issuer_nor_begins_before_it() {
    let (mint, _) = mint(KeyType::EcP256).await;
    let issuer = mint.authorities().x509.certificate().clone();
    for ttl in [1, 3600, 86_399, 86_400, 86_401, i32::MAX] {
        let request = csr(vec![uri("spiffe://example.test/web")]);
        let grant = policy::mint_x509(mint.trust_domain(), &request, ttl).unwrap();
        let svid = mint.x509(grant, CALLER, now(), urgency()).await.unwrap();
        let wanted = now().plus(Duration::from_secs(u64::try_from(ttl).unwrap()));
        assert_eq!(svid.expires_at, wanted.min(issuer.not_after()));
    }
    let request = csr(vec![uri("spiffe://example.test/web")]);
    let grant = policy::mint_x509(mint.trust_domain(), &request, 60).unwrap();
    let outside = mint.x509(grant, CALLER, issuer.not_after(), urgency()).await;
    assert!(matches!(outside, Err(MintError::X509(IssueError::OutsideValidity { .. }))));
}

/// A mint whose leaves are signed by a key of six hours, under an authority of a day.
async fn delegated(key_type: KeyType, long_ttl: LongTtl) -> (Mint, Arc<Kept>) {
    let authorities = World::new().start(&settings(key_type), now()).await.unwrap();
    let log = Arc::new(Kept::default());
    let mode = IssuingMode::Delegated(DelegationSettings {
        key_type,
        life: 6 * HOUR,
        subject: settings(key_type).ca_subject,
        long_ttl,
    });
    let mint = Mint::new(authorities, mode, Box::new(RandomSerials::new()), log.clone());
    renew(&mint, now()).await;
    (mint, log)
}

const HOUR: Duration = Duration::from_secs(3600);

async fn renew(mint: &Mint, at: Timestamp) -> CaCertificate {
    let delegation = mint.delegation().unwrap();
    let name = KeyName::parse("mintmark/example.test/issuing/1").unwrap();
    let store = SoftwareStore::in_memory("example.test");
    let key = store.create(&name, delegation.settings().key_type).await.unwrap();
    mint.delegate(delegation, key, at, urgency()).await.unwrap()
}

async fn leaf(mint: &Mint, ttl: Duration, at: Timestamp) -> Result<X509Svid, MintError> {
    let request = csr(vec![uri("spiffe://example.test/web")]);
    let ttl = i32::try_from(ttl.as_secs()).unwrap();
    let grant = policy::mint_x509(mint.trust_domain(), &request, ttl).unwrap();
    mint.x509(grant, CALLER, at, urgency()).await
}

#[tokio::test]
async fn a_leaf_of_an_issuing_key_verifies_by_a_stranger_whatever_the_kind_of_key() {
    for key_type in KeyType::ALL {
        let (mint, _) = delegated(key_type, LongTtl::Authority).await;
        let svid = leaf(&mint, HOUR, now()).await.unwrap();
        assert_eq!(svid.intermediates.len(), 1, "the leaf, then the issuing key's certificate");
        stranger_accepts(&mint, &svid, now());
    }
}

#[tokio::test]
async fn an_issuing_certificate_is_logged_bounded_and_named_in_what_it_signs() {
    let (mint, log) = delegated(KeyType::EcP256, LongTtl::Authority).await;
    let svid = leaf(&mint, HOUR, now()).await.unwrap();
    let issuing = CaCertificate::from_der(&svid.intermediates[0]).unwrap();
    assert_eq!(issuing.path_length(), Some(0));
    assert_eq!(issuing.not_after(), now().plus(6 * HOUR));
    let records = log.records.lock().unwrap();
    let authority = mint.authorities().x509.authority();
    let [certificate, svid] = &records[..] else { panic!("two records") };
    assert_eq!((&certificate.caller, &certificate.issuing_key), (&Caller::Signer, &None));
    assert_eq!(svid.issuing_key.as_deref(), Some(&*issuing.key_id().to_string()));
    assert!([certificate, svid].iter().all(|record| record.authority == *authority));
}

#[tokio::test]
async fn no_two_issuing_certificates_share_a_subject_and_the_next_is_due_after_half_a_life() {
    let (mint, _) = delegated(KeyType::EcP256, LongTtl::Authority).await;
    let delegation = mint.delegation().unwrap();
    let first = delegation.present().unwrap();
    assert!(!delegation.is_due(now().plus(HOUR)) && delegation.is_due(now().plus(3 * HOUR)));
    assert!(delegation.is_due(now().minus(HOUR)), "the clock was set back");
    let second = renew(&mint, now().plus(3 * HOUR)).await;
    assert!(!delegation.is_due(now().plus(4 * HOUR)));
    let subjects = [first.certificate(), &second, mint.authorities().x509.certificate()]
        .map(|certificate| certificate.subject().der().to_vec());
    assert!(subjects[0] != subjects[1] && subjects[1] != subjects[2] && subjects[0] != subjects[2]);
    let svid = leaf(&mint, HOUR, now().plus(3 * HOUR)).await.unwrap();
    assert_eq!(svid.intermediates[0], *second.der());
}

#[tokio::test]
async fn a_life_beyond_the_issuing_certificates_is_the_authoritys_to_sign_and_counted() {
    let (mint, log) = delegated(KeyType::EcP256, LongTtl::Authority).await;
    let at = now().plus(HOUR);
    assert_eq!(leaf(&mint, 5 * HOUR, at).await.unwrap().intermediates.len(), 1);
    assert_eq!(mint.delegation().unwrap().signed_by_authority(), 0);
    let long = leaf(&mint, 5 * HOUR + Duration::from_secs(1), at).await.unwrap();
    assert_eq!(long.intermediates.len(), 0);
    stranger_accepts(&mint, &long, at);
    assert_eq!(mint.delegation().unwrap().signed_by_authority(), 1);
    assert_eq!(log.records.lock().unwrap().last().unwrap().issuing_key, None);
}

#[tokio::test]
async fn a_life_beyond_the_issuing_certificates_is_refused_where_that_is_configured() {
    let (mint, _) = delegated(KeyType::EcP256, LongTtl::Refuse).await;
    let refused = leaf(&mint, 7 * HOUR, now()).await;
    let Err(MintError::X509(IssueError::LongTtl { not_after, wanted, .. })) = refused else {
        panic!("{refused:?}")
    };
    assert_eq!((not_after, wanted), (now().plus(6 * HOUR), now().plus(7 * HOUR)));
    // A key that could not be renewed in time is no fault of whoever asks.
    let ended = leaf(&mint, HOUR, now().plus(7 * HOUR)).await;
    assert!(matches!(ended, Err(MintError::X509(IssueError::OutsideValidity { .. }))), "{ended:?}");
}

#[tokio::test]
async fn near_the_authoritys_end_an_issuing_key_still_issues_and_nothing_outlives_either() {
    let (mint, _) = delegated(KeyType::EcP256, LongTtl::Refuse).await;
    let end = mint.authorities().x509.certificate().not_after();
    let at = end.minus(HOUR);
    assert_eq!(renew(&mint, at).await.not_after(), end);
    let svid = leaf(&mint, 3 * HOUR, at).await.unwrap();
    assert_eq!((svid.intermediates.len(), svid.expires_at), (1, end));
}

#[tokio::test]
async fn an_issuing_key_certifies_nobody() {
    let (mint, _) = delegated(KeyType::EcP256, LongTtl::Authority).await;
    let issuer = mint.delegation().unwrap().present().unwrap();
    let name = KeyName::parse("mintmark/example.test/issuing/2").unwrap();
    let store = SoftwareStore::in_memory("example.test");
    let key = store.create(&name, KeyType::EcP256).await.unwrap();
    let verified = VerifiedKey::of_ours(&*key, urgency()).await.unwrap();
    let subject = Name::from_attributes(&[(Attribute::CommonName, "below")]).unwrap();
    let grant = policy::issuing_key(mint.trust_domain(), verified, subject, HOUR);
    let refused = issuer.prepare(grant, RandomSerials::new().next().unwrap(), now());
    assert!(matches!(refused, Err(IssueError::Lint(_))), "{refused:?}");
}

#[test]
fn a_request_that_breaks_a_rule_is_refused_by_name() {
    let trust_domain = TrustDomain::parse("example.test").unwrap();
    let ask = |names, ttl| policy::mint_x509(&trust_domain, &csr(names), ttl).unwrap_err();
    let good = || uri("spiffe://example.test/web");
    assert_eq!(ask(vec![], 0), Refusal::UriMissing);
    let ten = (0..10).map(|n| uri(&format!("spiffe://example.test/{n}"))).collect();
    assert_eq!(ask(ten, 0), Refusal::UriNotSingle(10));
    for bad in [
        "spiffe://example.test",
        "spiffe://example.test/",
        "spiffe://example.test:8443/web",
        "spiffe://example.test/web?x",
        "spiffe://example.test/%77eb",
        "spiffe://Example.test/web",
        "spiffe://example.test/../web",
        "spiffe://example.test/web/",
        "spiffe://other.test/web",
        "spiffe://example.test/spire/server",
        "spiffe://example.test/spire",
        "spiffe://example.test/mintmark/signer",
        "https://example.test/web",
    ] {
        assert!(matches!(ask(vec![uri(bad)], 0), Refusal::Uri(_)), "{bad}");
    }
    let long = format!("spiffe://example.test/{}", "a".repeat(2049 - 22));
    assert!(matches!(ask(vec![uri(&long)], 0), Refusal::Uri(_)));
    assert!(matches!(ask(vec![good(), dns("-a.test")], 0), Refusal::Dns(_)));
    assert!(matches!(ask(vec![good(), dns("*.a.test"), dns("b.a.test")], 0), Refusal::Dns(_)));
    assert_eq!(ask(vec![good()], -1), Refusal::Ttl(-1));

    let id = || SpiffeId::parse("spiffe://example.test/web").unwrap();
    let token = |audience: &[&str]| {
        let audience = audience.iter().map(|&text| text.to_owned()).collect();
        policy::mint_jwt(&trust_domain, id(), audience, 0).unwrap_err()
    };
    assert_eq!(token(&[]), Refusal::AudienceMissing);
    assert_eq!(token(&[""]), Refusal::AudienceMissing);
    assert_eq!(token(&[&"a".repeat(4097)]), Refusal::AudienceTooLong(4097));
}

#[tokio::test]
async fn a_token_holds_what_was_granted_and_verifies_with_the_bundle() {
    for key_type in [KeyType::EcP256, KeyType::EcP384, KeyType::Rsa2048] {
        let (mint, _) = mint(key_type).await;
        let id = SpiffeId::parse("spiffe://example.test/job").unwrap();
        let audience = vec!["https://\"quoted\"/ä".to_owned()];
        let grant = policy::mint_jwt(mint.trust_domain(), id, audience.clone(), 60).unwrap();
        let token = mint.jwt(grant, CALLER, now(), urgency()).await.unwrap();
        let parts: Vec<&str> = token.token().split('.').collect();
        let json = |part: &str| -> serde_json::Value {
            serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
        };
        let authority = &mint.bundle().jwt_authorities[0];
        let algorithm = key_type.signature_algorithm();
        assert_eq!(
            json(parts[0]),
            serde_json::json!({"alg": algorithm.jws().unwrap(), "kid": authority.kid, "typ": "JWT"})
        );
        assert_eq!(
            json(parts[1]),
            serde_json::json!({
                "sub": "spiffe://example.test/job", "aud": audience, "iat": now().unix(),
                "exp": now().unix() + 60, "iss": "https://oidc.example.test",
            })
        );
        let bytes = URL_SAFE_NO_PAD.decode(parts[2]).unwrap();
        let signature = Signature::from_fixed(algorithm, &bytes).unwrap();
        let (input, _) = token.token().rsplit_once('.').unwrap();
        assert!(authority.key.verifies(input.as_bytes(), &signature));
    }
}

/// Every character that JSON escapes, that breaks out of a string, or that JavaScript takes for a line end.
#[tokio::test]
async fn no_audience_breaks_out_of_its_place_in_the_token() {
    let (mint, _) = mint(KeyType::EcP256).await;
    let mut audience: Vec<String> = [
        "\",\"sub\":\"spiffe://example.test/admin",
        "\"],\"exp\":9999999999,\"x\":[\"",
        "\\",
        "\\\"",
        "\u{2028}\u{2029}\u{feff}",
        "\u{10ffff}",
        ".",
        " ",
    ]
    .map(str::to_owned)
    .to_vec();
    audience.extend((0..0x80).map(|byte| char::from(byte).to_string()));
    for audience in audience.iter().map(|one| vec![one.clone()]).chain([audience.clone()]) {
        let id = SpiffeId::parse("spiffe://example.test/job").unwrap();
        let grant = policy::mint_jwt(mint.trust_domain(), id, audience.clone(), 60).unwrap();
        let token = mint.jwt(grant, CALLER, now(), urgency()).await.unwrap();
        let parts: Vec<&str> = token.token().split('.').collect();
        assert_eq!(parts.len(), 3);
        let claims: serde_json::Value =
            serde_json::from_slice(&URL_SAFE_NO_PAD.decode(parts[1]).unwrap()).unwrap();
        assert_eq!(
            claims,
            serde_json::json!({
                "sub": "spiffe://example.test/job", "aud": audience, "iat": now().unix(),
                "exp": now().unix() + 60, "iss": "https://oidc.example.test",
            })
        );
    }
}

#[tokio::test]
async fn a_restart_keeps_authority_kid_and_sequence() {
    let world = World::new();
    let first = world.start(&settings(KeyType::EcP256), now()).await.unwrap();
    assert_eq!(first.bundle.sequence, 2, "one change for each authority");
    let later = now().plus(Duration::from_secs(3600));
    let second = world.start(&settings(KeyType::EcP256), later).await.unwrap();
    assert_eq!(first.x509.certificate(), second.x509.certificate());
    assert_eq!(first.jwt.kid(), second.jwt.kid());
    assert_eq!(first.bundle, second.bundle);
    assert_eq!(world.keys.list().await.unwrap().len(), 2);

    let changed =
        AuthoritySettings { refresh_hint: Duration::from_secs(60), ..settings(KeyType::EcP256) };
    let third = world.start(&changed, later).await.unwrap();
    assert_eq!((third.bundle.sequence, third.bundle.refresh_hint.as_secs()), (3, 60));
}

#[tokio::test]
async fn an_ended_authority_is_followed_by_a_new_one_and_stays_in_the_bundle() {
    let world = World::new();
    let first = world.start(&settings(KeyType::EcP256), now()).await.unwrap();
    let after = now().plus(Duration::from_secs(86_401));
    let second = world.start(&settings(KeyType::EcP256), after).await.unwrap();
    assert_ne!(first.x509.authority(), second.x509.authority());
    assert_ne!(first.jwt.kid(), second.jwt.kid());
    assert_eq!(second.bundle.x509_authorities.len(), 2);
    assert_eq!(second.bundle.sequence, 4);
    let days_after = after.plus(Duration::from_secs(3 * 86_400));
    let third = world.start(&settings(KeyType::EcP256), days_after).await.unwrap();
    assert_eq!(third.bundle.x509_authorities.len(), 1, "the others ended more than a day ago");
    assert_eq!(third.bundle.jwt_authorities.len(), 1);
    assert!(third.bundle.sequence > second.bundle.sequence);
    let subjects: Vec<_> = second
        .bundle
        .x509_authorities
        .iter()
        .map(|root| root.certificate.subject().to_string())
        .collect();
    assert_ne!(subjects[0], subjects[1], "no two authorities share a subject");
}

#[tokio::test]
async fn an_ended_authority_whose_key_is_gone_is_followed_all_the_same() {
    let world = World::new();
    let first = world.start(&settings(KeyType::EcP256), now()).await.unwrap();
    let empty = SoftwareStore::in_memory("example.test");
    let after = now().plus(Duration::from_secs(86_401));
    let configured = settings(KeyType::EcP256);
    let serials = RandomSerials::new();
    let second =
        authority::establish(&configured, &world.store, &empty, &serials, after, urgency()).await;
    let second = second.unwrap();
    assert_ne!(first.x509.authority(), second.x509.authority());
    assert_eq!(second.x509_key.as_str(), "mintmark/example.test/x509/2");
}

#[tokio::test]
async fn a_new_authority_leaves_the_keys_of_a_lost_state_alone() {
    let world = World::new();
    let name = KeyName::parse("mintmark/example.test/x509/1").unwrap();
    let left = world.keys.create(&name, KeyType::EcP256).await.unwrap();
    let made = world.start(&settings(KeyType::EcP256), now()).await.unwrap();
    assert_eq!(made.x509_key.as_str(), "mintmark/example.test/x509/2");
    assert_ne!(made.x509.certificate().key(), left.public_key());
}

#[tokio::test]
async fn two_processes_that_start_together_make_one_authority() {
    let world = Arc::new(World::new());
    let starts = (0..6).map(|_| {
        let world = Arc::clone(&world);
        tokio::spawn(async move { world.start(&settings(KeyType::EcP256), now()).await })
    });
    let mut ids = std::collections::BTreeSet::new();
    for start in starts.collect::<Vec<_>>() {
        ids.insert(start.await.unwrap().unwrap().x509.authority().to_string());
    }
    assert_eq!(ids.len(), 1);
}

#[tokio::test]
async fn a_missing_or_changed_key_and_another_trust_domain_stop_the_start() {
    let world = World::new();
    world.start(&settings(KeyType::EcP256), now()).await.unwrap();
    let empty = SoftwareStore::in_memory("example.test");
    let serials = RandomSerials::new();
    let configured = settings(KeyType::EcP256);
    let missing =
        authority::establish(&configured, &world.store, &empty, &serials, now(), urgency()).await;
    let error = missing.unwrap_err();
    assert!(matches!(error, AuthorityError::KeyMissing { .. }));
    assert!(error.to_string().contains("mintmark/example.test/x509/1"), "{error}");

    let name = KeyName::parse("mintmark/example.test/x509/1").unwrap();
    empty.create(&name, KeyType::EcP256).await.unwrap();
    let changed =
        authority::establish(&configured, &world.store, &empty, &serials, now(), urgency()).await;
    assert!(matches!(changed, Err(AuthorityError::KeyChanged { .. })));

    let other = AuthoritySettings {
        trust_domain: TrustDomain::parse("other.test").unwrap(),
        ..settings(KeyType::EcP256)
    };
    let moved = world.start(&other, now()).await;
    assert!(matches!(moved, Err(AuthorityError::OtherTrustDomain { .. })));
}

/// A key store of software keys that makes no RSA keys.
#[derive(Debug)]
struct NoRsa<'a>(&'a SoftwareStore);

#[async_trait]
impl KeyStore for NoRsa<'_> {
    fn description(&self) -> &StoreDescription {
        self.0.description()
    }

    async fn create(
        &self,
        name: &KeyName,
        key_type: KeyType,
    ) -> Result<Arc<dyn SigningKey>, KeyError> {
        if key_type == KeyType::Rsa2048 {
            let place = "a token without RSA".to_owned();
            return Err(KeyError::Unsupported { key_type, place });
        }
        self.0.create(name, key_type).await
    }

    async fn find(&self, name: &KeyName) -> Result<Option<Arc<dyn SigningKey>>, KeyError> {
        self.0.find(name).await
    }

    async fn list(&self) -> Result<Vec<KeyName>, KeyError> {
        self.0.list().await
    }

    async fn describe(&self, name: &KeyName) -> Result<Option<KeyDescription>, KeyError> {
        self.0.describe(name).await
    }

    async fn retire(&self, name: &KeyName) -> Result<(), KeyError> {
        self.0.retire(name).await
    }

    async fn destroy(&self, key: &ExpiredKey) -> Result<String, KeyError> {
        self.0.destroy(key).await
    }
}

#[tokio::test]
async fn a_start_that_failed_for_a_kind_of_key_works_once_the_setting_is_corrected() {
    let world = World::new();
    let (keys, serials) = (NoRsa(&world.keys), RandomSerials::new());
    let wrong = settings(KeyType::Rsa2048);
    let failed =
        authority::establish(&wrong, &world.store, &keys, &serials, now(), urgency()).await;
    assert!(matches!(failed, Err(AuthorityError::Key(KeyError::Unsupported { .. }))), "{failed:?}");
    let right = settings(KeyType::EcP256);
    let started = authority::establish(&right, &world.store, &keys, &serials, now(), urgency())
        .await
        .unwrap();
    assert_eq!(started.x509.algorithm(), SignatureAlgorithm::EcdsaP256Sha256);
}

/// A key store of software keys in which making the first key of each authority was cut short.
#[derive(Debug)]
struct HalfMade<'a>(&'a SoftwareStore);

#[async_trait]
impl KeyStore for HalfMade<'_> {
    fn description(&self) -> &StoreDescription {
        self.0.description()
    }

    async fn create(
        &self,
        name: &KeyName,
        key_type: KeyType,
    ) -> Result<Arc<dyn SigningKey>, KeyError> {
        self.0.create(name, key_type).await
    }

    async fn find(&self, name: &KeyName) -> Result<Option<Arc<dyn SigningKey>>, KeyError> {
        if name.as_str().ends_with("/1") {
            let reason = "only its public half is there".to_owned();
            return Err(KeyError::Incomplete { name: name.clone(), reason });
        }
        self.0.find(name).await
    }

    async fn list(&self) -> Result<Vec<KeyName>, KeyError> {
        self.0.list().await
    }

    async fn describe(&self, name: &KeyName) -> Result<Option<KeyDescription>, KeyError> {
        self.0.describe(name).await
    }

    async fn retire(&self, name: &KeyName) -> Result<(), KeyError> {
        self.0.retire(name).await
    }

    async fn destroy(&self, key: &ExpiredKey) -> Result<String, KeyError> {
        self.0.destroy(key).await
    }
}

#[tokio::test]
async fn a_key_whose_making_was_cut_short_is_passed_over_and_one_that_was_lost_is_not() {
    let world = World::new();
    let (keys, serials) = (HalfMade(&world.keys), RandomSerials::new());
    let wanted = settings(KeyType::EcP256);
    let started = authority::establish(&wanted, &world.store, &keys, &serials, now(), urgency())
        .await
        .unwrap();
    for key in [&started.x509_key, &started.jwt_key] {
        assert!(key.as_str().ends_with("/2"), "{key}");
    }

    let world = World::new();
    world.start(&wanted, now()).await.unwrap();
    let keys = HalfMade(&world.keys);
    let failed =
        authority::establish(&wanted, &world.store, &keys, &serials, now(), urgency()).await;
    assert!(matches!(failed, Err(AuthorityError::Key(KeyError::Incomplete { .. }))), "{failed:?}");
}

#[tokio::test]
async fn a_kind_of_key_that_signs_no_tokens_is_refused_before_it_is_made() {
    let world = World::new();
    let wrong = AuthoritySettings { jwt_key_type: KeyType::Ed25519, ..settings(KeyType::EcP256) };
    let failed = world.start(&wrong, now()).await;
    assert!(matches!(failed, Err(AuthorityError::Token(_))), "{failed:?}");
    assert!(world.keys.list().await.unwrap().is_empty());
    world.start(&settings(KeyType::EcP256), now()).await.unwrap();
}

#[tokio::test]
async fn an_authority_outside_the_bundle_never_signs() {
    for (lost, kind) in [("x509", "X.509"), ("jwt", "JWT")] {
        let world = World::new();
        world.start(&settings(KeyType::EcP256), now()).await.unwrap();
        let key = store::key::bundle_head(store::key::TrustDomainNumber::OWN);
        let snapshot =
            world.store.get(std::slice::from_ref(&key), Consistency::Strong).await.unwrap();
        let entry = snapshot.entries[0].clone().unwrap();
        let mut bundle: serde_json::Value = store::record::decode(1, &entry).unwrap();
        bundle[lost] = serde_json::json!([]);
        let op = Op::Put(key, store::record::encode(1, &bundle));
        world.store.commit(Commit::new(vec![], vec![op]).unwrap()).await.unwrap();
        match world.start(&settings(KeyType::EcP256), now()).await {
            Err(AuthorityError::NotInBundle(found, _)) => assert_eq!(found, kind),
            other => panic!("{lost}: {other:?}"),
        }
    }
}

/// A key of P-256 that says, or signs, something else.
#[derive(Debug)]
struct Liar {
    true_key: Arc<dyn SigningKey>,
    says: SignatureAlgorithm,
}

#[async_trait]
impl SigningKey for Liar {
    async fn sign(&self, _: ToBeSigned, _: Urgency) -> Result<Signature, SignError> {
        Ok(Signature::from_fixed(SignatureAlgorithm::Ed25519, &[1; 64]).unwrap())
    }

    fn algorithms(&self) -> &[SignatureAlgorithm] {
        std::slice::from_ref(&self.says)
    }

    fn public_key(&self) -> &PublicKey {
        self.true_key.public_key()
    }
}

#[tokio::test]
async fn a_signature_of_another_algorithm_than_the_certificate_names_is_refused() {
    let world = World::new();
    let authorities = world.start(&settings(KeyType::EcP256), now()).await.unwrap();
    let true_key = world.keys.find(&authorities.x509_key).await.unwrap().unwrap();
    let trust_domain = TrustDomain::parse("example.test").unwrap();
    let issuer = |says| {
        let key = Arc::new(Liar { true_key: true_key.clone(), says });
        let certificate = authorities.x509.certificate().clone();
        let algorithm = SignatureAlgorithm::EcdsaP256Sha256;
        let (chain, lives) = (Vec::new(), Lifetimes::default());
        Issuer::new(trust_domain.clone(), certificate, chain, key, algorithm, lives)
    };
    let refused = issuer(SignatureAlgorithm::Ed25519).unwrap_err();
    assert!(matches!(refused, SignError::Refused { .. }), "{refused}");

    let issuer = Arc::new(issuer(SignatureAlgorithm::EcdsaP256Sha256).unwrap());
    let request = csr(vec![uri("spiffe://example.test/web")]);
    let grant = policy::mint_x509(&trust_domain, &request, 0).unwrap();
    let serial = RandomSerials::new().next().unwrap();
    let refused = issuer.prepare(grant, serial, now()).unwrap().sign(urgency()).await.unwrap_err();
    assert!(matches!(refused, SignError::Refused { .. }), "{refused}");
}

#[tokio::test]
async fn each_surface_of_the_bundle_shows_its_own_keys_only() {
    let (mint, _) = mint(KeyType::EcP256).await;
    let read = |surface| -> serde_json::Value {
        serde_json::from_str(&mint.bundle().jwks(surface)).unwrap()
    };
    let document = read(Surface::Spiffe);
    assert_eq!(document["spiffe_sequence"], 2);
    assert_eq!(document["spiffe_refresh_hint"], 300);
    let keys = document["keys"].as_array().unwrap();
    assert_eq!(keys.len(), 2);
    let members =
        |key: &serde_json::Value| key.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(keys[0]["use"], "x509-svid");
    assert_eq!(members(&keys[0]), ["crv", "kty", "use", "x", "x5c", "y"]);
    assert_eq!(keys[0]["x5c"].as_array().unwrap().len(), 1);
    assert_eq!(keys[1]["use"], "jwt-svid");
    assert_eq!(members(&keys[1]), ["crv", "kid", "kty", "use", "x", "y"]);
    let plain = read(Surface::Jwt);
    assert_eq!(members(&plain), ["keys"]);
    assert_eq!(members(&plain["keys"][0]), ["crv", "kid", "kty", "x", "y"]);
}
