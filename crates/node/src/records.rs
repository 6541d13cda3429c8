//! What this machine remembers of images: small JSON files, each written whole and renamed.
//!
//! ```text
//! images/refs/<sha256 of the reference>   reference → manifest, as last resolved
//! images/manifests/<manifest hex>         manifest → names, configuration, acceleration
//! images/layers/<diffid hex>              layer read whole here → size, seek table
//! ```
//!
//! A record that cannot be read is treated as absent: everything in it can be asked again.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use thaw_image::{DiffId, Digest, ImageReference};

use crate::pull::LayerRecord;

/// What a reference meant when it was last resolved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RefRecord {
    /// The reference as the user typed it, completed.
    pub(crate) reference: String,
    /// The platform it was resolved for.
    pub(crate) platform: String,
    /// The platform's manifest.
    pub(crate) manifest: Digest,
}

/// An image that is, at least in part, in the store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ImageRecord {
    /// A reference it can be fetched by.
    pub(crate) reference: String,
    /// Media type of the manifest.
    pub(crate) media_type: String,
    /// The manifest.
    pub(crate) manifest: Digest,
    /// The configuration.
    pub(crate) config: Digest,
    /// The acceleration in use.
    pub(crate) acceleration: Option<AccelerationRecord>,
    /// Working set of each profile: digest of its artifact manifest.
    #[serde(default)]
    pub(crate) working_sets: BTreeMap<String, Digest>,
    /// Last use, in seconds since 1970.
    pub(crate) used: u64,
}

/// Where an acceleration came from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct AccelerationRecord {
    /// Its artifact manifest, which is in the blob store.
    pub(crate) manifest: Digest,
    /// The repository that has its blobs; `None`: made here, all of it is in the blob store.
    pub(crate) repository: Option<String>,
}

/// The records below one directory.
#[derive(Clone, Debug)]
pub(crate) struct Records {
    refs: PathBuf,
    manifests: PathBuf,
    layers: PathBuf,
}

impl Records {
    /// Opens, or makes, the records below `root`.
    ///
    /// # Errors
    /// When the directories cannot be made.
    pub(crate) fn open(root: &Path) -> io::Result<Self> {
        let records = Self {
            refs: root.join("images/refs"),
            manifests: root.join("images/manifests"),
            layers: root.join("images/layers"),
        };
        for dir in [&records.refs, &records.manifests, &records.layers] {
            fs::create_dir_all(dir)?;
        }
        Ok(records)
    }

    /// What `reference` meant when it was last resolved for `platform`.
    #[must_use]
    pub(crate) fn reference(
        &self,
        reference: &ImageReference,
        platform: &str,
    ) -> Option<RefRecord> {
        let record: RefRecord = read(&self.ref_path(&reference.to_string(), platform))?;
        (record.reference == reference.to_string()).then_some(record)
    }

    /// Remembers what a reference means.
    ///
    /// # Errors
    /// When the record cannot be written.
    pub(crate) fn put_reference(&self, record: &RefRecord) -> io::Result<()> {
        write(&self.ref_path(&record.reference, &record.platform), record)
    }

    /// The image with this manifest.
    #[must_use]
    pub(crate) fn image(&self, manifest: &Digest) -> Option<ImageRecord> {
        read(&self.manifests.join(manifest.hex()))
    }

    /// Remembers an image.
    ///
    /// # Errors
    /// When the record cannot be written.
    pub(crate) fn put_image(&self, record: &ImageRecord) -> io::Result<()> {
        write(&self.manifests.join(record.manifest.hex()), record)
    }

    /// Forgets an image and all references to it.
    ///
    /// # Errors
    /// When a record cannot be removed.
    pub(crate) fn remove_image(&self, manifest: &Digest) -> io::Result<()> {
        for path in files(&self.refs)? {
            if read::<RefRecord>(&path).is_none_or(|record| record.manifest == *manifest) {
                fs::remove_file(path)?;
            }
        }
        match fs::remove_file(self.manifests.join(manifest.hex())) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// All images, by reference.
    ///
    /// # Errors
    /// When the directory cannot be listed.
    pub(crate) fn images(&self) -> io::Result<Vec<ImageRecord>> {
        let mut images: Vec<ImageRecord> = files(&self.manifests)?
            .iter()
            .filter_map(|path| read(path))
            .collect();
        images.sort_by(|a, b| (&a.reference, &a.manifest).cmp(&(&b.reference, &b.manifest)));
        Ok(images)
    }

    /// What is known of a layer that was read whole here.
    pub(crate) fn layer(&self, diff_id: &DiffId) -> Option<LayerRecord> {
        read(&self.layers.join(diff_id.0.hex()))
    }

    /// Remembers a layer.
    pub(crate) fn put_layer(&self, diff_id: &DiffId, record: &LayerRecord) -> io::Result<()> {
        write(&self.layers.join(diff_id.0.hex()), record)
    }

    /// Forgets a layer.
    pub(crate) fn remove_layer(&self, diff_id: &DiffId) -> io::Result<()> {
        match fs::remove_file(self.layers.join(diff_id.0.hex())) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    fn ref_path(&self, reference: &str, platform: &str) -> PathBuf {
        self.refs
            .join(Digest::of(format!("{reference} {platform}").as_bytes()).hex())
    }
}

fn files(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.path().extension().is_none() {
            paths.push(entry.path());
        }
    }
    Ok(paths)
}

fn read<T: DeserializeOwned>(path: &Path) -> Option<T> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

/// Writes `value` beside `path`, flushes it, and renames it into place.
pub(crate) fn write<T: Serialize>(path: &Path, value: &T) -> io::Result<()> {
    let bytes = serde_json::to_vec_pretty(value)?;
    let temporary = path.with_extension("new");
    fs::write(&temporary, bytes)?;
    fs::File::open(&temporary)?.sync_all()?;
    fs::rename(&temporary, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_come_back() {
        let dir = tempfile::tempdir().unwrap();
        let records = Records::open(dir.path()).unwrap();
        let reference: ImageReference = "localhost:5000/a:1".parse().unwrap();
        let manifest = Digest::of(b"m");
        let record = RefRecord {
            reference: reference.to_string(),
            platform: "linux/amd64".into(),
            manifest,
        };
        records.put_reference(&record).unwrap();
        assert_eq!(records.reference(&reference, "linux/amd64"), Some(record));
        assert_eq!(records.reference(&reference, "linux/arm64"), None);
        let image = ImageRecord {
            reference: reference.to_string(),
            media_type: "m".into(),
            manifest,
            config: Digest::of(b"c"),
            acceleration: None,
            working_sets: BTreeMap::new(),
            used: 0,
        };
        records.put_image(&image).unwrap();
        assert_eq!(records.images().unwrap(), [image]);
        records.remove_image(&manifest).unwrap();
        assert!(records.images().unwrap().is_empty());
        assert_eq!(records.reference(&reference, "linux/amd64"), None);
    }

    #[test]
    fn a_damaged_record_is_absent() {
        let dir = tempfile::tempdir().unwrap();
        let records = Records::open(dir.path()).unwrap();
        let manifest = Digest::of(b"m");
        fs::write(
            dir.path().join("images/manifests").join(manifest.hex()),
            b"{",
        )
        .unwrap();
        assert_eq!(records.image(&manifest), None);
    }
}
