//! When a start is over, and waiting for it.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::container::{Container, Network, State, Status};

/// How often a container that is not ready yet is asked again.
const POLL: Duration = Duration::from_millis(10);
/// How long one HTTP answer may take.
const ANSWER: Duration = Duration::from_secs(30);

/// What says that a container is ready.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ready {
    /// An HTTP GET is answered with a status below 400.
    Http {
        /// Port inside the container.
        port: u16,
        /// Path with query.
        path: String,
    },
    /// The container ends with 0.
    Exit,
    /// A line that it prints matches.
    Log(String),
    /// A time has passed.
    After(Duration),
}

impl std::str::FromStr for Ready {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "exit" {
            return Ok(Self::Exit);
        }
        if let Some(pattern) = text.strip_prefix("log:") {
            regex::Regex::new(pattern).map_err(|error| format!("bad pattern: {error}"))?;
            return Ok(Self::Log(pattern.to_owned()));
        }
        let Some(rest) = text.strip_prefix("http://") else {
            return parse_duration(text).map(Self::After).map_err(|_| {
                format!(
                    "{text:?} is none of http://:PORT/PATH, exit, log:REGEX and a time like 20s"
                )
            });
        };
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (host, port) = authority.rsplit_once(':').unwrap_or((authority, "80"));
        if !host.is_empty() && host != "localhost" && host != "127.0.0.1" {
            return Err(format!(
                "{text:?}: only the container itself can be asked; leave out the host"
            ));
        }
        let port = port
            .parse()
            .map_err(|_| format!("{text:?} has no port, e.g. http://:8080/"))?;
        Ok(Self::Http {
            port,
            path: format!("/{path}"),
        })
    }
}

/// Waits until a running container is ready.
///
/// # Errors
/// Why it will not be, in words: it ended, or `deadline` passed.
pub fn wait(container: &Container, ready: &Ready, deadline: Instant) -> Result<(), String> {
    let began = Instant::now();
    let mut log = LogMatch::new(ready)?;
    loop {
        let state = container.state().map_err(|error| error.to_string())?;
        let reached = match ready {
            Ready::Exit => state.status() == Status::Exited { code: 0 },
            Ready::Http { port, path } => answers(
                address(&state, *port)?,
                path,
                deadline.min(Instant::now() + ANSWER),
            ),
            Ready::Log(_) => log.seen(container)?,
            Ready::After(time) => began.elapsed() >= *time,
        };
        if reached {
            return Ok(());
        }
        match state.status() {
            Status::Exited { code } => return Err(format!("the container ended with {code}")),
            Status::Dead if is_dead(container) => return Err("the container died".to_owned()),
            Status::Created | Status::Running | Status::Dead => {}
        }
        if Instant::now() >= deadline {
            return Err(format!(
                "it was not ready after {:.0} s",
                began.elapsed().as_secs_f64()
            ));
        }
        std::thread::sleep(POLL);
    }
}

/// Whether a container that seemed to be dead is: its monitor may have written how it ended, and ended
/// itself, between the look at the one and at the other.
fn is_dead(container: &Container) -> bool {
    let again = container.state();
    again.is_ok_and(|state| state.status() == Status::Dead)
}

/// Where a container's port is reached from the host.
fn address(state: &State, port: u16) -> Result<SocketAddr, String> {
    let ip: IpAddr = match (state.options.net, &state.endpoint) {
        (Network::Host, _) => Ipv4Addr::LOCALHOST.into(),
        (Network::Bridge | Network::Isolated, Some(endpoint)) => endpoint.address.into(),
        _ => return Err("a container without a network cannot be asked over HTTP".to_owned()),
    };
    Ok(SocketAddr::new(ip, port))
}

/// Whether a GET is answered with a status below 400.
fn answers(address: SocketAddr, path: &str, until: Instant) -> bool {
    let ask = || -> std::io::Result<bool> {
        let left = until.saturating_duration_since(Instant::now()).max(POLL);
        let mut stream = TcpStream::connect_timeout(&address, left)?;
        stream.set_read_timeout(Some(left))?;
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"
        )?;
        let mut head = [0; 12];
        stream.read_exact(&mut head)?;
        let status = std::str::from_utf8(&head[9..])
            .ok()
            .and_then(|text| text.parse().ok());
        Ok(head.starts_with(b"HTTP/1.") && status.is_some_and(|status: u16| status < 400))
    };
    ask().unwrap_or(false)
}

/// Looks for a line in a container's log.
struct LogMatch(Option<regex::Regex>);

impl LogMatch {
    fn new(ready: &Ready) -> Result<Self, String> {
        let Ready::Log(pattern) = ready else {
            return Ok(Self(None));
        };
        regex::Regex::new(pattern)
            .map(Some)
            .map(Self)
            .map_err(|error| error.to_string())
    }

    fn seen(&mut self, container: &Container) -> Result<bool, String> {
        let Some(pattern) = &self.0 else {
            return Ok(false);
        };
        let mut seen = false;
        let wanted = crate::container::log::LogQuery::default();
        let read = container.logs(&wanted, &mut |line| {
            seen |= pattern.is_match(&String::from_utf8_lossy(&line.text));
            std::ops::ControlFlow::Continue(())
        });
        read.map_err(|error| error.to_string()).map(|()| seen)
    }
}

/// Reads `90`, `90s`, `15m`, `2h` or `250ms`.
///
/// # Errors
/// A sentence that shows what a time looks like.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let split = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let number: u64 = number
        .parse()
        .map_err(|_| format!("{text:?} is no time, e.g. 20s or 5m"))?;
    match unit {
        "ms" => Ok(Duration::from_millis(number)),
        "" | "s" => Ok(Duration::from_secs(number)),
        "m" => Ok(Duration::from_secs(number.saturating_mul(60))),
        "h" => Ok(Duration::from_secs(number.saturating_mul(3600))),
        _ => Err(format!("{text:?} is no time, e.g. 20s or 5m")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_forms() {
        let http = Ready::Http {
            port: 8080,
            path: "/health?x=1".into(),
        };
        assert_eq!("http://:8080/health?x=1".parse::<Ready>().unwrap(), http);
        assert_eq!("exit".parse::<Ready>().unwrap(), Ready::Exit);
        assert_eq!(
            "20s".parse::<Ready>().unwrap(),
            Ready::After(Duration::from_secs(20))
        );
        assert_eq!(
            "log:up .*".parse::<Ready>().unwrap(),
            Ready::Log("up .*".into())
        );
        for bad in ["log:(", "http://example.com/", "http://:x/", "later"] {
            assert!(bad.parse::<Ready>().is_err(), "{bad}");
        }
    }

    #[test]
    fn times() {
        assert_eq!(parse_duration("20s").unwrap(), Duration::from_secs(20));
        assert_eq!(parse_duration("250ms").unwrap(), Duration::from_millis(250));
        assert!(parse_duration("soon").is_err());
        assert!(parse_duration("").is_err());
    }
}
