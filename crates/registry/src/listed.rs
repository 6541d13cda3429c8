//! Lists of referrers as they are read: entry by entry, and no more is kept than is wanted.
//!
//! Whoever may push anything to a repository may fill such a list, and a hostile registry gives any
//! number of pages of it.

use std::fmt;

use serde::de::{IgnoredAny, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use crate::Descriptor;

/// Most entries that are kept.
const MAX_ENTRIES: usize = 4096;
/// Most bytes of their text: a thousand bytes for each of the most that there may be.
const MAX_BYTES: usize = 4 << 20;

/// What is wanted of a list.
#[derive(Debug)]
pub(crate) struct Listed<'a> {
    artifact_types: &'a [String],
    /// How many entries without a type are kept, too.
    untyped: usize,
    /// Bytes that may still be kept.
    left: usize,
    entries: Vec<Descriptor>,
}

/// An index, but for what is not read of it here.
#[derive(Deserialize)]
struct Page<'a> {
    #[serde(borrow)]
    manifests: Option<&'a RawValue>,
}

/// What an entry is decided by.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Typed {
    artifact_type: Option<String>,
}

impl<'a> Listed<'a> {
    pub(crate) const fn new(artifact_types: &'a [String], untyped: usize) -> Self {
        Self {
            artifact_types,
            untyped,
            left: MAX_BYTES,
            entries: Vec::new(),
        }
    }

    /// Takes what is wanted of a page; `false` where it is none.
    pub(crate) fn read(&mut self, page: &[u8]) -> bool {
        let Ok(Page { manifests }) = serde_json::from_slice(page) else {
            return false;
        };
        let Some(manifests) = manifests else {
            return true;
        };
        let mut entries = serde_json::Deserializer::from_str(manifests.get());
        entries.deserialize_seq(self).is_ok()
    }

    /// Whether no more is taken.
    pub(crate) const fn is_full(&self) -> bool {
        self.left == 0 || self.entries.len() >= MAX_ENTRIES
    }

    pub(crate) fn into_entries(self) -> Vec<Descriptor> {
        self.entries
    }

    /// An entry that is none hides no other.
    fn take(&mut self, text: &str) {
        let Ok(Typed { artifact_type }) = serde_json::from_str(text) else {
            return;
        };
        let is_wanted = match artifact_type {
            Some(own) => self.artifact_types.contains(&own),
            None => self.untyped > 0,
        };
        if !is_wanted || self.is_full() {
            return;
        }
        self.left = self.left.saturating_sub(text.len());
        if self.left > 0
            && let Ok(entry) = serde_json::from_str::<Descriptor>(text)
        {
            self.untyped -= usize::from(entry.artifact_type.is_none());
            self.entries.push(entry);
        }
    }
}

impl<'de> Visitor<'de> for &mut Listed<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of manifests")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut entries: A) -> Result<(), A::Error> {
        while !self.is_full() {
            match entries.next_element::<&RawValue>()? {
                Some(entry) => self.take(entry.get()),
                None => return Ok(()),
            }
        }
        while entries.next_element::<IgnoredAny>()?.is_some() {}
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use thaw_image::media;

    use super::*;

    /// An entry of a type, or of none, with a field of so many bytes.
    fn entry(name: &str, artifact_type: Option<&str>, more: usize) -> String {
        let mut entry = Descriptor::of(media::MANIFEST, name.as_bytes());
        entry.artifact_type = artifact_type.map(str::to_owned);
        entry.other.set_text("more", &"x".repeat(more));
        serde_json::to_string(&entry).unwrap()
    }

    fn page(entries: &[String]) -> Vec<u8> {
        format!(
            r#"{{"schemaVersion":2,"manifests":[{}]}}"#,
            entries.join(",")
        )
        .into()
    }

    #[test]
    fn what_is_not_wanted_takes_no_place() {
        let types = [media::ACCELERATION.to_owned()];
        let mut list = Listed::new(&types, 1);
        let others: Vec<String> = (0..MAX_ENTRIES + 1)
            .map(|number| entry(&number.to_string(), Some("application/x"), 0))
            .collect();
        let ours = [
            entry("a", Some(media::ACCELERATION), 0),
            "[]".to_owned(),
            r#"{"artifactType":"application/vnd.thaw.acceleration.v1+json"}"#.to_owned(),
            entry("b", None, 0),
            entry("c", None, 0),
            entry("d", Some(media::ACCELERATION), 9),
        ];
        for entries in [&others[..], &ours] {
            assert!(list.read(&page(entries)));
        }
        assert!(list.read(br#"{"manifests":null}"#) && list.read(b"{}"));
        for none in [&b"<html>"[..], b"[]", br#"{"manifests":{}}"#, b""] {
            assert!(!list.read(none));
        }
        let digests: Vec<_> = list.into_entries().iter().map(|it| it.digest).collect();
        let expected = ["a", "b", "d"].map(|name| thaw_image::Digest::of(name.as_bytes()));
        assert_eq!(digests, expected);
    }

    #[test]
    fn no_more_is_kept_than_there_is_room_for() {
        let types = [media::ACCELERATION.to_owned()];
        let ours = |name: usize, more| entry(&name.to_string(), Some(media::ACCELERATION), more);
        let mut list = Listed::new(&types, 0);
        let large: Vec<String> = (0..6).map(|name| ours(name, 1 << 20)).collect();
        assert!(list.read(&page(&large)));
        assert!(list.is_full());
        assert_eq!(list.into_entries().len(), 3);
        let mut list = Listed::new(&types, 0);
        let many: Vec<String> = (0..MAX_ENTRIES / 2).map(|name| ours(name, 0)).collect();
        for _ in 0..3 {
            assert!(list.read(&page(&many)));
        }
        assert!(list.is_full());
        assert_eq!(list.into_entries().len(), MAX_ENTRIES);
    }
}
