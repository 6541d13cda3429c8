//! The few HTTP requests that tests make themselves: pushing any bytes to a registry, and asking
//! a container whether it is up. HTTP/1.1 in plain text, one connection for each request.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use thaw_image::Digest;

const LIMIT: Duration = Duration::from_secs(60);
const MAX_BODY: u64 = 16 << 20;

/// An answer.
#[derive(Debug)]
pub struct Answer {
    /// Status code.
    pub status: u16,
    pub(crate) headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

impl Answer {
    /// A header's value; `name` in lower case.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.headers.iter();
        headers
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }
}

/// A request to be sent.
#[derive(Debug)]
pub struct Request<'a> {
    /// `GET`, `PUT`, …
    pub method: &'a str,
    /// `host:port`.
    pub host: &'a str,
    /// Path and query.
    pub path: &'a str,
    /// Further headers.
    pub headers: &'a [(&'a str, &'a str)],
}

impl Request<'_> {
    /// Sends it with `length` bytes of `body`, and reads the answer.
    ///
    /// # Errors
    /// When the connection fails, or what comes is no HTTP.
    pub fn send(&self, body: &mut dyn Read, length: u64, limit: Duration) -> Result<Answer> {
        let address = self.host.to_socket_addrs()?.next().context("no address")?;
        let mut stream = TcpStream::connect_timeout(&address, limit)?;
        stream.set_read_timeout(Some(limit))?;
        stream.set_write_timeout(Some(limit))?;
        let mut head = format!("{} {} HTTP/1.1\r\n", self.method, self.path);
        if !self
            .headers
            .iter()
            .any(|(name, _)| name.eq_ignore_ascii_case("host"))
        {
            head.push_str(&format!("Host: {}\r\n", self.host));
        }
        for (name, value) in self.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str(&format!(
            "Content-Length: {length}\r\nConnection: close\r\n\r\n"
        ));
        stream.write_all(head.as_bytes())?;
        io::copy(&mut body.take(length), &mut stream)?;
        read_answer(BufReader::new(stream), self.method == "HEAD")
    }
}

fn read_answer(mut stream: impl BufRead, no_body: bool) -> Result<Answer> {
    let mut line = String::new();
    stream.read_line(&mut line)?;
    let status = line
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok());
    let status = status.with_context(|| format!("no HTTP: {line:?}"))?;
    let mut headers = Vec::new();
    loop {
        line.clear();
        stream.read_line(&mut line)?;
        match line.trim_end().split_once(':') {
            Some((name, value)) => headers.push((name.to_lowercase(), value.trim().to_owned())),
            None => break,
        }
    }
    let mut answer = Answer {
        status,
        headers,
        body: Vec::new(),
    };
    let length = answer
        .header("content-length")
        .and_then(|length| length.parse().ok());
    if !no_body {
        // Without a length the connection's end is the body's: close enough for a chunked one too.
        stream
            .take(length.unwrap_or(MAX_BODY).min(MAX_BODY))
            .read_to_end(&mut answer.body)?;
    }
    Ok(answer)
}

/// Reads one answer with a length from a connection that goes on; its status.
///
/// # Errors
/// When what comes is no such answer.
pub fn read_kept(stream: &mut impl BufRead) -> Result<u16> {
    let answer = read_answer(stream, false)?;
    ensure!(
        answer.header("content-length").is_some(),
        "an answer without a length"
    );
    Ok(answer.status)
}

/// Gets `path` from `host` within `limit`.
///
/// # Errors
/// When there is no answer in time.
pub fn get(host: &str, path: &str, limit: Duration) -> Result<Answer> {
    let request = Request {
        method: "GET",
        host,
        path,
        headers: &[],
    };
    request.send(&mut io::empty(), 0, limit)
}

/// Pushes a file as a blob, unless the registry has it (distribution-spec, "Pushing a blob
/// monolithically").
///
/// # Errors
/// When the registry refuses it.
pub fn push_blob(host: &str, repository: &str, digest: &Digest, path: &Path) -> Result<()> {
    let at = format!("/v2/{repository}/blobs/{digest}");
    let head = Request {
        method: "HEAD",
        host,
        path: &at,
        headers: &[],
    };
    if head.send(&mut io::empty(), 0, LIMIT)?.status == 200 {
        return Ok(());
    }
    let start = format!("/v2/{repository}/blobs/uploads/");
    let start = Request {
        method: "POST",
        host,
        path: &start,
        headers: &[],
    };
    let answer = start.send(&mut io::empty(), 0, LIMIT)?;
    let location = answer.header("location").context("no place to upload to")?;
    let (_, location) = location.split_once(host).unwrap_or(("", location));
    let separator = if location.contains('?') { '&' } else { '?' };
    let location = format!("{location}{separator}digest={digest}");
    let mut file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let length = file.metadata()?.len();
    let upload = Request {
        method: "PUT",
        host,
        path: &location,
        headers: &[("Content-Type", "application/octet-stream")],
    };
    expect_created(&upload.send(&mut file, length, LIMIT)?)
        .with_context(|| format!("cannot push blob {digest}"))
}

/// Pushes a manifest or an index under a tag or a digest.
///
/// # Errors
/// When the registry refuses it.
pub fn push_manifest(
    host: &str,
    repository: &str,
    tag: &str,
    media_type: &str,
    mut manifest: &[u8],
) -> Result<()> {
    let path = format!("/v2/{repository}/manifests/{tag}");
    let headers = [("Content-Type", media_type)];
    let request = Request {
        method: "PUT",
        host,
        path: &path,
        headers: &headers,
    };
    let length = manifest.len() as u64;
    expect_created(&request.send(&mut manifest, length, LIMIT)?).context("cannot push the manifest")
}

fn expect_created(answer: &Answer) -> Result<()> {
    ensure!(
        answer.status < 500,
        "the registry failed with {}",
        answer.status
    );
    if answer.status != 201 {
        bail!(
            "status {}: {}",
            answer.status,
            String::from_utf8_lossy(&answer.body)
        );
    }
    Ok(())
}
