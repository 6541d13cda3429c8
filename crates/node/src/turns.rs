//! One after the other, for the same thing: a container's monitor and `rm` may ask for its end at
//! the same moment, and the second must find it done, not half done.

use std::collections::HashSet;
use std::sync::{Condvar, Mutex, PoisonError};

use crate::node::lock;

/// Who has its turn. The lock is a leaf; a turn may be held over I/O.
#[derive(Debug, Default)]
pub(crate) struct Turns {
    taken: Mutex<HashSet<String>>,
    changed: Condvar,
}

/// The turn for one key, until this is dropped.
#[derive(Debug)]
pub(crate) struct Turn<'a> {
    turns: &'a Turns,
    key: String,
}

impl Turns {
    /// Waits until nobody has the turn for `key`, and takes it.
    pub(crate) fn take(&self, key: &str) -> Turn<'_> {
        let taken = lock(&self.taken);
        let waited = self.changed.wait_while(taken, |taken| taken.contains(key));
        let mut taken = waited.unwrap_or_else(PoisonError::into_inner);
        taken.insert(key.to_owned());
        Turn {
            turns: self,
            key: key.to_owned(),
        }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        lock(&self.turns.taken).remove(&self.key);
        self.turns.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[test]
    fn one_key_is_held_once_and_others_do_not_wait() {
        let turns = Turns::default();
        let (inside, most) = (AtomicU32::new(0), AtomicU32::new(0));
        let _other = turns.take("other");
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let _turn = turns.take("one");
                    most.fetch_max(inside.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    std::thread::yield_now();
                    inside.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        assert_eq!(most.load(Ordering::SeqCst), 1);
    }
}
