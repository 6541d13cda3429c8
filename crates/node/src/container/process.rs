//! The process of a container: what the image says and what the user says become one `process`
//! object of the runtime-spec. The first process and those of `exec` are made alike.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use oci_spec::image::ImageConfiguration;
use serde_json::{Value, json};

use super::ContainerError;
use super::host::Host;
use super::options::{Options, ProcessOptions, Signal};
use super::parse::ParseError;
use super::user::User;

/// The capabilities that containers have by default, as Docker and containerd give them.
pub(super) const CAPABILITIES: [&str; 14] = [
    "CAP_AUDIT_WRITE",
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_MKNOD",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_RAW",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
];

const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Everything a `process` object follows from.
#[derive(Debug)]
pub(super) struct Process<'a> {
    pub(super) args: Vec<String>,
    pub(super) env: Vec<String>,
    pub(super) cwd: String,
    pub(super) user: User,
    pub(super) tty: bool,
    pub(super) new_privileges: bool,
    pub(super) host: &'a Host,
}

impl Process<'_> {
    /// The object, as the runtime-spec has it ("Process").
    pub(super) fn to_json(&self) -> Value {
        let mut process = json!({
            "terminal": self.tty,
            "user": self.user.to_json(),
            "args": self.args,
            "env": self.env,
            "cwd": self.cwd,
            // Nothing inheritable and nothing ambient: a process that is not root has none.
            "capabilities": {
                "bounding": CAPABILITIES,
                "effective": CAPABILITIES,
                "permitted": CAPABILITIES,
            },
            "rlimits": [
                { "type": "RLIMIT_NOFILE", "soft": self.host.files, "hard": self.host.files },
            ],
            "noNewPrivileges": !self.new_privileges,
            "oomScoreAdj": self.host.oom_score,
        });
        if let Some(profile) = &self.host.apparmor {
            process["apparmorProfile"] = json!(profile);
        }
        process
    }
}

/// What is executed: the user's entrypoint or the image's, and behind it the user's command or the
/// image's. The image's command goes with the image's entrypoint only.
pub(super) fn arguments(
    image: &ImageConfiguration,
    options: &Options,
) -> Result<Vec<String>, ContainerError> {
    let config = image.config().as_ref();
    let of_image = |list: Option<&Option<Vec<String>>>| list.cloned().flatten().unwrap_or_default();
    let (mut args, own) = match &options.entrypoint {
        Some(own) => (own.clone(), true),
        None => (of_image(config.map(|config| config.entrypoint())), false),
    };
    args.retain(|arg| !(own && arg.is_empty()));
    if options.process.command.is_empty() && !own {
        args.extend(of_image(config.map(|config| config.cmd())));
    } else {
        args.extend_from_slice(&options.process.command);
    }
    if args.is_empty() {
        return Err(ContainerError::NoCommand);
    }
    check("command", &args)?;
    Ok(args)
}

/// The environment: defaults, then the image's, then the user's; of one name the last counts.
pub(super) fn environment(
    image: &[String],
    options: &ProcessOptions,
    hostname: &str,
    home: &str,
) -> Result<Vec<String>, ContainerError> {
    let hostname = format!("HOSTNAME={hostname}");
    let given = image.iter().chain(&options.env).map(String::as_str);
    let terminal = options.tty.then_some("TERM=xterm");
    let own = [PATH, &hostname].into_iter().chain(terminal);
    let mut env = last_values(own.chain(given));
    if !env.iter().any(|entry| entry.starts_with("HOME=")) {
        env.push(format!("HOME={home}"));
    }
    check("environment", &env)?;
    Ok(env)
}

/// Of each name the last value, in the place of its first. An image may have a million of them.
pub(super) fn last_values<'a>(entries: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    let (mut env, mut places) = (Vec::new(), HashMap::new());
    for entry in entries {
        let name = entry.split('=').next().unwrap_or_default();
        match places.entry(name) {
            Entry::Occupied(place) => env[*place.get()] = entry,
            Entry::Vacant(place) => {
                place.insert(env.len());
                env.push(entry);
            }
        }
    }
    env.into_iter().map(str::to_owned).collect()
}

/// The working directory: the user's, else the image's, else the root. A relative one starts at
/// the root.
pub(super) fn workdir(
    image: &ImageConfiguration,
    options: &ProcessOptions,
) -> Result<String, ContainerError> {
    let config = image.config().as_ref();
    let of_image = config.and_then(|config| config.working_dir().clone());
    let dir = options.workdir.clone().or(of_image).unwrap_or_default();
    clean_dir(&dir)
}

/// What the image wants to be stopped with.
pub(super) fn stop_signal(image: &ImageConfiguration) -> Result<Option<Signal>, ParseError> {
    let config = image.config().as_ref();
    let of_image = config.and_then(|config| config.stop_signal().clone());
    // Some builders write every field, with nothing in it.
    let of_image = of_image.filter(|text| !text.is_empty());
    of_image.map(|text| text.parse()).transpose()
}

/// `dir` as an absolute path without `.` and `..`.
pub(super) fn clean_dir(dir: &str) -> Result<String, ContainerError> {
    check("working directory", std::slice::from_ref(&dir.to_owned()))?;
    let mut parts = Vec::new();
    for part in dir.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    Ok(format!("/{}", parts.join("/")))
}

/// Most bytes of arguments or environment together: far beyond what images have, and what the
/// kernel takes by default.
const MAX_BYTES: usize = 1 << 20;

fn check(what: &'static str, texts: &[String]) -> Result<(), ParseError> {
    if let Some(text) = texts.iter().find(|text| text.contains('\0')) {
        return Err(ParseError::new(what, text, "it has a NUL byte"));
    }
    let bytes: usize = texts.iter().map(|text| text.len() + 1).sum();
    if bytes > MAX_BYTES {
        let first = texts.first().map_or("", String::as_str);
        return Err(ParseError::new(what, first, "it has more than 1 MiB"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(json: &Value) -> ImageConfiguration {
        let whole = json!({
            "architecture": "amd64", "os": "linux", "config": json,
            "rootfs": { "type": "layers", "diff_ids": [] },
        });
        serde_json::from_value(whole).unwrap()
    }

    fn args(image_config: &Value, entrypoint: Option<&[&str]>, command: &[&str]) -> Vec<String> {
        let owned = |list: &[&str]| {
            list.iter()
                .map(|text| (*text).to_owned())
                .collect::<Vec<_>>()
        };
        let options = Options {
            entrypoint: entrypoint.map(owned),
            process: ProcessOptions {
                command: owned(command),
                ..Default::default()
            },
            ..Default::default()
        };
        arguments(&image(image_config), &options).unwrap()
    }

    #[test]
    fn entrypoint_and_command_merge() {
        let both = json!({ "Entrypoint": ["e", "1"], "Cmd": ["c"] });
        assert_eq!(args(&both, None, &[]), ["e", "1", "c"]);
        assert_eq!(args(&both, None, &["x", "y"]), ["e", "1", "x", "y"]);
        assert_eq!(args(&both, Some(&["o"]), &[]), ["o"]);
        assert_eq!(args(&both, Some(&["o"]), &["x"]), ["o", "x"]);
        assert_eq!(args(&both, Some(&[""]), &["x"]), ["x"]);
        assert_eq!(args(&both, Some(&[]), &["x"]), ["x"]);
        assert_eq!(args(&json!({ "Cmd": ["c"] }), None, &[]), ["c"]);
        let none = arguments(&image(&json!({})), &Options::default());
        assert!(matches!(none, Err(ContainerError::NoCommand)));
    }

    #[test]
    fn the_last_value_of_a_name_counts() {
        let options = ProcessOptions {
            env: vec!["A=user".into(), "EMPTY=".into()],
            tty: true,
            ..Default::default()
        };
        let image = ["A=image".into(), "PATH=/image".into(), "AB=1".into()];
        let env = environment(&image, &options, "host", "/home/u").unwrap();
        let expected = [
            "PATH=/image",
            "HOSTNAME=host",
            "TERM=xterm",
            "A=user",
            "AB=1",
            "EMPTY=",
            "HOME=/home/u",
        ];
        assert_eq!(env, expected);
    }

    /// As many variables as a configuration of 8 MiB holds: looked for in each other it takes hours.
    #[test]
    fn very_many_variables_are_refused_at_once() {
        let image: Vec<String> = (0..1 << 20).map(|it| format!("{it:x}=")).collect();
        let refused = environment(&image, &ProcessOptions::default(), "host", "/").unwrap_err();
        assert!(refused.to_string().contains("more than 1 MiB"), "{refused}");
        // Of one name there is one.
        let same = vec!["A=1".to_owned(); 1 << 20];
        let env = environment(&same, &ProcessOptions::default(), "host", "/").unwrap();
        assert_eq!(env[2..], ["A=1", "HOME=/"]);
    }

    /// As builders write it that leave no field out.
    #[test]
    fn what_says_nothing_counts_as_missing() {
        let image = image(&json!({
            "Hostname": "", "Domainname": "", "User": "", "AttachStdin": false, "ExposedPorts": null,
            "Tty": false, "Env": null, "Cmd": ["sh"], "Image": "", "Volumes": null, "WorkingDir": "",
            "Entrypoint": null, "OnBuild": null, "Labels": null, "StopSignal": "",
        }));
        let options = Options::default();
        assert_eq!(arguments(&image, &options).unwrap(), ["sh"]);
        assert_eq!(workdir(&image, &options.process).unwrap(), "/");
        assert_eq!(stop_signal(&image).unwrap(), None);
    }

    #[test]
    fn directories_stay_inside() {
        assert_eq!(clean_dir("").unwrap(), "/");
        assert_eq!(clean_dir("app/./x//").unwrap(), "/app/x");
        assert_eq!(clean_dir("/../../a/../b").unwrap(), "/b");
        assert!(clean_dir("a\0b").is_err());
    }
}
