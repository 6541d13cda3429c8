//! A long link to one server: what the server says comes late and, behind so many bytes, not before the
//! test wants it.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, mpsc};
use std::time::{Duration, Instant};

/// The link. Its threads end with their connections.
pub struct Pipe {
    pub address: SocketAddr,
    shared: Arc<Shared>,
    stop: Arc<AtomicBool>,
}

struct Shared {
    delay: Duration,
    /// Bytes that may still pass.
    left: Mutex<usize>,
    opened: Condvar,
    connections: AtomicUsize,
}

impl Pipe {
    pub fn start(server: &str, delay: Duration, bytes: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let pipe = Self {
            address: listener.local_addr().unwrap(),
            shared: Arc::new(Shared {
                delay,
                left: Mutex::new(bytes),
                opened: Condvar::new(),
                connections: AtomicUsize::new(0),
            }),
            stop: Arc::default(),
        };
        let server = server.to_owned();
        let (shared, stop) = (Arc::clone(&pipe.shared), Arc::clone(&pipe.stop));
        std::thread::spawn(move || {
            for client in listener.incoming() {
                if stop.load(Ordering::SeqCst) {
                    return;
                }
                shared.connections.fetch_add(1, Ordering::SeqCst);
                shared.join(client.unwrap(), TcpStream::connect(&server).unwrap());
            }
        });
        pipe
    }

    /// Lets everything pass.
    pub fn open(&self) {
        *self.shared.left.lock().unwrap() = usize::MAX;
        self.shared.opened.notify_all();
    }

    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        self.open();
        self.stop.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
    }
}

impl Shared {
    fn join(self: &Arc<Self>, client: TcpStream, server: TcpStream) {
        let (mut from, mut to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
        std::thread::spawn(move || {
            let _ = std::io::copy(&mut from, &mut to);
            let _ = to.shutdown(Shutdown::Both);
        });
        // Without bound: the server is never held up.
        let (sender, said) = mpsc::channel::<(Instant, Vec<u8>)>();
        std::thread::spawn(move || {
            let (mut server, mut piece) = (server, vec![0; 64 << 10]);
            while let Ok(len @ 1..) = server.read(&mut piece) {
                if sender
                    .send((Instant::now(), piece[..len].to_vec()))
                    .is_err()
                {
                    return;
                }
            }
        });
        let shared = Arc::clone(self);
        std::thread::spawn(move || {
            let mut client = client;
            for (at, bytes) in said {
                let due = at + shared.delay;
                std::thread::sleep(due.saturating_duration_since(Instant::now()));
                shared.pass(bytes.len());
                if client.write_all(&bytes).is_err() {
                    break;
                }
            }
            let _ = client.shutdown(Shutdown::Both);
        });
    }

    /// Waits until so many bytes may pass.
    fn pass(&self, bytes: usize) {
        let left = self.left.lock().unwrap();
        let mut left = self.opened.wait_while(left, |left| *left < bytes).unwrap();
        *left -= bytes;
    }
}
