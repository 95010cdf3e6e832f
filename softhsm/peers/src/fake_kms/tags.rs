//! `TagResource`, `UntagResource` and `ListResourceTags`.

use serde::Deserialize;
use serde_json::{Value, json};

use super::account::{Account, Key};
use super::exception::Exception;
use super::request::{PageRequest, parse, required};

/// How many tags a key has at most.
const MOST_TAGS: usize = 50;
/// The longest tag key, in characters.
const LONGEST_KEY: usize = 128;
/// The longest tag value, in characters.
const LONGEST_VALUE: usize = 256;

/// A tag as requests carry it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Tag {
    tag_key: String,
    tag_value: String,
}

/// Refuses tags that no key may have.
pub(super) fn check(tags: &[Tag]) -> Result<(), Exception> {
    for tag in tags {
        let length = tag.tag_key.chars().count();
        if tag.tag_key.starts_with("aws:")
            || !(1..=LONGEST_KEY).contains(&length)
            || tag.tag_value.chars().count() > LONGEST_VALUE
        {
            return Err(Exception::new("TagException", format!("Invalid tag {}", tag.tag_key)));
        }
    }
    let mut names: Vec<_> = tags.iter().map(|tag| &tag.tag_key).collect();
    names.sort_unstable();
    if names.windows(2).any(|pair| pair[0] == pair[1]) {
        return Err(Exception::new("TagException", "Duplicate tag keys"));
    }
    if tags.len() > MOST_TAGS { Err(too_many()) } else { Ok(()) }
}

/// Sets tags, which have been checked.
pub(super) fn put(key: &mut Key, tags: Vec<Tag>) -> Result<(), Exception> {
    let new = tags.iter().filter(|tag| !key.tags.contains_key(&tag.tag_key)).count();
    if key.tags.len() + new > MOST_TAGS {
        return Err(too_many());
    }
    key.tags.extend(tags.into_iter().map(|tag| (tag.tag_key, tag.tag_value)));
    Ok(())
}

fn too_many() -> Exception {
    Exception::new("LimitExceededException", format!("A key has {MOST_TAGS} tags at most"))
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct TagResource {
    key_id: Option<String>,
    tags: Option<Vec<Tag>>,
}

/// `TagResource`.
pub(super) fn tag(account: &mut Account, body: &[u8]) -> Result<Value, Exception> {
    let request: TagResource = parse(body)?;
    let tags = required(request.tags, "tags")?;
    check(&tags)?;
    let key = account.keyed_mut(&required(request.key_id, "keyId")?)?;
    key.check_kept()?;
    put(key, tags)?;
    Ok(Value::Null)
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct UntagResource {
    key_id: Option<String>,
    tag_keys: Option<Vec<String>>,
}

/// `UntagResource`; tags that are not there do no harm.
pub(super) fn untag(account: &mut Account, body: &[u8]) -> Result<Value, Exception> {
    let request: UntagResource = parse(body)?;
    let names = required(request.tag_keys, "tagKeys")?;
    let key = account.keyed_mut(&required(request.key_id, "keyId")?)?;
    key.check_kept()?;
    key.tags.retain(|name, _| !names.contains(name));
    Ok(Value::Null)
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ListResourceTags {
    key_id: Option<String>,
    #[serde(flatten)]
    page: PageRequest,
}

/// `ListResourceTags`: 50 a page, 50 at most.
pub(super) fn list(account: &Account, body: &[u8]) -> Result<Value, Exception> {
    let request: ListResourceTags = parse(body)?;
    let key = account.keyed(&required(request.key_id, "keyId")?)?;
    let page = request.page.page(key.tags.iter(), |(name, _)| name.as_str(), 50, 50)?;
    let tags: Vec<Value> = page
        .items
        .iter()
        .map(|(name, value)| json!({ "TagKey": name, "TagValue": value }))
        .collect();
    let mut answer = json!({ "Tags": tags, "Truncated": page.next.is_some() });
    if let Some(next) = page.next {
        answer["NextMarker"] = next.into();
    }
    Ok(answer)
}
