//! Manifests, indexes and descriptors, parsed once into typed digests.
//!
//! These stand beside `oci_spec`'s because they keep what they do not know (an index that is
//! merged and pushed back must lose nothing that others put there), know SHA-256 digests only,
//! and write their maps in order: the same content gives the same bytes.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use thaw_image::{Digest, media};

use crate::fields::Fields;
use crate::{Platform, RegistryError};

/// Most bytes of a manifest (OCI distribution-spec, "Pushing Manifests").
pub const MAX_MANIFEST_BYTES: u64 = 4 << 20;
/// Most bytes of an index.
pub const MAX_INDEX_BYTES: u64 = 8 << 20;

/// What names a manifest within a repository.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Which {
    /// By tag.
    Tag(String),
    /// By digest.
    Digest(Digest),
    /// The only image of a layout, the tag `latest` of a registry's repository.
    Only,
}

impl std::fmt::Display for Which {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tag(tag) => f.write_str(tag),
            Self::Digest(digest) => digest.fmt(f),
            Self::Only => f.write_str("latest"),
        }
    }
}

/// Names some bytes (OCI image-spec, "Content Descriptors").
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", try_from = "Fields")]
pub struct Descriptor {
    /// What the bytes are.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub media_type: String,
    /// Their digest.
    pub digest: Digest,
    /// How many they are.
    pub size: u64,
    /// What an artifact manifest is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// What an image runs on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    /// Anything else.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// Fields that this program does not know, kept as they came.
    #[serde(flatten)]
    pub other: Fields,
}

impl TryFrom<Fields> for Descriptor {
    type Error = String;

    fn try_from(mut fields: Fields) -> Result<Self, String> {
        Ok(Self {
            media_type: fields.take("mediaType")?.unwrap_or_default(),
            digest: fields.need("digest")?,
            size: fields.need("size")?,
            artifact_type: fields.take("artifactType")?,
            platform: fields.take("platform")?,
            annotations: fields.take("annotations")?.unwrap_or_default(),
            other: fields,
        })
    }
}

impl Descriptor {
    /// Of `bytes`.
    #[must_use]
    pub fn of(media_type: &str, bytes: &[u8]) -> Self {
        Self::new(media_type, Digest::of(bytes), bytes.len() as u64)
    }

    /// Of bytes that are elsewhere.
    #[must_use]
    pub fn new(media_type: &str, digest: Digest, size: u64) -> Self {
        Self {
            media_type: media_type.to_owned(),
            digest,
            size,
            artifact_type: None,
            platform: None,
            annotations: BTreeMap::new(),
            other: Fields::default(),
        }
    }

    /// The same with one more annotation.
    #[must_use]
    pub fn annotated(mut self, key: &str, value: impl Into<String>) -> Self {
        self.annotations.insert(key.to_owned(), value.into());
        self
    }

    /// Whether it names a manifest list rather than one manifest.
    #[must_use]
    pub fn is_index(&self) -> bool {
        is_index(&self.media_type)
    }

    /// The same with the bytes that it names inside (OCI image-spec, "Content Descriptors", field
    /// `data`): who has the descriptor need not ask for them.
    #[must_use]
    pub fn with_data(mut self, bytes: &[u8]) -> Self {
        self.other.set_text(DATA, &STANDARD.encode(bytes));
        self
    }

    /// Takes the bytes out again. Gives how long their text was.
    pub(crate) fn drop_data(&mut self) -> usize {
        let len = self.data_len();
        self.other.remove(DATA);
        len
    }

    /// How long the text of the bytes inside is.
    pub(crate) fn data_len(&self) -> usize {
        self.other.text(DATA).map_or(0, |text| text.len())
    }

    /// The bytes that it names, where they are inside.
    #[must_use]
    pub fn data(&self) -> Option<Vec<u8>> {
        let bytes = STANDARD.decode(self.other.text(DATA)?).ok()?;
        (Digest::of(&bytes) == self.digest).then_some(bytes)
    }

    /// The manifest that it names, where its bytes are inside and are those that it names.
    #[must_use]
    pub fn embedded(&self) -> Option<Manifest> {
        Manifest::parse(self.data()?, Some(&self.media_type)).ok()
    }
}

/// The field of a descriptor that holds what it names, in base64.
const DATA: &str = "data";

/// The fields of an image or artifact manifest (OCI image-spec, "Image Manifest"; Docker's
/// schema 2 has a subset of them).
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ManifestContent {
    /// Always 2.
    pub schema_version: u32,
    /// What it is.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub media_type: String,
    /// What an artifact is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// The configuration.
    pub config: Descriptor,
    /// The layers, lowest first.
    pub layers: Vec<Descriptor>,
    /// What an artifact speaks for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Descriptor>,
    /// Anything else.
    #[serde(
        default,
        skip_serializing_if = "BTreeMap::is_empty",
        deserialize_with = "or_default"
    )]
    pub annotations: BTreeMap<String, String>,
}

impl ManifestContent {
    /// An artifact of `artifact_type` that speaks for `subject` and is made of `layers`. Its
    /// configuration is the empty object, whose blob has to be pushed too.
    #[must_use]
    pub fn artifact(artifact_type: &str, subject: Descriptor, layers: Vec<Descriptor>) -> Self {
        Self {
            schema_version: 2,
            media_type: media::MANIFEST.to_owned(),
            artifact_type: Some(artifact_type.to_owned()),
            config: Descriptor::of(media::EMPTY, media::EMPTY_CONTENT),
            layers,
            subject: Some(subject),
            annotations: BTreeMap::new(),
        }
    }

    /// The manifest's bytes: the same fields give the same bytes.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("strings, numbers and maps keyed by strings are JSON")
    }
}

/// The fields of an index (OCI image-spec, "Image Index"; Docker's manifest list).
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", try_from = "Fields")]
pub struct IndexContent {
    /// Always 2.
    pub schema_version: u32,
    /// What it is.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub media_type: String,
    /// Its manifests.
    pub manifests: Vec<Descriptor>,
    /// Fields that this program does not know, kept as they came.
    #[serde(flatten)]
    pub other: Fields,
}

impl TryFrom<Fields> for IndexContent {
    type Error = String;

    fn try_from(mut fields: Fields) -> Result<Self, String> {
        Ok(Self {
            schema_version: fields.need("schemaVersion")?,
            media_type: fields.take("mediaType")?.unwrap_or_default(),
            // Go writes an absent list as `null`.
            manifests: fields.need::<Option<_>>("manifests")?.unwrap_or_default(),
            other: fields,
        })
    }
}

impl IndexContent {
    /// An OCI index of `manifests`.
    #[must_use]
    pub fn of(manifests: Vec<Descriptor>) -> Self {
        Self {
            schema_version: 2,
            media_type: media::INDEX.to_owned(),
            manifests,
            other: Fields::default(),
        }
    }

    /// The index's bytes: the same fields give the same bytes.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("strings, numbers and maps keyed by strings are JSON")
    }
}

/// A manifest or an index: bytes whose digest is known to be right.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Manifest {
    digest: Digest,
    media_type: String,
    bytes: Vec<u8>,
}

/// Enough of any manifest to tell what it is.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Shape {
    #[serde(default)]
    media_type: Option<String>,
    #[serde(default)]
    manifests: Option<serde::de::IgnoredAny>,
    #[serde(default)]
    layers: Option<serde::de::IgnoredAny>,
}

impl Manifest {
    /// Hashes `bytes` and finds out what they are: by their own `mediaType`, else by what the
    /// registry called them, else by their fields. One that could be read both as an image and as
    /// an index is refused, since two readers would see two images (CVE-2021-41190).
    ///
    /// # Errors
    /// The reason, in words, where they are no manifest.
    pub fn parse(bytes: Vec<u8>, called: Option<&str>) -> Result<Self, String> {
        // Serde would take a list for a struct.
        if !bytes.trim_ascii_start().starts_with(b"{") {
            return Err("it is no JSON object".to_owned());
        }
        let shape: Shape = serde_json::from_slice(&bytes).map_err(|error| error.to_string())?;
        let media_type = match (shape.media_type, called, &shape.manifests) {
            (Some(own), _, _) if !own.is_empty() => own,
            (_, Some(called), _) if is_index(called) || is_manifest(called) => called.to_owned(),
            (_, _, Some(_)) => media::INDEX.to_owned(),
            _ => media::MANIFEST.to_owned(),
        };
        if shape.manifests.is_some() && shape.layers.is_some() {
            return Err("it has both layers and manifests".to_owned());
        }
        if is_index(&media_type) != shape.manifests.is_some() {
            return Err(format!("it calls itself {media_type} and looks otherwise"));
        }
        Ok(Self {
            digest: Digest::of(&bytes),
            media_type,
            bytes,
        })
    }

    /// The digest of its bytes.
    #[must_use]
    pub const fn digest(&self) -> &Digest {
        &self.digest
    }

    /// What it is.
    #[must_use]
    pub fn media_type(&self) -> &str {
        &self.media_type
    }

    /// Its bytes, as they were pushed.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Whether it lists manifests rather than layers.
    #[must_use]
    pub fn is_index(&self) -> bool {
        is_index(&self.media_type)
    }

    /// Its descriptor, with the artifact type and annotations that a list of referrers shows.
    ///
    /// # Errors
    /// [`RegistryError::Malformed`] where its fields are not a manifest's.
    pub fn descriptor(&self) -> Result<Descriptor, RegistryError> {
        let mut descriptor =
            Descriptor::new(&self.media_type, self.digest, self.bytes.len() as u64);
        if !self.is_index() {
            let content = self.content()?;
            let kind = content.artifact_type;
            descriptor.artifact_type = kind.or(Some(content.config.media_type));
            descriptor.annotations = content.annotations;
        }
        Ok(descriptor)
    }

    /// The fields of an image or artifact manifest.
    ///
    /// # Errors
    /// [`RegistryError::Malformed`] where it has not the fields, or is an index.
    pub fn content(&self) -> Result<ManifestContent, RegistryError> {
        serde_json::from_slice(&self.bytes).map_err(|error| self.malformed(&error))
    }

    /// The fields of an index.
    ///
    /// # Errors
    /// [`RegistryError::Malformed`] where it has not the fields, or is no index.
    pub fn index(&self) -> Result<IndexContent, RegistryError> {
        serde_json::from_slice(&self.bytes).map_err(|error| self.malformed(&error))
    }

    fn malformed(&self, error: &serde_json::Error) -> RegistryError {
        RegistryError::Malformed {
            place: "the registry".to_owned(),
            what: format!("manifest {}", self.digest),
            reason: error.to_string(),
        }
    }
}

fn is_index(media_type: &str) -> bool {
    matches!(media_type, media::INDEX | media::DOCKER_INDEX)
}

fn is_manifest(media_type: &str) -> bool {
    matches!(media_type, media::MANIFEST | media::DOCKER_MANIFEST)
}

/// Go writes an absent map or list as `null`.
fn or_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Option::deserialize(deserializer).map(Option::unwrap_or_default)
}

/// Checks that `bytes` are those that `expected` names.
pub(crate) fn check_digest(
    place: &str,
    what: &str,
    bytes: &[u8],
    expected: &Digest,
) -> Result<(), RegistryError> {
    let actual = Digest::of(bytes);
    if actual == *expected {
        return Ok(());
    }
    Err(RegistryError::Mismatch {
        place: place.to_owned(),
        what: what.to_owned(),
        expected: *expected,
        actual,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    const INDEX_TEXT: &str = r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","size":0,"annotations":{"b":"2","a":"1"},"urls":["https://x.example"]}],"subject":{"x":1}}"#;

    #[test]
    fn an_index_keeps_what_it_does_not_know() {
        let index = Manifest::parse(INDEX_TEXT.into(), None)
            .unwrap()
            .index()
            .unwrap();
        let again: Value = serde_json::from_slice(&index.to_bytes()).unwrap();
        assert_eq!(again, serde_json::from_str::<Value>(INDEX_TEXT).unwrap());
        // As text: what it says is not even looked at.
        let unread = INDEX_TEXT.replace(r#"{"x":1}"#, r#"{"x": 1e999, "x":[[ ]]}"#);
        let index = Manifest::parse(unread.into(), None).unwrap().index();
        let again = String::from_utf8(index.unwrap().to_bytes()).unwrap();
        assert!(
            again.contains(r#""subject":{"x": 1e999, "x":[[ ]]}"#),
            "{again}"
        );
    }

    #[test]
    fn a_manifest_is_one_thing() {
        let parse = |text: &str, called| Manifest::parse(text.into(), called);
        let both = r#"{"schemaVersion":2,"manifests":[],"layers":[]}"#;
        assert!(parse(both, Some(media::INDEX)).is_err());
        let list = r#"{"schemaVersion":2,"manifests":[]}"#;
        assert!(parse(list, Some(media::MANIFEST)).is_err());
        assert!(parse(list, Some("text/plain")).unwrap().is_index());
        assert!(parse(list, Some(media::DOCKER_INDEX)).unwrap().is_index());
        let twice = r#"{"schemaVersion":2,"manifests":[],"x":1,"x":2}"#;
        let twice = parse(twice, None).unwrap().index().unwrap_err();
        assert!(twice.to_string().contains("there twice"), "{twice}");
        assert!(parse("[]", None).is_err());
        assert!(parse("", None).is_err());
    }

    proptest::proptest! {
        #[test]
        fn any_document_is_read_or_refused(text in r#"[{}\[\]:,"0-9a-z]{0,60}"#) {
            let wrapped = format!(r#"{{"schemaVersion":2,"layers":[{text}],"config":{{{text}}}}}"#);
            for text in [text, wrapped] {
                if let Ok(manifest) = Manifest::parse(text.into_bytes(), None) {
                    let _ = (manifest.content(), manifest.index(), manifest.descriptor());
                }
            }
        }
    }

    #[test]
    fn an_artifact_describes_itself() {
        let subject = Descriptor::of(media::MANIFEST, b"image");
        let mut content = ManifestContent::artifact(media::ACCELERATION, subject, Vec::new());
        content.annotations.insert("k".into(), "v".into());
        let bytes = content.to_bytes();
        let descriptor = Manifest::parse(bytes.clone(), None)
            .unwrap()
            .descriptor()
            .unwrap();
        assert_eq!(
            descriptor.artifact_type.as_deref(),
            Some(media::ACCELERATION)
        );
        assert_eq!(descriptor.annotations["k"], "v");
        assert_eq!(descriptor.digest, Digest::of(&bytes));
        assert_eq!(bytes, content.to_bytes());
    }
}
