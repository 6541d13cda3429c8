//! Real images, built from Debian and PyPI packages as a Dockerfile would: a Debian base, the
//! Python packages, the program. What a program reads when it starts cannot be made up.
//!
//! An image is built once, in a few minutes, and kept in the cache directory under the digest of
//! its recipe. Every version is pinned, times are fixed, and bytecode is compiled into the layer,
//! so that two builds differ only by what Debian has updated.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use thaw_image::Digest;

use super::{Entry, Image, Layer, Layout};
use crate::{process, scratch};

const SUITE: &str = "bookworm";
/// Python of that suite.
const PYTHON: &str = "3.11";
const SITE: &str = "usr/local/lib/python3.11/dist-packages";
const TAG: &str = "latest";
/// Time of every file that the build makes: 2025-01-01.
const TIME: i64 = 1_735_689_600;
/// Raised when the steps below change what comes out.
const VERSION: u32 = 1;

struct Recipe {
    name: &'static str,
    packages: &'static [&'static str],
    program: &'static str,
}

const WEB: Recipe = Recipe {
    name: "web",
    packages: &[
        "annotated-doc==0.0.7",
        "annotated-types==0.8.0",
        "anyio==4.16.0",
        "certifi==2026.10.18",
        "charset-normalizer==3.5.2",
        "click==8.5.1",
        "fastapi==0.165.0",
        "h11==0.16.0",
        "idna==3.20",
        "jinja2==3.1.6",
        "markupsafe==3.0.4",
        "opentelemetry-api==1.45.2",
        "pydantic==2.14.3",
        "pydantic-core==2.50.4",
        "requests==2.34.2",
        "starlette==1.10.0",
        "typing-extensions==4.16.0",
        "typing-inspection==0.4.5",
        "urllib3==2.8.0",
        "uvicorn==0.54.0",
    ],
    program: include_str!("real/web.py"),
};

const MACHINE_LEARNING: Recipe = Recipe {
    name: "ml",
    packages: &[
        "absl-py==2.5.1",
        "astunparse==1.6.3",
        "certifi==2026.10.18",
        "charset-normalizer==3.5.2",
        "flatbuffers==25.12.19",
        "gast==0.7.0",
        "google-pasta==0.2.0",
        "grpcio==1.85.1",
        "h5py==3.14.0",
        "idna==3.20",
        "keras==3.15.1",
        "libclang==18.1.1",
        "markdown==3.11.3",
        "markdown-it-py==4.3.0",
        "markupsafe==3.0.4",
        "mdurl==0.1.2",
        "ml-dtypes==0.5.1",
        "namex==0.1.0",
        "numpy==2.1.3",
        "opt-einsum==3.4.0",
        "optree==0.16.0",
        "packaging==26.3",
        "protobuf==5.29.6",
        "pygments==2.21.0",
        "requests==2.34.2",
        "rich==15.0.0",
        "setuptools==84.2.1",
        "six==1.17.0",
        "tensorboard==2.19.0",
        "tensorboard-data-server==0.7.2",
        "tensorflow==2.19.1",
        "tensorflow-io-gcs-filesystem==0.37.1",
        "termcolor==3.3.0",
        "typing-extensions==4.16.0",
        "urllib3==2.8.0",
        "werkzeug==3.1.9",
        "wheel==0.48.0",
        "wrapt==2.5.2",
    ],
    program: include_str!("real/ml.py"),
};

/// Where real images are kept when nobody says otherwise: `target/images`.
#[must_use]
pub fn cache_directory() -> PathBuf {
    scratch::target_directory().join("images")
}

/// A small web service on Python. It listens on `$PORT` (8080) and answers `GET /` with 200.
///
/// # Errors
/// When a package cannot be fetched or a tool is missing; the error names it. Needs root.
pub fn web_service(cache: &Path) -> Result<Layout> {
    WEB.get(cache)
}

/// A TensorFlow program, over 500 MB compressed. It imports TensorFlow, runs a tiny model, listens
/// on `$PORT` (8080) and answers `GET /` with 200.
///
/// # Errors
/// As [`web_service`].
pub fn machine_learning(cache: &Path) -> Result<Layout> {
    MACHINE_LEARNING.get(cache)
}

impl Recipe {
    fn key(&self) -> String {
        let recipe = [&[SUITE, self.program], self.packages].concat().join("\n");
        Digest::of(format!("{VERSION}\n{recipe}").as_bytes()).hex()[..12].to_owned()
    }

    /// From the cache, or built into it. Two builders may race: the last one to finish wins, with
    /// the same image.
    fn get(&self, cache: &Path) -> Result<Layout> {
        let directory = cache.join(format!("{}-{}", self.name, self.key()));
        if directory.is_dir() {
            return Layout::open(&directory, TAG);
        }
        std::fs::create_dir_all(cache)
            .with_context(|| format!("cannot create {}", cache.display()))?;
        let start = Instant::now();
        let work = tempfile::Builder::new()
            .prefix(".build")
            .tempdir_in(cache)?;
        self.build(cache, work.path())
            .with_context(|| format!("cannot build the image {}", self.name))?;
        if std::fs::rename(work.path().join("layout"), &directory).is_err() {
            ensure!(directory.is_dir(), "cannot create {}", directory.display());
        }
        say(
            self.name,
            &format!("built in {} s", start.elapsed().as_secs()),
        );
        Layout::open(&directory, TAG)
    }

    fn build(&self, cache: &Path, work: &Path) -> Result<()> {
        let base = base(cache)?;
        let root = work.join("root");
        std::fs::create_dir(&root)?;
        process::run(
            Command::new("tar")
                .args(["--extract", "--numeric-owner", "--preserve-permissions"])
                .arg("--directory")
                .arg(&root)
                .arg("--file")
                .arg(&base),
        )?;
        say(
            self.name,
            &format!("{} packages from PyPI", self.packages.len()),
        );
        self.install(&root)?;
        let packages = work.join("packages.tar");
        archive(&root, &packages)?;
        say(self.name, "compressing layers");
        self.image(&base, &packages)
            .write(&work.join("layout"), TAG)?;
        Ok(())
    }

    /// Installs for the image's Python, not for this machine's, and compiles with the image's.
    fn install(&self, root: &Path) -> Result<()> {
        let site = root.join(SITE);
        let arch = std::env::consts::ARCH;
        let mut pip = Command::new("pip3");
        pip.args([
            "install",
            "--quiet",
            "--no-deps",
            "--no-compile",
            "--no-cache-dir",
        ])
        .args([
            "--only-binary=:all:",
            "--implementation=cp",
            "--python-version",
            PYTHON,
        ])
        .args(["--platform", &format!("manylinux_2_17_{arch}")])
        .args(["--platform", &format!("manylinux2014_{arch}")])
        .args(["--root-user-action=ignore", "--disable-pip-version-check"])
        .arg("--target")
        .arg(&site)
        .args(self.packages);
        process::run(&mut pip)?;
        // Bytecode carries its source's time, so the times come first.
        let time = format!("--date=@{TIME}");
        process::run(
            Command::new("find")
                .arg(&site)
                .args(["-exec", "touch", "-h", &time, "{}", "+"]),
        )?;
        // Fails where a package carries templates that are no Python; the rest is compiled.
        Command::new("chroot")
            .arg(root)
            .args([
                "python3",
                "-m",
                "compileall",
                "-q",
                "--invalidation-mode=timestamp",
            ])
            .arg(format!("/{SITE}"))
            .env_remove("SOURCE_DATE_EPOCH")
            .output()
            .context("cannot start chroot")?;
        Ok(())
    }

    fn image(&self, base: &Path, packages: &Path) -> Image {
        let program = [
            Entry::directory("app").time(TIME, 0),
            Entry::file("app/main.py", self.program).time(TIME, 0),
        ];
        let layers = [
            Layer::from_file(base),
            Layer::from_file(packages),
            Layer::new(program),
        ];
        let path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
        Image::new(layers)
            .config("Env", vec![format!("PATH={path}"), "PORT=8080".into()])
            .config("Entrypoint", vec!["python3", "/app/main.py"])
            .config("WorkingDir", "/app")
            .config("ExposedPorts", serde_json::json!({ "8080/tcp": {} }))
    }
}

/// The tar of a minimal Debian with Python, without what Docker's slim images leave out. All
/// images of a cache share it.
fn base(cache: &Path) -> Result<PathBuf> {
    let path = cache.join(format!("base-{SUITE}-{VERSION}.tar"));
    if path.is_file() {
        return Ok(path);
    }
    say("base", "Debian packages, by mmdebstrap");
    let work = tempfile::Builder::new().prefix(".base").tempdir_in(cache)?;
    let tar = work.path().join("base.tar");
    let excluded = ["doc", "man", "info", "locale", "groff", "lintian", "linda"];
    let excluded = excluded.map(|name| format!("path-exclude=/usr/share/{name}/*"));
    process::run(
        Command::new("mmdebstrap")
            .args(["--quiet", "--variant=minbase", "--include=python3"])
            .args(excluded.map(|option| format!("--dpkgopt={option}")))
            .arg(SUITE)
            .arg(&tar)
            .env("SOURCE_DATE_EPOCH", TIME.to_string()),
    )?;
    std::fs::rename(&tar, &path)?;
    Ok(path)
}

fn archive(root: &Path, tar: &Path) -> Result<()> {
    process::run(
        Command::new("tar")
            .args([
                "--create",
                "--sort=name",
                "--numeric-owner",
                "--owner=0",
                "--group=0",
            ])
            .args(["--format=pax", "--pax-option=delete=atime,delete=ctime"])
            .arg(format!("--mtime=@{TIME}"))
            .arg("--directory")
            .arg(root)
            .arg("--file")
            .arg(tar)
            .arg(SITE),
    )?;
    Ok(())
}

fn say(name: &str, what: &str) {
    eprintln!("image {name}: {what}");
}
