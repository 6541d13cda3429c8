//! What answers and failures say: numbers, pauses, and reasons for people.

use std::error::Error as StdError;
use std::time::Duration;

use reqwest::StatusCode;
use reqwest::header::{DATE, HeaderMap, HeaderName, RETRY_AFTER};
use serde::Deserialize;

pub(crate) fn header_number(headers: &HeaderMap, name: &HeaderName) -> Option<u64> {
    headers.get(name)?.to_str().ok()?.trim().parse().ok()
}

/// How long a server wants to be left alone: `Retry-After` in seconds or as a date (RFC 9110,
/// section 10.2.3). A date is held against the server's own clock where it tells that: ours may
/// be wrong.
pub(crate) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    if let Some(seconds) = header_number(headers, &RETRY_AFTER) {
        return Some(Duration::from_secs(seconds));
    }
    let date = |name| {
        let text = headers.get(name)?.to_str().ok()?;
        let parser = jiff::fmt::rfc2822::DateTimeParser::new();
        parser.parse_timestamp(text).ok()
    };
    let then = date(RETRY_AFTER)?;
    let now = date(DATE).unwrap_or_else(jiff::Timestamp::now);
    let pause = Duration::try_from(then.duration_since(now));
    Some(pause.unwrap_or(Duration::ZERO))
}

pub(crate) fn find_tls_error<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a rustls::Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(tls) = error.downcast_ref::<rustls::Error>() {
            return Some(tls);
        }
        // An io::Error shows the source of what it wraps and hides the wrapped itself.
        let wrapped = error
            .downcast_ref::<std::io::Error>()
            .and_then(std::io::Error::get_ref);
        next = match wrapped {
            Some(inner) => Some(inner as &(dyn StdError + 'static)),
            None => error.source(),
        };
    }
    None
}

/// Whether the next handshake may succeed where this one failed: the server had trouble of its own, as
/// one that is just being reloaded, or bytes were damaged on their way. Whatever else is said of
/// certificates, versions and messages will be said again.
pub(crate) const fn is_passing(tls: &rustls::Error) -> bool {
    use rustls::AlertDescription as Alert;
    matches!(
        tls,
        rustls::Error::DecryptError
            | rustls::Error::AlertReceived(
                Alert::InternalError | Alert::UserCanceled | Alert::BadRecordMac
            )
    )
}

/// Whether a server says that it does not like the certificate that it was shown, or that there is
/// none. It may say so after the handshake, and by then only the text of the alert is left.
pub(crate) fn refuses_client(reason: &str) -> bool {
    reason
        .strip_prefix("received fatal alert: ")
        .is_some_and(|alert| {
            alert.contains("Certificate") || matches!(alert, "UnknownCA" | "AccessDenied")
        })
}

pub(crate) fn root_cause(error: &reqwest::Error) -> String {
    let mut cause: &dyn StdError = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    printable(&cause.to_string())
}

/// The errors that a registry names (OCI distribution-spec, "Error Codes"), or the text.
pub(crate) fn explain(status: StatusCode, body: &[u8]) -> String {
    #[derive(Deserialize)]
    struct Errors {
        errors: Vec<Entry>,
    }
    #[derive(Deserialize)]
    struct Entry {
        #[serde(default)]
        code: String,
        #[serde(default)]
        message: String,
    }
    let text = match serde_json::from_slice::<Errors>(body) {
        Ok(list) => {
            let entries = list.errors.iter().take(4);
            let texts: Vec<_> = entries
                .map(|entry| format!("{} {}", entry.code, entry.message))
                .collect();
            texts.join(", ")
        }
        Err(_) => String::from_utf8_lossy(body).trim().to_owned(),
    };
    // Only then: what cannot be shown may be all there is.
    let text = printable(&text);
    match text.is_empty() {
        true => status.canonical_reason().unwrap_or("no reason").to_owned(),
        false => text,
    }
}

/// Text from outside, cut and without what could fool a terminal.
pub(crate) fn printable(text: &str) -> String {
    let clean = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    let clean = clean.skip_while(|c| c.is_whitespace()).take(300);
    clean.collect::<String>().trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use reqwest::header::HeaderValue;

    use super::*;

    #[test]
    fn pauses_are_seconds_or_dates() {
        let read = |after: &'static str, date: Option<&'static str>| {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, HeaderValue::from_static(after));
            headers.extend(date.map(|date| (DATE, HeaderValue::from_static(date))));
            retry_after(&headers).map(|pause| pause.as_secs())
        };
        let now = Some("Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(read("120", None), Some(120));
        assert_eq!(read("Sun, 06 Nov 1994 08:51:07 GMT", now), Some(90));
        assert_eq!(read("Sun, 06 Nov 1994 08:00:00 GMT", now), Some(0));
        assert_eq!(read("Sun, 06 Nov 1994 08:51:07 GMT", None), Some(0));
        let far = read("Wed, 06 Nov 2999 08:49:37 GMT", None);
        assert!(far.is_some_and(|seconds| seconds > 1 << 30), "{far:?}");
        for bad in ["", "-1", "soon", "Sun, 99 Nov 1994 08:51:07 GMT"] {
            assert_eq!(read(bad, now), None, "{bad}");
        }
    }

    #[test]
    fn reasons_are_short_and_clean() {
        let body = br#"{"errors":[{"code":"DENIED","message":"no\u001b[2J","detail":{}}]}"#;
        assert_eq!(explain(StatusCode::FORBIDDEN, body), "DENIED no [2J");
        for empty in [&b""[..], b" \n", b"\x01\x1b", &[b' '; 400]] {
            assert_eq!(explain(StatusCode::NOT_FOUND, empty), "Not Found");
        }
        let late = [&[0; 400][..], b"late"].concat();
        assert_eq!(explain(StatusCode::NOT_FOUND, &late), "late");
        assert_eq!(explain(StatusCode::NOT_FOUND, &[b'x'; 9000]).len(), 300);
    }
}
