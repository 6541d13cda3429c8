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
        self.next_by(failure, random())
    }

    /// The same by a number from 0 to 1, where it does not reach.
    fn next_by(&mut self, failure: Failure, random: f64) -> Result<Duration, RegistryError> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        let pause = match failure.again {
            Again::Never => return Err(*failure.error),
            Again::Soon => spread(self.pause, random),
            Again::After(pause) => {
                // Many were told the same. As far as there is time they come one after the other.
                let more = (pause / 4).clamp(self.pause, LONGEST_PAUSE);
                let room = left.saturating_sub(pause) / 2;
                pause.saturating_add(spread(more, random).min(room))
            }
        };
        if self.left == 0 || pause >= left {
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
    spread(pause, random())
}

fn spread(pause: Duration, random: f64) -> Duration {
    pause.mul_f64(0.5 + random / 2.0)
}

/// From 0 to 1, where it does not reach.
fn random() -> f64 {
    // The keys of a new RandomState are random enough to spread retries.
    let random = RandomState::new().hash_one(0u8) % 512;
    f64::from(u16::try_from(random).unwrap_or(0)) / 512.0
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

    const MS: Duration = Duration::from_millis(1);

    fn in_a_minute(tries: u32) -> Retry {
        Retry::new(Instant::now() + Duration::from_secs(60), tries)
    }

    #[test]
    fn pauses_grow_and_are_drawn_anew() {
        let pauses = |random: f64| {
            let mut retry = in_a_minute(9);
            [(); 8].map(|()| retry.next_by(Failure::passing(error()), random).unwrap())
        };
        let shortest = [50, 100, 200, 400, 800, 1600, 2500, 2500].map(|pause| MS * pause);
        assert_eq!(pauses(0.0), shortest);
        assert_eq!(pauses(0.5), shortest.map(|pause| pause * 3 / 2));
        let first = || in_a_minute(2).next(Failure::passing(error())).unwrap();
        let one = first();
        assert!((0..100).any(|_| first() != one), "always {one:?}");
    }

    #[test]
    fn those_who_were_told_when_to_return_do_not_return_together() {
        let told = |pause: u32| Failure::after(error(), Some(MS * pause));
        let next = |pause, random| in_a_minute(2).next_by(told(pause), random).unwrap();
        // Told nothing, they pause as ever; else for longer than they were told.
        assert_eq!((next(0, 0.0), next(0, 0.5)), (MS * 50, MS * 75));
        assert_eq!((next(4000, 0.0), next(4000, 0.5)), (MS * 4500, MS * 4750));
        assert_eq!(next(40_000, 0.0), MS * 42_500);
        // As long as there is time.
        let late = next(59_900, 0.0);
        assert!((MS * 59_900..MS * 59_950).contains(&late), "{late:?}");
        assert!(in_a_minute(2).next_by(told(60_000), 0.0).is_err());
        let one = in_a_minute(2).next(told(4000)).unwrap();
        let others = (0..100).map(|_| in_a_minute(2).next(told(4000)).unwrap());
        assert!(
            others.into_iter().any(|other| other != one),
            "always {one:?}"
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
