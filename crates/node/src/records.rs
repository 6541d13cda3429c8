//! What this machine remembers of images: small JSON files, each written whole and renamed.
//!
//! ```text
//! images/refs/<sha256 of the reference>   reference → manifest, as last resolved
//! images/manifests/<manifest hex>         manifest → names, configuration, acceleration
//! images/layers/<diffid hex>              layer read whole here → size, seek table
//! images/words/<diffid hex>               layer → who spoke for what it has, if it is not whole
//! ```
//!
//! A record that cannot be read is treated as absent: everything in it can be asked again.

mod words;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use thaw_image::{DiffId, Digest, ImageReference};
use thaw_registry::Link;

use crate::node::lock;
use crate::pull::LayerRecord;

/// As many hex characters of a digest name one manifest.
const SHORT_MANIFEST: usize = 12;

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
    pub(crate) acceleration: Option<ArtifactRecord>,
    /// Working set of each profile.
    #[serde(default)]
    pub(crate) working_sets: BTreeMap<String, ArtifactRecord>,
    /// Profiles that have no working set, as far as the repositories were asked.
    #[serde(default)]
    pub(crate) no_working_set: BTreeSet<String>,
    /// Last use, in seconds since 1970.
    pub(crate) used: u64,
}

impl ImageRecord {
    /// Enters the working set of a profile.
    pub(crate) fn add_working_set(&mut self, profile: &str, set: ArtifactRecord) {
        self.no_working_set.remove(profile);
        let set = set.after(self.working_sets.get(profile));
        self.working_sets.insert(profile.to_owned(), set);
    }

    /// Enters the acceleration.
    pub(crate) fn set_acceleration(&mut self, acceleration: ArtifactRecord) {
        self.acceleration = Some(acceleration.after(self.acceleration.as_ref()));
    }
}

/// Where an acceleration or a working set came from, and who speaks for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct ArtifactRecord {
    /// Its artifact manifest, which is in the blob store.
    pub(crate) manifest: Digest,
    /// The repository that has its blobs; `None`: made here, all of it is in the blob store.
    pub(crate) repository: Option<String>,
    /// The key whose signature was seen. That it still counts is for the settings to say.
    pub(crate) signed: Option<Digest>,
}

impl ArtifactRecord {
    /// Of what was made here.
    pub(crate) const fn made(manifest: Digest) -> Self {
        Self {
            manifest,
            repository: None,
            signed: None,
        }
    }

    /// What is known when the same artifact was known before: that it was made here, or signed,
    /// stays true wherever it is found.
    fn after(self, before: Option<&Self>) -> Self {
        match before {
            Some(before) if before.manifest == self.manifest => Self {
                manifest: self.manifest,
                repository: before.repository.as_ref().and(self.repository),
                signed: self.signed.or(before.signed),
            },
            _ => self,
        }
    }
}

impl<'de> Deserialize<'de> for ArtifactRecord {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Form {
            Record {
                manifest: Digest,
                repository: Option<String>,
                #[serde(default)]
                signed: Option<Digest>,
            },
            /// Of a working set there was no more once; nobody is known to speak for it.
            Manifest(Digest),
        }
        Ok(match Form::deserialize(deserializer)? {
            Form::Record {
                manifest,
                repository,
                signed,
            } => Self {
                manifest,
                repository,
                signed,
            },
            Form::Manifest(manifest) => Self {
                manifest,
                repository: Some(String::new()),
                signed: None,
            },
        })
    }
}

/// What this machine has measured.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Measured {
    /// How registries are reached.
    #[serde(default)]
    pub(crate) links: BTreeMap<String, Link>,
    /// Compressed bytes per second that the last full pull made of an image; not more than the
    /// link gave.
    #[serde(default)]
    pub(crate) unpack_rate: Option<u64>,
}

/// The records below one directory.
#[derive(Clone, Debug)]
pub(crate) struct Records {
    refs: PathBuf,
    manifests: PathBuf,
    layers: PathBuf,
    words: PathBuf,
    measured: PathBuf,
    /// Written, and not durable yet.
    unsettled: Arc<Mutex<BTreeSet<PathBuf>>>,
    /// Held while a record of an image is read and written again.
    changing: Arc<Mutex<()>>,
    /// Held while they are made so, by nobody for whom a start waits.
    settling: Arc<Mutex<()>>,
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
            words: root.join("images/words"),
            measured: root.join("images/measured"),
            unsettled: Arc::default(),
            changing: Arc::default(),
            settling: Arc::default(),
        };
        let Self {
            refs,
            manifests,
            layers,
            words,
            ..
        } = &records;
        for dir in [refs, manifests, layers, words] {
            fs::create_dir_all(dir)?;
            remove_unfinished(dir)?;
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
        self.write_soon(&self.ref_path(&record.reference, &record.platform), record)
    }

    /// The image with this manifest.
    #[must_use]
    pub(crate) fn image(&self, manifest: &Digest) -> Option<ImageRecord> {
        read(&self.manifests.join(manifest.hex()))
    }

    /// Changes what is remembered of an image: nothing yet, and nothing still, where that is `None`.
    ///
    /// # Errors
    /// When the record cannot be written.
    pub(crate) fn change_image(
        &self,
        manifest: &Digest,
        change: impl FnOnce(Option<ImageRecord>) -> Option<ImageRecord>,
    ) -> io::Result<()> {
        // Of two who change it at once neither undoes what the other did.
        let _changing = lock(&self.changing);
        match change(self.image(manifest)) {
            Some(record) => self.write_soon(&self.manifests.join(manifest.hex()), &record),
            None => Ok(()),
        }
    }

    /// Forgets an image and all references to it.
    ///
    /// # Errors
    /// When a record cannot be removed.
    pub(crate) fn remove_image(&self, manifest: &Digest) -> io::Result<()> {
        let _changing = lock(&self.changing);
        for path in files(&self.refs)? {
            if read::<RefRecord>(&path).is_none_or(|record| record.manifest == *manifest) {
                fs::remove_file(path)?;
            }
        }
        remove(&self.manifests.join(manifest.hex()))
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

    /// The images that a name means: a reference, which has one for each platform, or at least
    /// [`SHORT_MANIFEST`] hex characters of a manifest's digest.
    ///
    /// # Errors
    /// When a directory cannot be listed.
    pub(crate) fn named(&self, name: &str) -> io::Result<Vec<ImageRecord>> {
        let reference = name.parse::<ImageReference>().ok();
        let reference = reference.map(|reference| reference.to_string());
        let is_it = |it: &str| it == name || reference.as_deref() == Some(it);
        let meant: BTreeSet<Digest> = files(&self.refs)?
            .iter()
            .filter_map(|path| read::<RefRecord>(path))
            .filter(|record| is_it(&record.reference))
            .map(|record| record.manifest)
            .collect();
        let hex = name.strip_prefix("sha256:").unwrap_or(name);
        let mut images = self.images()?;
        images.retain(|image| {
            is_it(&image.reference)
                || meant.contains(&image.manifest)
                || (hex.len() >= SHORT_MANIFEST && image.manifest.hex().starts_with(hex))
        });
        Ok(images)
    }

    /// What is known of a layer that was read whole here.
    pub(crate) fn layer(&self, diff_id: &DiffId) -> Option<LayerRecord> {
        read(&self.layers.join(diff_id.0.hex()))
    }

    /// Remembers a layer.
    pub(crate) fn put_layer(&self, diff_id: &DiffId, record: &LayerRecord) -> io::Result<()> {
        let path = self.layers.join(diff_id.0.hex());
        write(&path, record)?;
        fs::File::open(path)?.sync_all()
    }

    /// Forgets a layer.
    pub(crate) fn remove_layer(&self, diff_id: &DiffId) -> io::Result<()> {
        self.forget_words(diff_id)?;
        remove(&self.layers.join(diff_id.0.hex()))
    }

    /// What was measured here.
    pub(crate) fn measured(&self) -> Measured {
        read(&self.measured).unwrap_or_default()
    }

    /// Forgets what was measured here.
    ///
    /// # Errors
    /// Those of unlink(2); that there is nothing is none.
    pub(crate) fn forget_measured(&self) -> io::Result<()> {
        remove(&self.measured)
    }

    /// Changes what was measured here. That it cannot be kept costs a better guess.
    pub(crate) fn measure(&self, change: impl FnOnce(&mut Measured)) {
        let before = self.measured();
        let mut measured = before.clone();
        change(&mut measured);
        if measured != before
            && let Err(error) = self.write_soon(&self.measured, &measured)
        {
            tracing::debug!(%error, "measurements are not kept");
        }
    }

    /// A start does not wait for the disk: [`Records::settle`] does.
    fn write_soon<T: Serialize>(&self, path: &Path, record: &T) -> io::Result<()> {
        write(path, record)?;
        lock(&self.unsettled).insert(path.to_owned());
        Ok(())
    }

    /// Makes durable what was written. What a crash takes is asked again.
    pub(crate) fn settle(&self) {
        // What another one has taken is durable, too, when this returns.
        let _settling = lock(&self.settling);
        let written = std::mem::take(&mut *lock(&self.unsettled));
        let mut dirs = BTreeMap::new();
        for path in &written {
            let synced = fs::File::open(path).and_then(|file| file.sync_all());
            match synced {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    tracing::warn!(path = %path.display(), %error, "a record is not durable");
                }
                _ => drop(dirs.insert(path.parent(), path)),
            }
        }
        for path in dirs.into_values() {
            if let Err(error) = sync_dir_of(path) {
                tracing::warn!(path = %path.display(), %error, "a record is not durable");
            }
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

/// Removes a file, if there is one.
fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn read<T: DeserializeOwned>(path: &Path) -> Option<T> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

/// Writes `value` beside `path` and renames it into place. What a crash makes of it is no record,
/// which counts as none. Of several writers of one path the last one wins.
pub(crate) fn write<T: Serialize>(path: &Path, value: &T) -> io::Result<()> {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let bytes = serde_json::to_vec_pretty(value)?;
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let temporary = path.with_extension(format!("{number}.new"));
    let written = fs::write(&temporary, bytes).and_then(|()| fs::rename(&temporary, path));
    if written.is_err() {
        fs::remove_file(&temporary).ok();
    }
    written
}

fn sync_dir_of(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(dir) => fs::File::open(dir)?.sync_all(),
        None => Ok(()),
    }
}

/// Removes what a writer left that was killed.
fn remove_unfinished(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "new") {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
