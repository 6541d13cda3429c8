//! Mirrors: who is asked for what a registry has, and in which order.
//!
//! ```text
//! mirrors that are well, in order ─▶ the registry itself ─▶ mirrors that rest
//! ```
//!
//! A mirror that does not have a thing is passed over. One that fails, or whose bytes are not what
//! their digest says, rests as well: it is asked again after a pause that doubles with each failure,
//! until it has been well for as long as it rested: what it answers may be known to be wrong later.
//! One that says when to come back rests until then, and is not waited for.
//! While it rests it is still asked where the registry fails, too. A mirror is believed as the
//! registry is: what it gives by digest is checked, and what a tag means it may say.
//!
//! Whatever is written goes to the registry itself.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use thaw_image::Digest;

use crate::http::{Remote, locked};
use crate::{Descriptor, RegistryError};

const FIRST_REST: Duration = Duration::from_secs(10);
const LONGEST_REST: Duration = Duration::from_secs(300);

/// A registry's repository and those that mirror it.
#[derive(Debug)]
pub(crate) struct Route {
    mirrors: Vec<Arc<Remote>>,
    origin: Arc<Remote>,
}

/// Who is left alone, by host and port, and for how long.
#[derive(Debug, Default)]
pub(crate) struct Rests(HashMap<String, Rest>);

#[derive(Clone, Copy, Debug)]
struct Rest {
    until: Instant,
    pause: Duration,
    /// When it was well for the first time after that.
    well: Option<Instant>,
}

impl Rest {
    fn is_over(&self, now: Instant) -> bool {
        self.well.is_some_and(|since| now >= since + self.pause)
    }
}

impl Rests {
    fn has(&self, place: &str, now: Instant) -> bool {
        self.0.get(place).is_some_and(|rest| now < rest.until)
    }

    /// Somebody has failed, and wants to be left alone for `told`. Who rests already was mostly asked
    /// before that began, by several at once: that is one failure.
    fn begin(&mut self, place: &str, now: Instant, told: Duration) {
        if self.has(place, now) {
            return;
        }
        let before = self.0.get(place).filter(|rest| !rest.is_over(now));
        let pause = before.map_or(FIRST_REST, |rest| rest.pause * 2);
        let pause = pause.max(told).min(LONGEST_REST);
        let until = now + pause;
        let well = None;
        self.0.insert(place.to_owned(), Rest { until, pause, well });
    }

    /// Somebody has given what he was asked for. That does not end a rest: he may have been asked
    /// before that began.
    fn end(&mut self, place: &str, now: Instant) {
        if let Some(rest) = self.0.get_mut(place).filter(|rest| now >= rest.until) {
            rest.well.get_or_insert(now);
        }
    }
}

impl Route {
    pub(crate) const fn new(mirrors: Vec<Arc<Remote>>, origin: Arc<Remote>) -> Self {
        Self { mirrors, origin }
    }

    /// The registry itself.
    pub(crate) const fn origin(&self) -> &Arc<Remote> {
        &self.origin
    }

    /// Who is to be asked, in order; never empty.
    pub(crate) fn places(&self) -> VecDeque<Arc<Remote>> {
        let (resting, well): (Vec<_>, Vec<_>) =
            self.mirrors.iter().partition(|mirror| mirror.rests());
        let places = well.into_iter().chain([&self.origin]).chain(resting);
        places.cloned().collect()
    }

    /// Who is asked first.
    pub(crate) fn first(&self) -> Arc<Remote> {
        let well = self.mirrors.iter().find(|mirror| !mirror.rests());
        Arc::clone(well.unwrap_or(&self.origin))
    }

    /// Asks one after the other until one answers. The error is the registry's own.
    pub(crate) async fn ask<T, F>(
        &self,
        question: impl Fn(Arc<Remote>) -> F,
    ) -> Result<T, RegistryError>
    where
        F: Future<Output = Result<T, RegistryError>>,
    {
        let mut failure = None;
        for place in self.places() {
            match question(Arc::clone(&place)).await {
                Ok(answer) => {
                    place.is_well();
                    return Ok(answer);
                }
                Err(error) => place.pass_over(error, &mut failure),
            }
        }
        Err(failure.unwrap_or_else(|| self.origin.malformed("anything", "nobody was asked")))
    }

    /// The referrers of `subject`. A mirror that lists none may just not mirror them, so that the
    /// registry is asked, too; it need not answer then.
    pub(crate) async fn referrers(
        &self,
        subject: Digest,
        artifact_types: &[String],
    ) -> Result<Vec<Descriptor>, RegistryError> {
        let (mut answered, mut failure) = (false, None);
        for place in self.places() {
            if answered && place.rests() {
                continue;
            }
            let question = Arc::clone(&place).referrers(subject, artifact_types);
            match question.await {
                Ok(list) => {
                    place.is_well();
                    answered = true;
                    if !list.is_empty() || !place.is_mirror() {
                        return Ok(list);
                    }
                }
                Err(error) => place.pass_over(error, &mut failure),
            }
        }
        match failure {
            Some(error) if !answered => Err(error),
            _ => Ok(Vec::new()),
        }
    }

    /// Lets the mirrors rest; `false` where there are none. Several readers may find wrong bytes at
    /// once: the first one has them rest, and the others may ask again as well.
    pub(crate) fn distrust(&self) -> bool {
        let well = self.mirrors.iter().filter(|mirror| !mirror.rests());
        well.for_each(|mirror| mirror.rest(Duration::ZERO));
        !self.mirrors.is_empty()
    }
}

impl Remote {
    fn rests(&self) -> bool {
        locked(&self.shared.rests).has(&self.registry, Instant::now())
    }

    /// It has given what it was asked for.
    pub(crate) fn is_well(&self) {
        locked(&self.shared.rests).end(&self.registry, Instant::now());
    }

    /// Leaves it alone for a while, and for as long as it was `told`.
    pub(crate) fn rest(&self, told: Duration) {
        locked(&self.shared.rests).begin(&self.registry, Instant::now(), told);
    }

    /// Takes note of a failure before somebody else is asked. Of all of them the registry's own is
    /// the one to tell.
    pub(crate) fn pass_over(&self, error: RegistryError, failure: &mut Option<RegistryError>) {
        if !error.is_not_found() {
            self.rest(Duration::ZERO);
        }
        if self.is_mirror() {
            tracing::warn!(mirror = self.place(), %error, "passed over a mirror");
            return;
        }
        *failure = Some(error);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rests_end_and_double_with_each_failure_after_them() {
        let second = Duration::from_secs(1);
        let (mut rests, mut now) = (Rests::default(), Instant::now());
        for seconds in [10, 20, 40, 80, 160, 300, 300] {
            assert!(!rests.has("mirror", now), "before {seconds}");
            rests.begin("mirror", now, Duration::ZERO);
            // Others had asked it, too, and one of them was answered.
            rests.begin("mirror", now + second, second * 400);
            rests.end("mirror", now + second);
            now += second * seconds;
            assert!(rests.has("mirror", now - second), "{seconds}");
            assert!(!rests.has("other", now - second));
        }
        assert!(!rests.has("mirror", now));
        rests.end("mirror", now);
        now += LONGEST_REST;
        rests.end("mirror", now);
        rests.begin("mirror", now, Duration::ZERO);
        now += FIRST_REST;
        assert!(!rests.has("mirror", now), "it had been well");
    }

    #[test]
    fn to_be_well_for_a_moment_between_failures_is_not_to_be_well() {
        let second = Duration::from_secs(1);
        let (mut rests, mut now) = (Rests::default(), Instant::now());
        for seconds in [10, 20, 40, 80, 160, 300, 300] {
            // It answers, and what it answers ends early, or is wrong.
            rests.end("mirror", now);
            now += second * 5;
            rests.begin("mirror", now, Duration::ZERO);
            now += second * seconds;
            assert!(rests.has("mirror", now - second), "{seconds}");
            assert!(!rests.has("mirror", now), "{seconds}");
        }
    }

    #[test]
    fn who_says_when_to_come_back_rests_until_then_within_bounds() {
        let second = Duration::from_secs(1);
        for (told, rests_for) in [(3, 10), (25, 25), (10_000, 300)] {
            let (mut rests, now) = (Rests::default(), Instant::now());
            rests.begin("mirror", now, second * told);
            let has = |after: u32| rests.has("mirror", now + second * after);
            assert!(has(rests_for - 1) && !has(rests_for), "{told}");
        }
    }
}
