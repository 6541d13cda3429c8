//! The fields of a JSON object, each as the text that it came as.
//!
//! Whoever may push decides what is in a document: values that were parsed take up to a hundred times
//! the memory of their text, and a number or a doubled key might not be written as it was.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{DeserializeOwned, Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::{RawValue, to_raw_value};

/// Fields of an object by name, unread. One object has each but once: of two, another reader might
/// take the other.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(transparent)]
pub struct Fields(BTreeMap<String, Box<RawValue>>);

impl PartialEq for Fields {
    fn eq(&self, other: &Self) -> bool {
        let (own, its) = (self.0.iter(), other.0.iter());
        let own = own.map(|(name, text)| (name, text.get()));
        own.eq(its.map(|(name, text)| (name, text.get())))
    }
}

impl Fields {
    /// Takes a field out and reads it; `None` where it is not there or `null`.
    pub(crate) fn take<T: DeserializeOwned>(&mut self, name: &str) -> Result<Option<T>, String> {
        match self.0.remove(name) {
            Some(text) => read(name, &text),
            None => Ok(None),
        }
    }

    /// Takes a field out and reads it.
    pub(crate) fn need<T: DeserializeOwned>(&mut self, name: &str) -> Result<T, String> {
        let text = self.0.remove(name);
        read(name, &text.ok_or_else(|| format!("it has no {name}"))?)
    }

    /// A field that is a text; `None` where there is no such.
    pub(crate) fn text(&self, name: &str) -> Option<String> {
        serde_json::from_str(self.0.get(name)?.get()).ok()
    }

    pub(crate) fn set_text(&mut self, name: &str, text: &str) {
        let raw = to_raw_value(text).expect("a string is JSON");
        self.0.insert(name.to_owned(), raw);
    }

    pub(crate) fn remove(&mut self, name: &str) {
        self.0.remove(name);
    }
}

fn read<T: DeserializeOwned>(name: &str, text: &RawValue) -> Result<T, String> {
    serde_json::from_str(text.get()).map_err(|error| format!("its {name}: {error}"))
}

impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Read)
    }
}

struct Read;

impl<'de> Visitor<'de> for Read {
    type Value = Fields;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields, A::Error> {
        let mut fields = BTreeMap::new();
        while let Some((name, value)) = map.next_entry::<String, Box<RawValue>>()? {
            if fields.insert(name, value).is_some() {
                return Err(A::Error::custom("a field is there twice"));
            }
        }
        Ok(Fields(fields))
    }
}
