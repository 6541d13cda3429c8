//! A registry as it should not be: between the program and a real one, with every fault that an HTTP
//! server and its network have. Which one is a matter of chance; calm, it has none.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use rustix::net::sockopt::set_socket_linger;

/// Longest head of a request or an answer.
const MAX_HEAD: u64 = 64 << 10;
/// How long a connection that stalls does.
const STALL: Duration = Duration::from_millis(1500);
/// Of ten requests, how many are treated badly.
const BAD: u64 = 3;

/// Numbers that look random; the same for the same seed.
#[derive(Debug)]
pub(crate) struct Chance(AtomicU64);

impl Chance {
    pub(crate) fn new(seed: u64) -> Self {
        Self(AtomicU64::new(seed | 1))
    }

    /// Less than `end`.
    pub(crate) fn below(&self, end: u64) -> u64 {
        let step = |state: u64| {
            state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407)
        };
        let state = self
            .0
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |state| {
                Some(step(state))
            });
        (state.unwrap_or_else(|state| state) >> 33) % end
    }
}

/// What is done to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// An answer of the server's own: status and headers.
    Status(&'static str),
    /// Credentials are asked for, and given to whoever asks.
    Challenge,
    /// The blob is somewhere else, for a while.
    Redirect,
    /// The connection ends, before or in the middle of the answer; or is reset there.
    Nothing,
    Half,
    Reset,
    /// Nothing comes for a while, and then the end.
    Stall,
    /// All of the blob, where a range was asked for.
    Whole,
    /// One byte of the answer is another one.
    Flip,
    /// It takes its time.
    Slow,
}

const FAULTS: [Fault; 16] = [
    Fault::Status("429 Too Many Requests\r\nRetry-After: 1"),
    Fault::Status("503 Service Unavailable\r\nRetry-After: 0"),
    Fault::Status("500 Internal Server Error"),
    Fault::Status("401 Unauthorized"),
    Fault::Status("403 Forbidden"),
    Fault::Status("404 Not Found"),
    Fault::Status("416 Range Not Satisfiable"),
    Fault::Challenge,
    Fault::Redirect,
    Fault::Nothing,
    Fault::Half,
    Fault::Reset,
    Fault::Stall,
    Fault::Whole,
    Fault::Flip,
    Fault::Slow,
];

/// Where a blob is for a while, behind its address.
const ELSEWHERE: &str = "?until=soon";

#[derive(Debug)]
struct Shared {
    registry: String,
    address: SocketAddr,
    chance: Chance,
    calm: AtomicBool,
    over: AtomicBool,
    done: Mutex<[u64; FAULTS.len()]>,
}

/// It; gone with the value.
#[derive(Debug)]
pub(crate) struct Unruly {
    shared: Arc<Shared>,
    pub(crate) address: SocketAddr,
}

impl Unruly {
    /// Before `registry` (host and port), calm.
    pub(crate) fn new(registry: &str, seed: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            registry: registry.to_owned(),
            address,
            chance: Chance::new(seed),
            calm: AtomicBool::new(true),
            over: AtomicBool::new(false),
            done: Mutex::default(),
        });
        let served = Arc::clone(&shared);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if served.over.load(Ordering::SeqCst) {
                    return;
                }
                let shared = Arc::clone(&served);
                // One that breaks off is what this is for.
                thread::spawn(move || shared.serve(client).ok());
            }
        });
        Self { shared, address }
    }

    pub(crate) fn calm(&self, calm: bool) {
        self.shared.calm.store(calm, Ordering::SeqCst);
    }

    /// How often each fault was done.
    pub(crate) fn done(&self) -> Vec<(String, u64)> {
        let done = *self.shared.done.lock().unwrap();
        let names = FAULTS.iter().map(|fault| match fault {
            Fault::Status(status) => status[..3].to_owned(),
            other => format!("{other:?}").to_lowercase(),
        });
        names.zip(done).collect()
    }
}

impl Drop for Unruly {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::SeqCst);
        TcpStream::connect(self.address).ok();
    }
}

/// Head of a message, with the empty line at its end.
fn head(stream: &mut impl Read) -> io::Result<String> {
    let mut bytes = Vec::new();
    let mut limited = stream.take(MAX_HEAD);
    let mut byte = [0];
    while !bytes.ends_with(b"\r\n\r\n") {
        limited.read_exact(&mut byte)?;
        bytes.push(byte[0]);
    }
    String::from_utf8(bytes).map_err(io::Error::other)
}

/// An answer that is the server's own.
fn answer(
    client: &mut TcpStream,
    status: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> io::Result<()> {
    let mut text = format!("HTTP/1.1 {status}\r\nConnection: close\r\n");
    for (name, value) in headers {
        text += &format!("{name}: {value}\r\n");
    }
    text += &format!("Content-Length: {}\r\n\r\n{body}", body.len());
    client.write_all(text.as_bytes())
}

impl Shared {
    fn choose(&self) -> Option<Fault> {
        if self.calm.load(Ordering::SeqCst) || self.chance.below(10) >= BAD {
            return None;
        }
        let number = usize::try_from(self.chance.below(FAULTS.len() as u64)).unwrap();
        self.done.lock().unwrap()[number] += 1;
        Some(FAULTS[number])
    }

    /// One request of a connection, and its answer.
    fn serve(&self, mut client: TcpStream) -> io::Result<()> {
        client.set_read_timeout(Some(Duration::from_secs(30)))?;
        let asked = head(&mut client)?;
        let path = asked.split(' ').nth(1).unwrap_or_default();
        if path.starts_with("/token") {
            let token = "{\"token\":\"any\",\"expires_in\":60}";
            return answer(&mut client, "200 OK", &[], token);
        }
        let fault = self.choose();
        match fault {
            // It was good for a while only.
            Some(_) if path.ends_with(ELSEWHERE) => {
                return answer(&mut client, "403 Forbidden", &[], "");
            }
            Some(Fault::Challenge) => {
                let realm = format!(
                    "Bearer realm=\"http://{}/token\",service=\"s\"",
                    self.address
                );
                let headers = [("WWW-Authenticate", realm.as_str())];
                return answer(&mut client, "401 Unauthorized", &headers, "");
            }
            Some(Fault::Redirect) if path.contains("/blobs/sha256:") => {
                let to = format!("http://{}{path}{ELSEWHERE}", self.address);
                let headers = [("Location", to.as_str())];
                return answer(&mut client, "307 Temporary Redirect", &headers, "");
            }
            Some(Fault::Status(status)) => {
                return answer(&mut client, status, &[], "");
            }
            Some(Fault::Nothing) => return client.shutdown(Shutdown::Both),
            Some(Fault::Stall) => {
                thread::sleep(STALL);
                return client.shutdown(Shutdown::Both);
            }
            Some(Fault::Slow) => thread::sleep(Duration::from_millis(300)),
            _ => {}
        }
        let mut server = TcpStream::connect(&self.registry)?;
        let mut passed = String::new();
        for line in asked.trim_end().split("\r\n") {
            let name = line.split(':').next().unwrap_or_default().to_lowercase();
            let dropped = name == "range" && fault == Some(Fault::Whole) || name == "authorization";
            let line = line.replace(ELSEWHERE, "");
            if !dropped && name != "connection" {
                passed += &line;
                passed += "\r\n";
            }
        }
        server.write_all(format!("{passed}Connection: close\r\n\r\n").as_bytes())?;
        let mut answer = head(&mut server)?;
        if !answer.to_lowercase().contains("\r\nconnection: close\r\n") {
            answer.insert_str(answer.len() - 2, "Connection: close\r\n");
        }
        let mut body = Vec::new();
        server.read_to_end(&mut body)?;
        match fault {
            Some(Fault::Half | Fault::Reset) => body.truncate(body.len() / 2),
            Some(Fault::Flip) if !body.is_empty() => {
                let at = usize::try_from(self.chance.below(body.len() as u64)).unwrap();
                body[at] ^= 0x10;
            }
            _ => {}
        }
        client.write_all(answer.as_bytes())?;
        client.write_all(&body)?;
        if fault == Some(Fault::Reset) {
            // Closed with nothing to linger for, it ends with RST.
            set_socket_linger(&client, Some(Duration::ZERO))?;
            return Ok(());
        }
        client.shutdown(Shutdown::Write)
    }
}
