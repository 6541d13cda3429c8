//! The link has the rate and the delay that it is said to have.
#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use thaw_image::Digest;
use thaw_testkit::http;
use thaw_testkit::image::{Compression, Image, Layer};
use thaw_testkit::net::{Link, Namespace, Shape};
use thaw_testkit::registry::{Options, Registry};
use thaw_testkit::scratch;

const LIMIT: Duration = Duration::from_secs(30);

#[test]
fn a_registry_behind_a_gigabit() {
    let namespace = Namespace::new().unwrap();
    let link = Link::new(&namespace, Shape::GIGABIT).unwrap();
    let registry = Registry::start_with(&Options {
        address: format!("{}:5000", link.far()),
        namespace: Some(namespace.path()),
        ..Options::default()
    })
    .unwrap();
    // Two round trips: one for the connection, one for the request.
    let mut trips: Vec<Duration> = (0..20)
        .map(|_| {
            let start = Instant::now();
            assert_eq!(
                http::get(registry.host(), "/v2/", LIMIT).unwrap().status,
                200
            );
            start.elapsed()
        })
        .collect();
    trips.sort();
    let trip = trips[10] / 2;
    println!("round trip {trip:?}");
    assert!(trip >= Duration::from_millis(2), "{trip:?}");
    assert!(trip < Duration::from_millis(40), "{trip:?}");

    let bytes: Vec<u8> = (0..12u32 << 20)
        .map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()[2])
        .collect();
    let digest = Digest::of(&bytes);
    let directory = scratch::directory().unwrap();
    let image = Image::new([Layer::from_bytes(bytes.clone()).compression(Compression::None)]);
    image
        .write(directory.path(), "t")
        .unwrap()
        .push(&registry, "data:1")
        .unwrap();
    let before = link.received();
    let start = Instant::now();
    let path = format!("/v2/data/blobs/{digest}");
    let answer = http::get(registry.host(), &path, LIMIT).unwrap();
    let took = start.elapsed();
    let moved = link.received() - before;
    assert_eq!(Digest::of(&answer.body), digest);
    println!("{} bytes in {took:?}, {moved} on the wire", bytes.len());
    // Never faster than the wire; frames cost six percent and no more than a few are sent twice.
    assert!(
        took.as_secs_f64() > bytes.len() as f64 * 8.0 / 1e9,
        "{took:?}"
    );
    assert!(
        moved > bytes.len() as u64 && moved < bytes.len() as u64 * 12 / 10,
        "{moved}"
    );
}
