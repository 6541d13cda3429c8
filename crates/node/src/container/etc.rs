//! The three files of `/etc` that belong to the machine and not to the image: `resolv.conf`,
//! `hosts` and `hostname`. Pure: what the host's files hold comes in as text.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr};

/// A `resolv.conf` made for a container, and whether it lost every name server on the way.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Resolv {
    pub(super) text: String,
    pub(super) without_servers: bool,
}

/// The host's `resolv.conf` without name servers on the loopback, which a container with a network
/// of its own cannot reach; `servers`, where there are any, instead of the host's.
pub(super) fn resolv(host: &str, servers: &[IpAddr]) -> Resolv {
    let mut text = String::new();
    let mut kept = servers.len();
    for server in servers {
        let _ = writeln!(text, "nameserver {server}");
    }
    for line in host.lines() {
        match nameserver(line) {
            Some(_) if !servers.is_empty() => continue,
            Some(server) if is_loopback(server) => continue,
            Some(_) => kept += 1,
            None => {}
        }
        let _ = writeln!(text, "{line}");
    }
    Resolv {
        text,
        without_servers: kept == 0,
    }
}

/// Whether every name server of `resolv.conf` is systemd-resolved's stub, so that its other file
/// (`/run/systemd/resolve/resolv.conf`) has the real ones.
pub(super) fn is_stub(host: &str) -> bool {
    let mut servers = host.lines().filter_map(nameserver).peekable();
    servers.peek().is_some() && servers.all(|server| server == "127.0.0.53")
}

fn nameserver(line: &str) -> Option<&str> {
    let mut words = line.split_ascii_whitespace();
    (words.next() == Some("nameserver")).then(|| words.next().unwrap_or_default())
}

fn is_loopback(server: &str) -> bool {
    // A scope may follow: `fe80::1%eth0`.
    let address = server.split('%').next().unwrap_or_default();
    address.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// The names every container knows, and its own.
pub(super) fn hosts(own: Option<Ipv4Addr>, hostname: &str) -> String {
    let mut text = "127.0.0.1\tlocalhost\n\
                    ::1\tlocalhost ip6-localhost ip6-loopback\n\
                    fe00::\tip6-localnet\n\
                    ff00::\tip6-mcastprefix\n\
                    ff02::1\tip6-allnodes\n\
                    ff02::2\tip6-allrouters\n"
        .to_owned();
    let own = own.unwrap_or(Ipv4Addr::LOCALHOST);
    let _ = writeln!(text, "{own}\t{hostname}");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_servers_go() {
        let host =
            "# by hand\nnameserver 127.0.0.1\nnameserver ::1\nnameserver 10.0.0.2\nsearch a\n";
        let made = resolv(host, &[]);
        assert_eq!(made.text, "# by hand\nnameserver 10.0.0.2\nsearch a\n");
        assert!(!made.without_servers);
        assert!(resolv("nameserver 127.0.0.53\n", &[]).without_servers);
        let own = resolv(host, &["9.9.9.9".parse().unwrap()]);
        assert_eq!(own.text, "nameserver 9.9.9.9\n# by hand\nsearch a\n");
    }

    #[test]
    fn the_stub_is_known() {
        assert!(is_stub("nameserver 127.0.0.53\noptions edns0\n"));
        assert!(!is_stub("nameserver 127.0.0.53\nnameserver 1.1.1.1\n"));
        assert!(!is_stub(""));
    }

    #[test]
    fn hosts_name_the_container() {
        let text = hosts(Some(Ipv4Addr::new(10, 1, 2, 3)), "box");
        assert!(text.starts_with("127.0.0.1\tlocalhost\n"));
        assert!(text.ends_with("10.1.2.3\tbox\n"));
    }
}
