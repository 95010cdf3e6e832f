//! SigV4: who signs a request, and whether the signature is right.
//!
//! The request is canonicalised anew from what arrived and signed with the secret that was given out
//! ("Create a signed AWS API request", AWS IAM user guide), for one region, for `kms`, in the header
//! form alone; a query string, which KMS has none of, is taken to be empty.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::hmac::{self, HMAC_SHA256};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use hyper::HeaderMap;
use hyper::http::request::Parts;

use super::exception::Exception;
use super::identity::{hex, random};
use super::{FakeKmsError, REGION};

const ALGORITHM: &str = "AWS4-HMAC-SHA256";
/// How far a client's clock may be from the service's, in seconds either way.
const SKEW: i64 = 5 * 60;
/// What a signature has to cover.
const COVERED: [&str; 3] = ["host", "x-amz-date", "x-amz-target"];

/// What a client signs its requests with.
#[derive(Clone)]
pub struct Credentials {
    access_key_id: String,
    secret_access_key: String,
    session_token: Option<String>,
}

impl Credentials {
    /// The public half, which requests carry.
    #[must_use]
    pub fn access_key_id(&self) -> &str {
        &self.access_key_id
    }

    /// The secret half.
    #[must_use]
    pub fn secret_access_key(&self) -> &str {
        &self.secret_access_key
    }

    /// The token that goes with temporary credentials in each request.
    #[must_use]
    pub fn session_token(&self) -> Option<&str> {
        self.session_token.as_deref()
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Credentials({})", self.access_key_id)
    }
}

/// Gives credentials out and knows them again.
#[derive(Default)]
pub(super) struct Authority {
    /// By access key id.
    issued: Mutex<BTreeMap<String, Issued>>,
}

#[derive(Clone)]
struct Issued {
    credentials: Credentials,
    expires: Option<Instant>,
}

impl Authority {
    /// New credentials without an end.
    pub(super) fn permanent(&self) -> Result<Credentials, FakeKmsError> {
        self.issue("AKIA", None, None)
    }

    /// New credentials with a token, good for `lifetime`.
    pub(super) fn temporary(&self, lifetime: Duration) -> Result<Credentials, FakeKmsError> {
        let token = BASE64_STANDARD.encode(random::<96>()?);
        let expires = Instant::now().checked_add(lifetime);
        self.issue("ASIA", Some(token), expires)
    }

    fn issue(
        &self,
        prefix: &str,
        session_token: Option<String>,
        expires: Option<Instant>,
    ) -> Result<Credentials, FakeKmsError> {
        let credentials = Credentials {
            access_key_id: format!("{prefix}{}", hex(&random::<8>()?).to_uppercase()),
            secret_access_key: BASE64_STANDARD.encode(random::<30>()?),
            session_token,
        };
        let issued = Issued { credentials: credentials.clone(), expires };
        let mut all = self.issued.lock().unwrap_or_else(PoisonError::into_inner);
        all.insert(credentials.access_key_id.clone(), issued);
        Ok(credentials)
    }

    /// Checks a request against the service's clock (`now`, seconds since 1970).
    pub(super) fn check(&self, request: &Parts, body: &[u8], now: i64) -> Result<(), Exception> {
        let claim = Claim::of(&request.headers)?;
        let secret = self.secret(&claim, header(&request.headers, "x-amz-security-token"))?;
        claim.check_time(now)?;
        claim.check_cover(&request.headers)?;
        if claim.expected(request, body, &secret)? == claim.signature {
            return Ok(());
        }
        Err(invalid(
            "The request signature we calculated does not match the signature you provided. Check \
             your AWS Secret Access Key and signing method. Consult the service documentation for \
             details.",
        ))
    }

    /// The secret of the access key that a request names.
    fn secret(&self, claim: &Claim<'_>, token: Option<&str>) -> Result<String, Exception> {
        let issued = self.issued.lock().unwrap_or_else(PoisonError::into_inner);
        let token_fits = |issued: &&Issued| issued.credentials.session_token.as_deref() == token;
        let Some(issued) = issued.get(claim.access_key_id).filter(token_fits) else {
            let message = "The security token included in the request is invalid.";
            return Err(Exception::new("UnrecognizedClientException", message));
        };
        if issued.expires.is_some_and(|expires| expires <= Instant::now()) {
            let message = "The security token included in the request is expired";
            return Err(Exception::new("ExpiredTokenException", message));
        }
        Ok(issued.credentials.secret_access_key.clone())
    }
}

/// What a request says of its signature.
struct Claim<'a> {
    access_key_id: &'a str,
    /// `YYYYMMDD`, as the scope has it.
    day: &'a str,
    /// `YYYYMMDDTHHMMSSZ`, as `x-amz-date` has it.
    date: &'a str,
    signed_headers: &'a str,
    signature: &'a str,
}

impl<'a> Claim<'a> {
    fn of(headers: &'a HeaderMap) -> Result<Self, Exception> {
        let Some(authorization) = header(headers, "authorization") else {
            let message = "Missing Authentication Token";
            return Err(Exception::new("MissingAuthenticationTokenException", message));
        };
        let fields = authorization
            .strip_prefix(ALGORITHM)
            .and_then(|rest| rest.strip_prefix(' '))
            .ok_or_else(|| incomplete(format!("Authorization header requires {ALGORITHM}.")))?;
        let field = |name: &str| {
            fields
                .split(',')
                .filter_map(|field| field.trim().split_once('='))
                .find_map(|(key, value)| (key == name).then_some(value))
                .ok_or_else(|| {
                    incomplete(format!("Authorization header requires '{name}' parameter."))
                })
        };
        let (credential, signed_headers) = (field("Credential")?, field("SignedHeaders")?);
        let signature = field("Signature")?;
        let date = header(headers, "x-amz-date").ok_or_else(|| {
            incomplete("Authorization header requires existence of a 'X-Amz-Date' header.".into())
        })?;
        let scope: Vec<&str> = credential.split('/').collect();
        let [access_key_id, day, region, service, end] = scope[..] else {
            return Err(incomplete(
                "Credential must have exactly 5 slash-delimited elements".into(),
            ));
        };
        check_scope([region, service, end], day, date)?;
        Ok(Self { access_key_id, day, date, signed_headers, signature })
    }

    fn check_time(&self, now: i64) -> Result<(), Exception> {
        let signed = parse_date(self.date).ok_or_else(|| {
            incomplete(format!("Date must be in ISO-8601 'basic format'. Got '{}'.", self.date))
        })?;
        let (at, now_at) = (self.date, format_date(now));
        if signed < now - SKEW {
            let earliest = format_date(now - SKEW);
            return Err(invalid(&format!(
                "Signature expired: {at} is now earlier than {earliest} ({now_at} - 5 min.)"
            )));
        }
        if signed > now + SKEW {
            let latest = format_date(now + SKEW);
            return Err(invalid(&format!(
                "Signature not yet current: {at} is still later than {latest} ({now_at} + 5 min.)"
            )));
        }
        Ok(())
    }

    fn check_cover(&self, headers: &HeaderMap) -> Result<(), Exception> {
        let missing = COVERED.into_iter().find(|name| {
            headers.contains_key(*name) && !self.signed_headers.split(';').any(|it| it == *name)
        });
        missing.map_or(Ok(()), |name| {
            Err(invalid(&format!("'{name}' must be a 'SignedHeader' in the AWS Authorization.")))
        })
    }

    /// The signature that the request should have.
    fn expected(&self, request: &Parts, body: &[u8], secret: &str) -> Result<String, Exception> {
        let canonical = self.canonical(request, body)?;
        let scope = format!("{}/{REGION}/kms/aws4_request", self.day);
        let digest = hex(digest(&SHA256, canonical.as_bytes()).as_ref());
        let to_sign = format!("{ALGORITHM}\n{}\n{scope}\n{digest}", self.date);
        let mut key = format!("AWS4{secret}").into_bytes();
        for part in [self.day, REGION, "kms", "aws4_request"] {
            key = mac(&key, part);
        }
        Ok(hex(&mac(&key, &to_sign)))
    }

    fn canonical(&self, request: &Parts, body: &[u8]) -> Result<String, Exception> {
        let mut headers = String::new();
        for name in self.signed_headers.split(';') {
            let values: Vec<_> = request
                .headers
                .get_all(name)
                .iter()
                .filter_map(|value| value.to_str().ok())
                .map(|value| value.split_ascii_whitespace().collect::<Vec<_>>().join(" "))
                .collect();
            if values.is_empty() {
                return Err(invalid(&format!("The signed header '{name}' is not there.")));
            }
            headers += &format!("{name}:{}\n", values.join(","));
        }
        let (method, path) = (&request.method, request.uri.path());
        let body = hex(digest(&SHA256, body).as_ref());
        Ok(format!("{method}\n{path}\n\n{headers}\n{}\n{body}", self.signed_headers))
    }
}

fn check_scope(rest: [&str; 3], day: &str, date: &str) -> Result<(), Exception> {
    let [region, service, end] = rest;
    if !date.starts_with(day) || day.len() != 8 {
        return Err(invalid(&format!(
            "Date in Credential scope does not match YYYYMMDD from ISO-8601 version of date from \
             HTTP: '{day}' != '{date}'."
        )));
    }
    if region != REGION {
        return Err(invalid("Credential should be scoped to a valid region."));
    }
    if service != "kms" {
        return Err(invalid("Credential should be scoped to correct service: 'kms'."));
    }
    if end != "aws4_request" {
        return Err(invalid(
            "Credential should be scoped with a valid terminator: 'aws4_request'.",
        ));
    }
    Ok(())
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

fn mac(key: &[u8], data: &str) -> Vec<u8> {
    hmac::sign(&hmac::Key::new(HMAC_SHA256, key), data.as_bytes()).as_ref().to_vec()
}

fn invalid(message: &str) -> Exception {
    Exception::new("InvalidSignatureException", message)
}

fn incomplete(message: String) -> Exception {
    Exception::new("IncompleteSignatureException", message)
}

/// Seconds since 1970 of `YYYYMMDDTHHMMSSZ`.
fn parse_date(text: &str) -> Option<i64> {
    let shape = |(index, byte): (usize, u8)| match index {
        8 => byte == b'T',
        15 => byte == b'Z',
        _ => byte.is_ascii_digit(),
    };
    if text.len() != 16 || !text.bytes().enumerate().all(shape) {
        return None;
    }
    let number = |from: usize, to: usize| text[from..to].parse::<i64>().ok();
    let (year, month, day) = (number(0, 4)?, number(4, 6)?, number(6, 8)?);
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    let seconds = number(9, 11)? * 3600 + number(11, 13)? * 60 + number(13, 15)?;
    Some(days(year, month, day) * 86_400 + seconds)
}

/// Days since 1970 of a date of the Gregorian calendar, whose years are counted from March so that a
/// leap day is the last.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let leap_days = year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    365 * year + leap_days + of_year - 719_468
}

/// `YYYYMMDDTHHMMSSZ` of seconds since 1970.
fn format_date(seconds: i64) -> String {
    let (day, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let mut year = 1970 + day.div_euclid(366);
    while days(year + 1, 1, 1) <= day {
        year += 1;
    }
    let month = (1..=12).rev().find(|&month| days(year, month, 1) <= day).unwrap_or(1);
    let date = day - days(year, month, 1) + 1;
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}{month:02}{date:02}T{hour:02}{minute:02}{second:02}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_secret_half_is_not_in_debug() {
        let credentials = Authority::default().temporary(Duration::from_secs(1)).unwrap();
        let shown = format!("{credentials:?}");
        assert!(shown.contains(credentials.access_key_id()));
        assert!(!shown.contains(credentials.secret_access_key()));
        assert!(!shown.contains(credentials.session_token().unwrap()));
    }

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (text, seconds) in [
            ("19700101T000000Z", 0),
            ("20000229T235959Z", 951_868_799),
            ("20240301T000000Z", 1_709_251_200),
            ("20991231T120000Z", 4_102_401_600),
        ] {
            assert_eq!(parse_date(text), Some(seconds), "{text}");
            assert_eq!(format_date(seconds), text);
        }
        for text in ["", "20240301", "20241301T000000Z", "2024-301T000000Z", "20240301T000000+"] {
            assert_eq!(parse_date(text), None, "{text}");
        }
    }
}
