//! Nobody is let in without the secret: a request is true where we have signed it ourselves, as the clients do, and no longer when
//! anything of what is signed was changed. Queries are read the same wherever they stand.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, percent_encode};
use ring::{digest, hmac};
use thaw_function::fuzz::{Sent, query};

/// 2026-11-23T08:00:00Z.
const NOW: i64 = 1_795_420_800;
const FC_DATE: &[u8] = b"Mon, 23 Nov 2026 08:00:00 GMT";
const ACS_DATE: &[u8] = b"2026-11-23T08:00:00Z";
const SECRET: &str = "a secret of this run";
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');
/// What the server has: more is refused before it is looked at.
const MAX_TARGET: usize = 16 << 10;

type Headers<'a> = Vec<(&'a [u8], &'a [u8])>;

/// Lines as HTTP has them: `METHOD /path?query`, headers, an empty one, and the body.
fn split(data: &[u8]) -> Option<Sent<'_>> {
    let end = data.iter().position(|byte| *byte == b'\n')?;
    let (method, target) = str::from_utf8(&data[..end]).ok()?.split_once(' ')?;
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    // As whoever reads HTTP lets them through.
    let is_target = target.starts_with('/') && target.bytes().all(|it| it.is_ascii_graphic());
    let is_method = !method.is_empty() && method.bytes().all(|it| it.is_ascii_uppercase());
    let (mut headers, mut body) = (Headers::new(), &data[end + 1..]);
    while let Some(end) = body.iter().position(|byte| *byte == b'\n') {
        let line = &body[..end];
        body = &body[end + 1..];
        let Some(colon) = line.iter().position(|byte| *byte == b':') else {
            break;
        };
        headers.push((&line[..colon], line[colon + 1..].trim_ascii()));
    }
    (is_target && is_method && target.len() <= MAX_TARGET).then_some(Sent {
        method,
        path,
        query,
        headers,
        body,
    })
}

fn hmac_of(message: &[u8]) -> hmac::Tag {
    hmac::sign(
        &hmac::Key::new(hmac::HMAC_SHA256, SECRET.as_bytes()),
        message,
    )
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn sha256(bytes: &[u8]) -> String {
    hex(digest::digest(&digest::SHA256, bytes).as_ref())
}

/// `FC KEY:SIGNATURE` of a request without other headers than these.
fn fc(method: &str, path: &str, log: &[u8]) -> String {
    let head = [
        method.as_bytes(),
        b"\n\ntext/plain\n",
        FC_DATE,
        b"\nx-fc-log-type:",
        log,
    ];
    let message = [&head.concat(), b"\n".as_slice(), path.as_bytes()].concat();
    format!("FC key:{}", STANDARD.encode(hmac_of(&message)))
}

fn encoded(text: &str) -> String {
    let spaced = text.replace('+', " ");
    let decoded: Vec<u8> = percent_decode_str(&spaced).collect();
    percent_encode(&decoded, PLAIN).to_string()
}

/// Sorted by decoded keys, encoded again.
fn canonical(query: &str) -> String {
    let pieces = query.split('&').filter(|piece| !piece.is_empty());
    let pairs = pieces.map(|piece| piece.split_once('=').unwrap_or((piece, "")));
    let mut pairs: Vec<_> = pairs
        .map(|(key, value)| {
            let key: Vec<u8> = percent_decode_str(&key.replace('+', " ")).collect();
            (key, encoded(value))
        })
        .collect();
    pairs.sort_by(|a, b| a.0.cmp(&b.0));
    let pair = |(key, value): &(Vec<u8>, String)| format!("{}={value}", percent_encode(key, PLAIN));
    pairs.iter().map(pair).collect::<Vec<_>>().join("&")
}

fn acs3(sent: &Sent<'_>) -> String {
    let body = sha256(sent.body);
    let names = "x-acs-content-sha256;x-acs-date";
    let date = String::from_utf8_lossy(ACS_DATE);
    let canonical = format!(
        "{}\n{}\n{}\nx-acs-content-sha256:{body}\nx-acs-date:{date}\n\n{names}\n{body}",
        sent.method,
        sent.path,
        canonical(sent.query)
    );
    let message = format!("ACS3-HMAC-SHA256\n{}", sha256(canonical.as_bytes()));
    let tag = hex(hmac_of(message.as_bytes()).as_ref());
    format!("ACS3-HMAC-SHA256 Credential=key,SignedHeaders={names},Signature={tag}")
}

/// Signs it as FC clients do, which leave the query out unless it is a proxy's.
fn check_fc(sent: &Sent<'_>) {
    if sent.path.starts_with("/2016-08-15/proxy/") {
        return;
    }
    let claim = fc(sent.method, sent.path, b"Tail");
    let headers: Headers<'_> = vec![
        (b"authorization", claim.as_bytes()),
        (b"content-type", b"text/plain"),
        (b"date", FC_DATE),
        (b"x-fc-log-type", b"Tail"),
    ];
    let signed = Sent {
        headers,
        ..sent.clone()
    };
    check_changes(&signed);
    let mut more = signed.clone();
    more.headers.push((b"x-fc-more", b"1"));
    assert_eq!(more.signer(SECRET, NOW), None, "another of its own headers");
}

fn check_acs3(sent: &Sent<'_>) {
    let (claim, body) = (acs3(sent), sha256(sent.body));
    let headers: Headers<'_> = vec![
        (b"authorization", claim.as_bytes()),
        (b"x-acs-content-sha256", body.as_bytes()),
        (b"x-acs-date", ACS_DATE),
    ];
    let signed = Sent {
        headers,
        ..sent.clone()
    };
    check_changes(&signed);
    let longer = [sent.body, b"x"].concat();
    let changed = Sent {
        body: &longer,
        ..signed.clone()
    };
    assert_eq!(changed.signer(SECRET, NOW), None, "another body");
    let query = format!("{}&x=1", sent.query);
    let changed = Sent {
        query: &query,
        ..signed
    };
    assert_eq!(changed.signer(SECRET, NOW), None, "another query");
}

fn check_changes(signed: &Sent<'_>) {
    assert_eq!(
        signed.signer(SECRET, NOW).as_deref(),
        Some("key"),
        "{signed:?}"
    );
    assert_eq!(signed.signer("another", NOW), None);
    assert_eq!(signed.signer(SECRET, NOW + 901), None);
    let path = format!("{}x", signed.path);
    let changed = Sent {
        path: &path,
        ..signed.clone()
    };
    assert_eq!(changed.signer(SECRET, NOW), None, "another path");
    let method = if signed.method == "GET" { "PUT" } else { "GET" };
    let changed = Sent {
        method,
        ..signed.clone()
    };
    assert_eq!(changed.signer(SECRET, NOW), None, "another method");
    for left in 0..signed.headers.len() {
        let mut fewer = signed.clone();
        fewer.headers.remove(left);
        assert_eq!(fewer.signer(SECRET, NOW), None, "header {left} is gone");
    }
}

pub(crate) fn run(data: &[u8]) {
    let Some(sent) = split(data) else {
        return;
    };
    assert_eq!(sent.signer(SECRET, NOW), None, "signed by nobody");
    check_fc(&sent);
    check_acs3(&sent);
    let pairs = query(sent.query);
    let part = |text: &str| percent_encode(text.as_bytes(), PLAIN).to_string();
    let written = pairs
        .iter()
        .map(|(name, value)| format!("{}={}", part(name), part(value)));
    assert_eq!(query(&written.collect::<Vec<_>>().join("&")), pairs);
}
