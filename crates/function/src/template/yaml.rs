//! YAML as a tree with lines, in bounded memory.
//!
//! The library bounds depth, nodes and aliases; what aliases expand to is counted here, as the tree grows.

use std::cell::Cell;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::Number;
use serde_saphyr::{Options, Spanned};

use super::TemplateError;

/// Most bytes of the tree: of its texts, and [`NODE_BYTES`] for each node.
const MAX_TREE_BYTES: usize = 4 << 20;

/// What a node costs beside its text.
const NODE_BYTES: usize = 128;

/// Maps and lists in each other. Templates have less than ten.
const MAX_DEPTH: usize = 32;

/// Anchors, and aliases of them.
const MAX_ALIASES: usize = 500;

/// Bytes that the library copies for aliases to repeat.
const MAX_ANCHORED_BYTES: usize = 64 << 10;

/// A key. They become parts of paths.
const MAX_KEY_BYTES: usize = 1024;

/// What is told of a text that is no YAML.
const MAX_MESSAGE_CHARS: usize = 300;

/// A value, and where it is.
#[derive(Debug)]
pub(super) struct Node {
    /// Of its key, or of the list it is in.
    pub(super) line: u64,
    pub(super) value: Value,
}

#[derive(Debug)]
pub(super) enum Value {
    Null,
    Flag(bool),
    Number(Number),
    Text(String),
    List(Vec<Node>),
    /// No key is there twice.
    Map(Vec<(String, Node)>),
}

pub(super) fn parse(text: &str) -> Result<Node, TemplateError> {
    let left = Cell::new(MAX_TREE_BYTES);
    let (left, line) = (&left, 1);
    serde_saphyr::with_deserializer_from_str_with_options(text, options(), |yaml| {
        Seed { line, left }.deserialize(yaml)
    })
    .map_err(|error| TemplateError::Yaml(message(&error)))
}

fn options() -> Options {
    serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            flow_nesting_limit: MAX_DEPTH,
            max_depth: MAX_DEPTH,
            max_documents: 1,
            max_nodes: MAX_TREE_BYTES / NODE_BYTES,
            max_aliases: MAX_ALIASES,
            max_anchors: MAX_ALIASES,
            max_merge_keys: MAX_ALIASES,
            max_recorded_anchor_events: MAX_TREE_BYTES / NODE_BYTES,
            max_recorded_anchor_bytes: MAX_ANCHORED_BYTES,
            enforce_alias_anchor_ratio: false,
        },
        alias_limits: serde_saphyr::alias_limits! {
            max_total_replayed_events: MAX_TREE_BYTES / NODE_BYTES,
            max_replay_stack_depth: MAX_DEPTH,
        },
        emit_comments: false,
        // `no` and `on` are words, and 0755 and 1_000 are as they are written.
        strict_booleans: true,
        leading_zero_numbers_as_strings: true,
        underscored_numbers_as_strings: true,
        reject_unsupported_tags: true,
        with_snippet: false,
    }
}

/// What the library says, which may repeat some of the text.
fn message(error: &serde_saphyr::Error) -> String {
    let message = error.to_string();
    let mut short: String = message.chars().take(MAX_MESSAGE_CHARS).collect();
    if short.len() < message.len() {
        short.push('…');
    }
    if let serde_saphyr::Error::UnsupportedTag { .. } = error {
        short.push_str(" (functions such as !Ref and !Sub are not resolved here: write the value)");
    }
    short
}

/// Makes a node, and charges it.
#[derive(Clone, Copy)]
struct Seed<'a> {
    line: u64,
    /// Of [`MAX_TREE_BYTES`].
    left: &'a Cell<usize>,
}

impl Seed<'_> {
    fn charge<E: Error>(self, bytes: usize) -> Result<(), E> {
        let left = self.left.get().checked_sub(bytes);
        let left = left.ok_or_else(|| E::custom("too much text, with what aliases repeat"))?;
        self.left.set(left);
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for Seed<'_> {
    type Value = Node;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        self.charge(NODE_BYTES)?;
        let value = deserializer.deserialize_any(self)?;
        let line = self.line;
        Ok(Node { line, value })
    }
}

impl<'de> Visitor<'de> for Seed<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E: Error>(self, flag: bool) -> Result<Value, E> {
        Ok(Value::Flag(flag))
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<Value, E> {
        Ok(Value::Number(number.into()))
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Value, E> {
        Ok(Value::Number(number.into()))
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<Value, E> {
        let number = Number::from_f64(number);
        let number = number.ok_or_else(|| E::custom("a number that is not finite"))?;
        Ok(Value::Number(number))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Value, E> {
        self.charge(text.len())?;
        Ok(Value::Text(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(node) = seq.next_element_seed(self)? {
            list.push(node);
        }
        Ok(Value::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut map = Vec::new();
        while let Some(key) = access.next_key::<Spanned<String>>()? {
            let (line, key) = (key.referenced.line(), key.value);
            if key.len() > MAX_KEY_BYTES {
                return Err(A::Error::custom("a key of over a thousand bytes"));
            }
            self.charge(key.len())?;
            let seed = Seed { line, ..self };
            map.push((key, access.next_value_seed(seed)?));
        }
        Ok(Value::Map(map))
    }
}
