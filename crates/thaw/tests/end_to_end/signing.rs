//! Who may speak for an image: signatures in each of cosign's formats, made with openssl, and what
//! they change.

use std::fs;
use std::io::Cursor;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tempfile::TempDir;
use thaw_image::{Digest, media};
use thaw_registry::{Client, Descriptor, Manifest, ManifestContent, Repository, Which};
use thaw_testkit::far::Far;
use thaw_testkit::image::Compression;
use thaw_testkit::process;
use thaw_testkit::scratch;
use thaw_testkit::thaw::Thaw;

use crate::support::{Scene, image, json, kill_daemon, refused, target, thaw};

/// A directory with key pairs and configurations.
pub(crate) struct Keys(TempDir);

impl Keys {
    pub(crate) fn new(names: &[&str]) -> Self {
        let keys = Self(scratch::directory().unwrap());
        for name in names {
            let (private, public) = (keys.private(name), keys.public(name));
            openssl(
                &[
                    "genpkey",
                    "-algorithm",
                    "EC",
                    "-pkeyopt",
                    "ec_paramgen_curve:P-256",
                ],
                &["-out", &private],
            );
            openssl(&["pkey", "-in", &private, "-pubout"], &["-out", &public]);
        }
        keys
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).to_str().unwrap().to_owned()
    }

    pub(crate) fn private(&self, name: &str) -> String {
        self.path(&format!("{name}.pem"))
    }

    fn public(&self, name: &str) -> String {
        self.path(&format!("{name}.pub"))
    }

    /// As cosign signs, with SHA-256.
    fn sign(&self, name: &str, message: &[u8]) -> String {
        let (file, signature) = (self.path("message"), self.path("signature"));
        fs::write(&file, message).unwrap();
        let private = self.private(name);
        openssl(
            &["dgst", "-sha256", "-sign", &private],
            &["-out", &signature, &file],
        );
        STANDARD.encode(fs::read(signature).unwrap())
    }

    /// A configuration that trusts these keys for all images.
    pub(crate) fn config(&self, names: &[&str], more: &str) -> String {
        let keys: Vec<String> = names.iter().map(|name| format!("\"{name}.pub\"")).collect();
        let path = self.path("config.toml");
        let keys = keys.join(", ");
        fs::write(&path, format!("[[trust]]\nkeys = [{keys}]\n{more}\n")).unwrap();
        path
    }
}

fn openssl(args: &[&str], more: &[&str]) {
    process::run(Command::new("openssl").args(args).args(more)).unwrap();
}

/// An accelerated image, and its repository from within.
pub(crate) struct Signed {
    pub(crate) scene: Scene,
    repository: Arc<dyn Repository>,
    acceleration: Manifest,
}

impl Signed {
    fn new() -> Self {
        Self::of(Scene::accelerated())
    }

    pub(crate) fn of(scene: Scene) -> Self {
        let client = Client::new(thaw_registry::Settings::default()).unwrap();
        let repository = client.open(&scene.image.parse().unwrap()).unwrap();
        let listed = repository.referrers(&scene.layout.digest(), &[media::ACCELERATION]);
        let acceleration = Which::Digest(listed.unwrap()[0].digest);
        let acceleration = repository.manifest(&acceleration).unwrap();
        Self {
            scene,
            repository,
            acceleration,
        }
    }

    fn digest(&self) -> Digest {
        *self.acceleration.digest()
    }

    /// Has the acceleration say something else.
    pub(crate) fn forge(&self, change: impl FnOnce(&mut ManifestContent)) {
        let mut content = self.acceleration.content().unwrap();
        change(&mut content);
        let forged = Manifest::parse(content.to_bytes(), None).unwrap();
        self.repository.delete_manifest(&self.digest()).unwrap();
        self.repository.add_referrer(&forged).unwrap();
    }

    /// The image by its digest alone.
    pub(crate) fn pinned(&self) -> String {
        let (name, _) = self.scene.image.rsplit_once(':').unwrap();
        format!("{name}@{}", self.scene.layout.digest())
    }

    pub(crate) fn put(&self, media_type: &str, bytes: &[u8]) -> Descriptor {
        let descriptor = Descriptor::of(media_type, bytes);
        self.repository
            .put_blob(&descriptor, &mut Cursor::new(bytes))
            .unwrap();
        descriptor
    }

    /// Puts payloads and their signatures under the tag of the acceleration's signatures.
    fn tag(&self, signatures: &[(Vec<u8>, String)]) {
        let layers = signatures.iter().map(|(payload, signature)| {
            self.put(media::SIMPLE_SIGNING, payload)
                .annotated(media::ANNOTATION_SIGNATURE, signature.as_str())
        });
        let mut content =
            ManifestContent::artifact("", Descriptor::of(media::MANIFEST, b""), layers.collect());
        content.config = self.put("application/vnd.oci.image.config.v1+json", b"{}");
        (content.subject, content.artifact_type) = (None, None);
        let tag = format!("sha256-{}.sig", self.digest().hex());
        let manifest = Manifest::parse(content.to_bytes(), None).unwrap();
        self.repository.put_manifest(Some(&tag), &manifest).unwrap();
    }

    /// Puts a bundle among the acceleration's referrers.
    fn refer(&self, bundle: &Value) {
        let layer = self.put(media::SIGSTORE_BUNDLE, bundle.to_string().as_bytes());
        self.put(media::EMPTY, media::EMPTY_CONTENT);
        let subject = self.acceleration.descriptor().unwrap();
        let subject = Descriptor::new(&subject.media_type, subject.digest, subject.size);
        let content = ManifestContent::artifact(media::SIGSTORE_BUNDLE, subject, vec![layer]);
        let manifest = Manifest::parse(content.to_bytes(), None).unwrap();
        self.repository.add_referrer(&manifest).unwrap();
    }

    /// How a node would start the pinned image, with a configuration.
    fn way(&self, config: &str) -> (String, String) {
        let node = thaw();
        way(&node, config, &self.pinned())
    }

    fn assert_refused(&self, config: &str, reason: &str) {
        let (how, why) = self.way(config);
        assert_eq!(how, "refused", "{why}");
        assert!(why.contains(reason), "{why}");
    }
}

/// `mount`, and undone: how, and why. Where an acceleration may be used it is.
fn way(node: &Thaw, config: &str, image: &str) -> (String, String) {
    mounted(node, config, image, "lazy").unwrap_or_else(|said| ("refused".to_owned(), said))
}

/// The same as it is without `--pull`, where nothing but a full pull is possible.
pub(crate) fn full(node: &Thaw, config: &str, image: &str) -> String {
    let (how, why) = mounted(node, config, image, "auto").unwrap();
    assert_eq!(how, "full", "{why}");
    why
}

fn mounted(node: &Thaw, config: &str, image: &str, pull: &str) -> Result<(String, String), String> {
    let dir = target(node);
    let mount = [
        "--config", config, "mount", "--json", "--pull", pull, image, &dir,
    ];
    let output = node.output(mount).unwrap();
    if !output.status.success() {
        return Err(String::from_utf8(output.stderr).unwrap());
    }
    let message = fs::read_to_string(format!("{dir}/srv/message")).unwrap();
    assert_eq!(message, "read from the second layer\n");
    node.run(["unmount", &dir]).unwrap();
    let way = &json(std::str::from_utf8(&output.stdout).unwrap())["way"];
    let text = |key: &str| way[key].as_str().unwrap().to_owned();
    Ok((text("how"), text("why")))
}

fn payload(digest: &Digest) -> Vec<u8> {
    json!({
        "critical": {
            "identity": { "docker-reference": "registry.example/whatever" },
            "image": { "docker-manifest-digest": digest.to_string() },
            "type": "cosign container image signature",
        },
        "optional": null,
    })
    .to_string()
    .into_bytes()
}

fn bundle(content: &str, value: &Value) -> Value {
    json!({
        "mediaType": media::SIGSTORE_BUNDLE,
        "verificationMaterial": { "publicKey": { "hint": "" } },
        content: value,
    })
}

fn statement(keys: &Keys, key: &str, digest: &Digest) -> Value {
    let statement = json!({
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{ "digest": { "sha256": digest.hex() } }],
        "predicateType": "https://sigstore.dev/cosign/sign/v1",
        "predicate": {},
    })
    .to_string();
    let kind = "application/vnd.in-toto+json";
    let message = format!(
        "DSSEv1 {} {kind} {} {statement}",
        kind.len(),
        statement.len()
    );
    bundle(
        "dsseEnvelope",
        &json!({
            "payload": STANDARD.encode(&statement),
            "payloadType": kind,
            "signatures": [{ "sig": keys.sign(key, message.as_bytes()) }],
        }),
    )
}

fn message(keys: &Keys, key: &str, manifest: &Manifest) -> Value {
    bundle(
        "messageSignature",
        &json!({
            "messageDigest": { "algorithm": "SHA2_256", "digest": "" },
            "signature": keys.sign(key, manifest.bytes()),
        }),
    )
}

#[test]
fn a_pinned_digest_is_started_lazily_by_a_signature_in_each_format() {
    let keys = Keys::new(&["ours", "theirs"]);
    let config = keys.config(&["ours"], "");
    type Put = fn(&Signed, &Keys, &str);
    let formats: [Put; 3] = [
        |signed, keys, key| {
            let payload = payload(&signed.digest());
            let signature = keys.sign(key, &payload);
            signed.tag(&[(payload, signature)]);
        },
        |signed, keys, key| signed.refer(&statement(keys, key, &signed.digest())),
        |signed, keys, key| signed.refer(&message(keys, key, &signed.acceleration)),
    ];
    for put in formats {
        let signed = Signed::new();
        signed.assert_refused(
            &keys.config(&[], "require-signature = true"),
            "no key is configured",
        );
        keys.config(&["ours"], "");
        signed.assert_refused(&config, "it is not signed");
        put(&signed, &keys, "theirs");
        signed.assert_refused(&config, "a signature by none of the configured keys");
        put(&signed, &keys, "ours");
        let (how, why) = signed.way(&config);
        assert_eq!(how, "lazy", "{why}");
        let by = format!("signed by {}", keys.public("ours"));
        assert!(why.contains(&by), "{why}");
    }
}

#[test]
fn what_is_no_signature_of_this_acceleration_is_passed_over() {
    let keys = Keys::new(&["ours"]);
    let config = keys.config(&["ours"], "");
    let signed = Signed::new();
    let digest = signed.digest();
    let (good, other) = (payload(&digest), payload(&Digest::of(b"another")));
    let signature = keys.sign("ours", &good);
    // Of another artifact by the same key: copied here, as it is and with the right payload.
    let copied = keys.sign("ours", &other);
    signed.tag(&[(other.clone(), copied.clone())]);
    signed.assert_refused(&config, "the signature is of another artifact, sha256:");
    signed.tag(&[(good.clone(), copied)]);
    signed.assert_refused(&config, "a signature by none of the configured keys");
    signed.tag(&[(good[..good.len() - 1].to_vec(), signature.clone())]);
    signed.assert_refused(&config, "a signature by none of the configured keys");
    signed.tag(&[(good.clone(), signature[..20].to_owned())]);
    signed.assert_refused(&config, "a signature by none of the configured keys");
    // Larger than any: it is not fetched.
    let mut huge = good.clone();
    huge.resize(300 << 10, b' ');
    let huge_signature = keys.sign("ours", &huge);
    signed.tag(&[(huge.clone(), huge_signature)]);
    signed.assert_refused(&config, "larger than the limit");
    let fetched = signed.scene.registry.requests();
    let path = Digest::of(&huge).to_string();
    assert!(
        !fetched
            .iter()
            .any(|it| it.method == "GET" && it.uri.contains(&path))
    );
    signed.refer(&statement(&keys, "ours", &Digest::of(b"another")));
    signed.assert_refused(&config, "the signature is of another artifact");

    // Of very many the newest are looked at.
    let foreign = |number: usize| {
        let payload = payload(&Digest::of(number.to_string().as_bytes()));
        (payload, STANDARD.encode([7; 70]))
    };
    let mut many: Vec<_> = (0..40).map(foreign).collect();
    many.insert(0, (good.clone(), signature.clone()));
    signed.tag(&many);
    signed.assert_refused(&config, "a signature by none of the configured keys");
    many.push((good, signature));
    signed.tag(&many);
    let (how, why) = signed.way(&config);
    assert_eq!(how, "lazy", "{why}");
}

#[test]
fn a_signature_of_one_image_is_none_of_another() {
    let keys = Keys::new(&["ours"]);
    let config = keys.config(&["ours"], "");
    let victim = Signed::new();
    // Another image in the same repository, with an acceleration that is rightly signed.
    let name = victim.scene.image.rsplit_once(':').unwrap().0;
    let directory = scratch::directory().unwrap();
    let other = image(Compression::Gzip(6)).config("Env", json!(["PATH=/bin", "EVIL=1"]));
    let other = other
        .write(&directory.path().join("layout"), "latest")
        .unwrap();
    let tag = format!("{}:evil", name.split_once('/').unwrap().1);
    let other = other.push(&victim.scene.registry, &tag).unwrap();
    let said = json(
        &thaw()
            .run([
                "accelerate",
                "--json",
                "--sign",
                &keys.private("ours"),
                &other,
            ])
            .unwrap(),
    );
    let foreign: Digest = said[0]["acceleration"].as_str().unwrap().parse().unwrap();
    let (how, why) = {
        let node = thaw();
        way(
            &node,
            &config,
            &format!("{name}@{}", said[0]["manifest"].as_str().unwrap()),
        )
    };
    assert_eq!(how, "lazy", "{why}");
    // Entered among the victim's, under the victim's tag of signatures, and as if it were its own.
    let manifest = victim.repository.manifest(&Which::Digest(foreign)).unwrap();
    let mut content = manifest.content().unwrap();
    let signatures = format!("sha256-{}.sig", foreign.hex());
    let signatures = victim.repository.manifest(&Which::Tag(signatures)).unwrap();
    let stolen = format!("sha256-{}.sig", victim.digest().hex());
    victim
        .repository
        .put_manifest(Some(&stolen), &signatures)
        .unwrap();
    victim.assert_refused(&config, "the signature is of another artifact");
    content.subject = victim.acceleration.content().unwrap().subject;
    let changed = Manifest::parse(content.to_bytes(), None).unwrap();
    victim.repository.add_referrer(&changed).unwrap();
    let stolen = format!("sha256-{}.sig", changed.digest().hex());
    victim
        .repository
        .put_manifest(Some(&stolen), &signatures)
        .unwrap();
    victim.assert_refused(&config, "the signature is of another artifact");
}

#[test]
fn what_accelerate_signs_openssl_verifies_and_a_pinned_start_takes() {
    let keys = Keys::new(&["ours"]);
    let scene = Scene::new();
    let private = keys.private("ours");
    let accelerate = |more: &[&str]| {
        let all = [
            &["accelerate", "--json", "--sign", &private],
            more,
            &[&scene.image],
        ]
        .concat();
        json(&thaw().run(all).unwrap())
    };
    let said = accelerate(&[]);
    assert_eq!(said[0]["signed_by"], private.as_str(), "{said}");
    assert_eq!(said[0]["guessed"]["signed_by"], private.as_str(), "{said}");
    let signed = Signed::of(scene);
    let tag = Which::Tag(format!("sha256-{}.sig", signed.digest().hex()));
    let signatures = signed.repository.manifest(&tag).unwrap().content().unwrap();
    let [layer] = signatures.layers.as_slice() else {
        panic!("{signatures:?}")
    };
    let payload = signed.scene.registry.blob(&layer.digest);
    let signature = STANDARD
        .decode(&layer.annotations[media::ANNOTATION_SIGNATURE])
        .unwrap();
    let file = keys.path("signature");
    fs::write(&file, signature).unwrap();
    let public = keys.public("ours");
    let payload = payload.to_str().unwrap();
    openssl(
        &["dgst", "-sha256", "-verify", &public, "-signature", &file],
        &[payload],
    );
    let said: Value = serde_json::from_slice(&fs::read(payload).unwrap()).unwrap();
    let (name, _) = signed.scene.image.rsplit_once(':').unwrap();
    let wanted = json!({
        "critical": {
            "identity": { "docker-reference": name },
            "image": { "docker-manifest-digest": signed.digest().to_string() },
            "type": "cosign container image signature",
        },
        "optional": null,
    });
    assert_eq!(said, wanted);

    // Signed again by the same key, nothing is added.
    let all = ["accelerate", "--sign", &private, &signed.scene.image];
    let said = thaw().run(all).unwrap();
    assert!(
        said.contains(&format!("and signed with {private}")),
        "{said}"
    );
    let again = signed.repository.manifest(&tag).unwrap().content().unwrap();
    assert_eq!(again, signatures);
    let bundles = signed
        .repository
        .referrers(&signed.digest(), &[media::SIGSTORE_BUNDLE]);
    assert_eq!(bundles.unwrap().len(), 1);

    let config = keys.config(&["ours"], "require-signature = true");
    let (how, why) = signed.way(&config);
    assert_eq!(how, "lazy", "{why}");
    let by = format!("signed by {public}, with a working set");
    assert!(why.contains(&by), "{why}");
    let node = thaw();
    let inspect = [
        "--config",
        &config,
        "inspect",
        "--json",
        &signed.scene.image,
    ];
    let facts = json(&node.run(inspect).unwrap());
    assert_eq!(
        facts["acceleration"]["signed_by"],
        public.as_str(),
        "{facts}"
    );
    let inspect = ["--config", &config, "inspect", &signed.scene.image];
    let facts = node.run(inspect).unwrap();
    assert!(
        facts.contains("signed by") && facts.contains(&public),
        "{facts}"
    );
    // Each way alone does.
    let tag = format!("sha256-{}.sig", signed.digest().hex());
    signed
        .repository
        .put_manifest(Some(&tag), &signed.acceleration)
        .unwrap();
    assert_eq!(signed.way(&config).0, "lazy");

    let (_, said) = refused(
        &thaw(),
        &["accelerate", "--sign", &public, &signed.scene.image],
    );
    assert!(said.contains("no private key that signs here"), "{said}");
    let (code, said) = refused(&thaw(), &["accelerate", "--local", "--sign", &private, "x"]);
    assert!(code == 125 && said.contains("--local"), "{said}");
}

#[test]
fn where_signatures_are_required_a_tag_does_not_do() {
    let keys = Keys::new(&["ours"]);
    let signed = Signed::new();
    let (host, image) = (signed.scene.registry.host(), &signed.scene.image);
    let trusts = |pattern: &str| {
        let more = format!("repositories = [\"{pattern}\"]\nrequire-signature = true");
        keys.config(&["ours"], &more)
    };
    // A tag does where another repository requires them.
    let (how, why) = way(&thaw(), &trusts("registry.example/*"), image);
    assert_eq!(how, "lazy", "{why}");
    let config = trusts(&format!("{host}/*"));
    let node = thaw();
    let why = full(&node, &config, image);
    assert!(why.contains("it is not signed"), "{why}");
    let run = ["run", "--pull", "lazy", image];
    let (_, said) = refused(
        &thaw_with(&config),
        &[&["--config", &config][..], &run].concat(),
    );
    assert!(
        said.contains("cannot be started lazily") && said.contains("it is not signed"),
        "{said}"
    );
    // What was made here is used from then on.
    node.run(["unmount", "--all"]).unwrap();
    let (how, why) = way(&node, &config, image);
    assert_eq!((how.as_str(), why.as_str()), ("full", "all of it is here"));
    // The acceleration is signed, and its working set is not: that would be another's word on bytes.
    let payload = payload(&signed.digest());
    let signature = keys.sign("ours", &payload);
    signed.tag(&[(payload, signature)]);
    let (how, why) = way(&thaw(), &config, image);
    assert_eq!(how, "lazy", "{why}");
    assert!(!why.contains("working set"), "{why}");
    let containers = thaw();
    let run = [
        "run", "--net", "none", "--pull", "lazy", "--name", "r", image,
    ];
    containers
        .run([&["--config", &config][..], &run].concat())
        .unwrap();
    let ps = json(&containers.run(["ps", "--all", "--json"]).unwrap());
    let why = ps[0]["way"]["why"].as_str().unwrap();
    assert!(
        why.contains(&format!("signed by {}", keys.public("ours"))),
        "{why}"
    );
}

/// A node whose daemon has that configuration.
fn thaw_with(config: &str) -> Thaw {
    let node = thaw();
    node.run(["--config", config, "images"]).unwrap();
    node
}

#[test]
fn a_verdict_holds_as_long_as_its_key_is_configured() {
    let keys = Keys::new(&["ours", "theirs"]);
    let signed = Signed::new();
    let payload = payload(&signed.digest());
    let signature = keys.sign("ours", &payload);
    signed.tag(&[(payload, signature)]);
    let node = thaw();
    let pinned = signed.pinned();
    let restarted = |names: &[&str]| {
        kill_daemon(&node);
        let config = keys.config(names, "");
        way(&node, &config, &pinned)
    };
    let config = keys.config(&["theirs", "ours"], "");
    let (how, why) = way(&node, &config, &pinned);
    assert_eq!(how, "lazy", "{why}");
    // Remembered: nothing is asked.
    let signatures = || {
        let requests = signed.scene.registry.requests();
        requests
            .iter()
            .filter(|it| it.uri.ends_with(".sig"))
            .count()
    };
    let asked = signatures();
    let (how, why) = restarted(&["ours"]);
    assert!(how == "lazy" && why.contains("signed by"), "{why}");
    assert_eq!(signatures(), asked);
    let (how, why) = restarted(&["theirs"]);
    assert_eq!(how, "refused", "{why}");
    assert!(why.contains("none of the configured keys"), "{why}");
    assert!(signatures() > asked);
}

#[test]
fn what_a_tag_was_trusted_for_is_not_what_a_pinned_digest_gets() {
    let keys = Keys::new(&["ours"]);
    let config = keys.config(&["ours"], "");
    let signed = Signed::new();
    let (tag, pinned) = (&signed.scene.image, signed.pinned());
    let node = thaw();
    let dir = target(&node);
    let mount = ["--config", &config, "mount", "--json"];
    let said = node.run(mount.into_iter().chain([&**tag, &*dir])).unwrap();
    assert_eq!(json(&said)["way"]["how"], "lazy", "{said}");
    // No other start asks for signatures.
    let requests = signed.scene.registry.requests();
    let asks = |uri: &str| uri.contains(".sig") || uri.contains(&signed.digest().to_string());
    let asked: Vec<_> = requests.iter().filter(|it| asks(&it.uri)).collect();
    let before = asked.iter().filter(|it| it.uri.ends_with(".sig")).count();
    assert_eq!(before, 0, "{asked:#?}");
    let second = format!("{dir}-2");
    fs::create_dir_all(&second).unwrap();
    let (_, said) = refused(&node, &["mount", &pinned, &second]);
    assert!(
        said.contains("is not trusted for it as it is named here"),
        "{said}"
    );
    node.run(["unmount", &dir]).unwrap();
    let why = full(&node, &config, &pinned);
    assert!(why.contains("it is not signed"), "{why}");
    // The layout is this node's own by now.
    node.run(["unmount", "--all"]).unwrap();
    let (_, why) = way(&node, &config, &pinned);
    assert_eq!(why, "all of it is here");
}

#[test]
fn a_mount_is_what_it_was_made_of_whatever_the_next_daemon_remembers_of_its_image() {
    let signed = Signed::new();
    let (tag, pinned) = (&signed.scene.image, signed.pinned());
    let node = thaw();
    // With all layers here, by another image, nobody's word is remembered of them.
    let directory = scratch::directory().unwrap();
    let other = image(Compression::Gzip(6)).config("User", "33");
    let other = other.write(directory.path(), "latest").unwrap();
    node.run(["pull", &other.reference()]).unwrap();
    let dirs = ["1", "2"].map(|name| format!("{}-{name}", target(&node)));
    for dir in &dirs {
        fs::create_dir(dir).unwrap();
    }
    node.run(["mount", "--pull", "lazy", tag, &dirs[0]])
        .unwrap();
    node.run(["accelerate", "--local", tag]).unwrap();
    let memo = node.root().join("mounts");
    let memo = memo.join(format!("{}.json", signed.scene.layout.digest().hex()));
    let untrusted = || {
        let (_, said) = refused(&node, &["mount", &pinned, &dirs[1]]);
        assert!(said.contains("is not trusted for it as it is"), "{said}");
    };
    untrusted();
    kill_daemon(&node);
    untrusted();
    // By whose word it is there, nobody knows any more.
    kill_daemon(&node);
    fs::remove_file(memo).unwrap();
    untrusted();
    node.run(["mount", tag, &dirs[1]]).unwrap();
    node.run(["unmount", "--all"]).unwrap();
    node.run(["mount", "--pull", "lazy", &pinned, &dirs[1]])
        .unwrap();
    node.run(["unmount", "--all"]).unwrap();
}

#[test]
fn a_signed_start_makes_no_round_trip_more() {
    let keys = Keys::new(&["ours"]);
    let scene = Scene::new();
    thaw()
        .run(["accelerate", "--sign", &keys.private("ours"), &scene.image])
        .unwrap();
    let signed = Signed::of(scene);
    let config = keys.config(&["ours"], "");
    let far = Far::new(signed.scene.registry.host(), Duration::from_millis(60)).unwrap();
    let image = signed
        .pinned()
        .replace(signed.scene.registry.host(), &far.host());
    let node = thaw();
    let run = [
        "--config", &config, "run", "--net", "none", "--pull", "lazy", "--timing", "--json", &image,
    ];
    let output = node.output(run).unwrap();
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let line = text.lines().find(|line| line.starts_with('{')).unwrap();
    let report = &json(line)["report"];
    assert!(
        report["way"]["why"].as_str().unwrap().contains("signed by"),
        "{report}"
    );
    // Manifest; configuration and list; signatures and layout.
    assert_eq!(report["round_trips"], 3, "{:#?}", far.trips());
}
