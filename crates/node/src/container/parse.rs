//! The texts of a command line, in the forms that container tools share, become
//! [options](super::Options). No I/O: the environment comes in as a function.

use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;

use super::options::{Network, PortMapping, Protocol, Signal, Tmpfs, Volume, VolumeSource};

/// Why a text is not an option's value. The text is cut at 96 characters.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid {what} {text:?}: {reason}")]
pub struct ParseError {
    /// The option.
    pub what: &'static str,
    /// What was given.
    pub text: String,
    /// What is wrong with it, and the form it should have.
    pub reason: String,
}

impl ParseError {
    pub(super) fn new(what: &'static str, text: &str, reason: impl Into<String>) -> Self {
        Self {
            what,
            text: text.chars().take(96).collect(),
            reason: reason.into(),
        }
    }
}

/// A name of a container or volume: what a path component may safely be.
///
/// # Errors
/// Other than 1 to 128 of `[a-zA-Z0-9_.-]`, or not beginning with a letter or digit.
pub fn name(what: &'static str, text: &str) -> Result<String, ParseError> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    let good = (1..=128).contains(&text.len())
        && text.chars().all(plain)
        && text.starts_with(|c: char| c.is_ascii_alphanumeric());
    good.then(|| text.to_owned()).ok_or_else(|| {
        let reason = "it takes 1 to 128 of a-z A-Z 0-9 _ . - and begins with a letter or digit";
        ParseError::new(what, text, reason)
    })
}

/// A host name.
///
/// # Errors
/// Other than 1 to 64 of `[a-zA-Z0-9_.-]` (the kernel's bound, and what `/etc/hosts` can hold).
pub fn hostname(text: &str) -> Result<String, ParseError> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    let good = (1..=64).contains(&text.len()) && text.chars().all(plain);
    good.then(|| text.to_owned())
        .ok_or_else(|| ParseError::new("host name", text, "it takes 1 to 64 of a-z A-Z 0-9 _ . -"))
}

/// An absolute path inside a container, without `.`, empty and doubled components.
///
/// # Errors
/// A path that is relative, the root itself, has `..` or a NUL byte, or is longer than 4,095 bytes.
pub fn target(what: &'static str, text: &str) -> Result<String, ParseError> {
    let bad = |reason: &str| Err(ParseError::new(what, text, reason));
    if !text.starts_with('/') {
        return bad("the path inside the container must be absolute");
    }
    if text.len() > 4095 || text.contains('\0') {
        return bad("the path inside the container is too long or has a NUL byte");
    }
    let parts: Vec<&str> = text
        .split('/')
        .filter(|part| !matches!(*part, "" | "."))
        .collect();
    if parts.contains(&"..") {
        return bad("the path inside the container must not have ..");
    }
    if parts.is_empty() {
        return bad("the root itself cannot be mounted over");
    }
    Ok(format!("/{}", parts.join("/")))
}

impl FromStr for Volume {
    type Err = ParseError;

    /// `SRC:DST[:ro|rw]`: an absolute SRC is a path of the host, any other a volume's name. `DST` alone: a
    /// volume of the container's own.
    fn from_str(text: &str) -> Result<Self, ParseError> {
        let what = "volume";
        if text.starts_with('/') && !text.contains(':') {
            return Ok(Self {
                source: VolumeSource::Own,
                target: target(what, text)?,
                read_only: false,
            });
        }
        let mut parts = text.split(':');
        let (Some(source), Some(inside)) = (parts.next(), parts.next()) else {
            return Err(ParseError::new(
                what,
                text,
                "the form is SRC:DST[:ro], or DST",
            ));
        };
        let read_only = match (parts.next(), parts.next()) {
            (None | Some("rw"), None) => false,
            (Some("ro"), None) => true,
            _ => {
                return Err(ParseError::new(
                    what,
                    text,
                    "behind DST may come :ro or :rw",
                ));
            }
        };
        let source = if source.starts_with('/') {
            VolumeSource::Host(PathBuf::from(source))
        } else if source.starts_with('.') || source.contains('/') {
            let reason = "a path of the host must be absolute, a volume's name has no slash";
            return Err(ParseError::new(what, text, reason));
        } else {
            VolumeSource::Named(name("volume name", source)?)
        };
        Ok(Self {
            source,
            target: target(what, inside)?,
            read_only,
        })
    }
}

impl FromStr for PortMapping {
    type Err = ParseError;

    /// `[[IP:]HOST:]CONT[/tcp|udp]`; an IPv6 address stands in brackets. Without HOST, or with an
    /// empty one, a free port is taken.
    fn from_str(text: &str) -> Result<Self, ParseError> {
        let form = "the form is [[IP:]HOST:]CONTAINER[/tcp|udp]";
        let bad = |reason: &str| ParseError::new("port", text, reason);
        let (ports, protocol) = match text.rsplit_once('/') {
            None => (text, Protocol::Tcp),
            Some((ports, "tcp")) => (ports, Protocol::Tcp),
            Some((ports, "udp")) => (ports, Protocol::Udp),
            Some(_) => return Err(bad("the protocol is tcp or udp")),
        };
        let (rest, container) = ports.rsplit_once(':').unwrap_or(("", ports));
        let container = container.parse::<u16>().ok().filter(|port| *port > 0);
        let (ip, host) = rest
            .rsplit_once(':')
            .map_or((None, rest), |(ip, host)| (Some(ip), host));
        let ip = match ip {
            None | Some("") => None,
            Some(ip) => {
                let bare = ip.strip_prefix('[').and_then(|ip| ip.strip_suffix(']'));
                Some(
                    bare.unwrap_or(ip)
                        .parse::<IpAddr>()
                        .map_err(|_| bad(form))?,
                )
            }
        };
        let host = match host {
            "" => 0,
            host => host.parse().map_err(|_| bad(form))?,
        };
        Ok(Self {
            ip,
            host,
            container: container.ok_or_else(|| bad(form))?,
            protocol,
        })
    }
}

impl FromStr for Tmpfs {
    type Err = ParseError;

    /// `PATH[:OPTION,…]`, of those options that only concern the file system itself.
    fn from_str(text: &str) -> Result<Self, ParseError> {
        const PLAIN: [&str; 10] = [
            "ro", "rw", "exec", "noexec", "suid", "nosuid", "dev", "nodev", "noatime", "relatime",
        ];
        const VALUED: [&str; 6] = ["size", "mode", "uid", "gid", "nr_inodes", "nr_blocks"];
        let (path, options) = text.split_once(':').unwrap_or((text, ""));
        let known = |option: &str| match option.split_once('=') {
            None => PLAIN.contains(&option),
            Some((key, value)) => {
                let sane = |c: char| c.is_ascii_alphanumeric() || c == '%';
                VALUED.contains(&key) && !value.is_empty() && value.chars().all(sane)
            }
        };
        let options: Vec<String> = options
            .split(',')
            .filter(|option| !option.is_empty())
            .map(str::to_owned)
            .collect();
        if let Some(option) = options.iter().find(|option| !known(option)) {
            let reason = format!("unknown option {option:?}: size=, mode=, uid=, gid=, exec, ro …");
            return Err(ParseError::new("tmpfs", text, reason));
        }
        Ok(Self {
            target: target("tmpfs", path)?,
            options,
        })
    }
}

impl FromStr for Network {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        match text {
            "bridge" => Ok(Self::Bridge),
            "host" => Ok(Self::Host),
            "none" => Ok(Self::None),
            _ => Err(ParseError::new(
                "network",
                text,
                "it is bridge, host or none",
            )),
        }
    }
}

impl FromStr for Signal {
    type Err = ParseError;

    /// A number from 1 to 64, or a name with or without `SIG`; `RTMIN+N` and `RTMAX-N` too.
    fn from_str(text: &str) -> Result<Self, ParseError> {
        let bad = || ParseError::new("signal", text, "it is a number or a name like SIGTERM");
        if let Ok(number) = text.parse() {
            return Self::new(number).ok_or_else(bad);
        }
        let upper = text.to_ascii_uppercase();
        let name = upper.strip_prefix("SIG").unwrap_or(&upper);
        let number = if let Some(rest) = name.strip_prefix("RTMIN") {
            realtime(rest, '+').map(|n| 34 + n)
        } else if let Some(rest) = name.strip_prefix("RTMAX") {
            realtime(rest, '-').map(|n| 64 - n)
        } else {
            SIGNALS
                .iter()
                .find(|(known, _)| *known == name)
                .map(|(_, number)| *number)
        };
        number.and_then(Self::new).ok_or_else(bad)
    }
}

/// The N of `RTMIN+N` and `RTMAX-N`: there are 31 real-time signals.
fn realtime(rest: &str, sign: char) -> Option<i32> {
    if rest.is_empty() {
        return Some(0);
    }
    let n = rest.strip_prefix(sign)?.parse().ok()?;
    (0..=30).contains(&n).then_some(n)
}

/// Linux's numbers, which x86-64 and AArch64 share.
const SIGNALS: [(&str, i32); 31] = [
    ("HUP", 1),
    ("INT", 2),
    ("QUIT", 3),
    ("ILL", 4),
    ("TRAP", 5),
    ("ABRT", 6),
    ("BUS", 7),
    ("FPE", 8),
    ("KILL", 9),
    ("USR1", 10),
    ("SEGV", 11),
    ("USR2", 12),
    ("PIPE", 13),
    ("ALRM", 14),
    ("TERM", 15),
    ("STKFLT", 16),
    ("CHLD", 17),
    ("CONT", 18),
    ("STOP", 19),
    ("TSTP", 20),
    ("TTIN", 21),
    ("TTOU", 22),
    ("URG", 23),
    ("XCPU", 24),
    ("XFSZ", 25),
    ("VTALRM", 26),
    ("PROF", 27),
    ("WINCH", 28),
    ("IO", 29),
    ("PWR", 30),
    ("SYS", 31),
];

/// Bytes, with an optional unit `b`, `k`, `m`, `g` or `t` in steps of 1,024.
///
/// # Errors
/// Anything else, zero, and what does not fit in 63 bits.
pub fn bytes(text: &str) -> Result<u64, ParseError> {
    let bad = |reason: &str| ParseError::new("size", text, reason);
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = text.get(digits.len()..).unwrap_or_default();
    let shift = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "ki" | "kib" => 10,
        "m" | "mb" | "mi" | "mib" => 20,
        "g" | "gb" | "gi" | "gib" => 30,
        "t" | "tb" | "ti" | "tib" => 40,
        _ => return Err(bad("the units are b, k, m, g and t")),
    };
    let number: u64 = digits
        .parse()
        .map_err(|_| bad("it is a whole number with a unit, like 512m"))?;
    number
        .checked_mul(1 << shift)
        .filter(|bytes| (1..=i64::MAX as u64).contains(bytes))
        .ok_or_else(|| bad("it is zero or too large"))
}

/// The least memory a container can start with: below it the runtime itself is killed.
pub const MIN_MEMORY: u64 = 6 << 20;

/// A memory limit: [`bytes`], at least [`MIN_MEMORY`].
///
/// # Errors
/// See [`bytes`].
pub fn memory(text: &str) -> Result<u64, ParseError> {
    let limit = bytes(text)?;
    if limit < MIN_MEMORY {
        return Err(ParseError::new("memory", text, "the least is 6m"));
    }
    Ok(limit)
}

/// A number of processors, such as `1.5`.
///
/// # Errors
/// What is no number, or not between 0.01 and 4,096.
pub fn cpus(text: &str) -> Result<f64, ParseError> {
    text.parse()
        .ok()
        .filter(|cpus| (0.01..=4096.0).contains(cpus))
        .ok_or_else(|| ParseError::new("cpus", text, "it is a number from 0.01, like 1.5"))
}

/// `NAME=VALUE`, or `NAME` alone, whose value comes from `lookup`: `None` where that has none.
///
/// # Errors
/// An empty name, or a NUL byte.
pub fn env(
    text: &str,
    lookup: impl FnOnce(&str) -> Option<String>,
) -> Result<Option<String>, ParseError> {
    let name = text.split('=').next().unwrap_or_default();
    if name.is_empty() || text.contains('\0') {
        let reason = "the form is NAME=VALUE, or NAME to take it from the environment";
        return Err(ParseError::new("env", text, reason));
    }
    if text.len() > name.len() {
        return Ok(Some(text.to_owned()));
    }
    Ok(lookup(name).map(|value| format!("{name}={value}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volumes() {
        let volume: Volume = "/srv/data:/data//x/:ro".parse().unwrap();
        assert_eq!(volume.source, VolumeSource::Host("/srv/data".into()));
        assert_eq!(
            (volume.target.as_str(), volume.read_only),
            ("/data/x", true)
        );
        let volume: Volume = "cache:/var/cache".parse().unwrap();
        assert_eq!(volume.source, VolumeSource::Named("cache".into()));
        let volume: Volume = "/var/lib/data/".parse().unwrap();
        assert_eq!(
            (volume.source, volume.target.as_str()),
            (VolumeSource::Own, "/var/lib/data")
        );
        for text in [
            "",
            "a",
            "/",
            "/a/../b",
            "/a:b",
            "/a:/b:xx",
            "/a:/b:ro:rw",
            "../x:/b",
            "a/b:/c",
            "/a:/",
            "/a:/../b",
            ":/x",
            "/a:/b/../c",
        ] {
            assert!(text.parse::<Volume>().is_err(), "{text}");
        }
    }

    #[test]
    fn ports() {
        let port = |text: &str| text.parse::<PortMapping>();
        let full = port("127.0.0.1:8080:80/udp").unwrap();
        assert_eq!(full.ip, Some("127.0.0.1".parse().unwrap()));
        assert_eq!((full.host, full.container), (8080, 80));
        assert_eq!(full.protocol, Protocol::Udp);
        assert_eq!(port("[::1]:1:2").unwrap().ip, Some("::1".parse().unwrap()));
        assert_eq!(
            (port("80").unwrap().host, port("80").unwrap().container),
            (0, 80)
        );
        assert_eq!(port("127.0.0.1::80").unwrap().host, 0);
        for text in [
            "", ":", "0", "8080:", "x:80", "70000:80", "80/sctp", "a:1:2", "1:2:3:4", "1:0",
        ] {
            assert!(port(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes() {
        assert_eq!(bytes("512m").unwrap(), 512 << 20);
        assert_eq!(bytes("1GiB").unwrap(), 1 << 30);
        assert_eq!(bytes("7").unwrap(), 7);
        for text in ["", "m", "0", "-1", "1.5g", "1x", "99999999999t", "é"] {
            assert!(bytes(text).is_err(), "{text}");
        }
        assert!(memory("1m").is_err());
        assert!(cpus("1.5").is_ok());
        for text in ["0", "-1", "nan", "inf", "x"] {
            assert!(cpus(text).is_err(), "{text}");
        }
    }

    #[test]
    fn tmpfs() {
        let tmpfs: Tmpfs = "/run:size=64m,mode=1777,exec".parse().unwrap();
        assert_eq!(tmpfs.options, ["size=64m", "mode=1777", "exec"]);
        for text in ["run", "/run:bind", "/run:size=", "/run:size=1 2", "/"] {
            assert!(text.parse::<Tmpfs>().is_err(), "{text}");
        }
    }

    #[test]
    fn signals() {
        let number = |text: &str| text.parse::<Signal>().map(Signal::number);
        assert_eq!(number("SIGTERM"), Ok(15));
        assert_eq!(number("quit"), Ok(3));
        assert_eq!(number("SIGRTMIN+3"), Ok(37));
        assert_eq!(number("RTMAX-1"), Ok(63));
        assert_eq!(number("64"), Ok(64));
        for text in [
            "", "0", "65", "-1", "SIGFOO", "RTMIN+31", "RTMIN-1", "RTMIN+",
        ] {
            assert!(number(text).is_err(), "{text}");
        }
    }

    #[test]
    fn environment() {
        let lookup = |name: &str| (name == "HOME").then(|| "/root".to_owned());
        assert_eq!(env("A=b=c", lookup).unwrap().unwrap(), "A=b=c");
        assert_eq!(env("HOME", lookup).unwrap().unwrap(), "HOME=/root");
        assert_eq!(env("OTHER", lookup).unwrap(), None);
        assert!(env("=x", lookup).is_err());
    }

    #[test]
    fn messages_say_what_to_do() {
        insta_like(
            "a".parse::<Volume>().unwrap_err(),
            "invalid volume \"a\": the form is SRC:DST[:ro], or DST",
        );
        insta_like(
            "8080:x".parse::<PortMapping>().unwrap_err(),
            "invalid port \"8080:x\": the form is [[IP:]HOST:]CONTAINER[/tcp|udp]",
        );
    }

    fn insta_like(error: ParseError, text: &str) {
        assert_eq!(error.to_string(), text);
    }
}
