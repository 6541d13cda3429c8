//! A registry as it should not be: between the program and a real one, with every fault that an HTTP
//! server and its network have. Which one is a matter of chance, but none is left out; calm, it has none.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use rustix::net::sockopt::set_socket_linger;

use super::chance::{Chance, Deck};

/// Longest head of a request or an answer.
const MAX_HEAD: u64 = 64 << 10;
/// How long a connection that stalls does.
const STALL: Duration = Duration::from_millis(1500);
/// Of ten requests, how many are treated badly.
const BAD: u64 = 5;

/// What is done to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fault {
    /// An answer of the server's own: status and headers.
    Status(&'static str),
    /// Credentials are asked for, and given to whoever asks.
    Challenge,
    /// The blob is somewhere else, for a while: done when that is over.
    Expire,
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
    Fault::Expire,
    Fault::Nothing,
    Fault::Half,
    Fault::Reset,
    Fault::Stall,
    Fault::Whole,
    Fault::Flip,
    Fault::Slow,
];

#[derive(Debug)]
struct Shared {
    registry: String,
    /// Where registry and blobs are. Another port is another server: its addresses are remembered.
    address: SocketAddr,
    elsewhere: SocketAddr,
    chance: Chance,
    calm: AtomicBool,
    over: AtomicBool,
    faults: Mutex<Deck<Fault>>,
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
        let listeners = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        let [address, elsewhere] = [0, 1].map(|at: usize| listeners[at].local_addr().unwrap());
        let chance = Chance::new(seed);
        let shared = Arc::new(Shared {
            registry: registry.to_owned(),
            address,
            elsewhere,
            faults: Mutex::new(Deck::new(FAULTS.into(), &chance)),
            chance,
            calm: AtomicBool::new(true),
            over: AtomicBool::new(false),
        });
        for listener in listeners {
            let shared = Arc::clone(&shared);
            thread::spawn(move || shared.listen(&listener));
        }
        Self { shared, address }
    }

    pub(crate) fn calm(&self, calm: bool) {
        self.shared.calm.store(calm, Ordering::SeqCst);
    }

    /// How often each fault was done.
    pub(crate) fn done(&self) -> BTreeMap<String, u64> {
        let faults = self.shared.faults.lock().unwrap();
        let name = |fault: &Fault| match fault {
            Fault::Status(status) => status[..3].to_owned(),
            other => format!("{other:?}").to_lowercase(),
        };
        let done = faults.done().iter();
        done.map(|(fault, times)| (name(fault), *times)).collect()
    }
}

impl Drop for Unruly {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::SeqCst);
        for address in [self.address, self.shared.elsewhere] {
            TcpStream::connect(address).ok();
        }
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
    fn listen(self: &Arc<Self>, listener: &TcpListener) {
        for client in listener.incoming().flatten() {
            if self.over.load(Ordering::SeqCst) {
                return;
            }
            let shared = Arc::clone(self);
            // One that breaks off is what this is for.
            thread::spawn(move || shared.serve(client).ok());
        }
    }

    fn is_elsewhere(&self, client: &TcpStream) -> io::Result<bool> {
        Ok(client.local_addr()? == self.elsewhere)
    }

    /// What is to be done to a request, of what can be done to it.
    fn choose(&self, asked: &str, is_elsewhere: bool) -> Option<Fault> {
        if self.calm.load(Ordering::SeqCst) || self.chance.below(10) >= BAD {
            return None;
        }
        let suits = |fault| match fault {
            // An address there was good for a while only.
            _ if is_elsewhere => fault == Fault::Expire,
            Fault::Expire => asked.contains("/blobs/sha256:"),
            Fault::Whole => asked.to_lowercase().contains("\r\nrange: "),
            Fault::Half | Fault::Reset | Fault::Flip => asked.starts_with("GET "),
            _ => true,
        };
        self.faults.lock().unwrap().draw(&self.chance, suits)
    }

    /// One request of a connection, and its answer.
    fn serve(&self, mut client: TcpStream) -> io::Result<()> {
        client.set_read_timeout(Some(Duration::from_secs(30)))?;
        let asked = head(&mut client)?;
        if asked
            .split(' ')
            .nth(1)
            .is_some_and(|path| path.starts_with("/token"))
        {
            let token = "{\"token\":\"any\",\"expires_in\":60}";
            return answer(&mut client, "200 OK", &[], token);
        }
        let fault = self.choose(&asked, self.is_elsewhere(&client)?);
        let done = match fault {
            None => self.pass(&mut client, &asked, None)?,
            Some(fault) => self.misbehave(&mut client, &asked, fault)?,
        };
        if done && let Some(fault) = fault {
            self.faults.lock().unwrap().count(fault);
        }
        Ok(())
    }

    /// Answers badly; says whether it has.
    fn misbehave(&self, client: &mut TcpStream, asked: &str, fault: Fault) -> io::Result<bool> {
        match fault {
            Fault::Challenge => {
                let realm = format!(
                    "Bearer realm=\"http://{}/token\",service=\"s\"",
                    self.address
                );
                let headers = [("WWW-Authenticate", realm.as_str())];
                answer(client, "401 Unauthorized", &headers, "")?;
            }
            Fault::Expire if !self.is_elsewhere(client)? => {
                let path = asked.split(' ').nth(1).unwrap_or_default();
                let to = format!("http://{}{path}", self.elsewhere);
                let headers = [("Location", to.as_str())];
                answer(client, "307 Temporary Redirect", &headers, "")?;
                return Ok(false);
            }
            Fault::Expire => answer(client, "403 Forbidden", &[], "")?,
            Fault::Status(status) => answer(client, status, &[], "")?,
            Fault::Nothing => client.shutdown(Shutdown::Both)?,
            Fault::Stall => {
                thread::sleep(STALL);
                client.shutdown(Shutdown::Both)?;
            }
            Fault::Slow => {
                thread::sleep(Duration::from_millis(300));
                self.pass(client, asked, None)?;
            }
            Fault::Half | Fault::Reset | Fault::Whole | Fault::Flip => {
                return self.pass(client, asked, Some(fault));
            }
        }
        Ok(true)
    }

    /// Passes on what is asked and the registry's answer, changed; says whether it could be.
    fn pass(&self, client: &mut TcpStream, asked: &str, fault: Option<Fault>) -> io::Result<bool> {
        let mut server = TcpStream::connect(&self.registry)?;
        let mut passed = String::new();
        for line in asked.trim_end().split("\r\n") {
            let name = line.split(':').next().unwrap_or_default().to_lowercase();
            let dropped = name == "range" && fault == Some(Fault::Whole) || name == "authorization";
            if !dropped && name != "connection" {
                passed += line;
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
        // A refusal is bad enough as it is.
        let fault = fault.filter(|_| answer.starts_with("HTTP/1.1 2") && !body.is_empty());
        match fault {
            Some(Fault::Half | Fault::Reset) => body.truncate(body.len() / 2),
            Some(Fault::Flip) => {
                let at = usize::try_from(self.chance.below(body.len() as u64)).unwrap();
                body[at] ^= 0x10;
            }
            _ => {}
        }
        client.write_all(answer.as_bytes())?;
        client.write_all(&body)?;
        match fault {
            // Closed with nothing to linger for, it ends with RST.
            Some(Fault::Reset) => set_socket_linger(&*client, Some(Duration::ZERO))?,
            _ => client.shutdown(Shutdown::Write)?,
        }
        Ok(fault.is_some())
    }
}
