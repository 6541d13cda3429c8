//! Any claim is refused or true. With a key at hand that signs whatever comes, what is signed is
//! parsed as well, and it is true only where it names the artifact.

use std::sync::LazyLock;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use thaw_sign::{Artifact, Claim, PrivateKey, verify};

const MANIFEST: &[u8] = b"{}";

static KEY: LazyLock<PrivateKey> =
    LazyLock::new(|| PrivateKey::from_pem("key", include_bytes!("../key.pem")).expect("a key"));

/// Whether somewhere in `payload` the artifact is named, as it is or escaped.
fn names(payload: &[u8], hex: &str) -> bool {
    let text = String::from_utf8_lossy(payload);
    text.contains(hex) || text.contains("\\u")
}

fn signed(message: &[u8]) -> String {
    STANDARD.encode(KEY.sign(message).expect("random numbers"))
}

pub(crate) fn run(data: &[u8]) {
    let artifact = Artifact::of(MANIFEST);
    let hex = artifact.digest().hex();
    let keys = [KEY.public()];
    let split = data
        .iter()
        .position(|byte| *byte == 0)
        .unwrap_or(data.len());
    let (payload, signature) = data.split_at(split);
    let signature = String::from_utf8_lossy(signature).into_owned();
    let payload = payload.to_vec();
    let _ = verify(&Claim::Simple { payload, signature }, &artifact, &keys);
    let _ = verify(&Claim::Bundle(data.to_vec()), &artifact, &keys);

    let (payload, signature) = (data.to_vec(), signed(data));
    if verify(&Claim::Simple { payload, signature }, &artifact, &keys).is_ok() {
        assert!(names(data, &hex));
    }
    let kind = "application/vnd.in-toto+json";
    let head = format!("DSSEv1 {} {kind} {} ", kind.len(), data.len());
    let message = [head.as_bytes(), data].concat();
    let bundle = format!(
        r#"{{"mediaType":"application/vnd.dev.sigstore.bundle.v0.3+json","dsseEnvelope":{{"payload":"{}","payloadType":"{kind}","signatures":[{{"sig":"{}"}}]}}}}"#,
        STANDARD.encode(data),
        signed(&message),
    );
    if verify(&Claim::Bundle(bundle.into_bytes()), &artifact, &keys).is_ok() {
        assert!(names(data, &hex));
    }
}
