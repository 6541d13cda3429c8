//! Connections, as they begin: how many of a kind there are at once, and what comes first.

use std::io::{self, BufRead, BufReader, ErrorKind, Read};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

/// Room for connections of a kind.
#[derive(Debug)]
pub(super) struct Room {
    taken: AtomicUsize,
    most: usize,
}

impl Room {
    /// For so many.
    pub(super) fn of(most: usize) -> Arc<Self> {
        let taken = AtomicUsize::new(0);
        Arc::new(Self { taken, most })
    }

    /// How many there are.
    pub(super) fn taken(&self) -> usize {
        self.taken.load(Ordering::Acquire)
    }

    /// Lets one more in; `None` where there is no room.
    pub(super) fn enter(self: &Arc<Self>) -> Option<Place> {
        let place = Place(Arc::clone(self));
        let before = self.taken.fetch_add(1, Ordering::AcqRel);
        (before < self.most).then_some(place)
    }
}

/// One connection's part of a [`Room`], until it is dropped.
#[derive(Debug)]
pub(super) struct Place(Arc<Room>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.taken.fetch_sub(1, Ordering::AcqRel);
    }
}

/// The line that somebody begins with, of at most `most` bytes; with `patience` all of it has to come in that
/// time. Empty where nothing is said.
pub(super) fn line(
    stream: &UnixStream,
    most: u64,
    patience: Option<Duration>,
) -> anyhow::Result<Vec<u8>> {
    let until = patience.map(|patience| Instant::now() + patience);
    let mut line = Vec::new();
    let mut reader = BufReader::new(Timed { stream, until }).take(most + 1);
    let read = reader.read_until(b'\n', &mut line);
    read.context("the request did not come")?;
    if line.len() as u64 > most {
        bail!("the request has more than {most} bytes");
    }
    Ok(line)
}

/// Reads until a moment, however often: a timeout of the socket begins anew with each read.
struct Timed<'a> {
    stream: &'a UnixStream,
    until: Option<Instant>,
}

impl Read for Timed<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if let Some(until) = self.until {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(ErrorKind::TimedOut.into());
            }
            self.stream.set_read_timeout(Some(left))?;
        }
        let mut stream = self.stream;
        stream.read(buffer)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn a_room_holds_so_many() {
        let room = Room::of(2);
        let (first, second) = (room.enter(), room.enter());
        assert!(first.is_some() && second.is_some());
        assert!(room.enter().is_none() && room.enter().is_none());
        assert_eq!(room.taken(), 2);
        drop(first);
        assert!(room.enter().is_some());
        drop(second);
        assert_eq!(room.taken(), 0);
    }

    /// What is heard of somebody who says `text`.
    fn heard(text: &[u8], most: u64) -> anyhow::Result<Vec<u8>> {
        let (mut theirs, ours) = UnixStream::pair().unwrap();
        theirs.write_all(text).unwrap();
        drop(theirs);
        line(&ours, most, None)
    }

    #[test]
    fn a_line_has_a_bound() {
        assert_eq!(heard(b"", 4).unwrap(), b"");
        assert_eq!(heard(b"abc\nd", 4).unwrap(), b"abc\n");
        assert_eq!(heard(b"abcd", 4).unwrap(), b"abcd");
        assert!(heard(b"abcd\n", 4).is_err());
    }

    #[test]
    fn a_line_that_comes_in_drops_comes_in_time_or_not_at_all() {
        let (mut theirs, ours) = UnixStream::pair().unwrap();
        let drips = std::thread::spawn(move || {
            let begin = Instant::now();
            while begin.elapsed() < Duration::from_secs(60) && theirs.write_all(b"x").is_ok() {
                std::thread::sleep(Duration::from_millis(10));
            }
            begin.elapsed()
        });
        assert!(line(&ours, 1 << 20, Some(Duration::from_millis(200))).is_err());
        drop(ours);
        assert!(drips.join().unwrap() < Duration::from_secs(30));
    }
}
