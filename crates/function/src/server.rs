//! The host's address: API, HTTP triggers, webhooks, the host's own paths.
//!
//! ```text
//! Host: a custom domain        → a function; not at the Unix socket
//! /VERSION/proxy/…             → a function, by its HTTP trigger
//! /VERSION/…                   → the API; signed
//! /events/…                    → object events, with the trigger's id
//! /thaw/…                      → the host's own commands; by the Unix socket alone
//! /console/…                   → the console; with a session
//! ```
//!
//! Every answer carries `X-Fc-Request-Id`. What a client sends is bounded: heads by hyper and by
//! [`MAX_HEADERS`], bodies by what they are for, and the time for a head by [`HEAD_PATIENCE`].

use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::body::Incoming;
use hyper::header::{self, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use jiff::Timestamp;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use crate::api::{Call, Dialect};
use crate::auth::{Claim, Signed};
use crate::error::Refusal;
use crate::host::Host;
use crate::http::{Body, full};
use crate::invoke::MAX_EVENT;
use crate::query::Query;
use crate::{client, proxy, unique};

/// Bytes of a request's head.
const MAX_HEAD: usize = 64 << 10;
/// Headers of a request.
const MAX_HEADERS: usize = 100;
/// For how long a client may take to send a head, and between two requests of a connection.
const HEAD_PATIENCE: Duration = Duration::from_secs(75);
/// For how long a client may take to send the body of a call.
const BODY_PATIENCE: Duration = Duration::from_secs(120);
/// Bytes of a call that is no invocation.
const MAX_CALL: usize = 1 << 20;
/// For how long a client may read nothing of an answer.
const READ_PATIENCE: Duration = Duration::from_secs(75);
/// Connections at once; and those of root, which are counted apart.
const MAX_CONNECTIONS: usize = 4096;
const MAX_LOCAL: usize = 256;
/// Bytes of path and query.
const MAX_TARGET: usize = 8 << 10;

/// Who is at the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Peer {
    /// Somebody who has to sign.
    Remote,
    /// Root of this machine, at the Unix socket.
    Local,
}

/// Says that the host ends, to what would flow on for ever. A part of every request.
#[derive(Clone, Debug)]
pub(crate) struct Stop(watch::Receiver<bool>);

impl Stop {
    /// Returns when it does.
    pub(crate) async fn wait(&mut self) {
        self.0.wait_for(|stop| *stop).await.ok();
    }
}

/// Where a host listens.
#[derive(Debug)]
pub struct Listeners {
    /// For everybody.
    pub tcp: TcpListener,
    /// For root.
    pub unix: UnixListener,
}

/// Answers until `stop` says so; then requests that have begun may end within `patience`.
pub async fn serve(
    host: Arc<Host>,
    listeners: Listeners,
    stop: watch::Receiver<bool>,
    patience: Duration,
) {
    if let Ok(address) = listeners.tcp.local_addr() {
        host.address.set(address).ok();
    }
    let room = |most: usize| Arc::new(Semaphore::new(most));
    let (all, local) = (room(MAX_CONNECTIONS), room(MAX_LOCAL));
    let open = watch::Sender::new(());
    let Listeners { tcp, unix } = listeners;
    let remote = async {
        loop {
            let (permit, accepted) = (one_of(&all).await, tcp.accept().await);
            let (host, stop, open) = (Arc::clone(&host), stop.clone(), open.subscribe());
            match accepted {
                Ok((stream, _)) => {
                    stream.set_nodelay(true).ok();
                    tokio::spawn(connection(host, stream, Peer::Remote, stop, (permit, open)));
                }
                Err(error) => pause(&error).await,
            }
        }
    };
    let at_socket = async {
        loop {
            let (permit, accepted) = (one_of(&local).await, unix.accept().await);
            let (host, stop, open) = (Arc::clone(&host), stop.clone(), open.subscribe());
            match accepted {
                Ok((stream, _)) => {
                    tokio::spawn(connection(host, stream, Peer::Local, stop, (permit, open)));
                }
                Err(error) => pause(&error).await,
            }
        }
    };
    let mut stopped = stop.clone();
    tokio::select! {
        () = remote => {}
        () = at_socket => {}
        _ = stopped.wait_for(|stop| *stop) => {}
    }
    // What nobody asks for begins no more; what has begun may need an instance yet.
    host.begin_closing();
    drop((tcp, unix));
    let all_closed = open.closed();
    if tokio::time::timeout(patience, all_closed).await.is_err() {
        tracing::warn!("requests are cut off: they took too long");
    }
}

/// Room for one connection.
async fn one_of(room: &Arc<Semaphore>) -> Option<OwnedSemaphorePermit> {
    Arc::clone(room).acquire_owned().await.ok()
}

async fn pause(error: &std::io::Error) {
    tracing::warn!(%error, "cannot accept a connection");
    tokio::time::sleep(Duration::from_millis(50)).await;
}

async fn connection<S, G>(
    host: Arc<Host>,
    stream: S,
    peer: Peer,
    mut stop: watch::Receiver<bool>,
    _guard: G,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let ends = Stop(stop.clone());
    let service = service_fn(move |mut request: Request<Incoming>| {
        let host = Arc::clone(&host);
        request.extensions_mut().insert(ends.clone());
        async move { Ok::<_, Infallible>(answer(&host, request, peer).await) }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_PATIENCE)
        .max_buf_size(MAX_HEAD)
        .max_headers(MAX_HEADERS)
        .serve_connection(
            TokioIo::new(client::Read::new(stream, READ_PATIENCE)),
            service,
        )
        .with_upgrades();
    tokio::pin!(connection);
    tokio::select! {
        served = connection.as_mut() => {
            if let Err(error) = served {
                tracing::debug!(%error, "a client's connection broke off");
            }
            return;
        }
        _ = stop.wait_for(|stop| *stop) => {}
    }
    connection.as_mut().graceful_shutdown();
    connection.await.ok();
}

/// Answers one request.
async fn answer(host: &Arc<Host>, request: Request<Incoming>, peer: Peer) -> Response<Body> {
    let request_id = unique::id();
    let served = serve_one(host, request, peer, &request_id).await;
    let mut response = served.unwrap_or_else(|refusal| refused(&refusal, &request_id));
    if let Ok(id) = HeaderValue::from_str(&request_id) {
        response.headers_mut().insert("x-fc-request-id", id);
    }
    response
}

/// The answer to a request that is refused.
pub(crate) fn refused(refusal: &Refusal, request_id: &str) -> Response<Body> {
    let body = refusal.body(request_id).to_string();
    let mut response = Response::new(full(Bytes::from(body)));
    *response.status_mut() = refusal.status;
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    if refusal.status.is_server_error() || refusal.status.is_client_error() {
        headers.insert("x-fc-error-type", HeaderValue::from_static("FcCommonError"));
    }
    response
}

async fn serve_one(
    host: &Arc<Host>,
    request: Request<Incoming>,
    peer: Peer,
    request_id: &str,
) -> Result<Response<Body>, Refusal> {
    let uri = request.uri();
    let path = uri.path().to_owned();
    let length = path.len() + uri.query().map_or(0, str::len);
    if length > MAX_TARGET {
        let message = format!("path and query have {length} bytes, more than {MAX_TARGET}");
        return Err(Refusal::invalid(message));
    }
    // Root asks this host, whatever name a client of HTTP puts there.
    if peer == Peer::Remote
        && let Some(domain) = domain_of(&request)
        && let Some(place) = proxy::by_domain(host, &domain, &path, request.method())?
    {
        let trigger = proxy::trigger(host, &place, request.method())?;
        return by_trigger(host, &place, &trigger, request, peer, request_id).await;
    }
    if let Some(place) = proxy::place(&path) {
        let trigger = proxy::trigger(host, &place, request.method())?;
        let served = by_trigger(host, &place, &trigger, request, peer, request_id).await;
        return served.map(isolated);
    }
    if crate::console::is_for(request.method(), &path) {
        return Ok(crate::console::answer(host, request, request_id).await);
    }
    let segments = segments(&path)?;
    match segments.first().map(String::as_str) {
        Some("events") if *request.method() == Method::POST => {
            notified(host, request, &segments).await
        }
        Some("thaw") if peer == Peer::Local => {
            crate::admin::answer(host, request, &segments[1..]).await
        }
        Some(version) if let Some(dialect) = Dialect::of(version) => {
            let rest = segments[1..].to_vec();
            call(host, request, dialect, rest, peer, request_id).await
        }
        _ => Err(Refusal::missing(
            "PathNotFound",
            format!("there is nothing at {path}"),
        )),
    }
}

/// What a function shows in a browser is none of the console's pages, though it comes from the same
/// address: the browser treats it as an origin of its own. A custom domain is one anyway.
fn isolated(mut response: Response<Body>) -> Response<Body> {
    let policy = "sandbox allow-downloads allow-forms allow-modals allow-popups allow-scripts";
    let policy = HeaderValue::from_static(policy);
    response
        .headers_mut()
        .append(header::CONTENT_SECURITY_POLICY, policy);
    response
}

/// The segments of a path, decoded.
pub(crate) fn segments(path: &str) -> Result<Vec<String>, Refusal> {
    let decoded = path.split('/').filter(|part| !part.is_empty()).map(segment);
    let decoded: Option<_> = decoded.collect();
    decoded.ok_or_else(|| Refusal::invalid("the path has a segment that is no name in UTF-8"))
}

/// A segment, decoded; `None` where it can be no name.
pub(crate) fn segment(part: &str) -> Option<String> {
    let text = percent_encoding::percent_decode_str(part).decode_utf8();
    let text = text.ok()?.into_owned();
    let is_name = !text.contains(['/', '\0']) && !matches!(text.as_str(), "" | "." | "..");
    is_name.then_some(text)
}

/// The host name that a request is for, without the port.
fn domain_of<B>(request: &Request<B>) -> Option<String> {
    let host = request.headers().get(header::HOST)?.to_str().ok()?;
    Some(proxy::without_port(host).to_ascii_lowercase())
}

/// A request for a function's HTTP trigger.
async fn by_trigger(
    host: &Arc<Host>,
    place: &proxy::Place,
    trigger: &crate::model::Trigger,
    request: Request<Incoming>,
    peer: Peer,
    request_id: &str,
) -> Result<Response<Body>, Refusal> {
    if proxy::is_anonymous(trigger) || peer == Peer::Local || host.settings.no_auth {
        return proxy::serve(host, place, trigger, request, request_id).await;
    }
    let claim = claim(&request)?;
    if !claim.signs_body() {
        check(host, &claim, &request, "")?;
        return proxy::serve(host, place, trigger, request, request_id).await;
    }
    // Who has no key at all does not get to send a body.
    known(host, &claim)?;
    let (head, body) = request.into_parts();
    let body = read(host, body, MAX_EVENT).await?;
    let request = Request::from_parts(head, ());
    check(host, &claim, &request, &digest(&body))?;
    let request = request.map(|()| http_body_util::Full::new(body));
    proxy::serve(host, place, trigger, request, request_id).await
}

/// A call of the API.
async fn call(
    host: &Arc<Host>,
    request: Request<Incoming>,
    dialect: Dialect,
    segments: Vec<String>,
    peer: Peer,
    request_id: &str,
) -> Result<Response<Body>, Refusal> {
    let open = peer == Peer::Local || host.settings.no_auth;
    // Who has no key at all does not get to send a body.
    let claim = if open { None } else { Some(claim(&request)?) };
    if let Some(claim) = &claim {
        known(host, claim)?;
    }
    let request = receive(host, request, &segments).await?;
    if let Some(claim) = &claim {
        let digest = if claim.signs_body() {
            digest(request.body())
        } else {
            String::new()
        };
        check(host, claim, &request, &digest)?;
    }
    perform(host, request, dialect, segments, peer, request_id).await
}

/// A call of the API with all of its body.
pub(crate) async fn receive(
    host: &Host,
    request: Request<Incoming>,
    segments: &[String],
) -> Result<Request<Bytes>, Refusal> {
    let is_invocation = segments.last().is_some_and(|last| last == "invocations");
    let most = if is_invocation { MAX_EVENT } else { MAX_CALL };
    let (head, body) = request.into_parts();
    Ok(Request::from_parts(head, read(host, body, most).await?))
}

/// Carries out a call of somebody who may.
pub(crate) async fn perform(
    host: &Arc<Host>,
    request: Request<Bytes>,
    dialect: Dialect,
    segments: Vec<String>,
    peer: Peer,
    request_id: &str,
) -> Result<Response<Body>, Refusal> {
    let origin = origin(host, &request, peer);
    let (head, body) = request.into_parts();
    let call = Call {
        dialect,
        segments,
        query: Query::parse(head.uri.query().unwrap_or_default()),
        origin,
        method: head.method,
        headers: head.headers,
        body,
        request_id: request_id.to_owned(),
        place: Arc::clone(&host.place),
    };
    crate::api::answer(host, call).await
}

/// How a caller reaches the host. Root, at the socket, gets to know how others do.
fn origin<B>(host: &Host, request: &Request<B>, peer: Peer) -> String {
    if peer == Peer::Local
        && let Some(address) = host.address.get()
    {
        let loopback: IpAddr = match address {
            SocketAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        };
        let everywhere = address.ip().is_unspecified();
        let ip = if everywhere { loopback } else { address.ip() };
        return format!("http://{}", SocketAddr::new(ip, address.port()));
    }
    let named = request.headers().get(header::HOST);
    let named = named.and_then(|host| host.to_str().ok());
    format!("http://{}", named.unwrap_or("localhost"))
}

/// A body that comes in time.
pub(crate) async fn read(host: &Host, body: Incoming, most: usize) -> Result<Bytes, Refusal> {
    let read = tokio::time::timeout(BODY_PATIENCE, host.bodies.collect(body, most)).await;
    read.map_err(|_| Refusal::invalid("the body did not come in time"))?
}

fn digest(body: &[u8]) -> String {
    thaw_image::Digest::of(body).hex()
}

fn claim<B>(request: &Request<B>) -> Result<Claim, Refusal> {
    let claim = Claim::of(request.headers()).map_err(|error| denied(&error))?;
    claim.ok_or_else(|| {
        let status = hyper::StatusCode::BAD_REQUEST;
        let message = "the request is not signed: the Authorization header is missing";
        Refusal::new(status, "MissingRequiredHeader", message)
    })
}

fn denied(error: &crate::auth::AuthError) -> Refusal {
    let status = hyper::StatusCode::from_u16(error.status());
    let status = status.unwrap_or(hyper::StatusCode::FORBIDDEN);
    Refusal::new(status, error.code(), error.to_string())
}

/// The secret of the key that a claim names.
fn known(host: &Host, claim: &Claim) -> Result<String, Refusal> {
    let secret = host.keys.secret(&host.catalog, claim.key())?;
    let unknown = || denied(&crate::auth::AuthError::UnknownKey(claim.key().to_owned()));
    secret.ok_or_else(unknown)
}

/// Checks a signature.
fn check<B>(
    host: &Host,
    claim: &Claim,
    request: &Request<B>,
    body_sha256: &str,
) -> Result<(), Refusal> {
    let secret = known(host, claim)?;
    let signed = Signed {
        method: request.method().as_str(),
        path: request.uri().path(),
        query: request.uri().query().unwrap_or_default(),
        headers: request.headers(),
        body_sha256,
    };
    let now = Timestamp::now();
    claim
        .verify(&signed, &secret, now)
        .map_err(|error| denied(&error))?;
    let Some(nonce) = claim.nonce(request.headers()) else {
        return Ok(());
    };
    let mut replays = host
        .replays
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    replays
        .admit(claim.key(), &nonce, now)
        .map_err(|error| denied(&error))
}

/// A notification of an object store.
async fn notified(
    host: &Arc<Host>,
    request: Request<Incoming>,
    segments: &[String],
) -> Result<Response<Body>, Refusal> {
    let (head, body) = request.into_parts();
    let query = Query::parse(head.uri.query().unwrap_or_default());
    let names: Vec<&str> = segments[1..].iter().map(String::as_str).collect();
    let find = || crate::events::find(host, &names, &query, &head.headers);
    let found = tokio::task::block_in_place(find)?;
    let body = read(host, body, crate::events::MAX_NOTIFICATION).await?;
    let take = || crate::events::take(host, &found, &head.headers, &body);
    let taken = tokio::task::block_in_place(take)?;
    crate::api::json(&serde_json::json!({ "accepted": taken }))
}
