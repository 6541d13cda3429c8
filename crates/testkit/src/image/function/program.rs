// A function for tests: an HTTP server of the standard library alone, so that rustc makes one static
// program of this file. What it does is said by its environment and by what it is sent.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Condvar, Mutex};
use std::time::Duration;

fn main() {
    let say = |name: &str, otherwise: &str| std::env::var(name).unwrap_or(otherwise.to_owned());
    if say("CRASH", "") == "1" {
        eprintln!("crashing as told");
        std::process::exit(3);
    }
    // No server, but started for one event.
    if let Ok(text) = std::env::var("FC_CUSTOM_CONTAINER_EVENT") {
        let (status, _, said) = event(&BTreeMap::new(), text.into_bytes());
        println!("{}", String::from_utf8_lossy(&said));
        std::process::exit(if status == 200 { 0 } else { 1 });
    }
    std::thread::sleep(Duration::from_millis(say("START_DELAY", "0").parse().unwrap_or(0)));
    let address = format!("{}:{}", say("LISTEN", "0.0.0.0"), say("FC_SERVER_PORT", "9000"));
    let listener = TcpListener::bind(&address).expect("listening");
    println!("listening at {address}");
    for stream in listener.incoming().flatten() {
        std::thread::spawn(move || while let Some(true) = serve(&stream) {});
    }
}

/// Serves one request; whether another may come.
fn serve(stream: &TcpStream) -> Option<bool> {
    stream.set_nodelay(true).ok()?;
    let mut reader = BufReader::with_capacity(64 << 10, stream);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 {
            return Some(false);
        }
        let mut words = line.split_whitespace().map(str::to_owned);
        let (method, path) = (words.next()?, words.next()?);
        let mut headers = BTreeMap::new();
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).ok()?;
            let line = line.trim_end();
            if line.is_empty() {
                break;
            }
            let (name, value) = line.split_once(':')?;
            headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
        }
        let body = read_body(&mut reader, &headers)?;
        if headers.get("upgrade").is_some_and(|kind| kind == "echo") {
            return echo(stream, reader);
        }
        if path == "/stream" {
            stream_parts(stream)?;
            continue;
        }
        let (status, headers, body) = answer(&method, &path, &headers, body);
        let mut head = format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\n", body.len());
        for (name, value) in headers {
            head += &format!("{name}: {value}\r\n");
        }
        let whole = [head.as_bytes(), b"\r\n", &body].concat();
        (&mut &*stream).write_all(&whole).ok()?;
    }
}

fn read_body(
    reader: &mut impl BufRead,
    headers: &BTreeMap<String, String>,
) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    if headers.get("transfer-encoding").is_some_and(|it| it == "chunked") {
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).ok()?;
            let size = u64::from_str_radix(line.trim(), 16).ok()?;
            reader.by_ref().take(size).read_to_end(&mut body).ok()?;
            reader.read_line(&mut line).ok()?;
            if size == 0 {
                return Some(body);
            }
        }
    }
    let length = headers.get("content-length").and_then(|text| text.parse().ok());
    reader.take(length.unwrap_or(0)).read_to_end(&mut body).ok()?;
    Some(body)
}

fn echo(stream: &TcpStream, mut reader: BufReader<&TcpStream>) -> Option<bool> {
    let head = b"HTTP/1.1 101 X\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n";
    (&mut &*stream).write_all(head).ok()?;
    let mut line = String::new();
    while reader.read_line(&mut line).ok()? > 0 {
        (&mut &*stream).write_all(line.as_bytes()).ok()?;
        line.clear();
    }
    Some(false)
}

/// Whether streams may go on.
static GO_ON: (Mutex<bool>, Condvar) = (Mutex::new(false), Condvar::new());

/// Sends one part at once, and another when `/go-on` was asked for.
fn stream_parts(mut stream: &TcpStream) -> Option<()> {
    let head = b"HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n\r\n";
    stream.write_all(&[head.as_slice(), b"6\r\nfirst\n\r\n"].concat()).ok()?;
    let go_on = GO_ON.0.lock().ok()?;
    drop(GO_ON.1.wait_while(go_on, |go_on| !*go_on).ok()?);
    stream.write_all(b"7\r\nsecond\n\r\n0\r\n\r\n").ok()
}

type Answer = (u16, Vec<(&'static str, String)>, Vec<u8>);

fn answer(method: &str, path: &str, headers: &BTreeMap<String, String>, body: Vec<u8>) -> Answer {
    let id = headers.get("x-fc-request-id").cloned().unwrap_or_default();
    let plain = |text: String| (200, vec![("Content-Type", "text/plain".to_owned())], text.into_bytes());
    if std::env::var("HANG").is_ok_and(|it| it == path) {
        std::thread::sleep(Duration::from_secs(3600));
    }
    match path {
        "/go-on" => {
            GO_ON.0.lock().map(|mut go_on| *go_on = true).ok();
            GO_ON.1.notify_all();
            plain("going on".to_owned())
        }
        "/invoke" => {
            println!("FC Invoke Start RequestId: {id}");
            if std::env::var("PRINT_EVENTS").is_ok() {
                println!("{}", String::from_utf8_lossy(&body));
            }
            let answer = event(headers, body);
            println!("FC Invoke End RequestId: {id}");
            answer
        }
        "/initialize" | "/pre-stop" | "/pre-freeze" => {
            println!("{method} {path}");
            let fails = std::env::var("FAIL").is_ok_and(|it| it == path);
            (if fails { 404 } else { 200 }, vec![], vec![])
        }
        "/fail" => (500, vec![], b"failed as told".to_vec()),
        "/exit" => std::process::exit(7),
        path => plain(format!("{method} {path}\n{}{}", listed(headers), String::from_utf8_lossy(&body))),
    }
}

fn listed(headers: &BTreeMap<String, String>) -> String {
    headers.iter().map(|(name, value)| format!("{name}: {value}\n")).collect()
}

fn event(headers: &BTreeMap<String, String>, body: Vec<u8>) -> Answer {
    let text = String::from_utf8_lossy(&body).into_owned();
    let (word, rest) = text.split_once(' ').unwrap_or((&text, ""));
    let number = rest.parse().unwrap_or(0_u64);
    let ok = |text: String| (200, vec![], text.into_bytes());
    match word {
        "fail" => (404, vec![], b"{\"errorMessage\":\"failed as told\"}".to_vec()),
        "fail-by-header" => (200, vec![("x-fc-status", "404".to_owned())], b"told".to_vec()),
        "sleep" => {
            std::thread::sleep(Duration::from_millis(number));
            ok(format!("slept {number}"))
        }
        "exit" => {
            eprintln!("exiting as told");
            std::process::exit(i32::try_from(number).unwrap_or(1))
        }
        "eat" => {
            let size = usize::try_from(number << 20).unwrap_or(0);
            ok(format!("ate {}", vec![1_u8; size].iter().map(|it| u64::from(*it)).sum::<u64>()))
        }
        "write" => {
            let block = vec![7_u8; 1 << 20];
            let written = std::fs::File::create("/tmp/written")
                .and_then(|mut file| (0..number).try_for_each(|_| file.write_all(&block)));
            match written {
                Ok(()) => ok(format!("wrote {number}")),
                Err(error) => (404, vec![], format!("{{\"errorMessage\":\"{error}\"}}").into_bytes()),
            }
        }
        "fill" => {
            let error = std::fs::File::create("/tmp/filled")
                .and_then(|mut file| loop { file.write_all(&[7; 4096])? });
            let _: std::io::Result<()> = error;
            std::process::exit(9)
        }
        "overwrite" => ok(std::fs::write(rest, "overwritten")
            .map_or_else(|error| error.to_string(), |()| "overwritten".to_owned())),
        "cat" => ok(std::fs::read_to_string(rest).unwrap_or_else(|error| error.to_string())),
        "threads" => ok(threads(number).to_string()),
        "print" => {
            println!("{rest}");
            ok("printed".to_owned())
        }
        "headers" => ok(listed(headers)),
        "env" => ok(std::env::vars().map(|(name, value)| format!("{name}={value}\n")).collect()),
        "connect" => ok(match TcpStream::connect_timeout(
            &rest.parse().unwrap_or(([127, 0, 0, 1], 1).into()),
            Duration::from_millis(500),
        ) {
            Ok(_) => "connected".to_owned(),
            Err(error) => error.to_string(),
        }),
        "read" => ok(std::fs::read(rest).map_or_else(
            |error| error.to_string(),
            |bytes| format!("{} bytes, {}", bytes.len(), bytes.iter().map(|it| u64::from(*it)).sum::<u64>()),
        )),
        "pid" => ok(format!("{}", std::env::var("FC_INSTANCE_ID").unwrap_or_default())),
        _ => (200, vec![], body),
    }
}

/// How many threads more there can be at once, of so many.
fn threads(most: u64) -> usize {
    let hold = Mutex::new(());
    let held = hold.lock();
    std::thread::scope(|scope| {
        let spawn = |_| {
            let wait = || drop(hold.lock());
            std::thread::Builder::new().stack_size(16 << 10).spawn_scoped(scope, wait).ok()
        };
        let count = (0..most).map_while(spawn).count();
        drop(held);
        count
    })
}
