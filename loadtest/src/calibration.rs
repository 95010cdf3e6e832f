//! How fast this machine signs and verifies at the moment: a figure of another minute, or machine, is worth
//! little without it.

use std::time::{Duration, Instant};

use aws_lc_rs::error::Unspecified;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _,
    ParsedPublicKey,
};
use serde::{Serialize, Serializer};

/// One operation each, on one thread, by the library that Mintmark itself has. The median of slices, so
/// that a moment in which the machine did something else is not in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Calibration {
    /// An ECDSA P-256 signature over SHA-256.
    #[serde(rename = "sign_p256_us", serialize_with = "microseconds")]
    pub sign: Duration,
    /// Its verification.
    #[serde(rename = "verify_p256_us", serialize_with = "microseconds")]
    pub verify: Duration,
}

/// How many bytes are signed: about those of an SVID's certificate.
const MESSAGE: [u8; 400] = [7; 400];
/// How many slices are measured, and how long each lasts.
const SLICES: usize = 21;
const SLICE: Duration = Duration::from_millis(8);

impl Calibration {
    /// Measures for about a third of a second.
    pub fn measure() -> Result<Self, Unspecified> {
        let random = SystemRandom::new();
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING)?;
        let key = ParsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, pair.public_key())
            .map_err(|_| Unspecified)?;
        let signature = pair.sign(&random, &MESSAGE)?;
        Ok(Self {
            sign: median(|| pair.sign(&random, &MESSAGE).map(|_| ()))?,
            verify: median(|| key.verify_sig(&MESSAGE, signature.as_ref()))?,
        })
    }
}

fn median(mut operation: impl FnMut() -> Result<(), Unspecified>) -> Result<Duration, Unspecified> {
    let mut slices = Vec::with_capacity(SLICES);
    for _ in 0..SLICES {
        let (start, mut count) = (Instant::now(), 0);
        while start.elapsed() < SLICE {
            operation()?;
            count += 1;
        }
        slices.push(start.elapsed() / count);
    }
    slices.sort_unstable();
    Ok(slices[SLICES / 2])
}

fn microseconds<S: Serializer>(span: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64((span.as_secs_f64() * 1e8).round() / 1e2)
}
