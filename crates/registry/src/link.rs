//! How a registry is reached: its round trip and its rate, measured by the way, and connections
//! that are opened before they are needed.
//!
//! Both figures are of what the client itself moved. A reader that is slower than the link makes
//! the link look slow, so the rate rises at once and falls slowly. A server that is slow to answer
//! makes the round trip look long: that is what a request costs, and what is wanted.

use std::sync::Arc;
use std::time::{Duration, Instant};

use reqwest::{Method, Request, Response};
use serde::{Deserialize, Serialize};

use crate::auth::Access;
use crate::http::{Remote, locked};
use crate::parallel::{SEGMENT, SEGMENTS};

/// Connections that [`Remote::connect`] opens beside the first request's own.
const CONNECTIONS: usize = 3;
/// Below the time after which the HTTP library closes a connection that is not used.
const CONNECTED_FOR: Duration = Duration::from_secs(60);
/// Bytes and time that make a sample of the rate: less says more of the round trip.
const SAMPLE_BYTES: u64 = 512 << 10;
const SAMPLE_TIME: Duration = Duration::from_millis(5);
/// A pause between two pieces that ends a sample: the link was idle.
const PAUSE: Duration = Duration::from_millis(250);

/// Most bytes of an answer to a greeting that are read so that its connection can be used again.
const MAX_GREETING: usize = 64 << 10;

/// A round trip from which on requests are made at once before the rate is known.
const FAR: Duration = Duration::from_millis(20);

/// How a registry is reached, as far as it was measured.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Link {
    /// From a request to the beginning of its answer.
    pub round_trip: Option<Duration>,
    /// Bytes per second.
    pub rate: Option<u64>,
    #[serde(skip)]
    sample: Option<Sample>,
}

/// Bytes that come one behind the other, of any number of answers.
#[derive(Clone, Debug)]
struct Sample {
    begun: Instant,
    last: Instant,
    bytes: u64,
}

impl PartialEq for Link {
    fn eq(&self, other: &Self) -> bool {
        (self.round_trip, self.rate) == (other.round_trip, other.rate)
    }
}

impl Link {
    /// An answer began `after` its request was sent.
    pub(crate) fn answered(&mut self, after: Duration) {
        self.round_trip = Some(match self.round_trip {
            // The shortest is the nearest to the truth: the rest is handshakes and queues.
            Some(old) if after >= old => old - old / 8 + after.min(old * 4) / 8,
            _ => after,
        });
    }

    /// How many segments of a stream should be on their way at once: as many as the link holds
    /// in a round trip, and two where it is far and nothing else is known.
    pub(crate) fn segments(&self) -> usize {
        let round_trip = self.round_trip.unwrap_or_default();
        let Some(rate) = self.rate else {
            return if round_trip < FAR { 1 } else { 2 };
        };
        let held = u128::from(rate) * round_trip.as_micros() / 1_000_000;
        let segments = usize::try_from(held / u128::from(SEGMENT)).unwrap_or(SEGMENTS);
        (segments + 1).min(SEGMENTS)
    }

    /// A piece of an answer has come.
    pub(crate) fn received(&mut self, bytes: u64, now: Instant) {
        let Some(sample) = self.sample.as_mut().filter(|it| now - it.last < PAUSE) else {
            // What came with the first piece began to come before it.
            let (begun, last) = (now, now);
            self.sample = Some(Sample {
                begun,
                last,
                bytes: 0,
            });
            return;
        };
        sample.bytes += bytes;
        sample.last = now;
        let took = now - sample.begun;
        if sample.bytes < SAMPLE_BYTES || took < SAMPLE_TIME {
            return;
        }
        let rate = u128::from(sample.bytes) * 1_000_000_000 / took.as_nanos();
        let rate = u64::try_from(rate).unwrap_or(u64::MAX);
        self.rate = Some(match self.rate {
            Some(old) if rate < old => old - old / 8 + rate / 8,
            _ => rate,
        });
        self.sample = None;
    }
}

impl Remote {
    pub(crate) fn measure(&self, note: impl FnOnce(&mut Link)) {
        let mut links = locked(&self.shared.links);
        note(links.entry(self.registry.clone()).or_default());
    }

    /// How the registry is reached, as far as it was measured.
    pub(crate) fn link(&self) -> Link {
        let links = locked(&self.shared.links);
        links.get(&self.registry).cloned().unwrap_or_default()
    }

    /// Opens connections, unless that was done a short while ago: requests that are then made at
    /// once find one each, and wait for no handshake. By TLS requests share a connection wherever
    /// HTTP/2 is spoken.
    pub(crate) async fn connect(self: Arc<Self>) {
        {
            let mut connected = locked(&self.shared.connected);
            let since = connected.get(&self.registry);
            let is_new = since.is_none_or(|since| since.elapsed() > CONNECTED_FOR);
            if !is_new || self.base.scheme() != "http" {
                return;
            }
            connected.insert(self.registry.clone(), Instant::now());
        }
        for _ in 0..CONNECTIONS {
            let remote = Arc::clone(&self);
            // Whatever is answered, or if nothing is: who asks for something will hear it.
            tokio::spawn(async move { remote.greet().await });
        }
    }

    /// Has the registry say how it wants to be asked, and asks to be let in. What fails is heard by
    /// whoever asks for something.
    pub(crate) async fn approach(self: Arc<Self>) {
        Arc::clone(&self).connect().await;
        if self.challenge().is_none() {
            let Some(answer) = self.greet().await else {
                return;
            };
            self.renew(Access::Pull, &answer, None).await;
        }
        let _ = self.grant(Access::Pull).await;
    }

    /// Asks for nothing that anybody wants to know, so that nothing is counted. The answer, read to
    /// its end; `None` where that did not come in time, or is far: nobody waits here who would give
    /// up, and whoever answers decides how much there is.
    async fn greet(&self) -> Option<Response> {
        let request = Request::new(Method::GET, self.base.join("/v2/").ok()?);
        let greeting = async {
            let mut answer = self.shared.http.execute(request).await.ok()?;
            let mut left = MAX_GREETING;
            while let Some(piece) = answer.chunk().await.ok()? {
                left = left.checked_sub(piece.len())?;
            }
            Some(answer)
        };
        tokio::time::timeout(self.patience(), greeting).await.ok()?
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn the_round_trip_is_the_shortest_and_follows_slowly() {
        let mut link = Link::default();
        link.answered(MS * 40);
        link.answered(MS * 2);
        assert_eq!(link.round_trip, Some(MS * 2));
        link.answered(MS * 1000);
        assert!(link.round_trip.unwrap() < MS * 3, "{link:?}");
        for _ in 0..64 {
            link.answered(MS * 20);
        }
        assert!(link.round_trip.unwrap() > MS * 18, "{link:?}");
    }

    #[test]
    fn the_rate_is_that_of_bytes_that_come_without_a_pause() {
        let (mut link, start) = (Link::default(), Instant::now());
        let mut receive = |from: Duration, pieces: u32, every: Duration| {
            for piece in 0..pieces {
                link.received(100_000, start + from + every * piece);
            }
            link.rate
        };
        assert_eq!(receive(MS, 5, MS), None, "too little to say");
        let seconds = Duration::from_secs(10);
        let rate = receive(seconds, 200, MS).unwrap();
        assert!((99_000_000..=101_000_000).contains(&rate), "{rate}");
        let once_slower = receive(seconds * 2, 8, MS * 10).unwrap();
        assert!(
            (80_000_000..100_000_000).contains(&once_slower),
            "{once_slower}"
        );
        let with_pauses = receive(seconds * 3, 200, PAUSE);
        assert_eq!(with_pauses, Some(once_slower), "an idle link says nothing");
    }

    #[test]
    fn as_much_is_on_its_way_as_the_link_holds() {
        let segments = |round_trip: u32, rate: Option<u64>| {
            let link = Link {
                round_trip: Some(MS * round_trip),
                rate,
                sample: None,
            };
            link.segments()
        };
        assert_eq!((segments(2, None), segments(100, None)), (1, 2));
        let (slow, fast) = (Some(1_250_000), Some(125_000_000));
        assert_eq!((segments(2, fast), segments(20, fast)), (1, 2));
        assert_eq!((segments(100, slow), segments(100, fast)), (1, 4));
        assert_eq!(Link::default().segments(), 1);
    }

    #[test]
    fn what_was_measured_comes_back() {
        let mut link = Link::default();
        link.answered(MS * 7);
        let text = serde_json::to_string(&link).unwrap();
        assert_eq!(serde_json::from_str::<Link>(&text).unwrap(), link);
    }
}
