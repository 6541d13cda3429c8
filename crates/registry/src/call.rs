//! A request that can be repeated, its whole answer, and what is counted of both.

use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Method, Request, Url};

use crate::Stats;
use crate::auth::Access;

/// A request that can be repeated.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) method: Method,
    pub(crate) url: Url,
    pub(crate) access: Access,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    /// For messages.
    pub(crate) what: String,
}

impl Call {
    pub(crate) fn new(method: Method, url: Url, access: Access, what: String) -> Self {
        Self {
            method,
            url,
            access,
            headers: HeaderMap::new(),
            body: Bytes::new(),
            what,
        }
    }

    pub(crate) fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.insert(name, value);
        self
    }

    pub(crate) fn body(mut self, body: Bytes) -> Self {
        self.body = body;
        self
    }

    pub(crate) fn request(&self, url: &Url, authorization: Option<&HeaderValue>) -> Request {
        let mut request = Request::new(self.method.clone(), url.clone());
        *request.headers_mut() = self.headers.clone();
        if let Some(value) = authorization {
            request.headers_mut().insert(AUTHORIZATION, value.clone());
        }
        if matches!(self.method, Method::PUT | Method::POST | Method::PATCH) {
            *request.body_mut() = Some(self.body.clone().into());
        }
        request
    }
}

/// A whole answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
}

/// How much was asked of a registry.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    requests: AtomicU64,
    /// Length of the longest chain of requests that were answered.
    round_trips: AtomicU64,
    pub(crate) bytes: AtomicU64,
}

/// A request whose answer has not begun: the last of a chain of so many.
pub(crate) struct Waiting<'a> {
    counters: &'a Counters,
    chain: u64,
}

impl Counters {
    pub(crate) fn begin(&self) -> Waiting<'_> {
        self.requests.fetch_add(1, Ordering::Relaxed);
        Waiting {
            counters: self,
            chain: self.round_trips.load(Ordering::Relaxed) + 1,
        }
    }

    /// What begins from now on is behind so many requests elsewhere.
    pub(crate) fn comes_after(&self, round_trips: u64) {
        self.round_trips.fetch_max(round_trips, Ordering::Relaxed);
    }

    pub(crate) fn snapshot(&self) -> Stats {
        Stats {
            requests: self.requests.load(Ordering::Relaxed),
            round_trips: self.round_trips.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.counters
            .round_trips
            .fetch_max(self.chain, Ordering::Relaxed);
    }
}
