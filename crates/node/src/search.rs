//! Asking the trusted repositories what they have for an image: accelerations, and the working
//! set of the wanted profile.
//!
//! It needs no more of the image than the digest of its manifest, so that it goes on while the
//! configuration is fetched; all repositories are asked at once. What they offer is checked when
//! the image is known.

use std::sync::Arc;

use thaw_accelerate::{Offer, WorkingSetRef};
use thaw_image::{Digest, ImageReference};
use thaw_registry::{Manifest, RegistryError, Repository};

use crate::Node;
use crate::error::NodeError;
use crate::image::Image;
use crate::settings::{ImageWish, Pull};
use crate::source::{Accelerated, chain, layer_refs};

/// What the trusted repositories said.
#[derive(Debug)]
pub(crate) struct Search {
    offers: Vec<(Arc<dyn Repository>, Result<Offer, RegistryError>)>,
    /// Repositories that were not asked, and why.
    why: Vec<String>,
}

/// A working set whose manifest is here.
#[derive(Clone, Debug)]
pub(crate) struct KnownSet {
    pub(crate) manifest: Manifest,
    pub(crate) parts: WorkingSetRef,
    /// Where those parts are that the store does not have.
    pub(crate) repository: Arc<dyn Repository>,
}

impl KnownSet {
    /// Bytes of its data.
    pub(crate) const fn packed(&self) -> u64 {
        self.parts.data.size
    }

    /// `None` where the manifest is of no working set of this image.
    pub(crate) fn parse(
        manifest: Manifest,
        image: &Digest,
        repository: &Arc<dyn Repository>,
    ) -> Option<Self> {
        match thaw_accelerate::parse_working_set(&manifest, image) {
            Ok(parts) => Some(Self {
                manifest,
                parts,
                repository: Arc::clone(repository),
            }),
            Err(reason) => {
                tracing::warn!(set = %manifest.digest(), reason, "no working set");
                None
            }
        }
    }
}

impl Node {
    /// Whether a lazy start of an image has to ask: nothing is remembered of it, or not all that
    /// is wanted now.
    pub(crate) fn must_search(&self, manifest: &Digest, wish: &ImageWish) -> bool {
        if wish.pull == Pull::Full {
            return false;
        }
        let Some(record) = self.records.image(manifest).filter(|_| !wish.refresh) else {
            return true;
        };
        let here = |digest: &Digest| self.store.blobs().contains(digest);
        let acceleration = record.acceleration.is_some_and(|it| here(&it.manifest));
        let set = wish.profile.as_ref().is_none_or(|profile| {
            record.no_working_set.contains(profile)
                || record.working_sets.get(profile).is_some_and(here)
        });
        !acceleration || !set
    }

    /// Asks the trusted repositories for what speaks for `manifest`, which `reference` means.
    pub(crate) fn search(
        &self,
        reference: &ImageReference,
        own: &Arc<dyn Repository>,
        manifest: &Digest,
        profile: Option<&str>,
    ) -> Search {
        let (mut places, mut why) = (Vec::new(), Vec::new());
        if own_is_trusted(reference) {
            places.push(Arc::clone(own));
        } else {
            why.push(
                "a pinned digest takes no acceleration from the image's own repository".into(),
            );
        }
        for name in &self.settings.trusted_repositories {
            let named = name.parse().map_err(NodeError::from);
            match named.and_then(|name| self.repository(&name)) {
                Ok(repository) => places.push(repository),
                Err(error) => why.push(format!("{name}: {error}")),
            }
        }
        let offers = std::thread::scope(|scope| {
            let asked: Vec<_> = places
                .into_iter()
                .map(|place| {
                    scope.spawn(move || {
                        let offer = thaw_accelerate::offers(place.as_ref(), manifest, profile);
                        (place, offer)
                    })
                })
                .collect();
            asked.into_iter().filter_map(|it| it.join().ok()).collect()
        });
        Search { offers, why }
    }
}

impl Search {
    /// The first usable acceleration, else the one that is known here; with the first working
    /// set. The error is the reason why there is none, in words.
    pub(crate) fn best(
        self,
        image: &Image,
        local: Option<Accelerated>,
    ) -> Result<Accelerated, String> {
        let Self { offers, mut why } = self;
        let (mut best, mut set) = (None, None);
        for (repository, offer) in offers {
            let found = offer.map_err(thaw_accelerate::ArtifactError::from);
            let found = found.and_then(|mut offer| {
                let manifest = offer.working_set.take();
                let parse = |manifest| KnownSet::parse(manifest, &image.digest, &repository);
                set = set.take().or_else(|| manifest.and_then(parse));
                if best.is_some() {
                    return Ok(None);
                }
                offer.acceleration(&image.digest, &layer_refs(image))
            });
            match found {
                Ok(Some(acceleration)) => {
                    best = Some(Accelerated {
                        acceleration,
                        from: repository.name(),
                        repository: Some(repository),
                        working_set: None,
                        set_asked: true,
                    });
                }
                Ok(None) => why.push(format!("no acceleration in {}", repository.name())),
                Err(error) => why.push(format!("{}: {}", repository.name(), chain(&error))),
            }
        }
        let best = best.or(local).ok_or_else(|| why.join("; "))?;
        Ok(Accelerated {
            working_set: set,
            set_asked: true,
            ..best
        })
    }
}

/// Whether the image's own repository may speak for it.
fn own_is_trusted(reference: &ImageReference) -> bool {
    match reference {
        ImageReference::Registry(name) => name.tag.is_some() && name.digest.is_none(),
        ImageReference::Layout { .. } => true,
    }
}
