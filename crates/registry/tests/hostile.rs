//! Against a server that gives more than anybody wants, and never ends.

#![allow(clippy::unwrap_used, reason = "a test ends where its support does")]

mod support;

use std::sync::Arc;
use std::time::{Duration, Instant};

use support::faulty::{Faulty, Reply};
use support::{client, open, settings};
use thaw_image::{Digest, Extent, media};
use thaw_registry::{Client, Descriptor, RegistryError, Repository, Settings, Which};

const MS: Duration = Duration::from_millis(1);

/// A repository of a client that waits so long for a further byte, and for all.
fn patient(server: &Faulty, request_timeout: Duration, deadline: Duration) -> Arc<dyn Repository> {
    let client = Client::new(Settings {
        request_timeout,
        deadline,
        ..settings()
    });
    open(&client.unwrap(), &server.reference("app")).1
}

/// One of a client that has little patience.
fn impatient(server: &Faulty, deadline: Duration) -> Arc<dyn Repository> {
    patient(server, MS * 300, deadline)
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
    let (long, short) = (Duration::from_secs(60), MS * 300);
    let answers: [(Answer, Duration); 4] = [
        (
            || Reply::new(200, vec![b'x'; 64 << 10]).endless(MS * 10),
            long,
        ),
        (|| Reply::new(401, "x").endless(MS * 50), short),
        (|| Reply::new(200, "{}").stall_after(1), short),
        (|| Reply::new(200, "{}").after(MS * 3000), short),
    ];
    for (number, (answer, patience)) in answers.into_iter().enumerate() {
        for approach in [false, true] {
            let server = Faulty::start(move |_| answer());
            let repository = patient(&server, patience, long);
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

/// An entry of a list of referrers, with a field of so many bytes.
fn entry(name: &str, artifact_type: &str, more: usize) -> String {
    let mut entry = Descriptor::of(media::MANIFEST, name.as_bytes());
    entry.artifact_type = Some(artifact_type.to_owned());
    let text = serde_json::to_string(&entry).unwrap();
    let more = "[],".repeat(more / 3);
    format!(r#"{},"more":[{more}[]]}}"#, &text[..text.len() - 1])
}

fn page(entries: &[String]) -> String {
    let (kind, entries) = (media::INDEX, entries.join(","));
    format!(r#"{{"schemaVersion":2,"mediaType":"{kind}","manifests":[{entries}]}}"#)
}

/// A server of referrers, each page of which is followed by another. `page` makes them.
fn paging(page: impl Fn(usize) -> Reply + Send + Sync + 'static) -> Faulty {
    Faulty::start(move |seen| {
        let Some((path, query)) = seen.target.split_once("/referrers/") else {
            return Reply::new(404, "");
        };
        let number = query.split_once("page=").map(|(_, number)| number);
        let number = number.map_or(0, |number| number.parse().unwrap());
        let next = format!("<{path}/referrers/x?page={}>; rel=\"next\"", number + 1);
        page(number).header("link", next)
    })
}

fn found(repository: &dyn Repository) -> Result<Vec<Digest>, RegistryError> {
    let list = repository.referrers(&Digest::of(b"image"), &[media::ACCELERATION])?;
    Ok(list.into_iter().map(|entry| entry.digest).collect())
}

fn pages(server: &Faulty) -> usize {
    let seen = server.seen();
    let is_page = |target: &str| target.contains("/referrers/");
    seen.iter().filter(|seen| is_page(&seen.target)).count()
}

#[test]
fn of_endless_pages_what_is_wanted_is_kept_and_no_more_than_there_is_room_for() {
    let server = paging(|number| {
        let foreign = |it: usize| entry(&format!("{number}.{it}"), "application/x", 0);
        let mut entries: Vec<String> = (0..500).map(foreign).collect();
        if number == 20 {
            entries.push(entry("wanted", media::ACCELERATION, 0));
        }
        Reply::new(200, page(&entries))
    });
    let (_, repository) = open(&client(), &server.reference("app"));
    assert_eq!(found(&*repository).unwrap(), [Digest::of(b"wanted")]);
    assert_eq!(pages(&server), 64, "there may be no more of them");

    let server = paging(|number| {
        let name = number.to_string();
        Reply::new(200, page(&[entry(&name, media::ACCELERATION, 1 << 20)]))
    });
    let (_, repository) = open(&client(), &server.reference("app"));
    assert_eq!(found(&*repository).unwrap().len(), 3);
    assert_eq!(pages(&server), 4);
}

#[test]
fn referrers_are_sought_no_longer_than_a_call_may_last() {
    let slow = || paging(|_| Reply::new(200, page(&[])).after(MS * 100));
    let server = slow();
    let repository = impatient(&server, MS * 1000);
    let error = found(&*repository).unwrap_err();
    assert!(matches!(error, RegistryError::TimedOut { .. }), "{error}");
    assert!(pages(&server) <= 11, "{}", pages(&server));
    // Nor longer than whoever asks will wait.
    let server = slow();
    let repository = impatient(&server, Duration::from_secs(30));
    let soon = || Instant::now() + MS * 500;
    let asked = Arc::clone(&repository).until(soon());
    let error = found(&*asked).unwrap_err();
    assert!(matches!(error, RegistryError::TimedOut { .. }), "{error}");
    assert!(pages(&server) <= 6, "{}", pages(&server));
    let silent = Faulty::start(|_| Reply::new(200, "{}").after(MS * 3000));
    let (_, repository) = open(&client(), &silent.reference("app"));
    let asked =
        |question: fn(&dyn Repository) -> String| question(&*Arc::clone(&repository).until(soon()));
    for said in [
        asked(|it| it.manifest(&Which::Only).unwrap_err().to_string()),
        asked(|it| {
            let blob = it.blob(&Descriptor::of("x", b"x"), 1);
            blob.unwrap_err().to_string()
        }),
        asked(|it| {
            let extent = Extent { offset: 0, len: 1 };
            let bytes = it.read_at(&Digest::of(b"x"), extent, None);
            bytes.unwrap_err().to_string()
        }),
    ] {
        assert!(said.contains("within 0.5 s"), "{said}");
    }
}

#[test]
fn no_more_than_so_much_is_skipped_of_a_blob() {
    const MAX_SKIP: u64 = 256 << 20;
    let read = |offset: u64| {
        let server = Faulty::start(|_| Reply::new(200, "all of it").without_length());
        let repository = impatient(&server, MS * 600);
        let extent = Extent { offset, len: 10 };
        let error = repository.read_at(&Digest::of(b"x"), extent, None);
        (error.unwrap_err().to_string(), server.seen().len())
    };
    let (said, asked) = read(MAX_SKIP + 1);
    assert!(said.contains("does not know ranges"), "{said}");
    assert_eq!(asked, 1);
    let (said, _) = read(MAX_SKIP);
    assert!(!said.contains("does not know ranges"), "{said}");
}
