//! A terminal for a program that behaves in another way when it has one.

use std::fs::File;
use std::io::{Read, Write};
use std::process::{Child, Command, ExitStatus, Stdio};

use anyhow::{Context, Result};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

/// Rows and columns of every terminal.
pub const SIZE: (u16, u16) = (33, 77);

/// A program on a terminal of its own; killed on drop.
#[derive(Debug)]
pub struct Session {
    child: Child,
    ours: File,
    seen: Vec<u8>,
}

impl Session {
    /// Starts `command` with a terminal as its three standard streams.
    ///
    /// # Errors
    /// When there is no terminal to be had, or the program cannot be started.
    pub fn start(mut command: Command) -> Result<Self> {
        let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
        grantpt(&ours)?;
        unlockpt(&ours)?;
        let name = ptsname(&ours, Vec::new())?.into_string()?;
        let theirs = File::options().read(true).write(true).open(name)?;
        let (ws_row, ws_col) = SIZE;
        let size = Winsize {
            ws_row,
            ws_col,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        tcsetwinsize(&ours, size)?;
        let end = || theirs.try_clone().map(Stdio::from);
        let child = command
            .stdin(end()?)
            .stdout(end()?)
            .stderr(end()?)
            .spawn()
            .context("cannot start the program")?;
        Ok(Self {
            child,
            ours: ours.into(),
            seen: Vec::new(),
        })
    }

    /// Reads until `text` was shown; all that was shown so far.
    ///
    /// # Errors
    /// When the program has closed the terminal before.
    pub fn wait_for(&mut self, text: &str) -> Result<String> {
        loop {
            let shown = String::from_utf8_lossy(&self.seen).into_owned();
            if shown.contains(text) {
                return Ok(shown);
            }
            let read = self.read();
            read.with_context(|| format!("{text:?} was never shown, only:\n{shown}"))?;
        }
    }

    fn read(&mut self) -> std::io::Result<()> {
        let mut buffer = [0; 4096];
        let count = self.ours.read(&mut buffer)?;
        if count == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        self.seen
            .extend_from_slice(buffer.get(..count).unwrap_or_default());
        Ok(())
    }

    /// Types.
    ///
    /// # Errors
    /// When the terminal is gone.
    pub fn type_in(&mut self, text: &str) -> Result<()> {
        Ok(self.ours.write_all(text.as_bytes())?)
    }

    /// Waits until the program has ended; how, and all that was shown.
    ///
    /// # Errors
    /// When it cannot be waited for.
    pub fn end(mut self) -> Result<(ExitStatus, String)> {
        // The other end is closed with the last process that has it: then a read fails.
        while self.read().is_ok() {}
        let status = self.child.wait()?;
        Ok((status, String::from_utf8_lossy(&self.seen).into_owned()))
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
