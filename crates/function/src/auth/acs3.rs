//! The scheme `ACS3-HMAC-SHA256 Credential=AK,SignedHeaders=a;b,Signature=SIG`.
//!
//! ```text
//! ACS3-HMAC-SHA256 ⏎ hex SHA-256 of: METHOD ⏎ PATH ⏎ QUERY ⏎ (name:value ⏎ of each signed header) ⏎ a;b ⏎ hex SHA-256 of the body
//! ```
//!
//! with the query sorted by key and its values encoded again. The headers are those that the claim names; date and digest of the body
//! have to be among them, or they would protect nothing.

use hyper::HeaderMap;
use jiff::Timestamp;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};
use ring::{digest, hmac};

use super::{AuthError, Signed, check_time, claim, decoded, required, text};

/// The scheme's name, which is signed too.
pub(super) const NAME: &str = "ACS3-HMAC-SHA256";

const DATE: &str = "x-acs-date";
const BODY: &str = "x-acs-content-sha256";
const NONCE: &str = "x-acs-signature-nonce";

/// A nonce, in bytes; clients send 32 to 64.
const MAX_NONCE_BYTES: usize = 256;

/// How many headers may be signed.
const MAX_HEADERS: usize = 100;

/// What RFC 3986 does not leave as it is.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// What comes behind the access key id.
#[derive(Debug)]
pub(super) struct Signature {
    /// Names of headers, lower case, as listed.
    headers: Vec<String>,
    bytes: Vec<u8>,
}

impl Signature {
    /// Of `Credential=AK,SignedHeaders=a;b,Signature=SIG`, in any order.
    pub(super) fn parse(text: &str) -> Result<(&str, Self), AuthError> {
        let (mut key, mut headers, mut signature) = (None, None, None);
        for part in text.split(',') {
            let (name, value) = part.trim().split_once('=').unwrap_or_default();
            let place = match name {
                "Credential" => &mut key,
                "SignedHeaders" => &mut headers,
                "Signature" => &mut signature,
                _ => return Err(claim("it has other parts than this scheme has")),
            };
            if place.replace(value).is_some() {
                return Err(claim("a part of it is there twice"));
            }
        }
        let (Some(key), Some(headers), Some(signature)) = (key, headers, signature) else {
            return Err(claim("Credential, SignedHeaders or Signature is missing"));
        };
        let (headers, bytes) = (names(headers)?, unhex(signature)?);
        Ok((key, Self { headers, bytes }))
    }

    /// The signed nonce; without one the signature, which only the very same request has.
    pub(super) fn nonce(&self, headers: &HeaderMap) -> String {
        let sent = self.signs(NONCE).then(|| text(headers, NONCE).ok());
        match sent.flatten().flatten() {
            Some(nonce) => nonce.to_owned(),
            None => hex(&self.bytes),
        }
    }

    pub(super) fn verify(
        &self,
        signed: &Signed<'_>,
        secret: &str,
        now: Timestamp,
    ) -> Result<(), AuthError> {
        if let Some(name) = [DATE, BODY].into_iter().find(|name| !self.signs(name)) {
            return Err(AuthError::MissingHeader(name.to_owned()));
        }
        let (header, reason) = (DATE, "it is not like 2026-11-23T08:00:00Z");
        let time = required(signed.headers, DATE)?
            .parse()
            .map_err(|_| AuthError::Malformed { header, reason })?;
        check_time(time, now)?;
        if text(signed.headers, NONCE)?.is_some_and(|nonce| nonce.len() > MAX_NONCE_BYTES) {
            let (header, reason) = (NONCE, "it is too long");
            return Err(AuthError::Malformed { header, reason });
        }
        let body = required(signed.headers, BODY)?;
        if !body.eq_ignore_ascii_case(signed.body_sha256) {
            return Err(AuthError::OtherBody);
        }
        let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
        let tail = self.tail(signed.headers, body)?;
        let matches = queries(signed.query).iter().any(|query| {
            let path = if signed.path.is_empty() {
                "/"
            } else {
                signed.path
            };
            let line = format!("{}\n{path}\n", signed.method);
            let canonical = [line.as_bytes(), query, &tail].concat();
            let digest = digest::digest(&digest::SHA256, &canonical);
            let message = format!("{NAME}\n{}", hex(digest.as_ref()));
            hmac::verify(&key, message.as_bytes(), &self.bytes).is_ok()
        });
        matches.then_some(()).ok_or(AuthError::Mismatch)
    }

    fn signs(&self, name: &str) -> bool {
        self.headers.iter().any(|header| header == name)
    }

    /// All that is signed behind the query.
    fn tail(&self, headers: &HeaderMap, body: &str) -> Result<Vec<u8>, AuthError> {
        let mut tail = b"\n".to_vec();
        for name in &self.headers {
            let mut values = headers.get_all(name).into_iter();
            let first = values
                .next()
                .ok_or_else(|| AuthError::MissingHeader(name.clone()))?;
            tail.extend_from_slice(name.as_bytes());
            tail.push(b':');
            tail.extend_from_slice(first.as_bytes().trim_ascii());
            for value in values {
                tail.push(b',');
                tail.extend_from_slice(value.as_bytes().trim_ascii());
            }
            tail.push(b'\n');
        }
        tail.extend_from_slice(format!("\n{}\n{body}", self.headers.join(";")).as_bytes());
        Ok(tail)
    }
}

/// Of `a;b`.
fn names(list: &str) -> Result<Vec<String>, AuthError> {
    let mut names: Vec<String> = Vec::new();
    for name in list.split(';') {
        let legal = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_.".contains(&b);
        if name.is_empty() || !name.bytes().all(legal) || names.iter().any(|n| n == name) {
            return Err(claim("SignedHeaders is not a list of lower-case names"));
        }
        if names.len() == MAX_HEADERS {
            return Err(claim("SignedHeaders has too many names"));
        }
        names.push(name.to_owned());
    }
    Ok(names)
}

/// The ways to write a query: clients encode the values and leave the keys, or encode both.
fn queries(query: &str) -> Vec<Vec<u8>> {
    let mut pairs: Vec<(Vec<u8>, Vec<u8>)> = decoded(query)
        .map(|(key, value)| (key, value.unwrap_or_default()))
        .collect();
    // Stable: values of one key keep their order.
    pairs.sort_by(|(a, _), (b, _)| a.cmp(b));
    let join = |key: fn(&[u8]) -> Vec<u8>| {
        let line = |(k, v): &(Vec<u8>, Vec<u8>)| [&key(k)[..], b"=", &encoded(v)].concat();
        pairs.iter().map(line).collect::<Vec<_>>().join(&b'&')
    };
    let mut ways = vec![join(encoded)];
    // A key with a separator in it could be read as two.
    let separates = |byte: &u8| b"&=\n".contains(byte);
    let plain = join(<[u8]>::to_vec);
    if plain != ways[0] && !pairs.iter().any(|(key, _)| key.iter().any(separates)) {
        ways.push(plain);
    }
    ways
}

fn encoded(bytes: &[u8]) -> Vec<u8> {
    percent_encode(bytes, RESERVED).to_string().into_bytes()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Result<Vec<u8>, AuthError> {
    let digit = |byte: u8| {
        char::from(byte)
            .to_digit(16)
            .and_then(|d| u8::try_from(d).ok())
    };
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    let bytes = pairs
        .iter()
        .map(|[a, b]| Some(digit(*a)? << 4 | digit(*b)?));
    let bytes: Option<Vec<u8>> = bytes.collect();
    bytes
        .filter(|bytes| rest.is_empty() && bytes.len() == digest::SHA256_OUTPUT_LEN)
        .ok_or(claim("the signature is not 64 hexadecimal digits"))
}
