//! What readers were denied that had waited for it for long, and what is denied at once because of that.
//!
//! A `read(2)` is to wait once, but the kernel asks more often. It reads ahead in pieces of some pages, one after
//! the other; where it could not read ahead it asks for the page alone; and those who read the same page
//! stand behind one another for its lock. Nothing tells these from others who ask: for fanotify the threads of a
//! program are one process, and behind a loop device all readers are. So whoever asks soon after a denial, for
//! some of what was denied or for what touches it, is taken for one who has waited already.

use std::time::{Duration, Instant};

use thaw_image::Extent;

use crate::keeper::layers::FileId;

/// For how long after a denial those may ask again who have waited with it.
const ASK_AGAIN: Duration = Duration::from_millis(250);
/// For how long what was denied is denied at most, however often it is asked for: who then asks waits again.
const STAYS_DENIED: Duration = Duration::from_secs(2);
/// Denials that are remembered.
const MAX_DENIED: usize = 1024;

#[derive(Debug)]
struct Denied {
    file: FileId,
    extent: Extent,
    first: Instant,
    last: Instant,
}

/// See the [module](self).
#[derive(Debug, Default)]
pub(super) struct Denials(Vec<Denied>);

impl Denials {
    /// Remembers what a reader was denied who had waited for it for long.
    pub(super) fn add(&mut self, file: FileId, extent: Extent, now: Instant) {
        if self.0.len() < MAX_DENIED {
            self.0.push(Denied {
                file,
                extent,
                first: now,
                last: now,
            });
        }
    }

    /// Whether somebody asks who has waited already: then all of this is denied.
    pub(super) fn have(&mut self, file: FileId, extent: Extent, now: Instant) -> bool {
        let since = |then| now.saturating_duration_since(then);
        self.0
            .retain(|it| since(it.last) < ASK_AGAIN && since(it.first) < STAYS_DENIED);
        let touches = |it: &Denied| {
            let other = &it.extent;
            it.file == file && extent.offset <= other.end() && other.offset <= extent.end()
        };
        let Some(denied) = self.0.iter_mut().find(|it| touches(it)) else {
            return false;
        };
        let begin = denied.extent.offset.min(extent.offset);
        denied.extent = Extent::between(begin, denied.extent.end().max(extent.end()));
        denied.last = now;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: FileId = FileId::Inode {
        device: 1,
        inode: 2,
    };

    #[test]
    fn the_pieces_of_one_read_wait_once() {
        let (mut denials, begin) = (Denials::default(), Instant::now());
        let later = |millis| begin + Duration::from_millis(millis);
        let other = FileId::Inode {
            device: 1,
            inode: 3,
        };
        denials.add(FILE, Extent::between(4096, 69_632), begin);
        assert!(!denials.have(other, Extent::between(4096, 8192), begin));
        assert!(!denials.have(FILE, Extent::between(73_728, 77_824), begin));
        // The next pieces, which may overlap by a block; then the page alone.
        assert!(denials.have(FILE, Extent::between(69_632, 102_400), later(100)));
        assert!(denials.have(FILE, Extent::between(98_304, 135_168), later(200)));
        assert!(denials.have(FILE, Extent::between(4096, 8192), later(300)));
        // Who asks on and on waits again.
        let asks = |millis| (millis..).step_by(200).take_while(|it| *it < 2000);
        let mut asks =
            asks(400).map(|at| denials.have(FILE, Extent::between(4096, 8192), later(at)));
        assert!(asks.all(|denied| denied));
        assert!(!denials.have(FILE, Extent::between(4096, 8192), later(2000)));
    }

    #[test]
    fn who_asks_later_waits() {
        let (mut denials, begin) = (Denials::default(), Instant::now());
        denials.add(FILE, Extent::between(0, 4096), begin);
        assert!(!denials.have(FILE, Extent::between(0, 4096), begin + ASK_AGAIN));
    }

    #[test]
    fn no_more_are_remembered_than_there_is_room_for() {
        let (mut denials, now) = (Denials::default(), Instant::now());
        for number in 0..2 * MAX_DENIED as u64 {
            denials.add(FILE, Extent::between(number << 20, (number << 20) + 1), now);
        }
        assert_eq!(denials.0.len(), MAX_DENIED);
    }
}
