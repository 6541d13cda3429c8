//! Claims: what somebody says of an artifact, and whether one of our keys has said it.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use thaw_image::Digest;

use crate::{MAX_CLAIM_BYTES, MAX_SIGNATURE_BYTES, PublicKey, bundle, simple};

/// The artifact that is signed: an acceleration or a working set.
#[derive(Clone, Copy, Debug)]
pub struct Artifact<'a> {
    bytes: &'a [u8],
    digest: Digest,
}

impl<'a> Artifact<'a> {
    /// With the bytes of its manifest.
    #[must_use]
    pub fn of(manifest: &'a [u8]) -> Self {
        Self {
            bytes: manifest,
            digest: Digest::of(manifest),
        }
    }

    /// The digest of its manifest.
    #[must_use]
    pub const fn digest(&self) -> &Digest {
        &self.digest
    }

    pub(crate) const fn bytes(&self) -> &'a [u8] {
        self.bytes
    }
}

/// What was found beside an artifact. Unchecked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Claim {
    /// A simple signing payload, and its signature in base64.
    Simple {
        /// The payload's bytes.
        payload: Vec<u8>,
        /// What the annotation says.
        signature: String,
    },
    /// A Sigstore bundle's bytes.
    Bundle(Vec<u8>),
}

/// Why a claim says nothing.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// It is larger than any claim.
    #[error("a signature of {0} bytes, over the limit of {MAX_CLAIM_BYTES}")]
    TooLarge(usize),
    /// It is not what its type says.
    #[error("a malformed signature: {0}")]
    Malformed(String),
    /// It is something else than a signature.
    #[error("it says something else than that the artifact is signed: {0}")]
    OtherKind(String),
    /// It is about another artifact.
    #[error("the signature is of another artifact, {0}")]
    OtherArtifact(String),
    /// Nobody we know has signed it.
    #[error("a signature by none of the configured keys")]
    UnknownKey,
}

/// The key of `keys` that has signed the artifact, by this claim.
///
/// # Errors
/// [`Refusal`].
pub fn verify<'k>(
    claim: &Claim,
    artifact: &Artifact<'_>,
    keys: &[&'k PublicKey],
) -> Result<&'k PublicKey, Refusal> {
    let size = match claim {
        Claim::Simple { payload, signature } => payload.len().max(signature.len()),
        Claim::Bundle(bytes) => bytes.len(),
    };
    if size as u64 > MAX_CLAIM_BYTES {
        return Err(Refusal::TooLarge(size));
    }
    match claim {
        Claim::Simple { payload, signature } => simple::verify(payload, signature, artifact, keys),
        Claim::Bundle(bytes) => bundle::verify(bytes, artifact, keys),
    }
}

/// The key of `keys` that has signed `message`.
pub(crate) fn signer<'k>(
    message: &[u8],
    signature: &[u8],
    keys: &[&'k PublicKey],
) -> Result<&'k PublicKey, Refusal> {
    let mut keys = keys.iter().copied();
    keys.find(|key| key.has_signed(message, signature))
        .ok_or(Refusal::UnknownKey)
}

/// A signature's bytes.
pub(crate) fn decode(text: &str, what: &str) -> Result<Vec<u8>, Refusal> {
    // Proportional to the text, which is bounded.
    STANDARD
        .decode(text)
        .map_err(|_| Refusal::Malformed(format!("{what} is no base64")))
}

/// A signature's bytes, of which there are few.
pub(crate) fn decode_signature(text: &str) -> Result<Vec<u8>, Refusal> {
    let bytes = decode(text, "the signature")?;
    if bytes.is_empty() || bytes.len() > MAX_SIGNATURE_BYTES {
        return Err(Refusal::Malformed(
            "the signature has no length of one".to_owned(),
        ));
    }
    Ok(bytes)
}

pub(crate) fn malformed(error: &serde_json::Error) -> Refusal {
    Refusal::Malformed(error.to_string())
}
