//! The rules as TLS asks for them.

use std::fmt;
use std::sync::Arc;

use ca_core::clock::Timestamp;
use ca_core::excerpt::Excerpt;
use ca_core::id::SpiffeId;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError,
    PeerIncompatible, SignatureScheme,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use crate::rules::{Rejected, Side};
use crate::trust::Trust;

/// Verifies whoever connects.
pub(crate) struct Clients {
    pub(crate) trust: Arc<Trust>,
    pub(crate) algorithms: WebPkiSupportedAlgorithms,
}

/// Verifies that who answers is the one that was asked for.
pub(crate) struct Servers {
    pub(crate) trust: Arc<Trust>,
    pub(crate) expected: SpiffeId,
    pub(crate) algorithms: WebPkiSupportedAlgorithms,
}

impl Servers {
    fn verify(&self, chain: &[CertificateDer<'_>], now: UnixTime) -> Result<(), Rejected> {
        let peer = self.trust.verify(chain, Side::Server, timestamp(now))?;
        if peer.id == self.expected {
            return Ok(());
        }
        let found = Excerpt::of(peer.id.as_str());
        Err(Rejected::NotExpected { found, expected: self.expected.clone() })
    }
}

fn timestamp(now: UnixTime) -> Timestamp {
    Timestamp::from_unix(i64::try_from(now.as_secs()).unwrap_or(i64::MAX))
}

fn chain<'a>(
    leaf: &CertificateDer<'a>,
    intermediates: &[CertificateDer<'a>],
) -> Vec<CertificateDer<'a>> {
    std::iter::once(leaf).chain(intermediates).cloned().collect()
}

/// Kept whole on its way through TLS, for [`rejection`].
fn failed(rejected: Rejected) -> Error {
    Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(rejected))))
}

/// The rule of ours that an error of TLS is about, if it is about one.
pub(crate) fn rejection(error: &Error) -> Option<Rejected> {
    match error {
        Error::NoCertificatesPresented => Some(Rejected::NoCertificate),
        Error::InvalidCertificate(CertificateError::Other(OtherError(other))) => {
            other.downcast_ref().cloned()
        }
        _ => None,
    }
}

/// Never asked: nothing below TLS 1.3 is spoken.
fn no_tls12() -> Result<HandshakeSignatureValid, Error> {
    Err(Error::PeerIncompatible(PeerIncompatible::Tls12NotOfferedOrEnabled))
}

impl ClientCertVerifier for Clients {
    /// No names: a stranger need not learn whom we trust, and a peer has one certificate.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.trust
            .verify(&chain(end_entity, intermediates), Side::Client, timestamp(now))
            .map_err(failed)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        no_tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

impl ServerCertVerifier for Servers {
    /// The name that a client of HTTPS would look for says nothing here.
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.verify(&chain(end_entity, intermediates), now).map_err(failed)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        no_tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

impl fmt::Debug for Clients {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Clients").field("trust", &self.trust).finish_non_exhaustive()
    }
}

impl fmt::Debug for Servers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Servers").field("expected", &self.expected).finish_non_exhaustive()
    }
}
