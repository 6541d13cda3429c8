//! Who has sent a request: signatures of Function Compute's two schemes, checked without I/O.
//!
//! The secret belongs to an access key that only the request names, so checking has two steps with the look-up between them:
//!
//! ```text
//! Claim::of(headers) → claim.key() → (the caller looks the secret up) → claim.verify(signed, secret, now) → Replays::admit
//! ```
//!
//! - **FC** ([`fc`]): HMAC-SHA256 over method, three headers, all `x-fc-*` headers and the path. Clients do not agree on how a
//!   proxy URL is written there, so there are a few messages that the signature may be of.
//! - **ACS3** ([`acs3`]): HMAC-SHA256 over a digest of the method, path, query, body, and the headers that the claim names.
//!
//! Both carry the time of signing, which may be off by [`MAX_SKEW`]. Only ACS3 has a nonce: [`Replays`] remembers those for as long
//! as the time would let the request in again. What is compared to a secret is compared in constant time.

mod acs3;
mod fc;
mod replays;

use hyper::HeaderMap;
use hyper::header::AUTHORIZATION;
use jiff::{SignedDuration, Timestamp};

pub(crate) use replays::Replays;

/// How far the time of signing may be from ours, either way. The service's own bound.
pub(crate) const MAX_SKEW: SignedDuration = SignedDuration::from_mins(15);

/// Path and query together, in bytes. The service takes 4 KiB.
pub(crate) const MAX_TARGET_BYTES: usize = 16 << 10;

/// The `Authorization` header, in bytes.
const MAX_CLAIM_BYTES: usize = 4 << 10;

/// An access key id, in bytes.
const MAX_KEY_BYTES: usize = 128;

/// What of a request is signed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Signed<'a> {
    /// Upper case, as sent.
    pub(crate) method: &'a str,
    /// As sent: still percent-encoded, without the query.
    pub(crate) path: &'a str,
    /// As sent, without the `?`; empty when there is none.
    pub(crate) query: &'a str,
    /// All of them.
    pub(crate) headers: &'a HeaderMap,
    /// SHA-256 of the body in hexadecimal digits. Looked at only where [`Claim::signs_body`].
    pub(crate) body_sha256: &'a str,
}

/// Why a request is not let in.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum AuthError {
    /// A header that has to be there, or to be signed, is not.
    #[error("the header {0} is missing or not signed")]
    MissingHeader(String),
    /// A header that is no such header.
    #[error("the header {header} is malformed: {reason}")]
    Malformed {
        /// Its name.
        header: &'static str,
        /// What is wrong.
        reason: &'static str,
    },
    /// More than [`MAX_TARGET_BYTES`].
    #[error("path and query have {0} bytes, over the limit of {MAX_TARGET_BYTES}")]
    TargetTooLong(usize),
    /// Signed too long ago, or in the future.
    #[error(
        "the request was signed at {signed} and it is {now} here, more than 15 minutes apart: set the clock and sign again"
    )]
    Skewed {
        /// When it says it was signed.
        signed: Timestamp,
        /// Our time.
        now: Timestamp,
    },
    /// There is no such access key. For the caller, who looks it up.
    #[error("there is no access key {0}")]
    UnknownKey(String),
    /// The body is another than the signed one.
    #[error("the body does not have the digest that x-acs-content-sha256 says")]
    OtherBody,
    /// Not signed with this secret, or something was changed afterwards.
    #[error("the signature does not match the request: check the secret of the access key")]
    Mismatch,
    /// It was here before.
    #[error("the request was received before: sign each with a nonce of its own")]
    Replayed,
}

impl AuthError {
    /// The HTTP status of the answer.
    pub(crate) const fn status(&self) -> u16 {
        match self {
            Self::MissingHeader(_)
            | Self::Malformed { .. }
            | Self::TargetTooLong(_)
            | Self::Replayed => 400,
            Self::Skewed { .. } | Self::UnknownKey(_) | Self::OtherBody | Self::Mismatch => 403,
        }
    }

    /// The error code of the answer, as the service calls it.
    pub(crate) const fn code(&self) -> &'static str {
        match self {
            Self::MissingHeader(_) => "MissingRequiredHeader",
            Self::Malformed { .. } | Self::TargetTooLong(_) => "InvalidArgument",
            Self::Skewed { .. } => "AccessDenied",
            Self::UnknownKey(_) => "InvalidAccessKeyID",
            Self::OtherBody | Self::Mismatch => "SignatureNotMatch",
            Self::Replayed => "SignatureNonceUsed",
        }
    }
}

/// Whose request it says it is. Unchecked until [`Claim::verify`].
#[derive(Debug)]
pub(crate) struct Claim {
    key: String,
    scheme: Scheme,
}

#[derive(Debug)]
enum Scheme {
    Fc(fc::Signature),
    Acs3(acs3::Signature),
}

impl Claim {
    /// What the `Authorization` header claims; none where there is no such header.
    ///
    /// # Errors
    /// [`AuthError::Malformed`]: it is of no scheme that is known here.
    pub(crate) fn of(headers: &HeaderMap) -> Result<Option<Self>, AuthError> {
        let Some(text) = text(headers, AUTHORIZATION.as_str())? else {
            return Ok(None);
        };
        if text.len() > MAX_CLAIM_BYTES {
            return Err(claim("it is too long"));
        }
        let (key, scheme) = match text.split_once(' ') {
            Some(("FC", rest)) => fc::Signature::parse(rest).map(|(k, s)| (k, Scheme::Fc(s)))?,
            Some((acs3::NAME, rest)) => {
                acs3::Signature::parse(rest).map(|(k, s)| (k, Scheme::Acs3(s)))?
            }
            _ => return Err(claim("the scheme is neither FC nor ACS3-HMAC-SHA256")),
        };
        if key.is_empty() || key.len() > MAX_KEY_BYTES || !key.bytes().all(|b| b.is_ascii_graphic())
        {
            return Err(claim("there is no access key id in it"));
        }
        let key = key.to_owned();
        Ok(Some(Self { key, scheme }))
    }

    /// The access key id.
    pub(crate) fn key(&self) -> &str {
        &self.key
    }

    /// Whether the body is signed, so that [`Signed::body_sha256`] is needed.
    pub(crate) const fn signs_body(&self) -> bool {
        matches!(self.scheme, Scheme::Acs3(_))
    }

    /// What no other request of this key has, for [`Replays`]; none where the scheme has no such thing.
    pub(crate) fn nonce(&self, headers: &HeaderMap) -> Option<String> {
        match &self.scheme {
            Scheme::Fc(_) => None,
            Scheme::Acs3(signature) => Some(signature.nonce(headers)),
        }
    }

    /// Checks that the request was signed with `secret`, and lately.
    ///
    /// # Errors
    /// Any [`AuthError`] but [`AuthError::UnknownKey`] and [`AuthError::Replayed`].
    pub(crate) fn verify(
        &self,
        signed: &Signed<'_>,
        secret: &str,
        now: Timestamp,
    ) -> Result<(), AuthError> {
        let length = signed.path.len().saturating_add(signed.query.len());
        if length > MAX_TARGET_BYTES {
            return Err(AuthError::TargetTooLong(length));
        }
        match &self.scheme {
            Scheme::Fc(signature) => signature.verify(signed, secret, now),
            Scheme::Acs3(signature) => signature.verify(signed, secret, now),
        }
    }
}

const fn claim(reason: &'static str) -> AuthError {
    let header = "authorization";
    AuthError::Malformed { header, reason }
}

/// A header that may be there once, and is text.
fn text<'h>(headers: &'h HeaderMap, header: &'static str) -> Result<Option<&'h str>, AuthError> {
    let mut values = headers.get_all(header).into_iter();
    let first = values.next();
    if values.next().is_some() {
        let reason = "it is there twice";
        return Err(AuthError::Malformed { header, reason });
    }
    let reason = "it is not printable ASCII";
    first
        .map(|value| value.to_str())
        .transpose()
        .map_err(|_| AuthError::Malformed { header, reason })
}

/// A header that has to be there.
fn required<'h>(headers: &'h HeaderMap, header: &'static str) -> Result<&'h str, AuthError> {
    text(headers, header)?.ok_or_else(|| AuthError::MissingHeader(header.to_owned()))
}

fn check_time(signed: Timestamp, now: Timestamp) -> Result<(), AuthError> {
    if now.duration_since(signed).abs() > MAX_SKEW {
        return Err(AuthError::Skewed { signed, now });
    }
    Ok(())
}

/// The pieces `key[=value]` of a query, decoded; the value is none where there is no `=`.
fn decoded(query: &str) -> impl Iterator<Item = (Vec<u8>, Option<Vec<u8>>)> {
    let pieces = query.split('&').filter(|piece| !piece.is_empty());
    pieces.map(|piece| match piece.split_once('=') {
        Some((key, value)) => (decode(key), Some(decode(value))),
        None => (decode(piece), None),
    })
}

/// Percent-decoded, with `+` for a space as forms have it.
fn decode(text: &str) -> Vec<u8> {
    let spaced = text.replace('+', " ");
    percent_encoding::percent_decode_str(&spaced).collect()
}

#[cfg(test)]
mod tests;
