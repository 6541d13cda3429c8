//! Pre-content events (Linux 6.14): the kernel stops a read of a marked file and asks first.
//!
//! ```text
//! Group::new ── mark(file) ──▶ a reader's read(2) sleeps
//!     ▲                              │
//!     │                              ▼
//!     └── Event::allow / deny ◀── Group::read: which file, which bytes
//! ```
//!
//! What a caller must know (`FAN_CLASS_PRE_CONTENT`, fanotify(7)):
//!
//! - Whether an open file raises events is fixed when it is *opened*: mark first, open afterwards.
//!   A descriptor opened before the mark raises none, and stays so. It applies to writes as well.
//! - An event is named by the number of its descriptor, and any holder of the group may answer it.
//!   So it is answered before its descriptor is closed, else the number could mean two events.
//! - **When the last descriptor of a group is closed, every waiting and every later read is let
//!   through.** Whoever serves holes must not be the only holder.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

// include/uapi/linux/fanotify.h; those that libc does not have yet.
const FAN_PRE_ACCESS: u64 = 0x0010_0000;
const FAN_EVENT_INFO_TYPE_RANGE: u8 = 6;
const FAN_ALLOW: u32 = 1;
const FAN_DENY: u32 = 2;
const FAN_ERRNO_SHIFT: u32 = 24;
const FANOTIFY_METADATA_VERSION: u8 = 3;

/// Bytes of an event: `struct fanotify_event_metadata`, `struct fanotify_event_info_range`.
const EVENT_BYTES: usize = 24 + 24;
/// Bytes of a buffer that takes a batch of about 80 events.
const BATCH_BYTES: usize = 4096;

/// Why the kernel's event interface could not be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// `fanotify_init(2)` refused.
    #[error(
        "cannot create a group for pre-content events (needs root and CONFIG_FANOTIFY_ACCESS_PERMISSIONS)"
    )]
    Init(#[source] io::Error),
    /// `fanotify_mark(2)` refused to add a mark.
    #[error("cannot watch a file for pre-content events (needs Linux 6.14 and ext4, xfs or btrfs)")]
    Mark(#[source] io::Error),
    /// `fanotify_mark(2)` refused to remove a mark.
    #[error("cannot stop watching a file for pre-content events")]
    Unmark(#[source] io::Error),
    /// Reading events failed.
    #[error("cannot read pre-content events")]
    Read(#[source] io::Error),
    /// Writing an answer failed.
    #[error("cannot answer a pre-content event")]
    Answer(#[source] io::Error),
    /// The kernel wrote something that is not an event of the known version.
    #[error("the kernel's pre-content event is not understood: {0}")]
    Malformed(&'static str),
}

/// With which error a denied read fails. The kernel takes only these.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Denial {
    /// `EIO`.
    Io,
    /// `EPERM`.
    Permission,
    /// `EBUSY`.
    Busy,
    /// `ETXTBSY`.
    TextBusy,
    /// `EAGAIN`.
    Again,
    /// `ENOSPC`.
    NoSpace,
    /// `EDQUOT`.
    Quota,
}

impl Denial {
    /// The denial for an errno; every errno that the kernel does not take becomes [`Denial::Io`].
    #[must_use]
    pub fn from_errno(errno: i32) -> Self {
        let known = [
            Self::Permission,
            Self::Busy,
            Self::TextBusy,
            Self::Again,
            Self::NoSpace,
            Self::Quota,
        ];
        let found = known.into_iter().find(|denial| denial.errno() == errno);
        found.unwrap_or(Self::Io)
    }

    /// The errno that the reader sees.
    #[must_use]
    pub fn errno(self) -> i32 {
        match self {
            Self::Io => libc::EIO,
            Self::Permission => libc::EPERM,
            Self::Busy => libc::EBUSY,
            Self::TextBusy => libc::ETXTBSY,
            Self::Again => libc::EAGAIN,
            Self::NoSpace => libc::ENOSPC,
            Self::Quota => libc::EDQUOT,
        }
    }

    fn response(self) -> u32 {
        FAN_DENY | (self.errno().unsigned_abs() & 0xff) << FAN_ERRNO_SHIFT
    }
}

/// `struct fanotify_event_metadata`.
#[derive(FromBytes, KnownLayout, Immutable)]
#[repr(C)]
struct Metadata {
    event_len: u32,
    vers: u8,
    reserved: u8,
    metadata_len: u16,
    mask: u64,
    fd: i32,
    pid: i32,
}

/// `struct fanotify_event_info_header`.
#[derive(FromBytes, KnownLayout, Immutable)]
#[repr(C)]
struct InfoHeader {
    info_type: u8,
    pad: u8,
    len: u16,
}

/// `struct fanotify_event_info_range`.
#[derive(FromBytes, KnownLayout, Immutable)]
#[repr(C)]
struct InfoRange {
    header: InfoHeader,
    pad: u32,
    offset: u64,
    count: u64,
}

/// `struct fanotify_response`.
#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct Response {
    fd: i32,
    response: u32,
}

/// A group of pre-content events. Never blocks: reads and answers are non-blocking, and
/// [`AsFd`] gives what to poll.
#[derive(Debug)]
pub struct Group {
    fd: OwnedFd,
}

impl Group {
    /// Creates a group with an unlimited queue (a dropped event would be a read of a hole that
    /// nobody saw) and unlimited marks.
    ///
    /// # Errors
    /// [`Error::Init`].
    pub fn new() -> Result<Self, Error> {
        let flags = libc::FAN_CLASS_PRE_CONTENT
            | libc::FAN_UNLIMITED_QUEUE
            | libc::FAN_UNLIMITED_MARKS
            | libc::FAN_CLOEXEC
            | libc::FAN_NONBLOCK;
        // Descriptors of events are only asked which file they are: reading is enough.
        let event_flags = libc::O_RDONLY | libc::O_LARGEFILE | libc::O_CLOEXEC;
        // SAFETY: takes two integers and touches no memory of ours.
        let fd = unsafe { libc::fanotify_init(flags, event_flags.cast_unsigned()) };
        if fd < 0 {
            return Err(Error::Init(io::Error::last_os_error()));
        }
        // SAFETY: the kernel has just made this descriptor for us, and nobody else knows it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Self { fd })
    }

    /// Takes over a group that another process created.
    #[must_use]
    pub fn from_fd(fd: OwnedFd) -> Self {
        Self { fd }
    }

    /// One more holder of the group.
    ///
    /// # Errors
    /// When descriptors have run out.
    pub fn holder(&self) -> io::Result<OwnedFd> {
        self.fd.try_clone()
    }

    /// Lets every later open of the file behind `file` raise events. Marking twice is no error.
    ///
    /// # Errors
    /// [`Error::Mark`].
    pub fn mark(&self, file: impl AsFd) -> Result<(), Error> {
        self.change_mark(libc::FAN_MARK_ADD, file.as_fd())
            .map_err(Error::Mark)
    }

    /// Ends the events of the file behind `file`, also those of files already open. Events that
    /// are queued stay and want their answer. A file without a mark is no error.
    ///
    /// # Errors
    /// [`Error::Unmark`].
    pub fn unmark(&self, file: impl AsFd) -> Result<(), Error> {
        match self.change_mark(libc::FAN_MARK_REMOVE, file.as_fd()) {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
            other => other.map_err(Error::Unmark),
        }
    }

    /// Whether any file raises events.
    ///
    /// # Errors
    /// When proc(5) is not mounted.
    pub fn has_marks(&self) -> io::Result<bool> {
        let info = format!("/proc/self/fdinfo/{}", self.fd.as_raw_fd());
        let info = std::fs::read_to_string(info)?;
        Ok(info.lines().any(|line| line.starts_with("fanotify ino:")))
    }

    fn change_mark(&self, change: libc::c_uint, file: BorrowedFd<'_>) -> io::Result<()> {
        let group = self.fd.as_raw_fd();
        // SAFETY: both descriptors are borrowed for the call; a null path means "the file that
        // the descriptor refers to".
        let done = unsafe {
            libc::fanotify_mark(
                group,
                change,
                FAN_PRE_ACCESS,
                file.as_raw_fd(),
                std::ptr::null(),
            )
        };
        if done < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }

    /// Takes the events that wait, at most `most` (each is a descriptor) and a batch; none when none
    /// waits.
    ///
    /// Takes the group as an `Arc` because each event holds it until it is answered.
    ///
    /// # Errors
    /// [`Error::Read`] (`EMFILE`: the process holds too many unanswered events; the kernel has
    /// denied the one that found no descriptor) and [`Error::Malformed`].
    pub fn read(self: &Arc<Self>, most: usize) -> Result<Vec<Event>, Error> {
        let mut buffer = [0; BATCH_BYTES];
        let room = most.max(1).saturating_mul(EVENT_BYTES).min(BATCH_BYTES);
        let len = match rustix::io::read(&self.fd, &mut buffer[..room]) {
            Ok(len) => len,
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => return Ok(Vec::new()),
            Err(error) => return Err(Error::Read(error.into())),
        };
        let mut events = Vec::new();
        let mut rest = &buffer[..len];
        while !rest.is_empty() {
            let (parsed, tail) = Parsed::split(rest)?;
            rest = tail;
            // No descriptor: the report of an overflow, which an unlimited queue does not have.
            if parsed.fd >= 0 {
                // SAFETY: the kernel opened this descriptor for us when it wrote the event, and
                // each event is parsed once, so this is its only owner.
                let fd = unsafe { OwnedFd::from_raw_fd(parsed.fd) };
                events.push(Event {
                    group: Arc::clone(self),
                    fd,
                    pid: parsed.pid,
                    range: parsed.range,
                    answered: false,
                });
            }
        }
        Ok(events)
    }

    /// Denies with `EIO` every event that was read but not answered by a process that is gone,
    /// by trying every number below `limit` (the dead reader's limit of open files). Returns how
    /// many there were.
    ///
    /// Only for when nobody reads from the group: a live reader's events would be denied, too.
    pub fn deny_all(&self, limit: RawFd) -> usize {
        (0..limit)
            .filter(|fd| self.respond(*fd, Denial::Io.response()).is_ok())
            .count()
    }

    fn respond(&self, fd: RawFd, response: u32) -> io::Result<()> {
        let response = Response { fd, response };
        rustix::io::retry_on_intr(|| rustix::io::write(&self.fd, response.as_bytes()))?;
        Ok(())
    }
}

impl AsFd for Group {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// The bytes that a reader wants, rounded out to whole pages of the file by the kernel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Range {
    /// First byte.
    pub offset: u64,
    /// Number of bytes; may reach past the end of the file.
    pub count: u64,
}

/// The part of an event that is in the buffer.
#[derive(Debug, PartialEq, Eq)]
struct Parsed {
    fd: RawFd,
    pid: i32,
    range: Option<Range>,
}

impl Parsed {
    /// Reads the first event of `bytes` and gives the rest.
    fn split(bytes: &[u8]) -> Result<(Self, &[u8]), Error> {
        let (metadata, _) = Metadata::read_from_prefix(bytes)
            .map_err(|_| Error::Malformed("shorter than its header"))?;
        if metadata.vers != FANOTIFY_METADATA_VERSION {
            return Err(Error::Malformed("unknown version"));
        }
        let len = usize::try_from(metadata.event_len).unwrap_or(usize::MAX);
        let (event, rest) = bytes
            .split_at_checked(len)
            .filter(|_| len >= size_of::<Metadata>())
            .ok_or(Error::Malformed("wrong length"))?;
        let infos = event
            .get(usize::from(metadata.metadata_len)..)
            .ok_or(Error::Malformed("wrong header length"))?;
        let parsed = Self {
            fd: metadata.fd,
            pid: metadata.pid,
            range: find_range(infos)?,
        };
        Ok((parsed, rest))
    }
}

/// The range record among the records behind an event's header. Unknown records are passed over.
fn find_range(mut infos: &[u8]) -> Result<Option<Range>, Error> {
    while !infos.is_empty() {
        let (header, _) = InfoHeader::read_from_prefix(infos)
            .map_err(|_| Error::Malformed("shorter than its record header"))?;
        let len = usize::from(header.len);
        let (record, rest) = infos
            .split_at_checked(len)
            .filter(|_| len >= size_of::<InfoHeader>())
            .ok_or(Error::Malformed("wrong record length"))?;
        if header.info_type == FAN_EVENT_INFO_TYPE_RANGE {
            let (range, _) = InfoRange::read_from_prefix(record)
                .map_err(|_| Error::Malformed("wrong range length"))?;
            return Ok(Some(Range {
                offset: range.offset,
                count: range.count,
            }));
        }
        infos = rest;
    }
    Ok(None)
}

/// A reader that waits. Answer it with [`Event::allow`] or [`Event::deny`]; one that is dropped
/// is denied with `EIO`.
#[derive(Debug)]
#[must_use = "a reader waits for the answer"]
pub struct Event {
    group: Arc<Group>,
    fd: OwnedFd,
    pid: i32,
    range: Option<Range>,
    answered: bool,
}

impl Event {
    /// The reader's process id; 0 if it is not visible from here.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// The bytes wanted; `None` if the kernel did not say.
    #[must_use]
    pub fn range(&self) -> Option<Range> {
        self.range
    }

    /// Lets the read go on.
    ///
    /// # Errors
    /// [`Error::Answer`]; `ENOENT` means that the reader was killed.
    pub fn allow(mut self) -> Result<(), Error> {
        self.answer(FAN_ALLOW)
    }

    /// Lets the read fail.
    ///
    /// # Errors
    /// [`Error::Answer`]; `ENOENT` means that the reader was killed.
    pub fn deny(mut self, denial: Denial) -> Result<(), Error> {
        self.answer(denial.response())
    }

    fn answer(&mut self, response: u32) -> Result<(), Error> {
        self.answered = true;
        self.group
            .respond(self.fd.as_raw_fd(), response)
            .map_err(Error::Answer)
    }
}

impl AsFd for Event {
    /// The file that is read. It raises no events itself.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        if !self.answered {
            // The reader may be gone, which is as good as an answer.
            let _ = self.answer(Denial::Io.response());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(len: u32, vers: u8, records: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend_from_slice(&len.to_ne_bytes());
        bytes.extend_from_slice(&[vers, 0]);
        bytes.extend_from_slice(&24u16.to_ne_bytes());
        bytes.extend_from_slice(&FAN_PRE_ACCESS.to_ne_bytes());
        bytes.extend_from_slice(&7i32.to_ne_bytes());
        bytes.extend_from_slice(&42i32.to_ne_bytes());
        bytes.extend_from_slice(records);
        bytes
    }

    fn range(offset: u64, count: u64) -> Vec<u8> {
        let mut bytes = vec![FAN_EVENT_INFO_TYPE_RANGE, 0];
        bytes.extend_from_slice(&24u16.to_ne_bytes());
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&offset.to_ne_bytes());
        bytes.extend_from_slice(&count.to_ne_bytes());
        bytes
    }

    #[test]
    fn an_event_and_its_range_are_read() {
        let mut bytes = event(48, 3, &range(4096, 512));
        bytes.push(9);
        let (parsed, rest) = Parsed::split(&bytes).unwrap();
        let wanted = Range {
            offset: 4096,
            count: 512,
        };
        assert_eq!((parsed.fd, parsed.pid), (7, 42));
        assert_eq!((parsed.range, rest), (Some(wanted), &[9][..]));
    }

    #[test]
    fn records_before_the_range_are_passed_over() {
        let mut records = vec![1, 0, 8, 0, 1, 2, 3, 4];
        records.extend(range(1, 2));
        let (parsed, _) = Parsed::split(&event(56, 3, &records)).map_or_else(
            |error| panic!("{error}"),
            |(parsed, rest)| (parsed, rest.len()),
        );
        assert_eq!(
            parsed.range,
            Some(Range {
                offset: 1,
                count: 2
            })
        );
    }

    #[test]
    fn malformed_events_are_refused() {
        for bytes in [
            vec![0; 10],
            event(24, 4, &[]),
            event(23, 3, &[]),
            event(1000, 3, &[]),
            event(28, 3, &[6, 0, 0, 0]),
            event(28, 3, &[6, 0, 4, 0]),
            event(26, 3, &[6, 0]),
        ] {
            assert!(Parsed::split(&bytes).is_err(), "{bytes:?}");
        }
    }

    #[test]
    fn denials_carry_their_errno() {
        assert_eq!(Denial::Io.response(), 2 | 5 << 24);
        assert_eq!(Denial::from_errno(libc::ENOSPC), Denial::NoSpace);
        assert_eq!(Denial::from_errno(libc::EINVAL), Denial::Io);
    }
}
