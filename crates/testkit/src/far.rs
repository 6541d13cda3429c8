//! A registry far away: passes requests on, answers late, and tells who waited for whom.
//!
//! What a program asks one after the other shows in the times at which its requests came and were
//! answered, whatever the program itself counts: a request that came after another was answered
//! may have waited for it. What a program does not wait for can be withheld.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Result;
use thaw_image::Extent;

use crate::proxy::{Asked, Proxy};

/// A GET that was answered.
#[derive(Clone, Debug)]
pub struct Trip {
    /// Path and query.
    pub path: String,
    /// The range that was asked for; `None`: all of it.
    pub range: Option<Extent>,
    came: Instant,
    answered: Instant,
}

impl Trip {
    /// Whether it was on its way together with another.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        self.came < other.answered && other.came < self.answered
    }
}

/// The way to a registry. Ends on drop; connections end with their clients.
#[derive(Debug)]
pub struct Far {
    proxy: Proxy,
    trips: Arc<Mutex<Vec<Trip>>>,
    hold: Arc<Hold>,
}

/// Answers that are kept back as long as this lives.
#[derive(Debug)]
#[must_use = "dropping it gives the answers"]
pub struct Withheld {
    hold: Arc<Hold>,
}

#[derive(Debug, Default)]
struct Hold {
    kept: Mutex<Option<Kept>>,
    given: Condvar,
}

#[derive(Debug)]
struct Kept {
    /// What the paths of such requests end with.
    end: String,
    asked: usize,
}

impl Far {
    /// Puts `delay` before each answer of the registry at `host`.
    ///
    /// # Errors
    /// When no port can be listened on.
    pub fn new(host: &str, delay: Duration) -> Result<Self> {
        let (registry, trips) = (host.to_owned(), Arc::<Mutex<Vec<Trip>>>::default());
        let told = Arc::clone(&trips);
        let hold = Arc::<Hold>::default();
        let held = Arc::clone(&hold);
        let proxy = Proxy::start(move |asked| {
            let came = Instant::now();
            let answer = asked.pass_on(&registry, &asked.path)?;
            std::thread::sleep(delay);
            held.pass(&asked.path);
            let trip = Trip {
                path: asked.path.clone(),
                range: range(asked),
                came,
                answered: Instant::now(),
            };
            let mut told = told.lock().unwrap_or_else(PoisonError::into_inner);
            told.push(trip);
            Ok(answer)
        })?;
        Ok(Self { proxy, trips, hold })
    }

    /// `address:port`, the first part of references to its images.
    #[must_use]
    pub fn host(&self) -> String {
        self.proxy.address().to_string()
    }

    /// From now on keeps back the answers to requests whose path ends with `end`; nothing else, if
    /// something was before.
    pub fn withhold(&self, end: &str) -> Withheld {
        let (end, asked) = (end.to_owned(), 0);
        *self.hold.lock() = Some(Kept { end, asked });
        Withheld {
            hold: Arc::clone(&self.hold),
        }
    }

    /// Connections that were made so far.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.proxy.connections()
    }

    /// What was asked so far, in the order of the answers.
    #[must_use]
    pub fn trips(&self) -> Vec<Trip> {
        let trips = self.trips.lock();
        trips.unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Withheld {
    /// How many requests were not answered so far.
    #[must_use]
    pub fn asked(&self) -> usize {
        self.hold.lock().as_ref().map_or(0, |kept| kept.asked)
    }
}

impl Drop for Withheld {
    fn drop(&mut self) {
        *self.hold.lock() = None;
        self.hold.given.notify_all();
    }
}

impl Hold {
    fn lock(&self) -> MutexGuard<'_, Option<Kept>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits as long as the answer to `path` is kept back.
    fn pass(&self, path: &str) {
        let mut kept = self.lock();
        if let Some(kept) = &mut *kept
            && path.ends_with(&kept.end)
        {
            kept.asked += 1;
        }
        let is_kept = |kept: &mut Option<Kept>| {
            let kept = kept.as_ref();
            kept.is_some_and(|kept| path.ends_with(&kept.end))
        };
        drop(self.given.wait_while(kept, is_kept));
    }
}

/// What `Range: bytes=FIRST-LAST` asks for.
fn range(asked: &Asked) -> Option<Extent> {
    let range = asked.header("range")?.strip_prefix("bytes=")?;
    let (first, last) = range.split_once('-')?;
    let last: u64 = last.parse().ok()?;
    Some(Extent::between(first.parse().ok()?, last + 1))
}

/// How many requests were on their way at the moment at which most were.
#[must_use]
pub fn most_at_once(trips: &[Trip]) -> usize {
    let at = |now: Instant| {
        let on_their_way = |trip: &&Trip| trip.came <= now && now < trip.answered;
        trips.iter().filter(on_their_way).count()
    };
    let counts = trips.iter().map(|trip| at(trip.came));
    counts.max().unwrap_or_default()
}

/// Length of the longest chain of requests that ends with `last`, each of which came when the one
/// before it had been answered.
#[must_use]
pub fn longest_chain(trips: &[Trip], last: &Trip) -> usize {
    let before = trips.iter().filter(|trip| trip.answered <= last.came);
    let longest = before.map(|trip| longest_chain(trips, trip)).max();
    longest.unwrap_or(0) + 1
}
