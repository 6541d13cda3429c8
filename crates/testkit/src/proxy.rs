//! HTTP/1.1 in plain text between a program and a server: every GET goes through a function, which may
//! pass it on.

use std::io::{self, BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::Result;

use crate::http::{Answer, Request};

const LIMIT: Duration = Duration::from_secs(30);

/// A GET, without what is of its connection.
#[derive(Debug)]
pub(crate) struct Asked {
    /// Path and query.
    pub(crate) path: String,
    headers: Vec<(String, String)>,
}

impl Asked {
    /// A header's value.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.headers.iter();
        let found = headers.find(|(key, _)| key.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }

    /// The same without a header.
    pub(crate) fn without(&self, name: &str) -> Self {
        let headers = self.headers.iter();
        let left = headers.filter(|(key, _)| !key.eq_ignore_ascii_case(name));
        Self {
            path: self.path.clone(),
            headers: left.cloned().collect(),
        }
    }

    /// Asks `host` for `path` in the same way.
    pub(crate) fn pass_on(&self, host: &str, path: &str) -> Result<Answer> {
        let headers = self.headers.iter();
        let headers: Vec<(&str, &str)> = headers
            .filter(|(key, _)| !key.eq_ignore_ascii_case("host"))
            .map(|(key, value)| (key.as_str(), value.as_str()))
            .collect();
        let request = Request {
            method: "GET",
            host,
            path,
            headers: &headers,
        };
        request.send(&mut io::empty(), 0, LIMIT)
    }
}

/// Ends on drop; connections end with their clients.
#[derive(Debug)]
pub(crate) struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    connections: AtomicUsize,
    ended: AtomicBool,
}

impl Proxy {
    /// Listens on a free loopback port. A connection whose answer fails is broken off.
    pub(crate) fn start(
        answer: impl Fn(&Asked) -> Result<Answer> + Send + Sync + 'static,
    ) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let (shared, answer) = (Arc::<Shared>::default(), Arc::new(answer));
        let served = Arc::clone(&shared);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if served.ended.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(stream) = stream else { continue };
                served.connections.fetch_add(1, Ordering::SeqCst);
                let answer = Arc::clone(&answer);
                // A client that goes away ends its connection: no error of anybody's.
                std::thread::spawn(move || serve(stream, &*answer).ok());
            }
        });
        Ok(Self { address, shared })
    }

    pub(crate) const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Connections that were made so far.
    pub(crate) fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
    }
}

fn serve(mut stream: TcpStream, answer: &dyn Fn(&Asked) -> Result<Answer>) -> Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream.try_clone()?);
    while let Some(asked) = read_head(&mut reader)? {
        let answer = answer(&asked)?;
        let mut head = format!("HTTP/1.1 {} Passed on\r\n", answer.status);
        for (key, value) in &answer.headers {
            if !["connection", "content-length"].contains(&key.as_str()) {
                head.push_str(&format!("{key}: {value}\r\n"));
            }
        }
        head.push_str(&format!("content-length: {}\r\n\r\n", answer.body.len()));
        stream.write_all(head.as_bytes())?;
        stream.write_all(&answer.body)?;
    }
    Ok(())
}

/// The next request of a connection.
fn read_head(reader: &mut impl BufRead) -> Result<Option<Asked>> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let path = line.split(' ').nth(1).unwrap_or_default().to_owned();
    let mut headers = Vec::new();
    loop {
        line.clear();
        reader.read_line(&mut line)?;
        let Some((key, value)) = line.trim_end().split_once(':') else {
            return Ok(Some(Asked { path, headers }));
        };
        let own = ["connection", "content-length"];
        if !own.contains(&key.to_lowercase().as_str()) {
            headers.push((key.to_owned(), value.trim().to_owned()));
        }
    }
}
