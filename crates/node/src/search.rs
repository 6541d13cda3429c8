//! Asking the trusted repositories what they have for an image: accelerations, and the working
//! set of the wanted profile.
//!
//! It needs no more of the image than the digest of its manifest, so that it goes on while the
//! configuration is fetched; all repositories are asked at once, and where signatures are needed they
//! are looked for right behind, while the layout is on its way. What they offer is checked when the
//! image is known.
//!
//! What is found makes a start quicker, and whoever may push beside the image decides how much there is
//! to be looked at: so all of it together has a deadline. What is not known then counts as not there.

use std::sync::Arc;
use std::time::Instant;

use thaw_accelerate::{Offer, WorkingSetRef};
use thaw_image::{Digest, ImageReference};
use thaw_registry::{Manifest, RegistryError, Repository};

use crate::Node;
use crate::ahead::Ahead;
use crate::error::NodeError;
use crate::image::Image;
use crate::records::ArtifactRecord;
use crate::settings::{ImageWish, Pull};
use crate::source::{Accelerated, chain, layer_refs};
use crate::trust::{Standing, Verdicts};

/// What the trusted repositories said.
#[derive(Debug)]
pub(crate) struct Search {
    answers: Vec<Answer>,
    /// Repositories that were not asked, and why.
    why: Vec<String>,
}

/// What one of them said.
#[derive(Debug)]
struct Answer {
    repository: Arc<dyn Repository>,
    offer: Result<Offer, RegistryError>,
    verdicts: Verdicts,
    /// The layout of its first acceleration, unless that was used here before.
    ahead: Option<Ahead>,
}

/// A working set whose manifest is here.
#[derive(Clone, Debug)]
pub(crate) struct KnownSet {
    pub(crate) manifest: Manifest,
    pub(crate) parts: WorkingSetRef,
    /// Where those parts are that the store does not have.
    pub(crate) repository: Arc<dyn Repository>,
    /// Where it came from, and who speaks for it.
    pub(crate) record: ArtifactRecord,
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
        record: ArtifactRecord,
    ) -> Option<Self> {
        match thaw_accelerate::parse_working_set(&manifest, image) {
            Ok(parts) => Some(Self {
                manifest,
                parts,
                repository: Arc::clone(repository),
                record,
            }),
            Err(reason) => {
                tracing::warn!(set = %manifest.digest(), reason, "no working set");
                None
            }
        }
    }
}

impl Node {
    /// Whether a lazy start of an image has to ask: nothing is remembered of it that may be used,
    /// or not all that is wanted now.
    pub(crate) fn must_search(
        &self,
        reference: &ImageReference,
        manifest: &Digest,
        wish: &ImageWish,
    ) -> bool {
        if wish.pull == Pull::Full {
            return false;
        }
        let Some(record) = self.records.image(manifest).filter(|_| !wish.refresh) else {
            return true;
        };
        let policy = self.settings.policy(reference);
        let usable = |artifact: &ArtifactRecord| {
            self.store.blobs().contains(&artifact.manifest) && policy.allows(artifact)
        };
        let acceleration = record.acceleration.as_ref().is_some_and(usable);
        let set = wish.profile.as_ref().is_none_or(|profile| {
            record.no_working_set.contains(profile)
                || record.working_sets.get(profile).is_some_and(usable)
        });
        !acceleration || !set
    }

    /// Has the trusted repositories made ready that a search will ask when the manifest is known.
    pub(crate) fn approach_trusted(&self, reference: &ImageReference) {
        let policy = self.settings.policy(reference);
        for name in &self.settings.trusted_repositories {
            if let Standing::Refused(_) = policy.standing(name) {
                continue;
            }
            if let Ok(name) = name.parse()
                && let Ok(repository) = self.repository(&name)
            {
                repository.approach();
            }
        }
    }

    /// Asks the repositories that may speak for `manifest`, which `reference` means, what they have.
    pub(crate) fn search(
        &self,
        reference: &ImageReference,
        own: &Arc<dyn Repository>,
        manifest: &Digest,
        profile: Option<&str>,
    ) -> Search {
        let policy = self.settings.policy(reference);
        let (mut places, mut why) = (Vec::new(), Vec::new());
        match policy.own_standing() {
            Standing::Refused(reason) => why.push(reason),
            standing => places.push((Arc::clone(own), standing)),
        }
        for name in &self.settings.trusted_repositories {
            let standing = match policy.standing(name) {
                Standing::Refused(reason) => {
                    why.push(reason);
                    continue;
                }
                standing => standing,
            };
            let named = name.parse().map_err(NodeError::from);
            match named.and_then(|name| self.repository(&name)) {
                Ok(repository) => {
                    repository.comes_after(own.stats().round_trips);
                    places.push((repository, standing));
                }
                Err(error) => why.push(format!("{name}: {error}")),
            }
        }
        let used = self.records.image(manifest);
        let used = used.and_then(|record| Some(record.acceleration?.manifest));
        let deadline = Instant::now() + self.settings.search_timeout;
        let ask = |repository: Arc<dyn Repository>, standing: &Standing| {
            let asked = Arc::clone(&repository).until(deadline);
            let offer = thaw_accelerate::offers(asked.as_ref(), manifest, profile);
            let first = offer.iter().flat_map(Offer::accelerations).next();
            let first = first.filter(|first| Some(*first.digest()) != used);
            let ahead = first.and_then(|first| Ahead::start(&repository, first));
            let verdicts = match (&offer, standing, policy.keys()) {
                (Ok(offer), Standing::Signed, Some(keys)) => Verdicts::seek(&asked, offer, keys),
                _ => Verdicts::default(),
            };
            Answer {
                repository,
                offer,
                verdicts,
                ahead,
            }
        };
        let answers = std::thread::scope(|scope| {
            let asked: Vec<_> = places
                .iter()
                .map(|(place, standing)| scope.spawn(|| ask(Arc::clone(place), standing)))
                .collect();
            asked.into_iter().filter_map(|it| it.join().ok()).collect()
        });
        Search { answers, why }
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
        let Self { answers, mut why } = self;
        // One that was not heard may have a working set.
        let set_asked = answers.iter().all(|answer| answer.offer.is_ok());
        let (mut best, mut set) = (None, None);
        for answer in answers {
            let Answer {
                repository,
                offer,
                verdicts,
                ahead,
            } = answer;
            let record = |manifest: &Digest| ArtifactRecord {
                manifest: *manifest,
                repository: Some(repository.name()),
                signed: verdicts.signer(manifest).map(|key| *key.id()),
            };
            let found = offer.map_err(thaw_accelerate::ArtifactError::from);
            let found = found.and_then(|mut offer| {
                offer.keep(|manifest| verdicts.approve(manifest));
                let manifest = offer.working_set.take();
                let parse = |manifest: Manifest| {
                    let record = record(manifest.digest());
                    KnownSet::parse(manifest, &image.digest, &repository, record)
                };
                set = set.take().or_else(|| manifest.and_then(parse));
                if best.is_some() {
                    return Ok(None);
                }
                offer.acceleration(&image.digest, &layer_refs(image))
            });
            match found {
                Ok(Some(acceleration)) => {
                    let signer = verdicts.signer(acceleration.manifest.digest());
                    best = Some(Accelerated {
                        from: repository.name(),
                        signer: signer.map(|key| key.name().to_owned()),
                        record: record(acceleration.manifest.digest()),
                        acceleration,
                        ahead,
                        repository: Some(repository),
                        working_set: None,
                        set_asked,
                    });
                }
                Ok(None) => why.push(format!("no acceleration in {}", repository.name())),
                Err(error) => why.push(format!("{}: {}", repository.name(), chain(&error))),
            }
        }
        let best = best.or(local).ok_or_else(|| why.join("; "))?;
        Ok(Accelerated {
            working_set: set,
            set_asked,
            ..best
        })
    }
}
