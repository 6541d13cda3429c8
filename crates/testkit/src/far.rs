//! A registry far away: passes requests on, answers late, and tells who waited for whom.
//!
//! What a program asks one after the other shows in the times at which its requests came and were
//! answered, whatever the program itself counts: a request that came after another was answered
//! may have waited for it.

use std::sync::{Arc, Mutex, PoisonError};
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
}

impl Far {
    /// Puts `delay` before each answer of the registry at `host`.
    ///
    /// # Errors
    /// When no port can be listened on.
    pub fn new(host: &str, delay: Duration) -> Result<Self> {
        let (registry, trips) = (host.to_owned(), Arc::<Mutex<Vec<Trip>>>::default());
        let told = Arc::clone(&trips);
        let proxy = Proxy::start(move |asked| {
            let came = Instant::now();
            let answer = asked.pass_on(&registry, &asked.path)?;
            std::thread::sleep(delay);
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
        Ok(Self { proxy, trips })
    }

    /// `address:port`, the first part of references to its images.
    #[must_use]
    pub fn host(&self) -> String {
        self.proxy.address().to_string()
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

/// What `Range: bytes=FIRST-LAST` asks for.
fn range(asked: &Asked) -> Option<Extent> {
    let range = asked.header("range")?.strip_prefix("bytes=")?;
    let (first, last) = range.split_once('-')?;
    let last: u64 = last.parse().ok()?;
    Some(Extent::between(first.parse().ok()?, last + 1))
}

/// Length of the longest chain of requests that ends with `last`, each of which came when the one
/// before it had been answered.
#[must_use]
pub fn longest_chain(trips: &[Trip], last: &Trip) -> usize {
    let before = trips.iter().filter(|trip| trip.answered <= last.came);
    let longest = before.map(|trip| longest_chain(trips, trip)).max();
    longest.unwrap_or(0) + 1
}
