//! Who may speak to the daemon: other users, for real, at its socket.

use std::fs::{self, Permissions};
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::process::{Command, Output};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use rustix::fs::{Gid, Uid};
use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};
use tempfile::TempDir;
use thaw_testkit::process::make_program;
use thaw_testkit::thaw::Thaw;

use crate::support::{Scene, kill_daemon, refused, target, thaw};

/// Nobody on this machine has these.
const USER: u32 = 48_711;
const OTHER: u32 = 48_712;
const GROUP: u32 = 48_721;
const READERS: u32 = 48_722;

/// A daemon with a socket that others can reach.
struct Shared {
    node: Thaw,
    directory: TempDir,
}

impl Shared {
    fn new(socket: &str) -> Self {
        let directory = tempfile::Builder::new()
            .prefix("thaw-")
            .tempdir_in("/tmp")
            .unwrap();
        fs::set_permissions(directory.path(), Permissions::from_mode(0o755)).unwrap();
        let shared = Self {
            node: thaw(),
            directory,
        };
        let path = shared.socket();
        let text = format!("[socket]\npath = \"{path}\"\n{socket}\n");
        fs::write(shared.config(), text).unwrap();
        let program = shared.directory.path().join("thaw");
        make_program(&program, &fs::read(env!("CARGO_BIN_EXE_thaw")).unwrap()).unwrap();
        shared.root(&["images"]);
        shared
    }

    fn path(&self, name: &str) -> String {
        self.directory
            .path()
            .join(name)
            .to_str()
            .unwrap()
            .to_owned()
    }

    fn config(&self) -> String {
        self.path("config.toml")
    }

    fn socket(&self) -> String {
        self.path("thaw.sock")
    }

    fn root(&self, args: &[&str]) -> String {
        let config = self.config();
        self.node
            .run([&["--config", &config][..], args].concat())
            .unwrap()
    }

    /// Runs thaw as somebody else.
    fn by(&self, user: u32, groups: &[u32], args: &[&str]) -> Output {
        let groups: Vec<String> = groups.iter().map(ToString::to_string).collect();
        let mut command = Command::new("setpriv");
        let id = user.to_string();
        command.args(["--reuid", &id, "--regid", &id]);
        match groups.is_empty() {
            true => command.arg("--clear-groups"),
            false => command.args(["--groups", &groups.join(",")]),
        };
        command
            .arg(self.path("thaw"))
            .args(["--config", &self.config(), "--root"]);
        command.arg(self.node.root()).args(args);
        command
            .output()
            .expect("setpriv is needed: cargo xtask setup")
    }

    fn allowed(&self, user: u32, groups: &[u32], args: &[&str]) {
        let output = self.by(user, groups, args);
        assert!(
            output.status.success(),
            "{user} {groups:?} {args:?}: {output:?}"
        );
    }

    /// What one hears who may not.
    fn refused(&self, user: u32, groups: &[u32], args: &[&str]) -> String {
        let output = self.by(user, groups, args);
        assert_eq!(
            output.status.code(),
            Some(125),
            "{user} {groups:?} {args:?}: {output:?}"
        );
        String::from_utf8(output.stderr).unwrap()
    }

    fn log(&self) -> String {
        fs::read_to_string(self.node.root().join("daemon.log")).unwrap()
    }
}

#[test]
fn each_may_ask_what_the_configuration_lets_them() {
    let shared = Shared::new(&format!(
        "users = [\"{USER}\"]\ngroups = [\"{GROUP}\"]\nread-groups = [\"{READERS}\"]"
    ));
    let socket = fs::metadata(shared.socket()).unwrap();
    assert_eq!(socket.mode() & 0o777, 0o666);
    let store = fs::metadata(shared.node.root()).unwrap();
    assert_eq!(store.mode() & 0o777, 0o700, "the store stays closed");

    let scene = Scene::accelerated();
    let image = scene.image.as_str();
    shared.root(&["pull", image]);
    let reads: [&[&str]; 5] = [
        &["ps"],
        &["images"],
        &["metrics"],
        &["mount"],
        &["inspect", image],
    ];
    for args in reads {
        shared.allowed(USER, &[], args);
        shared.allowed(OTHER, &[GROUP], args);
        shared.allowed(OTHER, &[9, READERS], args);
        let said = shared.refused(OTHER, &[9], args);
        assert!(
            said.contains(&format!("id {OTHER} may not speak to this daemon")),
            "{said}"
        );
        assert!(
            said.contains("[socket]") && said.contains("as root"),
            "{said}"
        );
    }
    assert!(
        shared.log().contains("a caller is refused"),
        "{}",
        shared.log()
    );
    assert!(
        shared.log().contains(&format!("uid={OTHER}")),
        "{}",
        shared.log()
    );

    let layout = format!("oci:{}", scene.layout.directory().display());
    let dir = target(&shared.node);
    let changes: [&[&str]; 6] = [
        &["pull", image],
        &["gc", "--dry-run"],
        &["mount", image, &dir],
        &["unmount", "--all"],
        &["daemon", "--stop"],
        // Read with the daemon's rights.
        &["inspect", &layout],
    ];
    for args in changes {
        let said = shared.refused(OTHER, &[READERS], args);
        assert!(
            said.contains("may only ask this daemon what is there"),
            "{args:?}: {said}"
        );
        assert!(said.contains("`groups`"), "{said}");
    }
    assert!(shared.node.daemon().is_some(), "it was not stopped");
    shared.allowed(OTHER, &[READERS, GROUP], &["pull", image]);
    shared.allowed(USER, &[], &["gc", "--dry-run"]);
}

#[test]
fn a_group_s_socket_is_the_group_s() {
    let shared = Shared::new(&format!("groups = [\"{GROUP}\"]"));
    let socket = fs::metadata(shared.socket()).unwrap();
    assert_eq!((socket.mode() & 0o777, socket.gid()), (0o660, GROUP));
    shared.allowed(USER, &[GROUP], &["images"]);
    let said = shared.refused(USER, &[], &["images"]);
    assert!(
        said.contains("cannot use") && said.contains("[socket]"),
        "{said}"
    );
    // The next daemon finds the socket of one that was killed, and takes its place.
    kill_daemon(&shared.node);
    shared.root(&["images"]);
    shared.allowed(USER, &[GROUP], &["images"]);
    shared.root(&["daemon", "--stop"]);
    let said = shared.refused(USER, &[GROUP], &["images"]);
    assert!(said.contains("root has to start the daemon"), "{said}");
    // Where somebody else serves, nothing is taken away.
    let _held = std::os::unix::net::UnixListener::bind(shared.socket()).or_else(|_| {
        fs::remove_file(shared.socket())?;
        std::os::unix::net::UnixListener::bind(shared.socket())
    });
    let config = shared.config();
    let (_, said) = refused(&shared.node, &["--config", &config, "images"]);
    assert!(said.contains("a path of its own"), "{said}");
}

#[test]
fn a_reader_says_nothing_of_how_registries_are_spoken_to() {
    let shared = Shared::new(&format!("read-users = [\"{USER}\"]"));
    // This machine under an address that is no loopback one by its looks.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let host = format!("0.0.0.0:{}", listener.local_addr().unwrap().port());
    let (sender, firsts) = channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut first = [0];
            let mut stream = stream.unwrap();
            stream.read_exact(&mut first).ok();
            // Before whoever asks has an answer, and the test looks.
            if sender.send(first[0]).is_err() {
                return;
            }
            stream
                .write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
                .ok();
        }
    });
    let image = format!("{host}/app:1");
    let inspect = ["--plain-http", &host, "inspect", &image];
    shared.refused(USER, &[], &inspect);
    let heard: Vec<u8> = firsts.try_iter().collect();
    // A handshake of TLS each time, and no request in the clear.
    assert!(
        !heard.is_empty() && heard.iter().all(|first| *first == 0x16),
        "{heard:?}"
    );
    let config = shared.config();
    refused(
        &shared.node,
        &[&["--config", &config][..], &inspect].concat(),
    );
    assert!(firsts.try_iter().any(|first| first == b'G'));
}

/// Connects to a socket as somebody else.
fn connect_as(user: u32, socket: &str, count: usize) -> Vec<UnixStream> {
    let socket = socket.to_owned();
    // What one thread becomes the others do not.
    let connecting = std::thread::spawn(move || {
        let (uid, gid) = (Uid::from_raw(user), Gid::from_raw(user));
        set_thread_groups(&[]).unwrap();
        set_thread_res_gid(gid, gid, gid).unwrap();
        set_thread_res_uid(uid, uid, uid).unwrap();
        let connect = |_| UnixStream::connect(&socket).unwrap();
        (0..count).map(connect).collect()
    });
    connecting.join().unwrap()
}

/// What the daemon says to whoever has connected.
fn said_to(mut stream: &UnixStream) -> String {
    let mut said = String::new();
    stream.read_to_string(&mut said).ok();
    said
}

#[test]
fn readers_who_say_little_and_slowly_hold_up_nobody() {
    let shared = Shared::new(&format!("read-users = [\"{USER}\"]"));
    let readers = connect_as(USER, &shared.socket(), 600);
    let (stop, stopped) = channel::<()>();
    let (begin, patience) = (Instant::now(), Duration::from_secs(60));
    let dripping: Vec<UnixStream> = readers.iter().map(|it| it.try_clone().unwrap()).collect();
    let drips = std::thread::spawn(move || {
        while stopped.recv_timeout(Duration::from_millis(500)) == Err(RecvTimeoutError::Timeout)
            && begin.elapsed() < patience
        {
            for mut stream in &dripping {
                stream.write_all(b" ").ok();
            }
        }
    });
    shared.root(&["images"]);
    assert!(begin.elapsed() < patience / 2, "root waits for them");
    let said = said_to(readers.last().unwrap());
    assert!(said.contains("too many others ask"), "{said}");
    let said = said_to(readers.first().unwrap());
    assert!(said.contains("the request did not come"), "{said}");
    assert!(
        begin.elapsed() < patience / 2,
        "it holds its place for ever"
    );
    stop.send(()).unwrap();
    drips.join().unwrap();
    shared.allowed(USER, &[], &["images"]);
}

#[test]
fn a_reader_s_request_is_short() {
    let shared = Shared::new(&format!("read-users = [\"{USER}\"]"));
    let mut stream = connect_as(USER, &shared.socket(), 1).remove(0);
    stream.write_all(&vec![b' '; 1 << 20]).ok();
    let said = said_to(&stream);
    assert!(said.contains("more than 65536 bytes"), "{said}");
}

#[test]
fn a_daemon_that_has_no_room_ends_all_the_same() {
    let node = thaw();
    node.run(["images"]).unwrap();
    let socket = node.root().join("thaw.sock");
    let connect = |_| UnixStream::connect(&socket).unwrap();
    let connections: Vec<UnixStream> = (0..520).map(connect).collect();
    let daemon = i32::try_from(node.daemon().unwrap()).unwrap();
    // It has a thread for each that it has let in.
    let threads = || {
        fs::read_dir(format!("/proc/{daemon}/task"))
            .unwrap()
            .count()
    };
    let begin = Instant::now();
    while threads() < 512 {
        assert!(begin.elapsed() < Duration::from_secs(60), "it lets few in");
        std::thread::sleep(Duration::from_millis(20));
    }
    kill_process(Pid::from_raw(daemon).unwrap(), Signal::TERM).unwrap();
    let begin = Instant::now();
    while socket.exists() {
        assert!(
            begin.elapsed() < Duration::from_secs(20),
            "it waits for room"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
    drop(connections);
}

#[test]
fn a_configuration_that_lets_nobody_in_is_refused() {
    let node = thaw();
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("config.toml");
    for (text, wanted) in [
        ("[socket]\n", "lets nobody in"),
        (
            "[socket]\nusers = [\"no such user\"]\n",
            "the user \"no such user\"",
        ),
        (
            "[socket]\nread-groups = [\"no such group\"]\n",
            "the group \"no such group\"",
        ),
    ] {
        fs::write(&config, text).unwrap();
        let config = config.to_str().unwrap();
        let (_, said) = refused(&node, &["--config", config, "daemon"]);
        assert!(said.contains(wanted), "{said}");
    }
}
