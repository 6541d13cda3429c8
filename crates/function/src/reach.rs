//! Connections into containers. A socket belongs to the network namespace that its thread was in when
//! it was made, so one thread of the host's goes from namespace to namespace and makes sockets there;
//! what is connected is used from anywhere. So a server on a container's own loopback interface is
//! reached too, and nothing of a container has to be reachable from outside.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, mpsc};

use rustix::net::{AddressFamily, SocketAddrV4, SocketFlags, SocketType, connect, socket_with};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::net::TcpStream;
use tokio::sync::oneshot;

use crate::machine::Reach;

/// A connection that is wanted.
struct Wanted {
    namespace: Arc<Reach>,
    port: u16,
    done: oneshot::Sender<io::Result<std::net::TcpStream>>,
}

/// The thread.
#[derive(Clone, Debug)]
pub(crate) struct Connector(mpsc::Sender<Wanted>);

impl Connector {
    /// Starts it; it ends with the last clone of this value.
    pub(crate) fn start() -> io::Result<Self> {
        let (sender, receiver) = mpsc::channel::<Wanted>();
        std::thread::Builder::new()
            .name("connect".into())
            .spawn(move || {
                for wanted in receiver {
                    let socket = begin(&wanted.namespace, wanted.port);
                    wanted.done.send(socket).ok();
                }
            })?;
        Ok(Self(sender))
    }

    /// Connects to a port of a container's loopback interface.
    ///
    /// # Errors
    /// Those of connect(2): `ConnectionRefused` as long as nobody listens.
    pub(crate) async fn connect(&self, reach: &Arc<Reach>, port: u16) -> io::Result<TcpStream> {
        let (done, answer) = oneshot::channel();
        let namespace = Arc::clone(reach);
        let wanted = Wanted {
            namespace,
            port,
            done,
        };
        let gone = || io::Error::other("the thread that connects is gone");
        self.0.send(wanted).map_err(|_| gone())?;
        let stream = TcpStream::from_std(answer.await.map_err(|_| gone())??)?;
        stream.writable().await?;
        if let Some(error) = stream.take_error()? {
            return Err(error);
        }
        stream.set_nodelay(true)?;
        Ok(stream)
    }
}

/// Makes a socket in the namespace, and begins to connect it.
fn begin(reach: &Reach, port: u16) -> io::Result<std::net::TcpStream> {
    let kind = Some(LinkNameSpaceType::Network);
    move_into_link_name_space(reach.0.as_fd(), kind)?;
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket: OwnedFd = socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)?;
    let address = SocketAddrV4::new(Ipv4Addr::LOCALHOST, port);
    match connect(&socket, &address) {
        Ok(()) | Err(rustix::io::Errno::INPROGRESS) => Ok(socket.into()),
        Err(error) => Err(error.into()),
    }
}
