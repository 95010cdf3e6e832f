//! Identifiers: UUIDs, ARNs, access keys.

use super::{FakeKmsError, REGION};

/// The account of AWS's own documentation.
pub(super) const ACCOUNT: &str = "111122223333";

/// The beginning of every ARN of this account's keys and aliases.
pub(super) fn arn_prefix() -> String {
    format!("arn:aws:kms:{REGION}:{ACCOUNT}:")
}

/// The ARN of a key.
pub(super) fn key_arn(id: &str) -> String {
    format!("{}key/{id}", arn_prefix())
}

/// The ARN of an alias, whose name begins with `alias/`.
pub(super) fn alias_arn(name: &str) -> String {
    format!("{}{name}", arn_prefix())
}

/// A random UUID (RFC 9562 §5.4): ids of keys and of requests.
pub(super) fn uuid() -> Result<String, FakeKmsError> {
    let mut bytes = random::<16>()?;
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex = hex(&bytes);
    Ok([&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-"))
}

/// Random bytes of the system.
pub(super) fn random<const N: usize>() -> Result<[u8; N], FakeKmsError> {
    let mut bytes = [0; N];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| FakeKmsError::Random)?;
    Ok(bytes)
}

/// Lower-case hexadecimal digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digits = bytes.iter().flat_map(|byte| [byte >> 4, byte & 0xf]);
    digits.map(|digit| char::from(DIGITS[usize::from(digit)])).collect()
}
