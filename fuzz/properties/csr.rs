//! What holds of any bytes that come as a CSR.

use ca_core::csr::{Csr, LONGEST_CSR, MOST_NAMES};
use ca_core::dns::DnsName;
use ca_core::id::SpiffeId;
use ca_core::key::PublicKey;

/// Reads and verifies `data`; says whether it was accepted. Panics if a promise is broken.
pub(crate) fn holds(data: &[u8]) -> bool {
    match Csr::parse(data).and_then(|csr| csr.verify()) {
        Err(error) => {
            let text = error.to_string();
            assert!(!text.is_empty() && text.len() < 256, "{text}");
            false
        }
        Ok(csr) => {
            assert!(data.len() <= LONGEST_CSR);
            let key = csr.key.public_key();
            assert_eq!(PublicKey::from_spki(key.spki()).as_ref(), Ok(key));
            let requested = csr.requested;
            assert!(requested.uris.len() + requested.dns_names.len() <= MOST_NAMES);
            for uri in &requested.uris {
                let _ = SpiffeId::parse(uri);
            }
            let _ = DnsName::list(requested.dns_names.iter().map(String::as_str));
            if let Ok(subject) = requested.subject() {
                assert_eq!(subject.der(), requested.subject);
                let _ = subject.to_string();
            }
            true
        }
    }
}
