//! A P-256 key of AWS-LC, signing digests by the library's own call.
//!
//! `aws-lc-rs` reaches the same code through `EVP`, which makes a context, counts references where all cores do,
//! and gives DER, which would be read again. That is some 4 % of a signature
//! (docs/decisions/027-p256-signs-by-the-librarys-own-call.md).

#![expect(unsafe_code, reason = "calls into AWS-LC")]

use std::mem::MaybeUninit;
use std::ptr::NonNull;

use aws_lc_sys::{
    BN_bn2bin_padded, CBS, CBS_init, EC_KEY, EC_KEY_free, ECDSA_SIG_free, ECDSA_SIG_get0_r,
    ECDSA_SIG_get0_s, ECDSA_do_sign, EVP_PKEY_free, EVP_PKEY_get1_EC_KEY, EVP_parse_private_key,
};

/// A private key; wiped by the library when it is dropped.
pub(super) struct P256Key(NonNull<EC_KEY>);

// SAFETY: the key is not bound to a thread, and is freed once, by its owner.
unsafe impl Send for P256Key {}
// SAFETY: an `EC_KEY` may be used on several threads by functions that take it as `const`
// (`openssl/ec_key.h`), and none other is called on it.
unsafe impl Sync for P256Key {}

impl P256Key {
    /// Reads a key from PKCS#8. Whoever calls has had aws-lc-rs check it: that it is one of P-256, and that its
    /// halves belong together.
    pub(super) fn from_pkcs8(pkcs8: &[u8]) -> Option<Self> {
        let mut input = MaybeUninit::<CBS>::uninit();
        // SAFETY: `CBS_init` sets all of `input`, which then reads within `pkcs8`. The pair is freed once, whether
        // it is an EC key or not; an EC key that was taken out of it is a reference of its own.
        let key = unsafe {
            CBS_init(input.as_mut_ptr(), pkcs8.as_ptr(), pkcs8.len());
            let pair = EVP_parse_private_key(input.as_mut_ptr());
            if pair.is_null() {
                return None;
            }
            let key = EVP_PKEY_get1_EC_KEY(pair);
            EVP_PKEY_free(pair);
            key
        };
        NonNull::new(key).map(Self)
    }

    /// The signature over a SHA-256, as `r||s`; `None` if the library fails.
    pub(super) fn sign(&self, digest: &[u8; 32]) -> Option<[u8; 64]> {
        let mut signature = [0; 64];
        let (r, s) = signature.split_at_mut(32);
        // SAFETY: the key lives as long as `self`. The signature is ours to free, once, after its two numbers were
        // read, each into the bytes of one of the halves: a number that is too long for them is not written.
        let written = unsafe {
            let made = ECDSA_do_sign(digest.as_ptr(), digest.len(), self.0.as_ptr());
            if made.is_null() {
                return None;
            }
            let written = BN_bn2bin_padded(r.as_mut_ptr(), r.len(), ECDSA_SIG_get0_r(made)) == 1
                && BN_bn2bin_padded(s.as_mut_ptr(), s.len(), ECDSA_SIG_get0_s(made)) == 1;
            ECDSA_SIG_free(made);
            written
        };
        written.then_some(signature)
    }
}

impl Drop for P256Key {
    fn drop(&mut self) {
        // SAFETY: it is ours, and nobody has it after this.
        unsafe { EC_KEY_free(self.0.as_ptr()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use aws_lc_rs::rand::SystemRandom;
    use aws_lc_rs::signature::{
        ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P384_SHA384_ASN1_SIGNING, EcdsaKeyPair,
    };

    #[test]
    fn a_key_of_a_larger_curve_does_not_sign_and_bytes_that_are_no_key_are_refused() {
        let pkcs8 =
            |algorithm| EcdsaKeyPair::generate_pkcs8(algorithm, &SystemRandom::new()).unwrap();
        let (p256, p384) =
            (pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING), pkcs8(&ECDSA_P384_SHA384_ASN1_SIGNING));
        assert!(P256Key::from_pkcs8(p256.as_ref()).unwrap().sign(&[7; 32]).is_some());
        assert!(P256Key::from_pkcs8(p384.as_ref()).unwrap().sign(&[7; 32]).is_none());
        assert!(P256Key::from_pkcs8(&p256.as_ref()[..100]).is_none());
        assert!(P256Key::from_pkcs8(&[]).is_none());
    }
}
