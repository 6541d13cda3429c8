//! The commands' side of the function host: HTTP over the Unix socket in the store, which is root's and
//! needs no signature.
//!
//! One way of writing leads to every function: `SERVICE$FUNCTION`, as the API of 2023 has it.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::header::{HeaderMap, HeaderName};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::UnixStream;

/// Where the host of a store listens for root.
pub(crate) fn socket(root: &Path) -> PathBuf {
    root.join("functions.sock")
}

/// The path of a function, with what is behind it: `tail` is empty or begins with `/` or `?`.
pub(crate) fn path(function: &str, tail: &str) -> String {
    let name = escaped(&function.replacen('/', "$", 1));
    format!("/2023-03-30/functions/{name}{tail}")
}

/// For a path or query (RFC 3986, section 2.3).
pub(crate) fn escaped(text: &str) -> String {
    let escape = |byte: u8| match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
            char::from(byte).to_string()
        }
        byte => format!("%{byte:02X}"),
    };
    text.bytes().map(escape).collect()
}

/// A function host.
#[derive(Debug)]
pub(crate) struct Host {
    socket: PathBuf,
    runtime: tokio::runtime::Runtime,
}

/// What came back, whole.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    /// A header that is text; empty where there is none.
    pub(crate) fn header(&self, name: &str) -> &str {
        let value = self.headers.get(name);
        value
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
    }

    /// The answer, where it is no refusal.
    ///
    /// # Errors
    /// What the host says.
    pub(crate) fn accepted(self) -> anyhow::Result<Self> {
        if self.status.is_success() {
            return Ok(self);
        }
        let said = serde_json::from_slice::<Value>(&self.body).ok();
        let said = said.as_ref().and_then(|said| said["Message"].as_str());
        match said {
            Some(message) => bail!("{message}"),
            None => bail!("the function host answers {}", self.status),
        }
    }

    fn json(&self) -> anyhow::Result<Value> {
        match self.body.is_empty() {
            true => Ok(Value::Null),
            false => Ok(serde_json::from_slice(&self.body)?),
        }
    }
}

impl Host {
    /// The one of the store at `root`.
    pub(crate) fn of(root: &Path) -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        Ok(Self {
            socket: socket(root),
            runtime,
        })
    }

    /// Asks for JSON.
    ///
    /// # Errors
    /// What the host says, or that there is none.
    pub(crate) fn ask(&self, method: Method, path: &str, body: &str) -> anyhow::Result<Value> {
        let body = Bytes::copy_from_slice(body.as_bytes());
        self.request(method, path, &[], body)?.accepted()?.json()
    }

    /// Asks for what may not be there.
    ///
    /// # Errors
    /// As [`Host::ask`], but for 404, which is `None`.
    pub(crate) fn find(&self, path: &str) -> anyhow::Result<Option<Value>> {
        let answer = self.request(Method::GET, path, &[], Bytes::new())?;
        match answer.status {
            StatusCode::NOT_FOUND => Ok(None),
            _ => answer.accepted()?.json().map(Some),
        }
    }

    /// Asks for all pages of a list.
    ///
    /// # Errors
    /// As [`Host::ask`].
    pub(crate) fn list(&self, path: &str, field: &str) -> anyhow::Result<Vec<Value>> {
        let mut all = Vec::new();
        let mut page = self.ask(Method::GET, &format!("{path}?limit=100"), "")?;
        loop {
            if let Some(Value::Array(items)) = page.get_mut(field).map(Value::take) {
                all.extend(items);
            }
            let Some(next) = page["nextToken"].as_str() else {
                return Ok(all);
            };
            let next = format!("{path}?limit=100&nextToken={}", escaped(next));
            page = self.ask(Method::GET, &next, "")?;
        }
    }

    /// Sends a request and takes whatever is answered.
    ///
    /// # Errors
    /// That there is no host, or that it went away.
    pub(crate) fn request(
        &self,
        method: Method,
        path: &str,
        headers: &[(HeaderName, &str)],
        body: Bytes,
    ) -> anyhow::Result<Answer> {
        self.runtime.block_on(async {
            let response = self.send(method, path, headers, body).await?;
            whole(response).await
        })
    }

    /// Hands on an answer as it comes.
    ///
    /// # Errors
    /// As [`Host::ask`], and those of `take`.
    pub(crate) fn follow(
        &self,
        path: &str,
        mut take: impl FnMut(&[u8]) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        self.runtime.block_on(async {
            let mut response = self.send(Method::GET, path, &[], Bytes::new()).await?;
            if !response.status().is_success() {
                whole(response).await?.accepted()?;
                return Ok(());
            }
            while let Some(frame) = response.body_mut().frame().await {
                if let Some(data) = frame?.data_ref() {
                    take(data)?;
                }
            }
            Ok(())
        })
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(HeaderName, &str)],
        body: Bytes,
    ) -> anyhow::Result<Response<Incoming>> {
        let stream = UnixStream::connect(&self.socket).await.with_context(|| {
            let socket = self.socket.display();
            format!("no function host answers at {socket}: start one with `thaw serve`")
        })?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        let mut request = Request::builder().method(method).uri(path);
        request = request.header("host", "localhost");
        for (name, value) in headers {
            request = request.header(name, *value);
        }
        let sent = sender.send_request(request.body(Full::new(body))?).await;
        sent.context("the function host went away before it answered")
    }
}

async fn whole(response: Response<Incoming>) -> anyhow::Result<Answer> {
    let (head, body) = response.into_parts();
    let body = body.collect().await;
    let body = body.context("the function host went away while it answered")?;
    Ok(Answer {
        status: head.status,
        headers: head.headers,
        body: body.to_bytes(),
    })
}
