//! Key pairs as objects of a token: how they are made, and what they must show before they may sign.

use ca_core::der::{Reader, tag};
use ca_core::key::{KeyError, KeyName, KeyType, PublicKey, PublicKeyError};
use cryptoki::error::{Error, Result};
use cryptoki::mechanism::Mechanism;
use cryptoki::object::{
    Attribute, AttributeType, KeyType as TokenKeyType, ObjectClass, ObjectHandle,
};
use cryptoki::session::Session;

use super::fault::Fault;

/// `CKA_EC_PARAMS`: the curve's object identifier (RFC 5480 §2.1.1.1).
const P256: &[u8] = b"\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07";
const P384: &[u8] = b"\x06\x05\x2b\x81\x04\x00\x22";
/// Ed25519 by identifier (RFC 8410 §3), and by name as PKCS#11 3.0 §2.3.5 has it and SoftHSM wants it.
const ED25519: &[u8] = b"\x06\x03\x2b\x65\x70";
const ED25519_NAME: &[u8] = b"\x13\x0cedwards25519";

/// Why a key could not be looked at: the token failed, or the key is not as it must be.
#[derive(Debug)]
pub(super) enum Failure {
    Token(Fault),
    Key(KeyError),
}

impl Failure {
    /// For who manages keys in `place`.
    pub(super) fn key_error(self, place: &str) -> KeyError {
        match self {
            Self::Token(fault) => fault.key_error(place),
            Self::Key(error) => error,
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Token(error.into())
    }
}

impl From<Fault> for Failure {
    fn from(fault: Fault) -> Self {
        Self::Token(fault)
    }
}

/// What is said of a new private key beside that it can only sign and never leaves, for modules that take
/// less than all of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Template {
    omitted: Vec<&'static str>,
    modifiable: bool,
    copyable: bool,
}

/// Attributes that a module may reject. What those of the private half forbid is read back all the same; to
/// leave out `modifiable` or `copyable` is to take what the module makes of them.
const OMITTABLE: &[&str] =
    &["sign_recover", "decrypt", "unwrap", "derive", "modifiable", "copyable", "encrypt", "wrap"];

impl Template {
    /// Changes to the usual template: attributes to leave out (`sign_recover`, `decrypt`, `unwrap`, `derive`,
    /// `modifiable`, `copyable`; of the public half `encrypt`, `wrap`) and values other than the usual
    /// `false` (`modifiable` and `copyable` alone).
    ///
    /// # Errors
    /// What cannot be changed, and why.
    pub fn new(omit: &[String], set: &[(String, bool)]) -> std::result::Result<Self, String> {
        let mut template = Self::default();
        for name in omit {
            let known = OMITTABLE.iter().find(|known| *known == name).ok_or_else(|| {
                format!("{name:?} cannot be left out; only {} can", OMITTABLE.join(", "))
            })?;
            template.omitted.push(known);
        }
        for (name, value) in set {
            match name.as_str() {
                "modifiable" => template.modifiable = *value,
                "copyable" => template.copyable = *value,
                _ => {
                    return Err(format!(
                        "{name:?} cannot be changed: a key of an authority signs and does nothing \
                         else, and never leaves; modifiable and copyable can be set"
                    ));
                }
            }
        }
        Ok(template)
    }

    fn keeps(&self, name: &str) -> bool {
        !self.omitted.contains(&name)
    }
}

/// A key pair that keeps its promises, as far as the token tells.
pub(super) struct Pair {
    pub(super) private: ObjectHandle,
    pub(super) public_key: PublicKey,
    /// What the private object says of itself, for people.
    pub(super) facts: Vec<(String, String)>,
}

/// Makes a key pair whose private half can only sign and never leaves; returns public and private.
///
/// `CKA_ID` is 20 random bytes: it ties the two halves together, and the SHA-1 of the public key, which
/// some use there, is not known before the objects are made and unchangeable.
pub(super) fn generate(
    session: &Session,
    name: &KeyName,
    key_type: KeyType,
    template: &Template,
) -> std::result::Result<(ObjectHandle, ObjectHandle), Failure> {
    let mut id = [0; 20];
    aws_lc_rs::rand::fill(&mut id).map_err(|_| Error::InvalidValue)?;
    let label = name.as_str().as_bytes();
    let (mechanism, shape) = recipe(key_type).ok_or(Error::InvalidValue)?;
    let mut public = vec![
        Attribute::Token(true),
        Attribute::Verify(true),
        Attribute::Label(label.to_vec()),
        Attribute::Id(id.to_vec()),
    ];
    public.extend(shape);
    // Everything is said: what is left out has another default in each module.
    let mut private = vec![
        Attribute::Token(true),
        Attribute::Private(true),
        Attribute::Sensitive(true),
        Attribute::Extractable(false),
        Attribute::Sign(true),
        Attribute::Label(label.to_vec()),
        Attribute::Id(id.to_vec()),
    ];
    for (attribute, value) in
        [("encrypt", Attribute::Encrypt(false)), ("wrap", Attribute::Wrap(false))]
    {
        if template.keeps(attribute) {
            public.push(value);
        }
    }
    for (attribute, value) in [
        ("sign_recover", Attribute::SignRecover(false)),
        ("decrypt", Attribute::Decrypt(false)),
        ("unwrap", Attribute::Unwrap(false)),
        ("derive", Attribute::Derive(false)),
        ("modifiable", Attribute::Modifiable(template.modifiable)),
        ("copyable", Attribute::Copyable(template.copyable)),
    ] {
        if template.keeps(attribute) {
            private.push(value);
        }
    }
    Ok(session.generate_key_pair(&mechanism, &public, &private)?)
}

/// The generator and the shape of a key; `None` for kinds that tokens do not make.
fn recipe(key_type: KeyType) -> Option<(Mechanism<'static>, Vec<Attribute>)> {
    let curve = |params: &[u8]| vec![Attribute::EcParams(params.to_vec())];
    let rsa = |bits: u16| {
        vec![
            Attribute::ModulusBits(u64::from(bits).into()),
            Attribute::PublicExponent(vec![1, 0, 1]),
        ]
    };
    Some(match key_type {
        KeyType::EcP256 => (Mechanism::EccKeyPairGen, curve(P256)),
        KeyType::EcP384 => (Mechanism::EccKeyPairGen, curve(P384)),
        KeyType::Rsa2048 => (Mechanism::RsaPkcsKeyPairGen, rsa(2048)),
        KeyType::Rsa3072 => (Mechanism::RsaPkcsKeyPairGen, rsa(3072)),
        KeyType::Rsa4096 => (Mechanism::RsaPkcsKeyPairGen, rsa(4096)),
        KeyType::Ed25519 => (Mechanism::EccEdwardsKeyPairGen, curve(ED25519_NAME)),
        KeyType::MlDsa44 | KeyType::MlDsa65 => return None,
    })
}

/// Destroys both halves of a key pair.
pub(super) fn destroy(session: &Session, name: &KeyName) -> Result<()> {
    let label = Attribute::Label(name.as_str().as_bytes().to_vec());
    for class in [ObjectClass::PRIVATE_KEY, ObjectClass::PUBLIC_KEY] {
        let template = [Attribute::Class(class), Attribute::Token(true), label.clone()];
        for handle in session.find_objects(&template)? {
            session.destroy_object(handle)?;
        }
    }
    Ok(())
}

/// The labels of all private keys of the token.
pub(super) fn labels(session: &Session) -> Result<Vec<String>> {
    let template = [Attribute::Class(ObjectClass::PRIVATE_KEY), Attribute::Token(true)];
    let mut labels = Vec::new();
    for handle in session.find_objects(&template)? {
        for attribute in session.get_attributes(handle, &[AttributeType::Label])? {
            // A label that is not UTF-8 is not one of ours.
            if let Attribute::Label(label) = attribute {
                labels.extend(String::from_utf8(label));
            }
        }
    }
    Ok(labels)
}

/// The key pair of that name, or `None`. Exactly one private and one public object may bear it, they
/// must belong together, and the private one must be what [`generate`] would have made.
pub(super) fn inspect(
    session: &Session,
    name: &KeyName,
    place: &str,
) -> std::result::Result<Option<Pair>, Failure> {
    let refused = |reason: String| Failure::Key(KeyError::Unsafe { name: name.clone(), reason });
    let Some((private, public)) = halves(session, name, place)? else { return Ok(None) };
    let own = Attributes::read(session, private, PRIVATE_ATTRIBUTES)?;
    let shown = Attributes::read(session, public, PUBLIC_ATTRIBUTES)?;
    own.check_promises().map_err(refused)?;
    if own.id() != shown.id() || own.key_type() != shown.key_type() {
        return Err(refused(
            "its private and public object have different ids or types".to_owned(),
        ));
    }
    let public_key = shown.public_key().map_err(refused)?;
    Ok(Some(Pair { private, public_key, facts: own.facts() }))
}

/// The private and the public object of that name: exactly one of each, or none.
fn halves(
    session: &Session,
    name: &KeyName,
    place: &str,
) -> std::result::Result<Option<(ObjectHandle, ObjectHandle)>, Failure> {
    let half =
        |reason: String| Err(Failure::Key(KeyError::Incomplete { name: name.clone(), reason }));
    let of_class = |class| {
        let label = Attribute::Label(name.as_str().as_bytes().to_vec());
        session.find_objects(&[Attribute::Class(class), Attribute::Token(true), label])
    };
    let privates = of_class(ObjectClass::PRIVATE_KEY)?;
    let publics = of_class(ObjectClass::PUBLIC_KEY)?;
    match (&privates[..], &publics[..]) {
        ([], []) => Ok(None),
        (&[private], &[public]) => Ok(Some((private, public))),
        ([], [_, ..]) => {
            let hint = "delete the public object or restore the private one from a backup";
            half(format!("only its public half is in the token; {hint}"))
        }
        ([_], []) => {
            let hint = "write the public key back under the same label and id";
            half(format!("its public half is missing in the token; {hint}"))
        }
        _ => {
            let count = privates.len().max(publics.len());
            let (name, place) = (name.clone(), place.to_owned());
            Err(Failure::Key(KeyError::Ambiguous { name, count, place }))
        }
    }
}

/// What a private key must say of itself, and what it means if it says otherwise or nothing.
const PROMISES: &[(AttributeType, bool, &str)] = &[
    (AttributeType::Sensitive, true, "its value can be read in plain text"),
    (AttributeType::AlwaysSensitive, true, "its value could once be read in plain text"),
    (AttributeType::Extractable, false, "it can be exported from the token"),
    (AttributeType::NeverExtractable, true, "it could once be exported from the token"),
    (AttributeType::Local, true, "it was not made in the token but brought there"),
    (AttributeType::Sign, true, "it is not allowed to sign"),
    (AttributeType::AlwaysAuthenticate, false, "it wants the PIN for every signature"),
];

/// What a private key must not be allowed beside signing: each would let the authority's key be used on
/// bytes that nobody checked. A module may leave out what a key type cannot do.
const OTHER_USES: &[AttributeType] = &[
    AttributeType::SignRecover,
    AttributeType::Decrypt,
    AttributeType::Unwrap,
    AttributeType::Derive,
];

/// What is told of a key beside: other tools make keys that may be changed and copied, and none of it loosens a promise
/// (PKCS#11 3.0 §4.1, §4.9: what is sensitive and not extractable stays so, in copies too). A module may not know them.
const OTHER_FACTS: &[AttributeType] =
    &[AttributeType::Private, AttributeType::Modifiable, AttributeType::Copyable];

const PRIVATE_ATTRIBUTES: &[AttributeType] = &[
    AttributeType::KeyType,
    AttributeType::Id,
    AttributeType::Sensitive,
    AttributeType::AlwaysSensitive,
    AttributeType::Extractable,
    AttributeType::NeverExtractable,
    AttributeType::Local,
    AttributeType::Sign,
    AttributeType::AlwaysAuthenticate,
    AttributeType::SignRecover,
    AttributeType::Decrypt,
    AttributeType::Unwrap,
    AttributeType::Derive,
    AttributeType::Private,
    AttributeType::Modifiable,
    AttributeType::Copyable,
];

/// The token answers with those that the key type has.
const PUBLIC_ATTRIBUTES: &[AttributeType] = &[
    AttributeType::KeyType,
    AttributeType::Id,
    AttributeType::EcParams,
    AttributeType::EcPoint,
    AttributeType::Modulus,
    AttributeType::PublicExponent,
];

/// What a token told about an object. What it did not tell is missing.
struct Attributes(Vec<Attribute>);

impl Attributes {
    fn read(session: &Session, handle: ObjectHandle, types: &[AttributeType]) -> Result<Self> {
        session.get_attributes(handle, types).map(Self)
    }

    fn check_promises(&self) -> std::result::Result<(), String> {
        for &(attribute, promised, otherwise) in PROMISES {
            match self.flag(attribute) {
                Some(value) if value == promised => {}
                Some(_) => {
                    return Err(format!("{otherwise}; make a new key and retire this one"));
                }
                None => {
                    return Err(format!(
                        "the token does not tell its {attribute}, so it may be that {otherwise}"
                    ));
                }
            }
        }
        if self.flag(AttributeType::Private) == Some(false) {
            let problem = "it can be seen and used without the PIN";
            return Err(format!("{problem}; make a new key and retire this one"));
        }
        match OTHER_USES.iter().find(|&&other| self.flag(other) == Some(true)) {
            Some(other) => Err(format!(
                "it may do more than sign ({other}); make a new key and retire this one"
            )),
            None => Ok(()),
        }
    }

    fn flag(&self, wanted: AttributeType) -> Option<bool> {
        self.0.iter().find(|attribute| attribute.attribute_type() == wanted).and_then(|attribute| {
            match attribute {
                Attribute::Sensitive(value)
                | Attribute::AlwaysSensitive(value)
                | Attribute::Extractable(value)
                | Attribute::NeverExtractable(value)
                | Attribute::Local(value)
                | Attribute::Sign(value)
                | Attribute::AlwaysAuthenticate(value)
                | Attribute::SignRecover(value)
                | Attribute::Decrypt(value)
                | Attribute::Unwrap(value)
                | Attribute::Derive(value)
                | Attribute::Private(value)
                | Attribute::Modifiable(value)
                | Attribute::Copyable(value) => Some(*value),
                _ => None,
            }
        })
    }

    /// For people, in the words of the standard.
    fn facts(&self) -> Vec<(String, String)> {
        let id = self.id().map(|id| id.iter().map(|byte| format!("{byte:02x}")).collect());
        let flags = PROMISES.iter().map(|promise| promise.0).chain(OTHER_USES.iter().copied());
        let flags = flags.chain(OTHER_FACTS.iter().copied());
        let flags = flags.filter_map(|attribute| {
            self.flag(attribute).map(|value| (attribute.to_string(), value.to_string()))
        });
        id.map(|id| ("CKA_ID".to_owned(), id)).into_iter().chain(flags).collect()
    }

    fn id(&self) -> Option<&[u8]> {
        self.pick(|attribute| match attribute {
            Attribute::Id(id) => Some(&id[..]),
            _ => None,
        })
    }

    fn key_type(&self) -> Option<TokenKeyType> {
        self.pick(|attribute| match attribute {
            Attribute::KeyType(key_type) => Some(*key_type),
            _ => None,
        })
    }

    fn public_key(&self) -> std::result::Result<PublicKey, String> {
        let key = match self.key_type() {
            Some(TokenKeyType::EC) => {
                let width = match self.curve()? {
                    P256 => 65,
                    P384 => 97,
                    _ => return Err("its curve is neither P-256 nor P-384".to_owned()),
                };
                PublicKey::from_ec_point(self.point(width)?)
            }
            Some(TokenKeyType::EC_EDWARDS) => match self.curve()? {
                ED25519 | ED25519_NAME => {
                    let point = self.point(32)?.try_into().expect("its length was checked");
                    PublicKey::from_ed25519(point)
                }
                _ => return Err("its curve is not Ed25519".to_owned()),
            },
            Some(TokenKeyType::RSA) => {
                let (modulus, exponent) = self.rsa_numbers()?;
                PublicKey::from_rsa(modulus, exponent)
            }
            Some(_) => Err(PublicKeyError::Unsupported),
            None => return Err("the token does not tell its type".to_owned()),
        };
        key.map_err(|error| error.to_string())
    }

    fn curve(&self) -> std::result::Result<&[u8], String> {
        self.pick(|attribute| match attribute {
            Attribute::EcParams(params) => Some(&params[..]),
            _ => None,
        })
        .ok_or_else(|| "the token does not tell its curve".to_owned())
    }

    /// The point, `width` bytes: in an OCTET STRING (PKCS#11 3.0 §2.3.3) or, as some modules have it,
    /// bare. The length tells which: an uncompressed point begins with the tag of an OCTET STRING.
    fn point(&self, width: usize) -> std::result::Result<&[u8], String> {
        let bytes = self
            .pick(|attribute| match attribute {
                Attribute::EcPoint(point) => Some(&point[..]),
                _ => None,
            })
            .ok_or_else(|| "the token does not tell its public point".to_owned())?;
        let inner = if bytes.len() == width {
            Some(bytes)
        } else {
            let mut reader = Reader::new(bytes);
            let value = reader.expect(tag::OCTET_STRING, "CKA_EC_POINT").map(|tlv| tlv.value);
            value.ok().filter(|value| value.len() == width && reader.is_empty())
        };
        inner.ok_or_else(|| "its public point has not the length of its curve".to_owned())
    }

    fn rsa_numbers(&self) -> std::result::Result<(&[u8], &[u8]), String> {
        let modulus = self.pick(|attribute| match attribute {
            Attribute::Modulus(modulus) => Some(&modulus[..]),
            _ => None,
        });
        let exponent = self.pick(|attribute| match attribute {
            Attribute::PublicExponent(exponent) => Some(&exponent[..]),
            _ => None,
        });
        modulus.zip(exponent).ok_or_else(|| "the token does not tell its RSA numbers".to_owned())
    }

    fn pick<'a, T>(&'a self, wanted: impl Fn(&'a Attribute) -> Option<T>) -> Option<T> {
        self.0.iter().find_map(wanted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept() -> Vec<Attribute> {
        vec![
            Attribute::Sensitive(true),
            Attribute::AlwaysSensitive(true),
            Attribute::Extractable(false),
            Attribute::NeverExtractable(true),
            Attribute::Local(true),
            Attribute::Sign(true),
            Attribute::AlwaysAuthenticate(false),
        ]
    }

    #[test]
    fn an_attribute_that_is_missing_or_wrong_is_a_broken_promise() {
        assert_eq!(Attributes(kept()).check_promises(), Ok(()));
        for index in 0..PROMISES.len() {
            let mut missing = kept();
            missing.remove(index);
            assert!(Attributes(missing).check_promises().unwrap_err().contains("does not tell"));
        }
        for wrong in [
            Attribute::Sensitive(false),
            Attribute::Extractable(true),
            Attribute::Local(false),
            Attribute::Sign(false),
            Attribute::AlwaysAuthenticate(true),
            Attribute::SignRecover(true),
            Attribute::Decrypt(true),
            Attribute::Unwrap(true),
            Attribute::Derive(true),
        ] {
            let mut attributes = kept();
            attributes.retain(|kept| kept.attribute_type() != wrong.attribute_type());
            attributes.push(wrong);
            assert!(Attributes(attributes).check_promises().is_err());
        }
    }

    #[test]
    fn a_point_is_read_bare_and_wrapped_and_at_its_own_length_only() {
        let point = |bytes: Vec<u8>| {
            Attributes(vec![Attribute::EcPoint(bytes)]).point(65).map(<[u8]>::to_vec)
        };
        let bare = [vec![4], vec![7; 64]].concat();
        let wrapped = [&[4, 65][..], &bare].concat();
        assert_eq!(point(bare.clone()), Ok(bare.clone()));
        assert_eq!(point(wrapped.clone()), Ok(bare.clone()));
        for wrong in [vec![], bare[1..].to_vec(), [&wrapped[..], &[0]].concat(), vec![3; 67]] {
            assert!(point(wrong).is_err());
        }
    }

    #[test]
    fn a_curve_that_is_not_ours_is_refused() {
        let secp521r1 = b"\x06\x05\x2b\x81\x04\x00\x23".to_vec();
        let key = Attributes(vec![
            Attribute::KeyType(TokenKeyType::EC),
            Attribute::EcParams(secp521r1),
            Attribute::EcPoint(vec![4; 133]),
        ]);
        assert!(key.public_key().unwrap_err().contains("neither P-256 nor P-384"));
        assert!(Attributes(vec![]).public_key().is_err());
    }

    #[test]
    fn an_ed25519_key_for_which_anyone_can_sign_is_refused() {
        let key = |point: Vec<u8>| {
            Attributes(vec![
                Attribute::KeyType(TokenKeyType::EC_EDWARDS),
                Attribute::EcParams(ED25519.to_vec()),
                Attribute::EcPoint(point),
            ])
            .public_key()
        };
        assert!(key(vec![0; 32]).unwrap_err().contains("small order"));
        assert!(key([vec![4, 32], vec![0; 32]].concat()).unwrap_err().contains("small order"));
        assert!(key(vec![9; 32]).is_ok());
    }
}
