//! A registry far away: passes requests on, answers late, and tells who waited for whom.
//!
//! What a program asks one after the other shows in the times at which its requests came and were
//! answered, whatever the program itself counts: a request that came after another was answered
//! may have waited for it.

use std::io::{self, BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::http::Request;

const LIMIT: Duration = Duration::from_secs(30);

/// A GET that was answered.
#[derive(Clone, Debug)]
pub struct Trip {
    /// Path and query.
    pub path: String,
    came: Instant,
    answered: Instant,
}

impl Trip {
    /// Whether it was on its way together with another.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        self.came < other.answered && other.came < self.answered
    }
}

/// The way to a registry. Ends on drop; connections end with their clients.
#[derive(Debug)]
pub struct Far {
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    registry: String,
    delay: Duration,
    trips: Mutex<Vec<Trip>>,
    connections: AtomicUsize,
    ended: AtomicBool,
}

impl Far {
    /// Puts `delay` before each answer of the registry at `host`.
    ///
    /// # Errors
    /// When no port can be listened on.
    pub fn new(host: &str, delay: Duration) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let shared = Arc::new(Shared {
            registry: host.to_owned(),
            delay,
            trips: Mutex::default(),
            connections: AtomicUsize::new(0),
            ended: AtomicBool::new(false),
        });
        let far = Self {
            address: listener.local_addr()?,
            shared: Arc::clone(&shared),
        };
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if shared.ended.load(Ordering::SeqCst) {
                    return;
                }
                let (Ok(stream), shared) = (stream, Arc::clone(&shared)) else {
                    continue;
                };
                shared.connections.fetch_add(1, Ordering::SeqCst);
                // A client that goes away ends its connection: no error of anybody's.
                std::thread::spawn(move || shared.serve(stream).ok());
            }
        });
        Ok(far)
    }

    /// `address:port`, the first part of references to its images.
    #[must_use]
    pub fn host(&self) -> String {
        self.address.to_string()
    }

    /// Connections that were made so far.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }

    /// What was asked so far, in the order of the answers.
    #[must_use]
    pub fn trips(&self) -> Vec<Trip> {
        let trips = self.shared.trips.lock();
        trips.unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Far {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
    }
}

impl Shared {
    fn serve(&self, stream: TcpStream) -> Result<()> {
        stream.set_nodelay(true)?;
        let mut reader = BufReader::new(stream.try_clone()?);
        let mut stream = stream;
        while let Some((path, headers)) = read_head(&mut reader)? {
            let came = Instant::now();
            let headers: Vec<(&str, &str)> = headers
                .iter()
                .map(|(key, value)| (key.as_str(), value.as_str()))
                .collect();
            let request = Request {
                method: "GET",
                host: &self.registry,
                path: &path,
                headers: &headers,
            };
            let answer = request.send(&mut io::empty(), 0, LIMIT)?;
            std::thread::sleep(self.delay);
            let mut head = format!("HTTP/1.1 {} Far\r\n", answer.status);
            for (key, value) in &answer.headers {
                if !["connection", "content-length"].contains(&key.as_str()) {
                    head.push_str(&format!("{key}: {value}\r\n"));
                }
            }
            head.push_str(&format!("content-length: {}\r\n\r\n", answer.body.len()));
            let answered = Instant::now();
            let trip = Trip {
                path,
                came,
                answered,
            };
            self.trips
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(trip);
            stream.write_all(head.as_bytes())?;
            stream.write_all(&answer.body)?;
        }
        Ok(())
    }
}

/// Names and values.
type Headers = Vec<(String, String)>;

/// Path and headers of the next request, without those that are of the connection.
fn read_head(reader: &mut impl BufRead) -> Result<Option<(String, Headers)>> {
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
            return Ok(Some((path, headers)));
        };
        let own = ["host", "connection", "content-length"];
        if !own.contains(&key.to_lowercase().as_str()) {
            headers.push((key.to_owned(), value.trim().to_owned()));
        }
    }
}

/// Length of the longest chain of requests that ends with `last`, each of which came when the one
/// before it had been answered.
#[must_use]
pub fn longest_chain(trips: &[Trip], last: &Trip) -> usize {
    let before = trips.iter().filter(|trip| trip.answered <= last.came);
    let longest = before.map(|trip| longest_chain(trips, trip)).max();
    longest.unwrap_or(0) + 1
}
