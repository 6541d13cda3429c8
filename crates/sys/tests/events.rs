//! Pre-content events as this kernel really raises them. Needs root and Linux 6.14.

#![allow(clippy::unwrap_used)]

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use tempfile::TempDir;
use thaw_sys::fanotify::{Denial, Event, Group, Range};

struct Fixture {
    dir: TempDir,
    group: Arc<Group>,
}

impl Fixture {
    fn new() -> Self {
        Self {
            dir: tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap(),
            group: Arc::new(Group::new().unwrap()),
        }
    }

    fn file(&self, name: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        File::create(&path).unwrap().write_all(&[1; 8192]).unwrap();
        path
    }

    fn marked(&self, name: &str) -> PathBuf {
        let path = self.file(name);
        self.group.mark(File::open(&path).unwrap()).unwrap();
        path
    }

    fn wait(&self, wanted: usize) -> Vec<Event> {
        let mut events = Vec::new();
        let until = Instant::now() + Duration::from_secs(5);
        while events.len() < wanted {
            assert!(Instant::now() < until, "no event came");
            let timeout = rustix::time::Timespec {
                tv_sec: 0,
                tv_nsec: 100_000_000,
            };
            poll(
                &mut [PollFd::new(&self.group, PollFlags::IN)],
                Some(&timeout),
            )
            .unwrap();
            events.extend(self.group.read(usize::MAX).unwrap());
        }
        events
    }
}

fn read_at(path: &Path, offset: u64, len: usize) -> JoinHandle<std::io::Result<Vec<u8>>> {
    let file = File::open(path).unwrap();
    thread::spawn(move || {
        let mut bytes = vec![0; len];
        file.read_exact_at(&mut bytes, offset).map(|()| bytes)
    })
}

#[test]
fn a_read_waits_until_it_is_allowed() {
    let fixture = Fixture::new();
    let path = fixture.marked("file");
    let reader = read_at(&path, 4196, 100);
    let event = fixture.wait(1).remove(0);
    // Rounded out to whole pages of the marked file, whatever was asked for.
    let wanted = Range {
        offset: 4096,
        count: 4096,
    };
    assert_eq!(event.range(), Some(wanted));
    assert_eq!(event.pid(), std::process::id().cast_signed());
    let named = rustix::fs::fstat(&event).unwrap();
    assert_eq!(named.st_ino, rustix::fs::stat(&path).unwrap().st_ino);
    thread::sleep(Duration::from_millis(50));
    assert!(!reader.is_finished());
    event.allow().unwrap();
    assert_eq!(reader.join().unwrap().unwrap(), [1; 100]);
}

#[test]
fn a_denied_read_fails_with_the_errno() {
    let fixture = Fixture::new();
    let path = fixture.marked("file");
    for denial in [
        Denial::Io,
        Denial::Permission,
        Denial::Busy,
        Denial::TextBusy,
        Denial::Again,
        Denial::NoSpace,
        Denial::Quota,
    ] {
        let reader = read_at(&path, 0, 1);
        fixture.wait(1).remove(0).deny(denial).unwrap();
        let error = reader.join().unwrap().unwrap_err();
        assert_eq!(error.raw_os_error(), Some(denial.errno()));
    }
}

#[test]
fn an_event_that_is_dropped_is_denied() {
    let fixture = Fixture::new();
    let reader = read_at(&fixture.marked("file"), 0, 1);
    drop(fixture.wait(1));
    let error = reader.join().unwrap().unwrap_err();
    assert_eq!(error.raw_os_error(), Some(5));
}

#[test]
fn only_what_was_opened_after_the_mark_raises_events() {
    let fixture = Fixture::new();
    let path = fixture.file("file");
    let before = OpenOptions::new()
        .read(true)
        .write(true)
        .open(&path)
        .unwrap();
    fixture.group.mark(&before).unwrap();
    before.write_all_at(b"written", 0).unwrap();
    before.read_exact_at(&mut [0; 7], 0).unwrap();
    assert!(fixture.group.read(usize::MAX).unwrap().is_empty());

    // Writes raise events, too.
    let after = OpenOptions::new().write(true).open(&path).unwrap();
    let writer = thread::spawn(move || after.write_all_at(b"late", 10));
    let event = fixture.wait(1).remove(0);
    let wanted = Range {
        offset: 0,
        count: 4096,
    };
    assert_eq!(event.range(), Some(wanted));
    event.allow().unwrap();
    writer.join().unwrap().unwrap();
}

#[test]
fn without_its_mark_a_file_raises_none() {
    let fixture = Fixture::new();
    let path = fixture.marked("file");
    let mut open = File::open(&path).unwrap();
    fixture.group.unmark(&open).unwrap();
    open.read_exact(&mut [0; 100]).unwrap();
    fixture.group.unmark(&open).unwrap();
    assert!(fixture.group.read(usize::MAX).unwrap().is_empty());
}

#[test]
fn a_second_holder_denies_what_the_first_left() {
    let fixture = Fixture::new();
    let path = fixture.marked("file");
    let readers: Vec<_> = (0..8).map(|n| read_at(&path, n * 512, 512)).collect();
    let events = fixture.wait(8);
    let other = Group::from_fd(fixture.group.holder().unwrap());
    let started = Instant::now();
    assert_eq!(other.deny_all(65_536), 8);
    println!("65,536 numbers denied in {:?}", started.elapsed());
    for reader in readers {
        let error = reader.join().unwrap().unwrap_err();
        assert_eq!(error.raw_os_error(), Some(5));
    }
    // Their own answers find nobody.
    for event in events {
        assert!(event.allow().is_err());
    }
}
