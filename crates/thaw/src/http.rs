//! The metrics over HTTP, for a scraper: `GET /metrics`, and nothing else.
//!
//! One request a connection, and few connections at once: a client that is slow to ask keeps a
//! thread for [`PATIENCE`], and the others of its kind wait in the socket's queue.

use std::io::ErrorKind::AddrInUse;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;

use crate::metrics::CONTENT_TYPE;

/// Connections served at once.
const THREADS: usize = 2;
/// Most bytes of a request's head.
const MAX_HEAD: u64 = 16 << 10;
/// For how long a client may take to ask, and again to take the answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// For how long a daemon that has let the store go may still have the port.
const HANDOVER: Duration = Duration::from_millis(500);
/// After a failed accept, for want of descriptors, say.
const PAUSE: Duration = Duration::from_millis(50);

/// A socket that nobody answers yet.
#[derive(Debug)]
pub(crate) struct Endpoint(TcpListener);

/// Makes the text, or says why it cannot.
pub(crate) type Page = dyn Fn() -> anyhow::Result<String> + Send + Sync;

impl Endpoint {
    /// # Errors
    /// When the address is not one of this machine, or is taken.
    pub(crate) fn bind(address: SocketAddr) -> anyhow::Result<Self> {
        let begin = Instant::now();
        loop {
            match TcpListener::bind(address) {
                Err(error) if error.kind() == AddrInUse && begin.elapsed() < HANDOVER => {
                    std::thread::sleep(PAUSE);
                }
                bound => {
                    let what = "(metrics-listen in the configuration)";
                    let bound =
                        bound.with_context(|| format!("cannot serve metrics at {address} {what}"));
                    return Ok(Self(bound?));
                }
            }
        }
    }

    /// Answers from now on, as long as this process lives.
    pub(crate) fn serve(self, page: Arc<Page>) -> anyhow::Result<()> {
        let address = self.0.local_addr()?;
        tracing::info!("metrics at http://{address}/metrics");
        for _ in 0..THREADS {
            let listener = self.0.try_clone()?;
            let page = Arc::clone(&page);
            std::thread::Builder::new()
                .name("metrics".into())
                .spawn(move || accept(&listener, page.as_ref()))?;
        }
        Ok(())
    }
}

fn accept(listener: &TcpListener, page: &Page) {
    for stream in listener.incoming() {
        match stream {
            Ok(stream) => {
                if let Err(error) = answer(&stream, page) {
                    tracing::debug!(%error, "a scraper went away");
                }
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a scraper");
                std::thread::sleep(PAUSE);
            }
        }
    }
}

fn answer(stream: &TcpStream, page: &Page) -> std::io::Result<()> {
    stream.set_write_timeout(Some(PATIENCE))?;
    let Some(line) = request_line(stream)? else {
        return Ok(());
    };
    let mut words = line.split_ascii_whitespace();
    let (method, target) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
    let path = target.split('?').next().unwrap_or("");
    let plain = "text/plain; charset=utf-8";
    let (status, kind, body) = match (method, path) {
        (_, other) if other != "/metrics" => {
            let body = "there is only /metrics here\n";
            ("404 Not Found", plain, body.to_owned())
        }
        ("GET" | "HEAD", _) => match page() {
            Ok(text) => ("200 OK", CONTENT_TYPE, text),
            Err(error) => {
                tracing::warn!(error = format!("{error:#}"), "no metrics");
                ("500 Internal Server Error", plain, format!("{error:#}\n"))
            }
        },
        _ => {
            let body = "only GET is answered here\n";
            (
                "405 Method Not Allowed\r\nAllow: GET, HEAD",
                plain,
                body.to_owned(),
            )
        }
    };
    let mut head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    if method != "HEAD" {
        head.push_str(&body);
    }
    let mut stream = stream;
    stream.write_all(head.as_bytes())
}

/// What comes before an instant, however slowly.
struct Until<'a> {
    stream: &'a TcpStream,
    deadline: Instant,
}

impl Read for Until<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(std::io::ErrorKind::TimedOut.into());
        }
        self.stream.set_read_timeout(Some(left))?;
        let mut stream = self.stream;
        stream.read(buffer)
    }
}

/// The first line of a request whose head came in whole and in time. All of the head is read:
/// closing a socket with bytes unread would tear the answer away from the client.
fn request_line(stream: &TcpStream) -> std::io::Result<Option<String>> {
    let until = Until {
        stream,
        deadline: Instant::now() + PATIENCE,
    };
    let mut reader = BufReader::new(until.take(MAX_HEAD));
    let mut first = None;
    loop {
        let mut line = Vec::new();
        reader.read_until(b'\n', &mut line)?;
        if !line.ends_with(b"\n") {
            return Ok(None);
        }
        let line = String::from_utf8_lossy(line.trim_ascii_end()).into_owned();
        match &first {
            Some(_) if line.is_empty() => return Ok(first),
            Some(_) => {}
            None => first = Some(line),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind::{TimedOut, WouldBlock};

    use super::*;

    fn ask(address: SocketAddr, request: &str) -> String {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    #[test]
    fn only_the_metrics_are_there() {
        let endpoint = Endpoint::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = endpoint.0.local_addr().unwrap();
        let taken = Endpoint::bind(address).unwrap_err();
        assert!(format!("{taken:#}").contains(&format!("metrics at {address} (metrics-listen")));
        endpoint.serve(Arc::new(|| Ok("a 1\n".to_owned()))).unwrap();
        let get = |target: &str| {
            ask(
                address,
                &format!("GET {target} HTTP/1.1\r\nHost: x\r\n\r\n"),
            )
        };
        for target in ["/metrics", "/metrics?name=a"] {
            let answer = get(target);
            assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
            let kind = format!("\r\nContent-Type: {CONTENT_TYPE}\r\n");
            assert!(answer.contains(&kind), "{answer}");
            assert!(answer.ends_with("\r\nContent-Length: 4\r\nConnection: close\r\n\r\na 1\n"));
        }
        for target in ["/", "/metric", "/metrics/", "*"] {
            assert!(get(target).starts_with("HTTP/1.1 404 "), "{target}");
        }
        let head = ask(address, "HEAD /metrics HTTP/1.0\r\n\r\n");
        assert!(
            head.ends_with("Content-Length: 4\r\nConnection: close\r\n\r\n"),
            "{head}"
        );
        let post = ask(address, "POST /metrics HTTP/1.1\r\n\r\n");
        assert!(post.starts_with("HTTP/1.1 405 ") && post.contains("\r\nAllow: GET, HEAD\r\n"));
    }

    /// Writes until the other side has enough of it; how much that took.
    fn write_on(address: SocketAddr, piece: &[u8], pause: Duration) -> (usize, Duration) {
        let (begin, mut written) = (Instant::now(), 0);
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(b"GET /metrics HTTP/1.1\r\nX: ").unwrap();
        stream.set_read_timeout(Some(pause)).unwrap();
        while begin.elapsed() < Duration::from_secs(30) {
            match stream.read(&mut [0; 64]) {
                Err(error) if matches!(error.kind(), WouldBlock | TimedOut) => {}
                // Ended, or reset with what was not read.
                ended => {
                    assert!(matches!(ended, Ok(0) | Err(_)), "an answer");
                    break;
                }
            }
            written += stream.write(piece).unwrap_or_default();
        }
        (written, begin.elapsed())
    }

    #[test]
    fn who_never_comes_to_an_end_is_cut_off() {
        let endpoint = Endpoint::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = endpoint.0.local_addr().unwrap();
        endpoint.serve(Arc::new(|| Ok(String::new()))).unwrap();
        let (_, slow) = write_on(address, b"x", Duration::from_millis(50));
        assert!((1..20).contains(&slow.as_secs()), "{slow:?}");
        let (much, _) = write_on(address, &[b'x'; 1024], Duration::from_millis(5));
        assert!(much < 1 << 20, "{much}");
    }

    #[test]
    fn a_request_without_end_gets_no_answer() {
        let endpoint = Endpoint::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = endpoint.0.local_addr().unwrap();
        endpoint.serve(Arc::new(|| Ok(String::new()))).unwrap();
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(b"GET /metrics HTTP/1.1\r\n").unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        assert!(answer.is_empty());
    }
}
