//! HTTP requests: handed over as they come, and their answers as they come, other protocols too.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use serde_json::json;
use tokio::time::Instant;

use super::{MAX_EVENT, count, explain, function_status, job, note_missed, room};
use crate::client::Sent;
use crate::contract::{Purpose, strip, tell};
use crate::error::Refusal;
use crate::flow::Flow;
use crate::host::Host;
use crate::http::{Body, full};
use crate::instance::{SendError, full_disk};
use crate::model::Target;
use crate::pool::Lease;

/// Hands an HTTP request to a function; the answer flows.
///
/// # Errors
/// [`Refusal`] where the host itself cannot.
pub(crate) async fn http<B>(
    host: &Arc<Host>,
    target: &Arc<Target>,
    request: Request<B>,
    request_id: &str,
) -> Result<Response<Body>, Refusal>
where
    B: hyper::body::Body<Data = Bytes> + Send + Sync + 'static,
    B::Error: Into<crate::http::BodyError>,
{
    use http_body_util::BodyExt as _;
    if !target.config.container.is_server() {
        return Err(job::no_server(target));
    }
    let begin = Instant::now();
    host.acceleration.invoked(&target.name);
    let mut upgrade = Upgrade::wanted(&request);
    let (mut head, body) = request.into_parts();
    let client = upgrade
        .is_some()
        .then(|| head.extensions.remove::<hyper::upgrade::OnUpgrade>());
    // One that can be asked twice is, where the first instance does not answer.
    let mut again = matches!(
        head.method,
        Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE
    ) && body.is_end_stream()
        && upgrade.is_none();
    tell(
        &mut head.headers,
        target,
        &host.place,
        request_id,
        Purpose::Http,
    );
    if let Some(crate::proxy::BasePath(base)) = head.extensions.remove() {
        head.headers.insert("x-fc-base-path", base);
    }
    if let Some(upgrade) = &upgrade {
        upgrade.put(&mut head.headers);
    }
    if !body.is_end_stream() && !head.headers.contains_key(header::CONTENT_LENGTH) {
        // Else one of GET would be left out.
        let chunked = HeaderValue::from_static("chunked");
        head.headers.insert(header::TRANSFER_ENCODING, chunked);
    }
    let patience = Duration::from_secs(target.config.timeout.into());
    let (body, sending) = Sent::new(body, MAX_EVENT);
    let mut body = Some(body.boxed());
    loop {
        let mut lease = room(host, target).await?;
        let (instance, cold) = (Arc::clone(&lease.instance), lease.cold);
        let mut request = Request::new(body.take().unwrap_or_else(|| full("")));
        *request.method_mut() = head.method.clone();
        *request.uri_mut() = head.uri.clone();
        *request.headers_mut() = head.headers.clone();
        let answer = match instance.send(request, patience).await {
            Ok(answer) => answer,
            Err(SendError::Unsent(_) | SendError::Broken(_)) if again => {
                again = false;
                lease.condemn();
                continue;
            }
            Err(error) => {
                if let Some(fault) = sending.fault() {
                    return Err(fault);
                }
                lease.condemn();
                let message = explain(&instance, &error).await;
                count(
                    host,
                    target,
                    request_id,
                    cold,
                    begin.elapsed(),
                    Some(message.clone()),
                );
                return Ok(function_error(&message));
            }
        };
        let mut response = answer.response;
        let failed = function_status(response.headers()).is_some_and(|status| status >= 400);
        let is_bad = failed || response.status().is_server_error();
        let disk = (is_bad && instance.disk_is_full()).then(|| full_disk(target));
        let failed = disk.or(failed.then(|| "UnhandledInvocationError".to_owned()));
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            let server = hyper::upgrade::on(&mut response);
            if let (Some(upgrade), Some(Some(client))) = (upgrade.take(), client) {
                strip(response.headers_mut());
                upgrade.put(response.headers_mut());
                tokio::spawn(join(client, server, begin + patience, lease));
                return Ok(response.map(|_| full("")));
            }
            lease.condemn();
            return Ok(function_error("the function switched protocols unasked"));
        }
        let counted = (Arc::clone(host), Arc::clone(target), request_id.to_owned());
        let over = move |error: Option<String>| {
            let (host, target, id) = counted;
            count(&host, &target, &id, cold, begin.elapsed(), error.or(failed));
        };
        drop(note_missed(host, &lease));
        let (mut head, body) = response.into_parts();
        strip(&mut head.headers);
        let flow = Flow::new(body, begin + patience, answer.sender, lease, Box::new(over));
        return Ok(Response::from_parts(head, flow.boxed()));
    }
}

/// The answer where the function is at fault.
fn function_error(message: &str) -> Response<Body> {
    let body = json!({
        "errorMessage": message,
        "errorType": "UnhandledInvocationError",
        "ErrorCode": "UnhandledInvocationError",
        "ErrorMessage": message,
    });
    let mut response = Response::new(full(Bytes::from(body.to_string())));
    *response.status_mut() = StatusCode::BAD_GATEWAY;
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    let kind = HeaderValue::from_static("UnhandledInvocationError");
    headers.insert("x-fc-error-type", kind);
    response
}

/// Another protocol that a client wants to speak (RFC 9110, section 7.8).
struct Upgrade(HeaderValue);

impl Upgrade {
    fn wanted<B>(request: &Request<B>) -> Option<Self> {
        let headers = request.headers();
        let connection = headers.get(header::CONNECTION)?.to_str().ok()?;
        let mut words = connection.split(',').map(str::trim);
        let asked = words.any(|word| word.eq_ignore_ascii_case("upgrade"));
        headers
            .get(header::UPGRADE)
            .filter(|_| asked)
            .cloned()
            .map(Self)
    }

    fn put(&self, headers: &mut HeaderMap) {
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::UPGRADE, self.0.clone());
    }
}

/// Carries bytes both ways until one side ends, or the function's time is over.
async fn join(
    client: hyper::upgrade::OnUpgrade,
    server: hyper::upgrade::OnUpgrade,
    deadline: Instant,
    lease: Lease,
) {
    let carried = async {
        let (client, server) = tokio::try_join!(client, server)?;
        let mut client = hyper_util::rt::TokioIo::new(client);
        let mut server = hyper_util::rt::TokioIo::new(server);
        let copied = tokio::io::copy_bidirectional(&mut client, &mut server).await;
        Ok::<_, hyper::Error>(copied.is_ok())
    };
    if let Ok(Err(error)) = tokio::time::timeout_at(deadline, carried).await {
        tracing::debug!(%error, "a connection was not switched");
    }
    drop(lease);
}
