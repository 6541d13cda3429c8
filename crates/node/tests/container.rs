//! Containers, run for real: as root, through the installed runtime, with a root filesystem made of
//! busybox. A monitor is a process of its own, so the tests drive the program
//! `examples/container.rs`, which `cargo test -p thaw-node` builds.

#![allow(clippy::unwrap_used, reason = "a test that fails says where")]

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// A store, a root filesystem and the machine's settings, all of one test.
struct Fixture {
    dir: tempfile::TempDir,
    bridge: Option<MutexGuard<'static, ()>>,
    machine: Option<Machine>,
}

/// A network of its own, whose firewall is nobody else's.
struct Machine {
    holder: Child,
}

impl Machine {
    fn new(dir: &Path) -> Self {
        let groups = dir.join("cgroup");
        fs::create_dir(&groups).unwrap();
        // /sys shows the interfaces of the network that it was mounted in.
        let script = format!(
            "mount --rbind /sys/fs/cgroup {0} && mount -t sysfs sysfs /sys && \
             mount --rbind {0} /sys/fs/cgroup && echo 0 > {FORWARD} && echo ready && exec sleep 100000",
            groups.display()
        );
        let mut holder = Command::new("unshare")
            .args(["--net", "--mount", "--propagation", "private"])
            .args(["sh", "-c", &script])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = [0; 6];
        holder.stdout.take().unwrap().read_exact(&mut said).unwrap();
        Self { holder }
    }

    fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        let target = self.holder.id().to_string();
        command.args(["--net", "--mount", "--target", &target]);
        command.arg(program);
        command
    }

    fn sh(&self, script: &str) -> String {
        text(&self.command("sh").args(["-c", script]).output().unwrap())
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.holder.kill().unwrap();
        self.holder.wait().unwrap();
    }
}

const FORWARD: &str = "/proc/sys/net/ipv4/ip_forward";

/// Whoever has the bridge: tests run side by side, each with leases of its own, so that two would
/// lease the same address and the first to end would take the bridge away from the other, and with
/// it the host's forwarding.
static BRIDGE: Mutex<()> = Mutex::new(());

impl Fixture {
    /// For containers on the bridge: one such test at a time.
    fn with_bridge() -> Self {
        let bridge = BRIDGE.lock().unwrap_or_else(PoisonError::into_inner);
        let mut fixture = Self::new();
        fixture.bridge = Some(bridge);
        fixture
    }

    /// For containers on a bridge of a network of its own.
    fn with_machine() -> Self {
        let mut fixture = Self::new();
        fixture.machine = Some(Machine::new(fixture.dir.path()));
        fixture
    }

    fn new() -> Self {
        assert!(
            rustix::process::geteuid().is_root(),
            "these tests need root"
        );
        let busybox = Path::new("/bin/busybox");
        assert!(
            busybox.exists(),
            "these tests need busybox: apt-get install busybox-static"
        );
        assert!(
            program().exists(),
            "run `cargo test -p thaw-node`, which builds {:?}",
            program()
        );
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        let root = dir.path().join("root");
        for name in ["bin", "etc", "tmp", "srv/data"] {
            fs::create_dir_all(root.join(name)).unwrap();
        }
        fs::copy(busybox, root.join("bin/busybox")).unwrap();
        for name in [
            "sh", "cat", "echo", "id", "sleep", "stty", "nc", "ls", "mount", "stat", "kill", "ip",
            "touch", "httpd", "wget", "env", "tty",
        ] {
            symlink("busybox", root.join("bin").join(name)).unwrap();
        }
        fs::write(
            root.join("etc/passwd"),
            "root:x:0:0::/root:/bin/sh\nweb:x:33:34::/srv:/bin/sh\n",
        )
        .unwrap();
        fs::write(
            root.join("etc/group"),
            "root:x:0:\nwww:x:34:\nlog:x:50:web\n",
        )
        .unwrap();
        fs::write(root.join("srv/data/seed"), "from the image\n").unwrap();
        fs::write(root.join("bin/plain"), "not executable").unwrap();
        fs::set_permissions(root.join("tmp"), fs::Permissions::from_mode(0o1777)).unwrap();
        let number = std::process::id();
        let subnet = format!("10.{}.{}.0/24", 221 + number % 30, number / 30 % 256);
        let settings = json!({
            "run_dir": dir.path().join("run"),
            "bridge": { "name": format!("tt{number}"), "subnet": subnet },
        });
        fs::write(dir.path().join("settings.json"), settings.to_string()).unwrap();
        Self {
            dir,
            bridge: None,
            machine: None,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn command(&self, verb: &str, flags: &[&str]) -> Command {
        let mut command = match &self.machine {
            Some(machine) => machine.command(program()),
            None => Command::new(program()),
        };
        command.arg(self.path("store")).arg(verb).args(flags);
        command.arg("--settings").arg(self.path("settings.json"));
        command
    }

    fn file(&self, name: &str, value: &Value) -> PathBuf {
        let path = self.path(&format!("{name}-{:?}.json", Instant::now()).replace(' ', ""));
        fs::write(&path, value.to_string()).unwrap();
        path
    }

    /// The command that runs a container; without a network unless `options` says otherwise.
    fn run(&self, options: Value, image: Value, flags: &[&str], command: &[&str]) -> Command {
        let mut all = json!({ "net": "none" });
        all.as_object_mut()
            .unwrap()
            .extend(options.as_object().unwrap().clone());
        let image = json!({
            "architecture": "amd64", "os": "linux", "config": image,
            "rootfs": { "type": "layers", "diff_ids": [] },
        });
        let mut program = self.command("run", &[self.path("root").to_str().unwrap()]);
        program.args(["--options".into(), self.file("options", &all)]);
        program.args(["--image".into(), self.file("image", &image)]);
        program.args(flags).arg("--").args(command);
        program
    }

    /// Standard output of `sh -c SCRIPT` in a container that is removed afterwards.
    fn sh(&self, options: Value, script: &str) -> String {
        let output = self
            .run(options, json!({}), &["--rm"], &["/bin/sh", "-c", script])
            .output();
        text(&output.unwrap())
    }

    fn code(&self, command: &[&str]) -> i32 {
        let output = self
            .run(json!({}), json!({}), &["--rm"], command)
            .output()
            .unwrap();
        output.status.code().unwrap()
    }

    fn start(&self, options: Value, command: &[&str]) -> String {
        let output = self
            .run(options, json!({}), &["--detach"], command)
            .output()
            .unwrap();
        text(&output).lines().last().unwrap().to_owned()
    }

    fn verb(&self, verb: &str, flags: &[&str]) -> String {
        text(&self.command(verb, flags).output().unwrap())
    }

    fn exec(&self, id: &str, options: Value, command: &[&str]) -> Output {
        let options = self.file("exec", &options);
        let mut program = self.command("exec", &[id, "--options", options.to_str().unwrap()]);
        program.arg("--").args(command).output().unwrap()
    }

    /// A directory with these programs and no others.
    fn path_of(&self, programs: &[&str]) -> PathBuf {
        let path = self.path("path");
        fs::create_dir_all(&path).unwrap();
        for name in programs {
            let found = Command::new("which").arg(name).output().unwrap();
            symlink(text(&found).trim(), path.join(name)).unwrap();
        }
        path
    }

    fn state(&self, id: &str) -> Value {
        serde_json::from_str(&self.verb("inspect", &[id])).unwrap()
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        let containers = fs::read_dir(self.path("store/containers"))
            .into_iter()
            .flatten();
        for entry in containers.flatten().filter(|entry| entry.path().is_dir()) {
            let id = entry.file_name().into_string().unwrap();
            let _ = self.command("rm", &[&id, "--force"]).output();
        }
        // Any other test's would take it away from the one that has it.
        if self.bridge.is_some() {
            let _ = self.command("remove-bridge", &[]).output();
        }
    }
}

fn program() -> PathBuf {
    let own = std::env::current_exe().unwrap();
    own.ancestors().nth(2).unwrap().join("examples/container")
}

fn text(output: &Output) -> String {
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {error}", output.status);
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn eventually<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(Instant::now() < deadline, "{what} did not happen");
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn exit_codes_are_those_of_the_field() {
    let fixture = Fixture::new();
    assert_eq!(fixture.code(&["/bin/sh", "-c", "exit 7"]), 7);
    assert_eq!(fixture.code(&["/bin/sh", "-c", "exit 0"]), 0);
    assert_eq!(fixture.code(&["sh", "-c", "exit 3"]), 3, "found in PATH");
    assert_eq!(fixture.code(&["/bin/nothing"]), 127);
    assert_eq!(fixture.code(&["nothing"]), 127);
    assert_eq!(fixture.code(&["/etc"]), 126);
    assert_eq!(fixture.code(&["/bin/plain"]), 126);
    assert_eq!(fixture.code(&[]), 125);
    let left = fs::read_dir(fixture.path("store/containers")).unwrap();
    let left: Vec<_> = left
        .flatten()
        .filter(|entry| entry.path().is_dir())
        .collect();
    assert!(left.is_empty(), "--rm leaves {left:?}");
}

#[test]
fn image_and_user_say_what_runs() {
    let fixture = Fixture::new();
    let image = json!({
        "Entrypoint": ["/bin/sh", "-c"], "Cmd": ["echo image"], "Env": ["A=1", "B=2"],
        "User": "web", "WorkingDir": "/made/here",
    });
    let run = |options: Value, command: &[&str]| {
        text(
            &fixture
                .run(options, image.clone(), &["--rm"], command)
                .output()
                .unwrap(),
        )
    };
    assert_eq!(run(json!({}), &[]), "image\n");
    assert_eq!(
        run(json!({}), &["pwd; id -u; id -G; echo $A $HOME"]),
        "/made/here\n33\n34 50\n1 /srv\n"
    );
    let options =
        json!({ "process": { "env": ["A=9", "C=3"], "user": "12:13", "workdir": "/tmp" } });
    assert_eq!(
        run(options, &["pwd; id -u; id -g; echo $A$B$C $HOME"]),
        "/tmp\n12\n13\n923 /\n"
    );
    assert_eq!(
        run(json!({ "entrypoint": ["/bin/echo"] }), &["own"]),
        "own\n"
    );
    let host = run(
        json!({ "hostname": "box" }),
        &["echo $HOSTNAME; cat /etc/hostname; cat /proc/sys/kernel/hostname"],
    );
    assert_eq!(host, "box\nbox\nbox\n");
}

#[test]
fn users_come_from_the_image_and_never_from_the_host() {
    let fixture = Fixture::new();
    let passwd = fixture.path("root/etc/passwd");
    fs::remove_file(&passwd).unwrap();
    fs::write(fixture.path("outside"), "evil:x:0:0::/:/bin/sh\n").unwrap();
    symlink(fixture.path("outside"), &passwd).unwrap();
    let options = json!({ "process": { "user": "evil" } });
    let output = fixture
        .run(options, json!({}), &["--rm"], &["/bin/id"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(125));
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(error.contains("unknown user \"evil\""), "{error}");
}

#[test]
fn a_container_is_confined() {
    let fixture = Fixture::new();
    let status = fixture.sh(json!({}), "cat /proc/self/status");
    let field = |name: &str| {
        let line = status
            .lines()
            .find(|line| line.starts_with(&format!("{name}:")))
            .unwrap();
        line.split_ascii_whitespace().nth(1).unwrap().to_owned()
    };
    // chown dac_override fowner fsetid kill setgid setuid setpcap net_bind_service net_raw
    // sys_chroot mknod audit_write setfcap
    for set in ["CapPrm", "CapEff", "CapBnd"] {
        assert_eq!(field(set), "00000000a80425fb", "{set}");
    }
    assert_eq!(field("CapInh"), "0000000000000000");
    assert_eq!(field("CapAmb"), "0000000000000000");
    assert_eq!(field("NoNewPrivs"), "1");
    assert_eq!(field("Seccomp"), "2");
    let user = json!({ "process": { "user": "web" } });
    assert!(
        fixture
            .sh(user, "cat /proc/self/status")
            .contains("CapEff:\t0000000000000000")
    );

    let script = "mount -t tmpfs x /tmp 2>&1; ls /sys/firmware | wc -l; cat /proc/kcore | wc -c; \
                  echo 1 > /proc/sys/kernel/panic; \
                  touch /sys/x; touch /sys/fs/cgroup/memory/x /sys/fs/cgroup/cgroup.procs; cat /proc/1/comm; ls /dev";
    let seen = fixture.sh(json!({}), &format!("sh -c '{script}' 2>&1 | cat"));
    assert!(
        seen.contains("mount: permission denied") || seen.contains("Operation not permitted"),
        "{seen}"
    );
    assert!(seen.contains("/proc/sys/kernel/panic: Read-only"), "{seen}");
    assert!(seen.contains("/sys/x: Read-only"), "{seen}");
    assert!(
        seen.contains("/sys/fs/cgroup/memory/x: Read-only")
            || seen.contains("cgroup.procs: Read-only"),
        "{seen}"
    );
    assert!(
        !seen.contains("/dev/vda") && seen.contains("urandom"),
        "{seen}"
    );
}

#[test]
fn file_systems_are_as_asked() {
    let fixture = Fixture::new();
    assert!(
        fixture
            .sh(json!({ "read_only": true }), "touch /x 2>&1 || true")
            .contains("Read-only")
    );
    let tmpfs =
        json!({ "read_only": true, "tmpfs": [{ "target": "/run", "options": ["size=1m"] }] });
    let seen = fixture.sh(tmpfs, "touch /run/x && mount");
    assert!(
        seen.contains("on /run type tmpfs") && seen.contains("size=1024k"),
        "{seen}"
    );
    assert!(
        seen.contains("on /dev/shm type tmpfs") && seen.contains("size=65536k"),
        "{seen}"
    );

    let host = fixture.path("host");
    fs::create_dir(&host).unwrap();
    let volume = |read_only: bool| json!({ "volumes": [{ "source": { "host": host }, "target": "/mnt", "read_only": read_only }] });
    fixture.sh(volume(false), "echo written > /mnt/file");
    assert_eq!(fs::read_to_string(host.join("file")).unwrap(), "written\n");
    assert!(
        fixture
            .sh(volume(true), "touch /mnt/x 2>&1 || true")
            .contains("Read-only")
    );
    fs::remove_dir_all(&host).unwrap();
    let output = fixture
        .run(volume(false), json!({}), &["--rm"], &["/bin/id"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(125));

    let named = json!({ "volumes": [{ "source": { "named": "cache" }, "target": "/srv/data" }] });
    assert_eq!(
        fixture.sh(
            named.clone(),
            "cat /srv/data/seed; echo more >> /srv/data/seed"
        ),
        "from the image\n"
    );
    assert_eq!(
        fixture.sh(named, "cat /srv/data/seed"),
        "from the image\nmore\n"
    );
    let image = json!({ "Volumes": { "/srv/data": {} } });
    let command = ["/bin/sh", "-c", "echo own > /srv/data/own; ls /srv/data"];
    let output = fixture
        .run(json!({}), image, &["--rm"], &command)
        .output()
        .unwrap();
    assert_eq!(text(&output), "own\nseed\n");
    assert!(
        !fixture.path("root/srv/data/own").exists(),
        "the volume is not the image"
    );
}

#[test]
fn limits_are_in_the_control_group() {
    let fixture = Fixture::new();
    let options = json!({ "limits": { "memory": 64 << 20, "cpus": 0.5, "pids": 17 } });
    let id = fixture.start(options, &["/bin/sleep", "1000"]);
    let read = |v1: &str, v2: &str| {
        let v1 = Path::new("/sys/fs/cgroup").join(v1.replace("ID", &format!("thaw/{id}")));
        let v2 = Path::new("/sys/fs/cgroup")
            .join(format!("thaw/{id}"))
            .join(v2);
        fs::read_to_string(if v1.exists() { v1 } else { v2 })
            .unwrap()
            .trim()
            .to_owned()
    };
    assert_eq!(
        read("memory/ID/memory.limit_in_bytes", "memory.max"),
        (64 << 20).to_string()
    );
    assert_eq!(read("pids/ID/pids.max", "pids.max"), "17");
    let quota = read("cpu/ID/cpu.cfs_quota_us", "cpu.max");
    assert!(quota.starts_with("50000"), "{quota}");
    fixture.verb("rm", &[&id, "--force"]);
    let left = Command::new("find")
        .args(["/sys/fs/cgroup", "-name", &id])
        .output()
        .unwrap();
    assert_eq!(text(&left), "", "control groups are left");
}

#[test]
fn signals_reach_the_container() {
    let fixture = Fixture::new();
    let script = "trap 'echo got term; exit 9' TERM; trap 'echo got usr1' USR1; echo ready; while :; do sleep 0.1; done";
    let mut command = fixture.run(json!({}), json!({}), &["--rm"], &["/bin/sh", "-c", script]);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut output = child.stdout.take().unwrap();
    let mut buffer = [0; 6];
    output.read_exact(&mut buffer).unwrap();
    send(&child, "USR1");
    thread::sleep(Duration::from_millis(400));
    send(&child, "TERM");
    let mut rest = String::new();
    output.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "got usr1\ngot term\n");
    assert_eq!(child.wait().unwrap().code(), Some(9));
}

fn send(child: &Child, signal: &str) {
    let pid = child.id().to_string();
    assert!(
        Command::new("kill")
            .args(["-s", signal, &pid])
            .status()
            .unwrap()
            .success()
    );
}

#[test]
fn standard_input_is_passed_only_when_asked() {
    let fixture = Fixture::new();
    let run = |interactive: bool| {
        let options = json!({ "process": { "interactive": interactive } });
        let mut command = fixture.run(options, json!({}), &["--rm"], &["/bin/cat"]);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let _ = child.stdin.take().unwrap().write_all(b"from outside");
        text(&child.wait_with_output().unwrap())
    };
    assert_eq!(run(true), "from outside");
    assert_eq!(run(false), "");
}

#[test]
fn a_detached_container_is_reached_until_it_is_removed() {
    let fixture = Fixture::new();
    let script =
        "echo out; echo err >&2; trap 'echo bye; exit 4' TERM; while :; do sleep 0.05; done";
    let id = fixture.start(json!({ "name": "web" }), &["/bin/sh", "-c", script]);
    assert_eq!(fixture.state("web")["phase"]["is"], "running");
    let twice = fixture
        .run(json!({ "name": "web" }), json!({}), &[], &["/bin/id"])
        .output()
        .unwrap();
    assert_eq!(twice.status.code(), Some(125));
    assert!(String::from_utf8_lossy(&twice.stderr).contains("the name \"web\" is taken"));
    eventually("output", || {
        fixture.verb("logs", &["web"]).contains("out").then_some(())
    });

    let inside = fixture.exec(
        "web",
        json!({ "env": ["X=1"], "workdir": "/tmp", "user": "web" }),
        &[
            "/bin/sh",
            "-c",
            "pwd; id -u; echo $X; cat /proc/1/comm; exit 6",
        ],
    );
    assert_eq!(String::from_utf8_lossy(&inside.stdout), "/tmp\n33\n1\nsh\n");
    assert_eq!(inside.status.code(), Some(6));
    let status = text(&fixture.exec(&id[..12], json!({}), &["/bin/cat", "/proc/self/status"]));
    assert!(
        status.contains("CapBnd:\t00000000a80425fb") && status.contains("Seccomp:\t2"),
        "{status}"
    );
    assert_eq!(
        fixture
            .exec("web", json!({}), &["/bin/nothing"])
            .status
            .code(),
        Some(127)
    );

    let refused = fixture.command("rm", &["web"]).output().unwrap();
    assert!(String::from_utf8_lossy(&refused.stderr).contains("is running"));
    fixture.verb("stop", &["web"]);
    assert_eq!(fixture.state("web")["phase"]["code"], 4);
    let logs = fixture
        .command("logs", &["web", "--follow"])
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&logs.stdout), "out\nbye\n");
    assert_eq!(String::from_utf8_lossy(&logs.stderr), "err\n");
    assert_eq!(fixture.verb("logs", &["web", "--tail", "1"]), "bye\n");
    fixture.verb("rm", &["web"]);
    assert!(!fixture.path("store/containers").join(&id).exists());
}

#[test]
fn who_one_becomes_inside_is_read_of_nothing_but_a_file_inside() {
    let fixture = Fixture::new();
    fs::write(fixture.path("outside"), "evil:x:0:0::/:/bin/sh\n").unwrap();
    let id = fixture.start(json!({}), &["/bin/sleep", "600"]);
    let outside = fixture.path("outside").display().to_string();
    let hostile = [
        ("mkfifo /etc/passwd", "not a regular file"),
        // A driver that nothing is known of: who opens it hears that there is none (ENXIO).
        ("mknod /etc/passwd c 60 77", "not a regular file"),
        ("mkdir /etc/passwd", "not a regular file"),
        ("truncate -s 100G /etc/passwd", "too large"),
        ("ln -s passwd /etc/passwd", "symbolic links"),
        ("ln -s /proc/1/root/etc/own /etc/passwd", "symbolic links"),
        (&format!("ln -s {outside} /etc/passwd"), "unknown user"),
        (
            &format!("ln -s ../../../../..{outside} /etc/passwd"),
            "unknown user",
        ),
        ("true", "unknown user"),
    ];
    for (make, wanted) in hostile {
        let script = format!("busybox rm -rf /etc/passwd; busybox {make}");
        text(&fixture.exec(&id, json!({}), &["/bin/sh", "-c", &script]));
        let begin = Instant::now();
        let output = fixture.exec(&id, json!({ "user": "evil" }), &["/bin/id"]);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(125), "{make}: {error}");
        assert!(error.contains(wanted), "{make}: {error}");
        assert!(begin.elapsed() < Duration::from_secs(20), "{make}");
    }
    let script = "busybox rm -rf /etc/passwd; echo good:x:35:36::/: > /etc/own; \
                  busybox ln -s own /etc/passwd";
    text(&fixture.exec(&id, json!({}), &["/bin/sh", "-c", script]));
    let user = fixture.exec(&id, json!({ "user": "good" }), &["/bin/id", "-u"]);
    assert_eq!(text(&user), "35\n");
}

#[test]
fn stop_kills_what_does_not_end() {
    let fixture = Fixture::new();
    let id = fixture.start(json!({}), &["/bin/sh", "-c", "trap '' TERM; sleep 1000"]);
    fixture.verb("stop", &[&id, "--timeout", "0.3"]);
    assert_eq!(fixture.state(&id)["phase"]["code"], 137);
    let failed = fixture
        .run(json!({}), json!({}), &["--detach"], &["/bin/nothing"])
        .output()
        .unwrap();
    assert_eq!(
        failed.status.code(),
        Some(127),
        "{}",
        String::from_utf8_lossy(&failed.stderr)
    );
}

#[test]
fn a_killed_monitor_leaves_a_dead_container_that_can_be_removed() {
    let fixture = Fixture::with_bridge();
    let id = fixture.start(json!({ "net": "bridge" }), &["/bin/sleep", "1000"]);
    let state = fixture.state(&id);
    let netns = state["endpoint"]["netns"].as_str().unwrap().to_owned();
    assert!(Path::new(&netns).exists());
    for who in ["monitor", "init"] {
        let pid = state["phase"][who]["pid"].to_string();
        assert!(
            Command::new("kill")
                .args(["-9", &pid])
                .status()
                .unwrap()
                .success()
        );
    }
    eventually("death", || {
        fixture.verb("ps", &[]).contains("dead").then_some(())
    });
    fixture.verb("reconcile", &[]);
    assert!(!Path::new(&netns).exists(), "the namespace is left");
    fixture.verb("rm", &[&id]);
    let left = Command::new("find")
        .args(["/sys/fs/cgroup", "-name", &id])
        .output()
        .unwrap();
    assert_eq!(text(&left), "", "control groups are left");
}

#[test]
fn a_container_keeps_the_runtime_that_runs_it() {
    let fixture = Fixture::new();
    let path = fixture.path_of(&["runc", "unshare", "sh", "umount"]);
    let with_path = |mut command: Command| text(&command.env("PATH", &path).output().unwrap());
    let run = |name: &str| {
        let sleep = ["/bin/sleep", "1000"];
        with_path(fixture.run(json!({ "name": name }), json!({}), &["--detach"], &sleep))
    };
    run("first");
    fixture.path_of(&["crun"]);
    with_path(fixture.command("stop", &["first", "--timeout", "0"]));
    with_path(fixture.command("rm", &["first"]));
    run("second");
    with_path(fixture.command("stop", &["second", "--timeout", "0"]));
    // Nor does one that is gone keep what has ended.
    fs::remove_file(path.join("crun")).unwrap();
    with_path(fixture.command("rm", &["second"]));
    assert_eq!(fixture.verb("ps", &[]), "");
}

#[test]
fn a_container_is_its_monitor_s_from_before_the_runtime_is_called() {
    let fixture = Fixture::new();
    let runtime = fixture.path("runtime");
    let seen = fixture.path("seen");
    let script = format!(
        "#!/bin/sh\n\
         for last; do :; done\n\
         cat {0}/containers/$last/state.json > {1}; echo $PPID > {1}.parent\n\
         exec runc \"$@\"\n",
        fixture.path("store").display(),
        seen.display(),
    );
    fs::write(&runtime, script).unwrap();
    fs::set_permissions(&runtime, fs::Permissions::from_mode(0o755)).unwrap();
    let options = json!({ "runtime": runtime });
    let id = fixture.start(options, &["/bin/sleep", "1000"]);
    let state: Value = serde_json::from_slice(&fs::read(&seen).unwrap()).unwrap();
    let parent = fs::read_to_string(fixture.path("seen.parent")).unwrap();
    assert_eq!(state["phase"]["is"], "created");
    assert_eq!(state["phase"]["owner"]["pid"].to_string(), parent.trim());
    fixture.verb("rm", &[&id, "--force"]);
}

#[test]
fn a_terminal_is_a_terminal() {
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    use rustix::termios::{Winsize, tcgetattr, tcsetwinsize};
    let fixture = Fixture::new();
    let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
    grantpt(&ours).unwrap();
    unlockpt(&ours).unwrap();
    let name = ptsname(&ours, Vec::new()).unwrap().into_string().unwrap();
    let theirs = fs::File::options()
        .read(true)
        .write(true)
        .open(name)
        .unwrap();
    let size = Winsize {
        ws_row: 33,
        ws_col: 77,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    tcsetwinsize(&ours, size).unwrap();
    let options = json!({ "process": { "tty": true, "interactive": true } });
    let script = "echo ready; read line; echo \"[$line] $TERM\"; tty; stty size; exit 5";
    let mut command = fixture.run(options, json!({}), &["--rm"], &["/bin/sh", "-c", script]);
    let before = tcgetattr(&theirs).unwrap().local_modes;
    let end = || Stdio::from(theirs.try_clone().unwrap());
    let mut child = command
        .stdin(end())
        .stdout(end())
        .stderr(end())
        .spawn()
        .unwrap();
    let mut ours = fs::File::from(ours);
    let mut seen = Vec::new();
    let mut asked = false;
    let text = loop {
        let mut buffer = [0; 1024];
        let count = ours.read(&mut buffer).unwrap();
        seen.extend_from_slice(&buffer[..count]);
        let text = String::from_utf8_lossy(&seen).into_owned();
        if text.contains("ready") && !asked {
            asked = true;
            ours.write_all(b"typed\r").unwrap();
        }
        if text.contains("33 77") || text.contains("container:") {
            break text;
        }
    };
    assert_eq!(child.wait().unwrap().code(), Some(5), "{text}");
    assert!(
        text.contains("[typed] xterm") && text.contains("/dev/pts/0"),
        "{text}"
    );
    assert_eq!(
        tcgetattr(&theirs).unwrap().local_modes,
        before,
        "the caller's terminal is as before"
    );
}

#[test]
fn a_bridge_connects_containers_and_publishes_ports() {
    let fixture = Fixture::with_bridge();
    let serve = "while :; do echo pong | nc -l -p 80; done";
    let options = json!({
        "net": "bridge", "name": "server",
        "publish": [
            { "ip": "127.0.0.1", "host": 0, "container": 80 },
        ],
    });
    let mut command = fixture.run(
        options,
        json!({}),
        &["--detach", "--ports"],
        &["/bin/sh", "-c", serve],
    );
    let output = text(&command.output().unwrap());
    let address = output.split(' ').next().unwrap().to_owned();
    let id = output.lines().last().unwrap().to_owned();
    let asked = eventually("an answer through the published port", || {
        let mut answer = String::new();
        let mut stream = TcpStream::connect(&address).ok()?;
        stream.read_to_string(&mut answer).ok()?;
        (!answer.is_empty()).then_some(answer)
    });
    assert_eq!(asked, "pong\n");
    let ip = fixture.state(&id)["endpoint"]["address"]
        .as_str()
        .unwrap()
        .to_owned();
    let bridge = json!({ "net": "bridge" });
    let reach = format!("cat /etc/hosts; nc -w 5 {ip} 80 < /dev/null");
    let seen = eventually("an answer to another container", || {
        let seen = fixture.sh(bridge.clone(), &reach);
        seen.contains("pong").then_some(seen)
    });
    assert!(seen.contains("127.0.0.1\tlocalhost"), "{seen}");
    let taken = json!({ "net": "bridge", "publish": [{ "ip": "127.0.0.1", "host": &address.rsplit(':').next().unwrap().parse::<u16>().unwrap(), "container": 80 }] });
    let refused = fixture
        .run(taken, json!({}), &["--rm"], &["/bin/id"])
        .output()
        .unwrap();
    let why = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(125), "{why}");
    assert!(why.contains("cannot listen on 127.0.0.1:"), "{why}");

    fixture.verb("stop", &["server", "--timeout", "0"]);
    assert!(
        TcpStream::connect(&address).is_err(),
        "the port is still served"
    );
    let short = &id[..12];
    let links = Command::new("ip").arg("link").output().unwrap();
    assert!(!text(&links).contains(short), "an interface is left");
    let spaces = Command::new("ip").args(["netns", "list"]).output().unwrap();
    assert!(!text(&spaces).contains(short), "a namespace is left");
    fixture.verb("rm", &["server"]);
}

#[test]
fn other_networks() {
    // Nobody else's interfaces come and go meanwhile.
    let fixture = Fixture::with_bridge();
    let none = fixture.sh(json!({ "net": "none" }), "ip -o addr");
    assert!(
        none.contains("lo") && none.contains("127.0.0.1") && !none.contains("eth0"),
        "{none}"
    );
    let host = fixture.sh(
        json!({ "net": "host" }),
        "cat /proc/self/net/route; cat /etc/resolv.conf",
    );
    assert!(
        host.contains(fs::read_to_string("/etc/resolv.conf").unwrap().trim()),
        "{host}"
    );
    // Those of the containers before are gone some time after them.
    eventually("the host's interfaces", || {
        let seen = fixture.sh(json!({ "net": "host" }), "ls /sys/class/net");
        let host = fs::read_dir("/sys/class/net").unwrap().count();
        (seen.lines().count() == host).then_some(())
    });
}

/// A machine beyond the bridge, which knows no way back to the bridge's addresses.
struct Outside {
    name: String,
    address: String,
    server: Child,
}

impl Outside {
    fn new() -> Self {
        let number = std::process::id();
        let name = format!("to{number}");
        let near = format!("198.18.{}.1", number % 250);
        let address = format!("198.18.{}.2", number % 250);
        let script = format!(
            "ip netns add {name} && ip link add {name} type veth peer name eth0 netns {name} && \
             ip addr add {near}/30 dev {name} && ip link set {name} up && \
             ip -n {name} addr add {address}/30 dev eth0 && ip -n {name} link set eth0 up"
        );
        assert!(
            Command::new("sh")
                .args(["-c", &script])
                .status()
                .unwrap()
                .success()
        );
        let serve = [
            "netns",
            "exec",
            &name,
            "busybox",
            "nc",
            "-ll",
            "-p",
            "80",
            "-e",
            "/bin/echo",
            "outside",
        ];
        let server = Command::new("ip").args(serve).spawn().unwrap();
        Self {
            name,
            address,
            server,
        }
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
        let _ = Command::new("ip")
            .args(["link", "del", &self.name])
            .status();
        let _ = Command::new("ip")
            .args(["netns", "del", &self.name])
            .status();
    }
}

#[test]
fn containers_reach_beyond_the_host() {
    let fixture = Fixture::with_bridge();
    let mut settings: Value =
        serde_json::from_slice(&fs::read(fixture.path("settings.json")).unwrap()).unwrap();
    let number = std::process::id();
    settings["bridge"] = json!({
        "name": format!("tn{number}"),
        "subnet": format!("10.251.{}.0/24", number % 256),
    });
    fs::write(fixture.path("settings.json"), settings.to_string()).unwrap();
    let outside = Outside::new();
    let reach = format!("nc -w 5 {} 80 < /dev/null 2>&1 || true", outside.address);
    eventually("an answer from outside", || {
        let seen = fixture.sh(json!({ "net": "bridge" }), &reach);
        seen.contains("outside").then_some(())
    });
    drop(fixture);
    let rules = Command::new("iptables-save").output().unwrap();
    assert!(
        !text(&rules).contains(&format!("tn{number}")),
        "rules are left"
    );
}

/// Rules of iptables for a bridge of the fixture's machine.
fn rules(machine: &Machine) -> usize {
    let saved = machine.sh("iptables-save");
    saved.lines().filter(|line| line.contains(" tt")).count()
}

#[test]
fn the_way_out_is_put_back_when_the_firewall_was_loaded_anew() {
    let fixture = Fixture::with_machine();
    let machine = fixture.machine.as_ref().unwrap();
    let bridge = json!({ "net": "bridge" });
    fixture.verb("reconcile", &[]);
    assert!(!fixture.path("run").exists(), "there is no bridge yet");
    let sleep = ["/bin/sleep", "1000"];
    fixture.start(bridge.clone(), &sleep);
    assert_eq!(rules(machine), 3);
    for table in ["filter", "nat"] {
        let flush = || machine.sh(&format!("iptables -t {table} -F"));
        flush();
        assert!(rules(machine) < 3);
        fixture.sh(bridge.clone(), "exit");
        assert_eq!(rules(machine), 3, "by the next start");
        flush();
        fixture.verb("reconcile", &[]);
        assert_eq!(rules(machine), 3, "by the upkeep");
    }
    // What could not be done is tried again.
    machine.sh("iptables -F; iptables -t nat -F");
    let without = fixture.path_of(&["crun", "unshare", "sh", "umount", "ip", "nsenter"]);
    let run = |path: Option<&Path>| {
        let mut command = fixture.run(bridge.clone(), json!({}), &["--rm"], &["/bin/id"]);
        if let Some(path) = path {
            command.env("PATH", path);
        }
        let output = command.output().unwrap();
        text(&output);
        String::from_utf8(output.stderr).unwrap()
    };
    let said = run(Some(&without));
    assert_eq!(
        said.matches("cannot reach networks beyond").count(),
        1,
        "{said}"
    );
    assert_eq!(run(None), "");
    assert_eq!(rules(machine), 3);
}

#[test]
fn forwarding_stays_where_others_may_need_it() {
    let fixture = Fixture::with_machine();
    let machine = fixture.machine.as_ref().unwrap();
    let forwards = || machine.sh(&format!("cat {FORWARD}"));
    let start_and_end = || {
        fixture.sh(json!({ "net": "bridge" }), "exit");
        assert_eq!(forwards(), "1\n");
        fixture.verb("remove-bridge", &[])
    };
    let others = [
        ("ip link add other type bridge", "ip link del other"),
        (
            "iptables -t nat -A POSTROUTING -o lo -j MASQUERADE",
            "iptables -t nat -F",
        ),
        ("iptables -A FORWARD -i lo -j ACCEPT", "iptables -F"),
    ];
    for (begin, end) in others {
        assert_eq!(start_and_end(), "");
        assert_eq!(forwards(), "0\n");
        // It came after our bridge.
        fixture.sh(json!({ "net": "bridge" }), "exit");
        machine.sh(begin);
        assert_eq!(start_and_end(), "others forward\n", "{begin}");
        assert_eq!(forwards(), "1\n", "{begin}");
        machine.sh(&format!("{end}; echo 0 > {FORWARD}"));
    }
}
