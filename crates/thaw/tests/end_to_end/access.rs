//! Who may speak to the daemon: other users, for real, at its socket.

use std::fs::{self, Permissions};
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::process::{Command, Output};
use std::sync::mpsc::channel;

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
