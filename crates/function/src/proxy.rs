//! HTTP triggers: a function by its path, or by a domain of one's own.
//!
//! ```text
//! /2016-08-15/proxy/SERVICE[.QUALIFIER]/FUNCTION/…   the container sees all of the path
//! /2023-03-30/proxy/FUNCTION[.QUALIFIER]/…           the same for functions without a service
//! Host: a custom domain                              the container sees the path behind the host
//! ```

use std::sync::Arc;

use bytes::Bytes;
use hyper::header::{self, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};

use crate::catalog::function_key;
use crate::error::Refusal;
use crate::host::Host;
use crate::http::{Body, BodyError};
use crate::model::{FunctionName, Route, Trigger, TriggerKind};
use crate::server::segment;

/// The path of a function's HTTP trigger.
pub(crate) fn path(trigger: &Trigger) -> String {
    let name = &trigger.function;
    let qualified = |name: &str| match trigger.qualifier.as_str() {
        "" => name.to_owned(),
        qualifier => format!("{name}.{qualifier}"),
    };
    match name.service.as_str() {
        "" => format!("/2023-03-30/proxy/{}/", qualified(&name.function)),
        service => format!(
            "/2016-08-15/proxy/{}/{}/",
            qualified(service),
            name.function
        ),
    }
}

/// A function that a path names, and where its own part of the path begins.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) name: FunctionName,
    pub(crate) qualifier: String,
    /// Ends with `/`.
    pub(crate) base: String,
}

/// Reads a path; `None` where it names no function this way.
pub(crate) fn place(path: &str) -> Option<Place> {
    let mut segments = path.splitn(6, '/');
    let (_, version, proxy) = (segments.next()?, segments.next()?, segments.next()?);
    if proxy != "proxy" {
        return None;
    }
    let first = segments.next()?;
    let (name, qualifier) = first.split_once('.').unwrap_or((first, ""));
    let (name, base) = match version {
        "2016-08-15" | "2021-04-06" => {
            let function = segments.next()?;
            let base = format!("/{version}/proxy/{first}/{function}/");
            (
                crate::api::full_name(&segment(name)?, &segment(function)?),
                base,
            )
        }
        "2023-03-30" => {
            let base = format!("/{version}/proxy/{first}/");
            (crate::api::flat_name(&segment(name)?), base)
        }
        _ => return None,
    };
    let qualifier = match qualifier {
        "" => String::new(),
        qualifier => segment(qualifier)?,
    };
    (!name.function.is_empty()).then_some(Place {
        name,
        qualifier,
        base,
    })
}

/// The HTTP trigger of a function's version.
///
/// # Errors
/// `TriggerNotFound`, or a method that it does not take.
pub(crate) fn trigger(host: &Host, place: &Place, method: &Method) -> Result<Trigger, Refusal> {
    let triggers = host
        .triggers
        .get(&host.catalog, place.name.clone(), |name| {
            let all: Vec<Trigger> = host.catalog.list(&format!("{}/", function_key(name)))?;
            let is_http = |it: &Trigger| matches!(it.kind, TriggerKind::Http { .. });
            Ok(all.into_iter().filter(is_http).collect())
        })?;
    let latest = |qualifier: &str| qualifier.is_empty() || qualifier == crate::model::LATEST;
    let of_version = |trigger: &&Trigger| {
        trigger.qualifier == place.qualifier
            || (latest(&trigger.qualifier) && latest(&place.qualifier))
    };
    let mut http = triggers.iter().filter(of_version);
    let found = http.find_map(|trigger| match &trigger.kind {
        TriggerKind::Http { methods, .. } => Some((trigger, methods)),
        _ => None,
    });
    let Some((trigger, methods)) = found else {
        host.function(&place.name, "")?;
        let message = format!("function '{}' has no HTTP trigger", place.name);
        return Err(Refusal::missing("TriggerNotFound", message));
    };
    check_method(methods, method)?;
    Ok(trigger.clone())
}

fn check_method(methods: &[String], method: &Method) -> Result<(), Refusal> {
    if methods.is_empty() || methods.iter().any(|it| it == method.as_str()) {
        return Ok(());
    }
    let message = format!(
        "method {method} is not among the trigger's: {}",
        methods.join(", ")
    );
    Err(Refusal::new(
        StatusCode::FORBIDDEN,
        "MethodNotAllowed",
        message,
    ))
}

/// Whether a trigger takes requests without a signature.
pub(crate) fn is_anonymous(trigger: &Trigger) -> bool {
    matches!(trigger.kind, TriggerKind::Http { anonymous, .. } if anonymous)
}

/// Hands a request on to the function that its path names.
pub(crate) async fn serve<B>(
    host: &Arc<Host>,
    place: &Place,
    trigger: &Trigger,
    mut request: Request<B>,
    request_id: &str,
) -> Result<Response<Body>, Refusal>
where
    B: hyper::body::Body<Data = Bytes> + Send + Sync + 'static,
    B::Error: Into<BodyError>,
{
    let qualifier = match trigger.qualifier.as_str() {
        "" => place.qualifier.as_str(),
        qualifier => qualifier,
    };
    let target = host.target(&place.name, qualifier)?;
    let base = HeaderValue::from_str(&place.base).ok();
    request.headers_mut().remove(header::AUTHORIZATION);
    let response = crate::invoke::http(host, &target, with_base(request, base), request_id);
    response.await
}

/// `x-fc-base-path` is put in by the host alone; it travels as an extension until then.
fn with_base<B>(mut request: Request<B>, base: Option<HeaderValue>) -> Request<B> {
    if let Some(base) = base {
        request.extensions_mut().insert(BasePath(base));
    }
    request
}

/// What `x-fc-base-path` says.
#[derive(Clone, Debug)]
pub(crate) struct BasePath(pub(crate) HeaderValue);

/// A host as requests name it, without the port.
pub(crate) fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        // The last colon of an address in brackets is none before a port.
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    }
}

/// Whether a function can have that name: a host name (RFC 1123, section 2.1) in lower case that is none of the
/// host's own. Those are addresses, in whichever way they are written, names below `localhost`
/// (RFC 6761, section 6.3), and names of one label, by which machines of a network call each other.
pub(crate) fn is_domain(name: &str) -> bool {
    let label = |label: &str| {
        let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        (1..=63).contains(&label.len()) && label.chars().all(inner) && !label.starts_with('-')
    };
    let Some((_, last)) = name.rsplit_once('.') else {
        return false;
    };
    let is_address = !last.starts_with(|c: char| c.is_ascii_lowercase());
    name.len() <= 253 && name.split('.').all(label) && !is_address && last != "localhost"
}

/// The route of a domain that a path takes: the longest that fits.
pub(crate) fn route<'a>(routes: &'a [Route], path: &str) -> Option<&'a Route> {
    let fits = |route: &&Route| match route.path.strip_suffix('*') {
        Some(prefix) => path.starts_with(prefix) || format!("{path}/") == prefix,
        None => path == route.path,
    };
    routes
        .iter()
        .filter(fits)
        .max_by_key(|route| route.path.len())
}

/// The function that a domain leads to, if the domain is one of the host's.
///
/// # Errors
/// That the domain has no route for the path, or not for the method.
pub(crate) fn by_domain(
    host: &Host,
    domain: &str,
    path: &str,
    method: &Method,
) -> Result<Option<Place>, Refusal> {
    let Some(domain) = host.domain(domain)? else {
        return Ok(None);
    };
    let Some(route) = route(&domain.routes, path) else {
        let message = format!("domain '{}' has no route for {path}", domain.name);
        return Err(Refusal::missing("RouteNotFound", message));
    };
    check_method(&route.methods, method)?;
    Ok(Some(Place {
        name: route.function.clone(),
        qualifier: route.qualifier.clone(),
        base: "/".to_owned(),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_names_a_function_and_a_version() {
        let read = |path: &str| {
            let place = place(path)?;
            Some((place.name.to_string(), place.qualifier, place.base))
        };
        let some = |name: &str, qualifier: &str, base: &str| {
            Some((name.to_owned(), qualifier.to_owned(), base.to_owned()))
        };
        let base = "/2016-08-15/proxy/demo.1/web/";
        assert_eq!(
            read("/2016-08-15/proxy/demo.1/web/a/b"),
            some("demo/web", "1", base)
        );
        let base = "/2016-08-15/proxy/demo/web/";
        assert_eq!(
            read("/2016-08-15/proxy/demo/web"),
            some("demo/web", "", base)
        );
        let base = "/2023-03-30/proxy/web.prod/";
        assert_eq!(
            read("/2023-03-30/proxy/web.prod/x"),
            some("web", "prod", base)
        );
        assert_eq!(read("/2016-08-15/services/demo"), None);
        assert_eq!(read("/2016-08-15/proxy/demo"), None);
        for nameless in [
            "//web/",
            "/demo//",
            "/a%2fb/web/",
            "/demo/%2e%2e/",
            "/demo/%ff/",
            "/a%00/b",
        ] {
            assert_eq!(read(&format!("/2016-08-15/proxy{nameless}")), None);
        }
        assert_eq!(read("/2023-03-30/proxy//x"), None);
        assert_eq!(read("/2023-03-30/proxy/demo$/x"), None);
    }

    #[test]
    fn a_host_has_a_name_and_perhaps_a_port() {
        for (host, name) in [
            ("a.example", "a.example"),
            ("a.example:80", "a.example"),
            ("a.example:", "a.example"),
            ("[::1]", "[::1]"),
            ("[::1]:80", "[::1]"),
        ] {
            assert_eq!(without_port(host), name, "{host}");
        }
    }

    #[test]
    fn the_host_s_own_names_are_no_domains() {
        for name in ["a.example", "1.2.example", "xn--a.example", "a-b.c.d0"] {
            assert!(is_domain(name), "{name}");
        }
        for name in [
            "",
            "box",
            "localhost",
            "a.localhost",
            "127.0.0.1",
            "127.1",
            "0x7f.1",
            "0x7f.0x1",
            "[::1]",
            "a.1",
            "a.example.",
            "A.example",
            "-a.example",
            "a..b",
            "a_b.example",
        ] {
            assert!(!is_domain(name), "{name}");
        }
    }

    #[test]
    fn the_longest_route_wins() {
        let route_to = |path: &str, function: &str| Route {
            path: path.to_owned(),
            function: FunctionName::parse(function),
            qualifier: String::new(),
            methods: Vec::new(),
        };
        let routes = [
            route_to("/*", "a"),
            route_to("/api/*", "b"),
            route_to("/api/x", "c"),
        ];
        let to = |path| route(&routes, path).map(|route| route.function.function.as_str());
        assert_eq!(to("/"), Some("a"));
        assert_eq!(to("/api/y"), Some("b"));
        assert_eq!(to("/api"), Some("b"));
        assert_eq!(to("/api/x"), Some("c"));
        assert_eq!(route(&routes[2..], "/other"), None);
    }
}
