//! What holds of any chain that a peer shows: certificates one after another, leaf first.

use std::sync::OnceLock;

use ca_core::clock::Timestamp;
use ca_core::der::Reader;
use ca_core::id::TrustDomain;
use mintmark_transport::Trust;
use mintmark_transport::rules::{Side, examine};
use rustls_pki_types::CertificateDer;

/// The authority of `td.test`. Nobody has its key any more.
const ROOT: &[u8] = include_bytes!("peer_chain_root.der");

/// Verifies `data` as the chain of a client; says whether it was accepted. Panics if a promise is broken.
pub(crate) fn holds(data: &[u8]) -> bool {
    static TRUST: OnceLock<Trust> = OnceLock::new();
    let trust = TRUST.get_or_init(|| {
        let trust_domain = TrustDomain::parse("td.test").expect("a name");
        Trust::of_roots(trust_domain, &[CertificateDer::from(ROOT)]).expect("a root")
    });
    let chain = split(data);
    // In January of 2027.
    let now = Timestamp::from_unix(1_800_000_000);
    match trust.verify(&chain, Side::Client, now) {
        Err(rejected) => {
            let shown = rejected.to_string();
            assert!(shown.len() < 2048 && !shown.contains(char::is_control), "{shown}");
            false
        }
        Ok(peer) => {
            let examined = examine(&chain, Side::Client, trust.trust_domain(), now);
            assert_eq!(examined.as_ref(), Ok(&peer));
            if peer.id.path().starts_with("/mintmark/") {
                let alone = trust.verify(&chain[..1], Side::Client, now);
                assert_eq!(alone, Ok(peer), "the authority itself has signed it");
            }
            true
        }
    }
}

/// What is no DER is the last of the chain.
fn split(data: &[u8]) -> Vec<CertificateDer<'_>> {
    let mut rest = Reader::new(data);
    let (mut chain, mut taken) = (Vec::new(), 0);
    while let Ok(value) = rest.any("certificate") {
        taken += value.whole.len();
        chain.push(CertificateDer::from(value.whole));
    }
    if taken < data.len() {
        chain.push(CertificateDer::from(&data[taken..]));
    }
    chain
}
