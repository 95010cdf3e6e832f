//! Distinguished names: the subject and issuer of a certificate (RFC 5280 §4.1.2.4, appendix A.1).

use std::fmt;

use bytes::Bytes;
use thiserror::Error;

use crate::der::{self, DerError, Reader, tag};
use crate::dns::DnsName;

/// Longest name in bytes of DER.
pub const LONGEST_NAME: usize = 2048;
/// Most relative distinguished names in a name.
pub const MOST_PARTS: usize = 16;

/// A strictly checked `Name`, as the DER that goes into a certificate. Cloning shares the bytes; two
/// names are equal if their bytes are.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Name(Bytes);

impl Name {
    /// The name that says nothing: a SEQUENCE without content.
    #[must_use]
    pub fn empty() -> Self {
        Self(Bytes::from_static(b"\x30\x00"))
    }

    /// Reads DER. Each value must be a PrintableString, UTF8String or IA5String with the characters of
    /// its type, no longer than its attribute allows (RFC 5280 appendix A.1); the parts of a
    /// multi-valued RDN in DER's order (X.690 §11.6).
    pub fn from_der(der: &[u8]) -> Result<Self, NameError> {
        if der == Self::empty().der() {
            return Ok(Self::empty());
        }
        if der.len() > LONGEST_NAME {
            return Err(NameError::TooLong(der.len()));
        }
        let mut rdns = der::sole(der, tag::SEQUENCE, "name")?;
        let mut count = 0;
        while !rdns.is_empty() {
            count += 1;
            if count > MOST_PARTS {
                return Err(NameError::TooManyParts);
            }
            check_rdn(rdns.enter(tag::SET, "RDN")?)?;
        }
        Ok(Self(Bytes::copy_from_slice(der)))
    }

    /// The name of the given attributes, one RDN each, in their order. Values are PrintableString where
    /// their characters allow it and UTF8String otherwise (RFC 5280 §4.1.2.4).
    pub fn from_attributes(attributes: &[(Attribute, &str)]) -> Result<Self, NameError> {
        let length = attributes.iter().map(|(_, value)| value.len()).sum();
        if length > LONGEST_NAME {
            return Err(NameError::TooLong(length));
        }
        let rdns: Vec<Vec<u8>> =
            attributes.iter().map(|&(attribute, value)| encode_rdn(attribute, value)).collect();
        Self::from_rdns(&rdns)
    }

    /// This name with `host` as its one common name, in the last place. Fails with
    /// [`NameError::ValueLength`] if the host name has more than the 64 characters that a common name
    /// may have; such a name is a subject alternative name only.
    pub fn with_common_name(&self, host: &DnsName) -> Result<Self, NameError> {
        let mut rdns: Vec<Vec<u8>> = Vec::new();
        for rdn in self.rdns() {
            let others: Vec<Vec<u8>> = rdn
                .filter(|part| part.attribute != Some(Attribute::CommonName))
                .map(|part| part.whole.to_vec())
                .collect();
            if !others.is_empty() {
                rdns.push(der::encode(tag::SET, &[&others.concat()]));
            }
        }
        rdns.push(encode_rdn(Attribute::CommonName, host.as_str()));
        Self::from_rdns(&rdns)
    }

    fn from_rdns(rdns: &[Vec<u8>]) -> Result<Self, NameError> {
        Self::from_der(&der::encode(tag::SEQUENCE, &[&rdns.concat()]))
    }

    /// The DER, a SEQUENCE.
    #[must_use]
    pub fn der(&self) -> &[u8] {
        &self.0
    }

    /// Whether it says nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.len() == 2
    }

    /// The parts of each RDN, in the order of the encoding.
    fn rdns(&self) -> impl Iterator<Item = impl Iterator<Item = Part<'_>>> {
        let mut rdns = der::sole(&self.0, tag::SEQUENCE, "name").expect("checked by from_der");
        std::iter::from_fn(move || {
            let mut parts = (!rdns.is_empty())
                .then(|| rdns.enter(tag::SET, "RDN").expect("checked by from_der"))?;
            Some(std::iter::from_fn(move || {
                (!parts.is_empty()).then(|| Part::read(&mut parts).expect("checked by from_der"))
            }))
        })
    }
}

/// The attributes that Mintmark writes itself or knows by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Attribute {
    /// `CN`.
    CommonName,
    /// `serialNumber`: of a device or authority, not of a certificate.
    SerialNumber,
    /// `C`, two letters.
    Country,
    /// `L`, a place.
    Locality,
    /// `ST`.
    State,
    /// `STREET`.
    Street,
    /// `O`.
    Organization,
    /// `OU`.
    OrganizationalUnit,
    /// `postalCode`.
    PostalCode,
    /// `DC`, one label of a domain name.
    DomainComponent,
}

/// Which strings an attribute takes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    /// A DirectoryString: PrintableString or UTF8String (all else is for old certificates only).
    Directory,
    Printable,
    Ia5,
}

impl Attribute {
    const ALL: [Self; 10] = [
        Self::CommonName,
        Self::SerialNumber,
        Self::Country,
        Self::Locality,
        Self::State,
        Self::Street,
        Self::Organization,
        Self::OrganizationalUnit,
        Self::PostalCode,
        Self::DomainComponent,
    ];

    /// The content of its OBJECT IDENTIFIER.
    fn oid(self) -> &'static [u8] {
        match self {
            Self::CommonName => b"\x55\x04\x03",
            Self::SerialNumber => b"\x55\x04\x05",
            Self::Country => b"\x55\x04\x06",
            Self::Locality => b"\x55\x04\x07",
            Self::State => b"\x55\x04\x08",
            Self::Street => b"\x55\x04\x09",
            Self::Organization => b"\x55\x04\x0a",
            Self::OrganizationalUnit => b"\x55\x04\x0b",
            Self::PostalCode => b"\x55\x04\x11",
            // 0.9.2342.19200300.100.1.25
            Self::DomainComponent => b"\x09\x92\x26\x89\x93\xf2\x2c\x64\x01\x19",
        }
    }

    /// The short name of RFC 4514 §3, or as SPIRE's language prints those that are not in it.
    fn label(self) -> &'static str {
        match self {
            Self::CommonName => "CN",
            Self::SerialNumber => "SERIALNUMBER",
            Self::Country => "C",
            Self::Locality => "L",
            Self::State => "ST",
            Self::Street => "STREET",
            Self::Organization => "O",
            Self::OrganizationalUnit => "OU",
            Self::PostalCode => "POSTALCODE",
            Self::DomainComponent => "DC",
        }
    }

    /// Fewest and most characters (RFC 5280 appendix A.1, "Upper Bounds"; X.520 where it is silent).
    fn bounds(self) -> (usize, usize) {
        match self {
            Self::Country => (2, 2),
            Self::Locality | Self::State | Self::Street => (1, 128),
            Self::PostalCode => (1, 40),
            Self::DomainComponent => (1, 63),
            _ => (1, 64),
        }
    }

    fn form(self) -> Form {
        match self {
            Self::Country | Self::SerialNumber => Form::Printable,
            Self::DomainComponent => Form::Ia5,
            _ => Form::Directory,
        }
    }
}

/// Why a name is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum NameError {
    /// More than 2048 bytes.
    #[error("name has {0} bytes; at most 2048 are accepted")]
    TooLong(usize),
    /// More than 16 RDNs.
    #[error("name has more than 16 parts")]
    TooManyParts,
    /// Not strict DER, or another structure.
    #[error("name is malformed: {0}")]
    Der(#[from] DerError),
    /// A string of a type that certificates may no longer use, or not for this attribute.
    #[error(
        "name has {attribute} as a string of type {found:#04x}; RFC 5280 wants {}",
        if *printable { "a PrintableString" } else { "a PrintableString or UTF8String" }
    )]
    StringType {
        /// The attribute's short name, or "an attribute".
        attribute: &'static str,
        /// The tag of the string.
        found: u8,
        /// Whether PrintableString alone would do.
        printable: bool,
    },
    /// Characters that the string's type does not have, or control characters.
    #[error("name has characters in {0} that its string type does not allow")]
    Characters(&'static str),
    /// Too few or too many characters.
    #[error("name has {found} characters in {attribute}; {least} to {most} are allowed")]
    ValueLength {
        /// The attribute's short name, or "an attribute".
        attribute: &'static str,
        /// How many characters it has.
        found: usize,
        /// The fewest allowed.
        least: usize,
        /// The most allowed.
        most: usize,
    },
}

/// One `AttributeTypeAndValue`.
struct Part<'a> {
    whole: &'a [u8],
    oid: &'a [u8],
    /// The attribute, if it is one that is known.
    attribute: Option<Attribute>,
    value: der::Tlv<'a>,
}

impl<'a> Part<'a> {
    fn read(rdn: &mut Reader<'a>) -> Result<Self, DerError> {
        let part = rdn.expect(tag::SEQUENCE, "attribute of a name")?;
        let mut fields = Reader::new(part.value);
        let oid = fields.oid("attribute type")?;
        let value = fields.any("attribute value")?;
        fields.finish("attribute of a name")?;
        let attribute = Attribute::ALL.into_iter().find(|attribute| attribute.oid() == oid);
        Ok(Self { whole: part.whole, oid, attribute, value })
    }
}

fn check_rdn(mut rdn: Reader<'_>) -> Result<(), NameError> {
    let mut before: Option<&[u8]> = None;
    loop {
        let part = Part::read(&mut rdn)?;
        check_value(&part)?;
        if before.is_some_and(|before| before >= part.whole) {
            return Err(DerError::Value("order of a multi-valued RDN").into());
        }
        before = Some(part.whole);
        if rdn.is_empty() {
            return Ok(());
        }
    }
}

fn check_value(part: &Part<'_>) -> Result<(), NameError> {
    let name = part.attribute.map_or("an attribute", Attribute::label);
    let form = part.attribute.map(Attribute::form);
    let allowed = match part.value.tag {
        tag::PRINTABLE_STRING => form != Some(Form::Ia5),
        tag::UTF8_STRING => matches!(form, None | Some(Form::Directory)),
        tag::IA5_STRING => matches!(form, None | Some(Form::Ia5)),
        _ => false,
    };
    if !allowed {
        return Err(NameError::StringType {
            attribute: name,
            found: part.value.tag,
            printable: form == Some(Form::Printable),
        });
    }
    let text = text(part.value).ok_or(NameError::Characters(name))?;
    let (least, most) = part.attribute.map_or((1, LONGEST_NAME), Attribute::bounds);
    let found = text.chars().count();
    if !(least..=most).contains(&found) {
        return Err(NameError::ValueLength { attribute: name, found, least, most });
    }
    Ok(())
}

/// The text of a string value, if its characters are those of its type and none is a control character.
fn text<'a>(value: der::Tlv<'a>) -> Option<&'a str> {
    let text = std::str::from_utf8(value.value).ok()?;
    let of_type = match value.tag {
        tag::PRINTABLE_STRING => is_printable(text),
        tag::IA5_STRING => text.is_ascii(),
        _ => true,
    };
    (of_type && !text.chars().any(char::is_control)).then_some(text)
}

/// The characters of PrintableString (X.680 §41.4).
fn is_printable(text: &str) -> bool {
    text.chars().all(|c| c.is_ascii_alphanumeric() || " '()+,-./:=?".contains(c))
}

fn encode_rdn(attribute: Attribute, value: &str) -> Vec<u8> {
    let string = match attribute.form() {
        Form::Ia5 => tag::IA5_STRING,
        Form::Directory if !is_printable(value) => tag::UTF8_STRING,
        _ => tag::PRINTABLE_STRING,
    };
    let part = der::encode(
        tag::SEQUENCE,
        &[&der::encode(tag::OID, &[attribute.oid()]), &der::encode(string, &[value.as_bytes()])],
    );
    der::encode(tag::SET, &[&part])
}

/// RFC 4514: the last RDN first, `CN=web,O=Acme,C=US`.
impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rdns: Vec<_> = self.rdns().collect();
        rdns.reverse();
        for (index, rdn) in rdns.into_iter().enumerate() {
            if index > 0 {
                f.write_str(",")?;
            }
            for (index, part) in rdn.enumerate() {
                if index > 0 {
                    f.write_str("+")?;
                }
                write_part(f, &part)?;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Name({self})")
    }
}

/// RFC 4514 §2.3 and §2.4: an attribute without a short name has its number and its value in hex.
fn write_part(f: &mut fmt::Formatter<'_>, part: &Part<'_>) -> fmt::Result {
    let Some(attribute) = part.attribute else {
        write_oid(f, part.oid)?;
        f.write_str("=#")?;
        return part.value.whole.iter().try_for_each(|byte| write!(f, "{byte:02x}"));
    };
    let text = text(part.value).expect("checked by from_der");
    write!(f, "{}=", attribute.label())?;
    let last = text.chars().count() - 1;
    for (index, c) in text.chars().enumerate() {
        let escaped = matches!(c, '"' | '+' | ',' | ';' | '<' | '>' | '\\')
            || c == '#' && index == 0
            || c == ' ' && (index == 0 || index == last);
        if escaped {
            f.write_str("\\")?;
        }
        write!(f, "{c}")?;
    }
    Ok(())
}

/// Dotted decimal. An arc beyond 64 bits, which no registry has given out, wraps.
fn write_oid(f: &mut fmt::Formatter<'_>, oid: &[u8]) -> fmt::Result {
    let mut arc = 0u64;
    let mut first = true;
    for &byte in oid {
        arc = arc << 7 | u64::from(byte & 0x7f);
        if byte >= 0x80 {
            continue;
        }
        if first {
            let root = (arc / 40).min(2);
            write!(f, "{root}.{}", arc - root * 40)?;
        } else {
            write!(f, ".{arc}")?;
        }
        (arc, first) = (0, false);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use Attribute::*;
    use proptest::prelude::*;
    use x509_cert::der::{Decode, Encode};

    fn name(attributes: &[(Attribute, &str)]) -> Name {
        Name::from_attributes(attributes).unwrap()
    }

    /// A name of one RDN with the given parts: OID content, string tag, value.
    fn raw(parts: &[(&[u8], u8, &[u8])]) -> Result<Name, NameError> {
        let parts: Vec<Vec<u8>> = parts
            .iter()
            .map(|&(oid, string, value)| {
                der::encode(
                    tag::SEQUENCE,
                    &[&der::encode(tag::OID, &[oid]), &der::encode(string, &[value])],
                )
            })
            .collect();
        let rdn = der::encode(tag::SET, &[&parts.concat()]);
        Name::from_der(&der::encode(tag::SEQUENCE, &[&rdn]))
    }

    const CN: &[u8] = b"\x55\x04\x03";

    #[test]
    fn names_print_as_rfc_4514_has_them() {
        for (name, text) in [
            (Name::empty(), ""),
            (name(&[(Country, "US"), (Organization, "SPIRE")]), "O=SPIRE,C=US"),
            (name(&[(CommonName, "a, b+c")]), "CN=a\\, b\\+c"),
            (name(&[(CommonName, "# \"<x>\"; ")]), "CN=\\# \\\"\\<x\\>\\\"\\;\\ "),
            (name(&[(Organization, "Bücher \\ Co")]), "O=Bücher \\\\ Co"),
            (name(&[(SerialNumber, "1"), (OrganizationalUnit, "u")]), "OU=u,SERIALNUMBER=1"),
            (raw(&[(CN, 0x13, b"a"), (b"\x55\x04\x0b", 0x13, b"b")]).unwrap(), "CN=a+OU=b"),
            // emailAddress has no short name in RFC 4514.
            (
                raw(&[(b"\x2a\x86\x48\x86\xf7\x0d\x01\x09\x01", 0x16, b"a@b")]).unwrap(),
                "1.2.840.113549.1.9.1=#1603614062",
            ),
            (raw(&[(b"\x88\x37", 0x13, b"a")]).unwrap(), "2.999=#130161"),
        ] {
            assert_eq!(name.to_string(), text);
        }
    }

    #[test]
    fn strings_are_printable_where_they_can_be() {
        let der = |value: &str| name(&[(Organization, value)]).der()[11];
        assert_eq!(der("Acme (1), Ltd. '+-/:=?"), tag::PRINTABLE_STRING);
        assert_eq!(der("Acme & Sons"), tag::UTF8_STRING);
        assert_eq!(der("*.example.test"), tag::UTF8_STRING);
        assert_eq!(name(&[(DomainComponent, "a")]).der()[18], tag::IA5_STRING);
    }

    #[test]
    fn what_rfc_5280_does_not_allow_is_refused_by_name() {
        let country: &[u8] = b"\x55\x04\x06";
        let string_type = |attribute, found, printable| {
            Err(NameError::StringType { attribute, found, printable })
        };
        let length = |attribute, found, least, most| {
            Err(NameError::ValueLength { attribute, found, least, most })
        };
        for (parts, expected) in [
            (&[(CN, 0x14, &b"a"[..])][..], string_type("CN", 0x14, false)), // TeletexString
            (&[(CN, 0x1e, b"\0a")], string_type("CN", 0x1e, false)),        // BMPString
            (&[(CN, 0x16, b"a")], string_type("CN", 0x16, false)),          // IA5String
            (&[(country, 0x0c, b"US")], string_type("C", 0x0c, true)),
            (&[(country, 0x13, b"USA")], length("C", 3, 2, 2)),
            (&[(CN, 0x13, b"")], length("CN", 0, 1, 64)),
            (&[(CN, 0x0c, &[b'a'; 65])], length("CN", 65, 1, 64)),
            (&[(b"\x55\x04\x0a", 0x13, &[b'a'; 65])], length("O", 65, 1, 64)),
            (&[(b"\x55\x04\x07", 0x13, &[b'a'; 129])], length("L", 129, 1, 128)),
            (&[(CN, 0x13, b"a*")], Err(NameError::Characters("CN"))),
            (&[(CN, 0x0c, b"a\0b")], Err(NameError::Characters("CN"))),
            (&[(CN, 0x0c, b"a\xff")], Err(NameError::Characters("CN"))),
            (&[(CN, 0x0c, b"a\nb")], Err(NameError::Characters("CN"))),
            (&[(b"\x80\x01", 0x13, b"a")], Err(DerError::Value("attribute type").into())),
            (
                &[(b"\x55\x04\x0b", 0x13, b"b"), (CN, 0x13, b"a")],
                Err(DerError::Value("order of a multi-valued RDN").into()),
            ),
            (
                &[(CN, 0x13, b"a"), (CN, 0x13, b"a")],
                Err(DerError::Value("order of a multi-valued RDN").into()),
            ),
            (&[], Err(DerError::Truncated("attribute of a name").into())),
        ] {
            assert_eq!(raw(parts), expected);
        }
        // 64 characters, not bytes.
        assert!(raw(&[(CN, 0x0c, "é".repeat(64).as_bytes())]).is_ok());
    }

    #[test]
    fn names_are_bounded() {
        let many = [(CommonName, "a"); 17];
        assert!(Name::from_attributes(&many[..16]).is_ok());
        assert_eq!(Name::from_attributes(&many), Err(NameError::TooManyParts));
        let huge = "a".repeat(1 << 24);
        assert_eq!(Name::from_attributes(&[(CommonName, &huge)]), Err(NameError::TooLong(1 << 24)));
        let long = vec![0x30; LONGEST_NAME + 1];
        assert_eq!(Name::from_der(&long), Err(NameError::TooLong(2049)));
    }

    #[test]
    fn a_host_becomes_the_one_common_name() {
        let host = DnsName::parse("web.example.test").unwrap();
        let expect = |name: &Name, text: &str| {
            assert_eq!(name.with_common_name(&host).unwrap().to_string(), text);
        };
        expect(&Name::empty(), "CN=web.example.test");
        expect(
            &name(&[(CommonName, "old"), (Country, "US"), (Organization, "SPIRE")]),
            "CN=web.example.test,O=SPIRE,C=US",
        );
        expect(
            &raw(&[(CN, 0x13, b"a"), (b"\x55\x04\x0b", 0x13, b"b")]).unwrap(),
            "CN=web.example.test,OU=b",
        );
        let long = DnsName::parse(&format!("{}.test", "a".repeat(60))).unwrap();
        assert!(matches!(
            Name::empty().with_common_name(&long),
            Err(NameError::ValueLength { attribute: "CN", found: 65, .. })
        ));
    }

    fn attributes() -> impl Strategy<Value = Vec<(Attribute, String)>> {
        let attribute = prop_oneof![
            (Just(Country), "[A-Z]{2}"),
            (Just(SerialNumber), "[0-9a-f]{1,40}"),
            (Just(DomainComponent), "[a-z]{1,10}"),
            (Just(Organization), "[ -~é]{1,20}"),
            (Just(CommonName), "[ -~é]{1,20}"),
            (Just(Locality), "[ -~é]{1,100}"),
        ];
        proptest::collection::vec(attribute, 0..6)
    }

    proptest! {
        #[test]
        fn another_implementation_reads_and_writes_the_same_names(attributes in attributes()) {
            let pairs: Vec<(Attribute, &str)> =
                attributes.iter().map(|(attribute, value)| (*attribute, &**value)).collect();
            let ours = name(&pairs);
            let theirs = x509_cert::name::Name::from_der(ours.der()).unwrap();
            prop_assert_eq!(&theirs.to_der().unwrap(), ours.der());
            prop_assert_eq!(Name::from_der(ours.der()).unwrap(), ours);
        }

        #[test]
        fn no_bytes_make_the_reading_panic(
            attributes in attributes(), at in any::<prop::sample::Index>(), byte in any::<u8>(),
        ) {
            let pairs: Vec<(Attribute, &str)> =
                attributes.iter().map(|(attribute, value)| (*attribute, &**value)).collect();
            let mut der = name(&pairs).der().to_vec();
            let at = at.index(der.len());
            der[at] = byte;
            if let Ok(name) = Name::from_der(&der) {
                prop_assert_eq!(name.der(), &der);
                let _ = name.to_string();
            }
        }
    }
}
