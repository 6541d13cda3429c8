//! What is worth another try, and when.

use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, Instant};

use crate::RegistryError;

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// An error, and whether another try may help.
#[derive(Debug)]
pub(crate) struct Failure {
    error: Box<RegistryError>,
    again: Again,
}

#[derive(Debug)]
enum Again {
    Never,
    Soon,
    /// The other side said when.
    After(Duration),
}

impl Failure {
    /// Another try would fail the same way.
    pub(crate) fn last(error: RegistryError) -> Self {
        Self {
            error: Box::new(error),
            again: Again::Never,
        }
    }

    /// Another try may help.
    pub(crate) fn passing(error: RegistryError) -> Self {
        Self {
            error: Box::new(error),
            again: Again::Soon,
        }
    }

    /// Another try may help, not before `pause` where that is given.
    pub(crate) fn after(error: RegistryError, pause: Option<Duration>) -> Self {
        Self {
            error: Box::new(error),
            again: pause.map_or(Again::Soon, Again::After),
        }
    }

    /// The same, and another try may help since something has changed.
    pub(crate) fn repeated(mut self) -> Self {
        self.again = Again::Soon;
        self
    }

    /// The HTTP status that was its reason.
    pub(crate) const fn status(&self) -> Option<u16> {
        match *self.error {
            RegistryError::Status { status, .. } => Some(status),
            _ => None,
        }
    }
}

/// Counts tries, and pauses longer and longer between them.
#[derive(Debug)]
pub(crate) struct Retry {
    deadline: Instant,
    left: u32,
    pause: Duration,
}

impl Retry {
    /// At most `tries` in all, none begun after `deadline`.
    pub(crate) const fn new(deadline: Instant, tries: u32) -> Self {
        Self {
            deadline,
            left: tries.saturating_sub(1),
            pause: FIRST_PAUSE,
        }
    }

    /// The same with a later deadline: what takes long is bounded otherwise.
    pub(crate) const fn extended(mut self, deadline: Instant) -> Self {
        self.deadline = deadline;
        self
    }

    /// Pauses before the next try.
    ///
    /// # Errors
    /// As [`Retry::next`].
    pub(crate) async fn pause(&mut self, failure: Failure) -> Result<(), RegistryError> {
        let pause = self.next(failure)?;
        tokio::time::sleep(pause).await;
        Ok(())
    }

    /// How long to wait before the next try.
    ///
    /// # Errors
    /// The failure's error where there is to be no other try, or it would come too late.
    pub(crate) fn next(&mut self, failure: Failure) -> Result<Duration, RegistryError> {
        let pause = match failure.again {
            Again::Never => return Err(*failure.error),
            Again::Soon => jitter(self.pause),
            Again::After(pause) => pause.max(jitter(self.pause)),
        };
        let fits = Instant::now()
            .checked_add(pause)
            .is_some_and(|then| then < self.deadline);
        if self.left == 0 || !fits {
            return Err(*failure.error);
        }
        tracing::debug!(error = %failure.error, ?pause, "trying again");
        self.left -= 1;
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        Ok(pause)
    }
}

/// Between half of `pause` and all of it, so that many who failed together do not return together.
pub(crate) fn jitter(pause: Duration) -> Duration {
    // The keys of a new RandomState are random enough to spread retries.
    let random = RandomState::new().hash_one(0u8) % 512;
    pause.mul_f64(0.5 + f64::from(u16::try_from(random).unwrap_or(0)) / 1024.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error() -> RegistryError {
        RegistryError::Setup("x".into())
    }

    #[test]
    fn pauses_are_spread_and_bounded() {
        let pauses = [(); 100].map(|()| jitter(Duration::from_secs(1)));
        for pause in pauses {
            assert!((0.5..1.0).contains(&pause.as_secs_f64()), "{pause:?}");
        }
        assert!(
            pauses.iter().any(|pause| *pause != pauses[0]),
            "who failed together returns together, after {:?}",
            pauses[0]
        );
    }

    #[tokio::test]
    async fn tries_are_counted_and_end_at_the_deadline() {
        let far = Instant::now() + Duration::from_secs(60);
        let mut retry = Retry::new(far, 2);
        assert!(retry.pause(Failure::passing(error())).await.is_ok());
        assert!(retry.pause(Failure::passing(error())).await.is_err());
        let mut retry = Retry::new(far, 9);
        assert!(retry.pause(Failure::last(error())).await.is_err());
        let late = Failure::after(error(), Some(Duration::from_secs(61)));
        assert!(retry.pause(late).await.is_err());
        assert!(
            Retry::new(Instant::now(), 9)
                .pause(Failure::passing(error()))
                .await
                .is_err()
        );
    }
}
