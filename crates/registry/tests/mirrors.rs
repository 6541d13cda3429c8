//! Mirrors that have things, do not have them, fail, hang and lie.

#![allow(clippy::unwrap_used, reason = "a test ends where its support does")]

mod support;

use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SocketType};
use support::faulty::{Faulty, Reply, Seen};
use support::{open, pattern, settings};
use thaw_image::{Digest, Extent, SourceError, media};
use thaw_registry::{
    Client, Descriptor, RegistryError, RegistrySettings, Repository, Settings, Which,
};

/// A blob that everybody has, unless the test says otherwise.
fn blob() -> Vec<u8> {
    pattern(300_000)
}

fn serving(handler: impl Fn(&Seen, &[u8]) -> Reply + Send + Sync + 'static) -> Faulty {
    let blob = blob();
    Faulty::start(move |seen| handler(seen, &blob))
}

fn honest() -> Faulty {
    serving(|seen, blob| seen.serve(blob))
}

/// The repository `team/app` of `origin`, with its mirrors.
fn mirrored(origin: &str, mirrors: &[String]) -> Arc<dyn Repository> {
    let own = RegistrySettings {
        mirrors: mirrors.to_vec(),
        ..RegistrySettings::default()
    };
    let client = Client::new(Settings {
        registries: [(origin.to_owned(), own)].into(),
        ..settings()
    });
    open(&client.unwrap(), &format!("{origin}/team/app")).1
}

fn repository(origin: &Faulty, mirrors: &[&Faulty]) -> Arc<dyn Repository> {
    let mirrors: Vec<_> = mirrors.iter().map(|it| it.address.to_string()).collect();
    mirrored(&origin.address.to_string(), &mirrors)
}

fn read(repository: &dyn Repository, offset: u64, len: u64) -> Result<Vec<u8>, SourceError> {
    let deadline = Instant::now() + Duration::from_secs(5);
    repository.read_at(&Digest::of(&blob()), Extent { offset, len }, Some(deadline))
}

fn reads(repository: &dyn Repository, offset: u64) {
    let from = usize::try_from(offset).unwrap();
    assert!(read(repository, offset, 1000).unwrap() == blob()[from..from + 1000]);
}

fn asked(servers: &[&Faulty]) -> Vec<usize> {
    servers.iter().map(|server| server.seen().len()).collect()
}

/// An address where nobody listens.
fn nobody() -> String {
    // Bound as long as the tests run, so that no other server gets its port, and nobody listens.
    static TAKEN: Mutex<Vec<OwnedFd>> = Mutex::new(Vec::new());
    let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    rustix::net::bind(&socket, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = rustix::net::getsockname(&socket).unwrap();
    let address = SocketAddr::try_from(address).unwrap().to_string();
    TAKEN.lock().unwrap().push(socket);
    address
}

#[test]
fn mirrors_are_asked_in_order_and_the_registry_at_last() {
    let lacking = || serving(|_, _| Reply::new(404, ""));
    let (first, second, origin) = (lacking(), honest(), honest());
    let both = repository(&origin, &[&first, &second]);
    reads(&*both, 10);
    assert_eq!(asked(&[&first, &second, &origin]), [1, 1, 0]);
    // Not to have a thing is no failure: it is asked for the next.
    reads(&*both, 20);
    assert_eq!(asked(&[&first, &second, &origin]), [2, 2, 0]);
    let one = repository(&origin, &[&first]);
    reads(&*one, 30);
    assert_eq!(asked(&[&first, &second, &origin]), [3, 2, 1]);
}

#[test]
fn a_mirror_may_have_repositories_below_a_name() {
    let (mirror, origin) = (honest(), honest());
    let place = format!("{}/cache/hub", mirror.address);
    let repository = mirrored(&origin.address.to_string(), &[place]);
    reads(&*repository, 10);
    let target = mirror.seen()[0].target.clone();
    let expected = format!("/v2/cache/hub/team/app/blobs/{}", Digest::of(&blob()));
    assert_eq!(target, expected);
    assert_eq!(repository.name(), format!("{}/team/app", origin.address));
    assert_eq!(repository.host(), origin.address.to_string());
    for bad in ["https://mirror", "mirror/..", "mirror/a?b"] {
        let own = RegistrySettings {
            mirrors: vec![bad.into()],
            ..RegistrySettings::default()
        };
        let settings = Settings {
            registries: [("a.example".to_owned(), own)].into(),
            ..settings()
        };
        assert!(Client::new(settings).is_err(), "{bad}");
    }
}

#[test]
fn a_mirror_that_fails_is_left_alone() {
    for status in [401, 403, 500, 503] {
        let mirror = serving(move |_, _| Reply::new(status, ""));
        let origin = honest();
        let repository = repository(&origin, &[&mirror]);
        reads(&*repository, 10);
        let once = asked(&[&mirror]);
        assert!(once[0] <= 2, "{status}: {once:?}");
        reads(&*repository, 20);
        assert_eq!(asked(&[&mirror]), once, "{status}");
        assert_eq!(asked(&[&origin]), [2]);
    }
    let origin = honest();
    let repository = mirrored(&origin.address.to_string(), &[nobody()]);
    reads(&*repository, 10);
    assert_eq!(asked(&[&origin]), [1]);
}

#[test]
fn whole_blobs_do_not_wait_for_a_mirror_that_fails() {
    let whole = Descriptor::of("x", &blob());
    // Long enough for two tries of a mirror, and too short for more than a few.
    let asks = |repository: Arc<dyn Repository>| {
        let soon = Instant::now() + Duration::from_secs(5);
        repository.until(soon).blob(&whole, 1 << 20)
    };
    let (mirror, origin) = (serving(|_, _| Reply::new(503, "")), honest());
    assert!(asks(repository(&origin, &[&mirror])).unwrap() == blob());
    let asked = asked(&[&mirror, &origin]);
    assert!(asked[0] <= 2 && asked[1] == 1, "{asked:?}");
    let refusing = mirrored(&origin.address.to_string(), &[nobody()]);
    assert!(asks(refusing).unwrap() == blob());
}

#[test]
fn nobody_waits_until_a_mirror_wants_to_be_asked_again() {
    let mirror = serving(|_, _| Reply::new(429, "").header("retry-after", 2));
    let (origin, whole) = (honest(), Descriptor::of("x", &blob()));
    for whole in [None, Some(whole)] {
        let (repository, before) = (repository(&origin, &[&mirror]), asked(&[&mirror]));
        match whole {
            Some(whole) => assert!(repository.blob(&whole, 1 << 20).unwrap() == blob()),
            None => reads(&*repository, 10),
        }
        reads(&*repository, 20);
        assert_eq!(asked(&[&mirror]), [before[0] + 1], "once, and left alone");
    }
    assert_eq!(asked(&[&origin]), [4]);
}

#[test]
fn a_mirror_that_hangs_leaves_time_for_the_registry() {
    let mirror = serving(|seen, blob| seen.serve(blob).stall_after(10));
    let origin = honest();
    let repository = repository(&origin, &[&mirror]);
    let deadline = Instant::now() + Duration::from_secs(4);
    let extent = Extent {
        offset: 0,
        len: 1000,
    };
    let got = repository.read_at(&Digest::of(&blob()), extent, Some(deadline));
    assert!(got.unwrap() == blob()[..1000]);
    let from = origin.seen()[0].range().unwrap().0;
    assert_eq!(from, 10, "it goes on where the mirror has stopped");
}

#[test]
fn a_stream_that_a_mirror_breaks_off_goes_on_elsewhere() {
    let mirror = serving(|seen, blob| match seen.nth {
        0 => seen.serve(blob).reset_after(100_000),
        _ => Reply::new(500, ""),
    });
    let origin = honest();
    let repository = repository(&origin, &[&mirror]);
    let extent = Extent {
        offset: 0,
        len: 300_000,
    };
    let mut all = Vec::new();
    let mut stream = repository.stream(&Digest::of(&blob()), extent).unwrap();
    stream.read_to_end(&mut all).unwrap();
    assert!(all == blob());
    assert_eq!(origin.seen()[0].range().unwrap().0, 100_000);
}

#[test]
fn a_mirror_that_rests_is_asked_where_the_registry_is_gone() {
    let well = Arc::new(AtomicBool::new(false));
    let state = Arc::clone(&well);
    let mirror = serving(move |seen, blob| match state.load(Ordering::SeqCst) {
        true => seen.serve(blob),
        false => Reply::new(503, ""),
    });
    let gone = nobody();
    let repository = mirrored(&gone, &[mirror.address.to_string()]);
    let deadline = Instant::now() + Duration::from_millis(500);
    let extent = Extent { offset: 0, len: 10 };
    let error = repository.read_at(&Digest::of(&blob()), extent, Some(deadline));
    let error = error.unwrap_err().to_string();
    assert!(error.contains(&gone), "the registry's own error: {error}");
    well.store(true, Ordering::SeqCst);
    reads(&*repository, 10);
}

#[test]
fn a_read_waits_for_whoever_comes_back_first() {
    let mirror = serving(|seen, blob| match seen.nth {
        0..5 => Reply::new(503, ""),
        _ => seen.serve(blob),
    });
    let repository = mirrored(&nobody(), &[mirror.address.to_string()]);
    reads(&*repository, 10);
}

#[test]
fn wrong_bytes_of_a_mirror_are_not_believed() {
    let lying = || {
        serving(|seen, blob| {
            let wrong: Vec<u8> = blob.iter().map(|byte| !byte).collect();
            seen.serve(&wrong)
        })
    };
    let (mirror, origin) = (lying(), honest());
    let whole = Descriptor::of("x", &blob());
    let first = repository(&origin, &[&mirror]);
    assert!(first.blob(&whole, 1 << 20).unwrap() == blob());
    reads(&*first, 10);
    assert_eq!(asked(&[&mirror, &origin]), [1, 2], "and it is left alone");
    // Who checks ranges says so.
    let second = repository(&origin, &[&mirror]);
    assert!(read(&*second, 0, 10).unwrap() != blob()[..10]);
    assert!(second.distrust(), "there is somebody else to ask");
    reads(&*second, 0);
    let alone = repository(&origin, &[]);
    assert!(!alone.distrust(), "there is nobody else");
}

const MANIFEST: &str = r#"{"schemaVersion":2,"config":{"digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a","size":2},"layers":[]}"#;

#[test]
fn manifests_and_referrers_are_found_wherever_they_are() {
    let subject = Digest::of(b"image");
    let entry = {
        let mut entry = Descriptor::of(media::MANIFEST, b"acceleration");
        entry.artifact_type = Some(media::ACCELERATION.into());
        serde_json::to_string(&entry).unwrap()
    };
    let list = move |entries: &str| {
        let kind = media::INDEX;
        format!(r#"{{"schemaVersion":2,"mediaType":"{kind}","manifests":[{entries}]}}"#)
    };
    let empty = list("");
    let mirror = Faulty::start(move |seen| match seen.target.contains("/referrers/") {
        true => Reply::new(200, &empty),
        false if seen.target.ends_with("latest") => Reply::new(200, MANIFEST),
        false => Reply::new(404, ""),
    });
    let full = list(&entry);
    let origin = Faulty::start(move |seen| match seen.target.contains("/referrers/") {
        true => Reply::new(200, &full),
        false if seen.method == "PUT" => Reply::new(201, ""),
        false => Reply::new(404, ""),
    });
    let repository = repository(&origin, &[&mirror]);
    let manifest = repository.manifest(&Which::Tag("latest".into())).unwrap();
    assert_eq!(asked(&[&mirror, &origin]), [1, 0]);
    let found = repository
        .referrers(&subject, &[media::ACCELERATION])
        .unwrap();
    assert_eq!(found.len(), 1, "the mirror has none");
    repository.put_manifest(Some("new"), &manifest).unwrap();
    assert!(mirror.seen().iter().all(|seen| seen.method == "GET"));
    let error = repository
        .manifest(&Which::Tag("other".into()))
        .unwrap_err();
    assert!(matches!(error, RegistryError::NotFound { .. }), "{error}");
    // Where the registry is gone, a mirror without referrers is answer enough.
    let alone = mirrored(&nobody(), &[mirror.address.to_string()]);
    let none = alone.referrers(&subject, &[media::ACCELERATION]).unwrap();
    assert!(none.is_empty());
}
