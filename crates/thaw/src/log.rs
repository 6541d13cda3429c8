//! What processes say that nobody looks at: to standard error, which is a file of the store unless a
//! service manager has it.
//!
//! Such a file is written by one daemon after the other, their keeper and their monitors, and it lies
//! on the disk that everything else needs. So it never gets longer than [`MOST`]: its older part is
//! cut away in place, under all who have it open.

use std::io::Write;
use std::os::fd::AsFd;

use rustix::fs::{FallocateFlags, FileType, fallocate, fstat, ftruncate};

/// Most bytes of a log.
const MOST: u64 = 8 << 20;
/// Bytes that are cut away when it is longer: whole blocks of any filesystem.
const CUT: u64 = 4 << 20;

/// Logs to standard error what `THAW_LOG` asks for.
pub(crate) fn to_stderr() {
    let filter = tracing_subscriber::EnvFilter::try_from_env("THAW_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(|| Lossy)
        .with_ansi(false)
        .init();
}

/// Standard error. What cannot be written there, because the disk is full, say, is lost. The thread
/// that says it goes on; the subscriber would have it panic.
pub(crate) struct Lossy;

impl Write for Lossy {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let mut stderr = std::io::stderr().lock();
        bound(&stderr);
        stderr.write_all(bytes).ok();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Cuts the older part of a long log away; of none that is not a regular file.
fn bound(log: impl AsFd) {
    let Ok(stat) = fstat(&log) else { return };
    let is_file = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
    if !is_file || stat.st_size.cast_unsigned() <= MOST {
        return;
    }
    // Writers append: they go on at the new end. Filesystems that cannot do that lose all of it.
    if fallocate(&log, FallocateFlags::COLLAPSE_RANGE, 0, CUT).is_err() {
        ftruncate(&log, 0).ok();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::fs::{self, File};

    use super::*;

    #[test]
    fn a_long_log_loses_its_older_part() {
        let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let path = dir.path().join("log");
        let append = || File::options().create(true).append(true).open(&path);
        let (mut one, mut other) = (append().unwrap(), append().unwrap());
        let line = |number: u64| format!("{number:>63}\n");
        for number in 0..3 * MOST / 64 {
            let file = if number % 2 == 0 {
                &mut one
            } else {
                &mut other
            };
            bound(&*file);
            file.write_all(line(number).as_bytes()).unwrap();
        }
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.len() as u64 <= MOST + 64, "{}", text.len());
        assert!(text.ends_with(&line(3 * MOST / 64 - 1)));
        // Nothing but its beginning is lost.
        let first: u64 = text.lines().next().unwrap().trim().parse().unwrap();
        for (number, found) in (first..).zip(text.lines()) {
            assert_eq!(found.trim(), number.to_string());
        }
    }

    #[test]
    fn what_is_no_file_is_left_alone() {
        bound(File::options().write(true).open("/dev/null").unwrap());
    }
}
