//! The fuzz targets of the crate take what they begin with, and what is near it.
#![allow(clippy::unwrap_used)]

#[path = "../fuzz/corpus.rs"]
#[allow(dead_code, reason = "it is a program too")]
mod corpus;
#[path = "../fuzz/targets/decode.rs"]
mod decode;
#[path = "../fuzz/targets/file.rs"]
mod file;
#[path = "../fuzz/targets/index.rs"]
mod index;
#[path = "../fuzz/targets/inflate.rs"]
mod inflate;
#[path = "../../testkit/seeds.rs"]
mod seeds;
#[path = "../fuzz/targets/tar.rs"]
mod tar;
#[path = "../fuzz/targets/zlib.rs"]
mod zlib;
#[path = "../fuzz/targets/zstd.rs"]
mod zstd_frames;

use seeds::{Target, hold};

#[test]
fn every_seed_holds() {
    let targets = [
        Target {
            name: "decode",
            body: decode::run,
            mutations: 100,
        },
        Target {
            name: "index",
            body: index::run,
            mutations: 5,
        },
        Target {
            name: "inflate",
            body: inflate::run,
            mutations: 60,
        },
        Target {
            name: "tar",
            body: tar::run,
            mutations: 300,
        },
        Target {
            name: "zstd",
            body: zstd_frames::run,
            mutations: 30,
        },
    ];
    let corpus = corpus::inputs().unwrap();
    hold(env!("CARGO_MANIFEST_DIR"), &corpus, &targets);
}
