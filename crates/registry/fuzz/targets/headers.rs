//! Any answer, in head and body, is understood or not: whoever is asked next is asked by HTTP, the next
//! page is the registry's own and a redirect stays with TLS; a token is no secret that is printed, and
//! does not live longer than a day; and what is understood is understood again as we would write it.

use std::time::Duration;

use thaw_registry::fuzz::{Heard, hear};

const ASKED: &str = "https://registry.example/v2/team/app/tags/list?n=100";
const DAY: Duration = Duration::from_secs(24 * 3600);
/// Characters of a message.
const REASON: usize = 300;

/// Name and value.
type Header<'a> = (&'a [u8], &'a [u8]);

/// Lines of `Name: value` up to an empty one, and what is behind that.
fn split(data: &[u8]) -> (Vec<Header<'_>>, &[u8]) {
    let (mut headers, mut rest) = (Vec::new(), data);
    while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
        let line = &rest[..end];
        rest = &rest[end + 1..];
        if line.is_empty() {
            break;
        }
        if let Some(colon) = line.iter().position(|byte| *byte == b':') {
            headers.push((&line[..colon], line[colon + 1..].trim_ascii()));
        }
    }
    (headers, rest)
}

fn quoted(text: &str) -> String {
    text.replace('\\', r"\\").replace('"', "\\\"")
}

/// The same, as we would write it.
fn written(heard: &Heard) -> Vec<(&'static str, String)> {
    let mut headers = Vec::new();
    for challenge in &heard.challenges {
        let text = match challenge {
            None => "Basic".to_owned(),
            Some((realm, None)) => format!("Bearer realm=\"{}\"", quoted(realm.as_str())),
            Some((realm, Some(service))) => format!(
                "Bearer realm=\"{}\",service=\"{}\"",
                quoted(realm.as_str()),
                quoted(service)
            ),
        };
        headers.push(("www-authenticate", text));
    }
    if let Some(range) = heard.range {
        let last = range.end() - 1;
        headers.push(("content-range", format!("bytes {}-{last}/*", range.offset)));
    }
    if let Some(next) = &heard.next {
        headers.push(("link", format!("<{next}>; rel=\"next\"")));
    }
    if let Some(redirect) = &heard.redirect {
        headers.push(("location", redirect.to_string()));
    }
    if let Some(pause) = heard.pause {
        headers.push(("retry-after", pause.as_secs().to_string()));
    }
    headers
}

fn check(heard: &Heard) {
    for (realm, _) in heard.challenges.iter().flatten() {
        assert!(matches!(realm.scheme(), "http" | "https") && realm.has_host());
    }
    if let Some(range) = heard.range {
        assert!(!range.is_empty());
    }
    if let Some(next) = &heard.next {
        let here = (next.scheme(), next.host_str(), next.port_or_known_default());
        assert_eq!(here, ("https", Some("registry.example"), Some(443)));
    }
    if let Some(redirect) = &heard.redirect {
        assert!(redirect.scheme() == "https" && redirect.has_host());
    }
    if let Some((header, life)) = &heard.token {
        assert!(header.is_sensitive() && header.as_bytes().starts_with(b"Bearer "));
        assert_eq!(format!("{header:?}"), "Sensitive");
        assert!(*life <= DAY);
    }
    let reason = &heard.reason;
    assert!(!reason.is_empty() && reason.chars().count() <= REASON);
    assert!(!reason.chars().any(char::is_control));
}

pub(crate) fn run(data: &[u8]) {
    let (headers, body) = split(data);
    let heard = hear(ASKED, headers, body);
    check(&heard);
    let lines = written(&heard);
    let lines = lines
        .iter()
        .map(|(name, value)| (name.as_bytes(), value.as_bytes()));
    let again = hear(ASKED, lines, b"");
    assert_eq!(again.challenges, heard.challenges);
    assert_eq!(again.range, heard.range);
    assert_eq!(
        (&again.next, &again.redirect),
        (&heard.next, &heard.redirect)
    );
    let seconds = |pause: Option<Duration>| pause.map(|pause| pause.as_secs());
    assert_eq!(seconds(again.pause), seconds(heard.pause));
}
