//! What a repository has for an image: accelerations and working sets, as its referrers.
//!
//! Looking takes two round trips: the list, then all manifests at once; or one, where the list holds
//! them. Neither needs more of the image than its digest; its configuration, against which an acceleration is checked, may come
//! meanwhile.

use thaw_image::{Digest, media};
use thaw_registry::{Descriptor, Manifest, RegistryError, Repository, Which};

use crate::artifact::{Acceleration, ArtifactError};
use crate::pipeline::LayerRef;

/// How many accelerations of one image are looked at.
const MAX_CANDIDATES: usize = 8;

/// What a repository has for an image. Unchecked claims.
#[derive(Debug, Default)]
pub struct Offer {
    accelerations: Vec<Result<Manifest, ArtifactError>>,
    /// Manifest of the best working set of the wanted profile: a recorded one goes before one that
    /// was only guessed, a newer one before an older. That it cannot be had makes a start slower,
    /// not wrong.
    pub working_set: Option<Manifest>,
}

/// Asks a repository what it has for the image whose manifest is `subject`: accelerations and,
/// where a profile is given, its working set.
///
/// # Errors
/// See [`RegistryError`].
pub fn offers(
    repository: &dyn Repository,
    subject: &Digest,
    profile: Option<&str>,
) -> Result<Offer, RegistryError> {
    let types: &[&str] = match profile {
        Some(_) => &[media::ACCELERATION, media::WORKING_SET],
        None => &[media::ACCELERATION],
    };
    let listed = repository.referrers(subject, types)?;
    let set = profile.and_then(|profile| best_set(&listed, profile));
    let of_type = |entry: &&Descriptor| entry.artifact_type.as_deref() == Some(media::ACCELERATION);
    let fetch = |entry: &Descriptor| match entry.embedded() {
        Some(manifest) => Ok(manifest),
        None => repository.manifest(&Which::Digest(entry.digest)),
    };
    std::thread::scope(|scope| {
        let set = set.map(|entry| scope.spawn(move || fetch(entry).ok()));
        let candidates = listed.iter().filter(of_type).take(MAX_CANDIDATES);
        let fetches: Vec<_> = candidates
            .map(|entry| scope.spawn(move || fetch(entry)))
            .collect();
        let accelerations = fetches.into_iter().filter_map(|fetch| fetch.join().ok());
        let accelerations = accelerations.map(|fetched| fetched.map_err(ArtifactError::from));
        Ok(Offer {
            accelerations: accelerations.collect(),
            working_set: set.and_then(|fetch| fetch.join().ok()).flatten(),
        })
    })
}

impl Offer {
    /// The manifests of accelerations.
    pub fn accelerations(&self) -> impl Iterator<Item = &Manifest> {
        self.accelerations.iter().flatten()
    }

    /// All manifests.
    pub fn manifests(&self) -> impl Iterator<Item = &Manifest> {
        self.accelerations().chain(&self.working_set)
    }

    /// Keeps what `approve` lets pass; of an acceleration it tells why not.
    pub fn keep(&mut self, approve: impl Fn(&Manifest) -> Result<(), String>) {
        for candidate in &mut self.accelerations {
            if let Ok(manifest) = candidate
                && let Err(reason) = approve(manifest)
            {
                let manifest = *manifest.digest();
                *candidate = Err(ArtifactError::Untrusted { manifest, reason });
            }
        }
        if let Some(set) = &self.working_set
            && let Err(reason) = approve(set)
        {
            tracing::warn!(set = %set.digest(), reason, "a working set is not used");
            self.working_set = None;
        }
    }

    /// The first usable acceleration.
    ///
    /// # Errors
    /// The last [`ArtifactError`] where there are some but none is usable.
    pub fn acceleration(
        &mut self,
        subject: &Digest,
        layers: &[LayerRef],
    ) -> Result<Option<Acceleration>, ArtifactError> {
        let mut last = Ok(None);
        for candidate in self.accelerations.drain(..) {
            let checked = candidate.and_then(|manifest| {
                let acceleration = Acceleration::parse(manifest, subject, layers)?;
                acceleration.check_limits().map(|()| acceleration)
            });
            match checked {
                Ok(acceleration) => return Ok(Some(acceleration)),
                Err(error) => last = Err(error),
            }
        }
        last
    }
}

/// The first usable acceleration that `repository` has for an image.
///
/// # Errors
/// The last [`ArtifactError`] where there are some but none is usable.
pub fn find(
    repository: &dyn Repository,
    subject: &Digest,
    layers: &[LayerRef],
) -> Result<Option<Acceleration>, ArtifactError> {
    offers(repository, subject, None)?.acceleration(subject, layers)
}

fn best_set<'a>(listed: &'a [Descriptor], profile: &str) -> Option<&'a Descriptor> {
    let is = |entry: &Descriptor, key, value| {
        entry.annotations.get(key).map(String::as_str) == Some(value)
    };
    let sets = listed.iter().filter(|entry| {
        entry.artifact_type.as_deref() == Some(media::WORKING_SET)
            && is(entry, media::ANNOTATION_PROFILE, profile)
    });
    // Of equals the last, which is the newest.
    sets.max_by_key(|entry| !is(entry, media::ANNOTATION_ORIGIN, media::ORIGIN_STATIC))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(name: &str, profile: &str, origin: Option<&str>) -> Descriptor {
        let mut set = Descriptor::of(media::MANIFEST, name.as_bytes())
            .annotated(media::ANNOTATION_PROFILE, profile);
        if let Some(origin) = origin {
            set = set.annotated(media::ANNOTATION_ORIGIN, origin);
        }
        set.artifact_type = Some(media::WORKING_SET.to_owned());
        set
    }

    #[test]
    fn a_recorded_set_goes_before_a_guessed_one_and_a_newer_before_an_older() {
        let guess = Some(media::ORIGIN_STATIC);
        let [first, second] = ["1", "2"].map(|name| set(name, "default", guess));
        let [old, new] = ["3", "4"].map(|name| set(name, "default", None));
        let other = set("5", "other", None);
        let best = |list: &[&Descriptor]| {
            let list: Vec<Descriptor> = list.iter().copied().cloned().collect();
            best_set(&list, "default").map(|set| set.digest)
        };
        assert_eq!(best(&[&other]), None);
        assert_eq!(best(&[&first, &second, &other]), Some(second.digest));
        assert_eq!(best(&[&old, &second]), Some(old.digest));
        assert_eq!(best(&[&first, &old, &new, &second]), Some(new.digest));
    }
}
