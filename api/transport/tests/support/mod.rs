//! Authorities and certificates of another library's making.

mod credulous;

use std::sync::Arc;
use std::time::Duration;

use ca_core::bundle::Bundle;
use ca_core::certificate::CaCertificate;
use ca_core::clock::{Clock, Timestamp};
use ca_core::der::{self, tag};
use ca_core::id::TrustDomain;
use ca_core::key::PublicKey;
use mintmark_transport::{Credential, Trust};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData, SanType,
    SerialNumber, SignatureAlgorithm, date_time_ymd,
};
use rustls::client::ResolvesClientCert;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, SignatureScheme};

pub(crate) use credulous::Credulous;

pub(crate) const TRUST_DOMAIN: &str = "td.test";
pub(crate) const FRONT_END: &str = "spiffe://td.test/mintmark/frontend/one";
pub(crate) const SIGNER: &str = "spiffe://td.test/mintmark/signer";

/// When everything here happens.
pub(crate) fn now() -> Timestamp {
    Timestamp::from_unix(1_800_000_000)
}

/// A clock that shows one time.
pub(crate) struct StoppedClock(pub(crate) Timestamp);

impl Clock for StoppedClock {
    fn now(&self) -> Timestamp {
        self.0
    }
}

/// The CA of a trust domain.
pub(crate) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    key: Vec<u8>,
}

/// A CA that the authority of a trust domain has certified.
pub(crate) struct Below {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
}

impl Below {
    pub(crate) fn issue(&self, params: CertificateParams) -> Credential {
        let pair = KeyPair::generate().unwrap();
        let leaf = params.signed_by(&pair, &self.issuer).unwrap().der().clone();
        let key = PrivateKeyDer::try_from(pair.serialize_der()).unwrap();
        Credential::new(vec![leaf, self.certificate.clone()], key).unwrap()
    }
}

/// A certificate with everything about it.
pub(crate) struct Issued {
    pub(crate) credential: Credential,
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) key: PrivateKeyDer<'static>,
    pub(crate) fingerprint: [u8; 32],
}

impl Authority {
    pub(crate) fn new(trust_domain: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name = name("ca");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let uri = format!("spiffe://{trust_domain}");
        params.subject_alt_names = vec![SanType::URI(uri.as_str().try_into().unwrap())];
        begins(&mut params, now().minus(Duration::from_secs(86_400)));
        ends(&mut params, now().plus(Duration::from_secs(86_400)));
        let key = KeyPair::generate().unwrap();
        let bytes = key.serialize_der();
        Self { issuer: CertifiedIssuer::self_signed(params, key).unwrap(), key: bytes }
    }

    /// A CA below this one, that has everything but what `change` takes from it.
    pub(crate) fn below(&self, change: impl FnOnce(&mut CertificateParams)) -> Below {
        let mut params = CertificateParams::default();
        params.distinguished_name = name("below");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        begins(&mut params, now().minus(Duration::from_secs(60)));
        ends(&mut params, now().plus(Duration::from_secs(3600)));
        change(&mut params);
        let pair = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&pair, &self.issuer).unwrap().der().clone();
        Below { issuer: Issuer::new(params, pair), certificate }
    }

    pub(crate) fn certificate(&self) -> CertificateDer<'static> {
        self.issuer.as_ref().der().clone()
    }

    pub(crate) fn trust(&self) -> Trust {
        Trust::of_roots(TrustDomain::parse(TRUST_DOMAIN).unwrap(), &[self.certificate()]).unwrap()
    }

    pub(crate) fn issue(&self, params: CertificateParams) -> Credential {
        self.issue_with_key(params).credential
    }

    pub(crate) fn issue_with_key(&self, params: CertificateParams) -> Issued {
        let pair = KeyPair::generate().unwrap();
        let chain = vec![params.signed_by(&pair, &self.issuer).unwrap().der().clone()];
        let key = PrivateKeyDer::try_from(pair.serialize_der()).unwrap();
        let spki = pair.subject_public_key_info();
        let fingerprint = *PublicKey::from_spki(&spki).unwrap().fingerprint();
        let credential = Credential::new(chain.clone(), key.clone_key()).unwrap();
        Issued { credential, chain, key, fingerprint }
    }

    /// The CA's own certificate and key, as if it were a peer.
    pub(crate) fn itself(&self) -> Credential {
        let key = PrivateKeyDer::try_from(self.key.clone()).unwrap();
        Credential::new(vec![self.certificate()], key).unwrap()
    }
}

/// An X509-SVID of an hour, as the standard has it.
pub(crate) fn leaf(uri: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = name("leaf");
    params.serial_number = Some(SerialNumber::from(vec![0x12, 0x34]));
    params.subject_alt_names = vec![SanType::URI(uri.try_into().unwrap())];
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    begins(&mut params, now().minus(Duration::from_secs(60)));
    ends(&mut params, now().plus(Duration::from_secs(3600)));
    params
}

fn name(common: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common);
    name
}

pub(crate) fn begins(params: &mut CertificateParams, at: Timestamp) {
    params.not_before = date_time_ymd(1970, 1, 1) + at.since(Timestamp::EPOCH);
}

pub(crate) fn ends(params: &mut CertificateParams, at: Timestamp) {
    params.not_after = date_time_ymd(1970, 1, 1) + at.since(Timestamp::EPOCH);
}

pub(crate) fn bundle(authorities: &[&Authority]) -> Bundle {
    let mut bundle = Bundle::empty(TrustDomain::parse(TRUST_DOMAIN).unwrap(), Duration::ZERO);
    for authority in authorities {
        bundle.add_x509(CaCertificate::from_der(&authority.certificate()).unwrap());
    }
    bundle
}

/// What the library knows, TLS 1.2 too.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

/// A client that shows a certificate whose RSA modulus has so many bytes.
pub(crate) fn with_giant_modulus(authority: &Authority, bytes: usize) -> ClientConfig {
    let mut modulus = vec![0xff; bytes];
    modulus[0] = 0x80;
    let mut numbers = Vec::new();
    der::write_unsigned(&mut numbers, &modulus);
    der::write_unsigned(&mut numbers, &[1, 0, 1]);
    let key = GiantKey(der::encode(tag::SEQUENCE, &[&numbers]));
    let certificate = leaf(FRONT_END).signed_by(&key, &authority.issuer).unwrap().der().clone();
    let other = PrivateKeyDer::try_from(KeyPair::generate().unwrap().serialize_der()).unwrap();
    let key = aws_lc_rs::sign::any_supported_type(&other).unwrap();
    let shown = Arc::new(CertifiedKey::new(vec![certificate], key));
    let mut settings = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Credulous))
        .with_client_cert_resolver(Arc::new(Shown(shown)));
    settings.alpn_protocols = vec![b"h2".to_vec()];
    settings
}

struct GiantKey(Vec<u8>);

impl PublicKeyData for GiantKey {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &rcgen::PKCS_RSA_SHA256
    }
}

#[derive(Debug)]
struct Shown(Arc<CertifiedKey>);

impl ResolvesClientCert for Shown {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}
