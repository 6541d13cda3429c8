//! Putting blobs and manifests into a registry (OCI distribution-spec, "Push").

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use reqwest::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderValue, LOCATION};
use reqwest::{Method, Url};
use thaw_image::Hasher;
use tokio::sync::mpsc;

use crate::auth::Access;
use crate::bridge::{Bridge, Feed};
use crate::call::{Answer, Call};
use crate::http::{Remote, same_origin};
use crate::retry::{Failure, Retry};
use crate::{Body, Descriptor, Manifest, RegistryError};

const MAX_ANSWER_BYTES: u64 = 64 << 10;
/// Tries of a whole upload.
const TRIES: u32 = 4;

impl Remote {
    /// Whether the repository has a blob.
    pub(crate) async fn has_blob(&self, blob: &Descriptor) -> Result<bool, RegistryError> {
        let what = format!("blob {}", blob.digest);
        let url = self.url(&format!("blobs/{}", blob.digest))?;
        let call = Call::new(Method::HEAD, url, Access::Push, what);
        match self.ask(&call, 0).await {
            Ok(_) => Ok(true),
            Err(error) if error.is_not_found() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Opens an upload and gives its address.
    async fn begin_upload(&self, what: &str) -> Result<Url, RegistryError> {
        let url = self.url("blobs/uploads/")?;
        let call = Call::new(Method::POST, url, Access::Push, what.to_owned());
        let answer = self.ask(&call, MAX_ANSWER_BYTES).await?;
        let location = answer.headers.get(LOCATION).and_then(|it| it.to_str().ok());
        location
            .and_then(|location| call.url.join(location).ok())
            .ok_or_else(|| self.malformed(what, "the upload has no address"))
    }

    /// Sends what comes through `pieces` to an upload's address, and closes it.
    async fn finish_upload(
        self: Arc<Self>,
        blob: Descriptor,
        mut url: Url,
        pieces: mpsc::Receiver<Bytes>,
    ) -> Result<(), Failure> {
        let what = format!("upload of blob {}", blob.digest);
        url.query_pairs_mut()
            .append_pair("digest", &blob.digest.to_string());
        let moved = Arc::new(AtomicU64::new(0));
        let own = same_origin(&url, &self.base);
        let call = Call::new(Method::PUT, url, Access::Push, what);
        let kind = HeaderValue::from_static("application/octet-stream");
        let call = call
            .header(CONTENT_TYPE, kind)
            .header(CONTENT_LENGTH, HeaderValue::from(blob.size));
        let grant = self.grant(call.access).await?.filter(|_| own);
        let mut request = call.request(&call.url, grant.as_ref());
        let body = Upload {
            pieces,
            left: blob.size,
            moved: Arc::clone(&moved),
        };
        *request.body_mut() = Some(reqwest::Body::wrap(body));
        let response = self.send_slowly(request, &moved, &call.what).await?;
        if response.status().is_success() {
            self.drain(response).await;
            return Ok(());
        }
        let renewed = own && self.renew(call.access, &response, grant.as_ref()).await;
        let failure = self.refusal(&call.what, response, true).await;
        Err(if renewed { failure.repeated() } else { failure })
    }

    /// Puts a manifest under its digest or under a tag.
    pub(crate) async fn put_manifest(
        &self,
        tag: Option<&str>,
        manifest: &Manifest,
    ) -> Result<Answer, RegistryError> {
        let digest = manifest.digest().to_string();
        let name = tag.unwrap_or(&digest);
        let url = self.url(&format!("manifests/{name}"))?;
        let kind = HeaderValue::from_str(manifest.media_type())
            .map_err(|_| self.malformed(name, "its media type is none"))?;
        let call = Call::new(Method::PUT, url, Access::Push, format!("manifest {name}"))
            .header(CONTENT_TYPE, kind)
            .body(Bytes::copy_from_slice(manifest.bytes()));
        self.ask(&call, MAX_ANSWER_BYTES).await
    }
}

/// Uploads a blob unless it is there, from the start again when it breaks.
pub(crate) fn put_blob(
    bridge: &Bridge,
    remote: &Arc<Remote>,
    blob: &Descriptor,
    body: &mut dyn Body,
) -> Result<(), RegistryError> {
    let (task, wanted) = (Arc::clone(remote), blob.clone());
    if bridge.run(async move { task.has_blob(&wanted).await })? {
        return Ok(());
    }
    let mut retry = Retry::new(Instant::now() + remote.shared.settings.deadline, TRIES);
    loop {
        body.rewind().map_err(|error| remote.unreadable(&error))?;
        let (task, wanted) = (Arc::clone(remote), blob.clone());
        let url = bridge.run(async move {
            let what = format!("upload of blob {}", wanted.digest);
            task.begin_upload(&what).await
        })?;
        let (task, wanted) = (Arc::clone(remote), blob.clone());
        let result = bridge.feed(
            |pieces| task.finish_upload(wanted, url, pieces),
            |feed| remote.feed(blob, body, &feed),
        )?;
        match result {
            Ok(()) => return Ok(()),
            Err(failure) => {
                // An upload may take long: the deadline is of the pause alone.
                retry = retry.extended(Instant::now() + remote.shared.settings.deadline);
                std::thread::sleep(retry.next(failure)?);
            }
        }
    }
}

impl Remote {
    /// Reads the body into an upload. Its last piece is sent only when the digest is right, so
    /// that no registry that does not look keeps a wrong blob.
    fn feed(
        &self,
        blob: &Descriptor,
        body: &mut dyn Body,
        feed: &Feed,
    ) -> Result<(), RegistryError> {
        let mut hasher = Hasher::new();
        let mut left = blob.size;
        let mut piece = vec![0; Feed::PIECE];
        while left > 0 {
            let want = usize::try_from(left).unwrap_or(usize::MAX).min(piece.len());
            let got = body.read(&mut piece[..want]);
            let got = got.map_err(|error| self.unreadable(&error))?;
            hasher.update(&piece[..got]);
            left -= got as u64;
            if got == 0 || left == 0 {
                let actual = std::mem::take(&mut hasher).finish();
                if actual != blob.digest {
                    return Err(RegistryError::Mismatch {
                        place: "this machine".to_owned(),
                        what: format!("blob to upload to {}", self.place()),
                        expected: blob.digest,
                        actual,
                    });
                }
            }
            if !feed.send(Bytes::copy_from_slice(&piece[..got])) {
                // The upload has ended early: its task says why.
                return Ok(());
            }
        }
        Ok(())
    }

    fn unreadable(&self, error: &std::io::Error) -> RegistryError {
        let what = format!("blob to upload to {}", self.place());
        RegistryError::Malformed {
            place: "this machine".to_owned(),
            what,
            reason: error.to_string(),
        }
    }
}

/// A body whose bytes come through a channel.
struct Upload {
    pieces: mpsc::Receiver<Bytes>,
    left: u64,
    moved: Arc<AtomicU64>,
}

impl http_body::Body for Upload {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        self.pieces.poll_recv(context).map(|piece| {
            Some(match piece {
                Some(piece) => {
                    self.left = self.left.saturating_sub(piece.len() as u64);
                    self.moved.fetch_add(piece.len() as u64, Ordering::Relaxed);
                    Ok(Frame::data(piece))
                }
                None => Err(std::io::ErrorKind::UnexpectedEof.into()),
            })
        })
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}
