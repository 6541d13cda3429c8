//! Wherever a request of somebody unknown leads: a path has names only, and means the same however it is written; a port changes nothing of
//! what a host means, and no function gets a name of the host's own; another site's page is never the console's.

use std::net::IpAddr;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use thaw_function::fuzz::{Sent, domain, place, segments};

type Headers<'a> = Vec<(&'a [u8], &'a [u8])>;

/// A path, and lines of `Name: value`.
fn split(data: &[u8]) -> Option<Sent<'_>> {
    let mut lines = data.split(|byte| *byte == b'\n');
    let path = str::from_utf8(lines.next()?).ok()?;
    let headers = lines.filter_map(|line| {
        let colon = line.iter().position(|byte| *byte == b':')?;
        Some((&line[..colon], line[colon + 1..].trim_ascii()))
    });
    path.starts_with('/').then(|| Sent {
        method: "POST",
        path,
        query: "",
        headers: headers.collect(),
        body: b"",
    })
}

fn encoded(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}

fn is_name(text: &str) -> bool {
    !text.contains(['/', '\0']) && !matches!(text, "" | "." | "..")
}

fn check_segments(path: &str) {
    let Some(all) = segments(path) else {
        return;
    };
    assert!(all.iter().all(|it| is_name(it)), "{all:?}");
    let parts: Vec<String> = all.iter().map(|it| encoded(it)).collect();
    assert_eq!(segments(&format!("/{}", parts.join("/"))), Some(all));
}

fn check_place(path: &str) {
    let Some([service, function, qualifier, base]) = place(path) else {
        return;
    };
    assert!(is_name(&function), "{function:?}");
    let may_be_none = base.starts_with("/2023-03-30/");
    assert!(
        is_name(&service) || (may_be_none && service.is_empty()),
        "{service:?}"
    );
    assert!(qualifier.is_empty() || is_name(&qualifier), "{qualifier:?}");
    assert!(format!("{path}/").starts_with(&base), "{base}");
    let version = match qualifier.as_str() {
        "" => String::new(),
        qualifier => format!(".{}", encoded(qualifier)),
    };
    let (first, second) = (encoded(&service), encoded(&function));
    let named = |path: String| {
        place(&path).map(|[service, function, qualifier, _]| [service, function, qualifier])
    };
    let wanted = Some([service.clone(), function.clone(), qualifier]);
    if !service.is_empty() {
        let full = format!("/2016-08-15/proxy/{first}{version}/{second}/x");
        assert_eq!(named(full), wanted);
    }
    // `$` ends a service.
    if !service.contains('$') && !function.contains('$') {
        let flat = match service.as_str() {
            "" => second,
            _ => format!("{first}%24{second}"),
        };
        assert_eq!(
            named(format!("/2023-03-30/proxy/{flat}{version}/x")),
            wanted
        );
    }
}

fn check_host(host: &str) {
    let (name, is_domain) = domain(&format!("{host}:7000"));
    assert_eq!(name, host.to_ascii_lowercase(), "with a port");
    if !host.contains(':') {
        assert_eq!(domain(host), (name.clone(), is_domain), "without one");
    }
    if is_domain {
        assert!(name.parse::<IpAddr>().is_err(), "{name}");
        let (_, last) = name.rsplit_once('.').expect("more than one label");
        // What programs take for a number they take for an address (inet_aton(3)).
        let begins = last.bytes().next().expect("no label is empty");
        assert!(begins.is_ascii_lowercase() && last != "localhost", "{name}");
    }
}

/// Headers without some, and with others.
fn with<'a>(
    headers: &Headers<'a>,
    without: &[&[u8]],
    more: &[(&'a [u8], &'a [u8])],
) -> Headers<'a> {
    let kept = headers.iter().copied();
    let kept = kept.filter(|(name, _)| !without.iter().any(|it| name.eq_ignore_ascii_case(it)));
    kept.chain(more.iter().copied()).collect()
}

fn check_gate(sent: &Sent<'_>) {
    let pairs = sent.headers.iter();
    let pairs = pairs.filter(|(name, _)| name.eq_ignore_ascii_case(b"cookie"));
    // As a server has them: other bytes are in no header that is read as text.
    let lines = pairs.filter_map(|(_, value)| str::from_utf8(value).ok());
    let lines = lines.filter(|line| {
        line.bytes()
            .all(|it| (b' '..=b'~').contains(&it) || it == b'\t')
    });
    let mut pairs = lines
        .flat_map(|line| line.split(';'))
        .filter_map(|it| it.trim().split_once('='));
    let session = pairs.find(|(name, _)| *name == "thaw-console");
    assert_eq!(sent.session().as_deref(), session.map(|(_, value)| value));

    let says: [&[u8]; 2] = [b"origin", b"sec-fetch-site"];
    let is_of_the_console = |without: &[&[u8]], more: &[(&[u8], &[u8])]| {
        let headers = with(&sent.headers, without, more);
        Sent {
            headers,
            ..sent.clone()
        }
        .is_of_the_console()
    };
    assert!(!is_of_the_console(&says, &[]), "nobody says so");
    for site in [b"cross-site".as_slice(), b"same-site", b"none"] {
        assert!(!is_of_the_console(&[says[1]], &[(says[1], site)]));
    }
    let host = (b"host".as_slice(), b"thaw.example:7000".as_slice());
    for (origin, wanted) in [
        (b"http://thaw.example:7000".as_slice(), true),
        (b"http://thaw.example", false),
        (b"http://thaw.example:7000.evil.example", false),
        (b"null", false),
    ] {
        let all = [
            host,
            (says[0], origin),
            (says[1], b"same-origin".as_slice()),
        ];
        assert_eq!(
            is_of_the_console(&[says[0], says[1], b"host"], &all),
            wanted
        );
    }
}

pub(crate) fn run(data: &[u8]) {
    let Some(sent) = split(data) else {
        return;
    };
    check_segments(sent.path);
    check_place(sent.path);
    let hosts = sent.headers.iter();
    let hosts = hosts.filter(|(name, _)| name.eq_ignore_ascii_case(b"host"));
    hosts
        .filter_map(|(_, host)| str::from_utf8(host).ok())
        .for_each(check_host);
    check_gate(&sent);
}
