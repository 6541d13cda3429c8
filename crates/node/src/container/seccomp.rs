//! The system call filter: `seccomp.json` holds the rules by subject, this makes of them what the
//! runtime-spec wants for one machine and one set of capabilities.

use serde::Deserialize;
use serde_json::{Value, json};

const RULES: &str = include_str!("seccomp.json");

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Profile {
    #[serde(rename = "about")]
    _about: String,
    rules: Vec<Rule>,
}

/// Calls that are allowed, or that fail with `errno`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Rule {
    #[serde(rename = "about")]
    _about: String,
    names: Vec<String>,
    #[serde(default)]
    args: Vec<Value>,
    errno: Option<u32>,
    /// Only with this capability.
    with: Option<String>,
    /// Only without this capability.
    without: Option<String>,
    /// Only on these machines; on all where there are none.
    #[serde(default)]
    arches: Vec<String>,
}

/// The `linux.seccomp` object for a machine (`std::env::consts::ARCH`) and a container with these
/// capabilities.
pub(super) fn filter(arch: &str, capabilities: &[&str]) -> Value {
    let profile: Profile =
        serde_json::from_str(RULES).expect("the profile is part of the program, and tested");
    let has = |name: &String| capabilities.contains(&name.as_str());
    let applies = |rule: &&Rule| {
        rule.with.as_ref().is_none_or(has)
            && !rule.without.as_ref().is_some_and(has)
            && (rule.arches.is_empty() || rule.arches.iter().any(|known| known == arch))
    };
    let syscalls: Vec<Value> = profile
        .rules
        .iter()
        .filter(applies)
        .map(Rule::to_json)
        .collect();
    json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": 1,
        "architectures": architectures(arch),
        "syscalls": syscalls,
    })
}

impl Rule {
    fn to_json(&self) -> Value {
        let mut rule = json!({ "names": self.names, "action": "SCMP_ACT_ALLOW" });
        if let Some(errno) = self.errno {
            rule["action"] = json!("SCMP_ACT_ERRNO");
            rule["errnoRet"] = json!(errno);
        }
        if !self.args.is_empty() {
            rule["args"] = json!(self.args);
        }
        rule
    }
}

/// The machine and the 32-bit ones whose programs it runs too.
fn architectures(arch: &str) -> &'static [&'static str] {
    match arch {
        "x86_64" => &["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "aarch64" => &["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"],
        _ => &["SCMP_ARCH_NATIVE"],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::process::CAPABILITIES;

    fn rules_for<'a>(filter: &'a Value, name: &str) -> Vec<&'a Value> {
        let named = |rule: &&Value| rule["names"].as_array().unwrap().contains(&json!(name));
        filter["syscalls"]
            .as_array()
            .unwrap()
            .iter()
            .filter(named)
            .collect()
    }

    #[test]
    fn capabilities_decide() {
        let filter = filter("x86_64", &CAPABILITIES);
        assert_eq!(rules_for(&filter, "mount"), Vec::<&Value>::new());
        assert_eq!(rules_for(&filter, "io_uring_setup"), Vec::<&Value>::new());
        assert_eq!(rules_for(&filter, "chroot").len(), 1);
        assert_eq!(rules_for(&filter, "personality").len(), 5);
        assert_eq!(
            rules_for(&filter, "clone")[0]["args"][0]["value"],
            0x7e02_0000
        );
        assert_eq!(rules_for(&filter, "clone3")[0]["errnoRet"], 38);
        let admin = super::filter("x86_64", &["CAP_SYS_ADMIN"]);
        assert_eq!(rules_for(&admin, "mount").len(), 1);
        assert_eq!(rules_for(&admin, "clone")[0].get("args"), None);
        assert_eq!(rules_for(&admin, "clone3")[0]["action"], "SCMP_ACT_ALLOW");
    }

    #[test]
    fn what_no_rule_names_is_denied() {
        let allows =
            |rule: &&Value| rule["action"] == "SCMP_ACT_ALLOW" && rule.get("args").is_none();
        for arch in ["x86_64", "aarch64"] {
            let filter = super::filter(arch, &CAPABILITIES);
            // With any other default the rules would forbid nothing.
            assert_eq!(filter["defaultAction"], "SCMP_ACT_ERRNO", "{arch}");
            assert_eq!(filter["defaultErrnoRet"], 1, "{arch}: not EPERM");
            let denied = "add_key bpf init_module kexec_load keyctl mount open_by_handle_at \
                          perf_event_open pivot_root reboot request_key setns swapon umount2 \
                          unshare userfaultfd";
            for name in denied.split(' ') {
                let rules = rules_for(&filter, name);
                assert!(rules.is_empty(), "{arch}: {name}: {rules:?}");
            }
            for name in "execve exit_group futex mmap openat read write".split(' ') {
                let rules = rules_for(&filter, name);
                assert!(rules.iter().any(allows), "{arch}: {name}");
            }
            // The C library takes ENOSYS for an old kernel, and uses clone; EPERM it would report.
            let clone3 = rules_for(&filter, "clone3");
            assert_eq!(clone3.len(), 1, "{arch}: {clone3:?}");
            assert_eq!(clone3[0]["action"], "SCMP_ACT_ERRNO", "{arch}");
            assert_eq!(clone3[0]["errnoRet"], 38, "{arch}");
        }
    }

    #[test]
    fn machines_decide() {
        let x86 = filter("x86_64", &[]);
        let arm = filter("aarch64", &[]);
        assert_eq!(rules_for(&x86, "arch_prctl").len(), 1);
        assert_eq!(rules_for(&arm, "arch_prctl").len(), 0);
        assert_eq!(rules_for(&arm, "cacheflush").len(), 1);
        assert_eq!(
            arm["architectures"],
            json!(["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"])
        );
    }
}
