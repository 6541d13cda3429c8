//! A repository in memory, a place that keeps tars in memory, and images to put into them.

#![allow(dead_code, reason = "each test uses its part")]

use std::collections::{BTreeMap, HashMap};
use std::io::{self, Cursor, Read, Write};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use thaw_accelerate::{Known, LayerRef, Place, TarProof, TarSink};
use thaw_image::{BlobSource, DiffId, Digest, Extent, SourceError, Verified, media};
use thaw_registry::{Body, Descriptor, Manifest, RegistryError, Repository, Stats, Which};
use thaw_testkit::image::{Image, Layout};
use thaw_testkit::scratch;

/// A repository in memory.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    pub(crate) blobs: Mutex<HashMap<Digest, Vec<u8>>>,
    pub(crate) manifests: Mutex<Vec<Manifest>>,
    pub(crate) streams: AtomicUsize,
    /// Whether blobs never come in time, and how many were asked for then.
    pub(crate) is_late: AtomicBool,
    pub(crate) late: AtomicUsize,
}

impl Memory {
    pub(crate) fn with(blobs: impl IntoIterator<Item = Vec<u8>>) -> Self {
        let memory = Self::default();
        for blob in blobs {
            memory.blobs.lock().unwrap().insert(Digest::of(&blob), blob);
        }
        memory
    }

    fn get(&self, blob: &Digest) -> Option<Vec<u8>> {
        self.blobs.lock().unwrap().get(blob).cloned()
    }
}

impl BlobSource for Memory {
    fn read_at(
        &self,
        blob: &Digest,
        extent: Extent,
        _deadline: Option<Instant>,
    ) -> Result<Vec<u8>, SourceError> {
        let name = || self.name();
        let bytes = self.get(blob).ok_or_else(|| SourceError::NotFound {
            source_name: name(),
            blob: *blob,
        })?;
        let start = usize::try_from(extent.offset).unwrap().min(bytes.len());
        let end = usize::try_from(extent.end()).unwrap().min(bytes.len());
        if (end - start) as u64 != extent.len {
            return Err(SourceError::Truncated {
                source_name: name(),
                blob: *blob,
                offset: extent.offset,
                wanted: extent.len,
                got: (end - start) as u64,
            });
        }
        Ok(bytes[start..end].to_vec())
    }

    fn stream(&self, blob: &Digest, extent: Extent) -> Result<Box<dyn Read + Send>, SourceError> {
        self.streams.fetch_add(1, Ordering::Relaxed);
        let bytes = self.get(blob).ok_or_else(|| SourceError::NotFound {
            source_name: self.name(),
            blob: *blob,
        })?;
        // What a server sends when the blob has another size than was promised.
        let start = usize::try_from(extent.offset).unwrap().min(bytes.len());
        Ok(Box::new(Cursor::new(bytes[start..].to_vec())))
    }

    fn name(&self) -> String {
        "memory".to_owned()
    }
}

fn not_found(what: impl ToString) -> RegistryError {
    RegistryError::NotFound {
        place: "memory".to_owned(),
        what: what.to_string(),
    }
}

impl Repository for Memory {
    fn manifest(&self, which: &Which) -> Result<Manifest, RegistryError> {
        let manifests = self.manifests.lock().unwrap();
        let found = manifests
            .iter()
            .find(|manifest| *which == Which::Digest(*manifest.digest()));
        found.cloned().ok_or_else(|| not_found(which))
    }

    fn blob(&self, descriptor: &Descriptor, limit: u64) -> Result<Vec<u8>, RegistryError> {
        let what = descriptor.digest.to_string();
        if self.is_late.load(Ordering::Relaxed) {
            self.late.fetch_add(1, Ordering::Relaxed);
            return Err(RegistryError::TimedOut {
                place: self.name(),
                what,
                after: Duration::from_secs(1),
            });
        }
        let bytes = self
            .get(&descriptor.digest)
            .ok_or_else(|| not_found(&what))?;
        if descriptor.size > limit {
            let place = "memory".to_owned();
            return Err(RegistryError::TooLarge { place, what, limit });
        }
        Ok(Verified::check(bytes, &descriptor.digest)
            .unwrap()
            .into_bytes())
    }

    fn until(self: Arc<Self>, _deadline: Instant) -> Arc<dyn Repository> {
        self
    }

    fn referrers(
        &self,
        subject: &Digest,
        kinds: &[&str],
    ) -> Result<Vec<Descriptor>, RegistryError> {
        let manifests = self.manifests.lock().unwrap();
        let speaks_for = |manifest: &&Manifest| {
            let content = manifest.content().unwrap();
            content.subject.is_some_and(|own| own.digest == *subject)
                && kinds
                    .iter()
                    .any(|kind| content.artifact_type.as_deref() == Some(*kind))
        };
        manifests
            .iter()
            .filter(speaks_for)
            .map(Manifest::descriptor)
            .collect()
    }

    fn put_blob(&self, descriptor: &Descriptor, body: &mut dyn Body) -> Result<(), RegistryError> {
        let mut bytes = Vec::new();
        body.read_to_end(&mut bytes).unwrap();
        assert_eq!(
            (Digest::of(&bytes), bytes.len() as u64),
            (descriptor.digest, descriptor.size)
        );
        self.blobs.lock().unwrap().insert(descriptor.digest, bytes);
        Ok(())
    }

    fn put_manifest(&self, _tag: Option<&str>, manifest: &Manifest) -> Result<(), RegistryError> {
        let content = manifest.content()?;
        for part in content.layers.iter().chain([&content.config]) {
            assert!(
                self.get(&part.digest).is_some(),
                "a manifest before its blob {}",
                part.digest
            );
        }
        self.manifests.lock().unwrap().push(manifest.clone());
        Ok(())
    }

    fn add_referrer(&self, referrer: &Manifest) -> Result<(), RegistryError> {
        self.put_manifest(None, referrer)
    }

    fn delete_manifest(&self, digest: &Digest) -> Result<(), RegistryError> {
        self.manifests
            .lock()
            .unwrap()
            .retain(|manifest| manifest.digest() != digest);
        Ok(())
    }

    fn stats(&self) -> Stats {
        Stats::default()
    }
}

/// A place that keeps tars in memory, once they are committed.
#[derive(Debug)]
pub(crate) struct Here {
    pub(crate) tars: Arc<Mutex<BTreeMap<DiffId, Vec<u8>>>>,
    /// Whether committed tars may be read back.
    pub(crate) readable: bool,
    pub(crate) cancel: AtomicBool,
    scratch: TempDir,
}

impl Here {
    pub(crate) fn new(readable: bool) -> Self {
        Self {
            tars: Arc::default(),
            readable,
            cancel: AtomicBool::new(false),
            scratch: scratch::directory().unwrap(),
        }
    }

    pub(crate) fn scratch_files(&self) -> usize {
        std::fs::read_dir(self.scratch.path()).unwrap().count()
    }
}

struct Sink {
    tars: Arc<Mutex<BTreeMap<DiffId, Vec<u8>>>>,
    diff_id: DiffId,
    bytes: Vec<u8>,
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl TarSink for Sink {
    fn commit(self: Box<Self>, proof: &TarProof) -> io::Result<()> {
        assert_eq!(proof.diff_id(), self.diff_id);
        assert_eq!(
            DiffId(Digest::of(&self.bytes)),
            self.diff_id,
            "committed unverified"
        );
        self.tars.lock().unwrap().insert(self.diff_id, self.bytes);
        Ok(())
    }
}

impl Place for Here {
    fn tar(&self, layer: &LayerRef) -> io::Result<Box<dyn TarSink>> {
        Ok(Box::new(Sink {
            tars: Arc::clone(&self.tars),
            diff_id: layer.diff_id,
            bytes: Vec::new(),
        }))
    }

    fn known(&self, _layer: &LayerRef) -> Option<Known> {
        None
    }

    fn read(&self, diff_id: &DiffId, extent: Extent) -> Option<io::Result<Vec<u8>>> {
        let tars = self.tars.lock().unwrap();
        let tar = tars.get(diff_id).filter(|_| self.readable)?;
        let range = usize::try_from(extent.offset).unwrap()..usize::try_from(extent.end()).unwrap();
        Some(
            tar.get(range)
                .map(<[u8]>::to_vec)
                .ok_or(io::ErrorKind::UnexpectedEof.into()),
        )
    }

    fn scratch(&self) -> PathBuf {
        self.scratch.path().to_owned()
    }

    fn cancelled(&self) -> bool {
        self.cancel.load(Ordering::Relaxed)
    }
}

/// An image, written as a layout and read into memory.
pub(crate) struct Loaded {
    pub(crate) layout: Layout,
    pub(crate) source: Memory,
    pub(crate) layers: Vec<LayerRef>,
    pub(crate) subject: Descriptor,
    _directory: TempDir,
}

pub(crate) fn load(image: &Image) -> Loaded {
    let directory = scratch::directory().unwrap();
    let layout = image.write(directory.path(), "test").unwrap();
    let manifest = layout.manifest().unwrap();
    let config: Digest = manifest["config"]["digest"]
        .as_str()
        .unwrap()
        .parse()
        .unwrap();
    let config: serde_json::Value = serde_json::from_slice(&layout.blob(&config).unwrap()).unwrap();
    let diff_ids = config["rootfs"]["diff_ids"].as_array().unwrap();
    let described = manifest["layers"].as_array().unwrap().iter().zip(diff_ids);
    let layers: Vec<LayerRef> = described
        .map(|(layer, diff_id)| LayerRef {
            blob: layer["digest"].as_str().unwrap().parse().unwrap(),
            size: layer["size"].as_u64().unwrap(),
            media_type: layer["mediaType"].as_str().unwrap().to_owned(),
            diff_id: DiffId(diff_id.as_str().unwrap().parse().unwrap()),
        })
        .collect();
    let source = Memory::with(layers.iter().map(|layer| layout.blob(&layer.blob).unwrap()));
    let bytes = layout.blob(&layout.digest()).unwrap();
    let subject = Descriptor::of(media::MANIFEST, &bytes);
    Loaded {
        layout,
        source,
        layers,
        subject,
        _directory: directory,
    }
}
