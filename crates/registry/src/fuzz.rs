//! What is read of an answer beside the documents that it may be, for a fuzz target: these parsers are
//! nobody's interface, and there is no server between them and their inputs here.

use std::time::{Duration, Instant};

use reqwest::header::{CONTENT_LENGTH, HeaderMap, HeaderName, HeaderValue, LOCATION};
use reqwest::{StatusCode, Url};
use thaw_image::Extent;

use crate::auth::{self, Challenge};
use crate::{http, range, reasons, referrers};

/// An answer as it is understood.
#[derive(Debug)]
pub struct Heard {
    /// From `WWW-Authenticate`: realm and service of a token server, or none where it is to be a password.
    pub challenges: Vec<Option<(Url, Option<String>)>>,
    /// From `Content-Length`.
    pub length: Option<u64>,
    /// From `Content-Range`.
    pub range: Option<Extent>,
    /// From `Link`.
    pub next: Option<Url>,
    /// From `Location`.
    pub redirect: Option<Url>,
    /// From `Retry-After` and `Date`.
    pub pause: Option<Duration>,
    /// The body as an answer of a token server: what is sent then, and for how long.
    pub token: Option<(HeaderValue, Duration)>,
    /// The body as a registry's reason to refuse.
    pub reason: String,
}

/// Reads whatever an answer to a request of `asked` has. A header that no HTTP library lets through is
/// left out.
///
/// # Panics
/// Where `asked` is no address.
#[must_use]
pub fn hear<'a>(
    asked: &str,
    headers: impl IntoIterator<Item = (&'a [u8], &'a [u8])>,
    body: &[u8],
) -> Heard {
    let asked = Url::parse(asked).expect("the caller's address");
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        let name = HeaderName::from_bytes(name);
        if let (Ok(name), Ok(value)) = (name, HeaderValue::from_bytes(value)) {
            map.append(name, value);
        }
    }
    let challenges = auth::challenges(&map).into_iter();
    let challenges = challenges.map(|challenge| match challenge {
        Challenge::Basic => None,
        Challenge::Bearer { realm, service } => Some((realm, service)),
    });
    let location = map.get(LOCATION).and_then(|value| value.to_str().ok());
    let redirect = location.and_then(|target| http::redirected(&asked, target).ok());
    let token = auth::read_token(body).ok().map(|token| {
        let renew_at = token.renew_at.unwrap_or_else(Instant::now);
        (
            token.header,
            renew_at.saturating_duration_since(Instant::now()),
        )
    });
    Heard {
        challenges: challenges.collect(),
        length: reasons::header_number(&map, &CONTENT_LENGTH),
        range: range::content_range(&map),
        next: referrers::next_page(&asked, &map),
        redirect,
        pause: reasons::retry_after(&map),
        token,
        reason: reasons::explain(StatusCode::FORBIDDEN, body),
    }
}
