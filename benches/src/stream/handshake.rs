//! A handshake of both sides, beside the TLS library's own with the same algorithms and its own verifiers.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use ca_core::clock::SystemClock;
use mintmark_transport::{Acceptor, Connector, Identity};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose,
};
use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::{default_provider, kx_group};
use rustls::server::WebPkiClientVerifier;
use rustls::version::TLS13;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::duplex;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::Identities;
use crate::paired::{Row, thread_cost};
use crate::pipeline::{Bench, Log};

/// Room for a flight.
const BUFFER: usize = 64 * 1024;
const WITHIN: Duration = Duration::from_secs(10);
const NAME: &str = "signer.bench";

/// Both ends on one thread, without a network.
pub(crate) fn handshake() -> anyhow::Result<Row> {
    let bench = Bench::new(Log::Off)?;
    let identities = Identities { mint: bench.pipeline().mint(), runtime: bench.runtime() };
    let (clock, trust) = (Arc::new(SystemClock), identities.trust()?);
    let acceptor = Acceptor::new(identities.signer()?, Arc::clone(&trust), clock.clone(), WITHIN)?;
    let shown = Identity::new(identities.front_end()?.credential);
    let signer = identities.mint.trust_domain().signer_id();
    let connector = Connector::new(shown, trust, signer, clock, WITHIN)?;
    let stock = Stock::new()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
    Ok(thread_cost(
        "transport/handshake",
        "the library's own verifiers",
        || {
            let (near, far) = duplex(BUFFER);
            let (server, client) = runtime
                .block_on(async { tokio::join!(acceptor.accept(near), connector.connect(far)) });
            drop((server.expect("it is let in"), client.expect("it is the signer")));
        },
        || runtime.block_on(stock.handshake()),
    ))
}

/// What the library does by itself: chains to roots, and a name for the server.
struct Stock {
    acceptor: TlsAcceptor,
    connector: TlsConnector,
}

impl Stock {
    fn new() -> anyhow::Result<Self> {
        let mut ca = CertificateParams::default();
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        ca.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let ca = CertifiedIssuer::self_signed(ca, KeyPair::generate()?)?;
        let mut roots = RootCertStore::empty();
        roots.add(ca.as_ref().der().clone())?;
        let (roots, provider) = (Arc::new(roots), Arc::new(provider()));
        let clients =
            WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider));
        let (chain, key) = leaf(&ca)?;
        let mut server = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&TLS13])?
            .with_client_cert_verifier(clients.build()?)
            .with_single_cert(chain, key)?;
        server.alpn_protocols = vec![b"h2".to_vec()];
        server.send_tls13_tickets = 0;
        let (chain, key) = leaf(&ca)?;
        let mut client = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)?;
        client.alpn_protocols = vec![b"h2".to_vec()];
        client.resumption = Resumption::disabled();
        let acceptor = TlsAcceptor::from(Arc::new(server));
        Ok(Self { acceptor, connector: TlsConnector::from(Arc::new(client)) })
    }

    async fn handshake(&self) {
        let (near, far) = duplex(BUFFER);
        let name = ServerName::try_from(NAME).expect("a DNS name");
        let (server, client) =
            tokio::join!(self.acceptor.accept(near), self.connector.connect(name, far));
        drop((server.expect("it is let in"), client.expect("it is the server")));
    }
}

fn provider() -> CryptoProvider {
    let mut provider = default_provider();
    provider.cipher_suites.retain(|suite| suite.tls13().is_some());
    provider.kx_groups = vec![kx_group::X25519MLKEM768, kx_group::X25519, kx_group::SECP256R1];
    provider
}

/// A certificate for both sides, and its key.
fn leaf(
    ca: &CertifiedIssuer<'_, KeyPair>,
) -> anyhow::Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new(vec![NAME.to_owned()])?;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let chain = vec![params.signed_by(&key, ca)?.der().clone()];
    let key = PrivateKeyDer::try_from(key.serialize_der()).ok().context("rcgen writes PKCS#8")?;
    Ok((chain, key))
}
