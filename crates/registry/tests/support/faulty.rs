//! An HTTP server whose every answer the test decides, faults of the connection included; by TLS, too.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::net::sockopt::set_socket_linger;
use rustls::{ServerConfig, ServerConnection, StreamOwned};

/// A request as it came.
#[derive(Clone, Debug)]
pub struct Seen {
    pub method: String,
    /// Path and query.
    pub target: String,
    /// Names in lower case.
    pub headers: BTreeMap<String, String>,
    pub body: Vec<u8>,
    /// Whether its connection shows a certificate of the client's.
    pub is_certified: bool,
    /// How many requests for this target came before.
    pub nth: usize,
}

impl Seen {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    /// First and last byte of a range.
    pub fn range(&self) -> Option<(usize, usize)> {
        let (first, last) = self
            .header("range")?
            .strip_prefix("bytes=")?
            .split_once('-')?;
        Some((first.parse().ok()?, last.parse().ok()?))
    }

    /// An honest answer with a blob or a range of it.
    pub fn serve(&self, blob: &[u8]) -> Reply {
        match self.range() {
            None => Reply::new(200, blob),
            Some((first, _)) if first >= blob.len() => Reply::new(416, ""),
            Some((first, last)) => {
                let last = last.min(blob.len() - 1);
                let range = format!("bytes {first}-{last}/{}", blob.len());
                Reply::new(206, &blob[first..=last]).header("content-range", range)
            }
        }
    }
}

/// What is answered.
#[derive(Clone, Debug)]
pub struct Reply {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    wait: Duration,
    fault: Fault,
}

#[derive(Clone, Copy, Debug)]
enum Fault {
    None,
    /// The connection is reset after so many bytes of the body.
    Reset(usize),
    /// The connection ends after so many bytes of the body, as if that were all.
    End(usize),
    /// Nothing more comes after so many bytes of the body.
    Stall(usize),
    /// The body has no length and simply ends.
    Unsized,
    /// The body comes again and again, with a pause before each time.
    Endless(Duration),
    /// So many bytes of the body, and a pause, until all of it has come.
    Trickle(usize, Duration),
}

impl Reply {
    pub fn new(status: u16, body: impl AsRef<[u8]>) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body: body.as_ref().to_vec(),
            wait: Duration::ZERO,
            fault: Fault::None,
        }
    }

    pub fn header(mut self, name: &str, value: impl ToString) -> Self {
        self.headers.push((name.to_owned(), value.to_string()));
        self
    }

    /// Before the answer begins.
    pub fn after(mut self, wait: Duration) -> Self {
        self.wait = wait;
        self
    }

    pub fn reset_after(mut self, bytes: usize) -> Self {
        self.fault = Fault::Reset(bytes);
        self
    }

    /// The connection ends in good order, too early.
    pub fn end_after(mut self, bytes: usize) -> Self {
        self.fault = Fault::End(bytes);
        self
    }

    pub fn stall_after(mut self, bytes: usize) -> Self {
        self.fault = Fault::Stall(bytes);
        self
    }

    pub fn without_length(mut self) -> Self {
        self.fault = Fault::Unsized;
        self
    }

    /// The body comes in pieces of so many bytes, each after a pause.
    pub fn trickling(mut self, bytes: usize, every: Duration) -> Self {
        self.fault = Fault::Trickle(bytes, every);
        self
    }

    /// The body comes again every so often, until nobody wants it any more.
    pub fn endless(mut self, every: Duration) -> Self {
        self.fault = Fault::Endless(every);
        self
    }
}

/// A connection, encrypted or not.
trait Wire: Read + Write {
    fn is_certified(&self) -> bool {
        false
    }
}

impl Wire for TcpStream {}

impl Wire for StreamOwned<ServerConnection, TcpStream> {
    fn is_certified(&self) -> bool {
        self.conn.peer_certificates().is_some()
    }
}

type Handler = dyn Fn(&Seen) -> Reply + Send + Sync;

/// The server. Its threads end with their connections.
pub struct Faulty {
    pub address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    connections: Arc<Mutex<usize>>,
    ended: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
}

impl Faulty {
    pub fn start(handler: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Self {
        Self::start_by(|socket| Box::new(socket), handler)
    }

    pub fn start_tls(
        tls: Arc<ServerConfig>,
        handler: impl Fn(&Seen) -> Reply + Send + Sync + 'static,
    ) -> Self {
        Self::start_tls_after(Vec::new(), tls, handler)
    }

    /// The first handshakes end with these alerts, the last of them first.
    pub fn start_tls_after(
        alerts: Vec<u8>,
        tls: Arc<ServerConfig>,
        handler: impl Fn(&Seen) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let alerts = Mutex::new(alerts);
        let connect = move |mut socket: TcpStream| -> Box<dyn Wire> {
            if let Some(alert) = alerts.lock().unwrap().pop() {
                let _ = socket.read(&mut [0; 16 << 10]);
                let _ = socket.write_all(&[21, 3, 3, 0, 2, 2, alert]);
                let _ = socket.shutdown(std::net::Shutdown::Write);
                return Box::new(socket);
            }
            let connection = ServerConnection::new(Arc::clone(&tls)).unwrap();
            Box::new(StreamOwned::new(connection, socket))
        };
        Self::start_by(connect, handler)
    }

    fn start_by(
        connect: impl Fn(TcpStream) -> Box<dyn Wire> + Send + Sync + 'static,
        handler: impl Fn(&Seen) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = Self {
            address: listener.local_addr().unwrap(),
            seen: Arc::default(),
            connections: Arc::default(),
            ended: Arc::default(),
            stop: Arc::default(),
        };
        let handler: Arc<Handler> = Arc::new(handler);
        let (seen, stop) = (Arc::clone(&server.seen), Arc::clone(&server.stop));
        let connections = Arc::clone(&server.connections);
        let (ended, connect) = (Arc::clone(&server.ended), Arc::new(connect));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if stop.load(Ordering::SeqCst) {
                    return;
                }
                *connections.lock().unwrap() += 1;
                let (seen, handler) = (Arc::clone(&seen), Arc::clone(&handler));
                let (ended, connect) = (Arc::clone(&ended), Arc::clone(&connect));
                std::thread::spawn(move || {
                    let socket = stream.unwrap();
                    let wire = connect(socket.try_clone().unwrap());
                    serve(wire, socket, &seen, &*handler);
                    ended.fetch_add(1, Ordering::SeqCst);
                });
            }
        });
        server
    }

    /// `HOST:PORT/REPOSITORY` as a reference.
    pub fn reference(&self, rest: &str) -> String {
        format!("{}/{rest}", self.address)
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    pub fn connections(&self) -> usize {
        *self.connections.lock().unwrap()
    }

    /// How many of them are no more.
    pub fn ended(&self) -> usize {
        self.ended.load(Ordering::SeqCst)
    }
}

impl Drop for Faulty {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
    }
}

/// Answers a connection's requests until something ends it.
fn serve(
    wire: Box<dyn Wire>,
    socket: TcpStream,
    seen: &Mutex<Vec<Seen>>,
    handler: &Handler,
) -> Option<()> {
    let mut reader = BufReader::new(wire);
    loop {
        let mut request = read_request(&mut reader)?;
        let reply = {
            let mut seen = seen.lock().unwrap();
            request.nth = seen.iter().filter(|it| it.target == request.target).count();
            seen.push(request.clone());
            drop(seen);
            handler(&request)
        };
        std::thread::sleep(reply.wait);
        write_reply(&mut **reader.get_mut(), &socket, &request, &reply)?;
    }
}

fn read_request(reader: &mut BufReader<Box<dyn Wire>>) -> Option<Seen> {
    let mut line = String::new();
    reader.read_line(&mut line).ok().filter(|len| *len > 0)?;
    let mut words = line.split(' ');
    let (method, target) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok().filter(|len| *len > 0)?;
        let Some((name, value)) = line.trim_end().split_once(':') else {
            break;
        };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let len = headers.get("content-length").and_then(|it| it.parse().ok());
    let mut body = vec![0; len.unwrap_or(0)];
    reader.read_exact(&mut body).ok()?;
    Some(Seen {
        method,
        target,
        headers,
        body,
        is_certified: reader.get_ref().is_certified(),
        nth: 0,
    })
}

fn write_reply(
    stream: &mut dyn Wire,
    socket: &TcpStream,
    request: &Seen,
    reply: &Reply,
) -> Option<()> {
    let mut head = format!("HTTP/1.1 {} Test\r\n", reply.status);
    for (name, value) in &reply.headers {
        head += &format!("{name}: {value}\r\n");
    }
    if !matches!(reply.fault, Fault::Unsized | Fault::Endless(_)) {
        head += &format!("content-length: {}\r\n", reply.body.len());
    }
    stream.write_all(format!("{head}\r\n").as_bytes()).ok()?;
    if request.method == "HEAD" {
        return Some(());
    }
    match reply.fault {
        Fault::None => stream.write_all(&reply.body).ok(),
        Fault::Unsized => {
            stream.write_all(&reply.body).ok()?;
            socket.shutdown(std::net::Shutdown::Both).ok()?;
            None
        }
        Fault::Trickle(bytes, every) => reply.body.chunks(bytes).try_for_each(|piece| {
            std::thread::sleep(every);
            stream.write_all(piece).ok()
        }),
        Fault::Endless(every) => loop {
            std::thread::sleep(every);
            stream.write_all(&reply.body).ok()?;
        },
        Fault::Reset(bytes) => {
            stream.write_all(&reply.body[..bytes]).ok()?;
            // Let the bytes arrive: a reset overtakes them.
            std::thread::sleep(Duration::from_millis(50));
            // Closed with nothing to linger for, it ends with RST.
            set_socket_linger(socket, Some(Duration::ZERO)).ok()?;
            None
        }
        Fault::End(bytes) => {
            stream.write_all(&reply.body[..bytes]).ok()?;
            socket.shutdown(std::net::Shutdown::Both).ok()?;
            None
        }
        Fault::Stall(bytes) => {
            stream.write_all(&reply.body[..bytes]).ok()?;
            let _ = stream.read(&mut [0; 1]);
            None
        }
    }
}
