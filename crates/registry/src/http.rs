//! One HTTP exchange with a repository: authorised, redirected, bounded, counted.
//!
//! The first request goes out as if no credentials were needed or those at hand were good; only
//! an answer of 401 (or of 403 to a token from before) leads to the registry's token server, once.
//! Redirects are followed here and not by the HTTP library: `Authorization` goes to the registry's
//! own origin and nowhere else.

use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use reqwest::header::{CONTENT_LENGTH, HeaderValue, LOCATION};
use reqwest::{Method, Request, Response, StatusCode, Url};

use crate::call::{Answer, Call, Counters};
use crate::client::Shared;
use crate::reasons::{
    explain, find_tls_error, header_number, is_passing, refuses_client, retry_after, root_cause,
};
use crate::retry::{Failure, Retry};
use crate::{RegistryError, Stats};

const MAX_REDIRECTS: usize = 5;
const MAX_ERROR_BYTES: u64 = 64 << 10;
/// Tries of a call that reads or writes metadata.
const TRIES: u32 = 5;
/// Tries of any call of a mirror, and of a place that is not the only one.
pub(crate) const MIRROR_TRIES: u32 = 2;
/// The longest that a mirror may have others wait before it is asked again.
const MIRROR_PAUSE: Duration = Duration::from_secs(1);

/// A repository in a registry, as tasks see it.
#[derive(Debug)]
pub(crate) struct Remote {
    pub(crate) shared: Arc<Shared>,
    /// Host and port, as the user names it.
    pub(crate) registry: String,
    /// Name within the registry.
    pub(crate) repository: String,
    /// `https://HOST/v2/REPOSITORY/`
    pub(crate) base: Url,
    /// Whether somebody else can be asked when it fails.
    mirror: bool,
    /// Shared by a registry's repository and its mirrors.
    counters: Arc<Counters>,
}

impl Remote {
    pub(crate) fn new(shared: Arc<Shared>, registry: &str, repository: &str, base: Url) -> Self {
        Self {
            shared,
            registry: registry.to_owned(),
            repository: repository.to_owned(),
            base,
            mirror: false,
            counters: Arc::default(),
        }
    }

    /// The same as a mirror of `origin`.
    pub(crate) fn mirroring(self, origin: &Self) -> Self {
        Self {
            mirror: true,
            counters: Arc::clone(&origin.counters),
            ..self
        }
    }

    pub(crate) const fn is_mirror(&self) -> bool {
        self.mirror
    }

    /// How often it is asked before it is given up: a mirror twice, since the next try is somebody
    /// else's.
    pub(crate) const fn tries(&self, tries: u32) -> u32 {
        if self.mirror { MIRROR_TRIES } else { tries }
    }

    /// Longest time without an answer or a further byte of it.
    pub(crate) fn patience(&self) -> Duration {
        let patience = self.shared.settings.request_timeout;
        if self.mirror { patience / 2 } else { patience }
    }

    /// For messages.
    pub(crate) fn place(&self) -> String {
        if self.repository.is_empty() {
            self.registry.clone()
        } else {
            format!("{}/{}", self.registry, self.repository)
        }
    }

    pub(crate) fn stats(&self) -> Stats {
        self.counters.snapshot()
    }

    pub(crate) fn comes_after(&self, round_trips: u64) {
        self.counters.comes_after(round_trips);
    }

    /// An address below the repository's, and never outside it, whatever the tag in it says.
    pub(crate) fn url(&self, path: &str) -> Result<Url, RegistryError> {
        let plain = |c: char| c.is_ascii_alphanumeric() || "/._:-".contains(c);
        let inside = path.chars().all(plain) && !path.contains("..");
        let url = self.base.join(path).ok().filter(|_| inside);
        url.ok_or_else(|| self.malformed(path, "it makes no address"))
    }

    /// Makes a call and reads its answer, of at most `limit` bytes, trying again within the
    /// client's deadline.
    pub(crate) async fn ask(&self, call: &Call, limit: u64) -> Result<Answer, RegistryError> {
        let patience = self.shared.settings.deadline;
        let deadline = Instant::now() + patience;
        self.until(deadline, &call.what, async {
            let mut retry = Retry::new(deadline, self.tries(TRIES));
            loop {
                match self.ask_once(call, limit).await {
                    Ok(answer) => return Ok(answer),
                    Err(failure) => retry.pause(failure).await?,
                }
            }
        })
        .await
    }

    async fn ask_once(&self, call: &Call, limit: u64) -> Result<Answer, Failure> {
        let response = self.exchange(call).await?;
        let headers = response.headers().clone();
        if call.method == Method::HEAD {
            // Its Content-Length is of the body that it leaves out.
            let body = Vec::new();
            return Ok(Answer { headers, body });
        }
        let body = self.read_all(response, &call.what, limit).await?;
        Ok(Answer { headers, body })
    }

    /// Ends `future` at `deadline`.
    pub(crate) async fn until<T>(
        &self,
        deadline: Instant,
        what: &str,
        future: impl Future<Output = Result<T, RegistryError>>,
    ) -> Result<T, RegistryError> {
        let begun = Instant::now();
        let result = tokio::time::timeout_at(deadline.into(), future).await;
        result.unwrap_or_else(|_| Err(self.timed_out(what, begun.elapsed())))
    }

    pub(crate) fn timed_out(&self, what: &str, after: Duration) -> RegistryError {
        RegistryError::TimedOut {
            place: self.place(),
            what: what.to_owned(),
            after,
        }
    }

    /// One call, with what it takes of tokens and redirects. The answer is a success.
    pub(crate) async fn exchange(&self, call: &Call) -> Result<Response, Failure> {
        let mut renewed = false;
        loop {
            let grant = self.grant(call.access).await?;
            let response = self.follow(call, grant.as_ref()).await?;
            let status = response.status();
            if status.is_success() {
                return Ok(response);
            }
            let own = same_origin(response.url(), &call.url);
            if own && !renewed && self.renew(call.access, &response, grant.as_ref()).await {
                renewed = true;
                self.drain(response).await;
                continue;
            }
            return Err(self.refusal(&call.what, response, own).await);
        }
    }

    async fn follow(&self, call: &Call, grant: Option<&HeaderValue>) -> Result<Response, Failure> {
        let mut url = call.url.clone();
        for _ in 0..=MAX_REDIRECTS {
            let grant = grant.filter(|_| same_origin(&url, &call.url));
            let response = self.send(call.request(&url, grant), &call.what).await?;
            let repeatable = matches!(call.method, Method::GET | Method::HEAD);
            let target = response.headers().get(LOCATION).map(|it| it.to_str());
            let target = match target {
                Some(Ok(target)) if repeatable && response.status().is_redirection() => target,
                _ => return Ok(response),
            };
            url = redirected(&url, target)
                .map_err(|reason| Failure::last(self.malformed(&call.what, reason)))?;
            self.drain(response).await;
        }
        Err(Failure::last(
            self.malformed(&call.what, "too many redirects"),
        ))
    }

    /// Sends a request and waits for the head of its answer.
    pub(crate) async fn send(&self, request: Request, what: &str) -> Result<Response, Failure> {
        let waiting = (self.counters.begin(), self.shared.total.begin());
        let patience = self.patience();
        let begun = Instant::now();
        let answer = tokio::time::timeout(patience, self.shared.http.execute(request)).await;
        drop(waiting);
        match answer {
            Ok(Ok(response)) => {
                self.measure(|link| link.answered(begun.elapsed()));
                Ok(response)
            }
            Ok(Err(error)) => Err(self.unreachable(what, &error)),
            Err(_) => Err(self.too_slow(what, patience)),
        }
    }

    /// Like [`Remote::send`] for a body that takes long: not the whole is bounded, but the time
    /// in which no byte of it moves.
    pub(crate) async fn send_slowly(
        &self,
        request: Request,
        moved: &AtomicU64,
        what: &str,
    ) -> Result<Response, Failure> {
        let _waiting = (self.counters.begin(), self.shared.total.begin());
        let patience = self.shared.settings.request_timeout;
        let mut answer = std::pin::pin!(self.shared.http.execute(request));
        let mut before = moved.load(Ordering::Relaxed);
        loop {
            match tokio::time::timeout(patience, &mut answer).await {
                Ok(Ok(response)) => return Ok(response),
                Ok(Err(error)) => return Err(self.unreachable(what, &error)),
                Err(_) => {
                    let now = moved.load(Ordering::Relaxed);
                    if now == before {
                        return Err(Failure::passing(self.timed_out(what, patience)));
                    }
                    before = now;
                }
            }
        }
    }

    /// The next bytes of a body.
    pub(crate) async fn next(
        &self,
        response: &mut Response,
        what: &str,
    ) -> Result<Option<Bytes>, Failure> {
        let patience = self.patience();
        match tokio::time::timeout(patience, response.chunk()).await {
            Ok(Ok(chunk)) => {
                let len = chunk.as_ref().map_or(0, Bytes::len);
                self.counters.bytes.fetch_add(len as u64, Ordering::Relaxed);
                let total = &self.shared.total.bytes;
                total.fetch_add(len as u64, Ordering::Relaxed);
                self.measure(|link| link.received(len as u64, Instant::now()));
                Ok(chunk)
            }
            Ok(Err(error)) => Err(self.unreachable(what, &error)),
            Err(_) => Err(self.too_slow(what, patience)),
        }
    }

    /// A whole body of at most `limit` bytes, within the client's deadline: not every caller has one
    /// of its own, and a byte now and then is never too slow for [`Remote::next`].
    pub(crate) async fn read_all(
        &self,
        response: Response,
        what: &str,
        limit: u64,
    ) -> Result<Vec<u8>, Failure> {
        let deadline = self.shared.settings.deadline;
        let body = self.read_whole(response, what, limit);
        let body = tokio::time::timeout(deadline, body).await;
        body.unwrap_or_else(|_| Err(self.too_slow(what, deadline)))
    }

    async fn read_whole(
        &self,
        mut response: Response,
        what: &str,
        limit: u64,
    ) -> Result<Vec<u8>, Failure> {
        let too_large = || {
            Failure::last(RegistryError::TooLarge {
                place: self.place(),
                what: what.to_owned(),
                limit,
            })
        };
        if header_number(response.headers(), &CONTENT_LENGTH).is_some_and(|len| len > limit) {
            return Err(too_large());
        }
        let mut body = Vec::new();
        while let Some(chunk) = self.next(&mut response, what).await? {
            if (body.len() + chunk.len()) as u64 > limit {
                return Err(too_large());
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }

    /// Reads the rest of a small body, so that its connection can be used again.
    pub(crate) async fn drain(&self, response: Response) {
        // A connection that breaks here is of no use, and that is all there is to it.
        let _ = self.read_all(response, "", MAX_ERROR_BYTES).await;
    }

    /// What an answer that is no success means. `own` says that the registry itself gave it and
    /// not who it redirected to: an address given out before may have expired there.
    pub(crate) async fn refusal(&self, what: &str, response: Response, own: bool) -> Failure {
        let status = response.status();
        let pause = retry_after(response.headers());
        let body = self.read_all(response, what, MAX_ERROR_BYTES).await;
        let reason = explain(status, &body.unwrap_or_default());
        let (place, what) = (self.place(), what.to_owned());
        match status {
            StatusCode::NOT_FOUND if own => Failure::last(RegistryError::NotFound { place, what }),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN if own => {
                let advice = format!("run `thaw login {}`", self.registry);
                Failure::last(RegistryError::Denied {
                    place,
                    what,
                    reason,
                    advice,
                })
            }
            _ => {
                let error = RegistryError::Status {
                    place,
                    what,
                    status: status.as_u16(),
                    reason,
                };
                if error.is_passing() || !own {
                    self.busy(error, pause)
                } else {
                    Failure::last(error)
                }
            }
        }
    }

    /// A failure that passes, after `pause` where it was told. Nobody waits long for a mirror: somebody
    /// else is asked.
    fn busy(&self, error: RegistryError, pause: Option<Duration>) -> Failure {
        match pause.filter(|pause| self.mirror && *pause > MIRROR_PAUSE) {
            Some(pause) => {
                self.rest(pause);
                Failure::last(error)
            }
            None => Failure::after(error, pause),
        }
    }

    pub(crate) fn malformed(&self, what: &str, reason: &str) -> RegistryError {
        RegistryError::Malformed {
            place: self.place(),
            what: what.to_owned(),
            reason: reason.to_owned(),
        }
    }

    /// A registry may be quicker next time; instead of a mirror somebody else is asked.
    pub(crate) fn too_slow(&self, what: &str, after: Duration) -> Failure {
        let error = self.timed_out(what, after);
        match self.mirror {
            true => Failure::last(error),
            false => Failure::passing(error),
        }
    }

    fn unreachable(&self, what: &str, error: &reqwest::Error) -> Failure {
        if error.is_timeout() {
            let after = self.shared.settings.connect_timeout;
            return self.too_slow(what, after);
        }
        let (tls, reason) = (find_tls_error(error), root_cause(error));
        let advice = match tls {
            Some(rustls::Error::InvalidMessage(_)) => {
                "; if it speaks plain HTTP, allow that with --plain-http"
            }
            Some(rustls::Error::InvalidCertificate(_)) => {
                "; add its certificate authority to the system's, or as its `ca` in the configuration"
            }
            _ if refuses_client(&reason) => {
                "; it wants another client certificate: `client-cert` in the configuration"
            }
            _ => "",
        };
        let is_final = tls.is_some_and(|tls| !is_passing(tls)) || refuses_client(&reason);
        let error = RegistryError::Unreachable {
            place: self.place(),
            what: what.to_owned(),
            reason,
            advice,
        };
        if is_final {
            Failure::last(error)
        } else {
            Failure::passing(error)
        }
    }
}

/// A table that survives a panic elsewhere: every entry is put in whole.
pub(crate) fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether two addresses are of one server, so that what one may know the other may.
pub(crate) fn same_origin(one: &Url, other: &Url) -> bool {
    one.origin() == other.origin()
}

/// A redirect may leave the host but not TLS.
pub(crate) fn redirected(from: &Url, target: &str) -> Result<Url, &'static str> {
    let url = from.join(target);
    let url = url.map_err(|_| "the redirect goes to no address")?;
    match (from.scheme(), url.scheme()) {
        ("https" | "http", "https") | ("http", "http") => Ok(url),
        _ => Err("the redirect leaves https"),
    }
}
