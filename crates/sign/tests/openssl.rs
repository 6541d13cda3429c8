//! Signatures, with `openssl` as the other side: it signs as cosign does, and judges ours.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tempfile::TempDir;
use thaw_image::Digest;
use thaw_sign::{
    Artifact, Claim, MAX_CLAIM_BYTES, PREDICATE_SIGN, PrivateKey, PublicKey, Refusal, bundle,
    payload, verify,
};

const MANIFEST: &[u8] = br#"{"schemaVersion":2,"layers":[]}"#;
const STATEMENT_TYPE: &str = "application/vnd.in-toto+json";

fn openssl(args: &[&str]) {
    let output = Command::new("openssl").args(args).output();
    let output = output.expect("openssl is needed: cargo xtask setup");
    assert!(output.status.success(), "{args:?}: {output:?}");
}

/// A key pair in files of its own.
struct Pair {
    directory: TempDir,
    /// How openssl hashes for it, and what else it is told.
    options: &'static [&'static str],
}

impl Pair {
    fn new(kind: &[&str], options: &'static [&'static str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let pair = Self { directory, options };
        let private = pair.path("private.pem");
        let private = private.to_str().unwrap();
        openssl(&[&["genpkey"], kind, &["-out", private]].concat());
        let public = pair.path("public.pem");
        openssl(&[
            "pkey",
            "-in",
            private,
            "-pubout",
            "-out",
            public.to_str().unwrap(),
        ]);
        pair
    }

    fn p256() -> Self {
        let kind = ["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"];
        Self::new(&kind, &["-digest", "sha256"])
    }

    fn ed25519() -> Self {
        Self::new(&["-algorithm", "ED25519"], &[])
    }

    fn rsa(options: &'static [&'static str]) -> Self {
        let kind = ["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"];
        Self::new(&kind, options)
    }

    /// Of every kind that is verified.
    fn all() -> Vec<Self> {
        const PSS: &[&str] = &[
            "-digest",
            "sha256",
            "-pkeyopt",
            "rsa_padding_mode:pss",
            "-pkeyopt",
            "rsa_pss_saltlen:digest",
        ];
        let p384 = ["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-384"];
        vec![
            Self::p256(),
            Self::new(&p384, &["-digest", "sha256"]),
            Self::new(&p384, &["-digest", "sha384"]),
            Self::ed25519(),
            Self::rsa(&["-digest", "sha256"]),
            Self::rsa(PSS),
        ]
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn public(&self) -> PublicKey {
        PublicKey::read(&self.path("public.pem")).unwrap()
    }

    fn private(&self) -> PrivateKey {
        PrivateKey::read(&self.path("private.pem")).unwrap()
    }

    /// What openssl makes of `message`.
    fn pkeyutl(&self, message: &[u8], mode: &[&str]) {
        let file = self.path("message");
        fs::write(&file, message).unwrap();
        let all = [
            &["pkeyutl", "-rawin"],
            self.options,
            mode,
            &["-in", file.to_str().unwrap()],
        ];
        openssl(&all.concat());
    }

    /// A signature by openssl.
    fn sign(&self, message: &[u8]) -> Vec<u8> {
        let (key, out) = (self.path("private.pem"), self.path("signature"));
        let (key, out) = (key.to_str().unwrap(), out.to_str().unwrap());
        self.pkeyutl(message, &["-sign", "-inkey", key, "-out", out]);
        fs::read(out).unwrap()
    }

    /// Has openssl check a signature.
    fn check(&self, message: &[u8], signature: &[u8]) {
        let (key, file) = (self.path("public.pem"), self.path("signature"));
        fs::write(&file, signature).unwrap();
        let (key, file) = (key.to_str().unwrap(), file.to_str().unwrap());
        self.pkeyutl(
            message,
            &["-verify", "-pubin", "-inkey", key, "-sigfile", file],
        );
    }

    /// A simple signing claim over `payload`.
    fn simple(&self, payload: &[u8]) -> Claim {
        Claim::Simple {
            payload: payload.to_vec(),
            signature: STANDARD.encode(self.sign(payload)),
        }
    }

    /// A bundle with the signature over `message`.
    fn message(&self, message: &[u8]) -> Claim {
        let digest = Digest::of(message);
        as_bundle(
            "messageSignature",
            json!({
                "messageDigest": { "algorithm": "SHA2_256", "digest": STANDARD.encode(digest.as_bytes()) },
                "signature": STANDARD.encode(self.sign(message)),
            }),
        )
    }

    /// A bundle with an envelope around `payload`.
    fn envelope(&self, payload_type: &str, payload: &[u8]) -> Claim {
        let signature = self.sign(&pre_authentication(payload_type, payload));
        as_bundle(
            "dsseEnvelope",
            json!({
                "payload": STANDARD.encode(payload),
                "payloadType": payload_type,
                "signatures": [{ "sig": STANDARD.encode(signature), "keyid": "" }],
            }),
        )
    }

    fn statement(&self, statement: &Value) -> Claim {
        self.envelope(STATEMENT_TYPE, statement.to_string().as_bytes())
    }
}

fn as_bundle(content: &str, value: Value) -> Claim {
    let mut bundle = json!({
        "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
        "verificationMaterial": { "publicKey": { "hint": "?" }, "tlogEntries": [] },
    });
    bundle[content] = value;
    Claim::Bundle(bundle.to_string().into_bytes())
}

/// DSSE's, written down a second time.
fn pre_authentication(kind: &str, payload: &[u8]) -> Vec<u8> {
    let head = format!("DSSEv1 {} {} {} ", kind.len(), kind, payload.len());
    [head.as_bytes(), payload].concat()
}

/// What cosign writes for an artifact of `localhost:5000/app`.
fn cosign_payload(digest: &str) -> Vec<u8> {
    format!(
        "{{\"critical\":{{\"identity\":{{\"docker-reference\":\"localhost:5000/app\"}},\
         \"image\":{{\"docker-manifest-digest\":\"{digest}\"}},\
         \"type\":\"cosign container image signature\"}},\"optional\":null}}"
    )
    .into_bytes()
}

fn statement(hex: &str) -> Value {
    json!({
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{ "digest": { "sha256": hex }, "annotations": {} }],
        "predicateType": PREDICATE_SIGN,
        "predicate": {},
    })
}

fn verified(claim: &Claim, keys: &[&PublicKey]) -> Result<String, Refusal> {
    verify(claim, &Artifact::of(MANIFEST), keys).map(|key| key.name().to_owned())
}

#[test]
fn what_openssl_signs_with_each_kind_of_key_is_verified() {
    let (digest, stranger) = (Digest::of(MANIFEST), Pair::p256().public());
    for pair in Pair::all() {
        let public = pair.public();
        for claim in [
            pair.simple(&cosign_payload(&digest.to_string())),
            pair.message(MANIFEST),
            pair.statement(&statement(&digest.hex())),
        ] {
            let name = verified(&claim, &[&stranger, &public]).unwrap();
            assert_eq!(name, public.name(), "{:?}", pair.options);
            let unknown = verified(&claim, &[&stranger]);
            assert_eq!(unknown, Err(Refusal::UnknownKey), "{:?}", pair.options);
        }
    }
}

#[test]
fn openssl_verifies_what_is_signed_here() {
    let digest = Digest::of(MANIFEST);
    for pair in [
        Pair::p256(),
        Pair::ed25519(),
        Pair::rsa(&["-digest", "sha256"]),
    ] {
        let private = pair.private();
        assert_eq!(private.public().id(), pair.public().id());
        let own = payload("localhost:5000/app", &digest);
        assert_eq!(own, cosign_payload(&digest.to_string()));
        pair.check(&own, &private.sign(&own).unwrap());

        let bundle = bundle(&Artifact::of(MANIFEST), &private).unwrap();
        let name = verified(&Claim::Bundle(bundle.clone()), &[&pair.public()]);
        assert_eq!(name.unwrap(), pair.public().name());
        let bundle: Value = serde_json::from_slice(&bundle).unwrap();
        let text = |value: &Value| STANDARD.decode(value.as_str().unwrap()).unwrap();
        let envelope = &bundle["dsseEnvelope"];
        let message = pre_authentication(STATEMENT_TYPE, &text(&envelope["payload"]));
        pair.check(&message, &text(&envelope["signatures"][0]["sig"]));
        let hint = text(&bundle["verificationMaterial"]["publicKey"]["hint"]);
        assert_eq!(hint, pair.public().id().as_bytes());
    }
}

#[test]
fn a_signature_says_nothing_of_anything_else() {
    let pair = Pair::p256();
    let (public, digest, other) = (pair.public(), Digest::of(MANIFEST), Digest::of(b"other"));
    let keys = [&public];
    let refused = |claim: &Claim| verified(claim, &keys).unwrap_err();

    // Of another artifact.
    let copied = pair.simple(&cosign_payload(&other.to_string()));
    assert_eq!(refused(&copied), Refusal::OtherArtifact(other.to_string()));
    let copied = pair.statement(&statement(&other.hex()));
    assert_eq!(refused(&copied), Refusal::OtherArtifact(other.hex()));
    assert_eq!(refused(&pair.message(b"other")), Refusal::UnknownKey);

    // Of another kind: a payload of another tool, and a statement about the artifact that is none.
    let text = String::from_utf8(cosign_payload(&digest.to_string())).unwrap();
    let atomic = text.replace("cosign container image", "atomic container");
    let kind = Refusal::OtherKind("atomic container signature".into());
    assert_eq!(refused(&pair.simple(atomic.as_bytes())), kind);
    let mut scan = statement(&digest.hex());
    scan["predicateType"] = "https://cosign.sigstore.dev/attestation/vuln/v1".into();
    assert!(matches!(
        refused(&pair.statement(&scan)),
        Refusal::OtherKind(_)
    ));
    let text = statement(&digest.hex()).to_string();
    let plain = pair.envelope("text/plain", text.as_bytes());
    assert!(matches!(refused(&plain), Refusal::OtherKind(_)));

    // Changed after it was signed.
    let Claim::Simple { payload, signature } = copied_text(&pair, &digest) else {
        unreachable!("it is simple")
    };
    let mut changed = payload.clone();
    *changed.last_mut().unwrap() = b' ';
    let changed = Claim::Simple {
        payload: changed,
        signature: signature.clone(),
    };
    assert_eq!(refused(&changed), Refusal::UnknownKey);

    // Said twice: two readers might read two things.
    let digest = digest.to_string();
    let twice = cosign_payload(&other.to_string());
    let twice = String::from_utf8(twice).unwrap().replace(
        "\"docker-manifest-digest\"",
        &format!("\"docker-manifest-digest\":\"{digest}\",\"docker-manifest-digest\""),
    );
    assert!(matches!(
        refused(&pair.simple(twice.as_bytes())),
        Refusal::Malformed(_)
    ));
}

fn copied_text(pair: &Pair, digest: &Digest) -> Claim {
    pair.simple(&cosign_payload(&digest.to_string()))
}

#[test]
fn what_is_cut_off_or_too_large_is_refused() {
    let pair = Pair::ed25519();
    let (public, digest) = (pair.public(), Digest::of(MANIFEST));
    let keys = [&public];
    let Claim::Bundle(bundle) = pair.statement(&statement(&digest.hex())) else {
        unreachable!("it is a bundle")
    };
    for len in 0..bundle.len() {
        assert!(verified(&Claim::Bundle(bundle[..len].to_vec()), &keys).is_err());
    }
    let Claim::Simple { payload, signature } = copied_text(&pair, &digest) else {
        unreachable!("it is simple")
    };
    for len in 0..payload.len() {
        let (payload, signature) = (payload[..len].to_vec(), signature.clone());
        assert!(verified(&Claim::Simple { payload, signature }, &keys).is_err());
    }
    for len in 0..signature.len() {
        let (payload, signature) = (payload.clone(), signature[..len].to_owned());
        assert!(verified(&Claim::Simple { payload, signature }, &keys).is_err());
    }
    let size = usize::try_from(MAX_CLAIM_BYTES).unwrap() + 1;
    // Signed rightly, and of a right shape: only the size is wrong.
    let long = [payload.as_slice(), &vec![b' '; size]].concat();
    let refusal = verified(&pair.simple(&long), &keys).unwrap_err();
    assert_eq!(refusal, Refusal::TooLarge(long.len()));
    // More signatures than are tried: those of others go before ours.
    let message = pre_authentication(STATEMENT_TYPE, b"x");
    let strangers = vec![json!({ "sig": STANDARD.encode([7; 64]) }); 1000];
    let own = json!({ "sig": STANDARD.encode(pair.sign(&message)) });
    let many = as_bundle(
        "dsseEnvelope",
        json!({
            "payload": STANDARD.encode(b"x"),
            "payloadType": STATEMENT_TYPE,
            "signatures": strangers.into_iter().chain([own]).collect::<Vec<_>>(),
        }),
    );
    assert_eq!(verified(&many, &keys), Err(Refusal::UnknownKey));
}

#[test]
fn files_that_are_no_keys_say_so() {
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = directory.path().join(name);
        fs::write(&path, text).unwrap();
        path
    };
    let public = |path: &Path| PublicKey::read(path).unwrap_err().to_string();
    let private = |path: &Path| PrivateKey::read(path).unwrap_err().to_string();
    let pair = Pair::p256();
    assert!(public(&directory.path().join("missing")).contains("cannot read the public key"));
    assert!(public(&file("text", "no key")).contains("BEGIN PUBLIC KEY"));
    assert!(public(&pair.path("private.pem")).contains("BEGIN PUBLIC KEY"));
    assert!(private(&pair.path("public.pem")).contains("BEGIN PRIVATE KEY"));
    assert!(public(&file("long", &"x".repeat(100_000))).contains("cannot read"));
    let cosign = "-----BEGIN ENCRYPTED SIGSTORE PRIVATE KEY-----\neyJ=\n-----END ENCRYPTED SIGSTORE \
                  PRIVATE KEY-----\n";
    assert!(private(&file("cosign", cosign)).contains("sign with cosign"));
    // Kinds that nothing here can check or sign with.
    let small = Pair::new(
        &["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:1024"],
        &[],
    );
    assert!(public(&small.path("public.pem")).contains("too few bits"));
    let x25519 = Pair::new(&["-algorithm", "X25519"], &[]);
    assert!(public(&x25519.path("public.pem")).contains("another kind"));
    let p384 = Pair::new(
        &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-384"],
        &[],
    );
    assert!(private(&p384.path("private.pem")).contains("P-256"));
}
