//! Flat files as this kernel really reads them. Needs root and /dev/fuse.

#![allow(clippy::unwrap_used)]

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use tempfile::TempDir;
use thaw_sys::fuse::{Device, Files, FlatFile, Node, Read};
use thaw_sys::mount::{self, Unmount, mount_table};

const SIZE: u64 = 3 << 20;

/// Two files.
struct Two;

impl Files for Two {
    fn find(&self, name: &[u8]) -> Option<FlatFile> {
        match name {
            b"one" => self.get(Node(11)),
            b"two" => self.get(Node(12)),
            _ => None,
        }
    }

    fn get(&self, node: Node) -> Option<FlatFile> {
        [Node(11), Node(12)]
            .contains(&node)
            .then_some(FlatFile { node, size: SIZE })
    }
}

struct Fixture {
    target: PathBuf,
    device: Arc<Device>,
    _dir: TempDir,
}

impl Fixture {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("files");
        fs::create_dir(&target).unwrap();
        let device = Arc::new(Device::mount(&target).unwrap());
        Self {
            target,
            device,
            _dir: dir,
        }
    }

    /// A reader of `len` bytes at `offset`, in a thread.
    fn reader(&self, name: &str, offset: u64, len: usize) -> JoinHandle<io::Result<Vec<u8>>> {
        let path = self.target.join(name);
        thread::spawn(move || {
            let mut bytes = vec![0; len];
            File::open(path)?.read_exact_at(&mut bytes, offset)?;
            Ok(bytes)
        })
    }

    /// Serves until that many reads have come.
    fn wait(&self, wanted: usize) -> Vec<Read> {
        let mut reads = Vec::new();
        let until = Instant::now() + Duration::from_secs(5);
        while reads.len() < wanted {
            assert!(Instant::now() < until, "no read came");
            self.poll();
            reads.extend(self.device.read(&Two).unwrap());
        }
        reads
    }

    fn poll(&self) {
        self.has_request();
    }

    /// Whether a request comes soon.
    fn has_request(&self) -> bool {
        let timeout = rustix::time::Timespec {
            tv_sec: 0,
            tv_nsec: 20_000_000,
        };
        let mut fds = [PollFd::new(&self.device, PollFlags::IN)];
        poll(&mut fds, Some(&timeout)).unwrap() > 0
    }

    /// Serves until the thread has ended; no read comes.
    fn finish<T>(&self, thread: JoinHandle<T>) -> T {
        let until = Instant::now() + Duration::from_secs(5);
        while !thread.is_finished() {
            assert!(Instant::now() < until, "it hangs");
            self.poll();
            assert!(self.device.read(&Two).unwrap().is_empty());
        }
        thread.join().unwrap()
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        let _ = mount::unmount(&self.target, Unmount::Lazy);
    }
}

#[test]
fn a_read_is_just_for_what_is_wanted_and_answered_by_whoever_has_it() {
    let fixture = Fixture::new();
    let reader = fixture.reader("two", 700, 1000);
    let read = fixture.wait(1).remove(0);
    assert_eq!(
        (read.node(), read.offset(), read.size()),
        (Node(12), 700, 1000)
    );
    assert!(read.pid() > 0);
    thread::spawn(move || read.answer(&[7; 1000]).unwrap())
        .join()
        .unwrap();
    assert_eq!(fixture.finish(reader).unwrap(), [7; 1000]);
    let entries = mount_table().unwrap();
    let entry = entries.iter().find(|e| e.target == fixture.target).unwrap();
    assert_eq!(entry.kind, "fuse.thaw");
}

#[test]
fn names_and_sizes_are_answered_by_the_device() {
    let fixture = Fixture::new();
    let target = fixture.target.clone();
    let asked = thread::spawn(move || {
        assert_eq!(fs::metadata(target.join("one")).unwrap().len(), SIZE);
        let absent = fs::metadata(target.join("three")).unwrap_err();
        assert_eq!(absent.kind(), io::ErrorKind::NotFound);
        let written = File::options().write(true).open(target.join("one"));
        assert!(written.is_err());
        assert_eq!(fs::read_dir(&target).unwrap().count(), 0);
        rustix::fs::statfs(&target).unwrap();
    });
    fixture.finish(asked);
}

#[test]
fn a_denied_read_and_one_that_is_dropped_fail() {
    let fixture = Fixture::new();
    let reader = fixture.reader("one", 0, 512);
    fixture.wait(1).remove(0).deny(28).unwrap();
    let error = fixture.finish(reader).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(28));
    let reader = fixture.reader("one", 0, 512);
    drop(fixture.wait(1));
    let error = fixture.finish(reader).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(5));
}

/// Has them answered by nobody: they are not dropped, as if who had them were dead.
fn lose(reads: Vec<Read>) {
    static LOST: Mutex<Vec<Read>> = Mutex::new(Vec::new());
    LOST.lock().unwrap().extend(reads);
}

#[test]
fn reads_of_a_dead_holder_come_again() {
    let fixture = Fixture::new();
    let readers = [
        fixture.reader("one", 0, 512),
        fixture.reader("two", 512, 512),
    ];
    lose(fixture.wait(2));
    assert!(fixture.device.read(&Two).unwrap().is_empty());
    let successor = Device::from_fd(fixture.device.holder().unwrap());
    successor.resend().unwrap();
    for read in fixture.wait(2) {
        read.answer(&[3; 512]).unwrap();
    }
    for reader in readers {
        assert_eq!(fixture.finish(reader).unwrap(), [3; 512]);
    }
}

#[test]
fn reads_of_a_dead_holder_are_denied_where_they_cannot_come_again() {
    let fixture = Fixture::new();
    let lost = fixture.reader("one", 0, 512);
    lose(fixture.wait(1));
    let waiting = fixture.reader("two", 0, 512);
    while !fixture.has_request() {
        thread::yield_now();
    }
    assert!(fixture.device.deny_lost(&fixture.target).unwrap() >= 2);
    let error = fixture.finish(lost).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(5));
    // It had not even been looked up.
    fixture.finish(waiting).unwrap_err();
    let reader = fixture.reader("two", 0, 512);
    fixture.wait(1).remove(0).answer(&[9; 512]).unwrap();
    assert_eq!(fixture.finish(reader).unwrap(), [9; 512]);
}

#[test]
fn without_a_holder_reads_fail() {
    let (mut fixture, other) = (Fixture::new(), Fixture::new());
    let path = fixture.target.join("one");
    let file = fixture.finish(thread::spawn(move || File::open(path).unwrap()));
    fixture.device = Arc::clone(&other.device);
    let error = file.read_at(&mut [0; 512], 0).unwrap_err();
    assert!(matches!(error.raw_os_error(), Some(103 | 107)), "{error}");
}
