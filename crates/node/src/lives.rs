//! Who had which layers mounted, and from when to when: for whoever asks whose a wait may have been.
//!
//! Kept in memory, as the waits are. Containers that are gone count as well: most live shortly.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use thaw_image::DiffId;

use crate::node::lock;

/// Most that are remembered of those that have ended. What is told is never more than the truth.
const KEPT: usize = 1 << 12;

/// The holders of a node's mounts.
#[derive(Debug, Default)]
pub(crate) struct Lives(Mutex<Book>);

#[derive(Debug, Default)]
struct Book {
    next: u64,
    here: BTreeMap<u64, Entry>,
    ended: VecDeque<(Entry, Instant)>,
}

#[derive(Debug)]
struct Entry {
    who: String,
    layers: Vec<DiffId>,
    begun: Instant,
}

/// Somebody has an image mounted, until this is dropped.
#[derive(Debug)]
pub(crate) struct Life {
    lives: Arc<Lives>,
    number: u64,
}

impl Lives {
    /// `who`, a container's id or a directory, has `layers` mounted from now on.
    pub(crate) fn begin(self: &Arc<Self>, who: &str, layers: Vec<DiffId>) -> Life {
        let mut book = lock(&self.0);
        let number = book.next;
        book.next += 1;
        let entry = Entry {
            who: who.to_owned(),
            layers,
            begun: Instant::now(),
        };
        book.here.insert(number, entry);
        let lives = Arc::clone(self);
        Life { lives, number }
    }

    /// When `who` had its mount no longer, if it had one.
    pub(crate) fn end_of(&self, who: &str) -> Option<Instant> {
        let book = lock(&self.0);
        let mut ended = book.ended.iter().rev();
        Some(ended.find(|(entry, _)| entry.who == who)?.1)
    }

    /// Others than `who` that had one of `layers` mounted at some time between the two.
    pub(crate) fn others(
        &self,
        who: &str,
        layers: &BTreeSet<DiffId>,
        from: Instant,
        until: Option<Instant>,
    ) -> u64 {
        let book = lock(&self.0);
        let ended = book.ended.iter().filter(|(_, end)| *end > from);
        let all = ended.map(|(entry, _)| entry).chain(book.here.values());
        let others = all.filter(|entry| {
            entry.who != who
                && until.is_none_or(|until| entry.begun < until)
                && entry.layers.iter().any(|layer| layers.contains(layer))
        });
        others.count() as u64
    }
}

impl Drop for Life {
    fn drop(&mut self) {
        let mut book = lock(&self.lives.0);
        if let Some(entry) = book.here.remove(&self.number) {
            if book.ended.len() == KEPT {
                book.ended.pop_front();
            }
            book.ended.push_back((entry, Instant::now()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn others_are_those_that_lived_meanwhile() {
        let lives = Arc::<Lives>::default();
        let layer = |name: &str| DiffId(thaw_image::Digest::of(name.as_bytes()));
        let (shared, other) = (layer("shared"), layer("other"));
        let wanted = BTreeSet::from([shared]);

        let before = lives.begin("before", vec![shared]);
        drop(before);
        let begun = Instant::now();
        let own = lives.begin("own", vec![shared, other]);
        let removed = lives.begin("removed", vec![shared]);
        let apart = lives.begin("apart", vec![other]);
        drop(removed);
        let count = |until| lives.others("own", &wanted, begun, until);
        assert_eq!(count(None), 1, "one that is gone counts");
        let here = lives.begin("here", vec![shared]);
        assert_eq!(count(None), 2);
        assert_eq!(lives.end_of("own"), None);
        drop(own);
        let end = lives.end_of("own");
        assert!(end.is_some_and(|end| end >= begun));
        let _after = lives.begin("after", vec![shared]);
        assert_eq!(count(None), 3);
        assert_eq!(count(end), 2, "not one that came after its end");
        drop((here, apart));
        assert_eq!(count(end), 2);

        for _ in 0..KEPT {
            drop(lives.begin("many", vec![other]));
        }
        assert_eq!(lock(&lives.0).ended.len(), KEPT);
    }
}
