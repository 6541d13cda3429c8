//! Ranges of blobs: one request for a single range, resumed where it broke.
//!
//! A registry may answer a range with all of the blob (the bytes before are skipped, up to a
//! limit), with another range (refused), or with the address of a blob store. Such an address is
//! remembered for a while, which saves each further read a round trip; when the store no longer
//! accepts it, the registry is asked again.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes};
use reqwest::header::{CONTENT_LENGTH, CONTENT_RANGE, HeaderMap, HeaderValue, RANGE};
use reqwest::{Method, Response, StatusCode, Url};
use thaw_image::{Digest, Extent};

use crate::RegistryError;
use crate::auth::Access;
use crate::call::Call;
use crate::http::{MIRROR_TRIES, Remote, locked, same_origin};
use crate::reasons::header_number;
use crate::retry::{Failure, Retry};

/// Most bytes skipped of an answer that begins at the blob's start.
const MAX_SKIP: u64 = 256 << 20;
/// How long the address behind a redirect is used: blob stores sign theirs for some minutes.
const LOCATION_LIFE: Duration = Duration::from_secs(120);
const MAX_LOCATIONS: usize = 1024;
/// Tries without progress: mostly the deadline comes first, which gives a registry that is being
/// restarted time to come back.
const TRIES: u32 = 32;
/// Bytes that count as progress: a server that sends less in each try is given up.
const PROGRESS: u64 = 64 << 10;

/// How a read of a blob is bounded.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Patience {
    /// All of it ends then.
    Until(Instant),
    /// It may last as long as it moves on.
    WhileMoving,
}

/// A read of a range.
#[derive(Debug)]
pub(crate) struct RangeRead {
    remote: Arc<Remote>,
    /// Who is asked when that one has failed, in order.
    others: VecDeque<Arc<Remote>>,
    /// How many of them have failed since all had, and what the registry itself said.
    asked: usize,
    failure: Option<RegistryError>,
    /// Counts how often all have failed.
    rounds: Retry,
    blob: Digest,
    extent: Extent,
    /// The extent is all of the blob: ask without a range, which any registry can answer.
    whole: bool,
    /// A range was answered with all of the blob.
    is_unranged: bool,
    position: u64,
    open: Option<Open>,
    patience: Patience,
    retry: Retry,
    retry_from: u64,
}

/// An answer that is being read.
#[derive(Debug)]
struct Open {
    response: Response,
    skip: u64,
    /// Bytes that it owes after those to skip.
    left: u64,
}

impl RangeRead {
    pub(crate) fn new(
        remote: Arc<Remote>,
        blob: Digest,
        extent: Extent,
        patience: Patience,
    ) -> Self {
        let retry = remote.retry(patience, remote.tries(TRIES));
        let rounds = remote.retry(patience, TRIES);
        Self {
            remote,
            others: VecDeque::new(),
            asked: 0,
            failure: None,
            rounds,
            blob,
            extent,
            whole: false,
            is_unranged: false,
            position: extent.offset,
            open: None,
            patience,
            retry,
            retry_from: extent.offset,
        }
    }

    /// From whoever has it; the first of `places` is the first to be asked.
    pub(crate) fn anywhere(
        mut places: VecDeque<Arc<Remote>>,
        blob: Digest,
        extent: Extent,
        patience: Patience,
    ) -> Self {
        let remote = places.pop_front().expect("a route is never empty");
        let mut read = Self::new(remote, blob, extent, patience);
        if !places.is_empty() {
            read.others = places;
            read.retry = read.remote.retry(patience, MIRROR_TRIES);
        }
        read
    }

    /// Of all of a blob.
    pub(crate) fn whole(remote: Arc<Remote>, blob: Digest, len: u64, patience: Patience) -> Self {
        let extent = Extent { offset: 0, len };
        Self {
            whole: true,
            ..Self::new(remote, blob, extent, patience)
        }
    }

    /// All of it.
    pub(crate) async fn collect(mut self) -> Result<Vec<u8>, RegistryError> {
        // Whoever is being asked when the time is over: it is the registry that was to give it.
        let remote = match self.others.iter().find(|place| !place.is_mirror()) {
            Some(registry) if self.remote.is_mirror() => Arc::clone(registry),
            _ => Arc::clone(&self.remote),
        };
        let what = self.what();
        let deadline = match self.patience {
            Patience::Until(deadline) => deadline,
            Patience::WhileMoving => Instant::now() + remote.shared.settings.deadline,
        };
        let read = async {
            // Grows as bytes come: the length is somebody's claim.
            let mut all = Vec::new();
            while let Some(bytes) = self.next().await? {
                if all.is_empty() {
                    let len = usize::try_from(self.extent.len).unwrap_or(usize::MAX);
                    all.reserve_exact(len.min(1 << 20).max(bytes.len()));
                }
                all.extend_from_slice(&bytes);
            }
            Ok(all)
        };
        remote.until(deadline, &what, read).await
    }

    /// Whether whoever was asked gave no more than was asked for.
    pub(crate) const fn knows_ranges(&self) -> bool {
        !self.is_unranged
    }

    /// The next bytes; `None` behind the last.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, RegistryError> {
        if self.position >= self.extent.end() {
            return Ok(None);
        }
        loop {
            match self.step_in_time().await {
                Ok(bytes) => {
                    self.position += bytes.len() as u64;
                    self.note_progress();
                    return Ok(Some(bytes));
                }
                Err(failure) => {
                    self.open = None;
                    if let Err(error) = self.retry.pause(failure).await {
                        self.ask_another(error).await?;
                    }
                }
            }
        }
    }

    /// Goes on with the next place, at the byte where this one has failed. When all have failed,
    /// and not for good, it is the first one's turn again.
    async fn ask_another(&mut self, error: RegistryError) -> Result<(), RegistryError> {
        let Some(next) = self.others.pop_front() else {
            return Err(error);
        };
        self.remote.pass_over(error, &mut self.failure);
        self.others
            .push_back(std::mem::replace(&mut self.remote, next));
        self.asked += 1;
        if self.asked > self.others.len() {
            self.asked = 0;
            let own = self.failure.take();
            let own = own.unwrap_or_else(|| self.ended());
            let failure = match own.is_passing() {
                true => Failure::passing(own),
                false => Failure::last(own),
            };
            self.rounds.pause(failure).await?;
        }
        self.retry = self.remote.retry(self.patience, MIRROR_TRIES);
        Ok(())
    }

    /// A step that leaves time for those who are asked next.
    async fn step_in_time(&mut self) -> Result<Bytes, Failure> {
        let deadline = match self.patience {
            Patience::Until(deadline) if !self.others.is_empty() => deadline,
            _ => return self.step().await,
        };
        let half = deadline.saturating_duration_since(Instant::now()) / 2;
        match tokio::time::timeout(half, self.step()).await {
            Ok(result) => result,
            Err(_) => Err(Failure::last(self.remote.timed_out(&self.what(), half))),
        }
    }

    fn note_progress(&mut self) {
        // Not before: a head says nothing of the body.
        if self.remote.is_mirror() && self.position >= self.extent.end() {
            self.remote.is_well();
        }
        let moving = matches!(self.patience, Patience::WhileMoving);
        if moving && self.position - self.retry_from >= PROGRESS {
            self.retry_from = self.position;
            let alone = self.others.is_empty();
            let tries = match alone {
                true => self.remote.tries(TRIES),
                false => MIRROR_TRIES,
            };
            self.retry = self.remote.retry(self.patience, tries);
            self.rounds = self.remote.retry(self.patience, TRIES);
            self.asked = 0;
        }
    }

    async fn step(&mut self) -> Result<Bytes, Failure> {
        let what = self.what();
        if self.open.as_ref().is_none_or(|open| open.left == 0) {
            let open = self.request().await?;
            self.is_unranged |= open.response.status() == StatusCode::OK;
            self.open = Some(open);
        }
        loop {
            let Some(open) = &mut self.open else {
                return Err(Failure::passing(self.ended()));
            };
            let Some(mut bytes) = self.remote.next(&mut open.response, &what).await? else {
                return Err(Failure::passing(self.ended()));
            };
            let skipped = open.skip.min(bytes.len() as u64);
            open.skip -= skipped;
            bytes.advance(usize::try_from(skipped).unwrap_or(bytes.len()));
            let useful = open.left.min(bytes.len() as u64);
            open.left -= useful;
            bytes.truncate(usize::try_from(useful).unwrap_or(bytes.len()));
            if !bytes.is_empty() {
                return Ok(bytes);
            }
        }
    }

    fn ended(&self) -> RegistryError {
        RegistryError::Truncated {
            place: self.remote.place(),
            what: self.what(),
            offset: self.extent.offset,
            wanted: self.extent.len,
            got: self.position - self.extent.offset,
        }
    }

    fn what(&self) -> String {
        format!("blob {}", self.blob)
    }

    /// Asks for what is left, at the blob store if its address is known.
    async fn request(&self) -> Result<Open, Failure> {
        let url = self.remote.url(&format!("blobs/{}", self.blob));
        let url = url.map_err(Failure::last)?;
        let mut call = Call::new(Method::GET, url, Access::Pull, self.what());
        let ranged = !(self.whole && self.position == 0);
        if ranged {
            let text = format!("bytes={}-{}", self.position, self.extent.end() - 1);
            let value = HeaderValue::from_str(&text).expect("digits are a header value");
            call.headers.insert(RANGE, value);
        }
        if let Some(known) = self.remote.location(&call.url) {
            let answer = self
                .remote
                .send(call.request(&known, None), &call.what)
                .await;
            if let Ok(response) = answer
                && response.status().is_success()
            {
                return self.check(response);
            }
            locked(&self.remote.shared.locations).remove(&call.url);
        }
        match self.remote.exchange(&call).await {
            Ok(response) => {
                if !same_origin(response.url(), &call.url) {
                    self.remote
                        .remember(call.url.clone(), response.url().clone());
                }
                self.check(response)
            }
            Err(failure) => Err(self.past_the_end(failure)),
        }
    }

    /// 416: there is nothing at this offset.
    fn past_the_end(&self, failure: Failure) -> Failure {
        match failure.status() {
            Some(416) => Failure::last(self.ended()),
            _ => failure,
        }
    }

    /// Finds out which bytes an answer holds.
    fn check(&self, response: Response) -> Result<Open, Failure> {
        let headers = response.headers();
        let wanted = self.extent.end() - self.position;
        let bad = |reason: &str| Failure::last(self.remote.malformed(&self.what(), reason));
        match response.status() {
            StatusCode::PARTIAL_CONTENT => {
                let range = content_range(headers)
                    .ok_or_else(|| bad("the answer does not say which range it is"))?;
                if range.offset != self.position || range.is_empty() {
                    return Err(bad("the answer is another range than was asked for"));
                }
                let left = range.len.min(wanted);
                let open = Open {
                    response,
                    skip: 0,
                    left,
                };
                Ok(open)
            }
            StatusCode::OK => {
                let len = header_number(headers, &CONTENT_LENGTH);
                if len.is_some_and(|len| len < self.extent.end()) {
                    return Err(Failure::last(self.ended()));
                }
                if self.position > MAX_SKIP {
                    return Err(bad("the registry does not know ranges"));
                }
                Ok(Open {
                    response,
                    skip: self.position,
                    left: wanted,
                })
            }
            _ => Err(bad("the answer is neither the blob nor a range of it")),
        }
    }
}

impl Remote {
    fn retry(&self, patience: Patience, tries: u32) -> Retry {
        let deadline = match patience {
            Patience::Until(deadline) => deadline,
            Patience::WhileMoving => Instant::now() + self.shared.settings.deadline,
        };
        Retry::new(deadline, tries)
    }

    fn location(&self, blob: &Url) -> Option<Url> {
        let locations = locked(&self.shared.locations);
        let (url, since) = locations.get(blob)?;
        (since.elapsed() < LOCATION_LIFE).then(|| url.clone())
    }

    fn remember(&self, blob: Url, url: Url) {
        let mut locations = locked(&self.shared.locations);
        if locations.len() >= MAX_LOCATIONS {
            locations.clear();
        }
        locations.insert(blob, (url, Instant::now()));
    }
}

/// `Content-Range: bytes FIRST-LAST/SIZE` (RFC 9110, section 14.4).
pub(crate) fn content_range(headers: &HeaderMap) -> Option<Extent> {
    let text = headers.get(CONTENT_RANGE)?.to_str().ok()?;
    let (range, _) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (first, last) = (first.parse::<u64>().ok()?, last.parse::<u64>().ok()?);
    Extent::checked(first, last.checked_sub(first)?.checked_add(1)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_ranges_are_read() {
        let read = |text: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_RANGE, HeaderValue::from_static(text));
            content_range(&headers)
        };
        assert_eq!(read("bytes 5-9/100"), Extent::checked(5, 5));
        assert_eq!(read("bytes 5-5/*"), Extent::checked(5, 1));
        for bad in [
            "",
            "bytes */100",
            "bytes 9-5/100",
            "bytes 0-18446744073709551615/1",
            "5-9/1",
        ] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }
}
