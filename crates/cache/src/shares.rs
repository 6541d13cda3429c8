//! Who may have a thread, where each job waits for some host and no job can be taken off its thread.
//!
//! A host that hangs, or says that it is busy, keeps every thread that it has until the readers'
//! deadline. So threads are kept back for others, who may come any moment: a host gets one more only
//! while it has fewer than half of those that are idle. Alone it has a third of them, the next one a
//! third of what that leaves, and so on, so that 64 do for ten hosts that hang; hosts that are busy
//! for long come to have the same.

use std::collections::HashMap;
use std::sync::Arc;

/// The threads of a pool, by the host that their jobs wait for. See the [module](self).
#[derive(Debug)]
pub struct Shares {
    idle: usize,
    held: HashMap<Arc<str>, usize>,
}

impl Shares {
    /// Of so many threads, all idle.
    #[must_use]
    pub fn of(threads: usize) -> Self {
        Self {
            idle: threads,
            held: HashMap::new(),
        }
    }

    /// Whether a job of `host` may have a thread now.
    #[must_use]
    pub fn has_room(&self, host: &str) -> bool {
        2 * self.held.get(host).copied().unwrap_or_default() < self.idle
    }

    /// A thread begins with a job of `host`, which has room.
    pub fn take(&mut self, host: &Arc<str>) {
        self.idle -= 1;
        *self.held.entry(Arc::clone(host)).or_default() += 1;
    }

    /// A thread has ended its job of `host`: there may be room for one more job than it takes itself.
    pub fn give_back(&mut self, host: &str) {
        self.idle += 1;
        if let Some(held) = self.held.get_mut(host) {
            *held -= 1;
            if *held == 0 {
                self.held.remove(host);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes as many threads as there is room for.
    fn flood(shares: &mut Shares, host: &str) -> usize {
        let host = Arc::from(host);
        let room = std::iter::from_fn(|| shares.has_room(&host).then(|| shares.take(&host)));
        room.count()
    }

    #[test]
    fn whoever_takes_all_there_is_leaves_room_for_the_next() {
        let mut shares = Shares::of(64);
        let hosts = "abcdefghijk".split_inclusive(|_: char| true);
        let taken: Vec<_> = hosts.map(|host| flood(&mut shares, host)).collect();
        assert_eq!(taken, [22, 14, 10, 6, 4, 3, 2, 1, 1, 1, 0]);
        assert_eq!(flood(&mut Shares::of(1), "a"), 1, "one thread serves one");
    }

    #[test]
    fn those_who_are_busy_for_long_have_the_same() {
        let mut shares = Shares::of(64);
        flood(&mut shares, "a");
        for _ in 0..32 {
            flood(&mut shares, "b");
            shares.give_back("a");
            flood(&mut shares, "b");
            flood(&mut shares, "a");
        }
        let held = ["a", "b"].map(|host| shares.held[host]);
        assert!(held.iter().all(|held| (16..=17).contains(held)), "{held:?}");
        for host in ["a", "b"] {
            (0..shares.held[host]).for_each(|_| shares.give_back(host));
        }
        assert_eq!((shares.idle, shares.held.len()), (64, 0));
    }
}
