//! Against a server that gives more than anybody wants, and never ends.

#![allow(clippy::unwrap_used, reason = "a test ends where its support does")]

mod support;

use std::sync::Arc;
use std::time::{Duration, Instant};

use support::faulty::{Faulty, Reply};
use support::{open, settings};
use thaw_image::{Digest, Extent};
use thaw_registry::{Client, Repository, Settings};

const MS: Duration = Duration::from_millis(1);

/// A repository of a client that has little patience.
fn impatient(server: &Faulty, deadline: Duration) -> Arc<dyn Repository> {
    let client = Client::new(Settings {
        request_timeout: MS * 300,
        deadline,
        ..settings()
    });
    open(&client.unwrap(), &server.reference("app")).1
}

fn eventually(what: &str, is_so: impl Fn() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < Duration::from_secs(10), "never: {what}");
        std::thread::sleep(MS * 5);
    }
}

#[test]
fn greetings_are_read_for_a_while_and_no_further() {
    type Answer = fn() -> Reply;
    let answers: [Answer; 4] = [
        || Reply::new(200, vec![b'x'; 64 << 10]).endless(MS * 10),
        || Reply::new(401, "x").endless(MS * 50),
        || Reply::new(200, "{}").stall_after(1),
        || Reply::new(200, "{}").after(MS * 3000),
    ];
    for (number, answer) in answers.into_iter().enumerate() {
        for approach in [false, true] {
            let server = Faulty::start(move |_| answer());
            let repository = impatient(&server, Duration::from_secs(10));
            let expected = match approach {
                true => 4,
                false => 3,
            };
            match approach {
                true => repository.approach(),
                false => repository.connect(),
            }
            eventually("greeted", || server.seen().len() == expected);
            let what = format!("{number}: an end of {expected} connections");
            eventually(&what, || server.ended() == expected);
            assert_eq!(repository.stats().bytes, 0, "nothing is counted");
        }
    }
}

/// A token is awaited by all who read, and by those who have no deadline of their own.
#[test]
fn what_drips_is_given_up_at_the_deadline() {
    let server = Faulty::start(|_| Reply::new(500, "x").endless(MS * 50));
    let repository = impatient(&server, MS * 600);
    let extent = Extent { offset: 0, len: 10 };
    let mut stream = repository.stream(&Digest::of(b""), extent).unwrap();
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let result = std::io::Read::read(&mut stream, &mut [0; 1]);
        sender.send(result.is_err()).ok();
    });
    let failed = receiver.recv_timeout(Duration::from_secs(10));
    assert_eq!(failed, Ok(true), "it waits for ever");
}
