//! Real clients of Function Compute's API, as their users install them: from PyPI and npm, by name and
//! version, into a cache directory under the digest of what is in it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use thaw_image::Digest;

use crate::process;

/// The SDKs, and all that they need.
const PYTHON: &[&str] = &[
    "aiofiles==24.1.0",
    "aiohappyeyeballs==2.7.1",
    "aiohttp==3.14.5",
    "aiosignal==1.4.0",
    "alibabacloud-credentials==1.0.12",
    "alibabacloud-credentials-api==1.0.1",
    "alibabacloud-endpoint-util==0.0.4",
    "alibabacloud-fc-open20210406==2.0.12",
    "alibabacloud-fc20230330==4.8.3",
    "alibabacloud-gateway-fc-util==0.0.5",
    "alibabacloud-gateway-spi==0.0.4",
    "alibabacloud-openapi-util==0.2.4",
    "alibabacloud-tea==0.4.3",
    "alibabacloud-tea-openapi==0.4.6",
    "alibabacloud-tea-util==0.3.15",
    "aliyun-fc2==2.5.2",
    "apscheduler==3.11.3",
    "attrs==26.1.0",
    "certifi==2026.10.18",
    "cffi==2.1.1",
    "charset-normalizer==3.5.2",
    "cryptography==50.0.2",
    "darabonba-core==1.0.9",
    "frozenlist==1.8.0",
    "idna==3.20",
    "multidict==7.2.1",
    "propcache==0.5.4",
    "pycparser==3.12",
    "requests==2.34.2",
    "typing-extensions==4.16.0",
    "tzlocal==5.4.5",
    "urllib3==2.8.0",
    "websocket-client==1.9.2",
    "yarl==1.25.1",
];

/// The SDK, and Funcraft.
const NODE: &[&str] = &["@alicloud/fc2@2.6.6", "@alicloud/fun@3.6.24"];
/// What those need is what there was then.
const NODE_BEFORE: &str = "2026-11-20";

/// A directory for `PYTHONPATH`, with the SDKs of 2016 (`fc2`), 2021 and 2023.
///
/// # Errors
/// When a package cannot be fetched, or `pip3` is missing; the error names it.
pub fn python(cache: &Path) -> Result<PathBuf> {
    get(cache, "python-clients", &PYTHON.join("\n"), |directory| {
        let mut pip = Command::new("pip3");
        pip.args(["install", "--quiet", "--no-deps", "--no-cache-dir"])
            .args(["--root-user-action=ignore", "--disable-pip-version-check"])
            .arg("--target")
            .arg(directory)
            .args(PYTHON);
        process::run(&mut pip).map(drop)
    })
}

/// A directory with a `node_modules`: `@alicloud/fc2`, and `fun` at `.bin/fun`.
///
/// # Errors
/// When a package cannot be fetched, or `npm` is missing; the error names it.
pub fn node(cache: &Path) -> Result<PathBuf> {
    let recipe = [NODE, &[NODE_BEFORE]].concat().join("\n");
    get(cache, "node-clients", &recipe, |directory| {
        std::fs::create_dir_all(directory)?;
        std::fs::write(directory.join("package.json"), r#"{ "private": true }"#)?;
        let mut npm = Command::new("npm");
        npm.args(["install", "--ignore-scripts", "--no-audit", "--no-fund"])
            .args(["--loglevel=error", "--before", NODE_BEFORE])
            .args(NODE)
            .current_dir(directory);
        process::run(&mut npm).map(drop)
    })
}

/// Whoever installs: the tests of one process wait for each other rather than do it twice.
static INSTALLING: Mutex<()> = Mutex::new(());

/// From the cache, or made into it. Two processes may race: the last one to finish wins, with the same.
fn get(
    cache: &Path,
    name: &str,
    recipe: &str,
    make: impl FnOnce(&Path) -> Result<()>,
) -> Result<PathBuf> {
    let _alone = INSTALLING.lock().unwrap_or_else(PoisonError::into_inner);
    let key = &Digest::of(recipe.as_bytes()).hex()[..12];
    let directory = cache.join(format!("{name}-{key}"));
    if directory.is_dir() {
        return Ok(directory);
    }
    std::fs::create_dir_all(cache).with_context(|| format!("cannot create {}", cache.display()))?;
    let start = Instant::now();
    let work = tempfile::Builder::new()
        .prefix(".clients")
        .tempdir_in(cache)?;
    let made = work.path().join("made");
    make(&made).with_context(|| format!("cannot install {name}"))?;
    if std::fs::rename(&made, &directory).is_err() {
        ensure!(directory.is_dir(), "cannot create {}", directory.display());
    }
    eprintln!("{name}: installed in {} s", start.elapsed().as_secs());
    Ok(directory)
}
