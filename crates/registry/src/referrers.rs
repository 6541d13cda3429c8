//! Referrers: the artifacts that speak for an image (OCI distribution-spec, "Listing Referrers").
//!
//! Newer registries list them themselves. Older ones, docker-registry 2.8 among them, know only
//! tags: there the list is an index under the tag `sha256-<hex of the subject>`, which each writer
//! reads, extends and pushes. Such a registry has no conditional writes, so writers overwrite each
//! other. Hence two things more:
//!
//! - Each artifact also gets a tag of its own, `sha256-<hex of the subject>.<16 hex of its own>`,
//!   *before* it is entered in the list. No garbage collector takes it, and what a lost write drops
//!   from the list can be found again.
//! - A writer is done only when it has read a list that holds every artifact so tagged, not just
//!   its own. Whoever writes last reads after all other writes, and every artifact of a writer
//!   that was done before was tagged before: so it puts back what its write dropped.
//!
//! The entries of such a list hold the manifests that they name, where these are small: a start that
//! has the list has them, too, and makes a round trip less.
//!
//! Which way a registry goes is asked both ways at once the first time, and remembered.

use std::sync::Arc;
use std::time::{Duration, Instant};

use reqwest::header::{HeaderMap, HeaderName, LINK};
use reqwest::{Method, Url};
use serde::Deserialize;
use thaw_image::{Digest, media};

use crate::auth::Access;
use crate::call::Call;
use crate::http::{Remote, locked, same_origin};
use crate::listed::Listed;
use crate::retry::jitter;
use crate::{
    Descriptor, IndexContent, MAX_INDEX_BYTES, MAX_MANIFEST_BYTES, Manifest, RegistryError, Which,
};

const SUBJECT: HeaderName = HeaderName::from_static("oci-subject");
/// Most pages of a list.
const MAX_PAGES: usize = 64;
/// Most bytes of a page of tags.
const MAX_TAGS_BYTES: u64 = 4 << 20;
/// Most entries of a list of referrers that is repaired.
const MAX_REFERRERS: usize = 4096;
/// Most entries without a type whose manifests are asked for it.
const MAX_UNTYPED: usize = 16;
/// Most bytes of a manifest that goes into its entry.
const MAX_EMBEDDED: usize = 16 << 10;
/// Most characters that manifests take in a list; what is older than the newest so long goes out.
const MAX_EMBEDDED_TEXT: usize = 128 << 10;
/// Types of artifacts that this program lists.
const OWN_TYPES: &[&str] = &[
    media::ACCELERATION,
    media::WORKING_SET,
    media::SIGSTORE_BUNDLE,
];
/// Digits of an artifact's digest in its own tag.
const OWN_TAG_DIGITS: usize = 16;
/// Repairs of a list before giving up.
const ROUNDS: u32 = 24;
/// Before a list that others write too is read again.
const ROUND_PAUSE: Duration = Duration::from_millis(40);
/// A registry may learn the referrers API when it is updated.
const TAGS_KNOWN_FOR: Duration = Duration::from_secs(3600);

/// How a registry lists referrers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Support {
    /// By the referrers API.
    Api,
    /// By tags.
    Tags,
}

/// Whether an entry of a list is of one of these types.
pub(crate) fn is_one_of(entry: &Descriptor, artifact_types: &[impl AsRef<str>]) -> bool {
    let own = entry.artifact_type.as_deref();
    artifact_types.iter().any(|it| own == Some(it.as_ref()))
}

impl Remote {
    fn support(&self) -> Option<Support> {
        let known = locked(&self.shared.support);
        match known.get(&self.registry)? {
            (Support::Tags, since) if since.elapsed() > TAGS_KNOWN_FOR => None,
            (support, _) => Some(*support),
        }
    }

    fn learn(&self, support: Support) {
        let now = (support, Instant::now());
        locked(&self.shared.support).insert(self.registry.clone(), now);
    }

    /// The referrers of `subject` that are of one of `artifact_types`, within the client's deadline
    /// however many requests that takes. One type the registry may filter by; for several all are
    /// asked for, which is one request and not one for each.
    pub(crate) async fn referrers(
        self: Arc<Self>,
        subject: Digest,
        artifact_types: &[String],
    ) -> Result<Vec<Descriptor>, RegistryError> {
        let deadline = Instant::now() + self.shared.settings.deadline;
        let what = format!("referrers of {subject}");
        let types = artifact_types;
        let list = async {
            match self.support() {
                Some(Support::Tags) => self.typed_list(&subject, types).await,
                Some(Support::Api) => {
                    let list = self.api_list(&subject, types).await?;
                    Ok(list.unwrap_or_default())
                }
                None => self.list_either_way(subject, types, deadline).await,
            }
        };
        let mut list = self.until(deadline, &what, list).await?;
        list.retain(|entry| is_one_of(entry, artifact_types));
        Ok(list)
    }

    /// The same where it is not known how the registry lists them.
    async fn list_either_way(
        self: &Arc<Self>,
        subject: Digest,
        artifact_types: &[String],
        deadline: Instant,
    ) -> Result<Vec<Descriptor>, RegistryError> {
        // The loser runs on: to cut its answer would cost its connection.
        let (other, types) = (Arc::clone(self), artifact_types.to_vec());
        let tags = tokio::spawn(async move {
            let list = other.typed_list(&subject, &types);
            other.until(deadline, &list_tag(&subject), list).await
        });
        if let Some(list) = self.api_list(&subject, artifact_types).await? {
            self.learn(Support::Api);
            return Ok(list);
        }
        let list = tags.await;
        let list = list.map_err(|it| RegistryError::Internal(it.to_string()))??;
        self.learn(Support::Tags);
        Ok(list)
    }

    /// What the referrers API lists of `artifact_types`; `None` where the registry has none.
    async fn api_list(
        &self,
        subject: &Digest,
        artifact_types: &[String],
    ) -> Result<Option<Vec<Descriptor>>, RegistryError> {
        let mut url = self.url(&format!("referrers/{subject}"))?;
        if let [only] = artifact_types {
            url.query_pairs_mut().append_pair("artifactType", only);
        }
        let mut list = Listed::new(artifact_types, 0);
        for _ in 0..MAX_PAGES {
            let what = format!("referrers of {subject}");
            let call = Call::new(Method::GET, url.clone(), Access::Pull, what);
            let answer = match self.ask(&call, MAX_INDEX_BYTES).await {
                Ok(answer) => answer,
                Err(
                    RegistryError::NotFound { .. }
                    | RegistryError::Status {
                        status: 400 | 405 | 406 | 410 | 501,
                        ..
                    },
                ) => {
                    return Ok(None);
                }
                Err(error) => return Err(error),
            };
            // Some registries answer anything unknown with a page for people.
            if !list.read(&answer.body) {
                return Ok(None);
            }
            match next_page(&url, &answer.headers) {
                Some(next) if !list.is_full() => url = next,
                _ => break,
            }
        }
        Ok(Some(list.into_entries()))
    }

    /// What of `artifact_types` is listed under the subject's tag. Tools that copy the list leave the
    /// types out: what has none is described by its own manifest.
    async fn typed_list(
        &self,
        subject: &Digest,
        artifact_types: &[String],
    ) -> Result<Vec<Descriptor>, RegistryError> {
        let mut list = Listed::new(artifact_types, MAX_UNTYPED);
        if let Some(index) = self.tagged(subject).await?
            && !list.read(index.bytes())
        {
            return Err(self.malformed(&list_tag(subject), "it lists no manifests"));
        }
        let mut list = list.into_entries();
        for entry in &mut list {
            if entry.artifact_type.is_some() {
                continue;
            }
            // One that is gone, or is no manifest, stays without a type and hides no other.
            let manifest = self.manifest(&Which::Digest(entry.digest)).await;
            if let Ok(descriptor) = manifest.and_then(|manifest| manifest.descriptor()) {
                *entry = descriptor;
            }
        }
        Ok(list)
    }

    /// The index under the subject's tag.
    async fn tagged(&self, subject: &Digest) -> Result<Option<Manifest>, RegistryError> {
        match self.manifest(&Which::Tag(list_tag(subject))).await {
            Ok(list) if list.is_index() => Ok(Some(list)),
            Ok(_) => Err(self.malformed(&list_tag(subject), "a list of referrers is no image")),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The whole list under the subject's tag; an empty one where there is none.
    async fn tagged_list(&self, subject: &Digest) -> Result<IndexContent, RegistryError> {
        let list = self.tagged(subject).await?;
        list.map_or_else(|| Ok(IndexContent::of(Vec::new())), |list| list.index())
    }

    /// Puts an artifact and enters it among the referrers of its subject.
    pub(crate) async fn add_referrer(&self, referrer: &Manifest) -> Result<(), RegistryError> {
        let what = format!("manifest {}", referrer.digest());
        let subject = referrer.content()?.subject;
        let subject = subject.ok_or_else(|| self.malformed(&what, "it has no subject"))?;
        if self.support() != Some(Support::Tags) {
            let answer = self.put_manifest(None, referrer).await?;
            if answer.headers.contains_key(SUBJECT) {
                self.learn(Support::Api);
                return Ok(());
            }
        }
        let tag = own_tag(&subject.digest, referrer.digest());
        self.put_manifest(Some(&tag), referrer).await?;
        let entry = entry_of(referrer)?;
        self.settle(&subject.digest, Change::Add(entry)).await
    }

    /// Takes a deleted artifact from its subject's list.
    pub(crate) async fn remove_referrer(
        &self,
        subject: &Digest,
        referrer: &Digest,
    ) -> Result<(), RegistryError> {
        if self.support() == Some(Support::Api) {
            return Ok(());
        }
        self.settle(subject, Change::Remove(*referrer)).await
    }

    /// Changes the subject's list until a list is read that needs no change.
    async fn settle(&self, subject: &Digest, change: Change) -> Result<(), RegistryError> {
        let tag = list_tag(subject);
        for _ in 0..ROUNDS {
            let mut list = self.tagged_list(subject).await?;
            let before = list.manifests.len();
            match &change {
                Change::Remove(gone) => list.manifests.retain(|entry| entry.digest != *gone),
                Change::Add(entry) if lists(&list, &entry.digest) => {}
                Change::Add(entry) => list.manifests.push(entry.clone()),
            }
            let shrunk = list.manifests.len() < before;
            self.find_lost(subject, &change, &mut list).await?;
            if list.manifests.len() == before && !shrunk {
                return Ok(());
            }
            shorten(&mut list.manifests, MAX_EMBEDDED_TEXT);
            self.put_list(&tag, list).await?;
            tokio::time::sleep(jitter(ROUND_PAUSE)).await;
        }
        Err(RegistryError::Contended {
            place: self.place(),
            tag,
            rounds: ROUNDS,
        })
    }

    /// Adds what has a tag of its own and is not listed.
    async fn find_lost(
        &self,
        subject: &Digest,
        change: &Change,
        list: &mut IndexContent,
    ) -> Result<(), RegistryError> {
        for tag in self.own_tags(subject).await? {
            let short = tag.rsplit('.').next().unwrap_or_default();
            let listed = |entry: &Descriptor| entry.digest.hex().starts_with(short);
            if list.manifests.iter().any(listed) || list.manifests.len() >= MAX_REFERRERS {
                continue;
            }
            let manifest = match self.manifest(&Which::Tag(tag.clone())).await {
                Ok(manifest) => manifest,
                // Deleted, with its tag left behind.
                Err(error) if error.is_not_found() => continue,
                Err(error) => return Err(error),
            };
            let gone = matches!(change, Change::Remove(gone) if gone == manifest.digest());
            // Anyone may set such a tag: only what speaks for this subject is taken.
            let speaks = !manifest.is_index()
                && manifest
                    .content()?
                    .subject
                    .is_some_and(|it| it.digest == *subject);
            if speaks && !gone {
                list.manifests.push(entry_of(&manifest)?);
            }
        }
        Ok(())
    }

    /// The tags that the subject's artifacts have of their own. A registry that does not list
    /// tags cannot be repaired from them.
    async fn own_tags(&self, subject: &Digest) -> Result<Vec<String>, RegistryError> {
        #[derive(Deserialize)]
        struct Page {
            tags: Option<Vec<String>>,
        }
        let list_tag = list_tag(subject);
        let prefix = format!("{list_tag}.");
        let mut url = self.url("tags/list")?;
        // Registries that page list in order: ours come right behind the list's own tag.
        url.query_pairs_mut()
            .append_pair("n", "1000")
            .append_pair("last", &list_tag);
        let mut found = Vec::new();
        for _ in 0..MAX_PAGES {
            let call = Call::new(Method::GET, url.clone(), Access::Pull, "tags".to_owned());
            let answer = match self.ask(&call, MAX_TAGS_BYTES).await {
                Ok(answer) => answer,
                Err(error @ (RegistryError::Denied { .. } | RegistryError::Status { .. })) => {
                    tracing::debug!(%error, "lost referrers cannot be found");
                    return Ok(found);
                }
                Err(error) => return Err(error),
            };
            let page: Page = serde_json::from_slice(&answer.body)
                .map_err(|error| self.malformed("tags", &error.to_string()))?;
            let tags = page.tags.unwrap_or_default();
            let past = tags
                .last()
                .is_none_or(|tag| *tag > prefix && !tag.starts_with(&prefix));
            // Other tools have tags like these: `.sig` is cosign's.
            let is_own = |tag: &String| {
                tag.strip_prefix(&prefix)
                    .is_some_and(|rest| rest.len() == OWN_TAG_DIGITS)
            };
            found.extend(tags.into_iter().filter(is_own));
            match next_page(&url, &answer.headers) {
                Some(next) if !past && found.len() < MAX_REFERRERS => url = next,
                _ => break,
            }
        }
        Ok(found)
    }

    /// Pushes a list; without the entries whose manifests are gone where the registry insists.
    async fn put_list(&self, tag: &str, mut list: IndexContent) -> Result<(), RegistryError> {
        let refused = match self
            .put_manifest(Some(tag), &self.as_manifest(&list)?)
            .await
        {
            Ok(_) => return Ok(()),
            Err(error @ RegistryError::Status { status: 400, .. }) => error,
            Err(error) => return Err(error),
        };
        let before = list.manifests.len();
        let mut kept = Vec::new();
        for entry in list.manifests {
            if self.has_manifest(&entry.digest).await? {
                kept.push(entry);
            }
        }
        list.manifests = kept;
        if list.manifests.len() == before {
            return Err(refused);
        }
        self.put_manifest(Some(tag), &self.as_manifest(&list)?)
            .await?;
        Ok(())
    }

    fn as_manifest(&self, list: &IndexContent) -> Result<Manifest, RegistryError> {
        Manifest::parse(list.to_bytes(), None)
            .map_err(|reason| self.malformed("list of referrers", &reason))
    }

    async fn has_manifest(&self, digest: &Digest) -> Result<bool, RegistryError> {
        let url = self.url(&format!("manifests/{digest}"))?;
        let what = format!("manifest {digest}");
        let call = Call::new(Method::HEAD, url, Access::Pull, what);
        match self.ask(&call, MAX_MANIFEST_BYTES).await {
            Ok(_) => Ok(true),
            Err(error) if error.is_not_found() => Ok(false),
            Err(error) => Err(error),
        }
    }
}

#[derive(Debug)]
enum Change {
    Add(Descriptor),
    Remove(Digest),
}

/// A manifest's entry in a list.
fn entry_of(manifest: &Manifest) -> Result<Descriptor, RegistryError> {
    let entry = manifest.descriptor()?;
    let bytes = manifest.bytes();
    Ok(match bytes.len() <= MAX_EMBEDDED {
        true => entry.with_data(bytes),
        false => entry,
    })
}

/// Takes embedded manifests out of a list, the oldest first, until they are no longer than `most`.
/// What others have embedded stays.
fn shorten(entries: &mut [Descriptor], most: usize) {
    let mut length: usize = entries.iter().map(Descriptor::data_len).sum();
    for entry in entries {
        if length > most && is_one_of(entry, OWN_TYPES) {
            length -= entry.drop_data();
        }
    }
}

fn lists(list: &IndexContent, digest: &Digest) -> bool {
    list.manifests.iter().any(|entry| entry.digest == *digest)
}

/// The tag of a subject's list (OCI distribution-spec, "Referrers Tag Schema").
pub(crate) fn list_tag(subject: &Digest) -> String {
    format!("sha256-{}", subject.hex())
}

/// An artifact's own tag: 88 of the 128 characters that a tag may have.
fn own_tag(subject: &Digest, artifact: &Digest) -> String {
    let hex = artifact.hex();
    format!("{}.{}", list_tag(subject), &hex[..OWN_TAG_DIGITS])
}

/// `Link: <ADDRESS>; rel="next"` (RFC 8288), where it stays with the registry.
pub(crate) fn next_page(url: &Url, headers: &HeaderMap) -> Option<Url> {
    let text = headers.get(LINK)?.to_str().ok()?;
    let (target, rest) = text.trim().strip_prefix('<')?.split_once('>')?;
    let next = url.join(target).ok()?;
    (rest.contains("next") && same_origin(&next, url)).then_some(next)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ManifestContent;

    #[test]
    fn own_tags_are_tags() {
        let tag = own_tag(&Digest::of(b"s"), &Digest::of(b"a"));
        assert!(tag.len() <= 128);
        let reference = format!("r.example/a:{tag}");
        assert!(reference.parse::<thaw_image::ImageReference>().is_ok());
    }

    #[test]
    fn entries_hold_small_manifests_and_a_list_only_so_many() {
        let manifest = |name: &str| {
            let subject = Descriptor::of(media::MANIFEST, b"subject");
            let layer = Descriptor::of("application/octet-stream", name.as_bytes());
            let content = ManifestContent::artifact(media::WORKING_SET, subject, vec![layer]);
            Manifest::parse(content.to_bytes(), None).unwrap()
        };
        let all: Vec<Manifest> = ["a", "b", "c"].map(manifest).into();
        let mut entries: Vec<Descriptor> = all.iter().map(|it| entry_of(it).unwrap()).collect();
        for (entry, manifest) in entries.iter().zip(&all) {
            assert_eq!(entry.embedded().unwrap().bytes(), manifest.bytes());
        }
        // Other bytes than those that the entry names are none.
        let mut lying = entries[0].clone();
        lying.digest = entries[1].digest;
        assert!(lying.embedded().is_none());
        let two = entries[1].data_len() + entries[2].data_len();
        let mut foreign = entries[0].clone();
        foreign.artifact_type = Some("application/spdx+json".to_owned());
        entries.insert(0, foreign);
        shorten(&mut entries, two);
        let embedded: Vec<bool> = entries.iter().map(|it| it.embedded().is_some()).collect();
        assert_eq!(embedded, [true, false, false, true]);
    }

    #[test]
    fn pages_follow_within_the_registry() {
        let url = Url::parse("https://r.example/v2/a/tags/list").unwrap();
        let next = |text: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(LINK, text.parse().unwrap());
            next_page(&url, &headers).map(|it| it.to_string())
        };
        let there = Some("https://r.example/v2/a/tags/list?last=x".to_owned());
        assert_eq!(next(r#"</v2/a/tags/list?last=x>; rel="next""#), there);
        assert_eq!(next(r#"<https://evil.example/>; rel="next""#), None);
        assert_eq!(next(r#"</x>; rel="prev""#), None);
        assert_eq!(next("nonsense"), None);
    }
}
