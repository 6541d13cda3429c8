//! What callers send and users write, for fuzz targets: these parsers are nobody's interface, and there is no server between them and
//! their inputs here. Times are seconds since 1970.

use std::sync::Arc;

use bytes::Bytes;
use hyper::Method;
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use jiff::Timestamp;
use serde_json::Value;

use crate::api::{Call, Dialect, function};
use crate::auth::{Claim, Signed};
use crate::contract::Place;
use crate::fields::Fields;
use crate::model::{Config, Function, FunctionName};
use crate::query::Query;
use crate::schedule::Schedule;

/// A request, as a server hands it on.
#[derive(Clone, Debug)]
pub struct Sent<'a> {
    /// Upper case.
    pub method: &'a str,
    /// Still encoded.
    pub path: &'a str,
    /// Still encoded, without the `?`.
    pub query: &'a str,
    /// Those that no HTTP library lets through are left out.
    pub headers: Vec<(&'a [u8], &'a [u8])>,
    /// All of it.
    pub body: &'a [u8],
}

impl Sent<'_> {
    fn headers(&self) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in &self.headers {
            let name = HeaderName::from_bytes(name);
            if let (Ok(name), Ok(value)) = (name, HeaderValue::from_bytes(value)) {
                map.append(name, value);
            }
        }
        map
    }

    /// The access key that it was signed with, by somebody who has `secret`.
    #[must_use]
    pub fn signer(&self, secret: &str, now: i64) -> Option<String> {
        let headers = self.headers();
        let claim = Claim::of(&headers).ok()??;
        let body_sha256 = thaw_image::Digest::of(self.body).hex();
        let signed = Signed {
            method: self.method,
            path: self.path,
            query: self.query,
            headers: &headers,
            body_sha256: &body_sha256,
        };
        let now = Timestamp::from_second(now).ok()?;
        claim.verify(&signed, secret, now).ok()?;
        Some(claim.key().to_owned())
    }

    /// The console's session that it belongs to.
    #[must_use]
    pub fn session(&self) -> Option<String> {
        crate::console::cookie(&self.headers()).map(str::to_owned)
    }

    /// Whether it was the console's own page that had a browser send it.
    #[must_use]
    pub fn is_of_the_console(&self) -> bool {
        crate::console::check_origin(&self.headers()).is_ok()
    }

    /// The events of an object store's notification, as functions get them.
    #[must_use]
    pub fn events(&self) -> Option<Vec<Value>> {
        crate::events::translated(self.body, &self.headers()).ok()
    }
}

/// The segments of a path.
#[must_use]
pub fn segments(path: &str) -> Option<Vec<String>> {
    crate::server::segments(path).ok()
}

/// The service, function and qualifier that a path names, and where the function's own part of it begins.
#[must_use]
pub fn place(path: &str) -> Option<[String; 4]> {
    let crate::proxy::Place {
        name,
        qualifier,
        base,
    } = crate::proxy::place(path)?;
    Some([name.service, name.function, qualifier, base])
}

/// A host as requests name it, without the port, and whether a function can have that name.
#[must_use]
pub fn domain(host: &str) -> (String, bool) {
    let name = crate::proxy::without_port(host).to_ascii_lowercase();
    let is_domain = crate::proxy::is_domain(&name);
    (name, is_domain)
}

/// A new function of what a body says, as the API's `version` shows it.
#[must_use]
pub fn configured(version: &str, body: &[u8]) -> Option<Value> {
    let call = Call {
        dialect: Dialect::of(version)?,
        method: Method::POST,
        segments: Vec::new(),
        query: Query::default(),
        headers: HeaderMap::new(),
        body: Bytes::copy_from_slice(body),
        request_id: String::new(),
        origin: String::new(),
        place: Arc::new(Place {
            region: "region".to_owned(),
            account: "1".to_owned(),
        }),
    };
    let body = call.json().ok()?;
    let mut config = Config::default();
    function::patch(&mut config, &Fields::of(&body).ok()?, call.dialect).ok()?;
    let function = Function {
        name: FunctionName::parse("demo/web"),
        id: "1".to_owned(),
        config,
        number: 1,
        created: Timestamp::UNIX_EPOCH,
        modified: Timestamp::UNIX_EPOCH,
        last_version: 0,
        previous: None,
        disabled: None,
    };
    Some(function::show(&function, None, &call))
}

/// The names and values of a query.
#[must_use]
pub fn query(text: &str) -> Vec<(String, String)> {
    let query = Query::parse(text);
    let all = query.behind("");
    all.map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

/// A timer's schedule.
#[derive(Debug)]
pub struct Ticks(Schedule);

impl Ticks {
    /// None where a text is no schedule.
    #[must_use]
    pub fn of(text: &str) -> Option<Self> {
        Schedule::parse(text).ok().map(Self)
    }

    /// The first tick after a time, of a timer that was set at `origin`.
    #[must_use]
    pub fn next(&self, after: i64, origin: i64) -> Option<i64> {
        let time = |second| Timestamp::from_second(second).ok();
        let next = self.0.next(time(after)?, time(origin)?)?;
        assert_eq!(next.subsec_nanosecond(), 0, "ticks are at whole seconds");
        Some(next.as_second())
    }
}
