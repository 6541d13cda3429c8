//! The scheme `FC AK:SIG`.
//!
//! ```text
//! METHOD ⏎ Content-MD5 ⏎ Content-Type ⏎ Date ⏎ (name:value ⏎ of each x-fc-*, sorted) PATH
//! ```
//!
//! without the query. Where the path is a proxy URL, the query follows: `PATH ⏎ key=value ⏎ key=value`, decoded. Clients write that
//! in several ways (the path as sent or decoded, the query sorted or as given, an empty value with and without `=`), and the
//! signature may be of any of them.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use jiff::fmt::rfc2822::DateTimeParser;
use ring::hmac;

use super::{AuthError, Signed, check_time, claim, decoded, required, text};

/// What the URLs of HTTP triggers begin with.
const PROXY: &str = "/2016-08-15/proxy/";

/// What their names begin with that are all signed.
const PREFIX: &str = "x-fc-";

/// What comes behind the access key id.
#[derive(Debug)]
pub(super) struct Signature(Vec<u8>);

impl Signature {
    /// Of `AK:SIG`.
    pub(super) fn parse(text: &str) -> Result<(&str, Self), AuthError> {
        let (key, signature) = text.split_once(':').ok_or(claim(
            "there is no colon between access key id and signature",
        ))?;
        let bytes = STANDARD.decode(signature);
        let bytes = bytes.map_err(|_| claim("the signature is not base64"))?;
        Ok((key, Self(bytes)))
    }

    pub(super) fn verify(
        &self,
        signed: &Signed<'_>,
        secret: &str,
        now: Timestamp,
    ) -> Result<(), AuthError> {
        let date = required(signed.headers, "date")?;
        let (header, reason) = ("date", "it is not like Mon, 23 Nov 2026 08:00:00 GMT");
        let time = DateTimeParser::new()
            .parse_timestamp(date)
            .map_err(|_| AuthError::Malformed { header, reason })?;
        check_time(time, now)?;
        let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
        let head = head(signed, date)?;
        let matches = resources(signed)
            .iter()
            .any(|resource| hmac::verify(&key, &[&head[..], resource].concat(), &self.0).is_ok());
        matches.then_some(()).ok_or(AuthError::Mismatch)
    }
}

/// All that is signed before the path.
fn head(signed: &Signed<'_>, date: &str) -> Result<Vec<u8>, AuthError> {
    let md5 = text(signed.headers, "content-md5")?.unwrap_or_default();
    let kind = text(signed.headers, "content-type")?.unwrap_or_default();
    let mut head = format!("{}\n{md5}\n{kind}\n{date}\n", signed.method).into_bytes();
    let mut named: Vec<_> = signed
        .headers
        .iter()
        .filter(|(name, _)| name.as_str().starts_with(PREFIX))
        .collect();
    // Stable: a header that is there twice keeps its order.
    named.sort_by_key(|(name, _)| name.as_str());
    for (name, value) in named {
        head.extend_from_slice(name.as_str().as_bytes());
        head.push(b':');
        head.extend_from_slice(value.as_bytes());
        head.push(b'\n');
    }
    Ok(head)
}

/// The ways to write what is asked for: at most twelve.
fn resources(signed: &Signed<'_>) -> Vec<Vec<u8>> {
    let mut paths = vec![signed.path.as_bytes().to_vec()];
    if !signed.path.starts_with(PROXY) {
        return paths;
    }
    let plain: Vec<u8> = percent_encoding::percent_decode_str(signed.path).collect();
    // With a line feed in the path, path and query of another request could read the same.
    if plain != paths[0] && !plain.contains(&b'\n') {
        paths.push(plain);
    }
    let queries = queries(signed.query);
    let pairs = paths
        .iter()
        .flat_map(|path| queries.iter().map(move |query| (path, query)));
    pairs
        .map(|(path, query)| [path.as_slice(), b"\n", query].concat())
        .collect()
}

/// How an empty value is written.
#[derive(Clone, Copy)]
enum Empty {
    AsSent,
    Bare,
    Equals,
}

/// The ways to write a query: at most six.
fn queries(query: &str) -> Vec<Vec<u8>> {
    let mut ways: Vec<Vec<u8>> = Vec::new();
    for empty in [Empty::AsSent, Empty::Bare, Empty::Equals] {
        let given = lines(query, empty);
        let mut sorted = given.clone();
        sorted.sort();
        for way in [sorted, given].map(|lines| lines.join(&b'\n')) {
            if !ways.contains(&way) {
                ways.push(way);
            }
        }
    }
    ways
}

fn lines(query: &str, empty: Empty) -> Vec<Vec<u8>> {
    let line = |(key, value): (Vec<u8>, Option<Vec<u8>>)| {
        let value = match (value, empty) {
            (None, Empty::Equals) => Some(Vec::new()),
            (Some(value), Empty::Bare) if value.is_empty() => None,
            (value, _) => value,
        };
        match value {
            Some(value) => [&key[..], b"=", &value].concat(),
            None => key,
        }
    };
    decoded(query).map(line).collect()
}
