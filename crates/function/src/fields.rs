//! The fields of a request's JSON. Clients write them in any case; `null` and `""` mean that a
//! field is absent; what is wrong is said with the field's path.

use std::ops::RangeInclusive;

use serde_json::{Map, Value};

use crate::error::Refusal;

/// An object of a request.
#[derive(Clone, Debug)]
pub(crate) struct Fields<'a> {
    /// Of the object: empty, or ends with a dot.
    path: String,
    map: &'a Map<String, Value>,
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
        })
    }

    /// What a field has, in whatever case it is written.
    pub(crate) fn get(&self, name: &str) -> Option<&'a Value> {
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
