//! How TLS is spoken: one version, one application protocol, both sides with a certificate, every session anew.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use ca_core::clock::Clock;
use ca_core::id::SpiffeId;
use rustls::client::Resumption;
use rustls::crypto::aws_lc_rs::{self, kx_group};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms};
use rustls::server::NoServerSessionStorage;
use rustls::time_provider::TimeProvider;
use rustls::version::TLS13;
use rustls::{ClientConfig, Error, ServerConfig};
use rustls_pki_types::UnixTime;

use crate::identity::Identity;
use crate::trust::Trust;
use crate::verifier::{Clients, Servers};

/// HTTP/2 (RFC 9113 §3.2).
pub(crate) const H2: &[u8] = b"h2";

pub(crate) fn server(
    identity: Arc<Identity>,
    trust: Arc<Trust>,
    clock: Arc<dyn Clock>,
) -> Result<ServerConfig, Error> {
    let (provider, algorithms) = provider();
    let clients = Arc::new(Clients { trust, algorithms });
    let mut settings = ServerConfig::builder_with_details(provider, Arc::new(Time(clock)))
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(clients)
        .with_cert_resolver(identity);
    settings.alpn_protocols = vec![H2.to_vec()];
    // A session that is resumed shows no certificate.
    settings.session_storage = Arc::new(NoServerSessionStorage {});
    settings.send_tls13_tickets = 0;
    settings.max_early_data_size = 0;
    Ok(settings)
}

pub(crate) fn client(
    identity: Arc<Identity>,
    trust: Arc<Trust>,
    expected: SpiffeId,
    clock: Arc<dyn Clock>,
) -> Result<ClientConfig, Error> {
    let (provider, algorithms) = provider();
    let servers = Arc::new(Servers { trust, expected, algorithms });
    let mut settings = ClientConfig::builder_with_details(provider, Arc::new(Time(clock)))
        .with_protocol_versions(&[&TLS13])?
        .dangerous() // by its name: what verifies instead is ours
        .with_custom_certificate_verifier(servers)
        .with_client_cert_resolver(identity);
    settings.alpn_protocols = vec![H2.to_vec()];
    settings.resumption = Resumption::disabled();
    settings.enable_early_data = false;
    // A server is known by its ID; whoever listens on the wire need not learn a name.
    settings.enable_sni = false;
    Ok(settings)
}

/// AWS-LC with what is spoken here: the key exchange that a quantum computer does not undo first.
fn provider() -> (Arc<CryptoProvider>, WebPkiSupportedAlgorithms) {
    let mut provider = aws_lc_rs::default_provider();
    provider.cipher_suites.retain(|suite| suite.tls13().is_some());
    provider.kx_groups = vec![kx_group::X25519MLKEM768, kx_group::X25519, kx_group::SECP256R1];
    let algorithms = provider.signature_verification_algorithms;
    (Arc::new(provider), algorithms)
}

/// The clock, as TLS asks it.
struct Time(Arc<dyn Clock>);

impl TimeProvider for Time {
    fn current_time(&self) -> Option<UnixTime> {
        let seconds = u64::try_from(self.0.now().unix()).ok()?;
        Some(UnixTime::since_unix_epoch(Duration::from_secs(seconds)))
    }
}

impl fmt::Debug for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Time")
    }
}
