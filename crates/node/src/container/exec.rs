//! One more process in a running container.

use std::fs;
use std::path::{Path, PathBuf};

use rustix::process::Pid;
use serde_json::json;

use super::bundle::read_config;
use super::containers::runtime;
use super::monitor::{Child, Streams, Wanted, become_parent, console_path};
use super::options::ProcessOptions;
use super::parse::ParseError;
use super::rootfs::RootFs;
use super::runtime::Runtime;
use super::state::Phase;
use super::{Container, ContainerError, id, process, user};

impl Container {
    /// Runs one more process in the container, with the caller's standard streams, until it ends.
    /// It is confined like the container's first one, and has its environment, directory and user
    /// where `options` says nothing else. Its exit code comes back.
    ///
    /// # Errors
    /// [`ContainerError::NotRunning`], and whatever keeps it from starting.
    pub fn exec(&self, options: &ProcessOptions) -> Result<u8, ContainerError> {
        let state = self.state()?;
        let Phase::Running { init, .. } = &state.phase else {
            return Err(ContainerError::NotRunning(state.name));
        };
        if !init.is_alive() {
            return Err(ContainerError::NotRunning(state.name));
        }
        let files = Files::make(self.dir())?;
        let document = self.process(options, init.pid)?;
        let path = files.dir.join("process.json");
        fs::write(&path, document).map_err(ContainerError::file("write", &path))?;

        let caught = become_parent()?;
        let runtime = runtime(&state.settings)?;
        let wanted = Wanted {
            tty: options.tty,
            stdin: options.interactive,
            output: true,
            log: None,
        };
        let console = console_path(&state.settings)?;
        let (streams, io) = Streams::open(wanted, &console)?;
        let pid: Pid = runtime.exec(&state.id, &path, io)?;
        let child = Child::open(pid)?;
        let carried = streams.carry()?;
        let forwarder = caught.forward(&child, carried.terminal())?;
        let code = child.wait();
        carried.finish();
        forwarder.stop();
        code
    }

    /// The first process's document, changed to what is asked.
    fn process(&self, options: &ProcessOptions, init: i32) -> Result<String, ContainerError> {
        let mut process = read_config(self.dir())?["process"].take();
        if options.command.is_empty() {
            return Err(ContainerError::NoCommand);
        }
        if let Some(text) = options.command.iter().find(|text| text.contains('\0')) {
            return Err(ParseError::new("command", text, "it has a NUL byte").into());
        }
        process["args"] = json!(options.command);
        process["terminal"] = json!(options.tty);
        let mut env: Vec<String> =
            serde_json::from_value(process["env"].take()).unwrap_or_default();
        if options.tty && !env.iter().any(|entry| entry.starts_with("TERM=")) {
            env.push("TERM=xterm".to_owned());
        }
        if let Some(spec) = &options.user {
            // The container's own view: its volumes may hold the files.
            let root = RootFs::open(Path::new(&format!("/proc/{init}/root")))?;
            let user = user::resolve(&root, spec)?;
            env.push(format!("HOME={}", user.home));
            process["user"] = user.to_json();
        }
        let env = env.iter().chain(&options.env).map(String::as_str);
        process["env"] = json!(process::last_values(env));
        if let Some(dir) = &options.workdir {
            process["cwd"] = json!(process::clean_dir(dir)?);
        }
        Ok(process.to_string())
    }
}

/// A directory for the files of one call, which goes with the value.
#[derive(Debug)]
struct Files {
    dir: PathBuf,
}

impl Files {
    fn make(container: &Path) -> Result<Self, ContainerError> {
        let name = format!("exec-{}", id::unique()?);
        let dir = container.join(name);
        fs::create_dir(&dir).map_err(ContainerError::file("make directory", &dir))?;
        Ok(Self { dir })
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.dir);
    }
}
