//! The host and who starts it: under a service manager it gets its socket, says when it is ready and that
//! it lives, and ends when it is told to; a shell's limits are not its own.

use std::fs;
use std::io::{BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use serde_json::json;
use thaw_testkit::scratch;

use crate::support::{Host, read_answer, until};

/// What the manager hears until that comes.
fn hear(socket: &UnixDatagram, wanted: &str) -> Vec<String> {
    let mut heard = Vec::new();
    let mut buffer = [0; 512];
    while heard.last().is_none_or(|it| it != wanted) {
        let length = socket.recv(&mut buffer);
        let length = length.unwrap_or_else(|error| panic!("no {wanted:?} ({error}): {heard:?}"));
        heard.push(String::from_utf8_lossy(&buffer[..length]).into_owned());
    }
    heard
}

#[test]
fn a_service_manager_gives_the_socket_and_hears_of_the_host() {
    let mut host = Host::idle();
    let dir = scratch::directory().unwrap();
    let path = dir.path().join("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    manager
        .set_read_timeout(Some(Duration::from_secs(60)))
        .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    // It comes before there is anybody to answer it.
    let mut early = TcpStream::connect(&address).unwrap();
    early
        .write_all(b"GET /2016-08-15/services HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        .unwrap();
    let thaw = host.thaw.command(["serve", "--no-auth"]);
    let mut command = Command::new("/bin/sh");
    // The descriptors begin with number 3, and are meant for the process with that id (sd_listen_fds(3)).
    command
        .args([
            "-c",
            "export LISTEN_PID=$$; exec \"$0\" \"$@\" 3<&0 </dev/null",
        ])
        .arg(thaw.get_program())
        .args(thaw.get_args())
        .env("LISTEN_FDS", "1")
        // As systemd names the socket of a unit.
        .env("LISTEN_FDNAMES", "thaw-serve.socket")
        .env("NOTIFY_SOCKET", &path)
        .env("WATCHDOG_USEC", "2000000")
        .stdin(Stdio::from(OwnedFd::from(listener.try_clone().unwrap())));
    host.begin_as(command);
    assert_eq!(host.address, address, "the manager's socket");
    let answer = read_answer(&mut BufReader::new(early));
    assert_eq!(answer.ok()["services"], json!([]));
    hear(&manager, &format!("READY=1\nMAINPID={}", host.process()));
    hear(&manager, "WATCHDOG=1");
    hear(&manager, "WATCHDOG=1");

    host.deploy(&json!({}));
    host.invoke("x");
    let running = host.asks("web", "sleep 1500");
    until("it runs", || host.facts()["instances"]["busy"] == 1);
    let answer = thread::spawn(move || read_answer(&mut BufReader::new(running)));
    host.end();
    assert_eq!(answer.join().unwrap().text(), "slept 1500");
    hear(&manager, "STOPPING=1\nWATCHDOG_USEC=3600000000");
    TcpStream::connect(&address).expect("the manager still listens");
}

/// The soft and the hard limit of open files of a process.
fn open_files(pid: &str) -> (String, String) {
    let text = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let line = text.lines().find(|line| line.starts_with("Max open files"));
    let mut words = line.unwrap().split_ascii_whitespace().skip(3);
    let mut word = || words.next().unwrap().to_owned();
    (word(), word())
}

#[test]
fn a_host_may_open_all_files_and_its_monitors_as_many_as_before() {
    let mut host = Host::idle();
    let thaw = host.thaw.command(["serve", "--listen", "127.0.0.1:0"]);
    let mut command = Command::new("/bin/sh");
    command
        .args(["-c", "ulimit -Sn 321 && exec \"$0\" \"$@\""])
        .arg(thaw.get_program())
        .args(thaw.get_args())
        .stdin(Stdio::null());
    host.begin_as(command);
    let (_, hard) = open_files("self");
    let both = (hard.clone(), hard.clone());
    assert_eq!(open_files(&host.process().to_string()), both);
    host.deploy(&json!({}));
    host.invoke("x");
    let instance = host.states()[0]["phase"]["init"]["pid"].to_string();
    let status = fs::read_to_string(format!("/proc/{instance}/status")).unwrap();
    let monitor = status.lines().find_map(|line| line.strip_prefix("PPid:"));
    assert_eq!(open_files(monitor.unwrap().trim()), ("321".into(), hard));
}
