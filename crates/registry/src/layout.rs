//! OCI layout directories (OCI image-spec, "Image Layout").
//!
//! ```text
//! DIR/oci-layout            says that it is one
//! DIR/index.json            what is in it, by `org.opencontainers.image.ref.name`
//! DIR/blobs/sha256/HEX      everything, manifests too
//! ```
//!
//! Referrers are entries of `index.json` like images, with an artifact type and no name. Files
//! are written beside their place and renamed; `index.json` is changed under a lock on the
//! directory itself, which leaves no file behind.

use std::fs::{self, File, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde::Deserialize;
use thaw_image::{BlobSource, Digest, Extent, Hasher, SourceError};

use crate::document::check_digest;
use crate::referrers::{is_one_of, list_tag};
use crate::{
    Body, Descriptor, IndexContent, MAX_INDEX_BYTES, MAX_MANIFEST_BYTES, Manifest, RegistryError,
    Repository, Stats, Which,
};

const REF_NAME: &str = "org.opencontainers.image.ref.name";
const MAX_MARKER_BYTES: u64 = 4096;
/// Most entries whose manifests are read in the search for referrers.
const MAX_ENTRIES: usize = 4096;
const PIECE: usize = 1 << 20;
/// How long others may hold the layout's lock.
const LOCK_PATIENCE: Duration = Duration::from_secs(30);

/// A layout directory.
#[derive(Debug)]
pub(crate) struct Layout {
    dir: PathBuf,
}

impl Layout {
    pub(crate) fn open(dir: &Path) -> Result<Self, RegistryError> {
        #[derive(Deserialize)]
        struct Marker {
            #[serde(rename = "imageLayoutVersion")]
            version: String,
        }
        let layout = Self {
            dir: dir.to_owned(),
        };
        let marker = layout.read_file(&dir.join("oci-layout"), "oci-layout", MAX_MARKER_BYTES)?;
        let marker: Marker = serde_json::from_slice(&marker)
            .map_err(|error| layout.malformed("oci-layout", &error.to_string()))?;
        if !marker.version.starts_with("1.") {
            let reason = format!("version {:?} is not known", marker.version);
            return Err(layout.malformed("oci-layout", &reason));
        }
        Ok(layout)
    }

    fn path(&self, digest: &Digest) -> PathBuf {
        self.dir.join("blobs/sha256").join(digest.hex())
    }

    fn malformed(&self, what: &str, reason: &str) -> RegistryError {
        RegistryError::Malformed {
            place: self.name(),
            what: what.to_owned(),
            reason: reason.to_owned(),
        }
    }

    fn open_file(&self, path: &Path, what: &str) -> Result<File, RegistryError> {
        let failed = |source: io::Error| match source.kind() {
            io::ErrorKind::NotFound => RegistryError::NotFound {
                place: self.name(),
                what: what.to_owned(),
            },
            _ => in_file("read", path, source),
        };
        // To open a pipe would wait for its writer.
        if !fs::metadata(path).map_err(failed)?.is_file() {
            return Err(self.malformed(what, "it is no regular file"));
        }
        File::open(path).map_err(failed)
    }

    fn read_file(&self, path: &Path, what: &str, limit: u64) -> Result<Vec<u8>, RegistryError> {
        let file = self.open_file(path, what)?;
        let mut bytes = Vec::new();
        let read = file.take(limit + 1).read_to_end(&mut bytes);
        read.map_err(|error| in_file("read", path, error))?;
        if bytes.len() as u64 > limit {
            return Err(RegistryError::TooLarge {
                place: self.name(),
                what: what.to_owned(),
                limit,
            });
        }
        Ok(bytes)
    }

    fn index(&self) -> Result<IndexContent, RegistryError> {
        let path = self.dir.join("index.json");
        let bytes = self.read_file(&path, "index.json", MAX_INDEX_BYTES)?;
        serde_json::from_slice(&bytes)
            .map_err(|error| self.malformed("index.json", &error.to_string()))
    }

    /// Changes `index.json`, alone.
    fn change(&self, change: impl FnOnce(&mut IndexContent)) -> Result<(), RegistryError> {
        let _lock = self.lock()?;
        let mut index = self.index()?;
        change(&mut index);
        self.write(&self.dir.join("index.json"), &mut |file| {
            file.write_all(&index.to_bytes())
        })
    }

    /// Held until the file is dropped.
    fn lock(&self) -> Result<File, RegistryError> {
        let failed = |error| in_file("lock", &self.dir, error);
        let dir = File::open(&self.dir).map_err(failed)?;
        let deadline = Instant::now() + LOCK_PATIENCE;
        loop {
            match dir.try_lock() {
                Ok(()) => return Ok(dir),
                Err(TryLockError::WouldBlock) if Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(20));
                }
                Err(error) => return Err(failed(error.into())),
            }
        }
    }

    /// Writes a file beside its place, and renames it when all of it is on the disk.
    fn write(
        &self,
        path: &Path,
        content: &mut dyn FnMut(&mut File) -> io::Result<()>,
    ) -> Result<(), RegistryError> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!(".thaw-{}-{number}", std::process::id());
        let temporary = path.with_file_name(name);
        let result = File::create_new(&temporary).and_then(|mut file| {
            content(&mut file)?;
            file.sync_all()?;
            fs::rename(&temporary, path)
        });
        result.map_err(|error| {
            // What failed is told; that the rest of it cannot be removed either adds nothing.
            let _ = fs::remove_file(&temporary);
            in_file("write", path, error)
        })
    }

    fn put_bytes(&self, digest: &Digest, bytes: &[u8]) -> Result<(), RegistryError> {
        let path = self.path(digest);
        if path.is_file() {
            return Ok(());
        }
        self.make_blob_dir()?;
        self.write(&path, &mut |file| file.write_all(bytes))
    }

    fn make_blob_dir(&self) -> Result<(), RegistryError> {
        let dir = self.dir.join("blobs/sha256");
        fs::create_dir_all(&dir).map_err(|error| in_file("write", &dir, error))
    }

    /// The entry of `index.json` that is meant.
    fn find(&self, which: &Which) -> Result<Digest, RegistryError> {
        let tag = match which {
            Which::Digest(digest) => return Ok(*digest),
            Which::Tag(tag) => Some(tag.as_str()),
            Which::Only => None,
        };
        let index = self.index()?;
        if let Some(tag) = tag {
            let named = index.manifests.iter().find(|it| ref_name(it) == Some(tag));
            return named
                .map(|it| it.digest)
                .ok_or_else(|| self.lacks(tag, &index));
        }
        let mut images = index.manifests.iter().filter(|entry| is_image(entry));
        match (images.next(), images.next()) {
            (Some(only), None) => Ok(only.digest),
            _ => Err(self.lacks("only", &index)),
        }
    }

    fn lacks(&self, tag: &str, index: &IndexContent) -> RegistryError {
        let images = index.manifests.iter().filter(|entry| is_image(entry));
        let names: Vec<_> = images.filter_map(ref_name).take(20).collect();
        let names = if names.is_empty() {
            "none with a tag".to_owned()
        } else {
            names.join(", ")
        };
        RegistryError::NotFound {
            place: self.name(),
            what: format!("{tag} image (its images: {names})"),
        }
    }

    /// A manifest in the search for referrers; what is no manifest, or not there, refers to none.
    fn speaks_for(&self, entry: &Descriptor, subject: &Digest) -> Result<bool, RegistryError> {
        let manifest = match self.manifest(&Which::Digest(entry.digest)) {
            Ok(manifest) => manifest,
            Err(RegistryError::NotFound { .. } | RegistryError::Malformed { .. }) => {
                return Ok(false);
            }
            Err(error) => return Err(error),
        };
        let content = manifest.content();
        Ok(content.is_ok_and(|it| it.subject.is_some_and(|it| it.digest == *subject)))
    }

    /// A blob that has all of `extent`.
    fn open_range(&self, blob: &Digest, extent: Extent) -> Result<File, RegistryError> {
        let what = format!("blob {blob}");
        let path = self.path(blob);
        let file = self.open_file(&path, &what)?;
        let size = file
            .metadata()
            .map_err(|error| in_file("read", &path, error))?
            .len();
        if extent.end() > size {
            return Err(RegistryError::Truncated {
                place: self.name(),
                what,
                offset: extent.offset,
                wanted: extent.len,
                got: size.saturating_sub(extent.offset),
            });
        }
        Ok(file)
    }

    fn read_range(&self, blob: &Digest, extent: Extent) -> Result<Vec<u8>, RegistryError> {
        let file = self.open_range(blob, extent)?;
        // Its end is within the file: the length is no mere claim.
        let mut bytes = vec![0; usize::try_from(extent.len).unwrap_or(usize::MAX)];
        let read = file.read_exact_at(&mut bytes, extent.offset);
        read.map_err(|error| in_file("read", &self.path(blob), error))?;
        Ok(bytes)
    }
}

impl BlobSource for Layout {
    fn read_at(
        &self,
        blob: &Digest,
        extent: Extent,
        _deadline: Option<Instant>,
    ) -> Result<Vec<u8>, SourceError> {
        self.read_range(blob, extent)
            .map_err(|error| error.into_source(blob))
    }

    fn stream(&self, blob: &Digest, extent: Extent) -> Result<Box<dyn Read + Send>, SourceError> {
        let stream = self.open_range(blob, extent).and_then(|mut file| {
            let sought = file.seek(SeekFrom::Start(extent.offset));
            sought.map_err(|error| in_file("read", &self.path(blob), error))?;
            Ok(file.take(extent.len))
        });
        match stream {
            Ok(stream) => Ok(Box::new(stream)),
            Err(error) => Err(error.into_source(blob)),
        }
    }

    fn name(&self) -> String {
        format!("oci:{}", self.dir.display())
    }
}

impl Repository for Layout {
    fn manifest(&self, which: &Which) -> Result<Manifest, RegistryError> {
        let digest = self.find(which)?;
        let what = format!("manifest {digest}");
        let bytes = self.read_file(&self.path(&digest), &what, MAX_INDEX_BYTES)?;
        check_digest(&self.name(), &what, &bytes, &digest)?;
        let manifest =
            Manifest::parse(bytes, None).map_err(|reason| self.malformed(&what, &reason))?;
        if !manifest.is_index() && manifest.bytes().len() as u64 > MAX_MANIFEST_BYTES {
            return Err(RegistryError::TooLarge {
                place: self.name(),
                what,
                limit: MAX_MANIFEST_BYTES,
            });
        }
        Ok(manifest)
    }

    fn blob(&self, descriptor: &Descriptor, limit: u64) -> Result<Vec<u8>, RegistryError> {
        let Descriptor { digest, size, .. } = *descriptor;
        let what = format!("blob {digest}");
        if size > limit {
            return Err(RegistryError::TooLarge {
                place: self.name(),
                what,
                limit,
            });
        }
        let extent = Extent {
            offset: 0,
            len: size,
        };
        let bytes = self.read_range(&digest, extent)?;
        check_digest(&self.name(), &what, &bytes, &digest)?;
        Ok(bytes)
    }

    fn until(self: Arc<Self>, _deadline: Instant) -> Arc<dyn Repository> {
        self
    }

    fn referrers(
        &self,
        subject: &Digest,
        artifact_types: &[&str],
    ) -> Result<Vec<Descriptor>, RegistryError> {
        let index = self.index()?;
        let mut entries = Vec::new();
        let tag = list_tag(subject);
        for entry in index.manifests {
            // Tools that copy from registries without the referrers API bring its tags along.
            if ref_name(&entry) == Some(&tag) && entry.is_index() {
                let list = self.manifest(&Which::Digest(entry.digest))?;
                entries.extend(list.index()?.manifests);
            } else if !entry.is_index() {
                entries.push(entry);
            }
        }
        let mut found: Vec<Descriptor> = Vec::new();
        let typed = |entry: &Descriptor| is_one_of(entry, artifact_types);
        for entry in entries.into_iter().filter(typed).take(MAX_ENTRIES) {
            let known = found.iter().any(|it| it.digest == entry.digest);
            if !known && self.speaks_for(&entry, subject)? {
                found.push(entry);
            }
        }
        Ok(found)
    }

    fn put_blob(&self, descriptor: &Descriptor, body: &mut dyn Body) -> Result<(), RegistryError> {
        let path = self.path(&descriptor.digest);
        if path.is_file() {
            return Ok(());
        }
        self.make_blob_dir()?;
        let mut actual = None;
        self.write(&path, &mut |file| {
            body.rewind()?;
            let digest = copy_hashed(&mut body.take(descriptor.size), file)?;
            actual = Some(digest);
            if digest == descriptor.digest {
                Ok(())
            } else {
                Err(io::ErrorKind::InvalidData.into())
            }
        })
        .map_err(|error| match actual {
            Some(actual) if actual != descriptor.digest => RegistryError::Mismatch {
                place: "this machine".to_owned(),
                what: format!("blob for {}", self.name()),
                expected: descriptor.digest,
                actual,
            },
            _ => error,
        })
    }

    fn put_manifest(&self, tag: Option<&str>, manifest: &Manifest) -> Result<(), RegistryError> {
        self.put_bytes(manifest.digest(), manifest.bytes())?;
        let Some(tag) = tag else {
            return Ok(());
        };
        let entry = manifest.descriptor()?;
        // An entry of index.json has a name; what else it says the manifest says too.
        let entry =
            Descriptor::new(&entry.media_type, entry.digest, entry.size).annotated(REF_NAME, tag);
        self.change(|index| {
            index.manifests.retain(|it| ref_name(it) != Some(tag));
            index.manifests.push(entry);
        })
    }

    fn add_referrer(&self, referrer: &Manifest) -> Result<(), RegistryError> {
        let what = format!("manifest {}", referrer.digest());
        if referrer.content()?.subject.is_none() {
            return Err(self.malformed(&what, "it has no subject"));
        }
        self.put_bytes(referrer.digest(), referrer.bytes())?;
        let entry = referrer.descriptor()?;
        self.change(|index| {
            index.manifests.retain(|it| it.digest != entry.digest);
            index.manifests.push(entry);
        })
    }

    fn delete_manifest(&self, digest: &Digest) -> Result<(), RegistryError> {
        self.change(|index| index.manifests.retain(|it| it.digest != *digest))?;
        let path = self.path(digest);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(in_file("delete", &path, error))
            }
            _ => Ok(()),
        }
    }

    fn stats(&self) -> Stats {
        Stats::default()
    }
}

fn copy_hashed(from: &mut dyn Read, to: &mut File) -> io::Result<Digest> {
    let mut hasher = Hasher::new();
    let mut piece = vec![0; PIECE];
    loop {
        let got = from.read(&mut piece)?;
        if got == 0 {
            return Ok(hasher.finish());
        }
        hasher.update(&piece[..got]);
        to.write_all(&piece[..got])?;
    }
}

fn ref_name(entry: &Descriptor) -> Option<&str> {
    entry.annotations.get(REF_NAME).map(String::as_str)
}

/// Referrers, and lists of them, are no images.
fn is_image(entry: &Descriptor) -> bool {
    let list = ref_name(entry).is_some_and(|name| name.starts_with("sha256-"));
    entry.artifact_type.is_none() && !list
}

fn in_file(action: &'static str, path: &Path, source: io::Error) -> RegistryError {
    RegistryError::File {
        action,
        path: path.to_owned(),
        source,
    }
}
