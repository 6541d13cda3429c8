//! Reference → image: from what is remembered here, else from the registry.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use thaw_image::{Digest, ImageReference};
use thaw_registry::{Descriptor, Located, Platform, Repository};

use crate::Node;
use crate::error::NodeError;
use crate::image::Image;
use crate::records::{ImageRecord, RefRecord};
use crate::search::Search;
use crate::settings::{ImageWish, Pull, Transport};
use crate::timing::Timing;
use crate::work::Work;

/// Most bytes of an image's configuration.
const MAX_CONFIG_BYTES: u64 = 8 << 20;

/// An image, and where its blobs are.
#[derive(Clone, Debug)]
pub(crate) struct Resolved {
    pub(crate) image: Arc<Image>,
    pub(crate) repository: Arc<dyn Repository>,
    /// Its manifest's own descriptor: what an artifact's subject is.
    pub(crate) subject: Descriptor,
    /// The platform it was resolved for.
    pub(crate) platform: Platform,
    /// Its configuration.
    pub(crate) config: Digest,
    /// Bytes of manifest and configuration that are not in the store yet.
    pub(crate) fresh: Vec<(Digest, Vec<u8>)>,
    /// What it needs stays in the store.
    pub(crate) work: Arc<Work>,
}

/// What a reference was found to mean.
enum Found {
    /// An image that is known here.
    Image(Box<Resolved>),
    /// An image of the registry, of which more has to be asked.
    Remote(Box<Remote>, Box<Located>),
}

/// Where an image is that is not known here.
struct Remote {
    reference: ImageReference,
    repository: Arc<dyn Repository>,
    platform: Platform,
    work: Work,
}

impl Node {
    /// Finds the image that `wish` means. A reference that was resolved here before is not asked
    /// again unless the wish says so: a tag that moved is seen by `pull`.
    pub(crate) fn resolve(&self, wish: &ImageWish, timing: &Timing) -> Result<Resolved, NodeError> {
        match self.look_up(wish, &|_| (), timing)? {
            Found::Image(image) => Ok(*image),
            Found::Remote(remote, located) => self.fetch(*remote, *located, timing),
        }
    }

    /// [`Node::resolve`] for a start: as soon as the manifest's digest is known, while manifest and
    /// configuration are fetched, the trusted repositories are asked what they have for the image,
    /// and the fault transport is started.
    pub(crate) fn resolve_to_start(
        &self,
        wish: &ImageWish,
        timing: &Timing,
    ) -> Result<(Resolved, Option<Search>), NodeError> {
        let prepare = |reference: &ImageReference| {
            if wish.pull != Pull::Full && wish.transport != Transport::Directories {
                self.approach_trusted(reference);
            }
        };
        let (remote, located) = match self.look_up(wish, &prepare, timing)? {
            Found::Image(image) => return Ok((*image, None)),
            Found::Remote(remote, located) => (remote, located),
        };
        let digest = *located.digest();
        if wish.transport == Transport::Directories
            || !self.must_search(&remote.reference, &digest, wish)
        {
            return Ok((self.fetch(*remote, *located, timing)?, None));
        }
        std::thread::scope(|scope| {
            let (reference, repository) =
                (remote.reference.clone(), Arc::clone(&remote.repository));
            let search = scope.spawn(move || {
                let profile = wish.profile.as_deref();
                timing.span("find acceleration", || {
                    self.search(&reference, &repository, &digest, profile)
                })
            });
            // Whether it can be started is asked, and told, by whoever chooses the way.
            scope.spawn(|| self.transport_ready(wish.transport).ok());
            let resolved = self.fetch(*remote, *located, timing)?;
            Ok((resolved, search.join().ok()))
        })
    }

    /// Does `prepare` before the registry is asked, if it has to be.
    fn look_up(
        &self,
        wish: &ImageWish,
        prepare: &dyn Fn(&ImageReference),
        timing: &Timing,
    ) -> Result<Found, NodeError> {
        let reference = wish.parse()?;
        let platform = match &wish.platform {
            Some(text) => text.parse().unwrap_or_else(|never| match never {}),
            None => Platform::host(),
        };
        let repository = self.repository(&reference)?;
        let work = self.works.begin();
        if !wish.refresh
            && let Some((image, config)) = self.remembered(&reference, &platform)?
        {
            let subject = subject_of(&image);
            let (fresh, work) = (Vec::new(), Arc::new(work.on(&image)));
            return Ok(Found::Image(Box::new(Resolved {
                image,
                repository,
                subject,
                platform,
                config,
                fresh,
                work,
            })));
        }
        repository.connect();
        prepare(&reference);
        let located = timing.span("resolve manifest", || {
            thaw_registry::locate(repository.as_ref(), &reference, &platform)
        })?;
        let remote = Remote {
            reference,
            repository,
            platform,
            work,
        };
        Ok(Found::Remote(Box::new(remote), Box::new(located)))
    }

    /// Fetches manifest and configuration, as far as they are not here.
    fn fetch(
        &self,
        remote: Remote,
        located: Located,
        timing: &Timing,
    ) -> Result<Resolved, NodeError> {
        let Remote {
            reference,
            repository,
            platform,
            work,
        } = remote;
        let manifest = match located {
            Located::Here(manifest) => manifest,
            listed @ Located::Listed { .. } => {
                let fetch = || listed.fetch(repository.as_ref());
                timing.span("fetch manifest", fetch)?.manifest
            }
        };
        let descriptor = manifest.content()?.config;
        let (config, fetched) = match self.store.blobs().get(&descriptor.digest)? {
            Some(config) => (config, false),
            None => {
                let config = timing.span("fetch configuration", || {
                    repository.blob(&descriptor, MAX_CONFIG_BYTES)
                });
                (config?, true)
            }
        };
        let (digest, media_type) = (*manifest.digest(), manifest.media_type());
        let image = Image::parse(&reference, digest, media_type, manifest.bytes(), &config)?;
        check_platform(&image, &platform)?;
        let mut fresh = vec![(digest, manifest.bytes().to_vec())];
        if fetched {
            fresh.push((descriptor.digest, config));
        }
        let subject = subject_of(&image);
        let work = Arc::new(work.on(&image));
        let (image, config) = (Arc::new(image), descriptor.digest);
        Ok(Resolved {
            image,
            repository,
            subject,
            platform,
            config,
            fresh,
            work,
        })
    }

    /// The image as the store has it, if manifest and configuration are both here.
    fn remembered(
        &self,
        reference: &ImageReference,
        platform: &Platform,
    ) -> Result<Option<(Arc<Image>, Digest)>, NodeError> {
        let digest = match reference {
            ImageReference::Registry(name) if name.digest.is_some() => name.digest,
            _ => {
                let record = self.records.reference(reference, &platform.to_string());
                record.map(|record| record.manifest)
            }
        };
        let Some(record) = digest.and_then(|digest| self.records.image(&digest)) else {
            return Ok(None);
        };
        let blobs = self.store.blobs();
        let (Some(manifest), Some(config)) =
            (blobs.get(&record.manifest)?, blobs.get(&record.config)?)
        else {
            return Ok(None);
        };
        let media_type = &record.media_type;
        let image = Image::parse(reference, record.manifest, media_type, &manifest, &config)?;
        let suits = check_platform(&image, platform).is_ok();
        Ok(suits.then(|| (Arc::new(image), record.config)))
    }

    /// Changes what is remembered of an image; the first time with what is known of it now.
    pub(crate) fn update_image(
        &self,
        resolved: &Resolved,
        change: impl FnOnce(&mut ImageRecord),
    ) -> Result<(), NodeError> {
        let (image, config) = (&resolved.image, resolved.config);
        let new = || ImageRecord {
            reference: image.reference.to_string(),
            media_type: image.media_type.clone(),
            manifest: image.digest,
            config,
            acceleration: None,
            working_sets: BTreeMap::new(),
            no_working_set: BTreeSet::new(),
            used: 0,
        };
        let change = |record: Option<ImageRecord>| {
            let mut record = record.unwrap_or_else(new);
            record.used = now();
            change(&mut record);
            Some(record)
        };
        let changed = self.records.change_image(&image.digest, change);
        changed.map_err(NodeError::records)
    }

    /// Remembers that an image was in use until now, if it is remembered.
    pub(crate) fn was_used(&self, manifest: &Digest) {
        let used = |record| {
            Some(ImageRecord {
                used: now(),
                ..record?
            })
        };
        if let Err(error) = self.records.change_image(manifest, used) {
            tracing::debug!(%error, "not remembered that it was used");
        }
    }

    /// Writes down what a reference means, and keeps manifest and configuration. Not on the way
    /// of a start: called when the root filesystem is mounted.
    pub(crate) fn remember(&self, resolved: &Resolved) -> Result<(), NodeError> {
        for (digest, bytes) in &resolved.fresh {
            self.store.blobs().stash(digest, bytes.clone())?;
        }
        let record = RefRecord {
            reference: resolved.image.reference.to_string(),
            platform: resolved.platform.to_string(),
            manifest: resolved.image.digest,
        };
        self.records
            .put_reference(&record)
            .map_err(NodeError::records)?;
        self.update_image(resolved, |_| ())
    }
}

/// What names the manifest that an artifact speaks for.
pub(crate) fn subject_of(image: &Image) -> Descriptor {
    Descriptor::new(&image.media_type, image.digest, image.manifest_size)
}

/// A single manifest says only in its configuration what it is for.
fn check_platform(image: &Image, wanted: &Platform) -> Result<(), NodeError> {
    let is: Platform = format!("{}/{}", image.config.os(), image.config.architecture())
        .parse()
        .unwrap_or_else(|never| match never {});
    if wanted
        .suits(&Platform {
            variant: None,
            ..is.clone()
        })
        .is_some()
    {
        return Ok(());
    }
    Err(NodeError::WrongPlatform {
        image: image.reference.to_string(),
        is: is.to_string(),
        wanted: wanted.to_string(),
    })
}

/// Seconds since 1970.
pub(crate) fn now() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |time| time.as_secs())
}
