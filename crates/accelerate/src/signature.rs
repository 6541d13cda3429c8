//! Signatures beside an artifact: found, checked, made.
//!
//! ```text
//! tag sha256-<hex of the artifact>.sig ─▶ manifest ─▶ payloads            simple signing
//! referrers of the artifact ────────────▶ manifests ┬▶ bundle             Sigstore bundle
//!                                                   └▶ payloads           simple signing, by OCI 1.1
//! ```
//!
//! Both ways are gone at once, and the first signature by one of our keys ends the search; what is
//! still asked then is answered to nobody. Whoever may push may put anything there: how many there
//! are looked at, and how large, is bounded, the newest first; what is no signature of ours is passed
//! over with a warning. Where something does not come in time, nothing more is asked for.

use std::io::Cursor;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use thaw_image::{Digest, media};
use thaw_registry::{Descriptor, Manifest, ManifestContent, RegistryError, Repository, Which};
use thaw_sign::{
    Artifact, Claim, MAX_CLAIM_BYTES, PREDICATE_SIGN, PrivateKey, PrivateKeyError, PublicKey,
    verify,
};

/// Most signatures that are looked at in one way.
const MAX_SIGNATURES: usize = 32;
/// Most signatures that a tag holds before ours is not added.
const MAX_TAGGED: usize = 1000;
/// Most reasons that are told.
const MAX_REASONS: usize = 3;

/// What is done with a claim that was found, or with the reason why it is none; `false`: no more.
type Found = Result<Claim, String>;

/// Why an artifact was not signed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SignError {
    /// The registry.
    #[error("cannot put the signature beside {artifact}")]
    Registry {
        /// The artifact.
        artifact: Digest,
        /// Why.
        source: RegistryError,
    },
    /// The key.
    #[error(transparent)]
    Key(#[from] PrivateKeyError),
    /// What is under the tag of signatures takes no more.
    #[error("tag {tag} takes no signature: {reason}")]
    Tag {
        /// The tag.
        tag: String,
        /// Why not.
        reason: String,
    },
}

/// The key of `keys` that has signed the artifact, by what is beside it in `repository`.
///
/// # Errors
/// Why there is none, in words.
pub fn signed_by(
    repository: &Arc<dyn Repository>,
    artifact: &Manifest,
    keys: &[&PublicKey],
) -> Result<PublicKey, String> {
    let (sender, receiver) = channel::<Found>();
    let digest = *artifact.digest();
    for way in [tagged, referred] {
        let (repository, sender) = (Arc::clone(repository), sender.clone());
        let look = move || {
            if let Err(reason) = way(repository.as_ref(), &digest, &sender) {
                sender.send(Err(reason.to_string())).ok();
            }
        };
        let thread = std::thread::Builder::new().name("signatures".into());
        thread.spawn(look).map_err(|error| error.to_string())?;
    }
    drop(sender);
    let subject = Artifact::of(artifact.bytes());
    let mut reasons: Vec<String> = Vec::new();
    for found in receiver {
        let verified = found.and_then(|claim| {
            verify(&claim, &subject, keys).map_err(|refusal| refusal.to_string())
        });
        match verified {
            Ok(key) => return Ok(key.clone()),
            Err(reason) => {
                let repository = repository.name();
                tracing::warn!(repository, artifact = %digest, reason, "a signature is ignored");
                if !reasons.contains(&reason) {
                    reasons.push(reason);
                }
            }
        }
    }
    let more = reasons.len().saturating_sub(MAX_REASONS);
    reasons.truncate(MAX_REASONS);
    if more > 0 {
        reasons.push(format!("and {more} more reasons"));
    }
    Err(match reasons.is_empty() {
        true => "it is not signed".to_owned(),
        false => reasons.join(", "),
    })
}

/// What is under the artifact's tag of signatures.
fn tagged(
    repository: &dyn Repository,
    artifact: &Digest,
    found: &Sender<Found>,
) -> Result<(), RegistryError> {
    if let Some(manifest) = under_tag(repository, artifact)? {
        simple(repository, &manifest, found)?;
    }
    Ok(())
}

/// The manifest under the artifact's tag of signatures.
fn under_tag(
    repository: &dyn Repository,
    artifact: &Digest,
) -> Result<Option<Manifest>, RegistryError> {
    match repository.manifest(&Which::Tag(tag(artifact))) {
        Ok(manifest) => Ok(Some(manifest)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}

/// What is among the artifact's referrers.
fn referred(
    repository: &dyn Repository,
    artifact: &Digest,
    found: &Sender<Found>,
) -> Result<(), RegistryError> {
    let types = [media::SIGSTORE_BUNDLE, media::COSIGN_SIGNATURE];
    let listed = repository.referrers(artifact, &types)?;
    for entry in listed.iter().rev().take(MAX_SIGNATURES) {
        let manifest = match entry.embedded() {
            Some(manifest) => Ok(manifest),
            None => repository.manifest(&Which::Digest(entry.digest)),
        };
        let goes_on = match in_time(manifest)? {
            Ok(manifest) if entry.artifact_type.as_deref() == Some(media::COSIGN_SIGNATURE) => {
                simple(repository, &manifest, found)?
            }
            Ok(manifest) => bundled(repository, &manifest, found)?,
            Err(reason) => found.send(Err(reason)).is_ok(),
        };
        if !goes_on {
            break;
        }
    }
    Ok(())
}

/// The claims of a manifest whose layers are payloads. `false`: no more are wanted.
fn simple(
    repository: &dyn Repository,
    manifest: &Manifest,
    found: &Sender<Found>,
) -> Result<bool, RegistryError> {
    let layers = manifest.content()?.layers;
    let is_payload = |layer: &&Descriptor| layer.media_type == media::SIMPLE_SIGNING;
    // Signers of one artifact mostly sign the same payload.
    let mut last: Option<(Digest, Vec<u8>)> = None;
    for layer in layers.iter().rev().filter(is_payload).take(MAX_SIGNATURES) {
        let Some(signature) = layer.annotations.get(media::ANNOTATION_SIGNATURE) else {
            continue;
        };
        let payload = match &last {
            Some((digest, payload)) if *digest == layer.digest => Ok(payload.clone()),
            _ => content(repository, layer),
        };
        let claim = in_time(payload)?.map(|payload| {
            last = Some((layer.digest, payload.clone()));
            let signature = signature.clone();
            Claim::Simple { payload, signature }
        });
        if found.send(claim).is_err() {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The bundle of a manifest. `false`: no more are wanted.
fn bundled(
    repository: &dyn Repository,
    manifest: &Manifest,
    found: &Sender<Found>,
) -> Result<bool, RegistryError> {
    let layers = manifest.content()?.layers;
    let Some(layer) = layers.first() else {
        return Ok(true);
    };
    let claim = in_time(content(repository, layer))?.map(Claim::Bundle);
    Ok(found.send(claim).is_ok())
}

/// What was found or why not, in words; an error where that took too long.
fn in_time<T>(result: Result<T, RegistryError>) -> Result<Result<T, String>, RegistryError> {
    match result {
        Err(error @ RegistryError::TimedOut { .. }) => Err(error),
        other => Ok(other.map_err(|error| error.to_string())),
    }
}

/// What a descriptor names, where that is small.
fn content(repository: &dyn Repository, of: &Descriptor) -> Result<Vec<u8>, RegistryError> {
    match of.data() {
        Some(bytes) => Ok(bytes),
        None => repository.blob(of, MAX_CLAIM_BYTES),
    }
}

/// Signs an artifact that is in `repository`, in both formats, unless the key has done so before.
///
/// # Errors
/// [`SignError`].
pub fn sign(
    repository: &dyn Repository,
    artifact: &Manifest,
    key: &PrivateKey,
) -> Result<(), SignError> {
    let failed = |source| SignError::Registry {
        artifact: *artifact.digest(),
        source,
    };
    let empty = Descriptor::of(media::EMPTY, media::EMPTY_CONTENT);
    let empty = repository.put_blob(&empty, &mut Cursor::new(media::EMPTY_CONTENT));
    empty.map_err(failed)?;
    sign_under_tag(repository, artifact, key)?;
    let (sender, receiver) = channel::<Found>();
    referred(repository, artifact.digest(), &sender).map_err(failed)?;
    drop(sender);
    if receiver
        .into_iter()
        .any(|found| is_own(found, artifact, key))
    {
        return Ok(());
    }
    let bundle = thaw_sign::bundle(&Artifact::of(artifact.bytes()), key)?;
    let layer = Descriptor::of(media::SIGSTORE_BUNDLE, &bundle);
    repository
        .put_blob(&layer, &mut Cursor::new(&bundle))
        .map_err(failed)?;
    let subject = Descriptor::new(
        artifact.media_type(),
        *artifact.digest(),
        artifact.bytes().len() as u64,
    );
    let layers = vec![layer.with_data(&bundle)];
    let mut content = ManifestContent::artifact(media::SIGSTORE_BUNDLE, subject, layers);
    let mut annotate = |key: &str, value: &str| {
        content.annotations.insert(key.to_owned(), value.to_owned());
    };
    annotate(media::ANNOTATION_BUNDLE_CONTENT, "dsse-envelope");
    annotate(media::ANNOTATION_BUNDLE_PREDICATE, PREDICATE_SIGN);
    repository
        .add_referrer(&manifest(&content, artifact)?)
        .map_err(failed)
}

/// Adds a payload and its signature to those under the artifact's tag.
fn sign_under_tag(
    repository: &dyn Repository,
    artifact: &Manifest,
    key: &PrivateKey,
) -> Result<(), SignError> {
    let (digest, tag) = (*artifact.digest(), tag(artifact.digest()));
    let failed = |source| SignError::Registry {
        artifact: digest,
        source,
    };
    let before = under_tag(repository, &digest).map_err(failed)?;
    let mut content = match &before {
        Some(manifest) => manifest.content().map_err(failed)?,
        None => ManifestContent {
            artifact_type: None,
            subject: None,
            ..ManifestContent::artifact("", Descriptor::of("", b""), Vec::new())
        },
    };
    if let Some(manifest) = &before {
        let (sender, receiver) = channel::<Found>();
        simple(repository, manifest, &sender).map_err(failed)?;
        drop(sender);
        if receiver
            .into_iter()
            .any(|found| is_own(found, artifact, key))
        {
            return Ok(());
        }
    }
    if content.layers.len() >= MAX_TAGGED {
        let reason = format!("it has {} already", content.layers.len());
        return Err(SignError::Tag { tag, reason });
    }
    let payload = thaw_sign::payload(&repository.name(), &digest);
    let signature = STANDARD.encode(key.sign(&payload)?);
    let layer = Descriptor::of(media::SIMPLE_SIGNING, &payload);
    repository
        .put_blob(&layer, &mut Cursor::new(&payload))
        .map_err(failed)?;
    let layer = layer.annotated(media::ANNOTATION_SIGNATURE, signature);
    content.layers.push(layer.with_data(&payload));
    repository
        .put_manifest(Some(&tag), &manifest(&content, artifact)?)
        .map_err(failed)
}

/// Whether a claim is one by `key`.
fn is_own(found: Found, artifact: &Manifest, key: &PrivateKey) -> bool {
    let artifact = Artifact::of(artifact.bytes());
    found.is_ok_and(|claim| verify(&claim, &artifact, &[key.public()]).is_ok())
}

fn manifest(content: &ManifestContent, artifact: &Manifest) -> Result<Manifest, SignError> {
    Manifest::parse(content.to_bytes(), None).map_err(|reason| SignError::Tag {
        tag: tag(artifact.digest()),
        reason,
    })
}

/// Where cosign puts the signatures of an artifact.
fn tag(artifact: &Digest) -> String {
    format!("sha256-{}.sig", artifact.hex())
}
