//! CA certificates as strangers make them, and as nobody should.

#![expect(clippy::unwrap_used, reason = "tests state their expectations by unwrapping")]

use ca_core::certificate::{CaCertificate, CaCertificateError};
use proptest::prelude::*;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, KeyUsagePurpose};

/// A root and an intermediate CA below it, by an encoder that is not ours.
struct Chain {
    root: Vec<u8>,
    intermediate: Vec<u8>,
}

impl Chain {
    fn new() -> Self {
        let (root_key, key) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
        let root = parameters("root").self_signed(&root_key).unwrap();
        let above = Issuer::new(parameters("root"), &root_key);
        let intermediate = parameters("intermediate").signed_by(&key, &above).unwrap();
        Self { root: root.der().to_vec(), intermediate: intermediate.der().to_vec() }
    }
}

fn parameters(name: &str) -> CertificateParams {
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name.push(rcgen::DnType::CommonName, name);
    parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    parameters
}

#[test]
fn a_root_and_an_intermediate_are_told_apart() {
    let Chain { root, intermediate } = Chain::new();
    assert!(CaCertificate::from_der(&root).unwrap().is_self_signed());
    assert!(!CaCertificate::from_der(&intermediate).unwrap().is_self_signed());
}

#[test]
fn a_certificate_that_names_two_signature_algorithms_is_refused() {
    let Chain { root, intermediate } = Chain::new();
    // ecdsa-with-SHA256 becomes ecdsa-with-SHA384, where only the signature names it.
    let name = b"\x06\x08\x2a\x86\x48\xce\x3d\x04\x03\x02";
    for mut der in [root, intermediate] {
        let at = der.windows(name.len()).rposition(|part| part == name).unwrap();
        der[at + name.len() - 1] = 3;
        assert_eq!(CaCertificate::from_der(&der), Err(CaCertificateError::TwoAlgorithms));
    }
}

#[test]
fn a_certificate_cut_short_or_followed_by_something_is_refused() {
    let Chain { root, .. } = Chain::new();
    for length in 0..root.len() {
        assert!(CaCertificate::from_der(&root[..length]).is_err(), "{length} bytes");
    }
    assert!(CaCertificate::from_der(&[&root[..], &[0]].concat()).is_err());
}

proptest! {
    /// A changed name makes a certificate that another would have signed; nothing else may pass.
    #[test]
    fn a_root_with_a_changed_byte_is_no_root(at in any::<prop::sample::Index>(), change in 1..=255u8) {
        let Chain { mut root, .. } = Chain::new();
        let at = at.index(root.len());
        root[at] ^= change;
        prop_assert!(!CaCertificate::from_der(&root).is_ok_and(|found| found.is_self_signed()));
    }

    #[test]
    fn no_change_makes_the_reading_panic(
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cut in any::<prop::sample::Index>(),
    ) {
        let Chain { mut intermediate, .. } = Chain::new();
        for (at, byte) in changes {
            let at = at.index(intermediate.len());
            intermediate[at] = byte;
        }
        if let Ok(found) = CaCertificate::from_der(&intermediate) {
            prop_assert_eq!(&found.der()[..], &intermediate[..]);
            let _ = (found.subject().to_string(), format!("{found:?}"));
        }
        let _ = CaCertificate::from_der(&intermediate[cut.index(intermediate.len())..]);
    }

    #[test]
    fn no_bytes_make_the_reading_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = CaCertificate::from_der(&bytes);
        let _ = CaCertificate::from_der(&[&[0x30, 0x81, 200][..], &bytes].concat());
    }
}
