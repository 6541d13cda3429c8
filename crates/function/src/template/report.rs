//! Reading nodes by tables, and what there is to say of them.

use serde_json::{Map, Value as Json, json};

use super::schema::{DESTINATION, Kind, Property};
use super::yaml::{Node, Value};
use super::{Mistake, TemplateError};

/// Most mistakes, and most warnings, that are told.
const MAX_TOLD: usize = 100;

/// Where in a template: a node and the keys that lead to it.
#[derive(Clone, Debug)]
pub(super) struct At<'n> {
    pub(super) path: String,
    pub(super) node: &'n Node,
}

impl<'n> At<'n> {
    pub(super) fn child(&self, key: &str, node: &'n Node) -> Self {
        let path = match self.path.as_str() {
            "" => key.to_owned(),
            path => format!("{path}.{key}"),
        };
        Self { path, node }
    }

    /// The value of a key, as it is written; null and empty texts are as if they were not there.
    pub(super) fn get(&self, key: &str) -> Option<Self> {
        let Value::Map(map) = &self.node.value else {
            return None;
        };
        let (_, node) = map.iter().find(|(name, _)| name == key)?;
        (!node.is_absent()).then(|| self.child(key, node))
    }
}

impl Node {
    fn is_absent(&self) -> bool {
        match &self.value {
            Value::Null => true,
            Value::Text(text) => text.is_empty(),
            _ => false,
        }
    }
}

/// All that there is to say of a template.
#[derive(Debug, Default)]
pub(super) struct Report {
    mistakes: Vec<Mistake>,
    pub(super) warnings: Vec<String>,
}

impl Report {
    pub(super) fn mistake(&mut self, at: &At<'_>, what: impl Into<String>) {
        if self.mistakes.len() < MAX_TOLD {
            let path = match at.path.as_str() {
                "" => "the template",
                path => path,
            };
            let (path, what, line) = (path.to_owned(), what.into(), at.node.line);
            self.mistakes.push(Mistake { path, what, line });
        }
    }

    pub(super) fn warn(&mut self, at: &At<'_>, what: &str) {
        if self.warnings.len() < MAX_TOLD {
            let line = at.node.line;
            self.warnings
                .push(format!("{} {what} (line {line})", at.path));
        }
    }

    /// That a key is not there, at the line of what it should be in.
    pub(super) fn missing(&mut self, at: &At<'_>, key: &str) {
        self.mistake(&at.child(key, at.node), "is missing");
    }

    /// Fails where there are mistakes.
    pub(super) fn check(&self) -> Result<(), TemplateError> {
        match self.mistakes.as_slice() {
            [] => Ok(()),
            mistakes => Err(TemplateError::Mistakes(mistakes.to_vec())),
        }
    }

    /// The entries of a map.
    pub(super) fn entries<'n>(&mut self, at: &At<'n>) -> Vec<(&'n str, At<'n>)> {
        match &at.node.value {
            Value::Map(map) => map
                .iter()
                .map(|(key, node)| (key.as_str(), at.child(key, node)))
                .collect(),
            _ => {
                self.mistake(at, "has to be a map of keys and values");
                Vec::new()
            }
        }
    }

    /// A text.
    pub(super) fn text<'n>(&mut self, at: &At<'n>) -> Option<&'n str> {
        match &at.node.value {
            Value::Text(text) => Some(text),
            _ => {
                self.mistake(at, "has to be a text: put it in quotes");
                None
            }
        }
    }

    /// The body of a call, of properties in a map. Keys may be written in any case, as the API takes them.
    pub(super) fn fields(&mut self, at: &At<'_>, table: &[Property]) -> Map<String, Json> {
        let mut fields = Map::new();
        for (key, value) in self.entries(at) {
            let Some(property) = table.iter().find(|p| p.name.eq_ignore_ascii_case(key)) else {
                self.warn(&value, "is not known and is left out");
                continue;
            };
            if value.node.is_absent() {
                continue;
            }
            if fields.contains_key(property.field) {
                self.mistake(&value, "is there twice, written otherwise");
            } else if let Some(json) = self.json(&value, &property.kind) {
                fields.insert(property.field.to_owned(), json);
            }
        }
        if let Value::Map(map) = &at.node.value {
            let there = |property: &Property| {
                let mut present = map.iter().filter(|(_, node)| !node.is_absent());
                present.any(|(key, _)| property.name.eq_ignore_ascii_case(key))
            };
            for property in table.iter().filter(|p| p.required && !there(p)) {
                self.missing(at, property.name);
            }
        }
        fields
    }

    /// The value of a property; none where there is nothing to say of it, or a mistake was found.
    fn json(&mut self, at: &At<'_>, kind: &Kind) -> Option<Json> {
        match (kind, &at.node.value) {
            (Kind::Silent, _) => None,
            (Kind::Ignored(why), _) => {
                self.warn(at, why);
                None
            }
            (Kind::Text, _) => self.text(at).map(Json::from),
            (Kind::Whole, Value::Number(n)) if !n.is_f64() => Some(n.clone().into()),
            (Kind::Number, Value::Number(n)) => Some(n.clone().into()),
            (Kind::Flag, Value::Flag(flag)) => Some((*flag).into()),
            (Kind::Command, Value::Text(text)) => Some(text.clone().into()),
            (Kind::Command, Value::List(_)) => {
                let words = self.texts(at)?;
                Some(Json::from(Json::from(words).to_string()))
            }
            (Kind::Texts, Value::List(_)) => self.texts(at).map(Json::from),
            (Kind::Strings, Value::Map(_)) => Some(self.strings(at).into()),
            (Kind::Object, Value::Map(_)) => Some(camel(at.node)),
            (Kind::Object, Value::Text(word)) if word == "Auto" || word == "Enable" => {
                self.warn(
                    at,
                    "asks for something to be made that this host does not have, and is left out",
                );
                None
            }
            (Kind::Destination, Value::Text(name)) => Some(json!({ "destination": name })),
            (Kind::Destination, Value::Map(_)) => Some(self.fields(at, DESTINATION).into()),
            (Kind::Group(table), Value::Map(_)) => {
                let fields = self.fields(at, table);
                (!fields.is_empty()).then(|| fields.into())
            }
            _ => {
                self.mistake(at, format!("has to be {}", kind.description()));
                None
            }
        }
    }

    fn texts(&mut self, at: &At<'_>) -> Option<Vec<String>> {
        let Value::List(list) = &at.node.value else {
            return None;
        };
        let texts = list.iter().enumerate().map(|(index, node)| {
            let at = at.child(&index.to_string(), node);
            self.text(&at).map(str::to_owned)
        });
        // Every wrong one is told, not only the first.
        let texts: Vec<Option<String>> = texts.collect();
        texts.into_iter().collect()
    }

    /// Environment variables: numbers are written as texts where that is without doubt.
    fn strings(&mut self, at: &At<'_>) -> Map<String, Json> {
        let mut strings = Map::new();
        for (key, value) in self.entries(at) {
            let text = match &value.node.value {
                Value::Text(text) => text.clone(),
                Value::Flag(flag) => flag.to_string(),
                Value::Number(number) if !number.is_f64() => number.to_string(),
                Value::Null => String::new(),
                _ => {
                    self.mistake(&value, "has to be a text: put it in quotes");
                    continue;
                }
            };
            strings.insert(key.to_owned(), text.into());
        }
        strings
    }

    /// References that something else than this program resolves. They could be anywhere.
    pub(super) fn references(&mut self, at: &At<'_>) {
        match &at.node.value {
            Value::Text(text) if text.contains("${") => {
                self.mistake(
                    at,
                    "has a ${…} in it, which is not replaced here: write the value",
                );
            }
            Value::List(list) => {
                for (index, node) in list.iter().enumerate() {
                    self.references(&at.child(&index.to_string(), node));
                }
            }
            Value::Map(map) => {
                for (key, node) in map {
                    let child = at.child(key, node);
                    if key == "Ref" || key.starts_with("Fn::") {
                        self.mistake(
                            &child,
                            "is a function that is not resolved here: write the value",
                        );
                    } else {
                        self.references(&child);
                    }
                }
            }
            _ => {}
        }
    }
}

/// As the API writes it: every key begins with a lower-case letter.
fn camel(node: &Node) -> Json {
    match &node.value {
        Value::Null => Json::Null,
        Value::Flag(flag) => (*flag).into(),
        Value::Number(number) => number.clone().into(),
        Value::Text(text) => text.clone().into(),
        Value::List(list) => list.iter().map(camel).collect(),
        Value::Map(map) => {
            let entries = map
                .iter()
                .map(|(key, node)| (lower_first(key), camel(node)));
            Json::Object(entries.collect())
        }
    }
}

fn lower_first(key: &str) -> String {
    let mut chars = key.chars();
    match chars.next() {
        Some(first) => first.to_lowercase().chain(chars).collect(),
        None => String::new(),
    }
}
