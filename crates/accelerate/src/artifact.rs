//! The acceleration as an OCI artifact: built from what was prepared, published beside the image,
//! found again and checked.
//!
//! ```text
//! manifest  artifactType = media::ACCELERATION, subject = the image's manifest
//!   layers  layout (zstd), [generated device (zstd)],
//!           then for each layer of the image that has one: seek table, windows
//! ```
//!
//! A layer without a seek table has no entry: its tar must be whole before the image is mounted.
//! `docs/format.md` has it byte by byte.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{self, Cursor, Read};
use std::path::PathBuf;
use std::sync::Arc;

use thaw_image::{BLOCK, DiffId, Digest, SeekTable, Verified, media};
use thaw_registry::{Descriptor, Manifest, ManifestContent, RegistryError, Repository};

use crate::layout;
use crate::merge::{Layer, MAX_GENERATED};
use crate::pipeline::{LayerRef, Prepared};

/// zstd level of layout and generated device: packed once, fetched on every first start.
const LEVEL: i32 = 9;
/// Most bytes of an unpacked layout: it is held in memory, and what is made here takes no more with all
/// that it is made of ([`thaw_layer::Options::max_memory`]). That of TensorFlow has 12 MB. How many times
/// the packed bytes they are says nothing: a layout of many like files packs to very little.
const MAX_LAYOUT: u64 = 256 << 20;
/// Most bytes that are reserved before any were unpacked.
const FIRST_CAPACITY: usize = 16 << 20;
/// Most bytes of the tars of all layers: of each block a node has a bit in memory and on the disk before any
/// of it is fetched, which makes 64 MiB of these.
const MAX_TARS: u64 = 256 << 30;
/// Most bytes of the seek tables of all layers. Those of that many bytes of tar have 38 MiB, or 75 MiB where
/// the layers are not compressed.
const MAX_TABLES: u64 = 128 << 20;
/// Most bytes of a windows blob.
const MAX_WINDOWS: u64 = 64 << 30;

/// Where a layer's seek table is.
#[derive(Clone, PartialEq, Debug)]
pub struct TableRef {
    /// The seek table.
    pub table: Descriptor,
    /// Its windows blob; `None` where the format needs none.
    pub windows: Option<Descriptor>,
    /// Bytes of the layer's tar.
    pub tar_size: u64,
}

/// Something packed with zstd.
#[derive(Clone, PartialEq, Debug)]
pub struct Packed {
    /// The packed bytes.
    pub descriptor: Descriptor,
    /// Digest of the unpacked bytes.
    pub digest: Digest,
    /// How many they are.
    pub size: u64,
}

/// An acceleration: what its manifest says, checked against the image.
#[derive(Clone, Debug)]
pub struct Acceleration {
    /// The artifact's manifest.
    pub manifest: Manifest,
    /// The layout.
    pub layout: Packed,
    /// Content of the device behind those of the layers.
    pub generated: Option<Packed>,
    /// Seek tables by the digest of the layer blob.
    pub tables: HashMap<Digest, TableRef>,
}

/// An acceleration that was made here, with its blobs.
#[derive(Clone, Debug)]
pub struct Artifact {
    /// What its manifest says.
    pub acceleration: Acceleration,
    /// Its blobs.
    pub blobs: Vec<(Descriptor, BlobContent)>,
}

/// The bytes of a blob to be pushed or kept.
#[derive(Clone, Debug)]
pub enum BlobContent {
    /// In memory.
    Bytes(Arc<[u8]>),
    /// In a file.
    File(PathBuf),
}

/// Why there is no acceleration to use.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ArtifactError {
    /// The registry.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// The artifact is not what it should be.
    #[error("acceleration {manifest} is unusable: {reason}")]
    Unusable {
        /// Its manifest.
        manifest: Digest,
        /// What is wrong with it.
        reason: String,
    },
    /// Nobody whose word counts speaks for the artifact.
    #[error("acceleration {manifest} is not trusted: {reason}")]
    Untrusted {
        /// Its manifest.
        manifest: Digest,
        /// Why not.
        reason: String,
    },
    /// It could not be packed.
    #[error("cannot pack the acceleration")]
    Pack(#[source] io::Error),
}

impl Artifact {
    /// Packs what was prepared for the image whose manifest is `subject`. The same image gives the
    /// same bytes.
    ///
    /// # Errors
    /// [`ArtifactError::Pack`].
    pub fn build(subject: &Descriptor, prepared: &Prepared) -> Result<Self, ArtifactError> {
        let mut blobs = vec![pack(media::LAYOUT, &prepared.layout.bytes)?];
        if let Some(generated) = &prepared.layout.generated {
            blobs.push(pack(media::GENERATED, generated)?);
        }
        let mut seen = HashSet::new();
        for layer in &prepared.layers {
            let Ok(index) = &layer.index else { continue };
            if !seen.insert(layer.layer.blob) {
                continue;
            }
            let table = Descriptor::of(media::SEEK_TABLE, &index.encoded)
                .annotated(media::ANNOTATION_LAYER, layer.layer.blob.to_string())
                .annotated(media::ANNOTATION_DIFF_ID, layer.layer.diff_id.to_string())
                .annotated(media::ANNOTATION_TAR_SIZE, layer.tar_size.to_string());
            blobs.push((table, BlobContent::Bytes(Arc::clone(&index.encoded))));
            let size = index.table.windows_size;
            if size > 0 {
                let windows = Descriptor::new(media::WINDOWS, index.windows, size)
                    .annotated(media::ANNOTATION_LAYER, layer.layer.blob.to_string());
                let path = index.windows_file.path().to_owned();
                blobs.push((windows, BlobContent::File(path)));
            }
        }
        let layers: Vec<Descriptor> = blobs.iter().map(|(blob, _)| blob.clone()).collect();
        let content = ManifestContent::artifact(media::ACCELERATION, subject.clone(), layers);
        let manifest = Manifest::parse(content.to_bytes(), None).map_err(|reason| {
            ArtifactError::Unusable {
                manifest: Digest::of(b""),
                reason,
            }
        })?;
        let layers: Vec<LayerRef> = prepared.layers.iter().map(|l| l.layer.clone()).collect();
        let acceleration = Acceleration::parse(manifest, &subject.digest, &layers)?;
        acceleration.check_limits()?;
        Ok(Self {
            acceleration,
            blobs,
        })
    }

    /// Pushes the blobs, then the manifest, and enters it among the image's referrers.
    ///
    /// # Errors
    /// See [`RegistryError`]. What was pushed before the failure stays, without a name.
    pub fn publish(&self, repository: &dyn Repository) -> Result<(), RegistryError> {
        let empty = Descriptor::of(media::EMPTY, media::EMPTY_CONTENT);
        repository.put_blob(&empty, &mut Cursor::new(media::EMPTY_CONTENT))?;
        for (descriptor, content) in &self.blobs {
            match content {
                BlobContent::Bytes(bytes) => {
                    repository.put_blob(descriptor, &mut Cursor::new(bytes))?;
                }
                BlobContent::File(path) => {
                    let mut file = File::open(path).map_err(|error| RegistryError::File {
                        path: path.clone(),
                        action: "open",
                        source: error,
                    })?;
                    repository.put_blob(descriptor, &mut file)?;
                }
            }
        }
        repository.add_referrer(&self.acceleration.manifest)
    }
}

impl Acceleration {
    /// Checks an artifact's manifest against the image it should speak for.
    ///
    /// # Errors
    /// [`ArtifactError::Unusable`] with what is wrong.
    pub fn parse(
        manifest: Manifest,
        subject: &Digest,
        layers: &[LayerRef],
    ) -> Result<Self, ArtifactError> {
        match parse(&manifest, subject, layers) {
            Ok((layout, generated, tables)) => Ok(Self {
                manifest,
                layout,
                generated,
                tables,
            }),
            Err(reason) => Err(ArtifactError::Unusable {
                manifest: *manifest.digest(),
                reason,
            }),
        }
    }

    /// Checks that what its layers promise together is not too much for a node. Asked before it is used
    /// for the first time: one by which an image is mounted already has to be read again, whatever was taken then.
    ///
    /// # Errors
    /// [`ArtifactError::Unusable`].
    pub fn check_limits(&self) -> Result<(), ArtifactError> {
        let sum = |of: fn(&TableRef) -> u64| {
            let sizes = self.tables.values().map(of);
            sizes.fold(0, u64::saturating_add)
        };
        if sum(|table| table.table.size) <= MAX_TABLES && sum(|table| table.tar_size) <= MAX_TARS {
            return Ok(());
        }
        Err(ArtifactError::Unusable {
            manifest: *self.manifest.digest(),
            reason: format!(
                "its seek tables are over the limit of {MAX_TABLES} bytes in all, or of {MAX_TARS} bytes of tar"
            ),
        })
    }

    /// Bytes of all its blobs and its manifest.
    #[must_use]
    pub fn size(&self) -> u64 {
        let tables = self.tables.values().map(|table| {
            table.table.size + table.windows.as_ref().map_or(0, |windows| windows.size)
        });
        let packed = self
            .generated
            .as_ref()
            .map_or(0, |packed| packed.descriptor.size);
        let own = self.manifest.bytes().len() as u64 + self.layout.descriptor.size + packed;
        own + tables.sum::<u64>()
    }
}

type Parsed = (Packed, Option<Packed>, HashMap<Digest, TableRef>);

fn parse(manifest: &Manifest, subject: &Digest, layers: &[LayerRef]) -> Result<Parsed, String> {
    let content = manifest.content().map_err(|error| error.to_string())?;
    if content.artifact_type.as_deref() != Some(media::ACCELERATION) {
        return Err("it is no acceleration".to_owned());
    }
    if content.subject.as_ref().map(|subject| subject.digest) != Some(*subject) {
        return Err(format!("it speaks for another image than {subject}"));
    }
    let diff_ids: HashMap<Digest, DiffId> = layers
        .iter()
        .map(|layer| (layer.blob, layer.diff_id))
        .collect();
    let (mut layout, mut generated) = (None, None);
    let (mut tables, mut windows) = (HashMap::new(), HashMap::new());
    for descriptor in content.layers {
        match descriptor.media_type.as_str() {
            media::LAYOUT if layout.is_none() => layout = Some(packed(descriptor, MAX_LAYOUT)?),
            media::GENERATED if generated.is_none() => {
                generated = Some(packed(descriptor, MAX_GENERATED)?);
            }
            media::SEEK_TABLE => {
                let blob: Digest = annotation(&descriptor, media::ANNOTATION_LAYER)?;
                let diff_id: Digest = annotation(&descriptor, media::ANNOTATION_DIFF_ID)?;
                let tar_size: u64 = annotation(&descriptor, media::ANNOTATION_TAR_SIZE)?;
                if diff_ids.get(&blob) != Some(&DiffId(diff_id)) {
                    return Err(format!("it has a seek table for a foreign layer {blob}"));
                }
                let entry = TableRef {
                    table: descriptor,
                    windows: None,
                    tar_size,
                };
                if tables.insert(blob, entry).is_some() {
                    return Err(format!("it has a second seek table for layer {blob}"));
                }
            }
            media::WINDOWS if descriptor.size <= MAX_WINDOWS => {
                let blob: Digest = annotation(&descriptor, media::ANNOTATION_LAYER)?;
                if windows.insert(blob, descriptor).is_some() {
                    return Err(format!("it has second windows for layer {blob}"));
                }
            }
            other => return Err(format!("it has a bad part of type {other:?}")),
        }
    }
    for (blob, table) in &mut tables {
        table.windows = windows.remove(blob);
    }
    if let Some(blob) = windows.keys().next() {
        return Err(format!(
            "it has windows for layer {blob}, and no seek table"
        ));
    }
    let layout = layout.ok_or("it has no layout")?;
    Ok((layout, generated, tables))
}

fn annotation<T: std::str::FromStr>(descriptor: &Descriptor, key: &str) -> Result<T, String> {
    let value = descriptor
        .annotations
        .get(key)
        .ok_or_else(|| format!("{key} is missing"))?;
    value.parse().map_err(|_| format!("{key} is malformed"))
}

/// A part that unpacks to no more than `limit`.
fn packed(descriptor: Descriptor, limit: u64) -> Result<Packed, String> {
    let digest = annotation(&descriptor, media::ANNOTATION_UNPACKED_DIGEST)?;
    let size = annotation(&descriptor, media::ANNOTATION_UNPACKED_SIZE)?;
    if size > limit {
        return Err(format!(
            "a part unpacks to {size} bytes, over the limit of {limit}"
        ));
    }
    // What cannot be packed grows by less than a hundredth (zstd.h, `ZSTD_COMPRESSBOUND`).
    if descriptor.size > size + size / 100 + 1024 {
        let packed = descriptor.size;
        return Err(format!(
            "a part of {size} bytes is packed into {packed}, which is more"
        ));
    }
    Ok(Packed {
        descriptor,
        digest,
        size,
    })
}

fn pack(media_type: &str, bytes: &[u8]) -> Result<(Descriptor, BlobContent), ArtifactError> {
    let packed = zstd::bulk::compress(bytes, LEVEL).map_err(ArtifactError::Pack)?;
    let descriptor = Descriptor::of(media_type, &packed)
        .annotated(media::ANNOTATION_UNPACKED_SIZE, bytes.len().to_string())
        .annotated(
            media::ANNOTATION_UNPACKED_DIGEST,
            Digest::of(bytes).to_string(),
        );
    Ok((descriptor, BlobContent::Bytes(packed.into())))
}

impl Packed {
    /// Unpacks what was fetched, never to more than it promised, and checks it.
    ///
    /// # Errors
    /// What is wrong, in words.
    pub fn unpack(&self, packed: &[u8]) -> Result<Verified, String> {
        let expected = usize::try_from(self.size).unwrap_or(usize::MAX);
        let mut bytes = Vec::with_capacity(expected.min(FIRST_CAPACITY));
        let decoder = zstd::stream::read::Decoder::new(packed).map_err(|e| e.to_string())?;
        decoder
            .take(self.size + 1)
            .read_to_end(&mut bytes)
            .map_err(|e| e.to_string())?;
        if bytes.len() as u64 != self.size {
            return Err("it does not unpack to the bytes that it promises".to_owned());
        }
        Verified::check(bytes, &self.digest).map_err(|error| error.to_string())
    }
}

impl Acceleration {
    /// Checks that the devices of an unpacked layout are the image's layers, in order, with the sizes that
    /// their tars have, and the generated device behind them, and reads all of its tree: whoever made it,
    /// no file of it points outside of its layer. The kernel checks none of this.
    ///
    /// # Errors
    /// What is wrong, in words.
    pub fn check_layout(&self, bytes: &[u8], layers: &[Layer]) -> Result<(), String> {
        let image = thaw_erofs::Image::open(bytes).map_err(|error| error.to_string())?;
        let devices = image.devices();
        let expected = layers.len() + usize::from(self.generated.is_some());
        if devices.len() != expected {
            return Err(format!(
                "it has {} devices instead of {expected}",
                devices.len()
            ));
        }
        for (device, layer) in devices.iter().zip(layers) {
            let blocks_fit = layer.tar_size.div_ceil(BLOCK) == device.blocks;
            if device.tag != layout::tag(&layer.diff_id.0) || !blocks_fit {
                return Err(format!("its devices are not the layers: {}", layer.diff_id));
            }
        }
        let generated = self.generated.as_ref().zip(devices.get(layers.len()));
        if generated.is_some_and(|(packed, device)| packed.size != device.blocks * BLOCK) {
            return Err("its generated device has another size".to_owned());
        }
        image.check().map_err(|error| error.to_string())
    }
}

/// Reads a seek table that was fetched and checks that it is of the layer it should be of.
///
/// # Errors
/// What is wrong, in words.
pub fn read_table(bytes: &[u8], blob: &Digest, table: &TableRef) -> Result<SeekTable, String> {
    let read = SeekTable::decode(bytes).map_err(|error| error.to_string())?;
    let windows = table.windows.as_ref().map_or(0, |windows| windows.size);
    if read.blob != *blob || read.tar_size != table.tar_size || read.windows_size > windows {
        return Err(format!("the seek table is not that of layer {blob}"));
    }
    Ok(read)
}
