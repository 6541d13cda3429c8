//! The daemon is replaced on purpose: by a command, or by a service manager.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{CWD, FileType, FlockOperation, Mode, OFlags, flock, mknodat, open};
use thaw_testkit::far::Far;
use thaw_testkit::image::{Entry, Image, Layer};
use thaw_testkit::scratch;
use thaw_testkit::thaw::Thaw;

use super::{BOUND, Scene, eventually, nothing_is_left, target, thaw};

by_every_transport!(
    readers_see_nothing_of_a_replaced_daemon,
    a_daemon_that_cannot_serve_leaves_what_is_mounted,
);

/// A daemon that takes the place of another.
fn replace(node: &Thaw) -> Child {
    let mut command = node.command(["daemon", "--replace"]);
    let daemon = command.stderr(Stdio::null()).spawn().unwrap();
    serves(node, &daemon);
    daemon
}

/// Waits until a daemon can be asked.
fn serves(node: &Thaw, daemon: &Child) {
    eventually("the next daemon", || {
        let serves = node.root().join("thaw.sock").exists();
        serves && node.daemon() == Some(daemon.id())
    });
}

fn readers_see_nothing_of_a_replaced_daemon(transport: &str) {
    let scene = Scene::new();
    let node = thaw();
    let inside = scene.start(&node, &["--net", "none", "--transport", transport]);
    let progress = AtomicUsize::new(0);
    thread::scope(|scope| {
        let reading = scope.spawn(|| scene.read_all(&inside, &progress));
        let daemons: Vec<Child> = (0..3).map(|_| replace(&node)).collect();
        assert_eq!(reading.join().unwrap(), 0, "a read failed");
        node.run(["exec", "box", "sh", "-c", "cat /srv/f0-3 > /dev/null"])
            .unwrap();
        node.run(["rm", "-f", "box"]).unwrap();
        node.run(["daemon", "--stop"]).unwrap();
        for mut daemon in daemons {
            assert!(daemon.wait().unwrap().success());
        }
    });
    nothing_is_left(&node);
}

#[test]
fn what_was_begun_is_finished_before_the_daemon_is_replaced() {
    let scene = Scene::new();
    let far = Far::new(&scene.host, Duration::from_millis(500)).unwrap();
    let image = scene.image.replace(&scene.host, &far.host());
    let node = thaw();
    node.run(["images"]).unwrap();
    let first = node.daemon().unwrap();
    let pull = node.command(["pull", &image]).stdout(Stdio::null()).spawn();
    eventually("a request of the pull", || far.connections() > 0);
    let mut next = replace(&node);
    assert!(pull.unwrap().wait().unwrap().success());
    assert_ne!(node.daemon(), Some(first));
    assert!(node.run(["images"]).unwrap().contains(&image));
    node.run(["daemon", "--stop"]).unwrap();
    assert!(next.wait().unwrap().success());
}

/// The store's lock changes hands, from one daemon to another that a monitor has started.
#[test]
fn a_daemon_that_comes_first_is_replaced_too() {
    let node = thaw();
    fs::create_dir(node.root()).unwrap();
    let path = node.root().join("daemon.pid");
    let lock = fs::File::create(&path).unwrap();
    flock(&lock, FlockOperation::LockExclusive).unwrap();
    let owner = || {
        let owner = Command::new("sleep").arg("1000").spawn().unwrap();
        fs::write(&path, owner.id().to_string()).unwrap();
        owner
    };
    let is_told = |mut owner: Child| {
        eventually("the end of the owner", || {
            owner.try_wait().unwrap().is_some()
        });
    };
    let first = owner();
    let mut command = node.command(["daemon", "--replace"]);
    let mut next = command.stderr(Stdio::null()).spawn().unwrap();
    is_told(first);
    is_told(owner());
    drop(lock);
    serves(&node, &next);
    node.run(["daemon", "--stop"]).unwrap();
    assert!(next.wait().unwrap().success());
}

/// A daemon that a service manager starts with its socket.
fn activated(node: &Thaw, listener: UnixListener) -> Command {
    // The shell has the socket where a service manager puts it, and the right process id.
    let script = r#"LISTEN_PID=$$ LISTEN_FDS=1 exec "$0" "$@" 3<&0 < /dev/null"#;
    let daemon = node.command(["daemon", "--replace"]);
    let mut command = Command::new("sh");
    command.args(["-c", script]).arg(daemon.get_program());
    command.args(daemon.get_args()).stderr(Stdio::null());
    command.stdin(OwnedFd::from(listener));
    command
}

/// Waits until the manager hears the message `what`.
fn hear(manager: &UnixDatagram, what: &str) {
    let begin = Instant::now();
    let mut buffer = [0; 256];
    loop {
        let count = manager.recv(&mut buffer).unwrap();
        if std::str::from_utf8(&buffer[..count]) == Ok(what) {
            return;
        }
        assert!(begin.elapsed() < BOUND, "{what} is not heard");
    }
}

#[test]
fn a_service_manager_is_told_and_its_socket_is_used() {
    let node = thaw();
    fs::create_dir(node.root()).unwrap();
    let dir = scratch::directory().unwrap();
    let manager = UnixDatagram::bind(dir.path().join("notify")).unwrap();
    manager.set_read_timeout(Some(BOUND)).unwrap();
    let socket = node.root().join("thaw.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let start = |listener: UnixListener| {
        let mut daemon = activated(&node, listener);
        daemon.env("NOTIFY_SOCKET", dir.path().join("notify"));
        daemon.env("WATCHDOG_USEC", "200000").spawn().unwrap()
    };
    let mut daemon = start(listener.try_clone().unwrap());
    hear(&manager, &format!("READY=1\nMAINPID={}", daemon.id()));
    hear(&manager, "WATCHDOG=1");
    node.run(["images"]).unwrap();
    assert_eq!(node.daemon(), Some(daemon.id()));

    // A command that comes while there is no daemon is answered by the next one.
    node.run(["daemon", "--stop"]).unwrap();
    // Its end may take longer than the time within which it says that it lives.
    hear(&manager, "STOPPING=1\nWATCHDOG_USEC=3600000000");
    assert!(daemon.wait().unwrap().success());
    assert!(socket.exists());
    let asked = node.command(["images"]).stdout(Stdio::null()).spawn();
    let mut daemon = start(listener);
    assert!(asked.unwrap().wait().unwrap().success());
    node.run(["daemon", "--stop"]).unwrap();
    assert!(daemon.wait().unwrap().success());
}

/// As a service manager does that is to listen while a daemon runs that a command has started.
#[test]
fn a_socket_that_was_bound_under_a_daemon_stays_when_that_ends() {
    let node = thaw();
    node.run(["images"]).unwrap();
    let socket = node.root().join("thaw.sock");
    fs::remove_file(&socket).unwrap();
    let listener = UnixListener::bind(&socket).unwrap();
    let answers = |daemon: &mut Child| {
        serves(&node, daemon);
        node.run(["images"]).unwrap();
        assert_eq!(node.daemon(), Some(daemon.id()));
        node.run(["daemon", "--stop"]).unwrap();
        assert!(daemon.wait().unwrap().success());
    };
    answers(
        &mut activated(&node, listener.try_clone().unwrap())
            .spawn()
            .unwrap(),
    );
    assert!(socket.exists());
    let asked = node.command(["images"]).stdout(Stdio::null()).spawn();
    answers(
        &mut activated(&node, listener.try_clone().unwrap())
            .spawn()
            .unwrap(),
    );
    assert!(
        asked.unwrap().wait().unwrap().success(),
        "it was its socket"
    );

    // One that was taken away is bound anew.
    fs::remove_file(&socket).unwrap();
    let mut daemon = activated(&node, listener).spawn().unwrap();
    answers(&mut daemon);
}

fn a_daemon_that_cannot_serve_leaves_what_is_mounted(transport: &str) {
    let scene = Scene::new();
    let node = thaw();
    let dir = target(&node);
    scene.mount(&node, transport, &dir);
    let inside = scene.start(&node, &["--net", "none", "--transport", transport]);
    scene.read(&dir, "srv/f0-1").unwrap();
    let config = scene.directory.path().join("config.toml");
    let socket = scene.directory.path().display();
    let table = format!("[socket]\npath = \"{socket}\"\ngroups = [\"root\"]\n");
    fs::write(&config, table).unwrap();
    let args = ["daemon", "--replace", "--config", config.to_str().unwrap()];
    let failed = node.output(args).unwrap();
    let said = String::from_utf8_lossy(&failed.stderr);
    assert!(said.contains("is there and is no socket"), "{said}");

    node.run(["images"]).unwrap();
    for root in [&dir, &inside] {
        assert_eq!(scene.read_all(root, &AtomicUsize::new(0)), 0);
    }
    node.run(["rm", "-f", "box"]).unwrap();
    nothing_is_left(&node);
}

/// The way to a registry that gives everything, a little at a time; and how many bytes of it have passed.
fn slow(host: &str) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (address, passed) = (listener.local_addr().unwrap(), Arc::default());
    let (host, counter) = (host.to_owned(), Arc::<AtomicUsize>::clone(&passed));
    thread::spawn(move || {
        for mut client in listener.incoming().flatten() {
            let mut server = TcpStream::connect(&host).unwrap();
            let (mut asks, mut asked) = (client.try_clone().unwrap(), server.try_clone().unwrap());
            thread::spawn(move || io::copy(&mut asks, &mut asked));
            let passed = Arc::clone(&counter);
            thread::spawn(move || {
                let mut part = [0; 4096];
                while let Ok(count @ 1..) = server.read(&mut part) {
                    if client.write_all(&part[..count]).is_err() {
                        break;
                    }
                    passed.fetch_add(count, Ordering::SeqCst);
                    thread::sleep(Duration::from_millis(400));
                }
            });
        }
    });
    (address, passed)
}

/// Nor is anything else waited for that waits for it.
#[test]
fn a_command_that_does_not_end_is_cut_off() {
    let scene = Scene::new();
    let (way, passed) = slow(&scene.host);
    let image = scene.image.replace(&scene.host, &way.to_string());
    let node = thaw();
    let run = ["run", "--net", "none", "--pull", "full", &image];
    let mut run = node.command(run).stderr(Stdio::null()).spawn().unwrap();
    eventually("layers", || passed.load(Ordering::SeqCst) > 64 << 10);
    let mut next = node.command(["daemon", "--replace"]);
    let mut next = next.stderr(Stdio::null()).spawn().unwrap();
    while node.daemon() != Some(next.id()) {
        assert!(next.try_wait().unwrap().is_none(), "it has given up");
        thread::sleep(Duration::from_millis(20));
    }
    let log = fs::read_to_string(node.root().join("daemon.log")).unwrap();
    assert!(log.contains("commands are cut off"), "{log}");
    assert_eq!(run.wait().unwrap().code(), Some(125));
    serves(&node, &next);
    node.run(["daemon", "--stop"]).unwrap();
    assert!(next.wait().unwrap().success());
}

/// What the node does besides its commands may wait for the disk for longer than the watchdog does.
#[test]
fn a_service_manager_hears_of_a_daemon_whose_upkeep_waits_that_it_lives() {
    let dir = scratch::directory().unwrap();
    let layer = Layer::new([Entry::directory("./"), Entry::file("file", [7; 4096])]);
    let image = Image::new([layer]).write(&dir.path().join("image"), "latest");
    let node = thaw();
    node.run(["pull", &image.unwrap().reference()]).unwrap();
    node.run(["daemon", "--stop"]).unwrap();

    // The cache is too large, and to see what may go one reads the records of images: one is a pipe.
    let config = dir.path().join("config.toml");
    fs::write(&config, "cache-size = \"1\"\n").unwrap();
    let pipe = node.root().join("images/manifests/pipe");
    mknodat(CWD, &pipe, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    let manager = UnixDatagram::bind(dir.path().join("notify")).unwrap();
    let mut daemon = node.command(["daemon", "--config", config.to_str().unwrap()]);
    let daemon = daemon
        .env("NOTIFY_SOCKET", dir.path().join("notify"))
        .env("WATCHDOG_USEC", "200000")
        .stderr(Stdio::null());
    let mut daemon = daemon.spawn().unwrap();
    let mut upkeep = None;
    eventually("upkeep that reads", || {
        upkeep = open(&pipe, OFlags::WRONLY | OFlags::NONBLOCK, Mode::empty()).ok();
        upkeep.is_some()
    });
    manager.set_nonblocking(true).unwrap();
    while manager.recv(&mut [0; 256]).is_ok() {}
    manager.set_nonblocking(false).unwrap();
    manager.set_read_timeout(Some(BOUND)).unwrap();
    hear(&manager, "WATCHDOG=1");
    hear(&manager, "WATCHDOG=1");

    fs::remove_file(&pipe).unwrap();
    drop(upkeep);
    node.run(["daemon", "--stop"]).unwrap();
    assert!(daemon.wait().unwrap().success());
}

#[test]
fn a_daemon_that_a_command_starts_is_not_the_command_s_service() {
    let node = thaw();
    let dir = scratch::directory().unwrap();
    let manager = UnixDatagram::bind(dir.path().join("notify")).unwrap();
    let mut command = node.command(["images"]);
    let command = command.env("NOTIFY_SOCKET", dir.path().join("notify"));
    assert!(command.output().unwrap().status.success());
    assert!(node.daemon().is_some());
    node.run(["daemon", "--stop"]).unwrap();
    manager.set_nonblocking(true).unwrap();
    let heard = manager.recv(&mut [0; 256]).unwrap_err();
    assert_eq!(heard.kind(), io::ErrorKind::WouldBlock);
}

#[test]
fn the_units_are_right() {
    let units = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../packaging/systemd");
    let dir = scratch::directory().unwrap();
    let names = [
        "thaw.service",
        "thaw.socket",
        "thaw-serve.service",
        "thaw-serve.socket",
    ];
    for name in names {
        let text = fs::read_to_string(units.join(name)).unwrap();
        // The program is looked for.
        let text = text.replace("/usr/bin/thaw", env!("CARGO_BIN_EXE_thaw"));
        fs::write(dir.path().join(name), text).unwrap();
    }
    let verify = Command::new("systemd-analyze")
        .args(["verify", "--man=no", "--recursive-errors=no"])
        .args(names.map(|name| dir.path().join(name)))
        .output()
        .expect("systemd-analyze, which reads units");
    let said = String::from_utf8_lossy(&verify.stderr);
    let ours = said.lines().filter(|line| line.contains("thaw"));
    assert_eq!(ours.collect::<Vec<_>>(), [""; 0], "{said}");
    assert!(verify.status.success(), "{said}");
}

/// What the code relies on: without it everything works until something dies.
#[test]
fn the_units_say_what_the_daemon_relies_on() {
    let units = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../packaging/systemd");
    let both = [
        "Type=notify",
        "KillMode=process",
        "StartLimitIntervalSec=0",
        "Restart=always",
        "RestartSec=200ms",
        "LimitNOFILE=1048576",
        "WatchdogSec=60s",
        "OOMScoreAdjust=-500",
        "FileDescriptorStoreMax=1024",
        "TasksMax=infinity",
        "Delegate=yes",
    ];
    let expected: [(&str, &[&str]); 4] = [
        (
            "thaw.service",
            &[
                "Requires=thaw.socket",
                "ExecStart=/usr/bin/thaw --root /var/lib/thaw daemon --replace",
                "TimeoutStopSec=90s",
            ],
        ),
        (
            "thaw-serve.service",
            &[
                "Requires=thaw-serve.socket",
                "Conflicts=thaw.service thaw.socket",
                "After=thaw-serve.socket thaw.service thaw.socket network-online.target",
                "TimeoutStopSec=120s",
            ],
        ),
        (
            "thaw.socket",
            &[
                "ListenStream=/var/lib/thaw/thaw.sock",
                "SocketMode=0600",
                "DirectoryMode=0700",
                "RemoveOnStop=yes",
            ],
        ),
        ("thaw-serve.socket", &["ListenStream=127.0.0.1:7000"]),
    ];
    let readme = fs::read_to_string(units.join("../../README.md")).unwrap();
    let installs = "install target/release/thaw /usr/bin/";
    assert!(readme.contains(installs), "the units have it elsewhere");
    for (name, own) in expected {
        let text = fs::read_to_string(units.join(name)).unwrap();
        let shared = both.iter().filter(|_| name.ends_with(".service"));
        for line in shared.chain(own) {
            assert!(text.lines().any(|it| it == *line), "{name}: {line}");
        }
    }
}

#[test]
fn the_keeper_is_spared_when_memory_runs_out() {
    let scene = Scene::new();
    let node = thaw();
    scene.start(&node, &["--net", "none"]);
    let keeper = fs::read_to_string(node.root().join("keeper.lock")).unwrap();
    let score = fs::read_to_string(format!("/proc/{keeper}/oom_score_adj")).unwrap();
    let mut may = Command::new("sh");
    may.args(["-c", "echo -900 > /proc/self/oom_score_adj"]);
    if may.stderr(Stdio::null()).status().unwrap().success() {
        assert_eq!(score.trim(), "-900");
    } else {
        eprintln!("skipped: this machine lets nobody be spared (CAP_SYS_RESOURCE)");
        assert_eq!(score.trim(), "0", "it is a warning, and the keeper serves");
    }
    node.run(["rm", "-f", "box"]).unwrap();
}

/// A daemon of another version, as far as its callers can tell.
#[test]
fn a_daemon_of_another_version_can_be_ended() {
    let node = thaw();
    node.run(["images"]).unwrap();
    let ask = |request: &str| {
        let mut stream = UnixStream::connect(node.root().join("thaw.sock")).unwrap();
        let line = format!("{{\"version\":9999,\"request\":\"{request}\",\"new\":1}}\n");
        stream.write_all(line.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    let refused = ask("images");
    assert!(refused.contains("thaw daemon --replace"), "{refused}");
    assert!(node.daemon().is_some());
    ask("shutdown");
    eventually("the end of the daemon", || node.daemon().is_none());
}
