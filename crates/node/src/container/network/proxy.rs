//! Published ports: the monitor listens on the host and carries what comes to the container. This
//! needs no packet filter, works for clients on this very host, and ends with the monitor.
//!
//! TCP: a thread accepts, two threads carry a connection (splice(2) inside std, so that bytes do not
//! pass through this process). UDP: a thread receives, one more for each client carries the
//! answers until the container is silent for [`UDP_SILENCE`].

use std::collections::HashMap;
use std::io;
use std::net::{
    IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket,
};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};

use crate::container::options::{PortMapping, Protocol};
use crate::container::{ContainerError, Published};

/// Connections, and UDP clients, at a time for one port.
const MAX_PEERS: usize = 4096;
/// How long a connection to the container may take.
const CONNECT: Duration = Duration::from_secs(10);
/// After how long a UDP client that gets nothing is forgotten.
pub const UDP_SILENCE: Duration = Duration::from_secs(90);

/// Sockets on the host, and where what comes there goes.
#[derive(Debug)]
pub(in crate::container) struct Listeners {
    sockets: Vec<(Socket, SocketAddr)>,
    ports: Vec<Published>,
}

#[derive(Debug)]
enum Socket {
    Tcp(TcpListener),
    Udp(UdpSocket),
}

/// Threads that serve [`Listeners`]; they end when the value goes.
#[derive(Debug)]
pub(in crate::container) struct Proxy {
    stop: Arc<Stop>,
    threads: Vec<thread::JoinHandle<()>>,
}

/// Wakes every thread of a proxy.
#[derive(Debug)]
struct Stop {
    event: OwnedFd,
    set: AtomicBool,
}

impl Listeners {
    /// Listens for every mapping, on behalf of the container at `target`.
    pub(in crate::container) fn bind(
        mappings: &[PortMapping],
        target: Ipv4Addr,
    ) -> Result<Self, ContainerError> {
        let mut listeners = Self {
            sockets: Vec::new(),
            ports: Vec::new(),
        };
        for mapping in mappings {
            let (socket, address) = Socket::bind(mapping)?;
            let target = SocketAddr::from((target, mapping.container));
            listeners.ports.push(Published {
                host: address,
                container: mapping.container,
                protocol: mapping.protocol,
            });
            listeners.sockets.push((socket, target));
        }
        Ok(listeners)
    }

    /// What is listened for, free ports as the numbers that they got.
    pub(in crate::container) fn published(&self) -> Vec<Published> {
        self.ports.clone()
    }

    /// Begins to serve.
    pub(in crate::container) fn serve(self) -> Result<Proxy, ContainerError> {
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(ContainerError::system("make an event"))?;
        let stop = Arc::new(Stop {
            event,
            set: AtomicBool::new(false),
        });
        let mut proxy = Proxy {
            stop: Arc::clone(&stop),
            threads: Vec::new(),
        };
        for (socket, target) in self.sockets {
            let stop = Arc::clone(&stop);
            let thread = spawn("port", move || match socket {
                Socket::Tcp(listener) => serve_tcp(&listener, target, &stop),
                Socket::Udp(socket) => serve_udp(&Arc::new(socket), target, &stop),
            });
            proxy
                .threads
                .push(thread.map_err(ContainerError::system("start a thread"))?);
        }
        Ok(proxy)
    }
}

impl Socket {
    fn bind(mapping: &PortMapping) -> Result<(Self, SocketAddr), ContainerError> {
        let open = |ip: IpAddr| {
            let address = SocketAddr::new(ip, mapping.host);
            let opened = match mapping.protocol {
                Protocol::Tcp => TcpListener::bind(address).map(Self::Tcp),
                Protocol::Udp => UdpSocket::bind(address).map(Self::Udp),
            };
            opened.map_err(|source| ContainerError::Publish {
                address: address.to_string(),
                source,
            })
        };
        let socket = match (mapping.ip, mapping.protocol) {
            (Some(ip), _) => open(ip)?,
            // IPv6's unspecified address takes IPv4 too, where there is IPv6. Not for UDP, whose
            // answers must leave from the address that was asked.
            (None, Protocol::Tcp) => match open(Ipv6Addr::UNSPECIFIED.into()) {
                Err(ContainerError::Publish { source, .. })
                    if source.kind() != io::ErrorKind::AddrInUse =>
                {
                    open(Ipv4Addr::UNSPECIFIED.into())?
                }
                other => other?,
            },
            (None, Protocol::Udp) => open(Ipv4Addr::UNSPECIFIED.into())?,
        };
        let address = match &socket {
            Self::Tcp(listener) => listener
                .set_nonblocking(true)
                .and_then(|()| listener.local_addr()),
            Self::Udp(socket) => socket
                .set_nonblocking(true)
                .and_then(|()| socket.local_addr()),
        };
        let address = address.map_err(ContainerError::system("prepare a listening socket"))?;
        Ok((socket, address))
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.stop.set.store(true, Ordering::Release);
        let _ = rustix::io::write(&self.stop.event, &1u64.to_ne_bytes());
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Stop {
    /// Waits until `socket` has something to read; false when the proxy stops, and after `timeout`.
    fn wait(&self, socket: BorrowedFd<'_>, timeout: Option<Duration>) -> bool {
        let timeout = timeout.and_then(|timeout| timeout.try_into().ok());
        let mut both = [
            PollFd::new(&self.event, PollFlags::IN),
            PollFd::from_borrowed_fd(socket, PollFlags::IN),
        ];
        match poll(&mut both, timeout.as_ref()) {
            Ok(ready) => ready > 0 && !self.set.load(Ordering::Acquire),
            Err(error) => error == rustix::io::Errno::INTR,
        }
    }
}

fn serve_tcp(listener: &TcpListener, target: SocketAddr, stop: &Arc<Stop>) {
    let peers = Arc::new(AtomicUsize::new(0));
    while stop.wait(listener.as_fd(), None) {
        let client = match listener.accept() {
            Ok((client, _)) => client,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            // Out of descriptors, most likely: not to be asked again at once.
            Err(_) => {
                thread::sleep(Duration::from_millis(50));
                continue;
            }
        };
        let Some(seat) = Seat::take(&peers) else {
            continue;
        };
        // Where there is no thread for it, the client sees its connection closed.
        let _ = spawn("connection", move || {
            let _seat = seat;
            let _ = carry_tcp(&client, target);
        });
    }
}

/// One of the [`MAX_PEERS`] places at a port.
#[derive(Debug)]
struct Seat(Arc<AtomicUsize>);

impl Seat {
    fn take(peers: &Arc<AtomicUsize>) -> Option<Self> {
        let before = peers.fetch_add(1, Ordering::AcqRel);
        let seat = Self(Arc::clone(peers));
        (before < MAX_PEERS).then_some(seat)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

fn carry_tcp(client: &TcpStream, target: SocketAddr) -> io::Result<()> {
    client.set_nonblocking(false)?;
    let server = TcpStream::connect_timeout(&target, CONNECT)?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    // Each side may end before the other: the end is passed on, not more.
    let one_way = |mut from: &TcpStream, mut to: &TcpStream| {
        if io::copy(&mut from, &mut to).is_err() {
            let _ = from.shutdown(Shutdown::Both);
        }
        let _ = to.shutdown(Shutdown::Write);
    };
    thread::scope(|scope| {
        let back = thread::Builder::new()
            .stack_size(STACK)
            .spawn_scoped(scope, || one_way(&server, client));
        if back.is_err() {
            let _ = server.shutdown(Shutdown::Both);
        }
        one_way(client, &server);
    });
    Ok(())
}

/// A client's socket towards the container, and whether its thread still runs.
type Session = (Arc<UdpSocket>, Arc<AtomicBool>);

fn serve_udp(socket: &Arc<UdpSocket>, target: SocketAddr, stop: &Arc<Stop>) {
    let mut sessions: HashMap<SocketAddr, Session> = HashMap::new();
    // The largest datagram.
    let mut buffer = vec![0; 1 << 16];
    while stop.wait(socket.as_fd(), None) {
        let Ok((count, client)) = socket.recv_from(&mut buffer) else {
            continue;
        };
        sessions.retain(|_, (_, open)| open.load(Ordering::Acquire));
        if !sessions.contains_key(&client)
            && sessions.len() < MAX_PEERS
            && let Ok(session) = open_session(socket, client, target, stop)
        {
            sessions.insert(client, session);
        }
        if let Some((server, _)) = sessions.get(&client) {
            let _ = server.send(buffer.get(..count).unwrap_or_default());
        }
    }
}

fn open_session(
    socket: &Arc<UdpSocket>,
    client: SocketAddr,
    target: SocketAddr,
    stop: &Arc<Stop>,
) -> io::Result<Session> {
    let server = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    server.connect(target)?;
    server.set_nonblocking(true)?;
    let server = Arc::new(server);
    let open = Arc::new(AtomicBool::new(true));
    let (from, to) = (Arc::clone(&server), Arc::clone(socket));
    let (stop, alive) = (Arc::clone(stop), Arc::clone(&open));
    spawn("udp-client", move || {
        let mut buffer = vec![0; 1 << 16];
        while stop.wait(from.as_fd(), Some(UDP_SILENCE)) {
            match from.recv(&mut buffer) {
                Ok(count) => {
                    let _ = to.send_to(buffer.get(..count).unwrap_or_default(), client);
                }
                // Refused: the container does not listen yet.
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => break,
            }
        }
        alive.store(false, Ordering::Release);
    })?;
    Ok((server, open))
}

const STACK: usize = 64 << 10;

fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> io::Result<thread::JoinHandle<()>> {
    thread::Builder::new()
        .name(format!("container-{name}"))
        .stack_size(STACK)
        .spawn(body)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    fn serve(protocol: Protocol, container: u16) -> (Proxy, SocketAddr) {
        let mapping = PortMapping {
            ip: Some(Ipv4Addr::LOCALHOST.into()),
            host: 0,
            container,
            protocol,
        };
        let listeners = Listeners::bind(&[mapping], Ipv4Addr::LOCALHOST).unwrap();
        let address = listeners.published()[0].host;
        (listeners.serve().unwrap(), address)
    }

    #[test]
    fn connections_are_carried_both_ways_and_end_one_by_one() {
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = server.local_addr().unwrap().port();
        let echo = thread::spawn(move || {
            let (mut stream, _) = server.accept().unwrap();
            let mut all = Vec::new();
            // Answers only when the client has ended its side.
            stream.read_to_end(&mut all).unwrap();
            stream.write_all(&all).unwrap();
        });
        let (proxy, address) = serve(Protocol::Tcp, port);
        let mut client = TcpStream::connect(address).unwrap();
        let sent = vec![42; 300_000];
        client.write_all(&sent).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        let mut got = Vec::new();
        client.read_to_end(&mut got).unwrap();
        assert_eq!(got, sent);
        echo.join().unwrap();
        // The server is gone: the client is told.
        let mut refused = TcpStream::connect(address).unwrap();
        assert_eq!(refused.read_to_end(&mut got).unwrap_or(0), 0);
        drop(proxy);
        assert!(TcpStream::connect(address).is_err());
    }

    #[test]
    fn datagrams_find_their_client() {
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        let (_proxy, address) = serve(Protocol::Udp, server.local_addr().unwrap().port());
        let client = || {
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            socket
                .set_read_timeout(Some(Duration::from_secs(10)))
                .unwrap();
            socket.connect(address).unwrap();
            socket
        };
        let (first, second) = (client(), client());
        first.send(b"one").unwrap();
        let mut buffer = [0; 16];
        let (_, at_first) = server.recv_from(&mut buffer).unwrap();
        second.send(b"two").unwrap();
        let (count, at_second) = server.recv_from(&mut buffer).unwrap();
        assert_eq!(&buffer[..count], b"two");
        server.send_to(b"to two", at_second).unwrap();
        server.send_to(b"to one", at_first).unwrap();
        let count = first.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..count], b"to one");
        let count = second.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..count], b"to two");
    }
}
