//! The virtual machine: an initramfs that loads modules and goes to the disk, and qemu.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::{fresh, output};
use crate::command::{self, find};
use crate::guest::kernel::Kernel;

/// How long a guest may take, and one that is emulated.
const LIMIT: Duration = Duration::from_secs(120);
const EMULATED_LIMIT: Duration = Duration::from_secs(900);

const INIT: &str = "#!/busybox sh
/busybox mount -t proc proc /proc
/busybox mount -t devtmpfs dev /dev
for module in /modules/*; do /busybox insmod $module || echo \"cannot load $module\"; done
/busybox mount -t ext4 /dev/vda /disk || /busybox poweroff -f
/busybox umount /proc
exec /busybox switch_root /disk ${guest_init:-/init}
";

/// What boots.
pub(super) struct Guest<'a> {
    pub(super) kernel: &'a Kernel,
    pub(super) disk: &'a Path,
    /// Where everything of guests is kept.
    pub(super) dir: &'a Path,
}

impl Guest<'_> {
    /// Boots a guest with these arguments for the kernel, and holds what it says against what it
    /// must say. What it said is kept under `name`.
    pub(super) fn boot<T>(
        &self,
        name: &str,
        arguments: &str,
        check: impl FnOnce(&str) -> Result<T>,
    ) -> Result<T> {
        let version = &self.kernel.version;
        let console = self.dir.join(format!("console-{version}-{name}"));
        let said = boot(self, arguments, &console)?;
        check(&said).with_context(|| format!("Linux {version}: see {}", console.display()))
    }
}

/// Boots a guest, waits for its end, and gives what it printed.
fn boot(guest: &Guest<'_>, arguments: &str, console: &Path) -> Result<String> {
    let Guest { kernel, disk, dir } = guest;
    let initramfs = initramfs(kernel, dir)?;
    let (accelerator, limit) = match kvm() {
        Ok(()) => (["-accel", "kvm", "-cpu", "host"], LIMIT),
        Err(reason) => {
            println!("guest: no KVM, so it is emulated, and takes a minute: {reason}");
            (
                ["-accel", "tcg,thread=multi", "-cpu", "max"],
                EMULATED_LIMIT,
            )
        }
    };
    let mut qemu = Command::new("qemu-system-x86_64");
    qemu.args(accelerator)
        .args(["-m", "1024", "-smp", "2", "-no-reboot", "-nodefaults"])
        .args(["-display", "none", "-monitor", "none"])
        .arg("-kernel")
        .arg(&kernel.image)
        .arg("-initrd")
        .arg(&initramfs)
        .arg("-append")
        .arg(format!(
            "console=ttyS0 panic=-1 quiet loglevel=4 {arguments}"
        ))
        // What a guest writes is forgotten: the next one finds the disk as it was made.
        .arg("-drive")
        .arg(format!(
            "file={},format=raw,if=virtio,snapshot=on",
            disk.display()
        ))
        .arg("-serial")
        .arg(format!("file:{}", console.display()))
        .stdin(Stdio::null());
    println!("$ {}", command::text(&qemu));
    let mut child = Ended(qemu.spawn().context("cannot start qemu")?);
    let began = Instant::now();
    loop {
        if let Some(status) = child.0.try_wait()? {
            ensure!(status.success(), "qemu failed: {status}");
            break;
        }
        if began.elapsed() > limit {
            let (limit, console) = (limit.as_secs(), console.display());
            bail!(
                "Linux {} did not end in {limit} s: see {console}",
                kernel.version
            );
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    let took = began.elapsed().as_secs_f64();
    println!("guest: Linux {} took {took:.1} s", kernel.version);
    let said = fs::read(console).context("the guest has printed nothing")?;
    Ok(String::from_utf8_lossy(&said).replace('\r', ""))
}

/// Whether KVM runs kernels as they are, or why not.
fn kvm() -> Result<(), String> {
    let open = fs::File::options().read(true).write(true).open("/dev/kvm");
    open.map_err(|error| format!("/dev/kvm: {error}"))?;
    let processor = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let is_able = |word: &str| matches!(word, "vmx" | "svm");
    match processor.split_whitespace().any(is_able) {
        true => Ok(()),
        // Some clouds have one for guests that know of it.
        false => Err("/dev/kvm is there, but the processor has neither vmx nor svm".to_owned()),
    }
}

/// A process that does not outlive this value.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// Packs busybox, modules and the way to the disk.
fn initramfs(kernel: &Kernel, dir: &Path) -> Result<PathBuf> {
    let root = dir.join("initramfs");
    fresh(&root)?;
    for name in ["proc", "dev", "disk", "modules"] {
        fs::create_dir(root.join(name))?;
    }
    let busybox = find("busybox").context("no busybox here")?;
    fs::copy(busybox, root.join("busybox"))?;
    fs::write(root.join("init"), INIT)?;
    fs::set_permissions(root.join("init"), fs::Permissions::from_mode(0o755))?;
    for (number, module) in kernel.modules.iter().enumerate() {
        let name = module.file_name().unwrap_or_default().to_string_lossy();
        let plain = name.trim_end_matches(".xz");
        let target = root.join("modules").join(format!("{number:02}-{plain}"));
        if plain == name {
            fs::copy(module, target)?;
            continue;
        }
        let status = Command::new("busybox")
            .args(["xz", "-dc"])
            .arg(module)
            .stdout(fs::File::create(target)?)
            .status()?;
        ensure!(status.success(), "cannot unpack {}", module.display());
    }
    let names = output(Command::new("find").current_dir(&root).arg("."))?;
    let packed = dir.join("initramfs.cpio");
    let mut cpio = Command::new("busybox")
        .args(["cpio", "-o", "-H", "newc"])
        .current_dir(&root)
        .stdin(Stdio::piped())
        .stdout(fs::File::create(&packed)?)
        .stderr(Stdio::null())
        .spawn()
        .context("cannot start busybox")?;
    if let Some(mut input) = cpio.stdin.take() {
        input.write_all(names.as_bytes())?;
    }
    ensure!(cpio.wait()?.success(), "cannot pack the initramfs");
    Ok(packed)
}
