//! Strict DER: a reader for what strangers send and a small writer for what we sign.
//!
//! The reader accepts exactly one encoding of each value (X.690 §10–11): definite, minimal lengths of
//! at most three bytes, minimal integers, low tag numbers. It never allocates and never recurses.

use thiserror::Error;

/// Why bytes are not the DER that was expected. Each names what was being read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum DerError {
    /// The value ends before its length says.
    #[error("{0} is cut short")]
    Truncated(&'static str),
    /// Another tag stands where this value was expected.
    #[error("{what} has tag {found:#04x} where {expected:#04x} is expected")]
    Tag {
        /// What was being read.
        what: &'static str,
        /// The tag that the structure wants here.
        expected: u8,
        /// The tag that is there.
        found: u8,
    },
    /// A length that is indefinite, not minimal, or longer than three bytes.
    #[error("{0} has a length that is not minimal DER")]
    Length(&'static str),
    /// Bytes follow the end of the value.
    #[error("{0} is followed by trailing bytes")]
    Trailing(&'static str),
    /// The content breaks the rules of its type (an integer with padding, a bad BIT STRING).
    #[error("{0} is not valid DER")]
    Value(&'static str),
}

/// Universal and context tags in use (X.680 §8.6), constructed bit included.
pub mod tag {
    #![expect(missing_docs, reason = "the names are those of X.680")]
    pub const BOOLEAN: u8 = 0x01;
    pub const INTEGER: u8 = 0x02;
    pub const BIT_STRING: u8 = 0x03;
    pub const OCTET_STRING: u8 = 0x04;
    pub const NULL: u8 = 0x05;
    pub const OID: u8 = 0x06;
    pub const UTF8_STRING: u8 = 0x0c;
    pub const PRINTABLE_STRING: u8 = 0x13;
    pub const IA5_STRING: u8 = 0x16;
    pub const UTC_TIME: u8 = 0x17;
    pub const GENERALIZED_TIME: u8 = 0x18;
    pub const SEQUENCE: u8 = 0x30;
    pub const SET: u8 = 0x31;

    /// `[number]` IMPLICIT on a primitive type.
    #[must_use]
    pub const fn context(number: u8) -> u8 {
        0x80 | number
    }

    /// `[number]` EXPLICIT, or IMPLICIT on a constructed type.
    #[must_use]
    pub const fn context_constructed(number: u8) -> u8 {
        0xa0 | number
    }
}

/// One value: its tag, its content, and the bytes of the whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tlv<'a> {
    /// The identifier octet.
    pub tag: u8,
    /// The content octets.
    pub value: &'a [u8],
    /// Identifier, length and content octets.
    pub whole: &'a [u8],
}

/// Reads values one after another from a slice.
#[derive(Debug, Clone)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// A reader at the start of `input`.
    #[must_use]
    pub fn new(input: &'a [u8]) -> Self {
        Self { rest: input }
    }

    /// Whether everything has been read.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// The tag of the next value, if there is one.
    #[must_use]
    pub fn peek(&self) -> Option<u8> {
        self.rest.first().copied()
    }

    /// The next value, whatever its tag.
    pub fn any(&mut self, what: &'static str) -> Result<Tlv<'a>, DerError> {
        let input = self.rest;
        let [tag, first, ..] = *input else { return Err(DerError::Truncated(what)) };
        if tag & 0x1f == 0x1f {
            return Err(DerError::Value(what));
        }
        let (header, length) = match first {
            0..=0x7f => (2, usize::from(first)),
            0x81..=0x83 => {
                let count = usize::from(first & 0x7f);
                let digits = input.get(2..2 + count).ok_or(DerError::Truncated(what))?;
                let length = digits.iter().fold(0, |sum, &byte| sum << 8 | usize::from(byte));
                if digits[0] == 0 || length < 0x80 {
                    return Err(DerError::Length(what));
                }
                (2 + count, length)
            }
            _ => return Err(DerError::Length(what)),
        };
        let end = header + length;
        let value = input.get(header..end).ok_or(DerError::Truncated(what))?;
        self.rest = &input[end..];
        Ok(Tlv { tag, value, whole: &input[..end] })
    }

    /// The next value, which must have this tag.
    pub fn expect(&mut self, expected: u8, what: &'static str) -> Result<Tlv<'a>, DerError> {
        match self.peek() {
            Some(found) if found != expected => Err(DerError::Tag { what, expected, found }),
            _ => self.any(what),
        }
    }

    /// The next value if it has this tag; nothing is read otherwise.
    pub fn optional(&mut self, tag: u8, what: &'static str) -> Result<Option<Tlv<'a>>, DerError> {
        if self.peek() == Some(tag) { self.any(what).map(Some) } else { Ok(None) }
    }

    /// A reader over the content of the next value, which must have this tag.
    pub fn enter(&mut self, tag: u8, what: &'static str) -> Result<Self, DerError> {
        self.expect(tag, what).map(|tlv| Self::new(tlv.value))
    }

    /// A non-negative INTEGER's magnitude, without its sign byte (X.690 §8.3.2: minimal).
    pub fn unsigned(&mut self, what: &'static str) -> Result<&'a [u8], DerError> {
        match self.expect(tag::INTEGER, what)?.value {
            [] | [0x80..=0xff, ..] | [0, 0..=0x7f, ..] => Err(DerError::Value(what)),
            [0] => Ok(&[0]),
            [0, magnitude @ ..] => Ok(magnitude),
            magnitude => Ok(magnitude),
        }
    }

    /// An OBJECT IDENTIFIER's content: every arc in the fewest bytes, the last complete (X.690 §8.19.2).
    pub fn oid(&mut self, what: &'static str) -> Result<&'a [u8], DerError> {
        let oid = self.expect(tag::OID, what)?.value;
        let padded =
            |(index, &byte): (usize, &u8)| byte == 0x80 && (index == 0 || oid[index - 1] < 0x80);
        match oid.last() {
            Some(..=0x7f) if !oid.iter().enumerate().any(padded) => Ok(oid),
            _ => Err(DerError::Value(what)),
        }
    }

    /// A BIT STRING of whole bytes (X.690 §8.6.2.2 with no unused bits).
    pub fn bit_string(&mut self, what: &'static str) -> Result<&'a [u8], DerError> {
        match self.expect(tag::BIT_STRING, what)?.value {
            [0, bytes @ ..] => Ok(bytes),
            _ => Err(DerError::Value(what)),
        }
    }

    /// A BOOLEAN (X.690 §11.1: `ff` is the only true).
    pub fn boolean(&mut self, what: &'static str) -> Result<bool, DerError> {
        match self.expect(tag::BOOLEAN, what)?.value {
            [0] => Ok(false),
            [0xff] => Ok(true),
            _ => Err(DerError::Value(what)),
        }
    }

    /// Ends the reading: nothing may be left.
    pub fn finish(self, what: &'static str) -> Result<(), DerError> {
        if self.rest.is_empty() { Ok(()) } else { Err(DerError::Trailing(what)) }
    }
}

/// Reads one value that must fill `input` entirely.
pub fn sole<'a>(input: &'a [u8], tag: u8, what: &'static str) -> Result<Reader<'a>, DerError> {
    let mut outer = Reader::new(input);
    let inner = outer.enter(tag, what)?;
    outer.finish(what)?;
    Ok(inner)
}

/// How many bytes the identifier and length octets of a value with `content` bytes take.
#[must_use]
pub fn header_length(content: usize) -> usize {
    match content {
        0..=0x7f => 2,
        0x80..=0xff => 3,
        0x100..=0xffff => 4,
        _ => 5,
    }
}

/// Appends identifier and length octets for `content` bytes to come.
///
/// # Panics
/// If `content` is 16 MiB or more; nothing that Mintmark encodes comes near.
pub fn write_header(out: &mut Vec<u8>, tag: u8, content: usize) {
    assert!(content < 1 << 24, "a DER value of Mintmark is far below 16 MiB");
    let [_, a, b, c] = u32::try_from(content).expect("checked above").to_be_bytes();
    match header_length(content) {
        2 => out.extend_from_slice(&[tag, c]),
        3 => out.extend_from_slice(&[tag, 0x81, c]),
        4 => out.extend_from_slice(&[tag, 0x82, b, c]),
        _ => out.extend_from_slice(&[tag, 0x83, a, b, c]),
    }
}

/// Appends one value.
pub fn write(out: &mut Vec<u8>, tag: u8, content: &[u8]) {
    write_header(out, tag, content.len());
    out.extend_from_slice(content);
}

/// One value whose content is the given parts, one after another.
#[must_use]
pub fn encode(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let content = parts.iter().map(|part| part.len()).sum();
    let mut out = Vec::with_capacity(header_length(content) + content);
    write_header(&mut out, tag, content);
    for part in parts {
        out.extend_from_slice(part);
    }
    out
}

/// Appends a positive INTEGER with the given magnitude (leading zeros dropped, sign byte added).
pub fn write_unsigned(out: &mut Vec<u8>, magnitude: &[u8]) {
    let first = magnitude.iter().position(|&byte| byte != 0).unwrap_or(magnitude.len());
    let digits = &magnitude[first..];
    let padded = digits.first().is_none_or(|&byte| byte >= 0x80);
    write_header(out, tag::INTEGER, digits.len() + usize::from(padded));
    if padded {
        out.push(0);
    }
    out.extend_from_slice(digits);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn only_the_one_minimal_length_is_read() {
        let read = |bytes: &[u8]| Reader::new(bytes).any("value").map(|tlv| tlv.value.len());
        assert_eq!(read(&[0x04, 0x01, 0xaa]), Ok(1));
        assert_eq!(read(&[0x04, 0x81, 0x01, 0xaa]), Err(DerError::Length("value")));
        assert_eq!(read(&[0x04, 0x82, 0x00, 0x80]), Err(DerError::Length("value")));
        assert_eq!(read(&[0x30, 0x80, 0x00, 0x00]), Err(DerError::Length("value")));
        assert_eq!(read(&[0x04, 0x84, 0, 0, 0, 1, 0]), Err(DerError::Length("value")));
        assert_eq!(read(&[0x04, 0x02, 0xaa]), Err(DerError::Truncated("value")));
        assert_eq!(read(&[0x04]), Err(DerError::Truncated("value")));
        assert_eq!(read(&[0x1f, 0x81, 0x01]), Err(DerError::Value("value")));
    }

    #[test]
    fn only_minimal_non_negative_integers_are_read() {
        let read = |bytes: &[u8]| Reader::new(bytes).unsigned("n").map(<[u8]>::to_vec);
        assert_eq!(read(&[2, 1, 0]), Ok(vec![0]));
        assert_eq!(read(&[2, 1, 0x7f]), Ok(vec![0x7f]));
        assert_eq!(read(&[2, 2, 0, 0x80]), Ok(vec![0x80]));
        assert_eq!(read(&[2, 2, 0, 0x7f]), Err(DerError::Value("n")));
        assert_eq!(read(&[2, 3, 0, 0, 0x80]), Err(DerError::Value("n")));
        assert_eq!(read(&[2, 1, 0x80]), Err(DerError::Value("n")));
        assert_eq!(read(&[2, 0]), Err(DerError::Value("n")));
    }

    #[test]
    fn only_minimal_object_identifiers_are_read() {
        let read = |bytes: &[u8]| Reader::new(bytes).oid("type").map(<[u8]>::to_vec);
        assert_eq!(read(&[6, 3, 0x55, 0x1d, 0x11]), Ok(vec![0x55, 0x1d, 0x11]));
        assert_eq!(read(&[6, 4, 0x2a, 0x81, 0x80, 0x01]), Ok(vec![0x2a, 0x81, 0x80, 0x01]));
        assert_eq!(read(&[6, 0]), Err(DerError::Value("type")));
        assert_eq!(read(&[6, 2, 0x2a, 0x86]), Err(DerError::Value("type")));
        assert_eq!(read(&[6, 2, 0x80, 0x01]), Err(DerError::Value("type")));
        assert_eq!(read(&[6, 3, 0x2a, 0x80, 0x01]), Err(DerError::Value("type")));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(content in proptest::collection::vec(any::<u8>(), 0..70_000)) {
            let mut out = Vec::new();
            write(&mut out, tag::OCTET_STRING, &content);
            let mut reader = Reader::new(&out);
            let tlv = reader.expect(tag::OCTET_STRING, "value").unwrap();
            prop_assert_eq!(tlv.value, &content[..]);
            prop_assert_eq!(tlv.whole, &out[..]);
            prop_assert!(reader.finish("value").is_ok());
        }

        #[test]
        fn integers_survive_writing_and_reading(magnitude in proptest::collection::vec(any::<u8>(), 0..40)) {
            let mut out = Vec::new();
            write_unsigned(&mut out, &magnitude);
            let first = magnitude.iter().position(|&byte| byte != 0).unwrap_or(magnitude.len());
            let expected = if first == magnitude.len() { &[0][..] } else { &magnitude[first..] };
            prop_assert_eq!(Reader::new(&out).unsigned("n").unwrap(), expected);
        }

        #[test]
        fn no_bytes_make_the_reader_panic(input in proptest::collection::vec(any::<u8>(), 0..64)) {
            let mut reader = Reader::new(&input);
            while reader.any("value").is_ok() && !reader.is_empty() {}
        }
    }
}
