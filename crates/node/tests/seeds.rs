//! The fuzz targets of the crate take what they begin with, and what is near it.
#![allow(clippy::unwrap_used)]

#[path = "../fuzz/targets/accounts.rs"]
mod accounts;
#[path = "../fuzz/corpus.rs"]
#[allow(dead_code, reason = "it is a program too")]
mod corpus;
#[path = "../fuzz/targets/image.rs"]
mod image;
#[path = "../../testkit/seeds.rs"]
mod seeds;

use seeds::{Target, hold};

#[test]
fn every_seed_holds() {
    let targets = [
        Target {
            name: "accounts",
            body: accounts::run,
            mutations: 300,
        },
        Target {
            name: "image",
            body: image::run,
            mutations: 300,
        },
    ];
    let corpus = corpus::inputs().unwrap();
    hold(env!("CARGO_MANIFEST_DIR"), &corpus, &targets);
}
