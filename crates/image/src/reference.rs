//! Names of images: what a user types.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use crate::{Digest, DigestError};

/// The registry that a name without one means, as Docker reads it.
const DEFAULT_REGISTRY: &str = "docker.io";

/// Where an image is: in a registry, or in an OCI layout directory.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum ImageReference {
    /// `[HOST[:PORT]/]REPOSITORY[:TAG][@DIGEST]`
    Registry(RegistryReference),
    /// `oci:DIR[:TAG]`: an image in an OCI layout (OCI image-spec, "Image Layout"). A tag is
    /// matched against `org.opencontainers.image.ref.name`; without one the only image is meant.
    Layout {
        /// The directory that holds `oci-layout`.
        dir: PathBuf,
        /// Which image of it.
        tag: Option<String>,
    },
}

/// An image in a registry.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct RegistryReference {
    /// Host and optional port. `docker.io` where the user gave none.
    pub registry: String,
    /// The repository, e.g. `library/alpine`.
    pub repository: String,
    /// The tag, where one was given or nothing else was (`latest`).
    pub tag: Option<String>,
    /// The digest, where one was given: it wins over the tag.
    pub digest: Option<Digest>,
}

/// Why a text names no image.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReferenceError {
    /// Nothing was given.
    #[error("the image reference is empty")]
    Empty,
    /// The repository has a character or a shape that no repository has.
    #[error(
        "invalid repository {0:?}: lower-case letters, digits and . _ - separated by / (OCI distribution-spec)"
    )]
    Repository(String),
    /// The host part is no host.
    #[error("invalid registry host {0:?}")]
    Host(String),
    /// The tag has a character that no tag has, or over 128 of them.
    #[error("invalid tag {0:?}: at most 128 letters, digits, _ . - and no leading . or -")]
    Tag(String),
    /// The digest is not one.
    #[error(transparent)]
    Digest(#[from] DigestError),
}

impl FromStr for ImageReference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        let Some(rest) = text.strip_prefix("oci:") else {
            return text.parse().map(Self::Registry);
        };
        if rest.is_empty() {
            return Err(ReferenceError::Empty);
        }
        // A colon inside a directory's name is not a tag: a tag holds no slash.
        match rest.rsplit_once(':') {
            Some((dir, tag)) if !tag.contains('/') && !dir.is_empty() => {
                check_tag(tag)?;
                Ok(Self::Layout {
                    dir: dir.into(),
                    tag: Some(tag.into()),
                })
            }
            _ => Ok(Self::Layout {
                dir: rest.into(),
                tag: None,
            }),
        }
    }
}

impl FromStr for RegistryReference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        if text.is_empty() {
            return Err(ReferenceError::Empty);
        }
        let (name, digest) = match text.split_once('@') {
            Some((name, digest)) => (name, Some(digest.parse()?)),
            None => (text, None),
        };
        let (name, tag) = match name.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => {
                check_tag(tag)?;
                (name, Some(tag.to_owned()))
            }
            _ => (name, None),
        };
        let (registry, repository) = split_host(name);
        check_host(&registry)?;
        let repository = match (registry.as_str(), repository.contains('/')) {
            (DEFAULT_REGISTRY, false) => format!("library/{repository}"),
            _ => repository,
        };
        check_repository(&repository)?;
        let tag = match (tag, digest) {
            (None, None) => Some("latest".to_owned()),
            (tag, _) => tag,
        };
        Ok(Self {
            registry,
            repository,
            tag,
            digest,
        })
    }
}

/// Docker's rule: the part before the first slash is a host if it holds a dot or a colon or is
/// `localhost`.
fn split_host(name: &str) -> (String, String) {
    match name.split_once('/') {
        Some((host, rest)) if host.contains(['.', ':', '[']) || host == "localhost" => {
            let host = if host == "index.docker.io" {
                DEFAULT_REGISTRY
            } else {
                host
            };
            (host.to_owned(), rest.to_owned())
        }
        _ => (DEFAULT_REGISTRY.to_owned(), name.to_owned()),
    }
}

fn check_host(host: &str) -> Result<(), ReferenceError> {
    let bad = || ReferenceError::Host(host.to_owned());
    let (name, port) = match host.strip_prefix('[') {
        Some(rest) => {
            let (name, port) = rest.split_once(']').ok_or_else(bad)?;
            name.parse::<std::net::Ipv6Addr>().map_err(|_| bad())?;
            (
                "",
                port.strip_prefix(':').or(port.is_empty().then_some("443")),
            )
        }
        None => match host.split_once(':') {
            Some((name, port)) => (name, Some(port)),
            None => (host, Some("443")),
        },
    };
    let label_ok = |label: &str| {
        !label.is_empty()
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    let name_ok = host.starts_with('[') || name.split('.').all(label_ok);
    if name_ok && port.is_some_and(|port| port.parse::<u16>().is_ok_and(|port| port > 0)) {
        Ok(())
    } else {
        Err(bad())
    }
}

/// OCI distribution-spec, "Pulling manifests": `<name>`.
fn check_repository(name: &str) -> Result<(), ReferenceError> {
    let alphanumeric = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let part_ok = |part: &str| {
        let bytes = part.as_bytes();
        let all = bytes
            .iter()
            .all(|byte| alphanumeric(byte) || b"._-".contains(byte));
        let ends = [bytes.first(), bytes.last()]
            .iter()
            .all(|end| end.is_some_and(alphanumeric));
        all && ends && !part.contains("..") && !part.contains("___")
    };
    if name.len() <= 255 && name.split('/').all(part_ok) {
        Ok(())
    } else {
        Err(ReferenceError::Repository(name.to_owned()))
    }
}

fn check_tag(tag: &str) -> Result<(), ReferenceError> {
    let byte_ok = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
    if (1..=128).contains(&tag.len()) && tag.bytes().all(byte_ok) && !tag.starts_with(['.', '-']) {
        Ok(())
    } else {
        Err(ReferenceError::Tag(tag.to_owned()))
    }
}

impl fmt::Display for RegistryReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

impl fmt::Display for ImageReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Registry(reference) => reference.fmt(f),
            Self::Layout { dir, tag: None } => write!(f, "oci:{}", dir.display()),
            Self::Layout {
                dir,
                tag: Some(tag),
            } => write!(f, "oci:{}:{tag}", dir.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_names_are_completed_as_docker_does() {
        for (typed, meant) in [
            ("alpine", "docker.io/library/alpine:latest"),
            ("alpine:3.20", "docker.io/library/alpine:3.20"),
            ("team/app", "docker.io/team/app:latest"),
            ("index.docker.io/team/app", "docker.io/team/app:latest"),
            ("localhost/app", "localhost/app:latest"),
            ("localhost:5000/a/b:t", "localhost:5000/a/b:t"),
            ("127.0.0.1:5000/a", "127.0.0.1:5000/a:latest"),
            ("[::1]:5000/a", "[::1]:5000/a:latest"),
            ("ghcr.io/a/b__c", "ghcr.io/a/b__c:latest"),
            ("oci:/var/images:v1", "oci:/var/images:v1"),
            ("oci:./images", "oci:./images"),
            ("oci:/a:b/images", "oci:/a:b/images"),
        ] {
            assert_eq!(typed.parse::<ImageReference>().unwrap().to_string(), meant);
        }
    }

    #[test]
    fn a_digest_needs_no_tag() {
        let digest = Digest::of(b"m");
        let with = |tag: &str| format!("r.example/app{tag}@{digest}").parse::<RegistryReference>();
        assert_eq!(with("").unwrap().tag, None);
        assert_eq!(with(":v1").unwrap().tag.as_deref(), Some("v1"));
        assert_eq!(with(":v1").unwrap().digest, Some(digest));
    }

    #[test]
    fn what_no_registry_would_take_is_refused() {
        for text in [
            "",
            "UPPER",
            "a//b",
            "/a",
            "a/",
            "a:",
            "a:b:c",
            "a@sha256:0",
            "r.example:0/a",
            "r.example:99999/a",
            "-a",
            "a..b",
            "../etc",
            "r.example/../x",
            "a:.x",
            "oci:",
            "a b",
            "[::1/a",
            "r.example:/a",
        ] {
            assert!(text.parse::<ImageReference>().is_err(), "{text:?}");
        }
    }
}
