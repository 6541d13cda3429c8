//! Who may speak for an image.
//!
//! An acceleration decides which bytes its files have, and a working set what is written into its
//! layers before these are whole. So either is used only where one of these holds:
//!
//! - it was made on this node;
//! - it comes from the image's own repository, and the user named a tag: whoever may push there
//!   decides what the tag means anyway. A pinned digest says "these bytes", and nobody who may push
//!   beside them may decide how they look;
//! - it comes from a repository that the settings trust for every image;
//! - one of the keys that the settings have for the image has signed it.
//!
//! Where a rule of the settings requires a signature, only the first and the last count. What is
//! remembered of an artifact is where it came from and whose signature was seen; whether that is
//! enough is asked anew each time, of the settings as they are then and of the reference as it was
//! typed. A signature is looked for only where nothing else will do: no other start waits for one.

use std::collections::HashMap;
use std::sync::Arc;

use thaw_accelerate::Offer;
use thaw_image::{Digest, ImageReference};
use thaw_registry::{Manifest, Repository};
use thaw_sign::PublicKey;

use crate::records::ArtifactRecord;
use crate::settings::Settings;

/// What the settings say of the artifacts of one image.
#[derive(Debug)]
pub(crate) struct Policy<'a> {
    /// The image's own repository.
    own: String,
    pinned: bool,
    trusted: Vec<String>,
    keys: Vec<&'a PublicKey>,
    required: bool,
}

/// What counts for the artifacts of a repository.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Standing {
    /// They are used as they are.
    Trusted,
    /// Those that are signed are used.
    Signed,
    /// None is, because.
    Refused(String),
}

impl Settings {
    /// What counts for the image that `reference` means.
    pub(crate) fn policy(&self, reference: &ImageReference) -> Policy<'_> {
        let own = repository_of(reference);
        let rules = self.trust.iter();
        let rules: Vec<_> = rules.filter(|rule| rule.is_about(&own)).collect();
        let keys = rules.iter().flat_map(|rule| &rule.keys).collect();
        let required = rules.iter().any(|rule| rule.require_signature);
        let trusted = self.trusted_repositories.iter();
        Policy {
            pinned: is_pinned(reference),
            trusted: trusted.map(|name| canonical(name)).collect(),
            own,
            keys,
            required,
        }
    }
}

impl Policy<'_> {
    /// What counts for artifacts of `repository`.
    pub(crate) fn standing(&self, repository: &str) -> Standing {
        let repository = canonical(repository);
        let by_tag = repository == self.own && !self.pinned;
        let trusted = by_tag || self.trusted.contains(&repository);
        match (self.required, trusted, self.keys.is_empty()) {
            (false, true, _) => Standing::Trusted,
            (_, _, false) => Standing::Signed,
            (true, _, true) => Standing::Refused(format!(
                "{repository}: a signature is required for this image, and no key is configured for it"
            )),
            (false, false, true) if repository == self.own => Standing::Refused(
                "a pinned digest takes no acceleration from the image's own repository".to_owned(),
            ),
            (false, false, true) => Standing::Refused(format!("{repository} is not trusted")),
        }
    }

    /// What counts for artifacts of the image's own repository.
    pub(crate) fn own_standing(&self) -> Standing {
        self.standing(&self.own)
    }

    /// Whether an artifact that is remembered may be used.
    pub(crate) fn allows(&self, artifact: &ArtifactRecord) -> bool {
        let Some(repository) = &artifact.repository else {
            return true;
        };
        self.signer(artifact).is_some() || self.standing(repository) == Standing::Trusted
    }

    /// Whether what an artifact has brought into a layer of the image, for whichever image that was,
    /// may be read. An image named by a tag that needs no signature reads it all: it has no better
    /// word for its own.
    pub(crate) fn shares(&self, artifact: &ArtifactRecord) -> bool {
        let asks_no_more = !self.pinned && !self.required;
        asks_no_more || self.allows(artifact)
    }

    /// Why one that is not allowed is not, in words.
    pub(crate) fn refusal(&self, repository: &str) -> String {
        match self.standing(repository) {
            Standing::Refused(reason) => reason,
            _ => "it was not seen to be signed by a configured key".to_owned(),
        }
    }

    /// Who has signed an artifact that is remembered, where that key still counts.
    pub(crate) fn signer(&self, artifact: &ArtifactRecord) -> Option<&PublicKey> {
        let id = artifact.signed.as_ref()?;
        self.keys.iter().copied().find(|key| key.id() == id)
    }

    /// The keys that count, where there are any.
    pub(crate) fn keys(&self) -> Option<&[&PublicKey]> {
        Some(self.keys.as_slice()).filter(|keys| !keys.is_empty())
    }
}

/// What was found out about what a repository offers.
#[derive(Debug, Default)]
pub(crate) struct Verdicts {
    /// Who has signed an artifact, or why nobody has. `None`: that was not asked.
    signers: Option<HashMap<Digest, Result<PublicKey, String>>>,
}

impl Verdicts {
    /// Looks for signatures of all that is offered, all at once.
    pub(crate) fn seek(
        repository: &Arc<dyn Repository>,
        offer: &Offer,
        keys: &[&PublicKey],
    ) -> Self {
        std::thread::scope(|scope| {
            let asked: Vec<_> = offer
                .manifests()
                .map(|manifest| {
                    let look = move || thaw_accelerate::signed_by(repository, manifest, keys);
                    (*manifest.digest(), scope.spawn(look))
                })
                .collect();
            let signers = asked.into_iter().map(|(digest, look)| {
                let failed = |_| Err("the search for signatures failed".to_owned());
                (digest, look.join().unwrap_or_else(failed))
            });
            Self {
                signers: Some(signers.collect()),
            }
        })
    }

    /// Whether an artifact may be used; else why not.
    pub(crate) fn approve(&self, artifact: &Manifest) -> Result<(), String> {
        let Some(signers) = &self.signers else {
            return Ok(());
        };
        match signers.get(artifact.digest()) {
            Some(Ok(_)) => Ok(()),
            Some(Err(reason)) => Err(reason.clone()),
            None => Err("it was not looked at".to_owned()),
        }
    }

    /// Who has signed an artifact.
    pub(crate) fn signer(&self, artifact: &Digest) -> Option<&PublicKey> {
        self.signers.as_ref()?.get(artifact)?.as_ref().ok()
    }
}

/// The repository that an image is in, by name.
fn repository_of(reference: &ImageReference) -> String {
    match reference {
        ImageReference::Registry(name) => format!("{}/{}", name.registry, name.repository),
        ImageReference::Layout { dir, .. } => format!("oci:{}", dir.display()),
    }
}

/// A repository's name as [`repository_of`] writes it.
fn canonical(name: &str) -> String {
    let parsed = name.parse::<ImageReference>();
    parsed.map_or_else(|_| name.to_owned(), |reference| repository_of(&reference))
}

/// Whether the user named bytes rather than a tag.
fn is_pinned(reference: &ImageReference) -> bool {
    match reference {
        ImageReference::Registry(name) => name.tag.is_none() || name.digest.is_some(),
        ImageReference::Layout { .. } => false,
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::time::Duration;

    use super::*;
    use crate::settings::TrustRule;

    fn key(seed: u8) -> PublicKey {
        // A SubjectPublicKeyInfo of Ed25519; any 32 bytes are a key in form.
        let head = [
            0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00,
        ];
        let spki = [&head[..], &[seed; 32]].concat();
        PublicKey::from_spki(&format!("key {seed}"), &spki).unwrap()
    }

    fn settings(trust: Vec<TrustRule>) -> Settings {
        Settings {
            root: PathBuf::new(),
            registry: thaw_registry::Settings::default(),
            trusted_repositories: vec!["r.example/accel".to_owned()],
            trust,
            runtime: None,
            cache_size: None,
            direct_reads: true,
            fault_timeout: Duration::ZERO,
            search_timeout: Duration::ZERO,
            program: PathBuf::new(),
            arguments: Vec::new(),
            custodian: None,
        }
    }

    fn rule(repositories: &[&str], keys: &[u8], require_signature: bool) -> TrustRule {
        TrustRule {
            repositories: repositories.iter().map(ToString::to_string).collect(),
            keys: keys.iter().copied().map(key).collect(),
            require_signature,
        }
    }

    fn from(repository: Option<&str>, signed: Option<u8>) -> ArtifactRecord {
        ArtifactRecord {
            manifest: Digest::of(b"a"),
            repository: repository.map(str::to_owned),
            signed: signed.map(|seed| *key(seed).id()),
        }
    }

    const OWN: Option<&str> = Some("r.example/team/app");
    const TRUSTED: Option<&str> = Some("r.example/accel");
    const OTHER: Option<&str> = Some("r.example/other");

    /// Which of all artifacts are allowed: made here; from the image's own repository, a trusted one
    /// and another, unsigned; from the other one, signed by key 1 and by key 2.
    fn allowed(settings: &Settings, reference: &str) -> [bool; 6] {
        let reference = reference.parse().unwrap();
        let policy = settings.policy(&reference);
        [
            from(None, None),
            from(OWN, None),
            from(TRUSTED, None),
            from(OTHER, None),
            from(OTHER, Some(1)),
            from(OWN, Some(2)),
        ]
        .map(|record| policy.allows(&record))
    }

    #[test]
    fn every_case_of_the_rule() {
        let tag = "r.example/team/app:1";
        let digest = Digest::of(b"m");
        let (pinned, both) = (
            format!("r.example/team/app@{digest}"),
            format!("{tag}@{digest}"),
        );
        let none = settings(vec![]);
        assert_eq!(allowed(&none, tag), [true, true, true, false, false, true]);
        let pins = [true, false, true, false, false, false];
        assert_eq!(allowed(&none, &pinned), pins);
        assert_eq!(allowed(&none, &both), pins);
        // With a key.
        let one = settings(vec![rule(&["r.example/*"], &[1], false)]);
        assert_eq!(allowed(&one, tag), [true, true, true, false, true, true]);
        assert_eq!(
            allowed(&one, &pinned),
            [true, false, true, false, true, false]
        );
        // A key for other images is none for this one.
        let foreign = settings(vec![rule(&["r.example/else/*"], &[1], true)]);
        assert_eq!(allowed(&foreign, &pinned), pins);
        // Where signatures are required, a tag and a trusted repository do not do; two rules add up.
        let required = rule(&["*/team/*"], &[], true);
        let strict = settings(vec![required.clone(), rule(&["*"], &[2], false)]);
        for reference in [tag, &pinned, &both] {
            let wanted = [true, false, false, false, false, true];
            assert_eq!(allowed(&strict, reference), wanted, "{reference}");
        }
        let keyless = settings(vec![required]);
        let wanted = [true, false, false, false, false, false];
        assert_eq!(allowed(&keyless, tag), wanted);
        let reference = tag.parse().unwrap();
        let standing = keyless.policy(&reference).standing("r.example/team/app");
        let Standing::Refused(reason) = standing else {
            panic!("{standing:?}")
        };
        assert!(reason.contains("no key is configured"), "{reason}");
    }

    #[test]
    fn a_signature_is_asked_for_only_where_nothing_else_does() {
        let (tag, pinned) = (
            "team/app:1".parse().unwrap(),
            format!("team/app@{}", Digest::of(b"m")).parse().unwrap(),
        );
        let one = settings(vec![rule(&["docker.io/team/*"], &[1], false)]);
        let own = "docker.io/team/app";
        assert_eq!(one.policy(&tag).standing(own), Standing::Trusted);
        assert_eq!(one.policy(&pinned).standing(own), Standing::Signed);
        let accel = one.policy(&pinned).standing("r.example/accel");
        assert_eq!(accel, Standing::Trusted);
        let strict = settings(vec![rule(&["docker.io/team/app"], &[1], true)]);
        assert_eq!(strict.policy(&tag).standing(own), Standing::Signed);
    }
}
