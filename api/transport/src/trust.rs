//! By whom certificates are verified: the authorities of the bundle, which may change while connections come.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use ca_core::bundle::Bundle;
use ca_core::clock::Timestamp;
use ca_core::excerpt::Excerpt;
use ca_core::id::TrustDomain;
use rustls::crypto::aws_lc_rs;
use rustls_pki_types::{CertificateDer, TrustAnchor, UnixTime};
use thiserror::Error;
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert};

use crate::rules::{Peer, Rejected, Side, examine};

/// The authorities of one trust domain. Whoever holds it sees what was put into it last.
pub struct Trust {
    trust_domain: TrustDomain,
    anchors: RwLock<Arc<[TrustAnchor<'static>]>>,
}

/// A root certificate by which nothing can be verified.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("root certificate {number} of the bundle cannot be used to verify peers: {reason}")]
pub struct TrustError {
    number: usize,
    reason: String,
}

impl Trust {
    /// Trusts the X.509 authorities of a bundle.
    ///
    /// # Errors
    /// If one of them cannot be read.
    pub fn of(bundle: &Bundle) -> Result<Self, TrustError> {
        let (trust_domain, anchors) = (bundle.trust_domain.clone(), anchors(&roots(bundle))?);
        Ok(Self { trust_domain, anchors: RwLock::new(anchors) })
    }

    /// Trusts these roots, each the DER of a certificate.
    ///
    /// # Errors
    /// If one of them cannot be read.
    pub fn of_roots(
        trust_domain: TrustDomain,
        roots: &[CertificateDer<'_>],
    ) -> Result<Self, TrustError> {
        Ok(Self { trust_domain, anchors: RwLock::new(anchors(roots)?) })
    }

    /// Trusts the authorities of that bundle from now on, and no others.
    ///
    /// # Errors
    /// If one of them cannot be read; then nothing changes.
    pub fn follow(&self, bundle: &Bundle) -> Result<(), TrustError> {
        let fresh = anchors(&roots(bundle))?;
        *self.anchors.write().unwrap_or_else(PoisonError::into_inner) = fresh;
        Ok(())
    }

    /// The one trust domain whose members are let in.
    #[must_use]
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// Who shows that chain, leaf first (X509-SVID §5; RFC 5280 §6). That it holds the key is for TLS to find out.
    ///
    /// An ID of the service itself ([`SpiffeId::is_of_service`](ca_core::id::SpiffeId::is_of_service)) has to be
    /// certified by an authority of the bundle and by nobody below one.
    ///
    /// # Errors
    /// The rule that is broken.
    pub fn verify(
        &self,
        chain: &[CertificateDer<'_>],
        side: Side,
        now: Timestamp,
    ) -> Result<Peer, Rejected> {
        let peer = examine(chain, side, &self.trust_domain, now)?;
        let untrusted = |error: webpki::Error| Rejected::Untrusted {
            id: Excerpt::of(peer.id.as_str()),
            reason: error.to_string(),
        };
        let (leaf, intermediates) = chain.split_first().ok_or(Rejected::NoCertificate)?;
        let anchors = Arc::clone(&self.anchors.read().unwrap_or_else(PoisonError::into_inner));
        let usage = match side {
            Side::Client => KeyUsage::client_auth(),
            Side::Server => KeyUsage::server_auth(),
        };
        let seconds = u64::try_from(now.unix()).unwrap_or_default();
        let certificate = EndEntityCert::try_from(leaf).map_err(untrusted)?;
        let path = certificate
            .verify_for_usage(
                aws_lc_rs::default_provider().signature_verification_algorithms.all,
                &anchors,
                intermediates,
                UnixTime::since_unix_epoch(Duration::from_secs(seconds)),
                usage,
                None,
                None,
            )
            .map_err(untrusted)?;
        if peer.id.is_of_service() && path.intermediate_certificates().next().is_some() {
            return Err(Rejected::NotOfAuthority(Excerpt::of(peer.id.as_str())));
        }
        Ok(peer)
    }
}

impl fmt::Debug for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trust").field("trust_domain", &self.trust_domain).finish_non_exhaustive()
    }
}

fn roots(bundle: &Bundle) -> Vec<CertificateDer<'_>> {
    let der = |root: &'_ ca_core::bundle::X509Authority| {
        CertificateDer::from(root.certificate.der().to_vec())
    };
    bundle.x509_authorities.iter().map(der).collect()
}

fn anchors(roots: &[CertificateDer<'_>]) -> Result<Arc<[TrustAnchor<'static>]>, TrustError> {
    let anchor = |(at, root)| {
        anchor_from_trusted_cert(root)
            .map(|anchor| anchor.to_owned())
            .map_err(|error| TrustError { number: at + 1, reason: error.to_string() })
    };
    roots.iter().enumerate().map(anchor).collect()
}
