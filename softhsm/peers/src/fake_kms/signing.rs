//! `Sign` and `GetPublicKey`.

use std::sync::Arc;

use aws_lc_rs::error::Unspecified;
use serde::Deserialize;
use serde_json::{Value, json};

use super::account::{Account, Key, Usage};
use super::exception::Exception;
use super::key_pair::{Input, KeyPair, SigningAlgorithm};
use super::request::{Blob, blob, parse, required};

/// The longest message of any type, in bytes.
const LONGEST_MESSAGE: usize = 4096;

/// A signature that may be made: every check of the service is behind it.
#[derive(Debug)]
pub(super) struct Signing {
    pub(super) key: Arc<KeyPair>,
    pub(super) spec: super::KeySpec,
    arn: String,
    algorithm: SigningAlgorithm,
    input: Input,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Sign {
    key_id: Option<String>,
    message: Option<Blob>,
    message_type: Option<String>,
    signing_algorithm: Option<String>,
    #[serde(default)]
    dry_run: bool,
}

impl Signing {
    /// Checks a request to sign, in the order of the service: its form, the key, the key's state, the
    /// algorithm, the message.
    pub(super) fn parse(account: &Account, body: &[u8]) -> Result<Self, Exception> {
        let request: Sign = parse(body)?;
        let name = required(request.key_id, "keyId")?;
        let Blob(message) = required(request.message, "message")?;
        check_length(&message)?;
        let algorithm = algorithm(&required(request.signing_algorithm, "signingAlgorithm")?)?;
        let message_type = MessageType::parse(request.message_type.as_deref())?;

        let key = account.named(&name)?;
        key.check_enabled()?;
        check_use(key, algorithm)?;
        let input = input(algorithm, message_type, message)?;
        if request.dry_run {
            return Err(dry_run());
        }
        let (arn, spec) = (key.arn(), key.spec);
        Ok(Self { key: Arc::clone(&key.pair), spec, arn, algorithm, input })
    }

    /// Signs and answers.
    pub(super) fn answer(&self) -> Result<Value, Exception> {
        let signature = self
            .key
            .sign(self.algorithm, &self.input)
            .map_err(|Unspecified| Exception::internal())?;
        Ok(json!({
            "KeyId": self.arn,
            "Signature": blob(&signature),
            "SigningAlgorithm": self.algorithm.name(),
        }))
    }
}

#[derive(Debug, Clone, Copy)]
enum MessageType {
    Raw,
    Digest,
}

impl MessageType {
    fn parse(name: Option<&str>) -> Result<Self, Exception> {
        match name {
            None | Some("RAW") => Ok(Self::Raw),
            Some("DIGEST") => Ok(Self::Digest),
            Some("EXTERNAL_MU") => {
                Err(Exception::new("UnsupportedOperationException", "no EXTERNAL_MU here"))
            }
            Some(other) => Err(Exception::constraint(
                "messageType",
                &format!("'{other}'"),
                "Member must satisfy enum value set: [DIGEST, RAW, EXTERNAL_MU]",
            )),
        }
    }
}

fn check_length(message: &[u8]) -> Result<(), Exception> {
    let constraint = match message.len() {
        0 => "Member must have length greater than or equal to 1",
        1..=LONGEST_MESSAGE => return Ok(()),
        _ => "Member must have length less than or equal to 4096",
    };
    Err(Exception::constraint("message", "of the request", constraint))
}

fn algorithm(name: &str) -> Result<SigningAlgorithm, Exception> {
    SigningAlgorithm::named(name).ok_or_else(|| {
        Exception::constraint(
            "signingAlgorithm",
            &format!("'{name}'"),
            "Member must satisfy the enum of signing algorithms",
        )
    })
}

fn check_use(key: &Key, algorithm: SigningAlgorithm) -> Result<(), Exception> {
    let invalid = |message| Err(Exception::new("InvalidKeyUsageException", message));
    if key.usage != Usage::SignVerify {
        return invalid(format!(
            "{} key usage is {} which is not valid for Sign.",
            key.arn(),
            key.usage.name()
        ));
    }
    if !key.spec.algorithms().contains(&algorithm) {
        let name = algorithm.name();
        return invalid(format!("Algorithm {name} and key spec {} are incompatible.", key.spec));
    }
    Ok(())
}

fn input(
    algorithm: SigningAlgorithm,
    message_type: MessageType,
    message: Vec<u8>,
) -> Result<Input, Exception> {
    let name = algorithm.name();
    if algorithm == SigningAlgorithm::Ed25519Prehashed {
        return Err(Exception::new("UnsupportedOperationException", format!("no {name} here")));
    }
    match message_type {
        MessageType::Raw => Ok(Input::of_message(algorithm, message)),
        MessageType::Digest if algorithm.hash().is_none() => Err(Exception::validation(format!(
            "MessageType DIGEST is not valid for algorithm {name}."
        ))),
        MessageType::Digest => Input::of_digest(algorithm, &message).ok_or_else(|| {
            Exception::validation(format!("Digest is invalid length for algorithm {name}."))
        }),
    }
}

fn dry_run() -> Exception {
    let message = "The request would have succeeded, but the DryRun option is set.";
    Exception {
        status: hyper::StatusCode::PRECONDITION_FAILED,
        name: "DryRunOperationException",
        message: message.into(),
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct GetPublicKey {
    key_id: Option<String>,
}

/// `GetPublicKey`.
pub(super) fn public_key(account: &Account, body: &[u8]) -> Result<Value, Exception> {
    let key = account.named(&required(parse::<GetPublicKey>(body)?.key_id, "keyId")?)?;
    key.check_enabled()?;
    let public_key = key.pair.public_key().map_err(|Unspecified| Exception::internal())?;
    let mut answer = json!({
        "CustomerMasterKeySpec": key.spec.name(),
        "KeyId": key.arn(),
        "KeySpec": key.spec.name(),
        "KeyUsage": key.usage.name(),
        "PublicKey": blob(&public_key),
    });
    if let Some(algorithms) = key.signing_algorithms() {
        answer["SigningAlgorithms"] = algorithms.into();
    }
    Ok(answer)
}
