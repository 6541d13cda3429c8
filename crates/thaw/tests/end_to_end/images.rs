//! How an image is named, and where it comes from.

use std::path::Path;

use thaw_testkit::image::{Compression, write_index};
use thaw_testkit::registry::{Options, PASSWORD, Registry, USER};
use thaw_testkit::scratch;
use thaw_testkit::thaw::Thaw;

use crate::support::{Scene, busybox, image, json, refused, run, stdout, thaw};

const MESSAGE: &str = "read from the second layer\n";

#[test]
fn an_image_that_is_here_needs_no_registry() {
    let Scene {
        registry, image, ..
    } = Scene::new();
    let node = thaw();
    node.run(["pull", &image]).unwrap();
    drop(registry);
    let output = node.run(["run", "--rm", "--net", "none", &image]).unwrap();
    assert_eq!(output, "read from the second layer\n");
    let said = node
        .output(["run", "--rm", "--refresh", "--net", "none", &image])
        .unwrap();
    assert_eq!(said.status.code(), Some(125));
    let said = String::from_utf8_lossy(&said.stderr).into_owned();
    assert!(said.contains("cannot reach"), "{said}");
}

#[test]
fn a_layout_directory_is_an_image_too() {
    let directory = scratch::directory().unwrap();
    let layout = busybox(&directory.path().join("layout"));
    let image = format!("oci:{}:latest", layout.directory().display());
    thaw().run(["accelerate", &image]).unwrap();
    let node = thaw();
    let said = node
        .run(["run", "--rm", "--net", "none", "--pull", "lazy", &image])
        .unwrap();
    assert_eq!(said, "read from the second layer\n");
}

#[test]
fn a_pinned_digest_takes_no_stranger_s_word() {
    let scene = Scene::accelerated();
    let name = scene.image.rsplit_once(':').unwrap().0;
    let pinned = format!("{name}@{}", scene.layout.digest());
    let node = thaw();
    let error = node
        .run(["run", "--rm", "--pull", "lazy", &pinned])
        .unwrap_err()
        .to_string();
    assert!(error.contains("pinned digest"), "{error}");
    let said = node.run(["inspect", "--json", &pinned]).unwrap();
    assert_eq!(json(&said)["way"]["how"], "full", "{said}");
}

#[test]
fn every_form_of_a_name_finds_the_image() {
    let scene = Scene::accelerated();
    let repository = scene.image.rsplit_once(':').unwrap().0;
    let digest = scene.layout.digest();
    let names = [
        scene.image.clone(),
        format!("{repository}@{digest}"),
        format!("{}@{digest}", scene.image),
        format!("oci:{}", scene.layout.directory().display()),
        scene.layout.reference(),
    ];
    for name in names {
        let node = thaw();
        let facts = json(&node.run(["inspect", "--json", &name]).unwrap());
        assert_eq!(facts["manifest"], digest.to_string(), "{name}");
        assert_eq!(stdout(&run(&node, &[], &name, &[])), MESSAGE, "{name}");
    }
    let other = format!("{}@sha256:{}", scene.image, "0".repeat(64));
    let (code, said) = refused(&thaw(), &["pull", &other]);
    assert_eq!(code, 125);
    assert!(said.contains("has no manifest sha256:000"), "{said}");
}

#[test]
fn an_index_gives_the_image_of_the_wanted_platform() {
    let registry = Registry::start().unwrap();
    let directory = scratch::directory().unwrap();
    let here = image(Compression::Gzip(6));
    let there = here.clone().config("Cmd", vec!["/bin/elsewhere"]);
    let (own, other) = match std::env::consts::ARCH {
        "aarch64" => ("arm64", "amd64"),
        _ => ("amd64", "arm64"),
    };
    let images = [(own, here), (other, there)];
    let layout = write_index(&directory.path().join("index"), "latest", &images).unwrap();
    let name = layout.push(&registry, "multi:1").unwrap();
    let node = thaw();
    let platform = format!("linux/{other}");
    node.run(["accelerate", &name]).unwrap();
    let second = node.run(["accelerate", "--json", "--platform", &platform, &name]);
    let second = json(&second.unwrap());
    let node = thaw();
    assert_eq!(
        stdout(&run(&node, &["--pull", "lazy"], &name, &[])),
        MESSAGE
    );
    let facts = node.run(["inspect", "--json", "--platform", &platform, &name]);
    let facts = json(&facts.unwrap());
    assert_eq!(facts["platform"], *platform);
    assert_eq!(facts["command"][0], "/bin/elsewhere");
    assert_eq!(
        facts["way"]["how"], "lazy",
        "one acceleration for each platform"
    );
    assert_eq!(facts["acceleration"]["manifest"], second[0]["acceleration"]);
    let (_, said) = refused(&node, &["pull", "--platform", "linux/s390x", &name]);
    assert!(
        said.contains("has no image for linux/s390x; it has linux/"),
        "{said}"
    );
}

#[test]
fn docker_s_own_manifests_are_images_too() {
    let registry = Registry::start().unwrap();
    let directory = scratch::directory().unwrap();
    let image = image(Compression::Gzip(6)).docker();
    let layout = image
        .write(&directory.path().join("docker"), "latest")
        .unwrap();
    let name = layout.push(&registry, "docker:2").unwrap();
    thaw().run(["accelerate", &name]).unwrap();
    let node = thaw();
    assert_eq!(
        stdout(&run(&node, &["--pull", "lazy"], &name, &[])),
        MESSAGE
    );
}

/// A registry that has the busybox image, and asks for a password.
fn guarded() -> (Registry, String, tempfile::TempDir) {
    let open = Registry::start().unwrap();
    let directory = scratch::directory().unwrap();
    let layout = busybox(&directory.path().join("layout"));
    layout.push(&open, "busybox:1").unwrap();
    let storage = directory.path().join("storage");
    std::fs::rename(open.storage(), &storage).unwrap();
    let registry = Registry::start_with(&Options {
        storage: Some(storage),
        password: true,
        ..Options::default()
    });
    let registry = registry.unwrap();
    let image = format!("{}/busybox:1", registry.host());
    (registry, image, directory)
}

#[test]
fn credentials_are_docker_s() {
    let (registry, image, directory) = guarded();
    let docker = directory.path().join("docker");
    let login = |node: &Thaw, password: &str| {
        let mut command = node.command(["login", "-u", USER, "--password-stdin", registry.host()]);
        let input = directory.path().join("password");
        std::fs::write(&input, format!("{password}\n")).unwrap();
        command.env("DOCKER_CONFIG", &docker);
        command.stdin(std::fs::File::open(input).unwrap());
        command.output().unwrap()
    };
    let pull = |node: &Thaw| {
        let mut command = node.command(["pull", "--json", &image]);
        command.env("DOCKER_CONFIG", &docker).output().unwrap()
    };
    let node = thaw();
    let said = pull(&node);
    assert_eq!(said.status.code(), Some(125));
    let said = String::from_utf8_lossy(&said.stderr).into_owned();
    assert!(
        said.contains(&format!("run `thaw login {}`", registry.host())),
        "{said}"
    );
    let said = login(&node, "wrong");
    assert_eq!(said.status.code(), Some(125));
    let said = String::from_utf8_lossy(&said.stderr).into_owned();
    assert!(said.contains("check user and password"), "{said}");
    assert!(!docker.exists());

    assert!(login(&node, PASSWORD).status.success());
    assert_eq!(json(&stdout(&pull(&node)))["already_here"], false);
    // What Docker wrote is as good as what we did: another node, which never logged in.
    assert_eq!(json(&stdout(&pull(&thaw())))["already_here"], false);
    let mode = |path: &Path| {
        use std::os::unix::fs::PermissionsExt;
        std::fs::metadata(path).unwrap().permissions().mode() & 0o777
    };
    assert_eq!(mode(&docker.join("config.json")), 0o600);
}

/// Another name of the loopback address, which is not taken for one.
fn no_loopback(image: &str) -> String {
    image.replace("127.0.0.1", "[::ffff:127.0.0.1]")
}

#[test]
fn plain_http_is_spoken_where_the_user_says_so() {
    let scene = Scene::new();
    let image = no_loopback(&scene.image);
    let host = image.split('/').next().unwrap();
    let node = thaw();
    let (_, said) = refused(&node, &["pull", &image]);
    assert!(said.contains("--plain-http"), "{said}");
    assert!(node.daemon().is_some(), "the next command finds a daemon");
    node.run(["pull", "--plain-http", host, &image]).unwrap();

    let configured = thaw();
    let file = scratch::directory().unwrap();
    let path = file.path().join("thaw.toml");
    std::fs::write(&path, format!("plain-http = [\"{host}\"]\n")).unwrap();
    let path = path.to_str().unwrap();
    configured.run(["--config", path, "pull", &image]).unwrap();
}

/// A store, and a configuration file for it.
fn configured(text: &str) -> (Thaw, tempfile::TempDir, String) {
    let (node, dir) = (thaw(), scratch::directory().unwrap());
    let path = dir.path().join("thaw.toml");
    std::fs::write(&path, text).unwrap();
    let path = path.to_str().unwrap().to_owned();
    (node, dir, path)
}

#[test]
fn a_registry_is_reached_as_its_table_says() {
    let scene = Scene::new();
    let image = no_loopback(&scene.image);
    let host = image.split('/').next().unwrap();
    let (node, _dir, file) = configured(&format!("[registry.\"{host}\"]\nplain-http = true\n"));
    node.run(["--config", &file, "pull", &image]).unwrap();

    for (table, named) in [
        ("ca = [\"none.pem\"]", "none.pem"),
        ("client-cert = \"c.pem\"", "without client-key"),
        ("certificate = \"c.pem\"", "certificate"),
    ] {
        let (node, _dir, file) = configured(&format!("[registry.\"{host}\"]\n{table}\n"));
        let (_, said) = refused(&node, &["--config", &file, "pull", &image]);
        assert!(said.contains(named), "{said}");
    }
}

#[test]
fn the_environment_names_proxies() {
    let scene = Scene::new();
    let name = scene.image.split_once('/').unwrap().1;
    // A name that only the proxy knows; a registry passes on to itself.
    let image = format!("registry.invalid/{name}");
    let args = ["pull", "--plain-http", "registry.invalid", &image];
    for variable in ["http_proxy", "HTTP_PROXY"] {
        let node = thaw();
        let output = node
            .command(args)
            .env(variable, format!("http://{}", scene.registry.host()))
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
    }
}
