//! `inspect`: everything that is known of one image, here and in its registry. Fetches no layer.

use std::collections::BTreeMap;
use std::sync::Arc;

use thaw_image::{Digest, WorkingSet, media};
use thaw_registry::{Descriptor, Manifest, Which};

use crate::Node;
use crate::error::NodeError;
use crate::image::Image;
use crate::node::lock;
use crate::open::all_here;
use crate::records::ArtifactRecord;
use crate::reports::{
    AccelerationFacts, How, Inspection, LayerFacts, LoadFacts, Way, WorkingSetFacts,
};
use crate::resolve::Resolved;
use crate::search::KnownSet;
use crate::settings::{ImageWish, Transport};
use crate::source::{Accelerated, Choice, layer_refs};
use crate::stream::load;
use crate::timing::Timing;
use crate::trust::Standing;

impl Node {
    /// What is known of an image, and how it would start now.
    ///
    /// # Errors
    /// [`NodeError`] when the image cannot be found.
    pub fn inspect(&self, wish: &ImageWish) -> Result<Inspection, NodeError> {
        let timing = Timing::default();
        let (resolved, search) = self.resolve_to_start(wish, &timing)?;
        let image = &resolved.image;
        let choice = self.choose(&resolved, wish, search, &timing)?;
        let found = self.known_acceleration(&resolved, &choice)?;
        let signed_by = found
            .as_ref()
            .and_then(|(found, _)| self.signer_of(image, found));
        let layers = self.layer_facts(image, found.as_ref().map(|(found, _)| found))?;
        let unpacked = layers.iter().map(|layer| layer.unpacked).sum();
        let whole = layers
            .iter()
            .all(|layer| Some(layer.cached) == layer.unpacked);
        let sets = found.as_ref().map(|(found, _)| found);
        let working_sets = self.working_set_facts(&resolved, sets.filter(|_| !whole));
        let profile = wish.profile.as_deref().unwrap_or("default");
        let way = would_start(image, choice, whole);
        Ok(Inspection {
            reference: image.reference.to_string(),
            manifest: image.digest,
            platform: resolved.platform.to_string(),
            command: command(image),
            compressed: image.compressed_size(),
            cached: layers.iter().map(|layer| layer.cached).sum(),
            unpacked,
            layers,
            acceleration: found.map(|(found, trust)| AccelerationFacts {
                manifest: *found.acceleration.manifest.digest(),
                source: found.from.clone(),
                size: found.acceleration.size(),
                trust,
                signed_by,
            }),
            load: self.load(image, profile, &working_sets, unpacked),
            working_sets,
            transport: self.would_serve(&way, wish.transport),
            way,
        })
    }

    /// The fault transport that would serve an image which starts this way.
    fn would_serve(&self, way: &Way, wanted: Transport) -> Option<String> {
        let kind = match way.how {
            How::Full => None,
            How::Lazy => self.wished_transport(wanted).ok(),
        };
        kind.map(|kind| kind.name().to_owned())
    }

    /// The acceleration that would be used or, where none would, the one that is there; with
    /// whether it may be used, or why not.
    fn known_acceleration(
        &self,
        resolved: &Resolved,
        choice: &Choice,
    ) -> Result<Option<(Accelerated, String)>, NodeError> {
        let image = &resolved.image;
        let known = match choice {
            Choice::Lazy(found) => Some(found.as_ref().clone()),
            Choice::Full(_) => self.local(image)?,
        };
        if let Some(found) = known {
            let policy = self.settings.policy(&image.reference);
            let trust = match found
                .repository
                .as_ref()
                .map(|it| policy.standing(&it.name()))
            {
                None => "made on this node",
                Some(Standing::Trusted) => "from a trusted repository",
                Some(_) => "signed by a configured key",
            };
            return Ok(Some((found, trust.to_owned())));
        }
        let unused = match choice {
            Choice::Full(why) => format!("not used: {why}"),
            Choice::Lazy(_) => String::new(),
        };
        // A registry that cannot be asked has said so above.
        let repository = &resolved.repository;
        let found = thaw_accelerate::find(repository.as_ref(), &image.digest, &layer_refs(image));
        let found = found.ok().flatten().map(|acceleration| Accelerated {
            record: ArtifactRecord {
                manifest: *acceleration.manifest.digest(),
                repository: Some(repository.name()),
                signed: None,
            },
            acceleration,
            from: repository.name(),
            repository: Some(Arc::clone(repository)),
            working_set: None,
            set_asked: false,
            signer: None,
            ahead: None,
        });
        Ok(found.map(|found| (found, unused)))
    }

    /// The configured key that has signed an acceleration, as its repository says now where that was
    /// not asked before.
    fn signer_of(&self, image: &Image, found: &Accelerated) -> Option<String> {
        let policy = self.settings.policy(&image.reference);
        let (None, Some(repository), Some(keys)) =
            (&found.signer, &found.repository, policy.keys())
        else {
            return found.signer.clone();
        };
        let manifest = &found.acceleration.manifest;
        let signer = thaw_accelerate::signed_by(repository, manifest, keys).ok()?;
        Some(signer.name().to_owned())
    }

    fn layer_facts(
        &self,
        image: &Image,
        found: Option<&Accelerated>,
    ) -> Result<Vec<LayerFacts>, NodeError> {
        let here = self.store.layers().list()?;
        let mut facts = Vec::with_capacity(image.layers.len());
        for layer in &image.layers {
            let table = found.and_then(|found| found.acceleration.tables.get(&layer.blob));
            let record = self
                .layer_record(&layer.diff_id)
                .map(|record| record.tar_size);
            let tree = self.store.trees().get(&layer.diff_id.0);
            let tree = tree.map(|tree| tree.bytes());
            let unpacked = table.map(|table| table.tar_size).or(record).or(tree);
            let cached = match unpacked {
                Some(size) if tree.is_some() => size,
                Some(size) if here.contains(&layer.diff_id) => self
                    .store
                    .layers()
                    .open(&layer.diff_id, size)?
                    .present_bytes(),
                _ => 0,
            };
            facts.push(LayerFacts {
                blob: layer.blob,
                diff_id: layer.diff_id,
                media_type: layer.media_type.clone(),
                compressed: layer.size,
                unpacked,
                cached,
                seek_table: table.is_some(),
            });
        }
        Ok(facts)
    }

    /// Every profile's working set: those that are known here, and those beside the acceleration.
    fn working_set_facts(
        &self,
        resolved: &Resolved,
        found: Option<&Accelerated>,
    ) -> Vec<WorkingSetFacts> {
        let manifest = &resolved.image.digest;
        let record = self.records.image(manifest);
        let known = record.map(|record| record.working_sets).unwrap_or_default();
        let mut sets: BTreeMap<String, WorkingSet> = known
            .into_iter()
            .filter_map(|(profile, set)| Some((profile, self.kept_set(&set.manifest, manifest)?)))
            .collect();
        let Some(repository) = found.and_then(|found| found.repository.as_ref()) else {
            return facts(sets);
        };
        // The newest of a profile comes last.
        let listed: BTreeMap<String, Descriptor> = repository
            .referrers(manifest, &[media::WORKING_SET])
            .unwrap_or_default()
            .into_iter()
            .filter_map(|set| Some((set.annotations.get(media::ANNOTATION_PROFILE)?.clone(), set)))
            .collect();
        for (profile, descriptor) in listed {
            let record = ArtifactRecord {
                manifest: descriptor.digest,
                repository: Some(repository.name()),
                signed: None,
            };
            if !sets.contains_key(&profile)
                && let Ok(artifact) = repository.manifest(&Which::Digest(descriptor.digest))
                && let Some(set) = KnownSet::parse(artifact, manifest, repository, record)
                && let Ok((index, _)) = load(self.store.blobs(), &set)
            {
                sets.insert(profile, index);
            }
        }
        facts(sets)
    }

    /// A working set whose artifact is in the store.
    pub(crate) fn kept_set(&self, artifact: &Digest, image: &Digest) -> Option<WorkingSet> {
        let blobs = self.store.blobs();
        let artifact = Manifest::parse(blobs.get(artifact).ok()??, None).ok()?;
        let parts = thaw_accelerate::parse_working_set(&artifact, image).ok()?;
        WorkingSet::decode(&blobs.get(&parts.index.digest).ok()??).ok()
    }

    /// What starts read of the image: what those on this node did, else what the working set has.
    fn load(
        &self,
        image: &Image,
        profile: &str,
        sets: &[WorkingSetFacts],
        unpacked: Option<u64>,
    ) -> Option<LoadFacts> {
        let slot = lock(&self.images).get(&image.digest).map(Arc::clone);
        // Whoever holds the slot is mounting the image: nothing has been read of it yet.
        let mount = slot.and_then(|slot| slot.try_lock().ok()?.clone());
        if let Some(mount) = mount {
            self.harvest(&mount).ok();
        }
        let read = self.read_here(&image.digest, profile);
        let set = sets.iter().find(|set| set.profile == profile);
        let (read, source) = match (read, set) {
            (1.., _) => (read, "starts on this node".to_owned()),
            (0, Some(set)) => (set.blocks, format!("the working set \"{profile}\"")),
            (0, None) => return None,
        };
        let unpacked = unpacked.filter(|bytes| *bytes > 0)?;
        #[expect(clippy::cast_precision_loss, reason = "a share, for people")]
        let rate = read as f64 / unpacked as f64;
        Some(LoadFacts { read, rate, source })
    }
}

fn facts(sets: BTreeMap<String, WorkingSet>) -> Vec<WorkingSetFacts> {
    let facts = sets.into_iter().map(|(profile, set)| WorkingSetFacts {
        profile,
        blocks: set.unpacked_size(),
        packed: set.data_size(),
    });
    facts.collect()
}

/// What the image runs when nothing else is given.
fn command(image: &Image) -> Vec<String> {
    let config = image.config.config().as_ref();
    let entrypoint = config.and_then(|config| config.entrypoint().clone());
    let command = config.and_then(|config| config.cmd().clone());
    [entrypoint, command]
        .into_iter()
        .flatten()
        .flatten()
        .collect()
}

fn would_start(image: &Image, choice: Choice, whole: bool) -> Way {
    match choice {
        _ if whole => all_here(),
        Choice::Lazy(found) => Way {
            how: How::Lazy,
            why: found.why(image),
        },
        Choice::Full(why) => Way {
            how: How::Full,
            why,
        },
    }
}
