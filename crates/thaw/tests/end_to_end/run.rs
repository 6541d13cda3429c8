//! `run`, `exec`, `logs`, `stop`, `rm`: containers, through both runtimes.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use thaw_testkit::image::{Compression, Entry, Image, Layer};
use thaw_testkit::scratch;
use thaw_testkit::terminal::Session;
use thaw_testkit::thaw::Thaw;

use crate::support::{BUSYBOX, Scene, image, json, refused, run, sh, stdout, thaw};

const RUNTIMES: [&str; 2] = ["crun", "runc"];

/// `thaw rm a b c | head -n 1`.
#[test]
fn all_are_removed_though_nobody_reads_their_names() {
    let (scene, node) = (Scene::new(), thaw());
    let names = ["one", "two", "three"];
    for name in names {
        let run = ["run", "--net", "none", "--name", name, &scene.image];
        node.run(run).unwrap();
    }
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut remove = node.command(["rm", "one", "none", "two", "three"]);
    let output = remove.stdout(writer).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "one of them is unknown");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("none"), "{said}");
    assert_eq!(json(&node.run(["ps", "-a", "--json"]).unwrap()), json!([]));
}

#[test]
fn a_container_goes_on_where_nothing_can_be_said_of_it() {
    let (scene, node) = (Scene::new(), thaw());
    let mut run = node.command(["run", "--rm", "--net", "none", "--timing", &scene.image]);
    let run = run.args(["--", "sh", "-c", "exit 7"]);
    let full = fs::File::options().write(true).open("/dev/full").unwrap();
    assert_eq!(run.stderr(full).status().unwrap().code(), Some(7));
    assert_eq!(json(&node.run(["ps", "-a", "--json"]).unwrap()), json!([]));
}

#[test]
fn a_container_runs_lazily_and_says_so() {
    let scene = Scene::accelerated();
    let node = thaw();
    let options = ["run", "--rm", "--net", "none", "--pull", "lazy"];
    let run = |args: &[&str]| {
        let all: Vec<&str> = options
            .iter()
            .copied()
            .chain([scene.image.as_str()])
            .chain(args.iter().copied())
            .collect();
        node.output(all).unwrap()
    };
    let output = run(&[]);
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "read from the second layer\n"
    );
    assert!(output.status.success());
    assert_eq!(run(&["--", "sh", "-c", "exit 7"]).status.code(), Some(7));
    assert_eq!(
        run(&["--", "sh", "-c", "sh -c 'kill -9 $$'; exit $?"])
            .status
            .code(),
        Some(137)
    );
    assert_eq!(run(&["--", "no-such-program"]).status.code(), Some(127));
    let output = run(&["--", "sh", "-c", "echo $GREETING $PWD"]);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "hello /srv\n");
    let images = json(&node.run(["images", "--json"]).unwrap());
    let cached = images[0]["cached"].as_u64().unwrap();
    assert!(
        cached < 6_000_000,
        "12 MB that nobody read were fetched: {images}"
    );
    assert_eq!(images[0]["whole"], false);
}

#[test]
fn a_detached_container_is_listed_reached_and_removed() {
    let scene = Scene::accelerated();
    let node = thaw();
    let command = "echo up; sleep 1000";
    let image = &scene.image;
    let id = node
        .run([
            "run", "-d", "--name", "box", "--net", "none", "--pull", "lazy", image, "--", "sh",
            "-c", command,
        ])
        .unwrap();
    let listed = json(&node.run(["ps", "--json"]).unwrap());
    assert_eq!(listed[0]["id"], *id.trim());
    assert_eq!(listed[0]["way"]["how"], "lazy");
    // And why, to people, too.
    let repository = image.rsplit_once(':').unwrap().0;
    let why = format!("acceleration from {repository} with a working set of its program alone");
    assert_eq!(listed[0]["way"]["why"], why);
    let listed = node.run(["ps"]).unwrap();
    let row = listed.lines().find(|line| line.contains(" box ")).unwrap();
    assert!(row.ends_with(&format!(" lazy   {why}")), "{listed}");
    assert_eq!(
        node.run(["exec", "box", "cat", "/srv/message"]).unwrap(),
        "read from the second layer\n"
    );
    assert_eq!(
        node.run(["exec", "-u", "web", "box", "id", "-u"]).unwrap(),
        "33\n"
    );
    assert_eq!(node.run(["logs", "box"]).unwrap(), "up\n");
    let error = node.run(["rm", "box"]).unwrap_err().to_string();
    assert!(error.contains("is running"), "{error}");
    node.run(["stop", "-t", "1", "box"]).unwrap();
    assert_eq!(
        json(&node.run(["ps", "--json"]).unwrap()),
        Value::Array(vec![])
    );
    node.run(["rm", "box"]).unwrap();
    assert_eq!(
        json(&node.run(["ps", "--all", "--json"]).unwrap()),
        Value::Array(vec![])
    );
}

#[test]
fn flags_and_image_say_what_runs() {
    let scene = Scene::accelerated();
    let node = thaw();
    for runtime in RUNTIMES {
        let flags = [
            "--runtime",
            runtime,
            "-e",
            "A=one",
            "-e",
            "FROM_HERE",
            "-e",
            "NOT_HERE",
            "-w",
            "/made/here",
            "--hostname",
            "box",
            "--entrypoint",
            "sh",
        ];
        let script =
            "echo $A $FROM_HERE ${NOT_HERE-unset} $GREETING $PWD $HOSTNAME; cat /etc/hostname";
        let mut command = node.command(["run", "--rm", "--net", "none"]);
        command
            .args(flags)
            .arg(&scene.image)
            .args(["--", "-c", script]);
        let output = command
            .env("FROM_HERE", "two")
            .env_remove("NOT_HERE")
            .output();
        assert_eq!(
            stdout(&output.unwrap()),
            "one two unset hello /made/here box\nbox\n",
            "{runtime}"
        );
    }
    let ids = |user: &str| {
        sh(
            &node,
            &["-u", user],
            &scene.image,
            "echo $(id -u) $(id -g) $HOME",
        )
    };
    assert_eq!(ids("web"), "33 33 /srv\n");
    assert_eq!(ids("33"), "33 33 /srv\n");
    assert_eq!(ids("web:root"), "33 0 /srv\n");
    assert_eq!(ids("1234:99"), "1234 99 /\n");
    let (code, said) = refused(&node, &["run", "--rm", "-u", "nobody", &scene.image]);
    assert_eq!(code, 125);
    assert!(said.contains("unknown user \"nobody\""), "{said}");
}

#[test]
fn exit_codes_are_docker_s_with_both_runtimes() {
    let scene = Scene::accelerated();
    let node = thaw();
    for runtime in RUNTIMES {
        let code = |command: &[&str]| {
            let output = run(&node, &["--runtime", runtime], &scene.image, command);
            output.status.code().unwrap()
        };
        assert_eq!(code(&["sh", "-c", "exit 7"]), 7, "{runtime}");
        assert_eq!(code(&["/srv/message"]), 126, "{runtime}");
        assert_eq!(code(&["no-such-program"]), 127, "{runtime}");
        let flags = [
            "run",
            "--rm",
            "--net",
            "none",
            "--name",
            "killed",
            "--runtime",
            runtime,
        ];
        let mut command = node.command(flags);
        let mut child = command
            .arg(&scene.image)
            .args(["--", "sleep", "1000"])
            .spawn()
            .unwrap();
        eventually("a start", || {
            let ps = json(&node.run(["ps", "--json"]).unwrap());
            (ps[0]["status"] == "running").then_some(())
        });
        node.run(["stop", "-t", "0", "killed"]).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(128 + 9), "{runtime}");
    }
    let own = refused(
        &node,
        &["run", "--runtime", "no-such-runtime", &scene.image],
    );
    assert_eq!(own.0, 125);
    assert!(
        own.1.contains("no-such-runtime is not in PATH"),
        "{}",
        own.1
    );
}

#[test]
fn a_container_is_confined_by_both_runtimes() {
    let scene = Scene::accelerated();
    let node = thaw();
    for runtime in RUNTIMES {
        let script = "cat /proc/self/status; cat /proc/mounts; \
                      cat /proc/kcore | wc -c; ls /sys/firmware | wc -l; \
                      echo 1 > /proc/sys/kernel/panic; busybox unshare -U true; \
                      ls /dev; cat /etc/resolv.conf /etc/hosts";
        let flags = ["--runtime", runtime];
        let seen = sh(&node, &flags, &scene.image, &format!("({script}) 2>&1"));
        for expected in [
            // The fourteen capabilities of the field.
            "CapBnd:\t00000000a80425fb",
            "CapEff:\t00000000a80425fb",
            "NoNewPrivs:\t1",
            "Seccomp:\t2",
            " /dev/shm tmpfs ",
            " /dev/mqueue mqueue ",
            " /dev/pts devpts ",
            "\n0\n0\n",
            "/proc/sys/kernel/panic: Read-only",
            // It needs no capability: only the filter denies it.
            "unshare(0x10000000): Operation not permitted",
            "urandom",
            "127.0.0.1\tlocalhost",
        ] {
            assert!(
                seen.contains(expected),
                "{runtime}: {expected:?} in\n{seen}"
            );
        }
        assert!(!seen.contains("\nvda"), "{runtime}: {seen}");
    }
}

#[test]
fn volumes_are_the_host_s_the_store_s_and_the_image_s() {
    let registry = thaw_testkit::registry::Registry::start().unwrap();
    let directory = scratch::directory().unwrap();
    let image = image(Compression::Gzip(6)).config("Volumes", serde_json::json!({ "/srv": {} }));
    let layout = image
        .write(&directory.path().join("layout"), "latest")
        .unwrap();
    let image = layout.push(&registry, "volumes:1").unwrap();
    let node = thaw();
    let host = directory.path().join("host");
    fs::create_dir(&host).unwrap();
    let bind = format!("{}:/mnt", host.display());
    sh(&node, &["-v", &bind], &image, "echo written > /mnt/file");
    assert_eq!(fs::read_to_string(host.join("file")).unwrap(), "written\n");
    let read_only = format!("{bind}:ro");
    let seen = sh(
        &node,
        &["-v", &read_only],
        &image,
        "cat /mnt/file; echo x 2>&1 > /mnt/file || true",
    );
    assert!(
        seen.starts_with("written\n") && seen.contains("Read-only"),
        "{seen}"
    );

    // What the image has at the place of a new volume is in it, and what is written stays.
    let named = ["-v", "data:/srv"];
    assert_eq!(
        sh(&node, &named, &image, "cat message; echo more >> message"),
        MESSAGE
    );
    assert_eq!(
        sh(&node, &named, &image, "cat message"),
        format!("{MESSAGE}more\n")
    );
    // A VOLUME of the image begins anew with each container.
    for _ in 0..2 {
        assert_eq!(
            sh(&node, &[], &image, "cat message; echo more >> message"),
            MESSAGE
        );
    }
    // So does one that is asked for.
    for _ in 0..2 {
        let script = "cat /srv/message; test ! -e /bin/new && echo > /bin/new";
        assert_eq!(sh(&node, &["-v", "/bin"], &image, script), MESSAGE);
    }
    // Where the command is typed.
    let rest = ["run", "--rm", "--net", "none", "-v", "./host/:/mnt"];
    let command = [&image, "--", "cat", "/mnt/file"];
    let mut command = node.command(rest.into_iter().chain(command));
    let output = command.current_dir(directory.path()).output().unwrap();
    assert_eq!(stdout(&output), "written\n");
    let (code, said) = refused(&node, &["run", "--rm", "-v", "/no/such:/x", &image]);
    assert_eq!(code, 125);
    assert!(said.contains("/no/such does not exist"), "{said}");
}

#[test]
fn what_an_image_s_volumes_begin_with_is_no_more_than_what_the_image_has() {
    let program = fs::read(BUSYBOX).unwrap();
    let layer = Layer::new([
        Entry::directory("bin"),
        Entry::file("bin/busybox", program).mode(0o755),
        Entry::symlink("bin/sh", "busybox"),
        Entry::directory("data"),
        Entry::file("data/file", vec![b'x'; 1 << 20]),
        Entry::directory("data/sub"),
        Entry::hard_link("data/sub/link", "data/file"),
        Entry::sparse("data/sparse", 64 << 20, vec![(1 << 20, vec![7; 512])]),
        Entry::symlink("alias", "data"),
        Entry::symlink("all", "/"),
    ]);
    let of = |volumes: Value| Image::new([layer.clone()]).config("Volumes", volumes);
    let registry = thaw_testkit::registry::Registry::start().unwrap();
    let directory = scratch::directory().unwrap();
    let push = |name: &str, volumes: Value| {
        let image = of(volumes).write(&directory.path().join(name), "latest");
        image
            .unwrap()
            .push(&registry, &format!("{name}:1"))
            .unwrap()
    };
    let volumes = push(
        "volumes",
        json!({ "/data": {}, "/data/sub": {}, "/alias": {} }),
    );
    let all = push("all", json!({ "/all": {} }));
    let script = "busybox stat -c '%h' data/file data/sub/link; \
                  busybox test data/file -ef data/sub/link && echo one; \
                  busybox du -k data/sparse; busybox grep -c ' /data' /proc/mounts";
    for transport in ["auto", "directories"] {
        let node = thaw();
        let flags = ["--transport", transport, "-w", "/"];
        let seen = sh(&node, &flags, &volumes, script);
        let lines: Vec<&str> = seen.lines().collect();
        assert_eq!(lines[..3], ["2", "2", "one"], "{transport}: {seen}");
        let taken: u64 = lines[3].split('\t').next().unwrap().parse().unwrap();
        assert!(taken < 1 << 10, "{transport}: {seen}");
        assert_eq!(lines[4], "1", "{transport}: {seen}");
        let (code, said) = refused(
            &node,
            &["run", "--rm", "--transport", transport, &all, "sh"],
        );
        assert_eq!(code, 125);
        assert!(said.contains("the root itself"), "{said}");
    }
}

const MESSAGE: &str = "read from the second layer\n";

#[test]
fn the_writable_part_is_as_asked() {
    let scene = Scene::accelerated();
    let node = thaw();
    let seen = |flags: &[&str], script: &str| sh(&node, flags, &scene.image, script);
    assert!(seen(&["--read-only"], "echo x 2>&1 > /x || true").contains("Read-only"));
    let flags = ["--read-only", "--tmpfs", "/run:size=1m,mode=1777"];
    let mounted = seen(&flags, "echo x > /run/x; cat /proc/mounts");
    let run = mounted
        .lines()
        .find(|line| line.contains(" /run "))
        .unwrap();
    assert!(run.contains("tmpfs") && run.contains("size=1024k"), "{run}");
    let fill = "busybox dd if=/dev/zero of=/big bs=64k count=64 2>&1; ls -s /big";
    let full = run_ok(&node, &["--storage-size", "2m"], &scene.image, fill);
    assert!(full.contains("No space left on device"), "{full}");
    assert!(!run_ok(&node, &[], &scene.image, fill).contains("No space"));
    // In memory: a filesystem of its own, and every page of it is one.
    let flags = ["--tmpfs", "/:size=2m"];
    let full = run_ok(&node, &flags, &scene.image, fill);
    assert!(full.contains("No space left on device"), "{full}");
    let kept = seen(
        &["--tmpfs", "/"],
        "echo kept > /srv/message; cat /srv/message",
    );
    assert_eq!(kept, "kept\n");
    for flags in [
        &["--tmpfs", "/:mode=700"][..],
        &["--tmpfs", "/", "--storage-size", "2m"],
    ] {
        let args = [&["run"][..], flags, &[&scene.image]].concat();
        let (code, said) = refused(&node, &args);
        assert_eq!(code, 125, "{said}");
        assert!(said.contains("--tmpfs") || said.contains("size="), "{said}");
    }
}

fn run_ok(node: &Thaw, flags: &[&str], image: &str, script: &str) -> String {
    sh(node, flags, image, &format!("{script}; true"))
}

#[test]
fn limits_are_in_the_control_group() {
    let scene = Scene::accelerated();
    let node = thaw();
    for runtime in RUNTIMES {
        let id = node
            .run([
                "run",
                "-d",
                "--net",
                "none",
                "--name",
                "limited",
                "--runtime",
                runtime,
                "--memory",
                "64m",
                "--cpus",
                "0.5",
                "--pids-limit",
                "17",
                &scene.image,
                "--",
                "sleep",
                "1000",
            ])
            .unwrap();
        let id = id.trim();
        assert_eq!(
            control(id, "memory", "memory.limit_in_bytes", "memory.max"),
            (64 << 20).to_string()
        );
        assert_eq!(control(id, "pids", "pids.max", "pids.max"), "17");
        let quota = control(id, "cpu", "cpu.cfs_quota_us", "cpu.max");
        assert!(quota.starts_with("50000"), "{runtime}: {quota}");
        node.run(["rm", "-f", "limited"]).unwrap();
    }
    for (flag, value) in [
        ("--memory", "1k"),
        ("--cpus", "nan"),
        ("--pids-limit", "-2"),
    ] {
        let (code, said) = refused(&node, &["run", flag, value, &scene.image]);
        assert_eq!(code, 125, "{flag}");
        assert!(said.contains(value), "{flag}: {said}");
    }
    let unlimited = sh(&node, &["--pids-limit", "-1"], &scene.image, "echo ran");
    assert_eq!(unlimited, "ran\n");
}

/// A value of the control group of a container, in either version.
fn control(id: &str, controller: &str, v1: &str, v2: &str) -> String {
    let root = Path::new("/sys/fs/cgroup");
    let first = root.join(controller).join("thaw").join(id).join(v1);
    let second = root.join("thaw").join(id).join(v2);
    let path = if first.exists() { first } else { second };
    let text = fs::read_to_string(&path);
    text.unwrap_or_else(|error| panic!("{}: {error}", path.display()))
        .trim()
        .to_owned()
}

#[test]
fn signals_reach_the_container_and_stop_asks_as_the_image_says() {
    let registry = thaw_testkit::registry::Registry::start().unwrap();
    let directory = scratch::directory().unwrap();
    let image = image(Compression::Gzip(6)).config("StopSignal", "SIGUSR1");
    let layout = image
        .write(&directory.path().join("layout"), "latest")
        .unwrap();
    let image = layout.push(&registry, "signals:1").unwrap();
    let node = thaw();
    let script = "trap 'echo got term; exit 9' TERM; trap 'echo got usr1; exit 4' USR1; \
                  echo ready; while :; do sleep 0.05; done";
    let mut child = node
        .command([
            "run", "--rm", "--net", "none", &image, "--", "sh", "-c", script,
        ])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut out = child.stdout.take().unwrap();
    let mut ready = [0; 6];
    out.read_exact(&mut ready).unwrap();
    let pid = child.id().to_string();
    assert!(
        Command::new("kill")
            .args(["-TERM", &pid])
            .status()
            .unwrap()
            .success()
    );
    let mut rest = String::new();
    out.read_to_string(&mut rest).unwrap();
    assert_eq!(
        (rest.as_str(), child.wait().unwrap().code()),
        ("got term\n", Some(9))
    );

    for (name, flags, code) in [
        ("own", &[][..], 4),
        ("asked", &["--stop-signal", "TERM"], 9),
    ] {
        let mut command = node.command(["run", "-d", "--net", "none", "--name", name]);
        command
            .args(flags)
            .arg(&image)
            .args(["--", "sh", "-c", script]);
        stdout(&command.output().unwrap());
        eventually("a start", || {
            node.run(["logs", name])
                .unwrap()
                .contains("ready")
                .then_some(())
        });
        let stopped = json(&node.run(["stop", "--json", name]).unwrap());
        assert_eq!(
            stopped[0],
            serde_json::json!({ "container": name, "error": null })
        );
        let ps = json(&node.run(["ps", "-a", "--json"]).unwrap());
        let mut listed = ps.as_array().unwrap().iter();
        let status = &listed.find(|one| one["name"] == name).unwrap()["status"];
        assert!(
            status.as_str().unwrap().contains(&code.to_string()),
            "{status}"
        );
    }
}

#[test]
fn what_a_foreground_container_printed_is_in_its_log() {
    let scene = Scene::accelerated();
    let node = thaw();
    let start = |more: &[&str], script: &str| {
        let mut args = vec!["run", "--net", "none", "--name"];
        args.extend(more);
        args.extend([scene.image.as_str(), "--", "sh", "-c", script]);
        node.command(args)
    };
    let script = "echo out; echo err >&2; printf unfinished";
    let ran = start(&["plain"], script).output().unwrap();
    let logged = node.output(["logs", "plain"]).unwrap();
    assert_eq!(stdout(&ran), "out\nunfinished");
    assert_eq!(stdout(&logged), "out\nunfinished\n");
    assert_eq!(
        [ran.stderr, logged.stderr],
        [b"err\n", b"err\n"],
        "each stream is kept apart"
    );

    let session = Session::start(start(&["terminal", "-t"], "echo shown; exit 3")).unwrap();
    let (status, shown) = session.end().unwrap();
    assert_eq!(status.code(), Some(3), "{shown}");
    assert!(shown.contains("shown"), "{shown}");
    assert_eq!(node.run(["logs", "terminal"]).unwrap(), "shown\r\n");

    // Who stops reading stops the program, as if there were no log.
    let mut command = start(&["endless"], "exec busybox yes");
    let mut endless = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut first = [0; 2];
    let mut pipe = endless.stdout.take().unwrap();
    pipe.read_exact(&mut first).unwrap();
    drop(pipe);
    let status = eventually("the end of what nobody reads", || {
        endless.try_wait().unwrap()
    });
    assert!(!status.success(), "{status}");
    node.run(["rm", "plain", "terminal", "endless"]).unwrap();
}

fn eventually<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(Instant::now() < deadline, "{what} did not happen");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn networks_and_published_ports() {
    let scene = Scene::accelerated();
    let node = thaw();
    let links = |net: &str| {
        let flags = [
            "run",
            "--rm",
            "--net",
            net,
            &scene.image,
            "--",
            "sh",
            "-c",
            "ls /sys/class/net",
        ];
        stdout(&node.output(flags).unwrap())
            .split_whitespace()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    assert_eq!(links("none"), ["lo"]);
    let own = fs::read_dir("/sys/class/net").unwrap().count();
    assert_eq!(links("host").len(), own);

    let serve = "while :; do echo pong | busybox nc -l -p 80; done";
    let started = node
        .run([
            "run",
            "-d",
            "--json",
            "--name",
            "server",
            "-p",
            "127.0.0.1:0:80",
            "-p",
            "0:80",
            "--dns",
            "192.0.2.53",
            &scene.image,
            "--",
            "sh",
            "-c",
            serve,
        ])
        .unwrap();
    let started = json(&started);
    let ps = json(&node.run(["ps", "--json"]).unwrap());
    assert_eq!(ps[0]["ports"], started["ports"]);
    let port = |index: usize| {
        let host = ps[0]["ports"][index]["host"].as_str().unwrap();
        assert_eq!(ps[0]["ports"][index]["container"], 80);
        host.rsplit(':').next().unwrap().parse::<u16>().unwrap()
    };
    for address in [
        ("127.0.0.1", port(0)),
        ("localhost", port(0)),
        ("127.0.0.1", port(1)),
    ] {
        let answer = eventually("an answer", || {
            let mut answer = String::new();
            let mut stream = TcpStream::connect(address).ok()?;
            stream.write_all(b"").ok()?;
            stream.read_to_string(&mut answer).ok()?;
            (!answer.is_empty()).then_some(answer)
        });
        assert_eq!(answer, "pong\n", "{address:?}");
    }
    let shown = node.run(["ps"]).unwrap();
    assert!(
        shown.contains(&format!("127.0.0.1:{}->80/tcp", port(0))),
        "{shown}"
    );
    let resolv = node
        .run(["exec", "server", "cat", "/etc/resolv.conf"])
        .unwrap();
    assert!(resolv.starts_with("nameserver 192.0.2.53\n"), "{resolv}");
    node.run(["rm", "--force", "server"]).unwrap();
    for net in ["host", "none"] {
        let (code, said) = refused(&node, &["run", "--net", net, "-p", "1:80", &scene.image]);
        assert_eq!(code, 125);
        assert!(said.contains("--net bridge"), "{said}");
    }
}
