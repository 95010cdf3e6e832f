//! What certificates of a kind look like: the extensions that depend on nothing but the kind.

use std::fmt;

use crate::key::KeyKind;

/// A kind of certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Profile {
    /// The X509-SVID of a workload.
    Workload,
    /// The X509-SVID of an attested node's agent.
    Agent,
    /// The X509-SVID with which this service itself answers.
    Server,
    /// A CA certificate for a downstream server of the same trust domain.
    DownstreamCa,
    /// The CA certificate of a short-lived key that issues leaves in the authority's stead.
    IssuingCa,
    /// The self-signed certificate of the trust domain's own authority.
    Root,
}

impl Profile {
    /// Every kind, in the order of their declaration.
    pub const ALL: [Self; 6] = [
        Self::Workload,
        Self::Agent,
        Self::Server,
        Self::DownstreamCa,
        Self::IssuingCa,
        Self::Root,
    ];

    /// Whether certificates of this kind may sign others (X509-SVID §4.1).
    #[must_use]
    pub fn is_ca(self) -> bool {
        matches!(self, Self::DownstreamCa | Self::IssuingCa | Self::Root)
    }

    /// Whether the authority's own key signs certificates of this kind, also where a short-lived key issues others: CA
    /// certificates, and those of the service itself, which are few and outlive such a key's.
    #[must_use]
    pub fn is_of_authority(self) -> bool {
        self.is_ca() || self == Self::Server
    }

    /// How many CA certificates may stand between one of this kind and a leaf, if that is bounded (RFC 5280
    /// §4.2.1.9). A downstream server may have servers below it.
    #[must_use]
    pub fn path_length(self) -> Option<u8> {
        matches!(self, Self::IssuingCa).then_some(0)
    }

    /// The key usages of a certificate of this kind for a key of that kind.
    ///
    /// X509-SVID §4.3: a CA signs certificates (and lists of revoked ones), a leaf makes signatures. An
    /// RSA leaf may also receive an encrypted key; for an elliptic curve that bit is forbidden (RFC 8813 §3).
    #[must_use]
    pub fn key_usage(self, key: KeyKind) -> KeyUsage {
        match (self.is_ca(), key) {
            (true, _) => KeyUsage::KEY_CERT_SIGN.with(KeyUsage::CRL_SIGN),
            (false, KeyKind::Rsa { .. }) => {
                KeyUsage::DIGITAL_SIGNATURE.with(KeyUsage::KEY_ENCIPHERMENT)
            }
            (false, _) => KeyUsage::DIGITAL_SIGNATURE,
        }
    }
}

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Workload => "workload",
            Self::Agent => "agent",
            Self::Server => "server",
            Self::DownstreamCa => "downstream-ca",
            Self::IssuingCa => "issuing-ca",
            Self::Root => "root",
        })
    }
}

/// The bits of the key usage extension (RFC 5280 §4.2.1.3). Bit 0 of the standard is the top bit here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct KeyUsage(u8);

impl KeyUsage {
    /// Signatures other than those on certificates and revocation lists.
    pub const DIGITAL_SIGNATURE: Self = Self(0x80);
    /// Transport of a key encrypted to this one.
    pub const KEY_ENCIPHERMENT: Self = Self(0x20);
    /// Signatures on certificates.
    pub const KEY_CERT_SIGN: Self = Self(0x04);
    /// Signatures on revocation lists.
    pub const CRL_SIGN: Self = Self(0x02);

    /// Both sets of bits.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether all bits of `other` are set.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Reads the content of the extension: a named-bit BIT STRING without trailing zero bits
    /// (X.690 §11.2.2). `None` if it is not that, is empty, or sets the ninth bit, `decipherOnly`.
    #[must_use]
    pub fn from_bit_string(content: &[u8]) -> Option<Self> {
        match *content {
            [unused, bits] if bits != 0 && u32::from(unused) == bits.trailing_zeros() => {
                Some(Self(bits))
            }
            _ => None,
        }
    }

    /// The content of the BIT STRING.
    #[must_use]
    pub const fn bit_string(self) -> [u8; 2] {
        // A u8 has at most 8 trailing zeros, and a usage has at least one bit.
        [self.0.trailing_zeros() as u8, self.0]
    }
}
