//! Flat read-only files whose bytes are given by this process: FUSE, and of it only that.
//!
//! ```text
//! Device::mount ── Files: name → number, size ──▶ a reader's read(2) sleeps
//!     ▲                                                 │
//!     │                                                 ▼
//!     └── Read::answer / deny ◀── Device::read: which file, which bytes
//! ```
//!
//! [`Device::read`] answers by itself what is asked about names and sizes, and gives reads to the
//! caller, who may answer them in any order, from any thread and from any process that holds the
//! device. A number names its file for as long as the device lives, whoever serves it, so nothing
//! has to be remembered of who has what open.
//!
//! - **Opened directly** (`FOPEN_DIRECT_IO`): every read is one request for just these bytes. The
//!   readers are EROFS mounts and loop devices, which cache and read ahead themselves; a second
//!   page cache below theirs would hold everything twice, and would fetch whole pages and further
//!   ones that nobody wants.
//! - **An answer is all of the bytes or an error.** EROFS takes what a short answer lacks for zeros.
//! - **Whoever holds the device keeps the connection.** What a dead reader of the device had not
//!   answered is asked again after [`Device::resend`], or can be [denied](Device::deny_lost); it
//!   goes on without a second `FUSE_INIT`. When the last holder is gone every read fails.
//!
//! Written by hand: the sessions of the crate `fuser` begin with `FUSE_INIT`, which the kernel sends
//! once per connection, so that none of them can go on with one that another process began; and
//! they read in a loop of their own, where the caller here polls several things.

mod abi;
mod answers;

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::thread;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{Mode, OFlags};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::mount;

/// Requests taken before the caller sees them.
const BATCH: usize = 64;
/// Most bytes of a read, in pages.
const MAX_PAGES: u16 = 256;
/// Reads that may wait at the same time; the kernel holds back further ones.
const MAX_WAITING: u16 = 16 << 10;
/// How far back the numbers of unanswered requests can lie: more than a bound's worth of requests.
const MAX_LOST: u64 = 16 << 20;

/// Why a FUSE filesystem could not be made or served.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The device does not open.
    #[error("cannot open /dev/fuse (needs root and CONFIG_FUSE_FS)")]
    Open(#[source] io::Error),
    /// It could not be mounted.
    #[error(transparent)]
    Mount(#[from] mount::Error),
    /// Reading requests failed; `ENODEV`: the filesystem is gone, or somebody has aborted it.
    #[error("cannot read FUSE requests")]
    Read(#[source] io::Error),
    /// Writing an answer failed; `ENOENT`: nobody waits for it any more.
    #[error("cannot answer a FUSE request")]
    Answer(#[source] io::Error),
    /// Requests of a dead process cannot be asked for again.
    #[error("cannot have FUSE requests sent again (needs Linux 6.9)")]
    Resend(#[source] io::Error),
    /// The kernel wrote something that is not a request of the known version.
    #[error("the kernel's FUSE request is not understood: {0}")]
    Malformed(&'static str),
}

impl Error {
    /// Whether the connection is over, for every holder.
    #[must_use]
    pub fn is_over(&self) -> bool {
        matches!(self, Self::Read(error) if error.raw_os_error() == Some(libc::ENODEV))
    }
}

/// The number by which the kernel names a file. Not 0, and not 1, which is the directory.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Node(pub u64);

/// A file that is there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FlatFile {
    /// Its number: always the same for the same name.
    pub node: Node,
    /// Bytes of it.
    pub size: u64,
}

/// Which files there are.
pub trait Files {
    /// The file with this name.
    fn find(&self, name: &[u8]) -> Option<FlatFile>;

    /// The file with this number.
    fn get(&self, node: Node) -> Option<FlatFile>;
}

/// A FUSE connection. Never blocks: reads are non-blocking, and [`AsFd`] gives what to poll.
#[derive(Debug)]
pub struct Device {
    fd: OwnedFd,
}

impl Device {
    /// Mounts a filesystem of flat files at the directory `target`, for root only. Whatever is
    /// done with it waits until somebody [reads](Device::read).
    ///
    /// # Errors
    /// [`Error::Open`], [`Error::Mount`].
    pub fn mount(target: &Path) -> Result<Self, Error> {
        let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let fd = rustix::fs::open("/dev/fuse", flags, Mode::empty())
            .map_err(|error| Error::Open(error.into()))?;
        mount::fuse(fd.as_fd())?.attach(target)?;
        Ok(Self { fd })
    }

    /// Takes over a connection that another process made.
    #[must_use]
    pub fn from_fd(fd: OwnedFd) -> Self {
        Self { fd }
    }

    /// One more holder of the connection.
    ///
    /// # Errors
    /// When descriptors have run out.
    pub fn holder(&self) -> io::Result<OwnedFd> {
        self.fd.try_clone()
    }

    /// Takes the reads that wait, at most a batch, and answers what else is asked.
    ///
    /// Takes the device as an `Arc` because each read holds it until it is answered.
    ///
    /// # Errors
    /// [`Error::Read`] and [`Error::Malformed`].
    pub fn read(self: &Arc<Self>, files: &impl Files) -> Result<Vec<Read>, Error> {
        let mut reads = Vec::new();
        let mut buffer = [0; abi::BUFFER_BYTES];
        for _ in 0..BATCH {
            let len = match rustix::io::read(&self.fd, &mut buffer) {
                Ok(len) => len,
                Err(rustix::io::Errno::AGAIN) => break,
                // ENOENT: who asked was gone before we came.
                Err(rustix::io::Errno::INTR | rustix::io::Errno::NOENT) => continue,
                Err(error) => return Err(Error::Read(error.into())),
            };
            let request = Request::parse(&buffer[..len])?;
            if let Some(read) = self.take(&request, files)? {
                reads.push(read);
            }
        }
        Ok(reads)
    }

    /// Answers a request, unless it is a read.
    fn take(
        self: &Arc<Self>,
        request: &Request<'_>,
        files: &impl Files,
    ) -> Result<Option<Read>, Error> {
        let answered = match request.header.opcode {
            abi::READ => return self.take_read(request).map(Some),
            abi::FORGET | abi::BATCH_FORGET => return Ok(None),
            abi::INIT => self.init(request)?,
            abi::LOOKUP => match files.find(request.name()) {
                Some(file) => self.reply(request, &answers::entry(&file)),
                None => self.refuse(request, libc::ENOENT),
            },
            abi::GETATTR => match answers::attributes(request.header.node, files) {
                Some(attributes) => self.reply(request, &attributes),
                None => self.refuse(request, libc::ESTALE),
            },
            abi::OPEN => match files.get(Node(request.header.node)) {
                Some(_) => self.reply(request, &answers::open()),
                None => self.refuse(request, libc::ESTALE),
            },
            // It is listed as empty: names are looked up.
            abi::OPENDIR => self.reply(request, &abi::OpenOut::default()),
            abi::STATFS => self.reply(request, &answers::statistics()),
            abi::READDIR | abi::RELEASEDIR | abi::RELEASE | abi::DESTROY => {
                self.reply(request, &[0; 0])
            }
            // The kernel remembers most of these and does not ask again.
            _ => self.refuse(request, libc::ENOSYS),
        };
        match answered {
            // Who asked was killed.
            Err(Error::Answer(error)) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
            other => other.map(|()| None),
        }
    }

    fn take_read(self: &Arc<Self>, request: &Request<'_>) -> Result<Read, Error> {
        let body: abi::ReadIn = request.body()?;
        Ok(Read {
            device: Arc::clone(self),
            unique: request.header.unique,
            node: Node(request.header.node),
            pid: request.header.pid.cast_signed(),
            offset: body.offset,
            size: body.size,
            answered: false,
        })
    }

    /// Says which version we speak, and what we can do.
    fn init(&self, request: &Request<'_>) -> Result<Result<(), Error>, Error> {
        let asked: abi::InitIn = request.body()?;
        if asked.major < abi::MAJOR {
            return Ok(self.refuse(request, libc::EPROTO));
        }
        let known = abi::ASYNC_READ
            | abi::ASYNC_DIO
            | abi::PARALLEL_DIROPS
            | abi::MAX_PAGES
            | abi::INIT_EXT;
        let flags = asked.flags & known;
        let extended = flags & abi::INIT_EXT != 0;
        let answer = abi::InitOut {
            major: abi::MAJOR,
            minor: abi::MINOR,
            flags,
            max_background: MAX_WAITING,
            congestion_threshold: MAX_WAITING,
            // Nobody writes; the kernel wants it to be at least a page.
            max_write: 4096,
            time_gran: 1,
            max_pages: MAX_PAGES,
            flags2: if extended { abi::HAS_RESEND } else { 0 },
            ..abi::InitOut::default()
        };
        Ok(self.reply(request, &answer))
    }

    fn reply(
        &self,
        request: &Request<'_>,
        body: &(impl IntoBytes + Immutable),
    ) -> Result<(), Error> {
        self.write(request.header.unique, 0, body.as_bytes())
    }

    fn refuse(&self, request: &Request<'_>, errno: i32) -> Result<(), Error> {
        self.write(request.header.unique, errno, &[])
    }

    fn write(&self, unique: u64, errno: i32, body: &[u8]) -> Result<(), Error> {
        self.send(unique, -errno, body).map_err(Error::Answer)
    }

    fn send(&self, unique: u64, error: i32, body: &[u8]) -> io::Result<()> {
        let len = size_of::<abi::OutHeader>() + body.len();
        let header = abi::OutHeader {
            len: u32::try_from(len).map_err(|_| io::ErrorKind::InvalidInput)?,
            error,
            unique,
        };
        let parts = [IoSlice::new(header.as_bytes()), IoSlice::new(body)];
        rustix::io::retry_on_intr(|| rustix::io::writev(&self.fd, &parts))?;
        Ok(())
    }

    /// Lets the kernel ask again for everything that was read from the device and not answered.
    ///
    /// Only for when whoever read it is dead: what a live reader still answers would be answered
    /// twice.
    ///
    /// # Errors
    /// [`Error::Resend`].
    pub fn resend(&self) -> Result<(), Error> {
        self.send(0, abi::NOTIFY_RESEND, &[]).map_err(Error::Resend)
    }

    /// Denies with `EIO` whatever waits for an answer, also what was read by a process that is gone:
    /// by trying every number that a request can have, up to that of one that is made for this at
    /// `target`, where the device is mounted. Returns how many there were.
    ///
    /// For kernels that cannot [resend](Device::resend), and only for when nobody reads from the
    /// device.
    ///
    /// # Errors
    /// [`Error::Read`] and [`Error::Malformed`].
    pub fn deny_lost(&self, target: &Path) -> Result<usize, Error> {
        let target = target.to_owned();
        let asker = thread::spawn(move || rustix::fs::statfs(target).map(|_| ()));
        let mut newest = None;
        while newest.is_none() && !asker.is_finished() {
            newest = self.newest()?;
        }
        let newest = newest.unwrap_or(0);
        let oldest = newest.saturating_sub(MAX_LOST);
        let numbers = (oldest..=newest).filter(|number| number % 2 == 0);
        Ok(numbers
            .filter(|number| self.send(*number, -libc::EIO, &[]).is_ok())
            .count())
    }

    /// The number of the newest request that waits, of which none is answered.
    fn newest(&self) -> Result<Option<u64>, Error> {
        let pause = rustix::time::Timespec {
            tv_sec: 0,
            tv_nsec: 10_000_000,
        };
        // What cannot be polled cannot be read either, which says why.
        let _ = poll(&mut [PollFd::new(self, PollFlags::IN)], Some(&pause));
        let mut newest = None;
        let mut buffer = [0; abi::BUFFER_BYTES];
        loop {
            match rustix::io::read(&self.fd, &mut buffer) {
                Ok(len) => {
                    let header = Request::parse(&buffer[..len])?.header;
                    newest = newest.max(Some(header.unique));
                }
                Err(rustix::io::Errno::AGAIN) => return Ok(newest),
                Err(rustix::io::Errno::INTR | rustix::io::Errno::NOENT) => {}
                Err(error) => return Err(Error::Read(error.into())),
            }
        }
    }
}

impl AsFd for Device {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// A request in the buffer.
#[derive(Debug)]
struct Request<'a> {
    header: abi::InHeader,
    body: &'a [u8],
}

impl<'a> Request<'a> {
    fn parse(bytes: &'a [u8]) -> Result<Self, Error> {
        let (header, body) = abi::InHeader::read_from_prefix(bytes)
            .map_err(|_| Error::Malformed("shorter than its header"))?;
        if usize::try_from(header.len).ok() != Some(bytes.len()) {
            return Err(Error::Malformed("wrong length"));
        }
        Ok(Self { header, body })
    }

    fn body<T: FromBytes + KnownLayout + Immutable>(&self) -> Result<T, Error> {
        let (body, _) = T::read_from_prefix(self.body)
            .map_err(|_| Error::Malformed("shorter than its body"))?;
        Ok(body)
    }

    /// The name, which ends with a zero.
    fn name(&self) -> &'a [u8] {
        self.body
            .split(|byte| *byte == 0)
            .next()
            .unwrap_or_default()
    }
}

/// A reader that waits. Answer it with [`Read::answer`] or [`Read::deny`]; one that is dropped is
/// denied with `EIO`.
#[derive(Debug)]
#[must_use = "a reader waits for the answer"]
pub struct Read {
    device: Arc<Device>,
    unique: u64,
    node: Node,
    pid: i32,
    offset: u64,
    size: u32,
    answered: bool,
}

impl Read {
    /// The file.
    #[must_use]
    pub fn node(&self) -> Node {
        self.node
    }

    /// The reader's thread id; 0 if it is not visible from here.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// First byte wanted.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Number of bytes wanted; may reach past the end of the file.
    #[must_use]
    pub fn size(&self) -> u32 {
        self.size
    }

    /// Gives the reader its bytes: all that it wants, up to the file's end.
    ///
    /// # Errors
    /// [`Error::Answer`]; `ENOENT` means that the reader was killed.
    pub fn answer(mut self, bytes: &[u8]) -> Result<(), Error> {
        self.answered = true;
        self.device.write(self.unique, 0, bytes)
    }

    /// Lets the read fail.
    ///
    /// # Errors
    /// [`Error::Answer`]; `ENOENT` means that the reader was killed.
    pub fn deny(mut self, errno: i32) -> Result<(), Error> {
        self.answered = true;
        self.device.write(self.unique, errno, &[])
    }
}

impl Drop for Read {
    fn drop(&mut self) {
        if !self.answered {
            // The reader may be gone, which is as good as an answer.
            let _ = self.device.write(self.unique, libc::EIO, &[]);
        }
    }
}

/// What the link of a descriptor of a connection says.
pub const DEVICE: &str = "/dev/fuse";

#[cfg(test)]
mod tests {
    use super::*;

    fn request(len: u32, body: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend_from_slice(&len.to_ne_bytes());
        bytes.extend_from_slice(&abi::LOOKUP.to_ne_bytes());
        bytes.extend_from_slice(&[0; 32]);
        bytes.extend_from_slice(body);
        bytes
    }

    #[test]
    fn a_name_is_read_up_to_its_end() {
        let bytes = request(45, b"name\0");
        assert_eq!(Request::parse(&bytes).unwrap().name(), b"name");
    }

    #[test]
    fn malformed_requests_are_refused() {
        for bytes in [vec![0; 10], request(44, b"name\0"), request(46, b"name\0")] {
            assert!(Request::parse(&bytes).is_err(), "{bytes:?}");
        }
        let bytes = request(45, b"short");
        let body = Request::parse(&bytes).unwrap().body::<abi::ReadIn>();
        assert!(body.is_err());
    }
}
