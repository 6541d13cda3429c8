//! Against a server that does what registries and blob stores do on bad days.

#![allow(clippy::unwrap_used, reason = "a test ends where its support does")]

mod support;

use std::collections::BTreeMap;
use std::io::Read;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use support::faulty::{Faulty, Reply, Seen};
use support::{client, open, pattern, settings};
use thaw_image::{Digest, Extent, SourceError, media};
use thaw_registry::{Client, Descriptor, Manifest, RegistryError, Repository, Settings, Which};

const MANIFEST: &str = r#"{"schemaVersion":2,"config":{"digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a","size":2},"layers":[]}"#;

/// A server of one blob, and a repository on it.
fn serving(
    blob: &[u8],
    handler: impl Fn(&Seen, &[u8]) -> Reply + Send + Sync + 'static,
) -> (Faulty, Arc<dyn Repository>, Digest) {
    let (digest, owned) = (Digest::of(blob), blob.to_vec());
    let server = Faulty::start(move |seen| handler(seen, &owned));
    let (_, repository) = open(&client(), &server.reference("app"));
    (server, repository, digest)
}

fn read(
    repository: &dyn Repository,
    blob: &Digest,
    extent: (u64, u64),
) -> Result<Vec<u8>, SourceError> {
    let (offset, len) = extent;
    let deadline = Instant::now() + Duration::from_secs(5);
    repository.read_at(blob, Extent { offset, len }, Some(deadline))
}

fn stream(repository: &dyn Repository, blob: &Digest, len: usize) -> std::io::Result<Vec<u8>> {
    let extent = Extent {
        offset: 0,
        len: len as u64,
    };
    let mut all = Vec::new();
    let mut reader = repository
        .stream(blob, extent)
        .map_err(std::io::Error::other)?;
    reader.read_to_end(&mut all)?;
    Ok(all)
}

/// A token server and a registry in one, whose tokens live `life` seconds.
fn token_registry(life: u64, uses: usize) -> (Faulty, Arc<Mutex<String>>) {
    let address = Arc::new(Mutex::new(String::new()));
    let (issued, here) = (AtomicUsize::new(0), Arc::clone(&address));
    let used: Mutex<BTreeMap<String, usize>> = Mutex::default();
    let blob = pattern(1000);
    let server = Faulty::start(move |seen| {
        if seen.target.starts_with("/token") {
            let number = issued.fetch_add(1, Ordering::SeqCst);
            let token = format!(r#"{{"token":"t{number}","expires_in":{life}}}"#);
            return Reply::new(200, token);
        }
        let given = seen.header("authorization").unwrap_or_default().to_owned();
        let mut used = used.lock().unwrap();
        let count = used.entry(given.clone()).or_default();
        *count += 1;
        let newest = format!("Bearer t{}", issued.load(Ordering::SeqCst).wrapping_sub(1));
        if given == newest && *count <= uses {
            return seen.serve(&blob);
        }
        let realm = format!(
            r#"Bearer realm="http://{}/token",service="s",scope="repository:app:pull""#,
            here.lock().unwrap()
        );
        Reply::new(401, "{}").header("www-authenticate", realm)
    });
    *address.lock().unwrap() = server.address.to_string();
    (server, address)
}

fn tokens(server: &Faulty) -> usize {
    let seen = server.seen();
    seen.iter()
        .filter(|it| it.target.starts_with("/token"))
        .count()
}

#[test]
fn a_token_is_fetched_once_and_renewed_when_it_is_refused() {
    let (server, _address) = token_registry(300, 3);
    let (_, repository) = open(&client(), &server.reference("app"));
    let blob = Digest::of(&pattern(1000));
    for _ in 0..3 {
        assert_eq!(
            read(&*repository, &blob, (10, 20)).unwrap(),
            pattern(1000)[10..30]
        );
    }
    assert_eq!(tokens(&server), 1);
    assert_eq!(
        repository.stats().requests,
        1 + 1 + 3,
        "a refusal, a token, three reads"
    );
    // It is refused in the middle of its life.
    assert_eq!(read(&*repository, &blob, (0, 1000)).unwrap(), pattern(1000));
    assert_eq!(tokens(&server), 2);
    let asked = &server.seen()[1].target;
    assert_eq!(asked, "/token?service=s&scope=repository%3Aapp%3Apull");
}

#[test]
fn requests_at_once_find_connections_that_are_open() {
    // So long that no greeting finds the connection of another one free.
    const ANSWER: Duration = Duration::from_millis(300);
    let blob = pattern(1000);
    let (server, repository, digest) = serving(&blob, |seen, blob| seen.serve(blob).after(ANSWER));
    // Said twice, it is done once.
    repository.connect();
    repository.connect();
    read(&*repository, &digest, (0, 1)).unwrap();
    // They are opened beside it.
    let begin = Instant::now();
    while server.connections() < 4 && begin.elapsed() < Duration::from_secs(10) {
        std::thread::sleep(Duration::from_millis(5));
    }
    std::thread::sleep(2 * ANSWER);
    let opened = server.connections();
    assert!(opened >= 4, "{opened}");
    let asked = repository.stats().requests;
    assert_eq!(asked, 1, "what is asked for nobody is not counted");
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| read(&*repository, &digest, (0, 9)).unwrap());
        }
    });
    assert_eq!(server.connections(), opened);
    assert_eq!(repository.stats().round_trips, 2);
}

#[test]
fn a_token_is_renewed_before_it_expires() {
    let (server, _address) = token_registry(1, usize::MAX);
    let (_, repository) = open(&client(), &server.reference("app"));
    let blob = Digest::of(&pattern(1000));
    read(&*repository, &blob, (0, 1)).unwrap();
    std::thread::sleep(Duration::from_millis(1000));
    read(&*repository, &blob, (0, 1)).unwrap();
    let refusals = repository.stats().requests - 2 - tokens(&server) as u64;
    assert_eq!(
        (tokens(&server), refusals),
        (2, 1),
        "no refusal but the first"
    );
}

#[test]
fn one_token_serves_readers_that_come_together() {
    let (server, _address) = token_registry(300, usize::MAX);
    let (_, repository) = open(&client(), &server.reference("app"));
    let blob = Digest::of(&pattern(1000));
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| read(&*repository, &blob, (0, 9)).unwrap());
        }
    });
    assert!(tokens(&server) <= 2, "{}", tokens(&server));
}

#[test]
fn a_registry_that_never_agrees_is_not_asked_for_ever() {
    let (server, _address) = token_registry(300, 0);
    let (_, repository) = open(&client(), &server.reference("app"));
    let error = repository.manifest(&Which::Only).unwrap_err();
    assert!(matches!(error, RegistryError::Denied { .. }), "{error}");
    assert!(server.seen().len() <= 4);
}

#[test]
fn a_token_without_the_right_is_renewed_once() {
    let here = Arc::new(Mutex::new(String::new()));
    let realm = Arc::clone(&here);
    let server = Faulty::start(move |seen| {
        if seen.target.starts_with("/token") {
            return Reply::new(200, format!(r#"{{"token":"t{}"}}"#, seen.nth));
        }
        let realm = format!(r#"Bearer realm="http://{}/token""#, realm.lock().unwrap());
        match (seen.header("authorization"), seen.nth) {
            (None, _) => Reply::new(401, "").header("www-authenticate", realm),
            (Some("Bearer t0"), 2..) => Reply::new(403, "").header("www-authenticate", realm),
            _ => Reply::new(200, MANIFEST),
        }
    });
    *here.lock().unwrap() = server.address.to_string();
    let (_, repository) = open(&client(), &server.reference("app"));
    for _ in 0..3 {
        repository.manifest(&Which::Only).unwrap();
    }
    let sent = server.seen();
    let last = sent.last().unwrap().header("authorization");
    assert_eq!(last, Some("Bearer t1"));
}

#[test]
fn a_password_goes_to_the_token_server_alone() {
    let here = Arc::new(Mutex::new(String::new()));
    let realm = Arc::clone(&here);
    let basic = format!("Basic {}", STANDARD.encode("me:secret"));
    let expected = basic.clone();
    let server = Faulty::start(move |seen| {
        let given = seen.header("authorization");
        if seen.target.starts_with("/token") {
            let good = given == Some(&expected) && seen.target.contains("account=me");
            return Reply::new(if good { 200 } else { 401 }, r#"{"access_token":"good"}"#);
        }
        let realm = format!(r#"Bearer realm="http://{}/token""#, realm.lock().unwrap());
        match given {
            Some("Bearer good") => Reply::new(200, MANIFEST),
            _ => Reply::new(401, "").header("www-authenticate", realm),
        }
    });
    *here.lock().unwrap() = server.address.to_string();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config.json");
    let client = Client::new(Settings {
        docker_config: Some(path),
        ..settings()
    })
    .unwrap();
    let error = client
        .login(&server.address.to_string(), "me", "wrong")
        .unwrap_err();
    assert!(matches!(error, RegistryError::Denied { .. }), "{error}");
    client
        .login(&server.address.to_string(), "me", "secret")
        .unwrap();
    let (_, repository) = open(&client, &server.reference("app"));
    repository.manifest(&Which::Only).unwrap();
    for seen in server.seen() {
        let leaked =
            !seen.target.starts_with("/token") && seen.header("authorization") == Some(&basic);
        assert!(!leaked, "{seen:?}");
    }
}

#[test]
fn a_token_is_for_what_is_done_and_for_no_more() {
    let here = Arc::new(Mutex::new(String::new()));
    let realm = Arc::clone(&here);
    let server = Faulty::start(move |seen| {
        if let Some((_, scope)) = seen.target.split_once("scope=repository%3Aapp%3A") {
            return Reply::new(200, format!(r#"{{"token":"{scope}"}}"#));
        }
        let realm = format!(r#"Bearer realm="http://{}/token""#, realm.lock().unwrap());
        match (seen.header("authorization"), seen.method.as_str()) {
            (None, _) => Reply::new(401, "").header("www-authenticate", realm),
            (_, "PUT") => Reply::new(201, ""),
            (_, "DELETE") => Reply::new(202, ""),
            _ => Reply::new(200, MANIFEST),
        }
    });
    *here.lock().unwrap() = server.address.to_string();
    let (_, repository) = open(&client(), &server.reference("app"));
    let manifest = repository.manifest(&Which::Only).unwrap();
    repository.put_manifest(Some("v1"), &manifest).unwrap();
    repository.delete_manifest(manifest.digest()).unwrap();
    let seen = server.seen();
    let granted = seen.iter().filter_map(|seen| {
        let scope = seen.header("authorization")?.strip_prefix("Bearer ")?;
        Some((seen.method.as_str(), scope))
    });
    let expected = [
        ("GET", "pull"),
        ("PUT", "pull%2Cpush"),
        ("GET", "pull"),
        ("DELETE", "pull%2Cpush%2Cdelete"),
    ];
    assert_eq!(granted.collect::<Vec<_>>(), expected);
}

#[test]
fn an_identity_token_is_exchanged() {
    let here = Arc::new(Mutex::new(String::new()));
    let realm = Arc::clone(&here);
    let server = Faulty::start(move |seen| {
        if seen.target == "/token" {
            let form = String::from_utf8_lossy(&seen.body).into_owned();
            let good = form.contains("grant_type=refresh_token&refresh_token=id%2F1")
                && form.contains("scope=repository%3Aapp%3Apull");
            return Reply::new(if good { 200 } else { 400 }, r#"{"access_token":"good"}"#);
        }
        let realm = format!(
            r#"Bearer realm="http://{}/token",service="s""#,
            realm.lock().unwrap()
        );
        match seen.header("authorization") {
            Some("Bearer good") => Reply::new(200, MANIFEST),
            _ => Reply::new(401, "").header("www-authenticate", realm),
        }
    });
    *here.lock().unwrap() = server.address.to_string();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config.json");
    let text = format!(
        r#"{{"auths":{{"{}":{{"identitytoken":"id/1"}}}}}}"#,
        server.address
    );
    std::fs::write(&path, text).unwrap();
    let client = Client::new(Settings {
        docker_config: Some(path),
        ..settings()
    })
    .unwrap();
    let (_, repository) = open(&client, &server.reference("app"));
    repository.manifest(&Which::Only).unwrap();
}

#[test]
fn busy_registries_are_asked_again_when_they_say() {
    let (server, repository, _) = serving(b"", |seen, _| match seen.nth {
        0 => Reply::new(429, "slow down").header("retry-after", 1),
        1 => Reply::new(503, ""),
        _ => Reply::new(200, MANIFEST),
    });
    let begun = Instant::now();
    repository.manifest(&Which::Only).unwrap();
    assert!(begun.elapsed() >= Duration::from_secs(1));
    assert_eq!(server.seen().len(), 3);
    assert_eq!(server.connections(), 1, "connections are used again");
}

#[test]
fn a_date_to_come_back_at_is_waited_for() {
    let (server, repository, _) = serving(b"", |seen, _| match seen.nth {
        // By the server's clock, which is not ours.
        0 => Reply::new(429, "")
            .header("date", "Sun, 06 Nov 1994 08:49:37 GMT")
            .header("retry-after", "Sun, 06 Nov 1994 08:49:38 GMT"),
        1 => Reply::new(503, "")
            .header("date", "Sun, 06 Nov 1994 08:49:37 GMT")
            .header("retry-after", "Sun, 06 Nov 1994 09:49:37 GMT"),
        _ => Reply::new(200, MANIFEST),
    });
    let begun = Instant::now();
    let error = repository.manifest(&Which::Only).unwrap_err();
    assert!(begun.elapsed() >= Duration::from_secs(1), "not before");
    assert!(
        error.to_string().contains("503"),
        "an hour is too long: {error}"
    );
    assert_eq!(server.seen().len(), 2);
}

#[test]
fn a_pause_beyond_the_deadline_is_not_waited_for() {
    let (_server, repository, blob) = serving(b"x", |_, _| {
        Reply::new(
            429,
            r#"{"errors":[{"code":"TOOMANYREQUESTS","message":"quota"}]}"#,
        )
        .header("retry-after", 3600)
    });
    let begun = Instant::now();
    let error = repository.manifest(&Which::Only).unwrap_err();
    assert!(error.to_string().contains("429"), "{error}");
    assert!(
        error.to_string().contains("TOOMANYREQUESTS quota"),
        "{error}"
    );
    read(&*repository, &blob, (0, 1)).unwrap_err();
    assert!(begun.elapsed() < Duration::from_secs(1));
}

#[test]
fn what_will_not_change_is_not_asked_again() {
    let (server, repository, _) = serving(b"", |_, _| Reply::new(418, "teapot"));
    let error = repository.manifest(&Which::Only).unwrap_err();
    assert!(error.to_string().contains("418"), "{error}");
    assert_eq!(server.seen().len(), 1);
}

#[test]
fn all_of_a_blob_instead_of_a_range_is_coped_with() {
    let blob = pattern(500_000);
    let (_server, repository, digest) = serving(&blob, |_, blob| Reply::new(200, blob));
    assert!(read(&*repository, &digest, (400_000, 1000)).unwrap() == blob[400_000..401_000]);
    let error = read(&*repository, &digest, (499_999, 2)).unwrap_err();
    assert!(matches!(error, SourceError::Truncated { .. }), "{error}");
}

#[test]
fn another_range_than_the_one_asked_for_is_refused() {
    for range in [
        "bytes 0-9/1000",
        "bytes 11-20/1000",
        "bytes 20-10/1000",
        "bytes */1000",
        "x",
    ] {
        let (server, repository, digest) = serving(b"", move |_, _| {
            Reply::new(206, [7; 10]).header("content-range", range)
        });
        let error = read(&*repository, &digest, (10, 10)).unwrap_err();
        assert!(
            matches!(error, SourceError::Failed { .. }),
            "{range}: {error}"
        );
        assert_eq!(server.seen().len(), 1);
    }
    let (_server, repository, digest) = serving(b"", |_, _| Reply::new(206, [7; 10]));
    assert!(read(&*repository, &digest, (10, 10)).is_err());
}

#[test]
fn a_shorter_range_is_completed() {
    let blob = pattern(1000);
    let (server, repository, digest) = serving(&blob, |seen, blob| {
        let (first, last) = seen.range().unwrap();
        let last = last.min(first + 299);
        Reply::new(206, &blob[first..=last])
            .header("content-range", format!("bytes {first}-{last}/1000"))
    });
    assert!(read(&*repository, &digest, (50, 900)).unwrap() == blob[50..950]);
    assert_eq!(server.seen().len(), 3);
}

#[test]
fn a_broken_stream_goes_on_where_it_stopped() {
    let blob = pattern(3_000_000);
    let (server, repository, digest) = serving(&blob, |seen, blob| {
        let reply = seen.serve(blob);
        match seen.nth {
            0 | 2 => reply.reset_after(300_000 + seen.nth * 1000),
            1 | 3 => reply.end_after(300_000 + seen.nth * 1000),
            4 => Reply::new(500, ""),
            _ => reply,
        }
    });
    assert!(stream(&*repository, &digest, blob.len()).unwrap() == blob);
    let seen = server.seen();
    let from: Vec<_> = seen.iter().map(|it| it.range().unwrap().0).collect();
    assert_eq!(from[..3], [0, 300_000, 601_000]);
    assert_eq!(seen.len(), 6);
    // A read that somebody waits for does the same.
    assert!(read(&*repository, &digest, (0, 3_000_000)).unwrap() == blob);
}

#[test]
fn streams_over_a_long_link_are_many_requests_at_once() {
    let blob = pattern(16 << 20);
    let far = Duration::from_millis(100);
    let (server, repository, digest) =
        serving(&blob, move |seen, blob| match seen.header("range") {
            // One in the middle breaks off.
            Some(range) if range.starts_with("bytes=8388608-") => {
                seen.serve(blob).after(far).reset_after(1000)
            }
            _ => seen.serve(blob).after(far),
        });
    read(&*repository, &digest, (0, 1)).unwrap();
    assert!(stream(&*repository, &digest, blob.len()).unwrap() == blob);
    let connections = server.connections();
    assert!((2..=6).contains(&connections), "{connections}");
    // One that knows no ranges is not asked for all of it again and again.
    let (server, repository, digest) =
        serving(&blob, move |_, blob| Reply::new(200, blob).after(far));
    read(&*repository, &digest, (0, 1)).unwrap();
    assert!(stream(&*repository, &digest, blob.len()).unwrap() == blob);
    assert_eq!(server.seen().len(), 3);
    // One that is near has one request.
    let (server, repository, digest) = serving(&blob, |seen, blob| seen.serve(blob));
    for _ in 0..3 {
        read(&*repository, &digest, (0, 1)).unwrap();
    }
    assert!(stream(&*repository, &digest, blob.len()).unwrap() == blob);
    assert_eq!(server.seen().len(), 4);
}

/// How many requests are being answered.
#[derive(Default)]
struct InFlight {
    now: Mutex<(usize, usize)>,
    changed: Condvar,
}

impl InFlight {
    /// Returns when there were `wanted` at once, or would have been by now.
    fn wait_for(&self, wanted: usize) {
        let mut now = self.now.lock().unwrap();
        now.0 += 1;
        now.1 = now.1.max(now.0);
        self.changed.notify_all();
        let waited = self
            .changed
            .wait_timeout_while(now, Duration::from_secs(2), |now| now.1 < wanted);
        waited.unwrap().0.0 -= 1;
    }

    fn most(&self) -> usize {
        self.now.lock().unwrap().1
    }
}

#[test]
fn over_a_fast_and_long_link_more_is_asked_for_than_where_the_rate_is_unknown() {
    const UNKNOWN: usize = 2;
    let blob = pattern(16 << 20);
    for far in [20, 100].map(Duration::from_millis) {
        let in_flight = Arc::<InFlight>::default();
        let counted = Arc::clone(&in_flight);
        let (server, _, digest) = serving(&blob, move |seen, blob| {
            match seen.range() {
                // The first segment comes alone, and what lies before it is no stream.
                Some((first, _)) if first >= 2 << 20 => counted.wait_for(UNKNOWN + 1),
                _ => std::thread::sleep(far),
            }
            seen.serve(blob)
        });
        // Nobody loses patience and asks again while answers wait for each other.
        let patient = Settings {
            request_timeout: Duration::from_secs(60),
            ..settings()
        };
        let (_, repository) = open(&Client::new(patient).unwrap(), &server.reference("app"));
        read(&*repository, &digest, (0, 16 << 20)).unwrap();
        assert!(stream(&*repository, &digest, blob.len()).unwrap() == blob);
        let most = in_flight.most();
        assert!((UNKNOWN + 1..=4).contains(&most), "{far:?}: {most}");
    }
}

#[test]
fn over_a_slow_link_one_request_is_enough_however_long_it_is() {
    let blob = pattern(16 << 20);
    for far in [20, 100].map(Duration::from_millis) {
        let (server, repository, digest) = serving(&blob, move |seen, blob| {
            let reply = seen.serve(blob).after(far);
            match seen.nth {
                // 1.6 MB/s, which is less than the segment of a stream in a round trip.
                0 => reply.trickling(16 << 10, Duration::from_millis(10)),
                _ => reply,
            }
        });
        read(&*repository, &digest, (0, 640 << 10)).unwrap();
        assert!(stream(&*repository, &digest, blob.len()).unwrap() == blob);
        assert_eq!(server.seen().len(), 2, "{far:?}");
    }
}

#[test]
fn a_stream_that_does_not_move_is_an_error_and_no_end() {
    let blob = pattern(1000);
    let (server, repository, digest) = serving(&blob, |seen, blob| seen.serve(blob).reset_after(0));
    let error = stream(&*repository, &digest, blob.len()).unwrap_err();
    let source = error
        .get_ref()
        .and_then(|it| it.downcast_ref::<SourceError>());
    assert!(source.is_some(), "{error:?}");
    assert!(server.seen().len() <= 12);
}

#[test]
fn a_body_that_ends_early_is_no_blob() {
    let blob = pattern(1000);
    let (_server, repository, digest) = serving(&blob, |_, blob| {
        Reply::new(200, &blob[..500]).without_length()
    });
    let error = repository
        .blob(&Descriptor::new("x", digest, 1000), 1000)
        .unwrap_err();
    assert!(
        matches!(error, RegistryError::Truncated { got: 500, .. }),
        "{error}"
    );
    let error = repository
        .blob(&Descriptor::new("x", digest, 400), 1000)
        .unwrap_err();
    assert!(matches!(error, RegistryError::Mismatch { .. }), "{error}");
}

#[test]
fn a_deadline_is_a_deadline() {
    let blob = pattern(1000);
    let slow = |seen: &Seen, blob: &[u8]| match seen.target.ends_with("latest") {
        true => seen.serve(blob).after(Duration::from_secs(30)),
        false => seen.serve(blob).stall_after(10),
    };
    let (_server, repository, digest) = serving(&blob, slow);
    let begun = Instant::now();
    let deadline = begun + Duration::from_millis(700);
    let extent = Extent {
        offset: 0,
        len: 1000,
    };
    let error = repository
        .read_at(&digest, extent, Some(deadline))
        .unwrap_err();
    assert!(matches!(error, SourceError::TimedOut { .. }), "{error}");
    let took = begun.elapsed();
    assert!((600..1200).contains(&took.as_millis()), "{took:?}");

    let client = Client::new(Settings {
        request_timeout: Duration::from_millis(200),
        deadline: Duration::from_secs(1),
        ..settings()
    })
    .unwrap();
    let (_, repository) = open(&client, &_server.reference("app"));
    let begun = Instant::now();
    let error = repository.manifest(&Which::Only).unwrap_err();
    assert!(matches!(error, RegistryError::TimedOut { .. }), "{error}");
    assert!(begun.elapsed() < Duration::from_millis(1500));
    let error = stream(&*repository, &digest, 1000).unwrap_err();
    assert!(error.to_string().contains("within 0.2 s"), "{error}");
}

#[test]
fn credentials_do_not_follow_a_redirect() {
    let blob = pattern(10_000);
    let stored = blob.clone();
    let store = Faulty::start(move |seen| match seen.header("authorization") {
        Some(_) => Reply::new(400, "Only one auth mechanism allowed"),
        // Its address expires after two reads.
        None if seen.nth >= 2 => Reply::new(403, "AccessDenied: Request has expired"),
        None => seen.serve(&stored),
    });
    let target = store.address;
    let expected = format!("Basic {}", STANDARD.encode("me:secret"));
    let server = Faulty::start(move |seen| match seen.header("authorization") {
        Some(given) if given == expected => {
            let signed = format!("http://{target}/blob?signature={}", seen.nth);
            Reply::new(307, "").header("location", signed)
        }
        _ => Reply::new(401, "").header("www-authenticate", "Basic realm=x"),
    });
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config.json");
    let auth = STANDARD.encode("me:secret");
    let text = format!(
        r#"{{"auths":{{"{}":{{"auth":"{auth}"}}}}}}"#,
        server.address
    );
    std::fs::write(&path, text).unwrap();
    let client = Client::new(Settings {
        docker_config: Some(path),
        ..settings()
    })
    .unwrap();
    let (_, repository) = open(&client, &server.reference("app"));
    let digest = Digest::of(&blob);
    for number in 0..5 {
        let got = read(&*repository, &digest, (number * 1000, 1000)).unwrap();
        let first = usize::try_from(number).unwrap() * 1000;
        assert!(got == blob[first..first + 1000]);
    }
    assert!(
        store
            .seen()
            .iter()
            .all(|seen| seen.header("authorization").is_none())
    );
    assert_eq!(
        server.seen().len(),
        1 + 3,
        "a refusal, and an address for each two reads"
    );
    assert!(store.seen().iter().all(|seen| seen.range().is_some()));
}

/// What changes under a stream while it is read: its connection breaks, and by then the token and
/// the address in the blob store that it was begun with are good no more.
#[test]
fn a_stream_outlives_its_token_and_its_address() {
    let blob = pattern(2_000_000);
    let stored = blob.clone();
    let store = Faulty::start(move |seen| match (seen.target.as_str(), seen.nth) {
        ("/blob?key=0", 0) => seen.serve(&stored).reset_after(400_000),
        ("/blob?key=0", _) => Reply::new(403, "Request has expired"),
        _ => seen.serve(&stored),
    });
    let target = store.address;
    let here = Arc::new(Mutex::new(String::new()));
    let realm = Arc::clone(&here);
    let server = Faulty::start(move |seen| {
        if seen.target.starts_with("/token") {
            return Reply::new(200, format!(r#"{{"token":"t{}"}}"#, seen.nth));
        }
        let realm = format!(r#"Bearer realm="http://{}/token""#, realm.lock().unwrap());
        let signed = |number: usize| {
            Reply::new(307, "").header("location", format!("http://{target}/blob?key={number}"))
        };
        match (seen.header("authorization"), seen.nth) {
            // It is refused from the second time on.
            (Some("Bearer t0"), 1) => signed(0),
            (Some("Bearer t1"), _) => signed(1),
            _ => Reply::new(401, "").header("www-authenticate", realm),
        }
    });
    *here.lock().unwrap() = server.address.to_string();
    let (_, repository) = open(&client(), &server.reference("app"));
    let digest = Digest::of(&blob);
    assert!(stream(&*repository, &digest, blob.len()).unwrap() == blob);
    assert_eq!(tokens(&server), 2);
    let asked: Vec<_> = store
        .seen()
        .iter()
        .map(|seen| (seen.target.clone(), seen.range().unwrap().0))
        .collect();
    let expected = [
        ("/blob?key=0".to_owned(), 0),
        ("/blob?key=0".to_owned(), 400_000),
        ("/blob?key=1".to_owned(), 400_000),
    ];
    assert_eq!(asked, expected);
}

#[test]
fn an_address_that_is_refused_at_once_is_asked_for_again() {
    let blob = pattern(1000);
    let stored = blob.clone();
    let store = Faulty::start(move |seen| match seen.target.as_str() {
        "/blob?key=2" => seen.serve(&stored),
        _ => Reply::new(403, "Request has expired"),
    });
    let target = store.address;
    let (server, repository, digest) = serving(&blob, move |seen, _| {
        Reply::new(307, "").header("location", format!("http://{target}/blob?key={}", seen.nth))
    });
    assert!(read(&*repository, &digest, (0, 1000)).unwrap() == blob);
    assert_eq!(server.seen().len(), 3);
}

#[test]
fn what_is_not_there_is_asked_for_once() {
    let blob = pattern(1000);
    let (server, repository, digest) = serving(&blob, |_, _| Reply::new(404, ""));
    let error = read(&*repository, &digest, (0, 10)).unwrap_err();
    assert!(matches!(error, SourceError::NotFound { .. }), "{error}");
    assert_eq!(server.seen().len(), 1);
    let (server, repository, digest) = serving(&blob, |_, _| Reply::new(416, ""));
    let error = read(&*repository, &digest, (0, 10)).unwrap_err();
    assert!(matches!(error, SourceError::Truncated { .. }), "{error}");
    assert_eq!(server.seen().len(), 1);
}

#[test]
fn redirects_end_and_stay_with_http() {
    let (server, repository, blob) = serving(b"", |_, _| {
        Reply::new(302, "").header("location", "/v2/again")
    });
    assert!(read(&*repository, &blob, (0, 1)).is_err());
    assert!(server.seen().len() <= 6);
    let (_server, repository, blob) = serving(b"", |_, _| {
        Reply::new(302, "").header("location", "file:///etc/passwd")
    });
    let error = read(&*repository, &blob, (0, 1)).unwrap_err();
    assert!(error.to_string().contains("leaves https"), "{error}");
}

#[test]
fn what_is_too_large_is_not_read() {
    let huge = vec![b' '; 9 << 20];
    let (_server, repository, _) = serving(&huge, |seen, huge| match seen.nth {
        0 => Reply::new(200, huge),
        _ => Reply::new(200, huge).without_length(),
    });
    for _ in 0..2 {
        let error = repository.manifest(&Which::Only).unwrap_err();
        assert!(matches!(error, RegistryError::TooLarge { .. }), "{error}");
    }
    assert!(repository.stats().bytes < 9 << 20);
    let mut large = MANIFEST.as_bytes().to_vec();
    large.resize(5 << 20, b' ');
    let (_server, repository, _) = serving(&large, |_, large| Reply::new(200, large));
    let error = repository.manifest(&Which::Only).unwrap_err();
    assert!(
        matches!(error, RegistryError::TooLarge { .. }),
        "an image is no index: {error}"
    );
}

#[test]
fn a_manifest_is_what_its_digest_says() {
    let (_server, repository, _) = serving(b"", |seen, _| {
        let reply = Reply::new(200, MANIFEST);
        match seen.target.ends_with("lying") {
            true => reply.header("docker-content-digest", Digest::of(b"other")),
            false => reply.header("docker-content-digest", Digest::of(MANIFEST.as_bytes())),
        }
    });
    for which in [
        Which::Digest(Digest::of(b"other")),
        Which::Tag("lying".into()),
    ] {
        let error = repository.manifest(&which).unwrap_err();
        assert!(matches!(error, RegistryError::Mismatch { .. }), "{error}");
    }
    let right = Which::Digest(Digest::of(MANIFEST.as_bytes()));
    assert_eq!(
        repository.manifest(&right).unwrap().media_type(),
        media::MANIFEST
    );
    for outside in ["../../../x", "a?b", "a/%2e%2e"] {
        assert!(
            repository.manifest(&Which::Tag(outside.into())).is_err(),
            "{outside}"
        );
    }
}

#[test]
fn the_referrers_api_is_used_where_there_is_one() {
    let subject = Digest::of(b"image");
    let entry = |name: &str, kind: &str| {
        let mut entry = Descriptor::of(media::MANIFEST, name.as_bytes());
        entry.artifact_type = Some(kind.into());
        serde_json::to_string(&entry).unwrap()
    };
    let one = entry("one", media::ACCELERATION);
    let other = entry("other", "application/x");
    let two = entry("two", media::ACCELERATION);
    let page = move |entries: &str| {
        let kind = media::INDEX;
        format!(r#"{{"schemaVersion":2,"mediaType":"{kind}","manifests":[{entries}]}}"#)
    };
    let server = Faulty::start(move |seen| {
        let plain = seen.target.split('?').next().unwrap_or_default();
        match (seen.method.as_str(), plain) {
            ("PUT", _) => Reply::new(201, "").header("oci-subject", subject),
            (_, path) if path.contains("/referrers/") && seen.target.contains("last=1") => {
                Reply::new(200, page(&two))
            }
            (_, path) if path.contains("/referrers/") => {
                // It does not filter.
                Reply::new(200, page(&format!("{one},{other}")))
                    .header("link", format!(r#"<{path}?last=1>; rel="next""#))
            }
            _ => Reply::new(404, ""),
        }
    });
    let client = client();
    let (_, repository) = open(&client, &server.reference("app"));
    for round in 0..2 {
        let list = repository
            .referrers(&subject, &[media::ACCELERATION])
            .unwrap();
        let digests: Vec<_> = list.iter().map(|it| it.digest).collect();
        assert_eq!(
            digests,
            [Digest::of(b"one"), Digest::of(b"two")],
            "round {round}"
        );
    }
    let tags = server
        .seen()
        .iter()
        .filter(|it| it.target.contains("/manifests/"))
        .count();
    assert_eq!(tags, 1, "the tag is asked for the first time only");

    let subject = Descriptor::new(media::MANIFEST, subject, 5);
    let content = thaw_registry::ManifestContent::artifact(media::ACCELERATION, subject, vec![]);
    let artifact = Manifest::parse(content.to_bytes(), None).unwrap();
    let before = server.seen().len();
    repository.add_referrer(&artifact).unwrap();
    assert_eq!(
        server.seen().len() - before,
        1,
        "the registry enters it itself"
    );
}

#[test]
fn a_registry_that_is_down_is_said_to_be() {
    let address = Faulty::start(|_| Reply::new(200, "")).address;
    let client = Client::new(Settings {
        deadline: Duration::from_secs(1),
        ..settings()
    })
    .unwrap();
    let (_, repository) = open(&client, &format!("{address}/app"));
    let error = repository.manifest(&Which::Only).unwrap_err();
    let text = error.to_string();
    assert!(
        text.starts_with(&format!("cannot reach {address}/app for manifest latest: ")),
        "{text}"
    );
}
