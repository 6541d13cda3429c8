//! Who may ask, and from where.

use std::net::IpAddr;

use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::{StatusCode, Uri};

use super::sessions::{IDLE, Visitor, same};
use crate::error::Refusal;
use crate::host::Host;

/// The name of the cookie.
const COOKIE: &str = "thaw-console";
/// The header that changes come with.
const TOKEN: &str = "x-csrf-token";

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

fn forbidden(code: &'static str, message: &str) -> Refusal {
    Refusal::new(StatusCode::FORBIDDEN, code, message)
}

/// Where nobody signs in, the console answers to addresses and `localhost` only: a page of anybody's
/// could have its own name lead here.
pub(super) fn check_host(host: &Host, headers: &HeaderMap) -> Result<(), Refusal> {
    let authority = text(headers, "host").unwrap_or_default();
    let uri: Option<Uri> = authority.parse().ok();
    let name = uri.as_ref().and_then(Uri::host).unwrap_or_default();
    let is_address = name.trim_matches(['[', ']']).parse::<IpAddr>().is_ok();
    if !host.settings.no_auth || is_address || name.eq_ignore_ascii_case("localhost") {
        return Ok(());
    }
    let message = "without sign-in (--no-auth) the console is at an address or at localhost only";
    Err(forbidden("HostNotAllowed", message))
}

/// The value of the session's cookie.
pub(crate) fn cookie(headers: &HeaderMap) -> Option<&str> {
    let all = headers.get_all(header::COOKIE).into_iter();
    let mut pairs = all
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(';'));
    pairs.find_map(|pair| pair.trim().strip_prefix(COOKIE)?.strip_prefix('='))
}

/// `Set-Cookie` of a session that begins; of one that ends where `value` is empty.
pub(super) fn set_cookie(headers: &HeaderMap, value: &str) -> Option<HeaderValue> {
    let age = if value.is_empty() { 0 } else { IDLE.as_secs() };
    let mut line =
        format!("{COOKIE}={value}; Path=/console; Max-Age={age}; HttpOnly; SameSite=Strict");
    // The host itself speaks no TLS, and a proxy's word is anybody's; the browser knows how it came.
    if text(headers, "origin").is_some_and(|origin| origin.starts_with("https://")) {
        line.push_str("; Secure");
    }
    HeaderValue::from_str(&line).ok()
}

/// Who asks.
///
/// # Errors
/// `SignInRequired`.
pub(super) fn visitor(host: &Host, headers: &HeaderMap) -> Result<Visitor, Refusal> {
    let sessions = &host.console.sessions;
    if host.settings.no_auth {
        return sessions.everybody();
    }
    let found = cookie(headers).and_then(|cookie| sessions.find(host, cookie));
    found.ok_or_else(|| {
        let message = "nobody is signed in, or not any more: sign in with an access key";
        Refusal::new(StatusCode::UNAUTHORIZED, "SignInRequired", message)
    })
}

/// That it was the console's own page which had the browser send this.
///
/// # Errors
/// `CrossSite`.
pub(crate) fn check_origin(headers: &HeaderMap) -> Result<(), Refusal> {
    let (site, origin) = (text(headers, "sec-fetch-site"), headers.get(header::ORIGIN));
    let of_this_host = |origin: &HeaderValue| {
        let origin = origin.to_str().ok().and_then(|it| it.split_once("://"));
        let host = text(headers, "host").filter(|host| !host.is_empty());
        let authority = origin.map(|(_, authority)| authority);
        host.zip(authority)
            .is_some_and(|(host, authority)| host.eq_ignore_ascii_case(authority))
    };
    let said = site.is_some() || origin.is_some();
    if said && site.is_none_or(|site| site == "same-origin") && origin.is_none_or(of_this_host) {
        return Ok(());
    }
    let message = "this did not come from the console's own page (Origin, Sec-Fetch-Site); a proxy \
                   before the host has to leave the Host header as it is";
    Err(forbidden("CrossSite", message))
}

/// That a change is meant: it comes from the page, and with the session's token.
///
/// # Errors
/// `CrossSite`, `TokenMissing`.
pub(super) fn check_change(headers: &HeaderMap, visitor: &Visitor) -> Result<(), Refusal> {
    check_origin(headers)?;
    let token = text(headers, TOKEN).unwrap_or_default();
    if same(token, &visitor.token) {
        return Ok(());
    }
    let message = "the session's token is missing or another (X-Csrf-Token): load the page again";
    Err(forbidden("TokenMissing", message))
}

/// That another site's page does not read: where the browser says who asks.
///
/// # Errors
/// `CrossSite`.
pub(super) fn check_reading(headers: &HeaderMap) -> Result<(), Refusal> {
    match text(headers, "sec-fetch-site") {
        None | Some("same-origin" | "none") => Ok(()),
        Some(_) => check_origin(headers),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(all: &[(&'static str, &str)]) -> HeaderMap {
        let pairs = all
            .iter()
            .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
        pairs.collect()
    }

    #[test]
    fn only_the_page_itself_may_change() {
        let fits = |all: &[(&'static str, &str)]| check_origin(&headers(all)).is_ok();
        assert!(fits(&[("host", "a:7000"), ("origin", "http://A:7000")]));
        assert!(fits(&[("host", "a"), ("sec-fetch-site", "same-origin")]));
        assert!(!fits(&[("host", "a")]), "somebody has to say");
        assert!(!fits(&[("origin", "http://")]));
        assert!(!fits(&[("host", "a:7000"), ("origin", "http://a:7001")]));
        assert!(!fits(&[("host", "a"), ("origin", "null")]));
        for site in ["cross-site", "same-site", "none"] {
            let origin = ("origin", "http://a");
            assert!(!fits(&[("host", "a"), origin, ("sec-fetch-site", site)]));
        }
    }

    #[test]
    fn the_cookie_is_found_among_others() {
        let found = |line| cookie(&headers(&[("cookie", line)])).map(str::to_owned);
        assert_eq!(found("a=b; thaw-console=x; c=d").as_deref(), Some("x"));
        assert_eq!(found("thaw-console2=x; xthaw-console=y"), None);
        let set = |all| set_cookie(&headers(all), "v").unwrap();
        let plain = set(&[("origin", "http://a"), ("x-forwarded-proto", "https")]);
        assert!(!plain.to_str().unwrap().contains("Secure"));
        let line = set(&[("origin", "https://a")]);
        assert!(line.to_str().unwrap().ends_with("; Secure"));
    }
}
