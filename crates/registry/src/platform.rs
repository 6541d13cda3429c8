//! Which of an index's images suits a machine, in containerd's order of preference.

use std::convert::Infallible;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// An operating system and a processor (OCI image-spec, "Image Index", `platform`).
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct Platform {
    /// As Go names it: `linux`.
    pub os: String,
    /// As Go names it: `amd64`, `arm64`.
    pub architecture: String,
    /// Of the processor: `v7`; absent where there is but one, or the default one is meant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
}

impl Platform {
    /// What this program was built for.
    #[must_use]
    pub fn host() -> Self {
        Self::new("linux", std::env::consts::ARCH, None)
    }

    fn new(os: &str, architecture: &str, variant: Option<&str>) -> Self {
        let (architecture, default) = match architecture {
            "x86_64" | "x86-64" => ("amd64", None),
            "aarch64" => ("arm64", None),
            "i386" | "i486" | "i586" | "i686" | "x86" => ("386", None),
            "armhf" => ("arm", Some("v7")),
            "armel" => ("arm", Some("v6")),
            "powerpc64" => ("ppc64le", None),
            other => (other, None),
        };
        Self {
            os: os.to_owned(),
            architecture: architecture.to_owned(),
            variant: variant.or(default).map(str::to_owned),
        }
    }

    /// How well an image for `other` runs here: 0 is best, `None` is not at all.
    ///
    /// Newer processors run what was built for older ones: amd64 runs its lower levels and 386,
    /// arm64 runs 32-bit arm, arm runs its lower versions.
    #[must_use]
    pub fn suits(&self, other: &Self) -> Option<u32> {
        if self.os != other.os {
            return None;
        }
        let (own, own_level) = self.processor();
        let (its, its_level) = other.processor();
        match (own, its) {
            _ if own == its => match (own_level, its_level) {
                (Ok(own), Ok(its)) => own.checked_sub(its),
                (own, its) => (own == its).then_some(0),
            },
            ("amd64", "386") => Some(100),
            ("arm64", "arm") => its_level
                .ok()
                .and_then(|its| 8u32.checked_sub(its))
                .map(|d| 100 + d),
            _ => None,
        }
    }

    /// The architecture, and the number in its variant; an unknown variant stands for itself.
    fn processor(&self) -> (&str, Result<u32, &str>) {
        let default = match self.architecture.as_str() {
            "amd64" => 1,
            "arm64" => 8,
            "arm" => 7,
            _ => 0,
        };
        let level = match self.variant.as_deref() {
            None | Some("") => Ok(default),
            Some(variant) => variant
                .strip_prefix('v')
                .unwrap_or(variant)
                .parse()
                .map_err(|_| variant),
        };
        (&self.architecture, level)
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        match &self.variant {
            Some(variant) if !variant.is_empty() => write!(f, "/{variant}"),
            _ => Ok(()),
        }
    }
}

impl FromStr for Platform {
    type Err = Infallible;

    /// `OS/ARCHITECTURE[/VARIANT]`, or `ARCHITECTURE` for Linux. Any text is some platform: one
    /// that does not exist is found in no index.
    fn from_str(text: &str) -> Result<Self, Infallible> {
        let mut parts = text.splitn(3, '/');
        let first = parts.next().unwrap_or_default();
        Ok(match parts.next() {
            None => Self::new("linux", first, None),
            Some(architecture) => Self::new(first, architecture, parts.next()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn suits(own: &str, other: &str) -> Option<u32> {
        let parse = |text: &str| text.parse::<Platform>().unwrap();
        parse(own).suits(&parse(other))
    }

    #[test]
    fn newer_processors_run_older_images() {
        assert_eq!(suits("linux/amd64", "linux/amd64"), Some(0));
        assert_eq!(suits("linux/amd64", "linux/amd64/v2"), None);
        assert_eq!(suits("linux/amd64/v3", "linux/amd64"), Some(2));
        assert_eq!(suits("linux/arm64", "linux/arm64/v8"), Some(0));
        assert_eq!(suits("linux/arm64", "linux/arm/v7"), Some(101));
        assert_eq!(suits("linux/arm/v7", "linux/arm/v6"), Some(1));
        assert_eq!(suits("linux/arm/v6", "linux/arm"), None);
        assert_eq!(suits("linux/amd64", "linux/386"), Some(100));
    }

    #[test]
    fn others_do_not_run() {
        assert_eq!(suits("linux/amd64", "windows/amd64"), None);
        assert_eq!(suits("linux/amd64", "linux/arm64"), None);
        assert_eq!(suits("linux/386", "linux/amd64"), None);
        assert_eq!(suits("linux/amd64", "unknown/unknown"), None);
        assert_eq!(suits("linux/arm", "linux/arm/vodka"), None);
    }

    #[test]
    fn common_names_are_understood() {
        assert_eq!("x86_64".parse(), Ok(Platform::new("linux", "amd64", None)));
        let arm: Platform = "linux/armhf".parse().unwrap();
        assert_eq!(arm.to_string(), "linux/arm/v7");
    }
}
