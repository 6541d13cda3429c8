//! Writes the images that `cargo xtask guest` starts, as layout directories: one that runs, and those
//! that try rules of merging.

#![allow(clippy::unwrap_used, reason = "a tool of the tests")]

use std::path::PathBuf;

use anyhow::{Context, Result};
use thaw_testkit::image::{Entry, Image, Layer, cases, function, real};

fn main() -> Result<()> {
    let dir: PathBuf = std::env::args_os().nth(1).context("where to?")?.into();
    let program = std::fs::read("/bin/busybox").context("busybox-static is needed")?;
    let tools = ["sh", "cat", "sleep"].map(|name| Entry::symlink(format!("bin/{name}"), "busybox"));
    let base = Layer::new(
        [
            Entry::directory("./"),
            Entry::directory("bin"),
            Entry::file("bin/busybox", program).mode(0o755),
            Entry::directory("srv"),
        ]
        .into_iter()
        .chain(tools),
    );
    let data = Layer::new([Entry::file("srv/message", "read from the second layer\n")]);
    let image = Image::new([base, data])
        .config("Env", serde_json::json!(["PATH=/bin"]))
        .config("Cmd", serde_json::json!(["cat", "/srv/message"]));
    image.write(&dir.join("busybox"), "latest")?;
    let function = function::image(&real::cache_directory(), 1)?;
    function.write(&dir.join("function"), "latest")?;
    for case in cases::all() {
        case.image.write(&dir.join(case.name), "latest")?;
    }
    Ok(())
}
