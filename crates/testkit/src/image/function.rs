//! An image of a function: one static program, made by rustc of a file in this crate, and a large file
//! beside it that the program does not read by itself.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::{Compression, Entry, Image, Layer};

/// The program.
const SOURCE: &str = include_str!("function/program.rs");

/// Makes the program, or takes the one that was made before, below `cache`.
///
/// # Errors
/// Those of rustc.
pub fn program(cache: &Path) -> Result<PathBuf> {
    let digest = thaw_image::Digest::of(SOURCE.as_bytes()).hex();
    let path = cache.join(format!("function-{}", &digest[..12]));
    if path.exists() {
        return Ok(path);
    }
    std::fs::create_dir_all(cache)?;
    let made = tempfile::tempdir_in(cache)?;
    let source = made.path().join("program.rs");
    std::fs::write(&source, SOURCE)?;
    let program = made.path().join("program");
    let output = Command::new(std::env::var_os("RUSTC").unwrap_or("rustc".into()))
        .args([
            "--edition",
            "2024",
            "-O",
            "-C",
            "target-feature=+crt-static",
            "-o",
        ])
        .args([&program, &source])
        .output()
        .context("rustc cannot be run")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "the function does not compile: {said}"
    );
    std::fs::rename(program, &path)?;
    Ok(path)
}

/// An image whose entrypoint is the program; `megabytes` of noise at `/srv/data`.
///
/// # Errors
/// As [`program`].
pub fn image(cache: &Path, megabytes: u32) -> Result<Image> {
    let program = std::fs::read(program(cache)?)?;
    let noise: Vec<u8> = (0..megabytes << 18)
        .flat_map(|i| i.wrapping_mul(0x9e37_79b9).to_be_bytes())
        .collect();
    let base = Layer::new([
        Entry::directory("./"),
        Entry::directory("tmp").mode(0o1777),
        Entry::file("function", program).mode(0o755),
    ]);
    let data = Layer::new([
        Entry::directory("./"),
        Entry::directory("srv"),
        Entry::file("srv/data", noise),
    ]);
    let layers = [base, data].map(|layer| layer.compression(Compression::Gzip(6)));
    Ok(Image::new(layers).config("Entrypoint", serde_json::json!(["/function"])))
}
