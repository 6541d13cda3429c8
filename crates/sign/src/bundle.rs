//! Sigstore bundles, of which two contents sign an artifact:
//!
//! - `messageSignature`: over the bytes of the artifact's manifest;
//! - `dsseEnvelope`: over an in-toto statement one of whose subjects has the artifact's digest, and
//!   whose predicate type says that this is a signature. Other statements (what the artifact is made
//!   of, say, or what a scan has found) may come from the same key and are none.
//!
//! Whatever else is in a bundle (certificates, log entries, timestamps) is passed over.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::json;
use thaw_image::media;

use crate::claim::{Artifact, Refusal, decode, decode_signature, malformed, signer};
use crate::simple::shortened;
use crate::{PrivateKey, PrivateKeyError, PublicKey};

/// The predicate type of a statement that is a signature and nothing more.
pub const PREDICATE_SIGN: &str = "https://sigstore.dev/cosign/sign/v1";
const STATEMENT: &str = "https://in-toto.io/Statement/v1";
const OLD_STATEMENT: &str = "https://in-toto.io/Statement/v0.1";
const PAYLOAD_TYPE: &str = "application/vnd.in-toto+json";
/// Media types that bundles call themselves begin with this.
const MEDIA_TYPE: &str = "application/vnd.dev.sigstore.bundle";
/// Most signatures of an envelope that are tried.
const MAX_SIGNATURES: usize = 8;
/// Most subjects of a statement.
const MAX_SUBJECTS: usize = 64;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Bundle {
    media_type: String,
    message_signature: Option<MessageSignature>,
    dsse_envelope: Option<Envelope>,
}

#[derive(Deserialize)]
struct MessageSignature {
    signature: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Envelope {
    payload: String,
    payload_type: String,
    signatures: Vec<EnvelopeSignature>,
}

#[derive(Deserialize)]
struct EnvelopeSignature {
    sig: String,
}

#[derive(Serialize, Deserialize)]
struct Statement {
    #[serde(rename = "_type")]
    kind: String,
    subject: Vec<Subject>,
    #[serde(rename = "predicateType")]
    predicate_type: String,
}

#[derive(Serialize, Deserialize)]
struct Subject {
    #[serde(default)]
    digest: BTreeMap<String, String>,
}

pub(crate) fn verify<'k>(
    bytes: &[u8],
    artifact: &Artifact<'_>,
    keys: &[&'k PublicKey],
) -> Result<&'k PublicKey, Refusal> {
    let bundle: Bundle = serde_json::from_slice(bytes).map_err(|error| malformed(&error))?;
    if !bundle.media_type.starts_with(MEDIA_TYPE) {
        return Err(Refusal::OtherKind(shortened(bundle.media_type)));
    }
    match (bundle.message_signature, bundle.dsse_envelope) {
        (Some(message), None) => signer(
            artifact.bytes(),
            &decode_signature(&message.signature)?,
            keys,
        ),
        (None, Some(envelope)) => of_envelope(&envelope, artifact, keys),
        _ => Err(Refusal::Malformed(
            "a bundle has one message signature or one envelope".to_owned(),
        )),
    }
}

fn of_envelope<'k>(
    envelope: &Envelope,
    artifact: &Artifact<'_>,
    keys: &[&'k PublicKey],
) -> Result<&'k PublicKey, Refusal> {
    if envelope.payload_type != PAYLOAD_TYPE {
        return Err(Refusal::OtherKind(shortened(envelope.payload_type.clone())));
    }
    let payload = decode(&envelope.payload, "the payload")?;
    let message = encoded(PAYLOAD_TYPE, &payload);
    let mut outcome = Err(Refusal::UnknownKey);
    for signature in envelope.signatures.iter().take(MAX_SIGNATURES) {
        let signature = decode_signature(&signature.sig);
        outcome = signature.and_then(|signature| signer(&message, &signature, keys));
        if outcome.is_ok() {
            break;
        }
    }
    let key = outcome?;
    let statement: Statement = serde_json::from_slice(&payload).map_err(|it| malformed(&it))?;
    if ![STATEMENT, OLD_STATEMENT].contains(&statement.kind.as_str()) {
        return Err(Refusal::OtherKind(shortened(statement.kind)));
    }
    if statement.predicate_type != PREDICATE_SIGN {
        return Err(Refusal::OtherKind(shortened(statement.predicate_type)));
    }
    let subjects = statement.subject;
    if subjects.len() > MAX_SUBJECTS {
        return Err(Refusal::Malformed("too many subjects".to_owned()));
    }
    let named = |subject: &Subject| subject.digest.get("sha256").cloned();
    let mut named: Vec<String> = subjects.iter().filter_map(named).collect();
    if named.iter().any(|hex| *hex == artifact.digest().hex()) {
        return Ok(key);
    }
    let other = named
        .pop()
        .unwrap_or_else(|| "which it does not name".to_owned());
    Err(Refusal::OtherArtifact(shortened(other)))
}

/// What an envelope's signature is over (DSSE's pre-authentication encoding).
fn encoded(kind: &str, payload: &[u8]) -> Vec<u8> {
    let mut message = format!("DSSEv1 {} {kind} {} ", kind.len(), payload.len()).into_bytes();
    message.extend(payload);
    message
}

/// A bundle with an envelope by which `key` signs the artifact.
///
/// # Errors
/// [`PrivateKeyError::Sign`].
pub fn bundle(artifact: &Artifact<'_>, key: &PrivateKey) -> Result<Vec<u8>, PrivateKeyError> {
    let subject = json!({ "digest": { "sha256": artifact.digest().hex() } });
    let statement = json!({
        "_type": STATEMENT,
        "subject": [subject],
        "predicateType": PREDICATE_SIGN,
        "predicate": {},
    });
    let payload = statement.to_string().into_bytes();
    let signature = key.sign(&encoded(PAYLOAD_TYPE, &payload))?;
    let bundle = json!({
        "mediaType": media::SIGSTORE_BUNDLE,
        "verificationMaterial": { "publicKey": { "hint": key.public().hint() } },
        "dsseEnvelope": {
            "payload": STANDARD.encode(&payload),
            "payloadType": PAYLOAD_TYPE,
            "signatures": [{ "sig": STANDARD.encode(signature) }],
        },
    });
    Ok(bundle.to_string().into_bytes())
}
