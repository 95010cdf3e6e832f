//! `CreateKey`, `DescribeKey`, `ListKeys` and the changes of a key's state.

use serde::Deserialize;
use serde_json::{Value, json};

use super::account::{Account, Key, State, Usage};
use super::exception::Exception;
use super::key_pair::KeyPair;
use super::request::{PageRequest, parse, required};
use super::tags::{self, Tag};
use super::{FakeKmsError, KeySpec};

/// The longest description, in characters.
const LONGEST_DESCRIPTION: usize = 8192;
const SECONDS_A_DAY: i64 = 24 * 60 * 60;

/// A key that has been asked for and is yet to be made, which for RSA takes a while.
pub(super) struct KeyRequest {
    pub(super) spec: KeySpec,
    usage: Usage,
    description: String,
    tags: Vec<Tag>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct CreateKey {
    key_spec: Option<String>,
    customer_master_key_spec: Option<String>,
    key_usage: Option<String>,
    #[serde(default)]
    description: String,
    #[serde(default)]
    tags: Vec<Tag>,
    origin: Option<String>,
    #[serde(default)]
    multi_region: bool,
}

impl KeyRequest {
    /// Checks a request for a key.
    pub(super) fn parse(body: &[u8]) -> Result<Self, Exception> {
        let request: CreateKey = parse(body)?;
        if request.multi_region || request.origin.is_some_and(|origin| origin != "AWS_KMS") {
            return Err(unsupported("keys of one region made within KMS alone are to be had here"));
        }
        let spec = request.key_spec.or(request.customer_master_key_spec);
        let spec = spec.as_deref().unwrap_or("SYMMETRIC_DEFAULT");
        let spec = spec.parse().map_err(|_| unsupported(&format!("no key spec {spec} here")))?;
        let usage = usage(spec, request.key_usage.as_deref())?;
        if request.description.chars().count() > LONGEST_DESCRIPTION {
            let constraint =
                format!("Member must have length less than or equal to {LONGEST_DESCRIPTION}");
            return Err(Exception::constraint("description", "of the request", &constraint));
        }
        tags::check(&request.tags)?;
        Ok(Self { spec, usage, description: request.description, tags: request.tags })
    }

    /// Takes the key in, now that it is made.
    pub(super) fn finish(
        self,
        account: &mut Account,
        pair: KeyPair,
        now: i64,
    ) -> Result<Value, Exception> {
        let key = account.add(self.spec, self.usage, pair, now).map_err(no_random)?;
        key.description = self.description;
        tags::put(key, self.tags)?;
        Ok(json!({ "KeyMetadata": key.metadata() }))
    }
}

/// What a key of this spec may be for. An asymmetric key's usage has to be said.
fn usage(spec: KeySpec, name: Option<&str>) -> Result<Usage, Exception> {
    use KeySpec as S;
    let usage = match (name, spec) {
        (Some("SIGN_VERIFY"), _) => Some(Usage::SignVerify),
        (Some("ENCRYPT_DECRYPT"), S::Rsa2048 | S::Rsa3072 | S::Rsa4096) => {
            Some(Usage::EncryptDecrypt)
        }
        (Some("KEY_AGREEMENT"), S::EccNistP256 | S::EccNistP384) => Some(Usage::KeyAgreement),
        _ => None,
    };
    usage.ok_or_else(|| {
        let name = name.unwrap_or("null");
        Exception::validation(format!("KeyUsage {name} is not compatible with KeySpec {spec}"))
    })
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct OfKey {
    key_id: Option<String>,
}

fn key_id(body: &[u8]) -> Result<String, Exception> {
    required(parse::<OfKey>(body)?.key_id, "keyId")
}

/// `DescribeKey`.
pub(super) fn describe(account: &Account, body: &[u8]) -> Result<Value, Exception> {
    let key = account.named(&key_id(body)?)?;
    Ok(json!({ "KeyMetadata": key.metadata() }))
}

/// `ListKeys`: 100 a page, 1,000 at most.
pub(super) fn list(account: &Account, body: &[u8]) -> Result<Value, Exception> {
    let request: PageRequest = parse(body)?;
    let page = request.page(account.keys.values(), |key| &key.id, 100, 1000)?;
    let keys: Vec<Value> =
        page.items.iter().map(|key| json!({ "KeyArn": key.arn(), "KeyId": key.id })).collect();
    let mut answer = json!({ "Keys": keys, "Truncated": page.next.is_some() });
    if let Some(next) = page.next {
        answer["NextMarker"] = next.into();
    }
    Ok(answer)
}

/// `EnableKey` and `DisableKey`.
pub(super) fn set_state(
    account: &mut Account,
    body: &[u8],
    state: State,
) -> Result<Value, Exception> {
    let key = account.keyed_mut(&key_id(body)?)?;
    key.check_kept()?;
    key.state = state;
    Ok(Value::Null)
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ScheduleKeyDeletion {
    key_id: Option<String>,
    pending_window_in_days: Option<i64>,
}

/// `ScheduleKeyDeletion`: in 7 to 30 days, 30 unless told.
pub(super) fn schedule_deletion(
    account: &mut Account,
    body: &[u8],
    now: i64,
) -> Result<Value, Exception> {
    let request: ScheduleKeyDeletion = parse(body)?;
    let days = request.pending_window_in_days.unwrap_or(30);
    if !(7..=30).contains(&days) {
        return Err(Exception::constraint(
            "pendingWindowInDays",
            &format!("'{days}'"),
            "Member must be between 7 and 30",
        ));
    }
    let key = account.keyed_mut(&required(request.key_id, "keyId")?)?;
    key.check_kept()?;
    let date = now + days * SECONDS_A_DAY;
    key.state = State::PendingDeletion(date);
    Ok(json!({
        "DeletionDate": date,
        "KeyId": key.arn(),
        "KeyState": key.state.name(),
        "PendingWindowInDays": days,
    }))
}

/// `CancelKeyDeletion`: the key is disabled afterwards.
pub(super) fn cancel_deletion(account: &mut Account, body: &[u8]) -> Result<Value, Exception> {
    let key = account.keyed_mut(&key_id(body)?)?;
    if !pending(key) {
        return Err(Exception::invalid_state(format!("{} is not pending deletion.", key.arn())));
    }
    key.state = State::Disabled;
    Ok(json!({ "KeyId": key.arn() }))
}

fn pending(key: &Key) -> bool {
    matches!(key.state, State::PendingDeletion(_))
}

fn unsupported(message: &str) -> Exception {
    Exception::new("UnsupportedOperationException", message)
}

fn no_random(_: FakeKmsError) -> Exception {
    Exception::internal()
}
