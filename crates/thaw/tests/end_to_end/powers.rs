//! What an image brings has no power: device nodes and setuid files, on the host and in containers.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use thaw_testkit::image::{Compression, Entry, Layer};
use thaw_testkit::registry::Registry;
use thaw_testkit::scratch;

use crate::support::{image, run, thaw};

const NOBODY: u32 = 65534;
/// The kernel's log, which no container is to read.
const KMSG: (u32, u32) = (1, 11);

/// The image of the other tests with a device node and a setuid program.
struct Scene {
    _registry: Registry,
    image: String,
}

impl Scene {
    fn new() -> Self {
        let registry = Registry::start().unwrap();
        let directory = scratch::directory().unwrap();
        let (major, minor) = KMSG;
        let image = image(Compression::None).layer(Layer::new([
            Entry::char_device("srv/kmsg", major, minor).mode(0o666),
            Entry::file("srv/id", fs::read("/usr/bin/id").unwrap()).mode(0o4755),
        ]));
        let layout = image.write(&directory.path().join("layout"), "latest");
        let image = layout.unwrap().push(&registry, "powers:1").unwrap();
        thaw().run(["accelerate", &image]).unwrap();
        Self {
            _registry: registry,
            image,
        }
    }
}

/// What a setuid program says who it is, when nobody in particular starts it.
fn who(program: &Path) -> String {
    let setpriv = Command::new("setpriv")
        .args([format!("--reuid={NOBODY}"), "--clear-groups".to_owned()])
        .arg(program)
        .arg("-u")
        .output()
        .unwrap();
    String::from_utf8(setpriv.stdout).unwrap().trim().to_owned()
}

#[test]
fn an_image_s_devices_and_setuid_files_have_no_power_on_the_host() {
    let scene = Scene::new();
    // A directory that everybody reaches, which the tests' own is not.
    let directory = tempfile::tempdir_in("/var/tmp").unwrap();
    fs::set_permissions(directory.path(), Permissions::from_mode(0o755)).unwrap();
    let (copy, node) = (directory.path().join("id"), directory.path().join("kmsg"));
    fs::copy("/usr/bin/id", &copy).unwrap();
    fs::set_permissions(&copy, Permissions::from_mode(0o4755)).unwrap();
    let (major, minor) = KMSG;
    let made = Command::new("mknod")
        .arg(&node)
        .args(["c", &major.to_string(), &minor.to_string()])
        .status();
    assert!(made.unwrap().success());
    assert_eq!(who(&copy), "0", "outside of an image it has that power");
    File::open(&node).unwrap();

    for transport in ["auto", "directories"] {
        let thaw = thaw();
        let root = directory.path().join(transport);
        fs::create_dir(&root).unwrap();
        let target = root.to_str().unwrap();
        let mount = ["mount", "--transport", transport, &scene.image, target];
        thaw.run(mount).unwrap();
        assert_eq!(who(&root.join("srv/id")), NOBODY.to_string(), "{transport}");
        let error = File::open(root.join("srv/kmsg")).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied, "{transport}");
        thaw.run(["unmount", target]).unwrap();
    }
}

#[test]
fn an_image_s_device_cannot_be_opened_in_a_container() {
    let scene = Scene::new();
    let thaw = thaw();
    for runtime in ["crun", "runc"] {
        let flags = ["--runtime", runtime];
        let output = run(&thaw, &flags, &scene.image, &["cat", "/srv/kmsg"]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(
            said.contains("Operation not permitted"),
            "{runtime}: {said}"
        );
        assert!(!output.status.success(), "{runtime}");
    }
}
