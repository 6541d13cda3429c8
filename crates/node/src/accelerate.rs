//! `accelerate`: index an image once, and put the acceleration where others find it.

use std::sync::Arc;
use std::time::Instant;

use thaw_image::{Progress, RegistryReference};
use thaw_registry::{Manifest, RegistryError, Repository};
use thaw_sign::PrivateKey;

use crate::Node;
use crate::error::NodeError;
use crate::records::ImageRecord;
use crate::reports::Accelerated;
use crate::resolve::Resolved;
use crate::settings::{Destination, ImageWish};
use crate::source::{self, chain};
use crate::timing::Timing;

impl Node {
    /// Indexes an image and publishes the acceleration where `destination` says. `keep`: the layers
    /// stay in the store.
    ///
    /// When the image's own repository does not let us push, the acceleration stays in the store
    /// and the answer says why; a repository that was named has to take it.
    ///
    /// # Errors
    /// [`NodeError`]; an image that lies about a layer is refused with the layer's name.
    pub fn accelerate(
        &self,
        wish: &ImageWish,
        destination: &Destination,
        keep: bool,
        progress: &dyn Progress,
    ) -> Result<Accelerated, NodeError> {
        let begin = Instant::now();
        let resolved = self.resolve(wish, &Timing::default())?;
        let (prepared, artifact) = self.prepare_image(&resolved, keep, progress)?;
        let image = &resolved.image;
        progress.say("publishing");
        let target = self.target(&resolved, destination)?;
        let manifest = &artifact.acceleration.manifest;
        let place = publish(&target, manifest, |target| artifact.publish(target))?;
        let mut warnings = prepared.layout.warnings.clone();
        // A recorded set comes right behind, where one was asked for.
        let guessed = match keep || wish.profile.is_none() {
            true => Ok(None),
            false => {
                progress.say("guessing a working set");
                let target = match &place.repository {
                    Some(_) => target,
                    None => Target::default(),
                };
                self.guess(&resolved, wish, &target)
            }
        };
        // Without it a start is only slower.
        let guessed = guessed.unwrap_or_else(|error| {
            warnings.push(format!("no working set was guessed: {}", chain(&error)));
            None
        });
        let full_layers = prepared.layers.iter().filter_map(|layer| {
            let reason = layer.index.as_ref().err()?;
            Some(format!("layer {}: {reason}", layer.layer.blob))
        });
        Ok(Accelerated {
            manifest: image.digest,
            acceleration: *artifact.acceleration.manifest.digest(),
            repository: place.repository,
            not_pushed: place.not_pushed,
            signed_by: place.signed_by,
            compressed: image.compressed_size(),
            index: artifact.acceleration.size(),
            full_layers: full_layers.collect(),
            guessed,
            warnings,
            took: begin.elapsed(),
        })
    }

    /// Where artifacts of an image go.
    pub(crate) fn target<'a>(
        &self,
        resolved: &Resolved,
        destination: &'a Destination,
    ) -> Result<Target<'a>, NodeError> {
        let named = destination.to.as_deref();
        let repository = match named {
            _ if destination.local => None,
            None => Some(Arc::clone(&resolved.repository)),
            Some(name) => {
                let name: RegistryReference = name.parse()?;
                Some(self.repository(&thaw_image::ImageReference::Registry(name))?)
            }
        };
        Ok(Target {
            repository,
            named: named.is_some(),
            key: destination.key.as_ref(),
        })
    }

    /// Remembers which acceleration an image is started by, and its working set: a second start asks less.
    pub(crate) fn remember_choice(
        &self,
        resolved: &Resolved,
        wish: &ImageWish,
        found: &source::Accelerated,
    ) -> Result<(), NodeError> {
        let manifest = &found.acceleration.manifest;
        let blobs = self.store.blobs();
        blobs.stash(manifest.digest(), manifest.bytes().to_vec())?;
        let used = found.record.clone();
        self.remember_set_and(resolved, wish, found, |record| {
            record.set_acceleration(used)
        })
    }

    /// Remembers the working set alone: the image is mounted by an acceleration already.
    pub(crate) fn remember_set(
        &self,
        resolved: &Resolved,
        wish: &ImageWish,
        found: &source::Accelerated,
    ) -> Result<(), NodeError> {
        self.remember_set_and(resolved, wish, found, |_| ())
    }

    fn remember_set_and(
        &self,
        resolved: &Resolved,
        wish: &ImageWish,
        found: &source::Accelerated,
        change: impl FnOnce(&mut ImageRecord),
    ) -> Result<(), NodeError> {
        if let Some(set) = &found.working_set {
            let blobs = self.store.blobs();
            blobs.stash(set.manifest.digest(), set.manifest.bytes().to_vec())?;
        }
        let set = found.working_set.as_ref().map(|set| set.record.clone());
        self.update_image(resolved, |record| {
            change(record);
            match (&wish.profile, set) {
                (Some(profile), Some(set)) => record.add_working_set(profile, set),
                (Some(profile), None) if found.set_asked => {
                    record.no_working_set.insert(profile.clone());
                }
                _ => {}
            }
        })
    }
}

/// Where artifacts go, and who signs them; by default they stay in this store.
#[derive(Debug, Default)]
pub(crate) struct Target<'a> {
    repository: Option<Arc<dyn Repository>>,
    /// Whether the user named it.
    named: bool,
    key: Option<&'a PrivateKey>,
}

impl Target<'_> {
    /// The repository, where there is one.
    pub(crate) fn repository(&self) -> Option<&dyn Repository> {
        self.repository.as_deref()
    }
}

/// Where an artifact went.
#[derive(Debug, Default)]
pub(crate) struct Place {
    /// The repository; `None`: it is in this store only.
    pub(crate) repository: Option<String>,
    /// Why it was not pushed, where that was wanted.
    pub(crate) not_pushed: Option<String>,
    /// The key that has signed it there.
    pub(crate) signed_by: Option<String>,
}

/// Pushes to `target`, where that is a repository, and signs the artifact there. Where it does not let
/// us push, the artifact stays in the store; a repository that the user named has to take it.
pub(crate) fn publish(
    target: &Target<'_>,
    artifact: &Manifest,
    push: impl FnOnce(&dyn Repository) -> Result<(), RegistryError>,
) -> Result<Place, NodeError> {
    let mut place = Place::default();
    let Some(repository) = target.repository() else {
        return Ok(place);
    };
    match push(repository) {
        Ok(()) => place.repository = Some(repository.name()),
        Err(error) if !target.named && is_forbidden(&error) => {
            place.not_pushed = Some(chain(&error));
            return Ok(place);
        }
        Err(error) => return Err(error.into()),
    }
    if let Some(key) = target.key {
        thaw_accelerate::sign(repository, artifact, key)?;
        place.signed_by = Some(key.public().name().to_owned());
    }
    Ok(place)
}

/// Whether the repository can be read but not written by us.
fn is_forbidden(error: &RegistryError) -> bool {
    matches!(error, RegistryError::Denied { .. })
        || matches!(
            error,
            RegistryError::Status {
                status: 403 | 405,
                ..
            }
        )
}
