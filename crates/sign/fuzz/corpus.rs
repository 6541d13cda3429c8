//! Writes what the fuzzers begin with into `corpus/`: what the writer of the crate makes, and keys.

use std::error::Error;
use std::fs;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use thaw_sign::{Artifact, PREDICATE_SIGN, PrivateKey, bundle, payload};

/// An input, after the names of its target and its own.
type Input = (&'static str, String, Vec<u8>);

/// The inputs of all targets, each with a name.
pub(crate) fn inputs() -> Result<Vec<Input>, Box<dyn Error>> {
    let mut inputs = Vec::new();
    let mut put = |target, name: &str, bytes: &[u8]| {
        inputs.push((target, name.to_owned(), bytes.to_vec()));
    };
    let pem = include_bytes!("key.pem");
    let key = PrivateKey::from_pem("key", pem)?;
    for (name, manifest) in [("own", &b"{}"[..]), ("other", b"{ }")] {
        let artifact = Artifact::of(manifest);
        let payload = payload("registry.example/app", artifact.digest());
        let signature = STANDARD.encode(key.sign(&payload)?);
        put("claim", &format!("payload-{name}"), &payload);
        let claim = [&payload, &b"\0"[..], signature.as_bytes()].concat();
        put("claim", &format!("simple-{name}"), &claim);
        put(
            "claim",
            &format!("bundle-{name}"),
            &bundle(&artifact, &key)?,
        );
        let statement = format!(
            r#"{{"_type":"https://in-toto.io/Statement/v1","subject":[{{"digest":{{"sha256":"{}"}}}}],"predicateType":"{PREDICATE_SIGN}"}}"#,
            artifact.digest().hex()
        );
        put("claim", &format!("statement-{name}"), statement.as_bytes());
    }
    put("key", "private", pem);
    // The public half: a SubjectPublicKeyInfo of Ed25519, as it is and as PEM.
    let head = [
        0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00,
    ];
    let spki = [&head[..], &[7; 32]].concat();
    put("key", "spki", &spki);
    let pem = format!(
        "-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n",
        STANDARD.encode(&spki)
    );
    put("key", "public", pem.as_bytes());
    Ok(inputs)
}

fn main() -> Result<(), Box<dyn Error>> {
    for (target, name, bytes) in inputs()? {
        fs::create_dir_all(format!("corpus/{target}"))?;
        fs::write(format!("corpus/{target}/{name}"), bytes)?;
    }
    Ok(())
}
