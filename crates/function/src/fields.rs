//! The fields of a request's JSON. Clients write them in any case; `null` and `""` mean that a
//! field is absent; what is wrong is said with the field's path.
//!
//! What nobody has asked for does nothing, and neither does what is only kept: callers are told, by
//! [`Fields::warnings`].

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::rc::Rc;

use serde_json::{Map, Value};

use crate::error::Refusal;

/// What a resource is shown with and nobody can set: clients send back what they were given.
const ANSWERED: [&str; 22] = [
    "accelerationinfo",
    "codechecksum",
    "codesize",
    "createdtime",
    "domainname",
    "functionarn",
    "functionid",
    "functionname",
    "httptrigger",
    "lastmodifiedtime",
    "lastupdatestatus",
    "requestid",
    "resolvedimageuri",
    "serviceid",
    "servicename",
    "state",
    "triggerid",
    "triggername",
    "triggertype",
    "urlinternet",
    "urlintranet",
    "aliasname",
];

/// An object of a request.
#[derive(Clone, Debug)]
pub(crate) struct Fields<'a> {
    /// Of the object: empty, or ends with a dot.
    path: String,
    map: &'a Map<String, Value>,
    /// Shared with the objects within.
    asked: Rc<RefCell<Asked>>,
}

/// What was asked for so far, by lower-case paths.
#[derive(Debug, Default)]
struct Asked {
    read: BTreeSet<String>,
    /// With the path as it is shown.
    kept: BTreeMap<String, String>,
}

impl<'a> Fields<'a> {
    /// The whole body.
    ///
    /// # Errors
    /// [`Refusal`] when it is no object.
    pub(crate) fn of(body: &'a Value) -> Result<Self, Refusal> {
        let map = body.as_object();
        let map = map.ok_or_else(|| Refusal::invalid("the body has to be a JSON object"))?;
        Ok(Self {
            path: String::new(),
            map,
            asked: Rc::default(),
        })
    }

    /// What a field has that is kept and given back, and does nothing.
    pub(crate) fn keep(&self, name: &str) -> Option<&'a Value> {
        let value = self.get(name)?;
        if has_content(value) {
            let path = format!("{}{name}", self.path);
            let lower = path.to_ascii_lowercase();
            self.asked.borrow_mut().kept.insert(lower, path);
        }
        Some(value)
    }

    /// A sentence for each field that does nothing.
    pub(crate) fn warnings(&self) -> Vec<String> {
        let asked = self.asked.borrow();
        let mut unread = Vec::new();
        find_unread(&asked, "", self.map, &mut unread);
        let kept = asked.kept.values();
        let kept = kept.map(|path| format!("{path} is kept and does nothing here"));
        let unread = unread.iter().map(|path| format!("{path} is ignored here"));
        kept.chain(unread).collect()
    }

    /// What a field has, in whatever case it is written.
    pub(crate) fn get(&self, name: &str) -> Option<&'a Value> {
        let path = format!("{}{name}", self.path).to_ascii_lowercase();
        self.asked.borrow_mut().read.insert(path);
        let exact = self.map.get(name);
        let value = exact.or_else(|| {
            let mut all = self.map.iter();
            let found = all.find(|(key, _)| key.eq_ignore_ascii_case(name));
            found.map(|(_, value)| value)
        })?;
        match value {
            Value::Null => None,
            Value::String(text) if text.is_empty() => None,
            value => Some(value),
        }
    }

    fn wrong(&self, name: &str, wanted: &str) -> Refusal {
        Refusal::invalid(format!("{}{name} has to be {wanted}", self.path))
    }

    /// A text.
    pub(crate) fn text(&self, name: &str) -> Result<Option<&'a str>, Refusal> {
        let text = self.get(name).map(|value| value.as_str());
        text.map(|text| text.ok_or_else(|| self.wrong(name, "a string")))
            .transpose()
    }

    /// A text that has to be there.
    pub(crate) fn required(&self, name: &str) -> Result<&'a str, Refusal> {
        let text = self.text(name)?;
        text.ok_or_else(|| Refusal::invalid(format!("{}{name} is missing", self.path)))
    }

    /// A whole number within a range. One that is written as a text counts too.
    pub(crate) fn number(
        &self,
        name: &str,
        range: RangeInclusive<u32>,
    ) -> Result<Option<u32>, Refusal> {
        let Some(value) = self.get(name) else {
            return Ok(None);
        };
        let number = match value {
            Value::String(text) => text.parse().ok(),
            value => value.as_u64(),
        };
        let number = number.and_then(|number| u32::try_from(number).ok());
        let number = number.filter(|number| range.contains(number));
        let wanted = format!("a whole number from {} to {}", range.start(), range.end());
        number.map(Some).ok_or_else(|| self.wrong(name, &wanted))
    }

    /// A fraction within a range.
    pub(crate) fn fraction(
        &self,
        name: &str,
        range: RangeInclusive<f64>,
    ) -> Result<Option<f64>, Refusal> {
        let Some(value) = self.get(name) else {
            return Ok(None);
        };
        let number = value.as_f64().filter(|number| range.contains(number));
        let wanted = format!("a number from {} to {}", range.start(), range.end());
        number.map(Some).ok_or_else(|| self.wrong(name, &wanted))
    }

    /// Yes or no.
    pub(crate) fn flag(&self, name: &str) -> Result<Option<bool>, Refusal> {
        let Some(value) = self.get(name) else {
            return Ok(None);
        };
        let flag = match value {
            Value::String(text) => text.to_ascii_lowercase().parse().ok(),
            value => value.as_bool(),
        };
        flag.map(Some)
            .ok_or_else(|| self.wrong(name, "true or false"))
    }

    /// An object within.
    pub(crate) fn object(&self, name: &str) -> Result<Option<Self>, Refusal> {
        let Some(value) = self.get(name) else {
            return Ok(None);
        };
        let map = value.as_object();
        let map = map.ok_or_else(|| self.wrong(name, "an object"))?;
        Ok(Some(Self {
            path: format!("{}{name}.", self.path),
            map,
            asked: Rc::clone(&self.asked),
        }))
    }

    /// A list of objects.
    pub(crate) fn objects(&self, name: &str) -> Result<Option<Vec<Self>>, Refusal> {
        let Some(value) = self.get(name) else {
            return Ok(None);
        };
        let list = value.as_array();
        let list = list.ok_or_else(|| self.wrong(name, "a list"))?;
        let fields = list.iter().enumerate().map(|(index, value)| {
            let name = format!("{name}[{index}]");
            let map = value.as_object();
            let map = map.ok_or_else(|| self.wrong(&name, "an object"))?;
            Ok(Self {
                path: format!("{}{name}.", self.path),
                map,
                asked: Rc::clone(&self.asked),
            })
        });
        fields.collect::<Result<_, Refusal>>().map(Some)
    }

    /// A list of texts; also one that is written as a text of JSON, as the APIs before 2023 do.
    pub(crate) fn texts(&self, name: &str) -> Result<Option<Vec<String>>, Refusal> {
        let Some(value) = self.get(name) else {
            return Ok(None);
        };
        let wrong = || self.wrong(name, "a list of strings, such as [\"a\", \"b\"]");
        let parsed;
        let list = match value {
            Value::String(text) => {
                parsed = serde_json::from_str::<Value>(text).map_err(|_| wrong())?;
                &parsed
            }
            value => value,
        };
        let list = list.as_array().ok_or_else(wrong)?;
        let texts = list.iter().map(|text| text.as_str().map(str::to_owned));
        texts.collect::<Option<_>>().map(Some).ok_or_else(wrong)
    }

    /// Names and values, which are taken as they are written.
    pub(crate) fn pairs(&self, name: &str) -> Result<Option<Vec<(String, String)>>, Refusal> {
        let Some(value) = self.get(name) else {
            return Ok(None);
        };
        let wrong = || self.wrong(name, "an object of strings");
        let map = value.as_object().ok_or_else(wrong)?;
        let pairs = map.iter().map(|(key, value)| {
            let value = match value {
                Value::String(text) => text.clone(),
                Value::Number(number) => number.to_string(),
                Value::Bool(flag) => flag.to_string(),
                _ => return Err(wrong()),
            };
            Ok((key.clone(), value))
        });
        pairs.collect::<Result<_, Refusal>>().map(Some)
    }
}

/// Paths of fields with content that nobody has asked for. Of an object that was asked for and not
/// looked into, all counts as read.
fn find_unread(asked: &Asked, path: &str, map: &Map<String, Value>, unread: &mut Vec<String>) {
    for (name, value) in map {
        let path = format!("{path}{name}");
        let lower = path.to_ascii_lowercase();
        if asked.kept.contains_key(&lower) {
            continue;
        }
        let is_read = asked.read.contains(&lower);
        if !is_read && has_content(value) && !ANSWERED.contains(&name.to_ascii_lowercase().as_str())
        {
            unread.push(path);
            continue;
        }
        let within = |part: &str, map: &Map<String, Value>, unread: &mut Vec<String>| {
            let below = part.to_ascii_lowercase();
            let next = asked.read.range(below.clone()..).next();
            if next.is_some_and(|path| path.starts_with(&below)) {
                find_unread(asked, part, map, unread);
            }
        };
        match value {
            Value::Object(map) => within(&format!("{path}."), map, unread),
            Value::Array(list) => {
                for (index, value) in list.iter().enumerate() {
                    if let Value::Object(map) = value {
                        within(&format!("{path}[{index}]."), map, unread);
                    }
                }
            }
            _ => {}
        }
    }
}

/// Whether a value says anything.
pub(crate) fn has_content(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => false,
        Value::Array(list) => list.iter().any(has_content),
        Value::Object(map) => map.values().any(has_content),
        Value::String(text) => !text.is_empty(),
        Value::Bool(true) | Value::Number(_) => true,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn any_case_is_read_and_nothing_means_absent() {
        let body =
            json!({ "MemorySize": "256", "caPort": 9000, "role": "", "x": null, "on": "True" });
        let fields = Fields::of(&body).unwrap();
        assert_eq!(fields.number("memorySize", 1..=1000).unwrap(), Some(256));
        assert_eq!(fields.number("CAPort", 1..=65535).unwrap(), Some(9000));
        assert!(fields.text("role").unwrap().is_none() && fields.get("x").is_none());
        assert_eq!(fields.flag("on").unwrap(), Some(true));
        let message = fields.number("memorySize", 1..=10).unwrap_err().message;
        assert_eq!(message, "memorySize has to be a whole number from 1 to 10");
    }

    #[test]
    fn what_nobody_asks_for_is_told() {
        let body = json!({
            "Read": 1, "unread": "x", "empty": "", "off": false, "functionId": "1",
            "Kept": { "project": "p" }, "keptEmpty": { "project": "" },
            "object": { "in": 1, "Other": 2 }, "opaque": { "anything": 1 },
            "list": [{ "in": 1 }, { "in": 1, "more": [1] }],
        });
        let fields = Fields::of(&body).unwrap();
        fields.number("read", 0..=9).unwrap();
        fields.keep("kept").unwrap();
        fields.keep("keptEmpty").unwrap();
        fields.object("object").unwrap().unwrap().get("in").unwrap();
        fields.get("opaque").unwrap();
        for item in fields.objects("list").unwrap().unwrap() {
            item.get("in").unwrap();
        }
        let wanted = [
            "kept is kept and does nothing here",
            "list[1].more is ignored here",
            "object.Other is ignored here",
            "unread is ignored here",
        ];
        assert_eq!(fields.warnings(), wanted);
    }

    #[test]
    fn lists_are_lists_or_texts_of_json() {
        let body = json!({ "a": { "Command": "[\"x\",\"y\"]", "args": ["z"], "bad": "x" } });
        let fields = Fields::of(&body).unwrap().object("a").unwrap().unwrap();
        assert_eq!(fields.texts("command").unwrap().unwrap(), ["x", "y"]);
        assert_eq!(fields.texts("args").unwrap().unwrap(), ["z"]);
        assert!(
            fields
                .texts("bad")
                .unwrap_err()
                .message
                .starts_with("a.bad has to be")
        );
    }
}
