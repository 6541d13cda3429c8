//! Pages of a list, in the order of names.

use serde_json::{Map, Value, json};

use super::Call;
use crate::error::Refusal;

/// Items on a page where nobody says how many.
const PAGE: usize = 20;
/// Most items on a page.
const MOST: usize = 100;

/// Items that a call wants on a page.
///
/// # Errors
/// A `limit` that is none.
pub(super) fn limit(call: &Call) -> Result<usize, Refusal> {
    let Some(text) = call.query.get("limit") else {
        return Ok(PAGE);
    };
    let limit = text.parse().ok().filter(|limit| (1..=MOST).contains(limit));
    limit
        .ok_or_else(|| Refusal::invalid(format!("limit has to be a whole number from 1 to {MOST}")))
}

/// The page of `items` (name and content, in order) that a call asks for, under `field`. A token names
/// the first item of the next page, or where it would be.
///
/// # Errors
/// A `limit` that is none.
pub(super) fn page(
    call: &Call,
    field: &str,
    items: Vec<(String, Value)>,
) -> Result<Value, Refusal> {
    let limit = limit(call)?;
    let prefix = call.query.get("prefix").unwrap_or("");
    let token = call.query.get("nextToken");
    let begin = token.or_else(|| call.query.get("startKey")).unwrap_or("");
    let mut wanted = items
        .into_iter()
        .filter(|(name, _)| name.starts_with(prefix) && name.as_str() >= begin);
    let page: Vec<Value> = wanted.by_ref().take(limit).map(|(_, item)| item).collect();
    let mut answer = Map::new();
    answer.insert(field.to_owned(), Value::Array(page));
    if let Some((next, _)) = wanted.next() {
        answer.insert("nextToken".to_owned(), json!(next));
    }
    Ok(Value::Object(answer))
}
