//! Daemon and keeper are killed where only a service manager has what they had: it gives it to the
//! next daemon, as systemd does.

use std::fs;
use std::io;
use std::net::TcpListener;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::io::{FdFlags, fcntl_setfd};
use tempfile::TempDir;
use thaw_sys::socket::{self, Wait};
use thaw_testkit::scratch;
use thaw_testkit::thaw::Thaw;

use super::{CONFIGURED_BOUND, Scene, eventually, kill, nothing_is_left, processes, target, thaw};

by_every_transport!(
    with_a_service_manager_daemon_and_keeper_may_die_together,
    what_a_full_service_manager_does_not_keep_is_lost_and_never_wrong,
    where_no_daemon_can_begin_reads_fail_within_the_bound,
    where_no_function_host_can_begin_reads_fail_within_the_bound,
    a_daemon_that_cannot_read_its_configuration_denies_nothing_beside_a_keeper,
);

/// A manager with a store of descriptors.
struct Manager {
    dir: TempDir,
    heard: Arc<Mutex<Heard>>,
    listening: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Heard {
    messages: Vec<String>,
    kept: Vec<(String, OwnedFd)>,
}

impl Heard {
    /// What systemd does with a message.
    fn take(&mut self, message: &str, fds: Vec<OwnedFd>, limit: usize) {
        let value = |key: &str| {
            let mut lines = message.lines();
            lines.find_map(|line| line.strip_prefix(key)?.strip_prefix('='))
        };
        let name = value("FDNAME").unwrap_or("stored");
        if value("FDSTOREREMOVE").is_some() {
            self.kept.retain(|(kept, _)| kept != name);
        }
        if value("FDSTORE").is_some() {
            let kept = fds.into_iter().map(|fd| (name.to_owned(), fd));
            self.kept.extend(kept);
            self.kept.truncate(limit);
        }
        self.messages.push(message.to_owned());
    }
}

impl Manager {
    /// One that keeps at most `limit` descriptors.
    fn new(limit: usize) -> Self {
        let dir = scratch::directory().unwrap();
        let socket = UnixDatagram::bind(dir.path().join("notify")).unwrap();
        let heard = Arc::new(Mutex::new(Heard::default()));
        let hears = Arc::clone(&heard);
        let listening = thread::spawn(move || {
            let mut buffer = [0; 512];
            while let Some((len, fds)) = socket::receive(&socket, &mut buffer, Wait::Block).unwrap()
            {
                let message = std::str::from_utf8(&buffer[..len]).unwrap();
                if message == "END" {
                    return;
                }
                hears.lock().unwrap().take(message, fds, limit);
            }
        });
        Self {
            dir,
            heard,
            listening: Some(listening),
        }
    }

    /// Starts a daemon and gives it what is kept; returns when commands can be given.
    fn start(&self, node: &Thaw) -> Child {
        let root = node.root().to_str().unwrap();
        let daemon = self.give(&["--root", root, "daemon", "--replace"]);
        let ready = format!("READY=1\nMAINPID={}", daemon.id());
        eventually("the daemon", || {
            let heard = self.heard.lock().unwrap();
            heard.messages.contains(&ready)
        });
        daemon
    }

    /// Starts `thaw ARGS…` and gives it what is kept.
    fn give(&self, args: &[&str]) -> Child {
        let (ours, theirs) = socket::pair().unwrap();
        let daemon = Command::new(std::env::current_exe().unwrap())
            .args(["handed_over", "--ignored", "--nocapture"])
            .env("NOTIFY_SOCKET", self.dir.path().join("notify"))
            .env("KEPT_ARGS", args.join("\n"))
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            .stderr(fs::File::create(self.dir.path().join("log")).unwrap())
            .spawn()
            .unwrap();
        for (name, fd) in &self.heard.lock().unwrap().kept {
            socket::send(&ours, name.as_bytes(), &[fd.as_fd()], Wait::Block).unwrap();
        }
        drop(ours);
        daemon
    }

    /// What the last daemon has said.
    fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap()
    }

    fn names(&self) -> Vec<String> {
        let heard = self.heard.lock().unwrap();
        heard.kept.iter().map(|(name, _)| name.clone()).collect()
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        let end = UnixDatagram::unbound().unwrap();
        end.send_to(b"END", self.dir.path().join("notify")).ok();
        self.listening.take().map(JoinHandle::join);
    }
}

/// Becomes a daemon that has the descriptors which come by standard input from number 3 on.
#[test]
#[ignore = "a process that the tests start, no test"]
fn handed_over() {
    let (mut names, mut fds) = (Vec::new(), Vec::new());
    let mut buffer = [0; 512];
    while let Some((len, given)) = socket::receive(io::stdin(), &mut buffer, Wait::Block).unwrap() {
        names.push(String::from_utf8(buffer[..len].to_vec()).unwrap());
        fds.extend(given);
    }
    for (number, fd) in (3..).zip(&fds) {
        assert_eq!(fd.as_raw_fd(), number);
        fcntl_setfd(fd, FdFlags::empty()).unwrap();
    }
    let args = std::env::var("KEPT_ARGS").unwrap();
    let error = Command::new(env!("CARGO_BIN_EXE_thaw"))
        .args(args.lines())
        .env("LISTEN_PID", std::process::id().to_string())
        .env("LISTEN_FDS", fds.len().to_string())
        .env("LISTEN_FDNAMES", names.join(":"))
        .stdin(Stdio::null())
        .exec();
    panic!("{error}");
}

/// Kills the daemon first: it would start another keeper.
fn kill_both(node: &Thaw, mut daemon: Child) {
    let keeper = processes(node, "keeper")[0];
    daemon.kill().unwrap();
    kill(&[keeper]);
    daemon.wait().unwrap();
}

fn with_a_service_manager_daemon_and_keeper_may_die_together(transport: &str) {
    let scene = Scene::new();
    let node = thaw();
    let manager = Manager::new(100);
    let mut daemon = manager.start(&node);
    let dir = target(&node);
    scene.mount(&node, transport, &dir);
    for file in ["srv/f1-3", "srv/f2-3"] {
        kill_both(&node, daemon);
        daemon = thread::scope(|scope| {
            let reader = scope.spawn(|| scene.read(&dir, file));
            thread::sleep(Duration::from_millis(300));
            assert!(!reader.is_finished(), "nobody could have served this read");
            let daemon = manager.start(&node);
            reader.join().unwrap().unwrap();
            daemon
        });
        scene.start(&node, &["--net", "none", "--transport", transport]);
        node.run(["rm", "-f", "box"]).unwrap();
    }
    assert_eq!(scene.read_all(&dir, &AtomicUsize::new(0)), 0);
    nothing_is_left(&node);
    node.run(["daemon", "--stop"]).unwrap();
    assert!(daemon.wait().unwrap().success());
    eventually("an empty store", || manager.names().is_empty());
}

fn what_a_full_service_manager_does_not_keep_is_lost_and_never_wrong(transport: &str) {
    let scene = Scene::new();
    let node = thaw();
    let manager = Manager::new(1);
    let daemon = manager.start(&node);
    let dir = target(&node);
    scene.mount(&node, transport, &dir);
    assert_eq!(manager.names(), ["kept-by-thaw-source"]);
    kill_both(&node, daemon);
    let mut daemon = thread::scope(|scope| {
        let reader = scope.spawn(|| scene.read(&dir, "srv/f1-3"));
        thread::sleep(Duration::from_millis(300));
        assert!(!reader.is_finished(), "nobody could have served this read");
        let daemon = manager.start(&node);
        let error = reader.join().unwrap().unwrap_err();
        assert_eq!(error.raw_os_error(), Some(5), "{error}");
        daemon
    });
    assert!(!dir.join("srv").exists(), "it is unmounted");
    // And can be mounted again.
    scene.mount(&node, transport, &dir);
    assert_eq!(scene.read_all(&dir, &AtomicUsize::new(0)), 0);
    nothing_is_left(&node);
    node.run(["daemon", "--stop"]).unwrap();
    assert!(daemon.wait().unwrap().success());
}

fn where_no_daemon_can_begin_reads_fail_within_the_bound(transport: &str) {
    reads_fail_within_the_bound(transport, &["daemon", "--replace"]);
}

fn where_no_function_host_can_begin_reads_fail_within_the_bound(transport: &str) {
    reads_fail_within_the_bound(transport, &["serve", "--listen", "127.0.0.1:0"]);
}

/// Where the next daemon is started like this, and cannot begin.
fn reads_fail_within_the_bound(transport: &str, args: &[&str]) {
    let scene = Scene::new();
    let node = thaw();
    let manager = Manager::new(100);
    let daemon = manager.start(&node);
    let dir = target(&node);
    scene.mount(&node, transport, &dir);
    // Its metrics cannot be served there.
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let config = manager.dir.path().join("config.toml");
    let text = format!("fault-timeout-seconds = 3\nmetrics-listen = \"{address}\"\n");
    fs::write(&config, text).unwrap();
    let config = config.to_str().unwrap();
    kill_both(&node, daemon);
    thread::scope(|scope| {
        let begin = Instant::now();
        let reader = scope.spawn(|| scene.read(&dir, "srv/f1-3"));
        thread::sleep(Duration::from_millis(300));
        assert!(!reader.is_finished(), "nobody could have served this read");
        let root = ["--root", node.root().to_str().unwrap()];
        let args = [&root, args, &["--config", config]].concat();
        let status = manager.give(&args).wait().unwrap();
        assert_eq!(status.code(), Some(125), "{}", manager.log());
        while !reader.is_finished() && begin.elapsed() < CONFIGURED_BOUND {
            thread::sleep(Duration::from_millis(20));
        }
        if !reader.is_finished() {
            // Else the test would wait, too: where nobody holds it, a read ends.
            manager.heard.lock().unwrap().kept.clear();
        }
        let error = reader.join().unwrap().unwrap_err();
        assert_eq!(error.raw_os_error(), Some(5), "{error}");
        assert!(begin.elapsed() < CONFIGURED_BOUND);
    });
    let said = manager.log();
    assert!(said.contains(&address.to_string()), "{said}");
    assert!(said.contains("reads that wait are denied"), "{said}");
    drop(taken);
    let mut daemon = manager.start(&node);
    assert_eq!(scene.read_all(&dir, &AtomicUsize::new(0)), 0);
    nothing_is_left(&node);
    node.run(["daemon", "--stop"]).unwrap();
    assert!(daemon.wait().unwrap().success());
}

/// Where the store is stands in that file, and nowhere else.
fn a_daemon_that_cannot_read_its_configuration_denies_nothing_beside_a_keeper(transport: &str) {
    let scene = Scene::new();
    let node = thaw();
    let manager = Manager::new(100);
    let mut daemon = manager.start(&node);
    let dir = target(&node);
    scene.mount(&node, transport, &dir);
    let config = manager.dir.path().join("config.toml");
    let text = format!("root = {:?}\nfault-timeout-seconds = \n", node.root());
    fs::write(&config, text).unwrap();
    let args = ["daemon", "--replace", "--config", config.to_str().unwrap()];
    let denied = || {
        let status = manager.give(&args).wait().unwrap();
        assert_eq!(status.code(), Some(125), "{}", manager.log());
        manager.log().contains("reads that wait are denied")
    };
    let keeper = processes(&node, "keeper")[0];
    daemon.kill().unwrap();
    daemon.wait().unwrap();
    assert!(!denied(), "{}", manager.log());
    kill(&[keeper]);
    assert!(denied(), "{}", manager.log());
    let mut daemon = manager.start(&node);
    assert_eq!(scene.read_all(&dir, &AtomicUsize::new(0)), 0);
    nothing_is_left(&node);
    node.run(["daemon", "--stop"]).unwrap();
    assert!(daemon.wait().unwrap().success());
}
