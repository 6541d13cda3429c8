//! Requests that were here before.

use std::collections::{HashSet, VecDeque};

use jiff::{SignedDuration, Timestamp};
use ring::digest;

use super::{AuthError, MAX_SKEW};

/// How many requests are remembered: some megabytes.
const MAX_REMEMBERED: usize = 1 << 16;

/// A digest of key and nonce, which are the client's and may be long.
type Token = [u8; 16];

/// The nonces of late: each may be used once by each key. When there are too many the oldest are forgotten first; only
/// who holds a key gets in here, so nobody else can make it forget.
///
/// It does not outlive the process: what was received before a restart can be replayed after it, within [`MAX_SKEW`].
#[derive(Debug)]
pub(crate) struct Replays {
    seen: HashSet<Token>,
    order: VecDeque<(Timestamp, Token)>,
    most: usize,
}

impl Default for Replays {
    fn default() -> Self {
        Self::of_size(MAX_REMEMBERED)
    }
}

impl Replays {
    fn of_size(most: usize) -> Self {
        let (seen, order) = (HashSet::new(), VecDeque::new());
        Self { seen, order, most }
    }

    /// Takes a request in whose signature was verified.
    ///
    /// # Errors
    /// [`AuthError::Replayed`]: the nonce was used with this key before.
    pub(crate) fn admit(
        &mut self,
        key: &str,
        nonce: &str,
        now: Timestamp,
    ) -> Result<(), AuthError> {
        self.forget(now);
        let token = token(key, nonce);
        if !self.seen.insert(token) {
            return Err(AuthError::Replayed);
        }
        self.order.push_back((now, token));
        if self.order.len() > self.most {
            self.pop();
        }
        Ok(())
    }

    /// Drops what its time of signing would not let in again: signed in our future, that is twice the skew.
    fn forget(&mut self, now: Timestamp) {
        let kept = MAX_SKEW + MAX_SKEW + SignedDuration::from_secs(1);
        while let Some((time, _)) = self.order.front()
            && now.duration_since(*time) > kept
        {
            self.pop();
        }
    }

    fn pop(&mut self) {
        if let Some((_, token)) = self.order.pop_front() {
            self.seen.remove(&token);
        }
    }
}

fn token(key: &str, nonce: &str) -> Token {
    let mut context = digest::Context::new(&digest::SHA256);
    // A key id has no line feed in it.
    context.update(key.as_bytes());
    context.update(b"\n");
    context.update(nonce.as_bytes());
    let mut token = Token::default();
    token.copy_from_slice(&context.finish().as_ref()[..size_of::<Token>()]);
    token
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    #[test]
    fn a_nonce_is_used_once_by_each_key() {
        let mut replays = Replays::default();
        replays.admit("a", "1", at(0)).unwrap();
        replays.admit("b", "1", at(0)).unwrap();
        replays.admit("a", "2", at(0)).unwrap();
        assert_eq!(replays.admit("a", "1", at(1)), Err(AuthError::Replayed));
        // One signed fifteen minutes ahead of us would be in time until then.
        assert_eq!(replays.admit("a", "1", at(1800)), Err(AuthError::Replayed));
        replays.admit("a", "1", at(1802)).unwrap();
        assert_eq!(replays.order.len(), 1, "the others are forgotten");
    }

    #[test]
    fn the_oldest_go_first_when_there_are_too_many() {
        let mut replays = Replays::of_size(3);
        for nonce in ["1", "2", "3", "4"] {
            replays.admit("a", nonce, at(0)).unwrap();
        }
        assert_eq!(replays.admit("a", "2", at(0)), Err(AuthError::Replayed));
        replays.admit("a", "1", at(0)).unwrap();
        assert_eq!((replays.seen.len(), replays.order.len()), (3, 3));
    }

    #[test]
    fn a_refused_one_is_not_remembered_anew() {
        let mut replays = Replays::of_size(2);
        replays.admit("a", "1", at(0)).unwrap();
        for _ in 0..5 {
            assert_eq!(replays.admit("a", "1", at(0)), Err(AuthError::Replayed));
        }
        replays.admit("a", "2", at(0)).unwrap();
        assert_eq!(replays.admit("a", "1", at(0)), Err(AuthError::Replayed));
    }
}
