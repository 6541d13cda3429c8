//! Layers whose paths are far longer than they are themselves take no more memory for it.

#![allow(clippy::unwrap_used, reason = "a test that fails says where")]

mod common;
#[path = "../../testkit/memory.rs"]
mod memory;

use common::{Here, load};
use thaw_accelerate::{prepare, unpack};
use thaw_image::Silent;
use thaw_layer::Options;
use thaw_testkit::image::{Entry, Image, Layer};

/// Links that lead through each other, as many as a path may lead through, and names in each: as many
/// as fit into a link.
const LINKS: usize = 39;
const NAMES: usize = 15;
/// Directories at their end. Each has a path of 150,000 bytes: 300 MB together.
const DIRECTORIES: usize = 2000;
/// Of which there are less than 1 MiB of names. Threads, buffers and tables of a layer take some MiB.
const LIMIT: u64 = 64 << 20;

/// Directories so deep that no tar could name them but by links.
fn deep() -> Layer {
    let mut entries = vec![Entry::directory("./"), Entry::file("f", "f")];
    for link in 0..LINKS {
        let before = link.checked_sub(1).map(|it| format!("l{it}/"));
        let names = ["x".repeat(255).as_str()].repeat(NAMES).join("/");
        let target = before.unwrap_or_default() + &names;
        entries.push(Entry::symlink(format!("l{link}"), target));
    }
    let last = LINKS - 1;
    let directories = (0..DIRECTORIES).map(|it| Entry::directory(format!("l{last}/{it:04}")));
    entries.extend(directories);
    Layer::new(entries)
}

/// Of the peak that a test of all crates has, nothing is left when this begins: it is the only one here.
#[test]
fn long_paths_take_no_memory() {
    // The upper layer needs the lower one's file: what is looked for there is its path.
    let image = Image::new([deep(), Layer::new([Entry::hard_link("g", "f")])]);
    let (loaded, here) = (load(&image), Here::new(true));
    let options = Options::default();
    let start = memory::begin();
    prepare(&loaded.layers, &loaded.source, &here, &options, &Silent).unwrap();
    let merged = memory::peak() - start;
    assert!(merged < LIMIT, "a merge took {merged} bytes");
    let found = unpack(&loaded.layers, &loaded.source, &here, &options, &Silent).unwrap();
    assert!(!found.is_empty());
    let compared = memory::peak() - start;
    assert!(compared < LIMIT, "a comparison took {compared} bytes");
}
