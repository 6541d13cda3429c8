//! The commands' side of the function host: HTTP over the Unix socket in the store, which is root's and
//! needs no signature.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::UnixStream;

/// Where the host of a store listens for root.
pub(crate) fn socket(root: &Path) -> PathBuf {
    root.join("functions.sock")
}

/// A function host.
#[derive(Debug)]
pub(crate) struct Host {
    socket: PathBuf,
    runtime: tokio::runtime::Runtime,
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
        let (response, bytes) = self.runtime.block_on(async {
            let response = self.send(method, path, &[], body.to_owned().into()).await?;
            let (head, body) = response.into_parts();
            Ok::<_, anyhow::Error>((head, body.collect().await?.to_bytes()))
        })?;
        if response.status.is_success() {
            return match bytes.is_empty() {
                true => Ok(Value::Null),
                false => Ok(serde_json::from_slice(&bytes)?),
            };
        }
        bail!(
            "{}",
            message(&bytes).unwrap_or_else(|| response.status.to_string())
        )
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
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
            request = request.header(*name, *value);
        }
        Ok(sender.send_request(request.body(Full::new(body))?).await?)
    }
}

/// What a refusal says.
fn message(body: &[u8]) -> Option<String> {
    let body: Value = serde_json::from_slice(body).ok()?;
    body.get("Message")?.as_str().map(str::to_owned)
}
