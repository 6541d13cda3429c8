//! The network of containers: one bridge of the host, and for each container a network namespace,
//! a veth pair and an address.
//!
//! ```text
//!   container  eth0 ══ tvXXXXXXXXXXXX ─┐
//!                                      ├─ thaw0 (10.188.0.1/16) ─ routed, masqueraded ─▶ outside
//!   container  eth0 ══ tvYYYYYYYYYYYY ─┘
//!   host:PORT ─ proxy thread in the monitor ─▶ container:PORT
//! ```
//!
//! Subnet and addresses belong to the machine and not to a store, so they are kept in the run
//! directory, which a reboot empties as it does the bridge: `network/BRIDGE.json`, under the lock
//! `network/BRIDGE.lock`. A lease names its container's directory, and is void when the container
//! there does not live any more: what a killed monitor left is taken away by the next
//! [`Bridge::lease`] or [`Bridge::reconcile`].
//!
//! The work is done by `ip`, in two batches for a container (host and namespace; about 3 ms each),
//! while the bundle is written; and it is looked meanwhile whether the way out is still there.

mod bridge;
mod ip;
mod leases;
mod nat;
pub mod proxy;
mod subnet;

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

pub use bridge::Bridge;
pub use subnet::Subnet;

/// The bridge that containers are connected by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BridgeConfig {
    /// Its name: at most 15 characters.
    pub name: String,
    /// Its addresses; the first of 10.188.0.0/16, 10.189.0.0/16 … that no route of the host
    /// overlaps, where there is none.
    pub subnet: Option<Subnet>,
}

impl Default for BridgeConfig {
    fn default() -> Self {
        Self {
            name: "thaw0".to_owned(),
            subnet: None,
        }
    }
}

/// A container's place on the bridge.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// Its address.
    pub address: Ipv4Addr,
    /// The subnet, whose first address is the host's.
    pub subnet: Subnet,
    /// Path of its network namespace.
    pub netns: String,
    /// Whether it reaches neither the host nor other containers.
    #[serde(default)]
    pub isolated: bool,
    /// Why it cannot reach networks beyond this host, where it cannot.
    #[serde(default)]
    pub warning: Option<String>,
}

impl Endpoint {
    /// Where `ip netns` keeps namespaces, so that `ip netns exec` reaches ours.
    const NETNS_DIR: &'static str = "/run/netns";

    fn new(id: &super::ContainerId, address: Ipv4Addr, subnet: Subnet) -> Self {
        Self {
            address,
            subnet,
            netns: format!("{}/{}", Self::NETNS_DIR, netns_name(id)),
            isolated: false,
            warning: None,
        }
    }

    fn netns_name(&self) -> &str {
        self.netns.rsplit('/').next().unwrap_or_default()
    }
}

fn netns_name(id: &super::ContainerId) -> String {
    format!("thaw-{}", id.short())
}

/// Name of the host's end of the pair: at most 15 characters.
fn veth_name(id: &super::ContainerId) -> String {
    format!("tv{}", id.short())
}
