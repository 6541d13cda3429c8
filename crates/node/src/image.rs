//! An image, resolved: the manifest of one platform, its configuration and its layers.

use serde::{Deserialize, Serialize};
use thaw_image::{DiffId, Digest, ImageReference, oci};

/// Most layers of an image. Overlay filesystems stop at 500; this only bounds what is allocated.
const MAX_LAYERS: usize = 1024;

/// A resolved image.
#[derive(Clone, Debug)]
pub struct Image {
    /// The name under which it was asked for.
    pub reference: ImageReference,
    /// Digest of its platform's manifest.
    pub digest: Digest,
    /// Bytes of that manifest.
    pub manifest_size: u64,
    /// Media type of that manifest.
    pub media_type: String,
    /// The configuration: what to run, and the diffIDs.
    pub config: oci::ImageConfiguration,
    /// Layers, the lowest first.
    pub layers: Vec<Layer>,
}

/// One layer of an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layer {
    /// Digest of the blob.
    pub blob: Digest,
    /// Bytes of the blob.
    pub size: u64,
    /// Media type of the blob.
    pub media_type: String,
    /// Digest of the tar.
    pub diff_id: DiffId,
}

/// Why a manifest and its configuration are no image.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// The manifest is not JSON of the right shape.
    #[error("{image}: malformed manifest {digest}: {source}")]
    Manifest {
        /// Name of the image.
        image: String,
        /// Its manifest.
        digest: Digest,
        /// What is wrong.
        source: serde_json::Error,
    },
    /// The configuration is not JSON of the right shape.
    #[error("{image}: malformed configuration: {source}")]
    Config {
        /// Name of the image.
        image: String,
        /// What is wrong.
        source: serde_json::Error,
    },
    /// The two disagree, or hold what no image holds.
    #[error("{image}: {reason}")]
    Shape {
        /// Name of the image.
        image: String,
        /// What is wrong.
        reason: String,
    },
}

impl Image {
    /// Parses a manifest and its configuration, whose digests the caller has checked.
    ///
    /// # Errors
    /// [`ImageError`] when either is malformed or they disagree on the number of layers.
    pub fn parse(
        reference: &ImageReference,
        digest: Digest,
        media_type: &str,
        manifest: &[u8],
        config: &[u8],
    ) -> Result<Self, ImageError> {
        let image = || reference.to_string();
        let shape = |reason: String| ImageError::Shape {
            image: image(),
            reason,
        };
        let parsed: oci::ImageManifest =
            serde_json::from_slice(manifest).map_err(|source| ImageError::Manifest {
                image: image(),
                digest,
                source,
            })?;
        let config: oci::ImageConfiguration =
            serde_json::from_slice(config).map_err(|source| ImageError::Config {
                image: image(),
                source,
            })?;
        let diff_ids = config.rootfs().diff_ids();
        if diff_ids.len() != parsed.layers().len() {
            let counts = (parsed.layers().len(), diff_ids.len());
            return Err(shape(format!(
                "{} layers but {} diffIDs",
                counts.0, counts.1
            )));
        }
        if diff_ids.is_empty() || diff_ids.len() > MAX_LAYERS {
            return Err(shape(format!(
                "{} layers; 1 to {MAX_LAYERS} are possible",
                diff_ids.len()
            )));
        }
        let layers = parsed
            .layers()
            .iter()
            .zip(diff_ids)
            .map(|(descriptor, diff_id)| {
                let blob = descriptor.digest().to_string().parse();
                let diff_id = diff_id.parse();
                Ok(Layer {
                    blob: blob.map_err(|error| shape(format!("a layer: {error}")))?,
                    size: descriptor.size(),
                    media_type: descriptor.media_type().to_string(),
                    diff_id: DiffId(diff_id.map_err(|error| shape(format!("a diffID: {error}")))?),
                })
            })
            .collect::<Result<Vec<Layer>, ImageError>>()?;
        // So that nobody who adds some of them up has to think of it.
        let sum = |sum: u64, layer: &Layer| sum.checked_add(layer.size);
        let sum = layers.iter().try_fold(0, sum);
        if sum.is_none_or(|sum| sum > i64::MAX as u64) {
            return Err(shape("layers of more than 8 EiB together".to_owned()));
        }
        Ok(Self {
            reference: reference.clone(),
            digest,
            manifest_size: manifest.len() as u64,
            media_type: media_type.to_owned(),
            config,
            layers,
        })
    }

    /// Bytes of all layer blobs: what a full pull moves.
    #[must_use]
    pub fn compressed_size(&self) -> u64 {
        self.layers.iter().map(|layer| layer.size).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_sizes(sizes: &[u64]) -> Result<Image, ImageError> {
        let digest = Digest::of(b"layer").to_string();
        let layer = |size: &u64| {
            let media_type = "application/vnd.oci.image.layer.v1.tar+gzip";
            serde_json::json!({ "mediaType": media_type, "digest": digest, "size": size })
        };
        let layers: Vec<_> = sizes.iter().map(layer).collect();
        let manifest = serde_json::json!({
            "schemaVersion": 2,
            "config": {
                "mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest, "size": 2,
            },
            "layers": layers,
        });
        let config = serde_json::json!({
            "architecture": "amd64", "os": "linux",
            "rootfs": { "type": "layers", "diff_ids": vec![&digest; sizes.len()] },
        });
        let reference = "example.com/image:1".parse().unwrap();
        let [manifest, config] = [manifest, config].map(|it| it.to_string().into_bytes());
        let digest = Digest::of(&manifest);
        Image::parse(&reference, digest, "", &manifest, &config)
    }

    #[test]
    fn sizes_that_cannot_be_added_up_are_refused() {
        assert_eq!(of_sizes(&[1, 2]).unwrap().compressed_size(), 3);
        for sizes in [[u64::MAX, 1], [1 << 63, 1 << 63], [1 << 62, 1 << 62]] {
            let refused = of_sizes(&sizes).unwrap_err().to_string();
            assert!(refused.contains("8 EiB"), "{refused}");
        }
    }
}
