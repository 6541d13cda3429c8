//! The baseline: containerd with overlayfs snapshots, by `ctr images pull` and `ctr run`.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use thaw_testkit::process::{self, Killed};

use crate::contender::{Contender, Node};

const START_LIMIT: Duration = Duration::from_secs(20);
const CONTAINER: &str = "bench";

/// containerd as Debian has it.
#[derive(Debug)]
pub(crate) struct Containerd;

impl Contender for Containerd {
    fn name(&self) -> &'static str {
        "containerd"
    }

    fn node(&self, disk: &Path) -> Result<Box<dyn Node>> {
        Ok(Box::new(ContainerdNode::new(disk)?))
    }
}

/// A containerd of its own.
#[derive(Debug)]
pub(crate) struct ContainerdNode {
    _daemon: Killed,
    socket: PathBuf,
    root: PathBuf,
    running: bool,
}

impl ContainerdNode {
    pub(crate) fn new(disk: &Path) -> Result<Self> {
        let (root, socket) = (disk.join("containerd"), disk.join("c.sock"));
        let config = disk.join("config.toml");
        let text = format!(
            "version = 2\nroot = {root:?}\nstate = {:?}\n\
             disabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n[grpc]\naddress = {socket:?}\n",
            disk.join("state")
        );
        fs::write(&config, text)?;
        let log = File::create(disk.join("log"))?;
        let mut daemon = Killed::spawn(
            Command::new("containerd")
                .arg("--config")
                .arg(&config)
                .stdin(Stdio::null())
                .stdout(log.try_clone()?)
                .stderr(log),
        )?;
        let start = Instant::now();
        while ctr(&socket, &["version"])
            .output()
            .is_ok_and(|output| !output.status.success())
        {
            if daemon.ended() || start.elapsed() > START_LIMIT {
                let log = fs::read_to_string(disk.join("log")).unwrap_or_default();
                bail!("containerd did not come up; its log:\n{log}");
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(Self {
            _daemon: daemon,
            socket,
            root,
            running: false,
        })
    }

    /// Where the unpacked layers lie.
    pub(crate) fn snapshots(&self) -> PathBuf {
        self.root
            .join("io.containerd.snapshotter.v1.overlayfs/snapshots")
    }

    fn ctr(&self, args: &[&str]) -> Result<()> {
        process::run(&mut ctr(&self.socket, args)).map(drop)
    }
}

fn ctr(socket: &Path, args: &[&str]) -> Command {
    let mut command = Command::new("ctr");
    command
        .arg("--address")
        .arg(socket)
        .args(args)
        .stdin(Stdio::null());
    command
}

impl Node for ContainerdNode {
    fn pull(&mut self, reference: &str) -> Result<()> {
        self.ctr(&["images", "pull", "--plain-http", reference])
    }

    fn run(&mut self, reference: &str, port: u16) -> Result<()> {
        self.running = true;
        let port = format!("PORT={port}");
        // Its shim keeps standard streams open: they must not be pipes that we wait for.
        let mut command = ctr(
            &self.socket,
            &["run", "--detach", "--net-host", "--env", &port],
        );
        command
            .args([reference, CONTAINER])
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let status = command.status()?;
        if !status.success() {
            bail!("ctr run failed: {status}");
        }
        Ok(())
    }

    fn stop(&mut self) -> Result<()> {
        if !std::mem::take(&mut self.running) {
            return Ok(());
        }
        self.ctr(&["task", "rm", "--force", CONTAINER])?;
        self.ctr(&["container", "rm", CONTAINER])
    }
}

impl Drop for ContainerdNode {
    fn drop(&mut self) {
        // Ends the shim too, which would outlive the daemon.
        let _ = self.stop();
    }
}
