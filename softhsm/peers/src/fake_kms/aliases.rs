//! `CreateAlias`, `UpdateAlias`, `DeleteAlias` and `ListAliases`.

use serde::Deserialize;
use serde_json::{Value, json};

use super::account::{Account, Alias, Key};
use super::exception::Exception;
use super::identity::alias_arn;
use super::request::{PageRequest, parse, required};

/// The longest alias, with its `alias/`.
const LONGEST: usize = 256;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct OfAlias {
    alias_name: Option<String>,
    target_key_id: Option<String>,
}

/// `CreateAlias`.
pub(super) fn create(account: &mut Account, body: &[u8], now: i64) -> Result<Value, Exception> {
    let request: OfAlias = parse(body)?;
    let name = checked_name(request.alias_name)?;
    let key = account.keyed(&required(request.target_key_id, "targetKeyId")?)?;
    key.check_kept()?;
    let alias = Alias { target: key.id.clone(), created: now, updated: now };
    if account.aliases.contains_key(&name) {
        let message = format!("An alias with the name {} already exists", alias_arn(&name));
        return Err(Exception::new("AlreadyExistsException", message));
    }
    account.aliases.insert(name, alias);
    Ok(Value::Null)
}

/// `UpdateAlias`: the key that it leaves may wait for its deletion, the one that it goes to may not.
pub(super) fn update(account: &mut Account, body: &[u8], now: i64) -> Result<Value, Exception> {
    let request: OfAlias = parse(body)?;
    let name = checked_name(request.alias_name)?;
    let new = account.keyed(&required(request.target_key_id, "targetKeyId")?)?;
    new.check_kept()?;
    let old = account.aliases.get(&name).ok_or_else(|| no_alias(&name))?;
    if account.keyed(&old.target)?.usage != new.usage {
        return Err(Exception::validation(format!(
            "Alias {} cannot be changed to a key of another usage",
            alias_arn(&name)
        )));
    }
    let target = new.id.clone();
    let alias = account.aliases.get_mut(&name).ok_or_else(|| no_alias(&name))?;
    (alias.target, alias.updated) = (target, now);
    Ok(Value::Null)
}

/// `DeleteAlias`.
pub(super) fn delete(account: &mut Account, body: &[u8]) -> Result<Value, Exception> {
    let name = checked_name(parse::<OfAlias>(body)?.alias_name)?;
    account.aliases.remove(&name).ok_or_else(|| no_alias(&name))?;
    Ok(Value::Null)
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ListAliases {
    key_id: Option<String>,
    #[serde(flatten)]
    page: PageRequest,
}

/// `ListAliases`: 50 a page, 100 at most; of one key, if one is named.
pub(super) fn list(account: &Account, body: &[u8]) -> Result<Value, Exception> {
    let request: ListAliases = parse(body)?;
    let key = request.key_id.as_deref().map(|name| account.keyed(name)).transpose()?;
    let wanted = |alias: &Alias| key.is_none_or(|key: &Key| key.id == alias.target);
    let aliases = account.aliases.iter().filter(|(_, alias)| wanted(alias));
    let page = request.page.page(aliases, |(name, _)| name.as_str(), 50, 100)?;
    let aliases: Vec<Value> = page
        .items
        .iter()
        .map(|(name, alias)| {
            json!({
                "AliasArn": alias_arn(name),
                "AliasName": name,
                "CreationDate": alias.created,
                "LastUpdatedDate": alias.updated,
                "TargetKeyId": alias.target,
            })
        })
        .collect();
    let mut answer = json!({ "Aliases": aliases, "Truncated": page.next.is_some() });
    if let Some(next) = page.next {
        answer["NextMarker"] = next.into();
    }
    Ok(answer)
}

/// A name that an alias of ours may have; those of AWS's own begin with `alias/aws/`.
fn checked_name(name: Option<String>) -> Result<String, Exception> {
    let name = required(name, "aliasName")?;
    let Some(rest) = name.strip_prefix("alias/").filter(|_| name.len() <= LONGEST) else {
        return Err(Exception::validation("Alias must start with the prefix \"alias/\""));
    };
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '/' | '_' | '-');
    if rest.is_empty() || !rest.chars().all(allowed) {
        return Err(Exception::new("InvalidAliasNameException", format!("Invalid alias {name}")));
    }
    if rest.starts_with("aws/") {
        return Err(Exception::new("NotAuthorizedException", "alias/aws/ is AWS's own"));
    }
    Ok(name)
}

fn no_alias(name: &str) -> Exception {
    Exception::not_found(format!("Alias {} is not found.", alias_arn(name)))
}
