//! The fuzz targets of the crate take what they begin with, and what is near it.
#![allow(clippy::unwrap_used)]

#[path = "../fuzz/corpus.rs"]
#[allow(dead_code, reason = "it is a program too")]
mod corpus;
#[path = "../fuzz/targets/document.rs"]
mod document;
#[path = "../fuzz/targets/headers.rs"]
mod headers;
#[path = "../../testkit/seeds.rs"]
mod seeds;

use seeds::{Target, hold};

#[test]
fn every_seed_holds() {
    let targets = [
        Target {
            name: "document",
            body: document::run,
            mutations: 300,
        },
        Target {
            name: "headers",
            body: headers::run,
            mutations: 300,
        },
    ];
    let corpus = corpus::inputs().unwrap();
    hold(env!("CARGO_MANIFEST_DIR"), &corpus, &targets);
}
