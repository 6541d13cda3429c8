//! A network between two machines, on one: a namespace, and a link to it with a rate and a delay.
//!
//! ```text
//! here ── TUN ── relay: rate, then delay ── TUN ── namespace
//! ```
//!
//! Not every kernel has netem, so packets are delayed here: a thread for each direction reads them
//! from one TUN device and another writes them to the other when they would have arrived. TCP runs
//! from end to end, with its handshakes, slow start and congestion control. Segmentation offload
//! lets up to 64 KiB pass at once, so a saturated gigabit costs a few percent of a core; headers
//! are charged as if every segment had been a frame on the wire.

mod relay;

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use tun_rs::DeviceBuilder;

use crate::process;
use relay::Relay;

/// Numbers what this process makes.
static NEXT: AtomicU32 = AtomicU32::new(0);

/// A network namespace, with nothing but loopback in it; deleted on drop.
#[derive(Debug)]
pub struct Namespace {
    name: String,
}

impl Namespace {
    /// A new one.
    ///
    /// # Errors
    /// Without root, or where the kernel has none.
    pub fn new() -> Result<Self> {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("thaw-{}-{number}", std::process::id());
        ip(&["netns", "add", &name])?;
        let namespace = Self { name };
        namespace.ip(&["link", "set", "lo", "up"])?;
        Ok(namespace)
    }

    /// Its path, as nsenter(1) wants it.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        Path::new("/run/netns").join(&self.name)
    }

    /// `program` inside, with our own mounts (`ip netns exec` would hide them).
    #[must_use]
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net={}", self.path().display()))
            .arg(program);
        command
    }

    fn ip(&self, args: &[&str]) -> Result<()> {
        process::run(self.command("ip").args(args)).map(drop)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = ip(&["netns", "del", &self.name]);
    }
}

/// What a link is like.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Bits per second on the wire, in each direction.
    pub rate: u64,
    /// From one end to the other, in each direction: half of the round trip.
    pub delay: Duration,
}

impl Shape {
    /// 1 Gbit/s and a round trip of 2 ms.
    pub const GIGABIT: Self = Self {
        rate: 1_000_000_000,
        delay: Duration::from_millis(1),
    };
}

/// A link between us and a namespace. Its devices go on drop.
#[derive(Debug)]
pub struct Link {
    near: Ipv4Addr,
    far: Ipv4Addr,
    relay: Relay,
}

impl Link {
    /// Connects our namespace with `namespace`.
    ///
    /// # Errors
    /// Without root, or where the kernel has no TUN devices.
    pub fn new(namespace: &Namespace, shape: Shape) -> Result<Self> {
        let number = std::process::id().wrapping_mul(8) + NEXT.fetch_add(1, Ordering::Relaxed);
        // 198.18.0.0/15 is set aside for benchmarks (RFC 2544); each link takes four addresses.
        let subnet = u32::from(Ipv4Addr::new(198, 18, 0, 0)) + (number % (1 << 15)) * 4;
        let (near, far) = (Ipv4Addr::from(subnet + 1), Ipv4Addr::from(subnet + 2));
        let name = |end: &str| format!("thaw{number:x}{end}");
        let (near_name, far_name) = (name("n"), name("f"));
        let device = |name: &str| {
            DeviceBuilder::new()
                .name(name)
                .offload(true)
                .mtu(1500)
                .build_sync()
                .with_context(|| format!("cannot make the TUN device {name}"))
        };
        let (near_device, far_device) = (device(&near_name)?, device(&far_name)?);
        near_device.set_nonblocking(true)?;
        far_device.set_nonblocking(true)?;
        ip(&["link", "set", &far_name, "netns", &namespace.name])?;
        ip(&["addr", "add", &format!("{near}/30"), "dev", &near_name])?;
        ip(&["link", "set", &near_name, "up"])?;
        namespace.ip(&["addr", "add", &format!("{far}/30"), "dev", &far_name])?;
        namespace.ip(&["link", "set", &far_name, "up"])?;
        let relay = Relay::start(Arc::new(near_device), Arc::new(far_device), shape)?;
        Ok(Self { near, far, relay })
    }

    /// Our address.
    #[must_use]
    pub fn near(&self) -> Ipv4Addr {
        self.near
    }

    /// The address in the namespace.
    #[must_use]
    pub fn far(&self) -> Ipv4Addr {
        self.far
    }

    /// Cuts the wire, or mends it. Packets get lost meanwhile, and nobody is told.
    pub fn cut(&self, cut: bool) {
        self.relay.cut(cut);
    }

    /// Bytes that came to us over the wire so far, headers included.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.relay.received()
    }

    /// Bytes that we sent over the wire so far, headers included.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.relay.sent()
    }
}

fn ip(args: &[&str]) -> Result<()> {
    process::run(Command::new("ip").args(args)).map(drop)
}
