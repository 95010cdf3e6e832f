//! PEM (RFC 7468) and the files that people hand over: bounded, and PEM or DER by what is in them.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use thiserror::Error;
use zeroize::Zeroizing;

/// Longest file that is read, in bytes: a chain of dozens of certificates.
const LONGEST_FILE: u64 = 1024 * 1024;
/// Most PEM blocks in a file.
const MOST_BLOCKS: usize = 256;

/// Why a file that was handed over cannot be used.
#[derive(Debug, Error)]
pub enum FileError {
    /// It cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file; `-` is standard input.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It does not hold what it should.
    #[error("{} holds no {wanted}: {reason}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What it should hold.
        wanted: &'static str,
        /// Why not.
        reason: String,
    },
}

/// A kind of DER value that has a PEM label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kind {
    /// For people.
    name: &'static str,
    /// Its label, and others in use for it.
    labels: &'static [&'static str],
}

/// A certificate (RFC 7468 §5).
pub const CERTIFICATE: Kind = Kind {
    name: "certificate",
    labels: &["CERTIFICATE", "X509 CERTIFICATE", "TRUSTED CERTIFICATE"],
};
/// A certificate signing request (RFC 7468 §7).
pub const REQUEST: Kind =
    Kind { name: "CSR", labels: &["CERTIFICATE REQUEST", "NEW CERTIFICATE REQUEST"] };
/// A private key in PKCS#8 (RFC 7468 §10).
pub const PRIVATE_KEY: Kind = Kind { name: "private key", labels: &["PRIVATE KEY"] };
/// A public key, `SubjectPublicKeyInfo` (RFC 7468 §13).
pub const PUBLIC_KEY: Kind = Kind { name: "public key", labels: &["PUBLIC KEY"] };

/// Reads the DER values of one kind from a file, at least one. Other PEM blocks and text between them
/// are passed over, as `openssl` writes both.
pub fn read(path: &Path, kind: Kind) -> Result<Vec<Vec<u8>>, FileError> {
    let malformed =
        |reason| FileError::Malformed { path: path.to_owned(), wanted: kind.name, reason };
    let bytes =
        read_bounded(path).map_err(|source| FileError::Read { path: path.to_owned(), source })?;
    if bytes.len() as u64 > LONGEST_FILE {
        return Err(malformed(format!("it is longer than {LONGEST_FILE} bytes")));
    }
    // A DER value of ours is a SEQUENCE; a text never starts with this byte and a length behind it.
    if bytes.first() == Some(&0x30) && !bytes.starts_with(b"0 ") {
        return Ok(vec![bytes]);
    }
    let text = std::str::from_utf8(&bytes)
        .map_err(|_| malformed("it is neither PEM nor DER".to_owned()))?;
    let values = decode(text, kind).map_err(malformed)?;
    if values.is_empty() {
        let label = kind.labels[0];
        return Err(malformed(format!("it is not DER and has no block BEGIN {label}")));
    }
    Ok(values)
}

/// Reads a text that was handed over, `wanted` for people.
pub fn read_text(path: &Path, wanted: &'static str) -> Result<String, FileError> {
    let malformed = |reason| FileError::Malformed { path: path.to_owned(), wanted, reason };
    let bytes =
        read_bounded(path).map_err(|source| FileError::Read { path: path.to_owned(), source })?;
    if bytes.len() as u64 > LONGEST_FILE {
        return Err(malformed(format!("it is longer than {LONGEST_FILE} bytes")));
    }
    String::from_utf8(bytes).map_err(|_| malformed("it is no text".to_owned()))
}

/// The PEM text of a DER value, 64 characters a line.
#[must_use]
pub fn encode(kind: Kind, der: &[u8]) -> Zeroizing<String> {
    let body = Zeroizing::new(STANDARD.encode(der));
    let label = kind.labels[0];
    // Room for everything at once: a private key must not be left behind by a growing text.
    let mut text = Zeroizing::new(String::with_capacity(body.len() / 64 + body.len() + 128));
    text.push_str("-----BEGIN ");
    text.push_str(label);
    text.push_str("-----\n");
    for start in (0..body.len()).step_by(64) {
        text.push_str(&body[start..body.len().min(start + 64)]);
        text.push('\n');
    }
    text.push_str("-----END ");
    text.push_str(label);
    text.push_str("-----\n");
    text
}

/// The values of `kind` in a PEM text.
fn decode(text: &str, kind: Kind) -> Result<Vec<Vec<u8>>, String> {
    let mut values = Vec::new();
    let mut lines = text.lines().map(str::trim_end);
    for _ in 0..MOST_BLOCKS {
        let Some(label) = lines.find_map(|line| boundary(line, "BEGIN")) else { return Ok(values) };
        let mut body = String::new();
        loop {
            let line = lines.next().ok_or_else(|| format!("block {label:?} has no end"))?;
            match boundary(line, "END") {
                Some(end) if end == label => break,
                Some(_) => return Err(format!("block {label:?} ends as another")),
                None => body.push_str(line.trim()),
            }
        }
        if kind.labels.contains(&label) {
            let value = STANDARD.decode(&body);
            values.push(value.map_err(|_| format!("block {label:?} is not base64"))?);
        }
    }
    Err(format!("it has more than {MOST_BLOCKS} blocks"))
}

/// The label of a line that begins or ends a block.
fn boundary<'a>(line: &'a str, edge: &str) -> Option<&'a str> {
    line.strip_prefix("-----")?.strip_prefix(edge)?.strip_prefix(' ')?.strip_suffix("-----")
}

/// The file's bytes, one more than allowed at most.
fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if path.as_os_str() == "-" {
        io::stdin().lock().take(LONGEST_FILE + 1).read_to_end(&mut bytes)?;
    } else {
        File::open(path)?.take(LONGEST_FILE + 1).read_to_end(&mut bytes)?;
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    fn read_content(content: &[u8]) -> Result<Vec<Vec<u8>>, String> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(content).unwrap();
        read(file.path(), CERTIFICATE).map_err(|error| error.to_string())
    }

    #[test]
    fn what_is_written_is_read_back() {
        for length in [0, 1, 47, 48, 49, 500] {
            let der = vec![0xa5; length];
            let text = encode(CERTIFICATE, &der);
            assert!(text.lines().all(|line| line.len() <= 64));
            assert_eq!(read_content(text.as_bytes()).unwrap(), [der]);
        }
    }

    #[test]
    fn text_other_blocks_and_wide_lines_are_read_over() {
        let block = |label: &str, body: &str| {
            format!("-----BEGIN {label}-----\r\n{body}\r\n-----END {label}-----\r\n")
        };
        let wide = "QUJD".repeat(40);
        let text = format!(
            "Certificate:\n  Data: 1\n{}{}\nbetween\n{}",
            block("PRIVATE KEY", "AAAA"),
            block("CERTIFICATE", &wide),
            block("CERTIFICATE", "QUJD"),
        );
        let values = read_content(text.as_bytes()).unwrap();
        assert_eq!(values, [b"ABC".repeat(40), b"ABC".to_vec()]);
    }

    #[test]
    fn broken_files_say_what_is_missing() {
        for (content, reason) in [
            (&b""[..], "no block BEGIN CERTIFICATE"),
            (b"hello", "no block BEGIN CERTIFICATE"),
            (b"\xff\xfe", "neither PEM nor DER"),
            (b"-----BEGIN CERTIFICATE-----\nQUJD\n", "has no end"),
            (b"-----BEGIN CERTIFICATE-----\nQ*JD\n-----END CERTIFICATE-----", "not base64"),
            (b"-----BEGIN CERTIFICATE-----\n-----END PRIVATE KEY-----", "ends as another"),
        ] {
            let error = read_content(content).unwrap_err();
            assert!(error.contains(reason), "{error}");
        }
        assert!(read_content(&vec![b'x'; 2_000_000]).unwrap_err().contains("longer than"));
        assert!(read(Path::new("/nowhere"), REQUEST).unwrap_err().to_string().contains("/nowhere"));
    }
}
