//! Keys in the transit engine of HashiCorp Vault or OpenBao.
//!
//! A key signs with its version 1 alone, which its name therefore means: rotating it there adds versions that
//! nothing here uses. A key that could leave the server, or be deleted by a slip, is refused.

mod http;
mod inspect;
mod settings;
mod token;

use std::sync::Arc;

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ca_core::key::{KeyError, KeyName, KeyType, Signature, SignatureAlgorithm, StoreDescription};
use hyper::{Method, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::Instant;

pub use settings::Settings;

use crate::blocking;
use crate::remote::RemoteStore;
use crate::remote::retry::patiently;
use crate::remote::task::OwnedTask;
use crate::remote::wire::{Class, Found, Wire, WireError};
use crate::verification::Oversight;
use http::{Answer, Server};
use token::{Asked, Tokens, keep_alive, lease};

/// The version of every key that signs.
const VERSION: u64 = 1;
/// What a signature by it begins with.
const PREFIX: &str = "vault:v1:";
/// The longest message that is signed unhashed, in bytes; the server's own bound is 32 MiB.
const LONGEST_MESSAGE: usize = 1 << 20;

/// The keys of `trust_domain` in a transit engine. Asks the server how it is, and whether the token lives.
///
/// # Errors
/// [`KeyError::Setup`] if a setting, the token or the mount is wrong, [`KeyError::Unavailable`] if the server
/// is sealed, not the one to ask, or does not answer.
pub async fn open(
    settings: Settings,
    trust_domain: &str,
    oversight: Oversight,
) -> Result<RemoteStore, KeyError> {
    settings.check()?;
    let (place, pace, mount) = (settings.place(), settings.pace, settings.mount.clone());
    let failed = |error: WireError| error.into_key_error(&place);
    let tokens = Tokens::read(settings.token.clone()).await?;
    let server = blocking::run(&place, move || Server::new(&settings)).await?;
    check_health(&server).await.map_err(failed)?;
    let life = patiently(|| async { lease(&server, &tokens.current(), Instant::now()).await });
    let life = life.await.map_err(|error| match error.class {
        Class::Credentials => KeyError::Setup {
            place: place.clone(),
            reason: format!("{}; the token has ended or never was one: give another", error.reason),
        },
        _ => error.into_key_error(&place),
    })?;
    let watch = tokens.watch();
    let session = Arc::new((server, tokens));
    let renewal = OwnedTask::spawn(keep_alive(Arc::downgrade(&session), watch, life));
    let transit = Transit { session, mount, place: place.clone(), _renewal: renewal };
    transit.list(trust_domain).await?;
    let description = StoreDescription {
        kind: "transit",
        place,
        key_types: KeyType::ALL[..6].to_vec(),
        hardware: false,
        longest_message: LONGEST_MESSAGE,
    };
    RemoteStore::open(Box::new(transit), description, pace, trust_domain, oversight)
}

/// Refuses a server that cannot sign now, with its reason.
async fn check_health(server: &Server) -> Result<(), WireError> {
    let answer = patiently(|| server.ask(Method::GET, "sys/health", None, None)).await?;
    let reason = match answer.status.as_u16() {
        // A standby forwards to the active one.
        200 | 429 | 473 => return Ok(()),
        472 => "it is a secondary for disaster recovery and signs nothing; name the primary",
        501 => "it is not initialised; initialise and unseal it",
        503 => "it is sealed; unseal it",
        other => {
            return Err(WireError::transient(&other.to_string(), format!("its health is {other}")));
        }
    };
    Err(WireError::transient(answer.status.as_str(), reason))
}

/// The engine's wire.
#[derive(Debug)]
struct Transit {
    session: Arc<(Server, Tokens)>,
    mount: String,
    place: String,
    _renewal: OwnedTask,
}

#[derive(Deserialize)]
struct Signed {
    signature: String,
    /// Told since Vault 1.0.
    key_version: Option<u64>,
}

#[async_trait]
impl Wire for Transit {
    async fn sign(
        &self,
        key: &Found,
        algorithm: SignatureAlgorithm,
        message: &[u8],
    ) -> Result<Signature, WireError> {
        let body = request(algorithm, message)?;
        let path = format!("sign/{}", key.handle);
        let signed: Signed = self.ask(Method::POST, &path, Some(&body)).await?.data("sign")?;
        if signed.key_version.is_some_and(|version| version != VERSION) {
            return Err(wrong_version(&format!("{:?}", signed.key_version)));
        }
        let Some(encoded) = signed.signature.strip_prefix(PREFIX) else {
            let start: String = signed.signature.chars().take(PREFIX.len()).collect();
            return Err(wrong_version(&start));
        };
        let signature = STANDARD.decode(encoded).unwrap_or_default();
        Signature::from_x509(algorithm, &signature).map_err(WireError::malformed)
    }

    async fn find(&self, name: &KeyName) -> Result<Option<Found>, KeyError> {
        self.inspect(name).await
    }

    async fn create(&self, name: &KeyName, key_type: KeyType) -> Result<Found, KeyError> {
        let path = format!("keys/{}", handle(name)?);
        let body = json!({ "type": inspect::type_name(key_type) });
        self.managed(Method::POST, &path, Some(&body), "make a key").await?;
        // Another server may have been faster, with another kind of key.
        let made = self.inspect(name).await?.ok_or_else(|| KeyError::NotFound(name.clone()))?;
        if made.public_key.kind() != key_type.kind() {
            return Err(KeyError::Exists(name.clone()));
        }
        Ok(made)
    }

    async fn list(&self, trust_domain: &str) -> Result<Vec<KeyName>, KeyError> {
        #[derive(Deserialize)]
        struct Keys {
            keys: Vec<String>,
        }
        let answer = patiently(|| async {
            let answer = self.ask(Method::GET, "keys?list=true", None).await?;
            if answer.is_nothing() {
                return Ok(Keys { keys: Vec::new() });
            }
            answer.data("list the keys")
        });
        let answer = answer.await.map_err(|error| error.into_key_error(&self.place))?;
        Ok(answer.keys.iter().filter_map(|handle| name(handle, trust_domain)).collect())
    }

    async fn destroy(&self, name: &KeyName) -> Result<Option<String>, KeyError> {
        let handle = handle(name)?;
        let path = format!("keys/{handle}");
        if self.read(&handle).await?.is_none() {
            return Ok(None);
        }
        let allow = json!({ "deletion_allowed": true });
        let config = format!("{path}/config");
        self.managed(Method::POST, &config, Some(&allow), "allow the key's deletion").await?;
        self.managed(Method::DELETE, &path, None, "delete the key").await?;
        Ok(Some(format!("destroyed: {handle} in {}", self.place)))
    }
}

impl Transit {
    /// One request below the mount with the token of now; once more with the next one if it is refused.
    async fn ask(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Answer, WireError> {
        let (server, tokens) = &*self.session;
        let path = format!("{}/{path}", self.mount);
        let token = tokens.current();
        let answer = server.ask(method.clone(), &path, Some(&token.header), body).await?;
        if answer.status != StatusCode::FORBIDDEN {
            return Ok(answer);
        }
        let refusal = answer.error(&format!("{method} {path}"));
        let asked = Asked { method: &method, path: &path, mount: &self.mount };
        let token = tokens.instead_of(&token, server, asked, refusal).await?;
        server.ask(method, &path, Some(&token.header), body).await
    }

    /// A call that manages keys, whose answer does not matter as long as it is good.
    async fn managed(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
        what: &str,
    ) -> Result<(), KeyError> {
        let asked = patiently(|| async {
            let answer = self.ask(method.clone(), path, body).await?;
            if answer.status.is_success() { Ok(()) } else { Err(answer.error(what)) }
        });
        asked.await.map_err(|error| error.into_key_error(&self.place))
    }
}

/// What the engine is asked for. Every choice is stated: for RSA it would take PSS with the longest salt.
fn request(algorithm: SignatureAlgorithm, message: &[u8]) -> Result<Value, WireError> {
    let digest = algorithm.digest(message);
    let input = STANDARD.encode(digest.as_ref().map_or(message, |digest| digest.as_ref()));
    let mut body = json!({ "input": input, "key_version": VERSION });
    let choices = match algorithm {
        SignatureAlgorithm::EcdsaP256Sha256 => json!({ "hash_algorithm": "sha2-256" }),
        SignatureAlgorithm::EcdsaP384Sha384 => json!({ "hash_algorithm": "sha2-384" }),
        SignatureAlgorithm::RsaPkcs1Sha256 => {
            json!({ "hash_algorithm": "sha2-256", "signature_algorithm": "pkcs1v15" })
        }
        SignatureAlgorithm::RsaPssSha256 => json!({
            "hash_algorithm": "sha2-256", "signature_algorithm": "pss", "salt_length": "hash",
        }),
        SignatureAlgorithm::Ed25519 => return Ok(body),
        SignatureAlgorithm::MlDsa44 | SignatureAlgorithm::MlDsa65 => {
            let reason = format!("the transit engine does not sign by {algorithm}");
            return Err(WireError::new(Class::Refused, "algorithm", reason));
        }
    };
    body["prehashed"] = true.into();
    body["marshaling_algorithm"] = "asn1".into();
    if let (Some(body), Value::Object(choices)) = (body.as_object_mut(), choices) {
        body.extend(choices);
    }
    Ok(body)
}

fn wrong_version(found: &str) -> WireError {
    let reason = format!("it signed with another version than {VERSION}: {found}");
    WireError::new(Class::Wrong, "wrong version", reason)
}

/// The engine's name of a key: `mintmark.<trust domain>.<authority>.<generation>`. A slash has no place in
/// one, and neither authority nor generation has a dot, so it can be read back.
fn handle(name: &KeyName) -> Result<String, KeyError> {
    if name.generation().ends_with('-') {
        let reason = "the transit engine takes no name that ends with a hyphen; name the generation otherwise";
        return Err(KeyError::Unsafe { name: name.clone(), reason: reason.to_owned() });
    }
    let (domain, authority) = (name.trust_domain(), name.authority());
    Ok(format!("mintmark.{domain}.{authority}.{}", name.generation()))
}

/// The key of that trust domain that the engine calls so.
fn name(handle: &str, trust_domain: &str) -> Option<KeyName> {
    let rest = handle.strip_prefix("mintmark.")?.strip_prefix(trust_domain)?.strip_prefix('.')?;
    let (authority, generation) = rest.split_once('.')?;
    KeyName::parse(&format!("mintmark/{trust_domain}/{authority}/{generation}")).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_read_back_and_belongs_to_one_trust_domain() {
        let key = KeyName::parse("mintmark/a.b-c.test/x509/7").unwrap();
        let handle = handle(&key).unwrap();
        assert_eq!(handle, "mintmark.a.b-c.test.x509.7");
        assert_eq!(name(&handle, "a.b-c.test"), Some(key));
        for other in ["a", "a.b-c", "a.b-c.test.x509", "b-c.test", ""] {
            assert_eq!(name(&handle, other), None, "{other}");
        }
        let hyphen = KeyName::parse("mintmark/a.test/x509/7-").unwrap();
        assert!(super::handle(&hyphen).is_err());
    }

    #[test]
    fn nothing_is_left_to_the_defaults_of_the_engine() {
        let body = request(SignatureAlgorithm::RsaPssSha256, b"message").unwrap();
        assert_eq!(body["salt_length"], "hash");
        assert_eq!(body["signature_algorithm"], "pss");
        assert_eq!(body["key_version"], 1);
        assert_eq!(body["prehashed"], true);
        let body = request(SignatureAlgorithm::Ed25519, b"message").unwrap();
        assert_eq!(body["input"], STANDARD.encode(b"message"));
        assert_eq!(body.get("prehashed"), None);
    }
}
