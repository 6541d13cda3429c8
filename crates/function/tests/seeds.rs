//! The fuzz targets of the crate take what they begin with, and what is near it.
#![allow(clippy::unwrap_used)]

#[path = "../fuzz/targets/configuration.rs"]
mod configuration;
#[path = "../fuzz/corpus.rs"]
#[allow(dead_code, reason = "it is a program too")]
mod corpus;
#[path = "../fuzz/targets/notification.rs"]
mod notification;
#[path = "../fuzz/targets/routing.rs"]
mod routing;
#[path = "../fuzz/targets/schedule.rs"]
mod schedule;
#[path = "../../testkit/seeds.rs"]
mod seeds;
#[path = "../fuzz/targets/signature.rs"]
mod signature;
#[path = "../fuzz/targets/template.rs"]
mod template;

use seeds::{Target, hold};

#[test]
fn every_seed_holds() {
    let target = |name, body: fn(&[u8]), mutations| Target {
        name,
        body,
        mutations,
    };
    let targets = [
        target("configuration", configuration::run, 1000),
        target("notification", notification::run, 1000),
        target("routing", routing::run, 1000),
        target("schedule", schedule::run, 100),
        target("signature", signature::run, 200),
        target("template", template::run, 300),
    ];
    let corpus = corpus::inputs().unwrap();
    hold(env!("CARGO_MANIFEST_DIR"), &corpus, &targets);
}
