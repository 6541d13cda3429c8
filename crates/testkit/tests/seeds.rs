//! What runs the fuzz targets' bodies sees when one panics or does not come back.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::thread;
use std::time::Duration;

#[path = "../seeds.rs"]
mod seeds;

use seeds::{LIMIT, Target, hold, run};

/// Enough for a body that does nothing, on a machine that has other work.
const SHORT: Duration = Duration::from_secs(1);

/// The memory is the whole program's, and the tests here run beside each other.
const ANY: u64 = u64::MAX;

fn inputs() -> Vec<(String, Vec<u8>)> {
    let input = |name: &str, bytes: &[u8]| (name.to_owned(), bytes.to_vec());
    vec![
        input("empty", b""),
        input("one", b"one"),
        input("long", &[7; 9000]),
    ]
}

fn target(body: fn(&[u8])) -> Target {
    Target {
        name: "target",
        body,
        mutations: 30,
    }
}

#[test]
fn a_body_that_does_not_come_back_is_left() {
    let slow = Target {
        mutations: 0,
        ..target(|data| {
            if data == b"one" {
                thread::sleep(2 * SHORT);
            }
        })
    };
    let failure = run(&slow, inputs(), SHORT, ANY).unwrap_err();
    let wanted = "took more than 1s at mutation 0 of one: b\"one\"";
    assert_eq!(failure, wanted);
    assert_eq!(run(&slow, inputs(), LIMIT, ANY), Ok(()));
}

#[test]
fn a_body_that_panics_is_named() {
    let failure = run(
        &target(|data| assert!(data != b"one")),
        inputs(),
        LIMIT,
        ANY,
    );
    let wanted = "panicked at mutation 0 of one: b\"one\"";
    assert_eq!(failure.unwrap_err(), wanted);
}

#[test]
fn mutations_differ_and_are_the_same_each_time() {
    static SEEN: Mutex<Vec<Vec<u8>>> = Mutex::new(Vec::new());
    let seen = || {
        let look = target(|data| SEEN.lock().unwrap().push(data.to_vec()));
        run(&look, inputs(), LIMIT, ANY).unwrap();
        std::mem::take(&mut *SEEN.lock().unwrap())
    };
    let all = seen();
    assert_eq!(all.len(), 3 * 31);
    assert_eq!(seen(), all);
    let distinct: BTreeSet<_> = all[31..].iter().collect();
    assert!(distinct.len() > 40, "{}", distinct.len());
    assert!(all.iter().skip(63).all(|data| data.len() <= 8192));
}

#[test]
#[should_panic(expected = "targets of the test and of fuzz_targets/")]
fn a_target_that_no_test_has_is_missed() {
    let image = concat!(env!("CARGO_MANIFEST_DIR"), "/../image");
    hold(image, &[], &[]);
}
