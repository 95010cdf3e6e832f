//! PKCS#11 URIs (RFC 7512): one text that names a token, its module and the place of its PIN.
//!
//! Read strictly: what would be ignored could be what makes it the wrong token. Attributes that name a slot
//! (slots are renumbered) or a key (keys go by Mintmark's names) are refused, as is a PIN in the text.

use std::path::PathBuf;

use thiserror::Error;

/// What a PKCS#11 URI says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Pkcs11Uri {
    /// `token`: the label.
    pub token: Option<String>,
    /// `serial`
    pub serial: Option<String>,
    /// `manufacturer`
    pub manufacturer: Option<String>,
    /// `model`
    pub model: Option<String>,
    /// `module-path`: an absolute path.
    pub module_path: Option<PathBuf>,
    /// `pin-source`: the absolute path of a file.
    pub pin_source: Option<PathBuf>,
}

/// Why a text is no PKCS#11 URI that can be used. Never carries a PIN.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Pkcs11UriError {
    /// Another scheme, or none.
    #[error("a PKCS#11 URI starts with \"pkcs11:\", as in \"pkcs11:token=NAME;serial=NUMBER\"")]
    Scheme,
    /// Not `name=value`.
    #[error("{0:?} in a PKCS#11 URI is not of the form name=value")]
    Form(String),
    /// A character that must be written as `%` and two digits, or not UTF-8 after reading those.
    #[error(
        "the value of {0:?} in a PKCS#11 URI holds what must be written as % and two hexadecimal digits \
         (RFC 7512 §2.3), or is not UTF-8"
    )]
    Encoding(String),
    /// Said twice: which one counts?
    #[error("{0:?} is given twice in a PKCS#11 URI")]
    Twice(String),
    /// Nothing after the `=`.
    #[error("{0:?} in a PKCS#11 URI is empty")]
    Empty(String),
    /// Cannot be used here.
    #[error("{name:?} has no use in this PKCS#11 URI: {reason}")]
    Refused {
        /// The attribute.
        name: String,
        /// Why, and what to do.
        reason: &'static str,
    },
    /// Neither a label nor a serial number.
    #[error("a PKCS#11 URI must name the token by token=LABEL, serial=NUMBER or both")]
    NoToken,
}

impl Pkcs11Uri {
    /// Reads a URI.
    ///
    /// # Errors
    /// What is wrong with it, and what to write.
    pub fn parse(text: &str) -> Result<Self, Pkcs11UriError> {
        // RFC 3986 §3.1: schemes know no case.
        let rest = match text.split_at_checked(7) {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("pkcs11:") => rest,
            _ => return Err(Pkcs11UriError::Scheme),
        };
        let (path, query) = match rest.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (rest, None),
        };
        let mut uri = Self::default();
        for part in path.split(';').filter(|_| !path.is_empty()) {
            uri.read_path(part)?;
        }
        for part in query.into_iter().flat_map(|query| query.split('&')) {
            uri.read_query(part)?;
        }
        if uri.token.is_none() && uri.serial.is_none() {
            return Err(Pkcs11UriError::NoToken);
        }
        Ok(uri)
    }

    fn read_path(&mut self, part: &str) -> Result<(), Pkcs11UriError> {
        let (name, value) = pair(part)?;
        let place = match name {
            "token" => &mut self.token,
            "serial" => &mut self.serial,
            "manufacturer" => &mut self.manufacturer,
            "model" => &mut self.model,
            _ => return Err(refused(name, path_refusal(name))),
        };
        set(place, name, decoded(name, value, PATH_CHARACTERS)?)
    }

    fn read_query(&mut self, part: &str) -> Result<(), Pkcs11UriError> {
        let (name, value) = pair(part)?;
        if !matches!(name, "module-path" | "pin-source") {
            return Err(refused(name, query_refusal(name)));
        }
        let value = decoded(name, value, QUERY_CHARACTERS)?;
        if name == "module-path" {
            let path =
                absolute(&value).ok_or_else(|| refused(name, "an absolute path is wanted"))?;
            return set(&mut self.module_path, name, path);
        }
        let file = value.strip_prefix("file:").and_then(|path| {
            // RFC 8089: an empty authority may stand before the path.
            absolute(path.strip_prefix("//").filter(|path| path.starts_with('/')).unwrap_or(path))
        });
        let file = file.ok_or_else(|| {
            refused(name, "only files are read, as in pin-source=file:/etc/mintmark/pin")
        })?;
        set(&mut self.pin_source, name, file)
    }
}

/// Why an attribute of the path is not taken.
fn path_refusal(name: &str) -> &'static str {
    match name {
        "slot-id" | "slot-description" | "slot-manufacturer" => {
            "slots are renumbered; name the token by its label or serial number"
        }
        "object" | "id" | "type" => "keys go by Mintmark's own names; name the token alone",
        "library-manufacturer" | "library-description" | "library-version" => {
            "name the library with module-path"
        }
        "module-path" | "pin-source" | "module-name" | "pin-value" => "it stands behind the \"?\"",
        _ => "it is not known; token, serial, manufacturer and model are",
    }
}

/// Why an attribute of the query is not taken.
fn query_refusal(name: &str) -> &'static str {
    match name {
        "pin-value" => {
            "a PIN in a configuration is read by whoever reads that; put it into a file of mode 0600 and \
             write pin-source=file:/PATH"
        }
        "module-name" => "a name does not say which file is loaded; give its path with module-path",
        "token" | "serial" | "manufacturer" | "model" => "it stands before the \"?\"",
        _ => "it is not known; module-path and pin-source are",
    }
}

fn refused(name: &str, reason: &'static str) -> Pkcs11UriError {
    Pkcs11UriError::Refused { name: shown(name), reason }
}

/// A part of the text for an error: short, and never a value.
fn shown(name: &str) -> String {
    name.chars().take(40).collect()
}

fn pair(part: &str) -> Result<(&str, &str), Pkcs11UriError> {
    // What stands there may be a PIN whose name was forgotten.
    let form = || Pkcs11UriError::Form("...".to_owned());
    let (name, value) = part.split_once('=').ok_or_else(form)?;
    let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    if name.is_empty() || !name.bytes().all(plain) {
        return Err(form());
    }
    Ok((name, value))
}

fn set<T>(place: &mut Option<T>, name: &str, value: T) -> Result<(), Pkcs11UriError> {
    match place.replace(value) {
        None => Ok(()),
        Some(_) => Err(Pkcs11UriError::Twice(name.to_owned())),
    }
}

fn absolute(path: &str) -> Option<PathBuf> {
    // Two slashes would begin the name of a host.
    (path.starts_with('/') && !path.starts_with("//")).then(|| PathBuf::from(path))
}

/// RFC 7512 §2.3: `pk11-path-char` beside letters, digits and `%`.
const PATH_CHARACTERS: &[u8] = b"-._~:[]@!$'()*+,=&";
/// RFC 7512 §2.3: `pk11-query-char`.
const QUERY_CHARACTERS: &[u8] = b"-._~:[]@!$'()*+,=/?|";

fn decoded(name: &str, value: &str, allowed: &[u8]) -> Result<String, Pkcs11UriError> {
    let wrong = || Pkcs11UriError::Encoding(name.to_owned());
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let mut digit = || {
                    let digit = char::from(rest.next()?).to_digit(16)?;
                    u8::try_from(digit).ok()
                };
                let (high, low) = (digit().ok_or_else(wrong)?, digit().ok_or_else(wrong)?);
                high << 4 | low
            }
            byte if byte.is_ascii_alphanumeric() || allowed.contains(&byte) => byte,
            _ => return Err(wrong()),
        });
    }
    if bytes.contains(&0) {
        return Err(wrong());
    }
    let text = String::from_utf8(bytes).map_err(|_| wrong())?;
    if text.is_empty() { Err(Pkcs11UriError::Empty(name.to_owned())) } else { Ok(text) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(text: &str) -> Result<Pkcs11Uri, Pkcs11UriError> {
        Pkcs11Uri::parse(text)
    }

    #[test]
    fn a_uri_names_token_module_and_pin() {
        let uri = parse(
            "pkcs11:token=My%20token;serial=12ab;manufacturer=Acme;model=a&b\
             ?module-path=/usr/lib/p.so&pin-source=file:/etc/pin",
        );
        let expected = Pkcs11Uri {
            token: Some("My token".to_owned()),
            serial: Some("12ab".to_owned()),
            manufacturer: Some("Acme".to_owned()),
            model: Some("a&b".to_owned()),
            module_path: Some("/usr/lib/p.so".into()),
            pin_source: Some("/etc/pin".into()),
        };
        assert_eq!(uri, Ok(expected));
        let authority = parse("PKCS11:serial=1?pin-source=file:///etc/pin").unwrap();
        assert_eq!(authority.pin_source, Some("/etc/pin".into()));
    }

    #[test]
    fn what_would_be_ignored_is_refused() {
        for (text, said) in [
            ("token=a", "starts with"),
            ("pkcs12:token=a", "starts with"),
            ("pkcs11:", "must name the token"),
            ("pkcs11:manufacturer=a", "must name the token"),
            ("pkcs11:token=a;", "name=value"),
            ("pkcs11:token", "name=value"),
            ("pkcs11:token=a?", "name=value"),
            ("pkcs11:token=", "is empty"),
            ("pkcs11:token=a;token=a", "twice"),
            ("pkcs11:token=a b", "%"),
            ("pkcs11:token=a/b", "%"),
            ("pkcs11:token=a%2", "%"),
            ("pkcs11:token=a%zz", "%"),
            ("pkcs11:token=a%00", "%"),
            ("pkcs11:token=%ff", "UTF-8"),
            ("pkcs11:token=a;slot-id=1", "renumbered"),
            ("pkcs11:token=a;object=key", "own names"),
            ("pkcs11:token=a;x-vendor=1", "not known"),
            ("pkcs11:token=a;pin-source=file:/pin", "behind the"),
            ("pkcs11:token=a?module-name=softhsm2", "module-path"),
            ("pkcs11:token=a?module-path=lib.so", "absolute"),
            ("pkcs11:token=a?pin-source=/etc/pin", "only files"),
            ("pkcs11:token=a?pin-source=%7Ccat%20pin", "only files"),
            ("pkcs11:token=a?pin-source=file:pin", "only files"),
            ("pkcs11:token=a?pin-source=file://host/pin", "only files"),
            ("pkcs11:token=a?x-key=1", "not known"),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(said), "{text}: {error}");
        }
    }

    #[test]
    fn a_pin_in_the_text_is_refused_and_not_repeated() {
        for text in ["pkcs11:token=a?pin-value=4711", "pkcs11:token=a?4711", "pkcs11:token=a;4711"]
        {
            let error = parse(text).unwrap_err();
            assert!(!error.to_string().contains("4711"), "{error}");
        }
        let error = parse("pkcs11:token=a?pin-value=4711").unwrap_err().to_string();
        assert!(error.contains("mode 0600") && error.contains("pin-source=file:"), "{error}");
    }

    /// Writes every byte as `%` and two digits.
    fn encoded(text: &str) -> String {
        text.bytes().map(|byte| format!("%{byte:02X}")).collect()
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "(pkcs11:)?(token=|serial=|[;?&=%a-f0-9/:.é-])*") {
            let _ = parse(&text);
        }

        #[test]
        fn a_value_is_read_back_as_it_was_encoded(
            token in "[^\\x00]{1,20}", serial in "[^\\x00]{1,20}", path in "/([^\\x00/][^\\x00]{0,20})?",
        ) {
            let text = format!(
                "pkcs11:serial={};token={}?module-path={}",
                encoded(&serial), encoded(&token), encoded(&path),
            );
            let uri = parse(&text).unwrap();
            prop_assert_eq!(uri.token, Some(token));
            prop_assert_eq!(uri.serial, Some(serial));
            prop_assert_eq!(uri.module_path, Some(PathBuf::from(path)));
        }

        #[test]
        fn the_order_of_attributes_means_nothing(swap: bool) {
            let (one, two) = if swap { ("token=a", "serial=b") } else { ("serial=b", "token=a") };
            let uri = parse(&format!("pkcs11:{one};{two}")).unwrap();
            prop_assert_eq!((uri.token.as_deref(), uri.serial.as_deref()), (Some("a"), Some("b")));
        }
    }
}
