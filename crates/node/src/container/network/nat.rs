//! The way out: forwarding and masquerading, by iptables or nft, whichever this machine has.
//!
//! iptables comes first, because on machines where another tool (Docker among them) drops forwarded
//! packets through it, an accepting rule elsewhere does not help.

use std::fs;
use std::io;
use std::process::Command;

use super::{Subnet, ip};
use crate::container::ContainerError;

/// Whether the host forwards packets at all.
const FORWARD: &str = "/proc/sys/net/ipv4/ip_forward";

/// Whether the host forwards; true where it cannot be found out, for then there is nothing to do.
pub(super) fn forwards() -> bool {
    fs::read_to_string(FORWARD).map_or(true, |value| value.trim() != "0")
}

/// Lets the host forward, or not.
pub(super) fn forward(on: bool) -> io::Result<()> {
    fs::write(FORWARD, if on { "1" } else { "0" })
}

/// Whether somebody else than this bridge, whose rules are gone, may need that the host forwards: another bridge, as virtual
/// machines and other containers have, or rules for packets on their way from one network to another.
pub(super) fn others_forward(bridge: &str) -> bool {
    let interfaces = fs::read_dir("/sys/class/net").into_iter().flatten();
    let mut others = interfaces.flatten().filter(|it| it.file_name() != bridge);
    let lists = |command: &mut Command, words: &[&str]| {
        let output = command.output();
        let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
        text.is_ok_and(|text| words.iter().any(|word| text.contains(word)))
    };
    let iptables = |list: [&str; 4]| {
        let mut command = Command::new("iptables");
        lists(command.args(["-w", "5"]).args(list), &["-A "])
    };
    others.any(|it| it.path().join("bridge").exists())
        || iptables(["-t", "filter", "-S", "FORWARD"])
        || iptables(["-t", "nat", "-S", "POSTROUTING"])
        || lists(
            Command::new("nft").args(["list", "ruleset"]),
            &["masquerade", "snat"],
        )
}

/// Sets up the way out for a bridge. The answer is a warning where there is none: containers reach
/// each other and the host all the same.
pub(super) fn set_up(bridge: &str, subnet: Subnet) -> Option<String> {
    if !forwards()
        && let Err(error) = forward(true)
    {
        return Some(warning(&format!("{FORWARD}: {error}")));
    }
    let first = match iptables(bridge, subnet) {
        Ok(()) => return None,
        Err(error) => error,
    };
    match nft(bridge, subnet) {
        Ok(()) => None,
        Err(second) => Some(warning(&format!("{first}; {second}"))),
    }
}

fn warning(reason: &str) -> String {
    format!("containers cannot reach networks beyond this host ({reason}): use --net host for that")
}

const ACTION: &str = "set up the way out";

/// Table, chain and rule.
type Rule<'a> = (&'static str, &'static str, Vec<&'a str>);

/// What leaves through another interface gets the host's address, and what
/// comes from and to the bridge is let through.
fn rules<'a>(bridge: &'a str, subnet: &'a str) -> [Rule<'a>; 3] {
    let masquerade = vec!["-s", subnet, "!", "-o", bridge, "-j", "MASQUERADE"];
    [
        ("nat", "POSTROUTING", masquerade),
        ("filter", "FORWARD", vec!["-i", bridge, "-j", "ACCEPT"]),
        (
            "filter",
            "FORWARD",
            vec!["-o", bridge, "-d", subnet, "-j", "ACCEPT"],
        ),
    ]
}

/// Whether the way out is as [`set_up`] leaves it.
pub(super) fn is_set_up(bridge: &str, subnet: Subnet) -> bool {
    let by_iptables = || {
        let subnet = subnet.to_string();
        let rules = rules(bridge, &subnet);
        rules.iter().all(|rule| run("-C", rule).is_ok())
    };
    let by_nft = || {
        let list = ["list", "table", "ip", &table_of(bridge)];
        ip::feed(ACTION, Command::new("nft").args(list), "").is_ok()
    };
    forwards() && (by_iptables() || by_nft())
}

/// Does something to a rule by iptables.
fn run(action: &str, (table, chain, rule): &Rule<'_>) -> Result<(), ContainerError> {
    let mut command = Command::new("iptables");
    // -w: wait for others who hold its lock, with a bound.
    command
        .args(["-w", "5", "-t", table, action, chain])
        .args(rule);
    ip::feed(ACTION, &mut command, "")
}

/// Adds the rules that are not there.
fn iptables(bridge: &str, subnet: Subnet) -> Result<(), ContainerError> {
    for rule in rules(bridge, &subnet.to_string()) {
        if run("-C", &rule).is_err() {
            run("-I", &rule)?;
        }
    }
    Ok(())
}

/// A table of our own, replaced as a whole.
fn nft(bridge: &str, subnet: Subnet) -> Result<(), ContainerError> {
    let table = table_of(bridge);
    let rules = format!(
        "add table ip {table}\n\
         delete table ip {table}\n\
         table ip {table} {{\n\
           chain out {{\n\
             type nat hook postrouting priority 100;\n\
             ip saddr {subnet} oifname != \"{bridge}\" masquerade\n\
           }}\n\
         }}\n"
    );
    ip::feed(ACTION, Command::new("nft").args(["-f", "-"]), &rules)
}

fn table_of(bridge: &str) -> String {
    format!("thaw-{bridge}")
}

/// Takes the rules away.
pub(super) fn take_away(bridge: &str, subnet: Subnet) {
    for rule in rules(bridge, &subnet.to_string()) {
        let _ = run("-D", &rule);
    }
    let delete = format!("delete table ip {}\n", table_of(bridge));
    let _ = ip::feed(ACTION, Command::new("nft").args(["-f", "-"]), &delete);
}
