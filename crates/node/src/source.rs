//! Lazy or full: which way an image takes, and why.
//!
//! An acceleration speaks for the image, so it is used only if it was made on this node, or comes
//! from a repository that is trusted: one that the settings name, or the image's own where the
//! user named a tag. A pinned digest says "these bytes"; whoever may push beside them may not
//! decide how they look.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use thaw_accelerate::{Acceleration, LayerRef};
use thaw_cache::LayerTar;
use thaw_image::{ImageReference, media};
use thaw_registry::{Descriptor, Repository, Which};

use crate::Node;
use crate::error::NodeError;
use crate::image::{Image, Layer};
use crate::records::ImageRecord;
use crate::resolve::Resolved;
use crate::settings::{ImageWish, Pull};
use crate::timing::Timing;

/// Below so many compressed bytes the index costs as much as the image.
const SMALL_IMAGE: u64 = 1 << 20;
/// What a link is assumed to carry until it has been measured, in bytes per second.
const ASSUMED_RATE: f64 = 12.5e6;
/// How fast a full pull unpacks, in compressed bytes per second: what a slow machine makes.
const UNPACK_RATE: f64 = 60e6;
/// What the requests of a lazy start cost more than those of a full pull.
const EXTRA_REQUESTS: Duration = Duration::from_millis(20);

impl Accelerated {
    /// Why an image starts lazily by it, in words; `set`: with a working set.
    pub(crate) fn why(&self, image: &Image, set: bool) -> String {
        let set = if set { " with a working set" } else { "" };
        let whole = image.layers.iter().filter(|layer| !self.has_table(layer));
        let whole = match whole.count() {
            0 => String::new(),
            count => format!(
                "; {count} of {} layers fetched whole: no seek table",
                image.layers.len()
            ),
        };
        format!("acceleration from {}{set}{whole}", self.from)
    }

    /// Whether a layer can be fetched in parts.
    fn has_table(&self, layer: &Layer) -> bool {
        self.acceleration.tables.contains_key(&layer.blob)
    }
}

/// The way an image takes.
#[derive(Debug)]
pub(crate) enum Choice {
    /// By this acceleration.
    Lazy(Box<Accelerated>),
    /// By a full pull, because.
    Full(String),
}

/// An acceleration, and where its blobs are.
#[derive(Clone, Debug)]
pub(crate) struct Accelerated {
    pub(crate) acceleration: Acceleration,
    /// `None`: all of it is in the store.
    pub(crate) repository: Option<Arc<dyn Repository>>,
    /// Manifest of the working set of the wanted profile.
    pub(crate) working_set: Option<Descriptor>,
    /// Where it came from, for people.
    pub(crate) from: String,
}

impl Node {
    /// Decides how `resolved` gets here.
    pub(crate) fn choose(
        &self,
        resolved: &Resolved,
        wish: &ImageWish,
        timing: &Timing,
    ) -> Result<Choice, NodeError> {
        let image = &resolved.image;
        let refuse = |reason: String| match wish.pull {
            Pull::Lazy => Err(NodeError::NotLazy {
                image: image.reference.to_string(),
                reason,
            }),
            Pull::Auto | Pull::Full => Ok(Choice::Full(reason)),
        };
        if wish.pull == Pull::Full {
            return Ok(Choice::Full("asked for by --pull full".to_owned()));
        }
        if let Err(reason) = self.transport_ready(wish.transport) {
            return refuse(reason);
        }
        let found = match self.local(image)? {
            Some(local) => Ok(self.with_working_set(local, resolved, wish)),
            None => timing.span("find acceleration", || self.find(resolved, wish)),
        };
        match found {
            Ok(found) if found.acceleration.tables.is_empty() => {
                refuse("no layer of it has a seek table".to_owned())
            }
            Ok(found) => match slower_than_full(image, &found.acceleration, wish) {
                Some(reason) => Ok(Choice::Full(reason)),
                None => Ok(Choice::Lazy(Box::new(found))),
            },
            Err(reason) => refuse(reason),
        }
    }

    /// The acceleration that was used or made here before.
    pub(crate) fn local(&self, image: &Image) -> Result<Option<Accelerated>, NodeError> {
        let Some(record) = self.records.image(&image.digest) else {
            return Ok(None);
        };
        let Some(known) = record.acceleration else {
            return Ok(None);
        };
        let Some(bytes) = self.store.blobs().get(&known.manifest)? else {
            return Ok(None);
        };
        let Ok(manifest) = thaw_registry::Manifest::parse(bytes, None) else {
            return Ok(None);
        };
        let Ok(acceleration) = Acceleration::parse(manifest, &image.digest, &layer_refs(image))
        else {
            return Ok(None);
        };
        let repository = match &known.repository {
            None => None,
            Some(name) => Some(self.repository(&name.parse()?)?),
        };
        let from = known.repository.unwrap_or_else(|| "this store".to_owned());
        Ok(Some(Accelerated {
            acceleration,
            repository,
            working_set: None,
            from,
        }))
    }

    /// Adds what working set is known here for the wanted profile.
    fn with_working_set(
        &self,
        mut found: Accelerated,
        resolved: &Resolved,
        wish: &ImageWish,
    ) -> Accelerated {
        let Some(profile) = &wish.profile else {
            return found;
        };
        let digest = resolved.image.digest;
        let known = self
            .records
            .image(&digest)
            .and_then(|record: ImageRecord| record.working_sets.get(profile).copied());
        found.working_set = known.map(|known| Descriptor::new(media::MANIFEST, known, 0));
        found
    }

    /// Asks the trusted repositories. The error is the reason why there is none, in words.
    fn find(&self, resolved: &Resolved, wish: &ImageWish) -> Result<Accelerated, String> {
        let image = &resolved.image;
        let mut places: Vec<Arc<dyn Repository>> = Vec::new();
        let mut why = Vec::new();
        if own_is_trusted(&image.reference) {
            places.push(Arc::clone(&resolved.repository));
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
        for repository in places {
            match find_in(&repository, image, wish.profile.as_deref()) {
                Ok(Some(found)) => return Ok(found),
                Ok(None) => why.push(format!("no acceleration in {}", repository.name())),
                Err(reason) => why.push(format!("{}: {reason}", repository.name())),
            }
        }
        Err(why.join("; "))
    }

    /// The layers of an image that are whole in the store, by diffID.
    pub(crate) fn whole_layers(
        &self,
        image: &Image,
    ) -> Result<HashMap<thaw_image::DiffId, Arc<LayerTar>>, NodeError> {
        let mut whole = HashMap::new();
        for layer in &image.layers {
            if let Some(tar) = self.whole(&layer.diff_id)? {
                whole.insert(layer.diff_id, tar);
            }
        }
        Ok(whole)
    }
}

pub(crate) fn find_in(
    repository: &Arc<dyn Repository>,
    image: &Image,
    profile: Option<&str>,
) -> Result<Option<Accelerated>, String> {
    // Both lists are asked for at once: the second costs no round trip.
    let (acceleration, working_set) = std::thread::scope(|scope| {
        let set = scope.spawn(|| match profile {
            Some(profile) => find_set(repository.as_ref(), image, profile),
            None => None,
        });
        let found = thaw_accelerate::find(repository.as_ref(), &image.digest, &layer_refs(image));
        (found, set.join().unwrap_or(None))
    });
    let found = acceleration.map_err(|error| chain(&error))?;
    Ok(found.map(|acceleration| Accelerated {
        acceleration,
        repository: Some(Arc::clone(repository)),
        working_set,
        from: repository.name(),
    }))
}

/// The newest working set of a profile; one that cannot be found is only a slower start.
fn find_set(repository: &dyn Repository, image: &Image, profile: &str) -> Option<Descriptor> {
    let sets = repository
        .referrers(&image.digest, media::WORKING_SET)
        .ok()?;
    sets.into_iter().rev().find(|set| {
        set.annotations
            .get(media::ANNOTATION_PROFILE)
            .map(String::as_str)
            == Some(profile)
    })
}

/// Whether the image's own repository may speak for it.
fn own_is_trusted(reference: &ImageReference) -> bool {
    match reference {
        ImageReference::Registry(name) => name.tag.is_some() && name.digest.is_none(),
        ImageReference::Layout { .. } => true,
    }
}

/// Why a full pull would be quicker, where it would be.
fn slower_than_full(
    image: &Image,
    acceleration: &Acceleration,
    wish: &ImageWish,
) -> Option<String> {
    if wish.pull == Pull::Lazy {
        return None;
    }
    #[expect(clippy::cast_precision_loss, reason = "an estimate")]
    let seconds = |bytes: u64, rate: f64| bytes as f64 / rate;
    let compressed = image.compressed_size();
    let full = seconds(compressed, ASSUMED_RATE) + seconds(compressed, UNPACK_RATE);
    let index = acceleration.layout.descriptor.size;
    let lazy = seconds(index, ASSUMED_RATE) + EXTRA_REQUESTS.as_secs_f64();
    (compressed < SMALL_IMAGE && full < lazy * 2.0)
        .then(|| "the image is so small that fetching all of it is quicker".to_owned())
}

/// The layers as the accelerator names them.
pub(crate) fn layer_refs(image: &Image) -> Vec<LayerRef> {
    let layers = image.layers.iter();
    layers
        .map(|layer| LayerRef {
            blob: layer.blob,
            size: layer.size,
            media_type: layer.media_type.clone(),
            diff_id: layer.diff_id,
        })
        .collect()
}

/// A manifest's digest as what the registry is asked for.
pub(crate) fn which(descriptor: &Descriptor) -> Which {
    Which::Digest(descriptor.digest)
}

/// An error and its causes, in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = error.source();
    }
    text
}
