//! Lazy or full: which way an image takes, and why.
//!
//! An acceleration speaks for the image, so only one that [`trust`](crate::trust) allows is used.

use std::collections::HashMap;
use std::sync::Arc;

use thaw_accelerate::{Acceleration, LayerRef, Origin};
use thaw_cache::LayerTar;
use thaw_image::Digest;
use thaw_registry::{Manifest, Repository};

use crate::Node;
use crate::ahead::Ahead;
use crate::error::NodeError;
use crate::estimate::{Needs, Speed};
use crate::image::{Image, Layer};
use crate::records::ArtifactRecord;
use crate::reports::THIS_STORE;
use crate::resolve::Resolved;
use crate::search::{KnownSet, Search};
use crate::settings::{ImageWish, Pull};
use crate::timing::Timing;

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
    /// The working set of the wanted profile.
    pub(crate) working_set: Option<KnownSet>,
    /// Whether that there is none is what the repositories say, and not only what is known here.
    pub(crate) set_asked: bool,
    /// Where it came from, for people.
    pub(crate) from: String,
    /// The same, to be remembered, and who speaks for it.
    pub(crate) record: ArtifactRecord,
    /// Whose signature was seen, for people.
    pub(crate) signer: Option<String>,
    /// Its layout, where that is on its way.
    pub(crate) ahead: Option<Ahead>,
}

impl Accelerated {
    /// Why an image starts lazily by it, in words.
    pub(crate) fn why(&self, image: &Image) -> String {
        let set = match self.working_set.as_ref().map(|set| set.parts.origin) {
            Some(Origin::Recorded) => " with a working set",
            Some(Origin::Static) => " with a working set of its program alone",
            None => "",
        };
        let whole = image.layers.iter().filter(|layer| !self.has_table(layer));
        let whole = match whole.count() {
            0 => String::new(),
            count => format!(
                "; {count} of {} layers fetched whole: no seek table",
                image.layers.len()
            ),
        };
        let signer = self.signer.as_ref();
        let signer = signer.map_or(String::new(), |name| format!(", signed by {name},"));
        let signer = match set {
            "" => signer.trim_end_matches(','),
            _ => &signer,
        };
        format!("acceleration from {}{signer}{set}{whole}", self.from)
    }

    /// Whether the layers of an image have the sizes that it gives.
    pub(crate) fn has_sizes_of(&self, image: &Image, tars: &[Arc<LayerTar>]) -> bool {
        let given = |layer: &Layer| self.acceleration.tables.get(&layer.blob);
        let mut pairs = image.layers.iter().map(given).zip(tars);
        pairs.all(|(table, tar)| table.is_none_or(|table| table.tar_size == tar.tar_size()))
    }

    /// Whether a layer can be fetched in parts.
    fn has_table(&self, layer: &Layer) -> bool {
        self.acceleration.tables.contains_key(&layer.blob)
    }
}

impl Node {
    /// Decides how `resolved` gets here. `search`: what the repositories said, if they were asked
    /// on the way; they are asked now if they have to be.
    pub(crate) fn choose(
        &self,
        resolved: &Resolved,
        wish: &ImageWish,
        search: Option<Search>,
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
        if let Some(why) = self.directories(wish.transport) {
            return refuse(why);
        }
        if let Err(reason) = self.transport_ready(wish.transport) {
            return refuse(reason);
        }
        let missing = self.missing(image)?;
        let local = self.local(image)?;
        let is_enough = local.is_some() && missing == 0;
        let search = match search {
            None if !is_enough && self.must_search(&image.reference, &image.digest, wish) => {
                let profile = wish.profile.as_deref();
                Some(timing.span("find acceleration", || {
                    self.search(
                        &image.reference,
                        &resolved.repository,
                        &image.digest,
                        profile,
                    )
                }))
            }
            search => search,
        };
        let found = match (search, local) {
            (Some(search), local) => search.best(image, local),
            (None, Some(local)) => self.with_working_set(local, resolved, wish),
            (None, None) => Err(self.unknown(image)),
        };
        let found = match found {
            Ok(found) if found.acceleration.tables.is_empty() => {
                return refuse("no layer of it has a seek table".to_owned());
            }
            Ok(found) => found,
            Err(reason) => return refuse(reason),
        };
        let better = match wish.pull {
            Pull::Auto if missing > 0 => self.better_in_full(resolved, &found, missing),
            _ => None,
        };
        Ok(better.map_or_else(|| Choice::Lazy(Box::new(found)), Choice::Full))
    }

    /// Why a full pull would be quicker, where it would be.
    fn better_in_full(
        &self,
        resolved: &Resolved,
        found: &Accelerated,
        missing: u64,
    ) -> Option<String> {
        let here = |digest| self.store.blobs().contains(digest);
        let acceleration = &found.acceleration;
        let parts = [Some(&acceleration.layout), acceleration.generated.as_ref()];
        let parts = parts.into_iter().flatten().filter(|it| !here(&it.digest));
        // A guessed one has the program and its libraries; what the program reads is not in it.
        let known = found.working_set.as_ref();
        let recorded = known.filter(|set| set.parts.origin == Origin::Recorded);
        let needs = Needs {
            layers: missing,
            index: parts.map(|packed| packed.descriptor.size).sum(),
            set: recorded.map(KnownSet::packed),
        };
        // Without a network between, nothing is gained by fetching all of it first.
        let link = resolved.repository.link()?;
        let measured = self.records.measured();
        Speed::new(Some(&link), measured.unpack_rate).better_in_full(&needs)
    }

    /// Compressed bytes of the layers that are not whole here.
    pub(crate) fn missing(&self, image: &Image) -> Result<u64, NodeError> {
        let whole = self.whole_layers(image)?;
        let layers = image.layers.iter();
        let missing = layers.filter(|layer| !whole.contains_key(&layer.diff_id));
        Ok(missing.map(|layer| layer.size).sum())
    }

    /// Why nothing that is here is used, in words.
    fn unknown(&self, image: &Image) -> String {
        let record = self.records.image(&image.digest);
        let known = record.and_then(|record| record.acceleration?.repository);
        let policy = self.settings.policy(&image.reference);
        known.map_or_else(
            || "no acceleration is known here".to_owned(),
            |repository| format!("{repository}: {}", policy.refusal(&repository)),
        )
    }

    /// The acceleration that was used or made here before, where it may be used for the image as it
    /// is named.
    pub(crate) fn local(&self, image: &Image) -> Result<Option<Accelerated>, NodeError> {
        let policy = self.settings.policy(&image.reference);
        let known = self.known(image)?;
        Ok(known.filter(|known| policy.allows(&known.record)))
    }

    /// The acceleration that was used or made here before, whoever speaks for it.
    pub(crate) fn known(&self, image: &Image) -> Result<Option<Accelerated>, NodeError> {
        let record = self.records.image(&image.digest);
        let known = record.and_then(|record| record.acceleration);
        let known = known.map(|known| self.known_as(image, known));
        known.transpose().map(Option::flatten)
    }

    /// An acceleration of an image whose manifest is in the store.
    pub(crate) fn known_as(
        &self,
        image: &Image,
        known: ArtifactRecord,
    ) -> Result<Option<Accelerated>, NodeError> {
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
        let from = known.repository.clone();
        let policy = self.settings.policy(&image.reference);
        Ok(Some(Accelerated {
            acceleration,
            repository,
            working_set: None,
            set_asked: false,
            from: from.unwrap_or_else(|| THIS_STORE.to_owned()),
            signer: policy.signer(&known).map(|key| key.name().to_owned()),
            record: known,
            ahead: None,
        }))
    }

    /// Adds what working set is known here for the wanted profile.
    fn with_working_set(
        &self,
        found: Accelerated,
        resolved: &Resolved,
        wish: &ImageWish,
    ) -> Result<Accelerated, String> {
        let digest = resolved.image.digest;
        let record = wish.profile.as_ref().zip(self.records.image(&digest));
        let known = record.and_then(|(profile, record)| record.working_sets.get(profile).cloned());
        let policy = self.settings.policy(&resolved.image.reference);
        let Some(known) = known.filter(|known| policy.allows(known)) else {
            return Ok(found);
        };
        let repository = found.repository.as_ref().unwrap_or(&resolved.repository);
        let working_set = self.known_set(known, &digest, repository);
        Ok(Accelerated {
            working_set: working_set.map_err(|error| chain(&error))?,
            ..found
        })
    }

    /// A working set whose manifest is in the store. What it says of its repository goes before
    /// `repository`.
    pub(crate) fn known_set(
        &self,
        set: ArtifactRecord,
        image: &Digest,
        repository: &Arc<dyn Repository>,
    ) -> Result<Option<KnownSet>, NodeError> {
        let bytes = self.store.blobs().get(&set.manifest)?;
        let manifest = bytes.and_then(|bytes| Manifest::parse(bytes, None).ok());
        let repository = match &set.repository {
            Some(name) if *name != repository.name() => &self.repository(&name.parse()?)?,
            _ => repository,
        };
        Ok(manifest.and_then(|it| KnownSet::parse(it, image, repository, set)))
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
