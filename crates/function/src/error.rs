//! What a request is refused with: Function Compute's codes, with a status and a sentence.
//!
//! Clients disagree on the names in an error's body, so each answer has them all: those of 2016
//! read `ErrorCode` and `ErrorMessage`, later ones `Code`, `Message` and `RequestId`.

use hyper::StatusCode;
use serde_json::{Value, json};

/// A request that is refused.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// The answer's status.
    pub status: StatusCode,
    /// What clients branch on.
    pub code: &'static str,
    /// What is wrong and what to do, in words.
    pub message: String,
}

impl Refusal {
    /// A refusal of any kind.
    pub(crate) fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self {
            status,
            code,
            message: message.into(),
        }
    }

    /// What was asked makes no sense.
    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "InvalidArgument", message)
    }

    /// There is none of that name. `code` is `ServiceNotFound` or one of its kin.
    pub(crate) fn missing(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, code, message)
    }

    /// It exists already, or something stands in the way.
    pub(crate) fn conflict(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, code, message)
    }

    /// Who asks may not.
    pub(crate) fn denied(message: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "AccessDenied", message)
    }

    /// More is wanted than there is, now.
    pub(crate) fn exhausted(message: impl Into<String>) -> Self {
        Self::new(StatusCode::TOO_MANY_REQUESTS, "ResourceExhausted", message)
    }

    /// The host itself failed.
    pub(crate) fn internal(message: impl Into<String>) -> Self {
        let status = StatusCode::INTERNAL_SERVER_ERROR;
        Self::new(status, "InternalServerError", message)
    }

    /// The body of the answer.
    pub(crate) fn body(&self, request_id: &str) -> Value {
        json!({
            "ErrorCode": self.code,
            "ErrorMessage": self.message,
            "Code": self.code,
            "Message": self.message,
            "RequestId": request_id,
        })
    }
}
