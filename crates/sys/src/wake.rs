//! How long a processor takes to wake up, as far as it can be asked for.
//!
//! In a guest a processor that has nothing to do halts, and the host has to bring it back, which two
//! processes that wait for each other pay for at every turn. The kernel keeps processors running for whoever holds a request for no latency at all
//! (`Documentation/power/pm_qos_interface.rst`), on all of them, as `drivers/cpuidle/governors/haltpoll.c`
//! does for a moment on its own where it is told to.

use std::fs::{self, File};
use std::io::{self, Write};

/// What takes the request.
pub const LATENCY: &str = "/dev/cpu_dma_latency";
const DRIVER: &str = "/sys/devices/system/cpu/cpuidle/current_driver";

/// While it lives, processors with nothing to do run on instead of halting. That costs what a busy
/// processor costs: hold it for moments only.
#[derive(Debug)]
pub struct Awake(#[expect(dead_code, reason = "the request lasts as long as it is open")] File);

impl Awake {
    /// Asks for it.
    ///
    /// # Errors
    /// Those of open(2) and write(2): only root may, and a container may lack the device.
    pub fn new() -> io::Result<Self> {
        let mut file = File::options().write(true).open(LATENCY)?;
        let micros: i32 = 0;
        file.write_all(&micros.to_ne_bytes())?;
        Ok(Self(file))
    }

    /// Whether the processors of this machine halt, for a host to bring them back: where it was
    /// measured that this helps.
    #[must_use]
    pub fn is_of_use() -> bool {
        fs::read_to_string(DRIVER).is_ok_and(|driver| driver.trim() == "haltpoll")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_taken() {
        match Awake::new() {
            Ok(_awake) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                eprintln!("skipped: no {LATENCY} on this machine");
            }
            Err(error) => panic!("{LATENCY}: {error}"),
        }
    }
}
