//! An image, and the OCI layout directory it is written to.

use std::fs::File;
use std::io::BufWriter;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::{Value, json};
use thaw_image::{Digest, media};

use super::Layer;
use super::layer::Blob;
use crate::http;
use crate::registry::Registry;

/// An image: layers, from the lowest up, and a configuration.
#[derive(Clone, Debug, Default)]
pub struct Image {
    layers: Vec<Layer>,
    config: serde_json::Map<String, Value>,
    docker: bool,
}

/// An OCI layout directory that holds one tagged image or index.
#[derive(Clone, Debug)]
pub struct Layout {
    directory: PathBuf,
    tag: String,
    digest: Digest,
}

impl Image {
    /// An image of these layers, from the lowest up.
    #[must_use]
    pub fn new(layers: impl IntoIterator<Item = Layer>) -> Self {
        Self {
            layers: layers.into_iter().collect(),
            ..Self::default()
        }
    }

    /// With one more layer on top.
    #[must_use]
    pub fn layer(mut self, layer: Layer) -> Self {
        self.layers.push(layer);
        self
    }

    /// Sets a field of the configuration's `config` object, e.g. `Cmd` or `ExposedPorts`
    /// (OCI image-spec, config.md).
    #[must_use]
    pub fn config(mut self, field: &str, value: impl Into<Value>) -> Self {
        self.config.insert(field.into(), value.into());
        self
    }

    /// Uses Docker's media types in place of OCI's.
    #[must_use]
    pub fn docker(mut self) -> Self {
        self.docker = true;
        self
    }

    /// Writes the image to a new layout in `directory` under `tag`, for this machine's platform.
    ///
    /// # Errors
    /// When a layer cannot be made or a file not be written.
    pub fn write(&self, directory: &Path, tag: &str) -> Result<Layout> {
        let manifest = self.write_manifest(directory, architecture())?;
        finish(directory, tag, manifest)
    }

    /// Writes blobs, configuration and manifest; gives back the manifest's descriptor.
    fn write_manifest(&self, directory: &Path, architecture: &str) -> Result<Value> {
        let blobs = directory.join("blobs/sha256");
        std::fs::create_dir_all(&blobs)
            .with_context(|| format!("cannot create {}", blobs.display()))?;
        let mut layers = Vec::new();
        for (number, layer) in self.layers.iter().enumerate() {
            let blob = write_layer(layer, &blobs);
            layers.push(blob.with_context(|| format!("cannot make layer {number}"))?);
        }
        let config = json!({
            "architecture": architecture,
            "os": "linux",
            "created": "2001-09-09T01:46:40Z",
            "config": self.config,
            "rootfs": {
                "type": "layers",
                "diff_ids": layers.iter().map(|blob| blob.diff_id.to_string()).collect::<Vec<_>>(),
            },
        });
        let (manifest_type, config_type) = if self.docker {
            (
                media::DOCKER_MANIFEST,
                "application/vnd.docker.container.image.v1+json",
            )
        } else {
            (media::MANIFEST, "application/vnd.oci.image.config.v1+json")
        };
        let descriptors = layers.iter().map(|blob| {
            let media_type = blob.compression.media_type(self.docker);
            json!({ "mediaType": media_type, "digest": blob.digest, "size": blob.size })
        });
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": manifest_type,
            "config": write_json(&blobs, &config, config_type)?,
            "layers": descriptors.collect::<Vec<_>>(),
        });
        write_json(&blobs, &manifest, manifest_type)
    }
}

/// Writes an index of one image for each architecture (`amd64`, `arm64`, …) under `tag`.
///
/// # Errors
/// As [`Image::write`].
pub fn write_index(directory: &Path, tag: &str, images: &[(&str, Image)]) -> Result<Layout> {
    let mut manifests = Vec::new();
    for (architecture, image) in images {
        let mut descriptor = image.write_manifest(directory, architecture)?;
        descriptor["platform"] = json!({ "os": "linux", "architecture": architecture });
        manifests.push(descriptor);
    }
    let index = json!({
        "schemaVersion": 2,
        "mediaType": media::INDEX,
        "manifests": manifests,
    });
    let descriptor = write_json(&directory.join("blobs/sha256"), &index, media::INDEX)?;
    finish(directory, tag, descriptor)
}

/// This machine's architecture in Go's words, as images name it.
#[must_use]
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn finish(directory: &Path, tag: &str, mut descriptor: Value) -> Result<Layout> {
    let digest = descriptor["digest"].as_str().unwrap_or_default().parse()?;
    descriptor["annotations"] = json!({ "org.opencontainers.image.ref.name": tag });
    let index = json!({
        "schemaVersion": 2,
        "mediaType": media::INDEX,
        "manifests": [descriptor],
    });
    std::fs::write(directory.join("index.json"), index.to_string())?;
    std::fs::write(
        directory.join("oci-layout"),
        r#"{"imageLayoutVersion":"1.0.0"}"#,
    )?;
    Ok(Layout {
        directory: directory.to_owned(),
        tag: tag.to_owned(),
        digest,
    })
}

fn write_layer(layer: &Layer, blobs: &Path) -> Result<Blob> {
    let temporary = blobs.join(".layer");
    let blob = layer.write(BufWriter::new(File::create(&temporary)?))?;
    std::fs::rename(&temporary, blobs.join(blob.digest.hex()))?;
    Ok(blob)
}

fn write_json(blobs: &Path, value: &Value, media_type: &str) -> Result<Value> {
    let text = value.to_string();
    let digest = Digest::of(text.as_bytes());
    std::fs::write(blobs.join(digest.hex()), &text)?;
    Ok(json!({ "mediaType": media_type, "digest": digest, "size": text.len() }))
}

impl Layout {
    /// A layout that is there already.
    ///
    /// # Errors
    /// When it is not one, or does not have the tag.
    pub fn open(directory: &Path, tag: &str) -> Result<Self> {
        let text = std::fs::read_to_string(directory.join("index.json"))
            .with_context(|| format!("{} is not an OCI layout", directory.display()))?;
        let index: Value = serde_json::from_str(&text)?;
        let manifests = index["manifests"].as_array();
        let tagged = manifests
            .into_iter()
            .flatten()
            .find(|manifest| manifest["annotations"]["org.opencontainers.image.ref.name"] == tag);
        let digest = tagged.and_then(|manifest| manifest["digest"].as_str());
        Ok(Self {
            directory: directory.to_owned(),
            tag: tag.to_owned(),
            digest: digest.with_context(|| format!("no tag {tag:?}"))?.parse()?,
        })
    }

    /// The directory.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The tag.
    #[must_use]
    pub fn tag(&self) -> &str {
        &self.tag
    }

    /// Digest of the tagged manifest or index.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// `oci:DIRECTORY:TAG`, as skopeo and thaw call it.
    #[must_use]
    pub fn reference(&self) -> String {
        format!("oci:{}:{}", self.directory.display(), self.tag)
    }

    /// The file that holds a blob.
    #[must_use]
    pub fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.directory.join("blobs/sha256").join(digest.hex())
    }

    /// A blob's bytes.
    ///
    /// # Errors
    /// When it is not there.
    pub fn blob(&self, digest: &Digest) -> Result<Vec<u8>> {
        let path = self.blob_path(digest);
        std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))
    }

    /// The tagged manifest or index, parsed.
    ///
    /// # Errors
    /// When it is not there or not JSON.
    pub fn manifest(&self) -> Result<Value> {
        Ok(serde_json::from_slice(&self.blob(&self.digest)?)?)
    }

    /// Pushes it as `repository:tag`, every byte unchanged; gives back `host/repository:tag`.
    ///
    /// # Errors
    /// When the registry refuses something.
    pub fn push(&self, registry: &Registry, name: &str) -> Result<String> {
        self.push_to(registry.host(), name)
    }

    /// [`Layout::push`] to a registry by its `host:port`, in plain HTTP.
    ///
    /// # Errors
    /// When the registry refuses something.
    pub fn push_to(&self, host: &str, name: &str) -> Result<String> {
        let (repository, tag) = name.rsplit_once(':').context("a name without a tag")?;
        let reference = format!("{host}/{name}");
        self.push_manifest(host, repository, tag, &self.manifest()?, &self.digest)
            .with_context(|| format!("cannot push {reference}"))?;
        Ok(reference)
    }

    /// What a manifest names goes before it, for a registry takes no manifest that lacks a part.
    fn push_manifest(
        &self,
        host: &str,
        repository: &str,
        tag: &str,
        manifest: &Value,
        digest: &Digest,
    ) -> Result<()> {
        for child in manifest["manifests"].as_array().into_iter().flatten() {
            let digest: Digest = child["digest"].as_str().unwrap_or_default().parse()?;
            let manifest = serde_json::from_slice(&self.blob(&digest)?)?;
            self.push_manifest(host, repository, &digest.to_string(), &manifest, &digest)?;
        }
        let layers = manifest["layers"].as_array().into_iter().flatten();
        for part in layers.chain(manifest.get("config")) {
            let digest: Digest = part["digest"].as_str().unwrap_or_default().parse()?;
            http::push_blob(host, repository, &digest, &self.blob_path(&digest))?;
        }
        let media_type = manifest["mediaType"].as_str().unwrap_or(media::MANIFEST);
        http::push_manifest(host, repository, tag, media_type, &self.blob(digest)?)
    }
}
