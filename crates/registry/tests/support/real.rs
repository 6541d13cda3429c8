//! docker-registry 2.8 on a free loopback port, its storage in a temporary directory.

use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const PROGRAM: &str = "/usr/bin/docker-registry";

pub struct RealRegistry {
    child: Child,
    pub host: String,
    pub dir: tempfile::TempDir,
}

impl RealRegistry {
    pub fn start() -> Self {
        Self::with(|_| String::new())
    }

    /// `extra` gives further lines of the configuration, for what lies in the directory.
    pub fn with(extra: impl FnOnce(&Path) -> String) -> Self {
        assert!(
            Path::new(PROGRAM).exists(),
            "the Debian package docker-registry is missing"
        );
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let port = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let host = format!("127.0.0.1:{port}");
        let config = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage:\n  filesystem: {{rootdirectory: {}}}\n  \
             delete: {{enabled: true}}\n{}\nhttp:\n  addr: {host}\n",
            dir.path().join("storage").display(),
            extra(dir.path()),
        );
        let path = dir.path().join("config.yml");
        // `http` stands last: extra lines may begin with two spaces to go on in it.
        let (other, http): (Vec<&str>, Vec<&str>) =
            config.lines().partition(|line| !line.starts_with("  tls:"));
        std::fs::write(&path, [other, http].concat().join("\n")).unwrap();
        let child = Command::new(PROGRAM)
            .arg("serve")
            .arg(&path)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let registry = Self { child, host, dir };
        let begun = Instant::now();
        while TcpStream::connect(&registry.host).is_err() {
            assert!(
                begun.elapsed() < Duration::from_secs(20),
                "docker-registry does not start"
            );
            std::thread::sleep(Duration::from_millis(20));
        }
        registry
    }
}

impl Drop for RealRegistry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
