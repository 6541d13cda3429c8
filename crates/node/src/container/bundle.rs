//! The bundle: the directory that a runtime starts a container from (runtime-spec, "Filesystem
//! Bundle"). It is the container's own directory in the store:
//!
//! ```text
//! DIR/config.json           the document
//! DIR/writable/             what the container may write; a filesystem of its own where that is bounded
//! DIR/writable/etc/         resolv.conf, hosts and hostname, bound into the container
//! DIR/writable/volumes/N    the image's VOLUMEs
//! ```

use std::fs;
use std::path::Path;

use oci_spec::image::ImageConfiguration;
use serde_json::Value;
use thaw_image::Progress;

use super::host::Host;
use super::network::Endpoint;
use super::options::{Network, Options};
use super::process::{self, Process};
use super::rootfs::RootFs;
use super::spec::{Mount, Spec};
use super::volumes::{self, Places, utf8};
use super::{ContainerError, ContainerId, WRITABLE, etc, parse, user};

/// What a bundle is made of.
#[derive(Debug)]
pub(super) struct Bundle<'a> {
    pub(super) id: &'a ContainerId,
    /// The container's directory.
    pub(super) dir: &'a Path,
    /// Named volumes of the store.
    pub(super) volumes: &'a Path,
    /// Where the root filesystem is mounted.
    pub(super) rootfs: &'a Path,
    pub(super) image: &'a ImageConfiguration,
    pub(super) options: &'a Options,
    pub(super) endpoint: Option<&'a Endpoint>,
    /// Who waits for it.
    pub(super) progress: &'a dyn Progress,
}

impl Bundle<'_> {
    /// Writes it. Returns what the user should know and what is no error.
    pub(super) fn write(&self) -> Result<Vec<String>, ContainerError> {
        let host = Host::probe();
        let root = RootFs::open(self.rootfs)?;
        let config = self.image.config().as_ref();
        let hostname = parse::hostname(&self.hostname(&host))?;
        let options = self.options;

        let user_of_image = config.and_then(|config| config.user().clone());
        let user = options.process.user.clone().or(user_of_image);
        let user = user::resolve(&root, &user.unwrap_or_default())?;
        let cwd = process::workdir(self.image, &options.process)?;
        root.make_dirs(&cwd)?;
        let env = config
            .and_then(|config| config.env().clone())
            .unwrap_or_default();
        let process = Process {
            args: process::arguments(self.image, options)?,
            env: process::environment(&env, &options.process, &hostname, &user.home)?,
            cwd,
            user,
            tty: options.process.tty,
            new_privileges: options.new_privileges,
            host: &host,
        };
        let (mut mounts, warnings) = self.etc(&hostname)?;
        mounts.extend(self.volume_mounts(&root)?);
        let mounts = volumes::sorted(&root, mounts)?;
        let spec = Spec {
            id: self.id,
            hostname: &hostname,
            rootfs: utf8(self.rootfs)?,
            read_only: options.read_only,
            process: &process,
            net: options.net,
            netns: self.endpoint.map(|endpoint| endpoint.netns.as_str()),
            limits: options.limits,
            mounts,
            host: &host,
        };
        self.put("config.json", &spec.to_json().to_string())?;
        Ok(warnings)
    }

    fn hostname(&self, host: &Host) -> String {
        match (&self.options.hostname, self.options.net) {
            (Some(name), _) => name.clone(),
            (None, Network::Host) => host.name.clone(),
            (None, _) => self.id.short().to_owned(),
        }
    }

    fn volume_mounts(&self, root: &RootFs) -> Result<Vec<Mount>, ContainerError> {
        let config = self.image.config().as_ref();
        let of_image = config.and_then(|config| config.volumes().clone());
        let own = self.dir.join(WRITABLE).join("volumes");
        let places = Places {
            named: self.volumes,
            own: &own,
        };
        let of_image = of_image.unwrap_or_default();
        volumes::mounts(root, &of_image, self.options, &places, self.progress)
    }

    /// Writes the files of `/etc`, and says how they are mounted.
    fn etc(&self, hostname: &str) -> Result<(Vec<Mount>, Vec<String>), ContainerError> {
        let dir = self.dir.join(WRITABLE).join("etc");
        fs::create_dir_all(&dir).map_err(ContainerError::file("make directory", &dir))?;
        let on_host = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let host_network = self.options.net == Network::Host;
        let mut resolv = on_host("/etc/resolv.conf");
        let mut warnings = Vec::new();
        if !host_network && etc::is_stub(&resolv) {
            resolv = on_host("/run/systemd/resolve/resolv.conf");
        }
        if !host_network || !self.options.dns.is_empty() {
            let made = etc::resolv(&resolv, &self.options.dns);
            if made.without_servers && self.options.net.has_bridge() {
                warnings.push(
                    "the host's name servers are all on its loopback, which the container cannot \
                     reach: give one with --dns, or use --net host"
                        .to_owned(),
                );
            }
            resolv = made.text;
        }
        let hosts = if host_network {
            on_host("/etc/hosts")
        } else {
            etc::hosts(self.endpoint.map(|endpoint| endpoint.address), hostname)
        };
        let mut mounts = Vec::new();
        for (name, text) in [
            ("resolv.conf", resolv),
            ("hosts", hosts),
            ("hostname", format!("{hostname}\n")),
        ] {
            self.put(&format!("{WRITABLE}/etc/{name}"), &text)?;
            let target = format!("/etc/{name}");
            if !self.is_covered(&target) {
                mounts.push(Mount::bind(utf8(&dir.join(name))?, &target, false));
            }
        }
        Ok((mounts, warnings))
    }

    /// Whether the user mounts something there.
    fn is_covered(&self, target: &str) -> bool {
        let volumes = self.options.volumes.iter().map(|volume| &volume.target);
        let tmpfs = self.options.tmpfs.iter().map(|tmpfs| &tmpfs.target);
        volumes.chain(tmpfs).any(|own| own == target)
    }

    fn put(&self, name: &str, text: &str) -> Result<(), ContainerError> {
        let path = self.dir.join(name);
        fs::write(&path, text).map_err(ContainerError::file("write", &path))
    }
}

/// Reads the document of a bundle again.
pub(super) fn read_config(dir: &Path) -> Result<Value, ContainerError> {
    let path = dir.join("config.json");
    let text = fs::read(&path).map_err(ContainerError::file("read", &path))?;
    serde_json::from_slice(&text).map_err(|source| ContainerError::Damaged { path, source })
}
