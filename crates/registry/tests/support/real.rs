//! docker-registry 2.8 on a free loopback port, its storage in a temporary directory.

use std::fs::File;
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
            .stdout(File::create(dir.path().join("log")).unwrap())
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

    /// Another name of the same address, which is not taken for a loopback one.
    pub fn no_loopback(&self) -> String {
        self.host.replace("127.0.0.1", "[::ffff:127.0.0.1]")
    }

    /// A line for each request that was answered, as web servers write them.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap()
    }
}

impl Drop for RealRegistry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
