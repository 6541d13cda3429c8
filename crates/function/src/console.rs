//! The console: a page for browsers at the host's own address, with nothing to build and nothing to
//! load from elsewhere.
//!
//! ```text
//! /                    → /console/
//! /console/            the page; /console/sign-in where nobody is signed in
//! /console/NAME        its parts: scripts, styles, the icon
//! /console/api/…       what it asks (see `api`); with a session
//! ```
//!
//! Whoever has an access key signs in with it (`sessions`). What changes something needs the session's
//! token and has to come from the page itself (`gate`): a browser sends cookies along with whatever
//! another page makes it send. The page runs no script but its own, and puts what comes from the host
//! into the document as text only.

mod api;
mod events;
mod gate;
mod page;
mod sessions;

use std::sync::Arc;

use hyper::body::Incoming;
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};

pub(crate) use gate::{check_origin, cookie};

use crate::error::Refusal;
use crate::host::Host;
use crate::http::{Body, full};

/// Where it is.
const BASE: &str = "/console/";
const SIGN_IN: &str = "/console/sign-in";

/// Said with every answer. Scripts and styles come from files, so none within the page are allowed.
const POLICY: &str = "default-src 'self'; base-uri 'none'; object-src 'none'; form-action 'self'; \
                      frame-ancestors 'none'";

/// What a host keeps for its console.
#[derive(Debug, Default)]
pub(crate) struct Console {
    sessions: sessions::Sessions,
    events: events::Events,
}

/// Whether a request is for the console.
pub(crate) fn is_for(method: &Method, path: &str) -> bool {
    let reads = matches!(*method, Method::GET | Method::HEAD);
    path.starts_with(BASE) || (reads && matches!(path, "/" | "/console"))
}

/// Answers a request.
pub(crate) async fn answer(
    host: &Arc<Host>,
    request: Request<Incoming>,
    request_id: &str,
) -> Response<Body> {
    let served = serve(host, request, request_id).await;
    let mut response =
        served.unwrap_or_else(|refusal| crate::server::refused(&refusal, request_id));
    secure(response.headers_mut());
    response
}

async fn serve(
    host: &Arc<Host>,
    request: Request<Incoming>,
    request_id: &str,
) -> Result<Response<Body>, Refusal> {
    gate::check_host(host, request.headers())?;
    let path = request.uri().path().to_owned();
    let Some(below) = path.strip_prefix(BASE) else {
        return Ok(redirect(BASE));
    };
    if let Some(below) = below.strip_prefix("api/") {
        return api::answer(host, request, below, request_id).await;
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let message = format!("{path} is only read");
        let status = StatusCode::METHOD_NOT_ALLOWED;
        return Err(Refusal::new(status, "MethodNotAllowed", message));
    }
    let signed_in = || gate::visitor(host, request.headers()).is_ok();
    match below {
        "" if !signed_in() => Ok(redirect(SIGN_IN)),
        "sign-in" if signed_in() => Ok(redirect(BASE)),
        name => {
            let part = page::part(name).ok_or_else(|| nothing_at(&path))?;
            Ok(part.answer(request.headers()))
        }
    }
}

fn nothing_at(path: &str) -> Refusal {
    Refusal::missing("PathNotFound", format!("there is nothing at {path}"))
}

fn redirect(to: &'static str) -> Response<Body> {
    let mut response = Response::new(full(""));
    *response.status_mut() = StatusCode::SEE_OTHER;
    let headers = response.headers_mut();
    headers.insert(header::LOCATION, HeaderValue::from_static(to));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// What browsers are told of every answer.
fn secure(headers: &mut HeaderMap) {
    let mut put = |name: &'static str, value: &'static str| {
        headers.insert(name, HeaderValue::from_static(value));
    };
    put("content-security-policy", POLICY);
    put("x-content-type-options", "nosniff");
    put("referrer-policy", "same-origin");
    put("cross-origin-resource-policy", "same-origin");
    headers
        .entry(header::CACHE_CONTROL)
        .or_insert(HeaderValue::from_static("no-store"));
}
