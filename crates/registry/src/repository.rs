//! A registry's repository, seen from plain threads.

use std::io::Read;
use std::sync::Arc;
use std::time::Instant;

use reqwest::Method;
use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderName, HeaderValue};
use thaw_image::{BlobSource, Digest, Extent, SourceError};

use crate::auth::Access;
use crate::bridge::Bridge;
use crate::call::{Answer, Call};
use crate::document::check_digest;
use crate::http::Remote;
use crate::link::Link;
use crate::parallel::Stream;
use crate::range::{Patience, RangeRead};
use crate::route::Route;
use crate::{
    Body, Descriptor, MAX_INDEX_BYTES, MAX_MANIFEST_BYTES, Manifest, RegistryError, Repository,
    Stats, Which, push,
};

/// All that this program reads; one list, so that one request finds any of them.
const ACCEPTED: &str = "application/vnd.oci.image.manifest.v1+json, \
    application/vnd.oci.image.index.v1+json, \
    application/vnd.docker.distribution.manifest.v2+json, \
    application/vnd.docker.distribution.manifest.list.v2+json";
const CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");

/// A registry's repository.
#[derive(Debug)]
pub(crate) struct RegistryRepository {
    bridge: Arc<Bridge>,
    route: Arc<Route>,
    /// When whoever asks stops waiting.
    deadline: Option<Instant>,
}

impl RegistryRepository {
    pub(crate) fn new(bridge: Arc<Bridge>, route: Route) -> Self {
        Self {
            bridge,
            route: Arc::new(route),
            deadline: None,
        }
    }

    /// Waits for `answer` to a question after `what`.
    fn wait<T: Send + 'static>(
        &self,
        what: &str,
        answer: impl Future<Output = Result<T, RegistryError>> + Send + 'static,
    ) -> Result<T, RegistryError> {
        let Some(deadline) = self.deadline else {
            return self.bridge.run(answer);
        };
        let (origin, what) = (Arc::clone(self.route.origin()), what.to_owned());
        let answer = async move { origin.until(deadline, &what, answer).await };
        self.bridge.run(answer)
    }

    /// Runs what `work` makes of the registry's own repository.
    fn run<T, F>(&self, work: impl FnOnce(Arc<Remote>) -> F) -> Result<T, RegistryError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, RegistryError>> + Send + 'static,
    {
        self.bridge.run(work(Arc::clone(self.route.origin())))
    }

    /// Runs what `question` makes of the first place that answers it.
    fn ask<T, F>(
        &self,
        what: &str,
        question: impl Fn(Arc<Remote>) -> F + Send + Sync + 'static,
    ) -> Result<T, RegistryError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, RegistryError>> + Send + 'static,
    {
        let route = Arc::clone(&self.route);
        self.wait(what, async move { route.ask(question).await })
    }
}

impl BlobSource for RegistryRepository {
    fn read_at(
        &self,
        blob: &Digest,
        extent: Extent,
        deadline: Option<Instant>,
    ) -> Result<Vec<u8>, SourceError> {
        let deadline = deadline
            .unwrap_or_else(|| Instant::now() + self.route.origin().shared.settings.deadline);
        let patience = Patience::Until(deadline);
        let read = RangeRead::anywhere(self.route.places(), *blob, extent, patience);
        let bytes = self.wait(&format!("blob {blob}"), read.collect());
        bytes.map_err(|error| error.into_source(blob))
    }

    fn stream(&self, blob: &Digest, extent: Extent) -> Result<Box<dyn Read + Send>, SourceError> {
        let (route, blob) = (Arc::clone(&self.route), *blob);
        let reader = self.bridge.stream(blob, extent.len, |sender| async move {
            Stream::new(route, blob, sender).send(extent).await;
        });
        Ok(Box::new(reader))
    }

    fn name(&self) -> String {
        self.route.origin().place()
    }

    fn host(&self) -> String {
        self.route.origin().registry.clone()
    }

    fn distrust(&self) -> bool {
        self.route.distrust()
    }
}

impl Repository for RegistryRepository {
    fn manifest(&self, which: &Which) -> Result<Manifest, RegistryError> {
        let which = which.clone();
        self.ask(&format!("manifest {which}"), move |remote| {
            let which = which.clone();
            async move { remote.manifest(&which).await }
        })
    }

    fn blob(&self, descriptor: &Descriptor, limit: u64) -> Result<Vec<u8>, RegistryError> {
        let Descriptor { digest, size, .. } = *descriptor;
        let what = format!("blob {digest}");
        if size > limit {
            return Err(RegistryError::TooLarge {
                place: self.name(),
                what,
                limit,
            });
        }
        self.ask(&what.clone(), move |remote| {
            let (place, what) = (remote.place(), what.clone());
            let patience = Patience::Until(Instant::now() + remote.shared.settings.deadline);
            let read = RangeRead::whole(remote, digest, size, patience).collect();
            async move {
                let bytes = read.await?;
                check_digest(&place, &what, &bytes, &digest)?;
                Ok(bytes)
            }
        })
    }

    fn referrers(
        &self,
        subject: &Digest,
        artifact_types: &[&str],
    ) -> Result<Vec<Descriptor>, RegistryError> {
        let subject = *subject;
        let types: Vec<String> = artifact_types.iter().map(ToString::to_string).collect();
        let route = Arc::clone(&self.route);
        let list = async move { route.referrers(subject, &types).await };
        self.wait(&format!("referrers of {subject}"), list)
    }

    fn until(self: Arc<Self>, deadline: Instant) -> Arc<dyn Repository> {
        Arc::new(Self {
            bridge: Arc::clone(&self.bridge),
            route: Arc::clone(&self.route),
            deadline: Some(deadline),
        })
    }

    fn put_blob(&self, descriptor: &Descriptor, body: &mut dyn Body) -> Result<(), RegistryError> {
        push::put_blob(&self.bridge, self.route.origin(), descriptor, body)
    }

    fn put_manifest(&self, tag: Option<&str>, manifest: &Manifest) -> Result<(), RegistryError> {
        let (tag, manifest) = (tag.map(str::to_owned), manifest.clone());
        self.run(|remote| async move {
            remote.put_manifest(tag.as_deref(), &manifest).await?;
            Ok(())
        })
    }

    fn add_referrer(&self, referrer: &Manifest) -> Result<(), RegistryError> {
        let referrer = referrer.clone();
        self.run(|remote| async move { remote.add_referrer(&referrer).await })
    }

    fn delete_manifest(&self, digest: &Digest) -> Result<(), RegistryError> {
        let digest = *digest;
        self.run(|remote| async move { remote.delete_manifest(&digest).await })
    }

    fn connect(&self) {
        self.bridge.spawn(self.route.first().connect());
    }

    fn approach(&self) {
        self.bridge.spawn(self.route.first().approach());
    }

    fn comes_after(&self, round_trips: u64) {
        self.route.origin().comes_after(round_trips);
    }

    fn link(&self) -> Option<Link> {
        Some(self.route.first().link())
    }

    fn stats(&self) -> Stats {
        self.route.origin().stats()
    }
}

impl Remote {
    /// A manifest whose digest is right: the one asked for, and else the one that the registry
    /// says it is.
    pub(crate) async fn manifest(&self, which: &Which) -> Result<Manifest, RegistryError> {
        let what = format!("manifest {which}");
        let url = self.url(&format!("manifests/{which}"))?;
        let call = Call::new(Method::GET, url, Access::Pull, what)
            .header(ACCEPT, HeaderValue::from_static(ACCEPTED));
        let Answer { headers, body } = self.ask(&call, MAX_INDEX_BYTES).await?;
        let said = headers.get(CONTENT_DIGEST).and_then(|it| it.to_str().ok());
        let expected = match which {
            Which::Digest(digest) => Some(*digest),
            Which::Tag(_) | Which::Only => said.and_then(|it| it.parse().ok()),
        };
        if let Some(expected) = expected {
            check_digest(&self.place(), &call.what, &body, &expected)?;
        }
        let called = headers.get(CONTENT_TYPE).and_then(|it| it.to_str().ok());
        let manifest =
            Manifest::parse(body, called).map_err(|reason| self.malformed(&call.what, &reason))?;
        if !manifest.is_index() && manifest.bytes().len() as u64 > MAX_MANIFEST_BYTES {
            return Err(RegistryError::TooLarge {
                place: self.place(),
                what: call.what,
                limit: MAX_MANIFEST_BYTES,
            });
        }
        Ok(manifest)
    }

    /// Deletes a manifest, and its entry in the list of its subject's referrers.
    async fn delete_manifest(&self, digest: &Digest) -> Result<(), RegistryError> {
        let subject = match self.manifest(&Which::Digest(*digest)).await {
            Ok(manifest) if manifest.is_index() => None,
            Ok(manifest) => manifest.content()?.subject,
            Err(error) if error.is_not_found() => return Ok(()),
            Err(error) => return Err(error),
        };
        let what = format!("the deletion of manifest {digest}");
        let url = self.url(&format!("manifests/{digest}"))?;
        let call = Call::new(Method::DELETE, url, Access::Delete, what);
        match self.ask(&call, MAX_MANIFEST_BYTES).await {
            Ok(_) => {}
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error),
        }
        match subject {
            Some(subject) => self.remove_referrer(&subject.digest, digest).await,
            None => Ok(()),
        }
    }
}
