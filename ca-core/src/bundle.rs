//! The trust bundle: what others need to verify the SVIDs of a trust domain, and its serialisations.
//!
//! Each surface names the kinds of key that it shows. A kind that is added later appears nowhere until a
//! surface lists it: filtering by exclusion has leaked keys of one use into another elsewhere.

use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use bytes::Bytes;
use serde_json::{Map, Value, json};

use crate::certificate::CaCertificate;
use crate::clock::Timestamp;
use crate::id::TrustDomain;
use crate::key::{KeyKind, PublicKey};

/// The authorities of one trust domain, by which everyone verifies its SVIDs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bundle {
    /// Whose bundle it is; the document itself does not say (Trust Domain and Bundle §4).
    pub trust_domain: TrustDomain,
    /// The roots of X509-SVIDs, in the order in which they came.
    pub x509_authorities: Vec<X509Authority>,
    /// The keys of JWT-SVIDs, in the order in which they came.
    pub jwt_authorities: Vec<JwtAuthority>,
    /// Rises by one with each change of content (Trust Domain and Bundle §4.1.1).
    pub sequence: u64,
    /// How often to look for changes (Trust Domain and Bundle §4.1.2); zero gives no hint.
    pub refresh_hint: Duration,
}

/// How long an authority stays in the bundle after its end, for verifiers whose clocks are slow and
/// software that stumbles over a root it has just used. So does SPIRE.
pub const KEPT: Duration = Duration::from_secs(24 * 3600);

/// A root certificate of the bundle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct X509Authority {
    /// The certificate.
    pub certificate: CaCertificate,
    /// Whether its SVIDs are to be replaced; it still verifies them.
    pub tainted: bool,
}

/// A key of the bundle that verifies tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JwtAuthority {
    /// The `kid` of its tokens.
    pub kid: String,
    /// The key.
    pub key: PublicKey,
    /// The last second for which it signs.
    pub expires_at: Timestamp,
    /// Whether its tokens are to be replaced; it still verifies them.
    pub tainted: bool,
}

/// A kind of key in a bundle: the values of `use` (Trust Domain and Bundle §4.2.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Use {
    X509Svid,
    JwtSvid,
}

/// A JWK Set that shows the bundle to somebody.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Surface {
    /// The SPIFFE bundle document: all keys with their `use`, sequence and refresh hint (Trust Domain and
    /// Bundle §4).
    Spiffe,
    /// The keys that verify JWT-SVIDs and nothing else, as a plain JWK Set without `use`: what the Workload
    /// API's `FetchJWTBundles` carries and JOSE libraries read.
    Jwt,
}

impl Surface {
    fn uses(self) -> &'static [Use] {
        match self {
            Self::Spiffe => &[Use::X509Svid, Use::JwtSvid],
            Self::Jwt => &[Use::JwtSvid],
        }
    }
}

impl Bundle {
    /// A bundle without authorities, before its first change.
    #[must_use]
    pub fn empty(trust_domain: TrustDomain, refresh_hint: Duration) -> Self {
        Self {
            trust_domain,
            x509_authorities: Vec::new(),
            jwt_authorities: Vec::new(),
            sequence: 0,
            refresh_hint,
        }
    }

    /// Adds a root at the end, unless it is there.
    pub fn add_x509(&mut self, certificate: CaCertificate) {
        if self.x509_authorities.iter().all(|known| known.certificate != certificate) {
            self.x509_authorities.push(X509Authority { certificate, tainted: false });
            self.sequence += 1;
        }
    }

    /// Adds a token key at the end, unless one of its `kid` is there.
    pub fn add_jwt(&mut self, kid: &str, key: PublicKey, expires_at: Timestamp) {
        if self.jwt_authorities.iter().all(|known| known.kid != kid) {
            let kid = kid.to_owned();
            self.jwt_authorities.push(JwtAuthority { kid, key, expires_at, tainted: false });
            self.sequence += 1;
        }
    }

    /// Drops what has ended [`KEPT`] ago. The last root and the last token key always stay: a bundle that
    /// is emptied by accident makes every SVID of the trust domain untrusted.
    pub fn prune(&mut self, now: Timestamp) {
        let limit = now.minus(KEPT);
        let last = self.x509_authorities.iter().map(|root| root.certificate.not_after()).max();
        let before = self.x509_authorities.len() + self.jwt_authorities.len();
        self.x509_authorities.retain(|root| {
            let end = root.certificate.not_after();
            end > limit || Some(end) == last
        });
        let last = self.jwt_authorities.iter().map(|key| key.expires_at).max();
        self.jwt_authorities.retain(|key| key.expires_at > limit || Some(key.expires_at) == last);
        if self.x509_authorities.len() + self.jwt_authorities.len() != before {
            self.sequence += 1;
        }
    }

    /// Changes the refresh hint, if it differs.
    pub fn set_refresh_hint(&mut self, refresh_hint: Duration) {
        if self.refresh_hint != refresh_hint {
            self.refresh_hint = refresh_hint;
            self.sequence += 1;
        }
    }

    /// The roots as concatenated DER (Workload API §5.2.2).
    #[must_use]
    pub fn der(&self) -> Bytes {
        let roots = self.x509_authorities.iter().map(|authority| &authority.certificate.der()[..]);
        roots.collect::<Vec<_>>().concat().into()
    }

    /// The roots as concatenated PEM (RFC 7468 §5).
    #[must_use]
    pub fn pem(&self) -> String {
        self.x509_authorities
            .iter()
            .map(|authority| certificate_pem(authority.certificate.der()))
            .collect()
    }

    /// The bundle as the JWK Set of a surface (RFC 7517 §5).
    #[must_use]
    pub fn jwks(&self, surface: Surface) -> String {
        let keys: Vec<Value> = surface
            .uses()
            .iter()
            .flat_map(|&key_use| match key_use {
                Use::X509Svid => self.x509_jwks(),
                Use::JwtSvid => self.jwt_jwks(surface),
            })
            .collect();
        let document = match surface {
            Surface::Spiffe => {
                let mut document = json!({ "keys": keys, "spiffe_sequence": self.sequence });
                if !self.refresh_hint.is_zero() {
                    document["spiffe_refresh_hint"] = self.refresh_hint.as_secs().into();
                }
                document
            }
            Surface::Jwt => json!({ "keys": keys }),
        };
        serde_json::to_string_pretty(&document).expect("a value of our own is always JSON")
    }

    /// X509-SVID §6.1: no `kid`, exactly one certificate.
    fn x509_jwks(&self) -> Vec<Value> {
        self.x509_authorities
            .iter()
            .map(|authority| {
                let mut jwk = jwk(authority.certificate.key());
                jwk.insert("use".to_owned(), "x509-svid".into());
                jwk.insert("x5c".to_owned(), json!([STANDARD.encode(authority.certificate.der())]));
                jwk.into()
            })
            .collect()
    }

    /// JWT-SVID §6.1: `kid` always, `use` in the SPIFFE document only.
    fn jwt_jwks(&self, surface: Surface) -> Vec<Value> {
        self.jwt_authorities
            .iter()
            .map(|authority| {
                let mut jwk = jwk(&authority.key);
                jwk.insert("kid".to_owned(), authority.kid.clone().into());
                if surface == Surface::Spiffe {
                    jwk.insert("use".to_owned(), "jwt-svid".into());
                }
                jwk.into()
            })
            .collect()
    }
}

/// The PEM of a certificate (RFC 7468 §5.1): lines of 64 characters.
#[must_use]
pub fn certificate_pem(der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let mut pem = String::with_capacity(text.len() + text.len() / 64 + 60);
    pem.push_str("-----BEGIN CERTIFICATE-----\n");
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let (line, tail) = rest.split_at(rest.len().min(64));
        pem.push_str(line);
        pem.push('\n');
        rest = tail;
    }
    pem.push_str("-----END CERTIFICATE-----\n");
    pem
}

/// The public members of a JWK (RFC 7518 §6.2.1, §6.3.1; RFC 8037 §2; RFC 9964 §3 for ML-DSA).
fn jwk(key: &PublicKey) -> Map<String, Value> {
    let text = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    let elliptic = |curve: &str| {
        let (x, y) = key.key_bits()[1..].split_at((key.key_bits().len() - 1) / 2);
        json!({ "kty": "EC", "crv": curve, "x": text(x), "y": text(y) })
    };
    let value = match key.kind() {
        KeyKind::EcP256 => elliptic("P-256"),
        KeyKind::EcP384 => elliptic("P-384"),
        KeyKind::Ed25519 => json!({ "kty": "OKP", "crv": "Ed25519", "x": text(key.key_bits()) }),
        KeyKind::Rsa { .. } => {
            let (modulus, exponent) = key.rsa_numbers().expect("the kind says RSA");
            json!({ "kty": "RSA", "n": text(modulus), "e": text(exponent) })
        }
        kind @ (KeyKind::MlDsa44 | KeyKind::MlDsa65) => {
            json!({ "kty": "AKP", "alg": kind.to_string(), "pub": text(key.key_bits()) })
        }
    };
    match value {
        Value::Object(members) => members,
        _ => unreachable!("every arm above is an object"),
    }
}

/// The RFC 7638 thumbprint of a key: SHA-256 over its required members in order, base64url. It is the
/// `kid` of our tokens: unique to the key, and the same wherever the key is found again.
#[must_use]
pub fn thumbprint(key: &PublicKey) -> String {
    use aws_lc_rs::digest::{SHA256, digest};
    // In lexical order (RFC 7638 §3.3), which a map of `serde_json` keeps only as long as nothing in the
    // whole build asks for its other kind of map.
    let members: BTreeMap<String, Value> = jwk(key).into_iter().collect();
    let text = serde_json::to_string(&members).expect("a value of our own is always JSON");
    URL_SAFE_NO_PAD.encode(digest(&SHA256, text.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The kid of every token hangs on it, and with it every restart.
    #[test]
    fn the_thumbprint_of_a_published_key_is_the_published_one() {
        // RFC 8037 appendix A.3.
        let x = URL_SAFE_NO_PAD.decode("11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo").unwrap();
        let ed25519 = PublicKey::from_ed25519(x[..].try_into().unwrap()).unwrap();
        assert_eq!(thumbprint(&ed25519), "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k");
        // RFC 7638 §3.1.
        let modulus = URL_SAFE_NO_PAD.decode(concat!(
            "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECP",
            "ebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY",
            "368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0f",
            "M4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw",
        ));
        let rsa = PublicKey::from_rsa(&modulus.unwrap(), &[1, 0, 1]).unwrap();
        assert_eq!(thumbprint(&rsa), "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs");
    }
}
