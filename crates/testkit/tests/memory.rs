//! What runs the fuzz targets' bodies sees when one takes much memory. Memory is that of the whole program, so this is alone in it.
#![allow(clippy::unwrap_used)]

use std::sync::Mutex;

#[path = "../seeds.rs"]
#[allow(dead_code, reason = "what bounds memory is a part of it")]
mod seeds;

use seeds::{LIMIT, Target, run};

fn inputs() -> Vec<(String, Vec<u8>)> {
    let input = |name: &str| (name.to_owned(), name.as_bytes().to_vec());
    ["small", "large"].map(input).into()
}

fn target(body: fn(&[u8])) -> Target {
    Target {
        name: "target",
        body,
        mutations: 30,
    }
}

#[test]
fn a_body_that_takes_too_much_memory_is_named() {
    /// It stays, whichever of the tests forgets the peak.
    static TAKEN: Mutex<Vec<u8>> = Mutex::new(Vec::new());
    let large = target(|data| {
        if data == b"large" {
            *TAKEN.lock().unwrap() = vec![1; 64 << 20];
        }
    });
    let failure = run(&large, inputs(), LIMIT, 32 << 20).unwrap_err();
    assert!(failure.starts_with("took 6"), "{failure}");
    let named = " MiB of memory at mutation 0 of large: b\"large\"";
    assert!(failure.ends_with(named), "{failure}");
    // What was there before an input's target is none of it.
    assert_eq!(run(&target(|_| ()), inputs(), LIMIT, 32 << 20), Ok(()));
}
