//! Serial numbers: always 20 bytes, so that a template's length is fixed, and never twice the same.

use std::cell::RefCell;
use std::fmt;

use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use thiserror::Error;

/// A certificate serial number (RFC 5280 §4.1.2.2): 20 bytes whose first is 01 to 7f, so that it is
/// positive, not zero, and has one length.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Serial([u8; Self::LENGTH]);

impl Serial {
    /// How many bytes a serial number has: the most that RFC 5280 §4.1.2.2 allows.
    pub const LENGTH: usize = 20;

    /// Makes any 20 bytes a serial number: the first is brought into 01 to 7f. At least 158 of the 160
    /// bits stay as they are.
    #[must_use]
    pub fn from_bytes(mut bytes: [u8; Self::LENGTH]) -> Self {
        bytes[0] &= 0x7f;
        if bytes[0] == 0 {
            bytes[0] = 0x40;
        }
        Self(bytes)
    }

    /// Its bytes, big-endian.
    #[must_use]
    pub fn bytes(&self) -> &[u8; Self::LENGTH] {
        &self.0
    }
}

/// Lower-case hexadecimal.
impl fmt::Display for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Serial({self})")
    }
}

/// No serial number could be drawn: the operating system gave no randomness.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the operating system gave no random bytes for a serial number")]
pub struct SerialError;

/// Where serial numbers come from.
pub trait SerialSource: Send + Sync {
    /// A serial number that this trust domain has not used before.
    fn next(&self) -> Result<Serial, SerialError>;
}

/// Serial numbers of 158 random bits, which need no coordination between signers.
///
/// Bytes are drawn from the operating system's generator for many at once: a call for each costs as much
/// as encoding three certificates.
#[derive(Debug, Default)]
pub struct RandomSerials(SystemRandom);

impl RandomSerials {
    /// A source over the operating system's generator.
    #[must_use]
    pub fn new() -> Self {
        Self(SystemRandom::new())
    }
}

/// How many serial numbers are drawn at once.
const DRAWN: usize = 64;

/// What a thread has drawn and not yet given out.
struct Stock {
    bytes: [[u8; Serial::LENGTH]; DRAWN],
    left: usize,
}

thread_local! {
    static STOCK: RefCell<Stock> =
        const { RefCell::new(Stock { bytes: [[0; Serial::LENGTH]; DRAWN], left: 0 }) };
}

impl SerialSource for RandomSerials {
    fn next(&self) -> Result<Serial, SerialError> {
        STOCK.with_borrow_mut(|stock| {
            if stock.left == 0 {
                self.0.fill(stock.bytes.as_flattened_mut()).map_err(|_| SerialError)?;
                stock.left = DRAWN;
            }
            stock.left -= 1;
            Ok(Serial::from_bytes(stock.bytes[stock.left]))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_serial_is_positive_and_of_full_length() {
        assert_eq!(Serial::from_bytes([0; 20]).bytes()[0], 0x40);
        assert_eq!(Serial::from_bytes([0xff; 20]).bytes()[0], 0x7f);
        assert_eq!(Serial::from_bytes([0x80; 20]).bytes()[0], 0x40);
        let source = RandomSerials::new();
        let drawn: std::collections::HashSet<_> =
            (0..10_000).map(|_| source.next().unwrap()).collect();
        assert_eq!(drawn.len(), 10_000);
        assert!(drawn.iter().all(|serial| (0x01..=0x7f).contains(&serial.bytes()[0])));
    }
}
