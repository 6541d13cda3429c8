//! Whose signatures count: the tables `[[trust]]`.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};
use thaw_node::TrustRule;
use thaw_sign::PublicKey;

/// `[[trust]]`: what counts for the images of some repositories.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub(crate) struct Trust {
    /// The repositories, with `*` for any characters.
    pub(crate) repositories: Vec<String>,
    /// PEM files with the public keys of those who may sign.
    pub(crate) keys: Vec<PathBuf>,
    /// Whether nothing else counts.
    pub(crate) require_signature: bool,
}

impl Default for Trust {
    fn default() -> Self {
        Self {
            repositories: vec!["*".to_owned()],
            keys: Vec::new(),
            require_signature: false,
        }
    }
}

impl Trust {
    /// The same; files may be named from `base` on.
    pub(super) fn with_files_from(self, base: &Path) -> Self {
        Self {
            keys: self.keys.iter().map(|path| base.join(path)).collect(),
            ..self
        }
    }

    /// The same in the node's words, with its keys read.
    pub(crate) fn rule(&self) -> anyhow::Result<TrustRule> {
        self.try_rule().context("in [[trust]] of the configuration")
    }

    fn try_rule(&self) -> anyhow::Result<TrustRule> {
        // Whoever writes a rule that never applies believes that it protects.
        if self.repositories.is_empty() {
            bail!("repositories is empty, so that it is about no image");
        }
        for pattern in &self.repositories {
            if !pattern.contains(['/', '*']) {
                bail!("{pattern:?} is no repository: HOST/NAME, e.g. docker.io/library/alpine");
            }
        }
        if self.keys.is_empty() && !self.require_signature {
            bail!("it has neither keys nor require-signature");
        }
        let keys = self.keys.iter().map(|path| PublicKey::read(path));
        Ok(TrustRule {
            repositories: self.repositories.clone(),
            keys: keys.collect::<Result<_, _>>()?,
            require_signature: self.require_signature,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_is_about_all_images_unless_it_says_of_which() {
        let read = |text: &str| {
            let trust: Trust = toml::from_str(text).unwrap();
            trust.with_files_from(Path::new("/etc/thaw"))
        };
        let all = read("keys = [\"a.pub\", \"/b.pub\"]");
        assert_eq!(all.repositories, ["*"]);
        assert_eq!(
            all.keys,
            [Path::new("/etc/thaw/a.pub"), Path::new("/b.pub")]
        );
        assert!(!all.require_signature);
        let error = format!("{:#}", all.rule().unwrap_err());
        let wanted =
            "in [[trust]] of the configuration: cannot read the public key /etc/thaw/a.pub";
        assert!(error.starts_with(wanted), "{error}");
        assert!(toml::from_str::<Trust>("key = \"a.pub\"").is_err());
        for (text, wanted) in [
            ("", "neither keys nor require-signature"),
            (
                "repositories = []\nrequire-signature = true",
                "about no image",
            ),
            (
                "repositories = [\"alpine\"]\nrequire-signature = true",
                "\"alpine\" is no repository",
            ),
        ] {
            let error = format!("{:#}", read(text).rule().unwrap_err());
            assert!(error.contains(wanted), "{error}");
        }
    }
}
