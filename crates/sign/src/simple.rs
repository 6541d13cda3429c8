//! Simple signing: the payload that cosign signs, and what it says.
//!
//! ```json
//! {"critical":{"identity":{"docker-reference":"registry.example/app"},
//!              "image":{"docker-manifest-digest":"sha256:…"},
//!              "type":"cosign container image signature"},
//!  "optional":null}
//! ```

use serde::{Deserialize, Serialize};
use serde_json::Value;
use thaw_image::Digest;

use crate::PublicKey;
use crate::claim::{Artifact, Refusal, decode_signature, malformed, signer};

const TYPE: &str = "cosign container image signature";
/// Most bytes of the name that a payload gives the artifact: of a reference.
const MAX_IDENTITY: usize = 1024;

#[derive(Serialize, Deserialize)]
struct Payload {
    critical: Critical,
    #[serde(default)]
    optional: Option<Value>,
}

#[derive(Serialize, Deserialize)]
struct Critical {
    identity: Identity,
    image: Image,
    #[serde(rename = "type")]
    kind: String,
}

#[derive(Serialize, Deserialize)]
struct Identity {
    #[serde(rename = "docker-reference")]
    docker_reference: String,
}

#[derive(Serialize, Deserialize)]
struct Image {
    #[serde(rename = "docker-manifest-digest")]
    docker_manifest_digest: String,
}

/// The payload for an artifact of `repository`, to be signed. As cosign writes it: the same artifact
/// has the same payload.
#[must_use]
pub fn payload(repository: &str, artifact: &Digest) -> Vec<u8> {
    let payload = Payload {
        critical: Critical {
            identity: Identity {
                docker_reference: repository.to_owned(),
            },
            image: Image {
                docker_manifest_digest: artifact.to_string(),
            },
            kind: TYPE.to_owned(),
        },
        optional: None,
    };
    serde_json::to_vec(&payload).expect("strings are JSON")
}

pub(crate) fn verify<'k>(
    payload: &[u8],
    signature: &str,
    artifact: &Artifact<'_>,
    keys: &[&'k PublicKey],
) -> Result<&'k PublicKey, Refusal> {
    let key = signer(payload, &decode_signature(signature)?, keys)?;
    let said: Payload = serde_json::from_slice(payload).map_err(|error| malformed(&error))?;
    let Critical {
        identity,
        image,
        kind,
    } = said.critical;
    if kind != TYPE {
        return Err(Refusal::OtherKind(shortened(kind)));
    }
    if identity.docker_reference.len() > MAX_IDENTITY {
        return Err(Refusal::Malformed("the name in it is too long".to_owned()));
    }
    if image.docker_manifest_digest != artifact.digest().to_string() {
        return Err(Refusal::OtherArtifact(shortened(
            image.docker_manifest_digest,
        )));
    }
    Ok(key)
}

/// A stranger's text, for a message.
pub(crate) fn shortened(text: String) -> String {
    let short: String = text.escape_debug().take(100).collect();
    short
}
