//! Verifies SVIDs as a stranger would who holds nothing but the bundle: from the texts that were handed
//! over, with code that shares nothing with the code that issues.

use std::time::Duration;

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, RSA_PKCS1_2048_8192_SHA256,
    RsaPublicKeyComponents, UnparsedPublicKey,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ca_core::clock::Timestamp;
use rustls_pki_types::{CertificateDer, SignatureVerificationAlgorithm, UnixTime};
use serde_json::Value;
use thiserror::Error;
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert, aws_lc_rs as algorithms};

use crate::certificate::{CertificateError, CertificateView};

/// Why an SVID does not convince a stranger.
#[derive(Debug, Error)]
pub enum Doubt {
    /// The chain does not lead from the bundle to the leaf.
    #[error("X.509-SVID does not verify against the bundle: {0}")]
    Chain(webpki::Error),
    /// The leaf cannot be read, or its id is not the one that was asked for.
    #[error("X.509-SVID: {0}")]
    Leaf(String),
    /// The token does not hold.
    #[error("JWT-SVID: {0}")]
    Token(&'static str),
}

impl From<CertificateError> for Doubt {
    fn from(error: CertificateError) -> Self {
        Self::Leaf(error.to_string())
    }
}

/// What a stranger may rely on for ECDSA, RSA and Ed25519 as Mintmark signs certificates.
const ALGORITHMS: &[&dyn SignatureVerificationAlgorithm] = &[
    algorithms::ECDSA_P256_SHA256,
    algorithms::ECDSA_P384_SHA384,
    algorithms::RSA_PKCS1_2048_8192_SHA256,
    algorithms::ED25519,
];

/// Verifies an X509-SVID (X509-SVID §5): the path from one of `roots` to the leaf, for clients and for
/// servers, and the one SPIFFE ID. `chain` is leaf first; all are DER.
pub fn verify_x509(
    chain: &[Vec<u8>],
    roots: &[Vec<u8>],
    expected_id: &str,
    now: Timestamp,
) -> Result<(), Doubt> {
    let chain: Vec<CertificateDer<'_>> = chain.iter().map(|der| der.as_slice().into()).collect();
    let roots: Vec<CertificateDer<'_>> = roots.iter().map(|der| der.as_slice().into()).collect();
    let anchors = roots
        .iter()
        .map(anchor_from_trusted_cert)
        .collect::<Result<Vec<_>, _>>()
        .map_err(Doubt::Chain)?;
    let [leaf, intermediates @ ..] = &chain[..] else {
        return Err(Doubt::Leaf("there is no certificate".to_owned()));
    };
    let entity = EndEntityCert::try_from(leaf).map_err(Doubt::Chain)?;
    for usage in [KeyUsage::client_auth(), KeyUsage::server_auth()] {
        let time = UnixTime::since_unix_epoch(now.since(Timestamp::EPOCH));
        entity
            .verify_for_usage(ALGORITHMS, &anchors, intermediates, time, usage, None, None)
            .map_err(Doubt::Chain)?;
    }
    let view = CertificateView::of(leaf, now)?;
    match view.spiffe_id.as_deref() {
        Some(id) if id == expected_id && !view.ca => Ok(()),
        other => Err(Doubt::Leaf(format!("it is for {other:?}, not for {expected_id}"))),
    }
}

/// How far a verifier's clock may be behind the issuer's.
const LEEWAY: Duration = Duration::from_secs(10);

/// Verifies a JWT-SVID (JWT-SVID §5) with a JWK Set: its signature by the key of its `kid`, its id, its
/// audience and its life.
pub fn verify_jwt(
    token: &str,
    jwks: &str,
    expected_id: &str,
    audience: &str,
    now: Timestamp,
) -> Result<(), Doubt> {
    let (signed, signature) = token.rsplit_once('.').ok_or(Doubt::Token("it is no JWS"))?;
    let (header, claims) = signed.split_once('.').ok_or(Doubt::Token("it is no JWS"))?;
    let signature = decode(signature)?;
    let (header, claims) = (decode_json(header)?, decode_json(claims)?);

    let jwks: Value =
        serde_json::from_str(jwks).map_err(|_| Doubt::Token("the JWKS is not JSON"))?;
    let jwk = jwks["keys"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|jwk| jwk["kid"].is_string() && jwk["kid"] == header["kid"])
        .ok_or(Doubt::Token("the bundle has no key of its kid"))?;
    verify_signature(&header, jwk, signed.as_bytes(), &signature)?;

    if claims["sub"] != expected_id {
        return Err(Doubt::Token("its subject is another"));
    }
    let for_audience = match &claims["aud"] {
        Value::Array(values) => values.iter().any(|value| value == audience),
        value => value == audience,
    };
    if !for_audience {
        return Err(Doubt::Token("it is for another audience"));
    }
    if claims["iat"].as_i64().is_none_or(|iat| iat > now.plus(LEEWAY).unix()) {
        return Err(Doubt::Token("it is not valid yet"));
    }
    if claims["exp"].as_i64().is_none_or(|exp| exp <= now.unix()) {
        return Err(Doubt::Token("it has ended"));
    }
    Ok(())
}

/// The algorithm is the one of the key; that of the header must agree (RFC 8725 §3.1).
fn verify_signature(
    header: &Value,
    jwk: &Value,
    signed: &[u8],
    signature: &[u8],
) -> Result<(), Doubt> {
    let wrong = |_| Doubt::Token("its signature is wrong");
    let member = |name: &str| decode(jwk[name].as_str().unwrap_or_default());
    match (header["alg"].as_str(), jwk["kty"].as_str(), jwk["crv"].as_str()) {
        (Some("ES256"), Some("EC"), Some("P-256")) => {
            let point = [vec![4], member("x")?, member("y")?].concat();
            let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point);
            key.verify(signed, signature).map_err(wrong)
        }
        (Some("ES384"), Some("EC"), Some("P-384")) => {
            let point = [vec![4], member("x")?, member("y")?].concat();
            let key = UnparsedPublicKey::new(&ECDSA_P384_SHA384_FIXED, point);
            key.verify(signed, signature).map_err(wrong)
        }
        (Some("RS256"), Some("RSA"), None) => {
            let key = RsaPublicKeyComponents { n: member("n")?, e: member("e")? };
            key.verify(&RSA_PKCS1_2048_8192_SHA256, signed, signature).map_err(wrong)
        }
        _ => Err(Doubt::Token("its algorithm is not that of the key")),
    }
}

fn decode(text: &str) -> Result<Vec<u8>, Doubt> {
    URL_SAFE_NO_PAD.decode(text).map_err(|_| Doubt::Token("a part is not base64url"))
}

fn decode_json(text: &str) -> Result<Value, Doubt> {
    serde_json::from_slice(&decode(text)?).map_err(|_| Doubt::Token("a part is not JSON"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use aws_lc_rs::rand::SystemRandom;
    use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
    use serde_json::json;

    const NOW: i64 = 1_700_000_000;

    /// A token and the JWKS that verifies it, by a key of this test.
    fn signed(header: Value, claims: &Value) -> (String, String) {
        let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let text = format!("{}.{}", part(&header), part(claims));
        let signature = key.sign(&SystemRandom::new(), text.as_bytes()).unwrap();
        let (x, y) = key.public_key().as_ref()[1..].split_at(32);
        let jwk = json!({ "kty": "EC", "crv": "P-256", "kid": "k",
            "x": URL_SAFE_NO_PAD.encode(x), "y": URL_SAFE_NO_PAD.encode(y) });
        let token = format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature));
        (token, json!({ "keys": [jwk] }).to_string())
    }

    fn verify(token: &str, jwks: &str) -> Result<(), String> {
        verify_jwt(token, jwks, "spiffe://a/b", "aud", Timestamp::from_unix(NOW))
            .map_err(|doubt| doubt.to_string())
    }

    #[test]
    fn a_token_convinces_only_as_a_whole() {
        let header = json!({ "alg": "ES256", "kid": "k" });
        let claims = |name: &str, value: Value| {
            let mut claims =
                json!({ "sub": "spiffe://a/b", "aud": ["aud"], "iat": NOW, "exp": NOW + 1 });
            claims[name] = value;
            claims
        };
        let (token, jwks) = signed(header.clone(), &claims("iat", json!(NOW)));
        assert_eq!(verify(&token, &jwks), Ok(()));
        let (_, others) = signed(header.clone(), &claims("iat", json!(NOW)));
        assert!(verify(&token, &others).unwrap_err().contains("signature is wrong"));
        for (name, value, said) in [
            ("sub", json!("spiffe://a/c"), "subject"),
            ("aud", json!(["other"]), "audience"),
            ("aud", json!("other"), "audience"),
            ("aud", json!(1), "audience"),
            ("exp", json!(NOW), "has ended"),
            ("iat", json!(NOW + 11), "not valid yet"),
        ] {
            let (token, jwks) = signed(header.clone(), &claims(name, value));
            assert!(verify(&token, &jwks).unwrap_err().contains(said), "{name}");
        }
        for (header, said) in [
            (json!({ "alg": "none", "kid": "k" }), "algorithm"),
            (json!({ "alg": "RS256", "kid": "k" }), "algorithm"),
            (json!({ "alg": "ES256", "kid": "other" }), "no key of its kid"),
            (json!({ "alg": "ES256" }), "no key of its kid"),
        ] {
            let (token, jwks) = signed(header, &claims("iat", json!(NOW)));
            assert!(verify(&token, &jwks).unwrap_err().contains(said), "{said}");
        }
        for text in ["", "a", "a.b", "a.b.c", "..", "e30.e30."] {
            assert!(verify(text, &jwks).is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_chain_that_does_not_come_from_the_bundle_does_not_convince() {
        let now = Timestamp::from_unix(NOW);
        assert!(verify_x509(&[], &[], "spiffe://a/b", now).is_err());
        assert!(verify_x509(&[vec![0x30, 0]], &[], "spiffe://a/b", now).is_err());
    }
}
