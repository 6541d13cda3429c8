//! The bridge: made with the first container, and kept until everything is collected.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use super::leases::Leases;
use super::{BridgeConfig, Endpoint, Subnet, ip, nat, netns_name, veth_name};
use crate::container::{ContainerError, ContainerId, Settings};

/// The bridge of these settings.
#[derive(Clone, Debug)]
pub struct Bridge {
    run_dir: PathBuf,
    config: BridgeConfig,
}

impl Bridge {
    /// Touches nothing yet.
    #[must_use]
    pub fn new(settings: &Settings) -> Self {
        Self {
            run_dir: settings.run_dir.clone(),
            config: settings.bridge.clone(),
        }
    }

    /// An address for the container whose directory is `dir`. Makes the bridge when it is missing.
    pub(in crate::container) fn lease(
        &self,
        id: &ContainerId,
        dir: &Path,
    ) -> Result<Endpoint, ContainerError> {
        let mut leases = self.open()?;
        Self::drop_void(&mut leases)?;
        let before = leases.current_subnet();
        let subnet = leases.subnet(self.config.subnet)?;
        let new = before != Some(subnet) || !self.exists();
        if new {
            self.make(subnet)?;
        }
        // Or somebody has turned it off since; what could not be done may be possible by now.
        if new || !nat::forwards() || leases.warning().is_some() {
            self.open_way_out(&mut leases, subnet)?;
        }
        let address = leases.take(id, dir)?;
        Ok(Endpoint {
            warning: leases.warning(),
            ..Endpoint::new(id, address, subnet)
        })
    }

    /// Makes the namespace of a leased endpoint and connects it.
    pub(in crate::container) fn attach(
        &self,
        id: &ContainerId,
        endpoint: &Endpoint,
    ) -> Result<(), ContainerError> {
        let bridge = &self.config.name;
        let (netns, veth, address) = (endpoint.netns_name(), veth_name(id), endpoint.address);
        // An address always has the same hardware address, so that nobody's neighbour table is wrong
        // when it is leased again.
        let [a, b, c, d] = address.octets();
        let hardware = format!("02:54:{a:02x}:{b:02x}:{c:02x}:{d:02x}");
        let mtu = mtu(bridge);
        let on_host = format!(
            "netns add {netns}\n\
             link add {veth} mtu {mtu} type veth peer name eth0 mtu {mtu} address {hardware} netns {netns}\n\
             link set {veth} master {bridge} up\n"
        );
        let isolated = format!("link set {veth} type bridge_slave isolated on\n");
        let on_host = match endpoint.isolated {
            true => on_host + &isolated,
            false => on_host,
        };
        ip::batch("connect the container", None, &on_host)?;
        let (prefix, gateway) = (endpoint.subnet.prefix(), endpoint.subnet.gateway());
        let inside = format!(
            "link set lo up\n\
             addr add {address}/{prefix} broadcast + dev eth0\n\
             link set eth0 up\n\
             route add default via {gateway}\n"
        );
        let inside = match endpoint.isolated {
            true => isolated_network(endpoint),
            false => inside,
        };
        ip::batch("configure the container's network", Some(netns), &inside)
    }

    /// Takes a container's namespace and interfaces away and gives its address back. One that has
    /// none is no error.
    pub(in crate::container) fn release(&self, id: &ContainerId) -> Result<(), ContainerError> {
        disconnect(id)?;
        self.open()?.give_back(id)
    }

    /// Puts the rules for the way out back, where they are not there any more: whoever loads a firewall anew takes ours
    /// away. The answer is a warning where that fails. Nobody who wants an address waits for the look.
    pub(in crate::container) fn keep_way_out(
        &self,
        subnet: Subnet,
    ) -> Result<Option<String>, ContainerError> {
        if nat::is_set_up(&self.config.name, subnet) {
            return Ok(None);
        }
        let mut leases = self.open()?;
        if leases.current_subnet() == Some(subnet) {
            self.open_way_out(&mut leases, subnet)?;
        }
        Ok(leases.warning())
    }

    /// Takes away what containers left that ended without their monitor, and puts the rules for the
    /// way out back, where the bridge is there and they are not. Nothing where there was never a bridge.
    ///
    /// # Errors
    /// [`ContainerError::Network`], [`ContainerError::File`].
    pub fn reconcile(&self) -> Result<(), ContainerError> {
        if !Leases::exist(&self.run_dir, &self.config.name) {
            return Ok(());
        }
        let mut leases = self.open()?;
        Self::drop_void(&mut leases)?;
        let subnet = leases.current_subnet().filter(|_| self.exists());
        drop(leases);
        let kept = subnet.map(|subnet| self.keep_way_out(subnet));
        kept.transpose().map(drop)
    }

    /// Lets packets out, and notes first what has to be undone with the bridge.
    fn open_way_out(&self, leases: &mut Leases, subnet: Subnet) -> Result<(), ContainerError> {
        if !nat::forwards() {
            leases.note_no_forwarding()?;
        }
        leases.set_warning(nat::set_up(&self.config.name, subnet))
    }

    /// Whether there is something to [remove](Self::remove), and no living container is connected.
    ///
    /// # Errors
    /// [`ContainerError::Network`], [`ContainerError::File`].
    pub fn is_unused(&self) -> Result<bool, ContainerError> {
        let leases = self.open()?;
        let is_there = leases.current_subnet().is_some() || self.exists();
        Ok(is_there && leases.void().len() == leases.len())
    }

    /// Takes the bridge and its rules away, unless a container is still connected; the host
    /// forwards packets again only if it did before, or if others need it by now. Whether that is so is the answer.
    ///
    /// # Errors
    /// [`ContainerError::Network`], [`ContainerError::File`].
    pub fn remove(&self) -> Result<bool, ContainerError> {
        let mut needed = false;
        let mut leases = self.open()?;
        Self::drop_void(&mut leases)?;
        if leases.len() == 0 {
            if let Some(subnet) = leases.current_subnet() {
                nat::take_away(&self.config.name, subnet);
            }
            needed = leases.forwarded_not() && nat::others_forward(&self.config.name);
            if leases.forwarded_not() && !needed {
                nat::forward(false).map_err(ContainerError::system("stop forwarding"))?;
            }
            if self.exists() {
                ip::batch(
                    "remove the bridge",
                    None,
                    &format!("link del {}\n", self.config.name),
                )?;
            }
            leases.remove()?;
        }
        Ok(needed)
    }

    fn drop_void(leases: &mut Leases) -> Result<(), ContainerError> {
        for id in leases.void() {
            disconnect(&id)?;
            leases.give_back(&id)?;
        }
        Ok(())
    }

    fn open(&self) -> Result<Leases, ContainerError> {
        let name = &self.config.name;
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
        if !(1..=15).contains(&name.len()) || !name.chars().all(plain) {
            return Err(ContainerError::Network {
                action: format!("use the bridge {name:?}"),
                message: "its name takes 1 to 15 of a-z A-Z 0-9 _ -".to_owned(),
            });
        }
        Leases::open(&self.run_dir, name)
    }

    fn exists(&self) -> bool {
        Path::new("/sys/class/net").join(&self.config.name).exists()
    }

    fn make(&self, subnet: Subnet) -> Result<(), ContainerError> {
        let name = &self.config.name;
        let (gateway, prefix) = (subnet.gateway(), subnet.prefix());
        let mut lines = String::new();
        if !self.exists() {
            let mtu = outer_mtu();
            let _ = writeln!(
                lines,
                "link add {name} mtu {mtu} type bridge forward_delay 0"
            );
        }
        let _ = writeln!(
            lines,
            "addr replace {gateway}/{prefix} broadcast + dev {name}"
        );
        let _ = writeln!(lines, "link set {name} up");
        ip::batch("make the bridge", None, &lines)
    }
}

/// What `ip` is told in the namespace of a container that only reaches what is beyond the host. The
/// gateway is used and not reached; the container cannot change its routes (`CAP_NET_ADMIN`).
fn isolated_network(endpoint: &Endpoint) -> String {
    let (address, gateway) = (endpoint.address, endpoint.subnet.gateway());
    let subnet = endpoint.subnet;
    let mut lines = format!(
        "link set lo up\n\
         addr add {address}/32 dev eth0\n\
         link set eth0 addrgenmode none\n\
         link set eth0 up\n\
         route add default via {gateway} dev eth0 onlink\n\
         route add prohibit {subnet}\n"
    );
    for own in host_addresses() {
        let _ = writeln!(lines, "route add prohibit {own}/32");
    }
    lines
}

/// The host's own IPv4 addresses but those of its loopback interface: `local` routes are to
/// `/32 host LOCAL` below the address in /proc/net/fib_trie.
fn host_addresses() -> BTreeSet<Ipv4Addr> {
    let table = fs::read_to_string("/proc/net/fib_trie").unwrap_or_default();
    let mut last = None;
    let mut found = BTreeSet::new();
    for line in table.lines() {
        if let Some((_, address)) = line.split_once("|-- ") {
            last = address.trim().parse::<Ipv4Addr>().ok();
        } else if line.contains("/32 host LOCAL") {
            found.extend(last.filter(|address| !address.is_loopback()));
        }
    }
    found
}

/// Takes a container's namespace and interfaces away.
fn disconnect(id: &ContainerId) -> Result<(), ContainerError> {
    let (netns, veth) = (netns_name(id), veth_name(id));
    let mut lines = String::new();
    // The pair goes with the namespace, but only some time after it.
    if Path::new("/sys/class/net").join(&veth).exists() {
        let _ = writeln!(lines, "link del {veth}");
    }
    if Path::new(Endpoint::NETNS_DIR).join(&netns).exists() {
        let _ = writeln!(lines, "netns del {netns}");
    }
    if lines.is_empty() {
        return Ok(());
    }
    ip::batch("disconnect the container", None, &lines)
}

/// Largest packet of an interface, in bytes.
fn mtu(interface: &str) -> u32 {
    fs::read_to_string(format!("/sys/class/net/{interface}/mtu"))
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(1500)
}

/// That of the interface with the default route: larger packets would not get out.
fn outer_mtu() -> u32 {
    let routes = fs::read_to_string("/proc/net/route").unwrap_or_default();
    let default = routes.lines().find_map(|line| {
        let mut fields = line.split_ascii_whitespace();
        let name = fields.next()?;
        (fields.next()? == "00000000").then_some(name)
    });
    default.map_or(1500, mtu)
}
