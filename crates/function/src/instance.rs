//! One running container of a function: connections into it, its sleep, its end.
//!
//! ```text
//! container started ─ a port answers ─ health check ─ /initialize ─▶ ready ⇄ frozen ─ /pre-stop ─ ended
//! ```
//!
//! Connections are kept and used again. A request that could not be sent on a kept one, because the
//! server has closed it meanwhile, is sent on a fresh one: it was not seen by anybody.

use std::path::PathBuf;
use std::process::Child;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{Method, Request, Response, Version};
use hyper_util::rt::TokioIo;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use thaw_node::container::{Cgroup, Container, Phase};
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;

use crate::contract::{Place, Purpose, tell};
use crate::fleet::SetAside;
use crate::http::{Body, full};
use crate::logs::Tail;
use crate::machine::{Reach, Started};
use crate::model::{Hook, Target};
use crate::reach::Connector;
use crate::unique;

/// Kept connections of one instance.
const MAX_KEPT: usize = 256;

/// How a container has ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct End {
    /// Its exit code; `None`: unknown.
    pub(crate) code: Option<i32>,
    /// Whether the kernel has killed it for want of memory.
    pub(crate) out_of_memory: bool,
    /// Whether its disk was full then.
    pub(crate) disk_full: bool,
    /// The most bytes of memory that it had.
    pub(crate) peak_memory: Option<u64>,
}

/// Why a request got no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SendError {
    /// Nothing of it was seen by the container.
    #[error("the container cannot be reached: {0}")]
    Unsent(String),
    /// It may have been.
    #[error("the container broke off: {0}")]
    Broken(String),
    /// No answer within the function's time.
    #[error("no answer within {} s", .0.as_secs())]
    TimedOut(Duration),
}

/// A container that answers.
#[derive(Debug)]
pub(crate) struct Instance {
    /// Of the container.
    pub(crate) id: String,
    pub(crate) target: Arc<Target>,
    pub(crate) started: Parts,
    connector: Connector,
    place: Arc<Place>,
    kept: Mutex<Vec<SendRequest<Body>>>,
    /// Whether it is frozen.
    asleep: tokio::sync::Mutex<bool>,
    ended: watch::Receiver<Option<End>>,
    answered: AtomicU64,
    memory_kills: AtomicU64,
    /// Given back when it is gone.
    _memory: Option<SetAside>,
}

/// What stays of a [`Started`] container.
#[derive(Debug)]
pub(crate) struct Parts {
    reach: Option<Arc<Reach>>,
    cgroup: Option<Cgroup>,
    pub(crate) dir: PathBuf,
    pub(crate) way: thaw_node::Way,
    pub(crate) spans: Vec<thaw_node::Span>,
}

impl Instance {
    /// Takes a container that was started in hand. Called within the runtime.
    pub(crate) fn new(
        started: Started,
        target: Arc<Target>,
        connector: Connector,
        place: Arc<Place>,
        memory: Option<SetAside>,
    ) -> Arc<Self> {
        let (end, ended) = watch::channel(None);
        if let Some(monitor) = started.monitor {
            tokio::spawn(watch_end(monitor, started.dir.clone(), end));
        }
        Arc::new(Self {
            id: started.id,
            target,
            started: Parts {
                reach: started.reach.map(Arc::new),
                cgroup: started.cgroup,
                dir: started.dir,
                way: started.way,
                spans: started.spans,
            },
            connector,
            place,
            kept: Mutex::default(),
            asleep: tokio::sync::Mutex::new(false),
            ended,
            answered: AtomicU64::new(0),
            memory_kills: AtomicU64::new(0),
            _memory: memory,
        })
    }

    /// How it ended, once it has.
    pub(crate) fn end(&self) -> Option<End> {
        self.ended.borrow().clone()
    }

    /// Returns when it has ended.
    pub(crate) async fn wait(&self) -> Option<End> {
        let mut ended = self.ended.clone();
        let end = ended.wait_for(Option::is_some).await;
        end.ok().and_then(|end| end.clone())
    }

    /// Requests that it has answered.
    pub(crate) fn answered(&self) -> u64 {
        self.answered.load(Ordering::Relaxed)
    }

    /// Whether the kernel has killed a process of it for want of memory since this was asked last.
    pub(crate) fn ran_out_of_memory(&self) -> bool {
        let now = self.started.cgroup.as_ref().map_or(0, Cgroup::memory_kills);
        self.memory_kills.swap(now, Ordering::Relaxed) < now
    }

    /// Whether what it may write is used up. One that takes back what it could not write whole is not seen.
    pub(crate) fn disk_is_full(&self) -> bool {
        thaw_node::disk_is_full(&self.started.dir)
    }

    /// The most bytes of memory that it has had.
    pub(crate) fn peak_memory(&self) -> Option<u64> {
        self.started.cgroup.as_ref()?.peak_memory()
    }

    /// What it logs from now on.
    pub(crate) fn tail(&self) -> Tail {
        Tail::begin(&self.started.dir)
    }

    /// Waits until something listens at the function's port, and is well.
    ///
    /// # Errors
    /// Why it will not be, in words.
    pub(crate) async fn ready(&self, deadline: Instant) -> Result<(), String> {
        let port = self.target.config.port;
        let mut pause = Duration::from_millis(1);
        loop {
            match self.open(port).await {
                Ok(stream) => {
                    if let Ok(sender) = self.greet(stream).await {
                        self.keep(sender);
                    }
                    break;
                }
                Err(error) if Instant::now() >= deadline => {
                    return Err(format!("nothing listens at port {port}: {error}"));
                }
                Err(_) => {}
            }
            self.still_runs()?;
            tokio::time::sleep(pause).await;
            pause = (pause * 3 / 2).min(Duration::from_millis(20));
        }
        self.well(deadline).await
    }

    /// Asks the health check until it is satisfied.
    async fn well(&self, deadline: Instant) -> Result<(), String> {
        let Some(check) = &self.target.config.health else {
            return Ok(());
        };
        tokio::time::sleep(Duration::from_secs(check.initial_delay.into())).await;
        let patience = Duration::from_secs(check.timeout.max(1).into());
        loop {
            let answer = self.call(Method::GET, &check.path, Purpose::Hook, patience);
            let said = match answer.await {
                Ok(status) if status < 400 => return Ok(()),
                Ok(status) => format!("status {status}"),
                Err(error) => error.to_string(),
            };
            self.still_runs()?;
            if Instant::now() >= deadline {
                return Err(format!("the health check {} fails: {said}", check.path));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    fn still_runs(&self) -> Result<(), String> {
        let Some(end) = self.end() else {
            return Ok(());
        };
        let log = crate::logs::last_lines(&self.started.dir, 5);
        Err(format!("{}{log}", describe(&end, &self.target)))
    }

    /// Calls the initializer, where there is one.
    ///
    /// # Errors
    /// Why it failed, in words.
    pub(crate) async fn initialize(&self) -> Result<(), String> {
        let Some(hook) = &self.target.config.initializer else {
            return Ok(());
        };
        let status = self.hook(Method::POST, "/initialize", hook, Purpose::Initialize);
        match status.await {
            Ok(status) if (200..300).contains(&status) => Ok(()),
            Ok(status) => Err(format!("the initializer answered with status {status}")),
            Err(error) => Err(format!("the initializer failed: {error}")),
        }
    }

    async fn hook(
        &self,
        method: Method,
        path: &str,
        hook: &Hook,
        purpose: Purpose,
    ) -> Result<u16, SendError> {
        let patience = Duration::from_secs(hook.timeout.into());
        self.call(method, path, purpose, patience).await
    }

    /// A request of the host's own; the status of its answer, `x-fc-status` over that.
    async fn call(
        &self,
        method: Method,
        path: &str,
        purpose: Purpose,
        patience: Duration,
    ) -> Result<u16, SendError> {
        let mut request = Request::new(full(""));
        *request.method_mut() = method;
        *request.uri_mut() = path
            .parse()
            .map_err(|_| SendError::Unsent(format!("{path:?} is no path")))?;
        let id = unique::id();
        tell(
            request.headers_mut(),
            &self.target,
            &self.place,
            &id,
            purpose,
        );
        let answer = self.send(request, patience).await?;
        let (sender, answer) = (answer.sender, answer.response);
        let status = crate::invoke::function_status(answer.headers());
        let status = status.unwrap_or(answer.status().as_u16());
        let read = crate::http::collect(answer.into_body(), 1 << 20);
        if let Ok(Ok(_)) = tokio::time::timeout(patience, read).await {
            self.keep(sender);
        }
        Ok(status)
    }

    /// Sends a request, and waits for the head of its answer.
    ///
    /// # Errors
    /// [`SendError`].
    pub(crate) async fn send(
        &self,
        mut request: Request<Body>,
        patience: Duration,
    ) -> Result<Answer, SendError> {
        *request.version_mut() = Version::HTTP_11;
        let host = format!("127.0.0.1:{}", self.target.config.port);
        let headers = request.headers_mut();
        if !headers.contains_key(hyper::header::HOST)
            && let Ok(host) = host.parse()
        {
            headers.insert(hyper::header::HOST, host);
        }
        match tokio::time::timeout(patience, self.exchange(request)).await {
            Ok(answer) => answer,
            Err(_) => Err(SendError::TimedOut(patience)),
        }
    }

    async fn exchange(&self, mut request: Request<Body>) -> Result<Answer, SendError> {
        loop {
            let kept = self.take();
            let is_fresh = kept.is_none();
            let mut sender = match kept {
                Some(sender) => sender,
                None => self.connect().await?,
            };
            match sender.try_send_request(request).await {
                Ok(response) => {
                    self.answered.fetch_add(1, Ordering::Relaxed);
                    return Ok(Answer { response, sender });
                }
                Err(mut error) => match error.take_message() {
                    Some(unsent) if !is_fresh => request = unsent,
                    Some(_) => return Err(SendError::Unsent(error.into_error().to_string())),
                    None => return Err(SendError::Broken(error.into_error().to_string())),
                },
            }
        }
    }

    async fn connect(&self) -> Result<SendRequest<Body>, SendError> {
        let unsent = |error: std::io::Error| SendError::Unsent(error.to_string());
        let port = self.target.config.port;
        self.greet(self.open(port).await.map_err(unsent)?)
            .await
            .map_err(|error| SendError::Unsent(error.to_string()))
    }

    /// A connection to a port of it.
    async fn open(&self, port: u16) -> std::io::Result<tokio::net::TcpStream> {
        match &self.started.reach {
            Some(reach) => self.connector.connect(reach, port).await,
            None => Err(std::io::Error::other("it has ended")),
        }
    }

    async fn greet(&self, stream: tokio::net::TcpStream) -> hyper::Result<SendRequest<Body>> {
        let (sender, connection) = handshake(TokioIo::new(stream)).await?;
        tokio::spawn(async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(%error, "a connection into a container broke off");
            }
        });
        Ok(sender)
    }

    fn take(&self) -> Option<SendRequest<Body>> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        std::iter::from_fn(|| kept.pop()).find(SendRequest::is_ready)
    }

    /// Keeps a connection for the next request.
    pub(crate) fn keep(&self, sender: SendRequest<Body>) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() < MAX_KEPT && !sender.is_closed() {
            kept.push(sender);
        }
    }

    /// Has it go on, if it is frozen. Whether it was.
    ///
    /// # Errors
    /// Those of the kernel.
    pub(crate) async fn wake(&self) -> std::io::Result<bool> {
        let mut asleep = self.asleep.lock().await;
        let was = *asleep;
        if was && let Some(cgroup) = &self.started.cgroup {
            cgroup.thaw()?;
        }
        *asleep = false;
        Ok(was)
    }

    /// Freezes it, unless `needed` says that it is needed after all.
    pub(crate) async fn sleep(&self, needed: impl Fn() -> bool) {
        let Some(cgroup) = &self.started.cgroup else {
            return;
        };
        let mut asleep = self.asleep.lock().await;
        if *asleep || needed() {
            return;
        }
        if let Some(hook) = &self.target.config.pre_freeze {
            let path = "/pre-freeze";
            let called = self.hook(Method::GET, path, hook, Purpose::Hook).await;
            note(&self.id, path, called);
            if needed() {
                return;
            }
        }
        let cgroup = cgroup.clone();
        match tokio::task::spawn_blocking(move || cgroup.freeze()).await {
            Ok(Ok(())) => *asleep = true,
            Ok(Err(error)) => tracing::warn!(container = self.id, %error, "it is not frozen"),
            Err(error) => tracing::error!(%error, "freezing"),
        }
    }

    /// Prepares its end: it is told, where it wants to hear of it.
    pub(crate) async fn say_goodbye(&self) {
        if let Err(error) = self.wake().await {
            tracing::warn!(container = self.id, %error, "it stays frozen");
        }
        if self.end().is_none()
            && let Some(hook) = &self.target.config.pre_stop
        {
            let path = "/pre-stop";
            let called = self.hook(Method::GET, path, hook, Purpose::Hook).await;
            note(&self.id, path, called);
        }
    }
}

fn note(container: &str, path: &str, called: Result<u16, SendError>) {
    match called {
        Ok(status) if status < 400 => {}
        Ok(status) => tracing::warn!(container, path, status, "a hook failed"),
        Err(error) => tracing::warn!(container, path, %error, "a hook failed"),
    }
}

/// The head of an answer, and the connection that its body comes by.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) response: Response<Incoming>,
    pub(crate) sender: SendRequest<Body>,
}

/// How a container ended, in words.
pub(crate) fn describe(end: &End, target: &Target) -> String {
    if end.out_of_memory {
        let memory = target.config.memory;
        return format!("it ran out of memory: it may have {memory} MiB (memorySize)");
    }
    let ended = match end.code {
        Some(code) => format!("its process ended with exit code {code}"),
        None => "its process ended".to_owned(),
    };
    match end.disk_full {
        true => format!("{ended}; {}", full_disk(target)),
        false => ended,
    }
}

/// That the disk of an instance is full, in words.
pub(crate) fn full_disk(target: &Target) -> String {
    let disk = target.config.disk;
    format!("its disk is full: it may have {disk} MiB (diskSize)")
}

/// Waits for a container's monitor, which ends when all is written down.
async fn watch_end(mut monitor: Child, dir: PathBuf, end: watch::Sender<Option<End>>) {
    let pid = Pid::from_child(&monitor);
    let watched = pidfd_open(pid, PidfdFlags::NONBLOCK).map_err(std::io::Error::from);
    #[allow(
        deprecated,
        reason = "its successor is unsafe, for descriptors that are not owned"
    )]
    let watched = watched.and_then(AsyncFd::new);
    match watched {
        Ok(fd) => {
            if let Err(error) = fd.readable().await {
                tracing::warn!(%error, "a container's end is not seen");
            }
        }
        Err(error) => tracing::warn!(%error, "a container's end cannot be watched"),
    }
    let read = tokio::task::spawn_blocking(move || {
        monitor.wait().ok();
        let state = Container::open(&dir).and_then(|container| container.state());
        match state.map(|state| state.phase) {
            Ok(Phase::Exited {
                code,
                out_of_memory,
                disk_full,
                peak_memory,
                ..
            }) => End {
                code: Some(code.into()),
                out_of_memory,
                disk_full,
                peak_memory,
            },
            _ => End::default(),
        }
    });
    end.send_replace(read.await.ok());
}
