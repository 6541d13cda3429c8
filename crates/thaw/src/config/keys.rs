//! The keys of the configuration file: one definition by which they are read, checked and explained.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::num::NonZeroU64;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::network::{Proxy, Registry};
use super::size::Size;
use super::socket::Socket;
use super::trust::Trust;

/// What is known of a key besides its type.
#[derive(Debug)]
pub(crate) struct Key {
    field: &'static str,
    help: &'static [&'static str],
    /// What holds without it, for people.
    pub(crate) default: &'static str,
    /// A value as it is written.
    pub(crate) example: &'static str,
}

impl Key {
    /// As it is written in the file.
    pub(crate) fn name(&self) -> String {
        self.field.replace('_', "-")
    }

    /// The key of this name.
    pub(crate) fn find(name: &str) -> Option<&'static Self> {
        KEYS.iter().find(|key| key.name() == name)
    }
}

/// Makes [`File`] and [`KEYS`] of one list.
macro_rules! keys {
    ($($(#[doc = $help:literal])+ $field:ident: $type:ty, default $default:literal, example $example:literal;)+) => {
        /// The configuration file. Every key is optional.
        #[derive(Clone, Debug, Default, Deserialize, Serialize)]
        #[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
        pub(crate) struct File {
            $($(#[doc = $help])+ pub(crate) $field: Option<$type>,)+
        }

        /// Every key that a file may have.
        pub(crate) const KEYS: &[Key] = &[$(Key {
            field: stringify!($field),
            help: &[$($help),+],
            default: $default,
            example: $example,
        }),+];
    };
}

keys! {
    /// The store: images, containers, and the socket of the daemon that owns them. THAW_ROOT goes
    /// before it, and --root before both, as in the units for systemd, whose socket lies in it.
    root: PathBuf, default "/var/lib/thaw", example "\"/var/lib/thaw\"";
    /// Hosts that are spoken to in plain HTTP (loopback ones are, where their own table does not say otherwise). --plain-http adds to them.
    plain_http: Vec<String>, default "none", example "[\"registry.internal:5000\"]";
    /// Repositories whose accelerations are trusted for every image.
    trusted_repositories: Vec<String>, default "none", example "[\"registry.example/accel\"]";
    /// OCI runtime, by name or path. --runtime goes before it.
    runtime: String, default "crun, else runc", example "\"crun\"";
    /// Seconds that a read may wait for bytes before it gets EIO.
    fault_timeout_seconds: NonZeroU64, default "30", example "30";
    /// Seconds that a start may look for accelerations and their signatures before it fetches all of
    /// the image.
    search_timeout_seconds: NonZeroU64, default "15", example "15";
    /// What layers may take on the disk, in bytes or with a unit (k, m, g, t). What nothing uses goes
    /// first and working sets last; what containers use may take more.
    cache_size: Size, default "as much as there is", example "\"20g\"";
    /// Whether images for which nothing has arrived for some seconds are read past the page cache of
    /// their layers, where the kernel does that safely: less memory, and the whole of an image sooner.
    direct_reads: bool, default "true", example "true";
    /// Docker's configuration file, for credentials.
    docker_config: PathBuf, default "$DOCKER_CONFIG/config.json, else ~/.docker/config.json", example "\"/root/.docker/config.json\"";
    /// Where the daemon serves its metrics over HTTP, at /metrics. Whoever reaches the address can
    /// read names of images.
    metrics_listen: SocketAddr, default "nowhere", example "\"127.0.0.1:9477\"";
    /// PEM files with certificate authorities that are trusted for every registry, beside the
    /// system's. Files beside this one may be named without their directory.
    ca: Vec<PathBuf>, default "none", example "[\"company.pem\"]";
    /// HTTP proxies; what is not there is taken from http_proxy, https_proxy and no_proxy, and an
    /// empty one says that there is none.
    proxy: Proxy, default "the environment's", example "{ http = \"http://proxy.example:3128\", https = \"\", none-for = \"lan\" }";
    /// Single registries, by host and port as in references: mirrors that are asked before them,
    /// plain HTTP, authorities, and a certificate to show.
    registry: BTreeMap<String, Registry>, default "none", example "{ \"registry.example\" = { mirrors = [\"mirror.lan:5000\"], plain-http = false, ca = [\"ca.pem\"], client-cert = \"cert.pem\", client-key = \"key.pem\" } }";
    /// Whose signatures count for the accelerations and working sets of which images, and whether
    /// nothing else does. Public keys are PEM files; a * stands for any characters.
    trust: Vec<Trust>, default "none", example "[{ repositories = [\"registry.example/*\"], keys = [\"accelerations.pub\"], require-signature = false }]";
    /// Who else than root may speak to the daemon, at a socket of its own, by user and group. Those of
    /// `users` and `groups` may do everything, which is as good as being root; those of `read-users`
    /// and `read-groups` may ask what is there.
    socket: Socket, default "nobody else", example "{ path = \"/run/thaw/thaw.sock\", users = [\"ci\"], groups = [\"thaw\"], read-users = [\"prometheus\"], read-groups = [\"monitoring\"] }";
}

/// A file with every key, explained and commented out.
pub(crate) fn example() -> String {
    let mut text = String::from(
        "# The configuration of thaw: /etc/thaw/config.toml, or what --config names. Every key is\n\
         # optional; `thaw config` prints what is in force, and whence.\n",
    );
    for key in KEYS {
        text.push('\n');
        for line in key.help {
            text.push_str(&format!("#{line}\n"));
        }
        text.push_str(&format!("# Default: {}\n", key.default));
        text.push_str(&format!("#{} = {}\n", key.name(), key.example));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_has_every_key_that_is_read() {
        let is_key = |line: &&str| {
            let rest = line.strip_prefix('#');
            rest.is_some_and(|rest| rest.starts_with(|first: char| first.is_ascii_lowercase()))
        };
        let text = example();
        let keys: Vec<&str> = text.lines().filter(is_key).map(|line| &line[1..]).collect();
        assert_eq!(keys.len(), KEYS.len());
        let read: File = toml::from_str(&keys.join("\n")).unwrap();
        // What serde reads, by the names under which it does.
        let fields = serde_json::to_value(read).unwrap();
        let fields = fields.as_object().unwrap();
        let mut names: Vec<String> = KEYS.iter().map(Key::name).collect();
        names.sort_unstable();
        assert_eq!(fields.keys().cloned().collect::<Vec<_>>(), names);
        assert!(fields.values().all(|value| !value.is_null()));
        // As it is, it changes nothing.
        assert!(toml::from_str::<toml::Table>(&text).unwrap().is_empty());
    }
}
