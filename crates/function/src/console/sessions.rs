//! Who is signed in: sessions in memory, which end with the host, after [`IDLE`] without a request, or
//! with their access key.
//!
//! A session is found by the digest of its cookie, so that the time it takes to find none says nothing
//! of those there are.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use ring::hmac;
use thaw_image::Digest;
use tokio::sync::{Semaphore, watch};

use crate::error::Refusal;
use crate::host::Host;
use crate::unique;

/// How long a session lasts without a request.
pub(super) const IDLE: Duration = Duration::from_secs(12 * 3600);
/// Sessions at once; beyond it the one that was used last the longest ago ends.
const MAX_SESSIONS: usize = 256;
/// Sign-ins that are looked at at once.
const MAX_TRIES: usize = 8;
/// For how long a wrong one keeps its place.
const PAUSE: Duration = Duration::from_secs(1);
/// For how long one waits for a place.
const PATIENCE: Duration = Duration::from_secs(10);

/// All sessions of a host.
#[derive(Debug)]
pub(super) struct Sessions {
    open: Mutex<HashMap<Digest, Session>>,
    /// The token of everybody, where nobody signs in.
    everybody: OnceLock<String>,
    tries: Semaphore,
}

impl Default for Sessions {
    fn default() -> Self {
        Self {
            open: Mutex::default(),
            everybody: OnceLock::new(),
            tries: Semaphore::new(MAX_TRIES),
        }
    }
}

#[derive(Debug)]
struct Session {
    /// The access key.
    key: String,
    token: String,
    used: Instant,
    /// Gone with the session: what flows for it ends.
    end: watch::Sender<()>,
}

/// Somebody who may see the console.
#[derive(Clone, Debug)]
pub(super) struct Visitor {
    /// The access key; `None` where nobody signs in.
    pub(super) key: Option<String>,
    /// What changes have to be sent with.
    pub(super) token: String,
    end: Option<watch::Receiver<()>>,
}

impl Visitor {
    /// Returns when the session has ended.
    pub(super) async fn ended(self) {
        match self.end {
            Some(mut end) => while end.changed().await.is_ok() {},
            None => std::future::pending().await,
        }
    }
}

/// Whether two secrets are the same, in a time that does not depend on where they differ.
pub(super) fn same(a: &str, b: &str) -> bool {
    // A key of the moment: tags of it say nothing of what was signed.
    let key = hmac::Key::new(hmac::HMAC_SHA256, unique::id().as_bytes());
    hmac::verify(&key, a.as_bytes(), hmac::sign(&key, b.as_bytes()).as_ref()).is_ok()
}

impl Sessions {
    fn lock(&self) -> MutexGuard<'_, HashMap<Digest, Session>> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        open.retain(|_, session| now.duration_since(session.used) < IDLE);
        open
    }

    /// Signs in with an access key; the value of the session's cookie.
    ///
    /// # Errors
    /// `SignInFailed`, after a pause; `ResourceExhausted` where too many try at once.
    pub(super) async fn sign_in(
        &self,
        host: &Host,
        id: &str,
        secret: &str,
    ) -> Result<String, Refusal> {
        let place = tokio::time::timeout(PATIENCE, self.tries.acquire()).await;
        let Ok(Ok(_place)) = place else {
            let message = "too many sign in at once: try again in a moment";
            return Err(Refusal::exhausted(message));
        };
        let known = host.keys.secret(&host.catalog, id)?;
        // One that is not known is compared with something too.
        let fits = same(known.as_deref().unwrap_or(id), secret);
        if known.is_none() || !fits {
            tokio::time::sleep(PAUSE).await;
            let message = "this access key and its secret are not known here";
            let status = hyper::StatusCode::UNAUTHORIZED;
            return Err(Refusal::new(status, "SignInFailed", message));
        }
        self.begin(id)
    }

    fn begin(&self, key: &str) -> Result<String, Refusal> {
        let (cookie, token) = (unique::secret()?, unique::secret()?);
        let mut open = self.lock();
        if open.len() >= MAX_SESSIONS {
            let oldest = open.iter().min_by_key(|(_, session)| session.used);
            if let Some(oldest) = oldest.map(|(digest, _)| *digest) {
                open.remove(&oldest);
            }
        }
        let session = Session {
            key: key.to_owned(),
            token,
            used: Instant::now(),
            end: watch::Sender::new(()),
        };
        open.insert(Digest::of(cookie.as_bytes()), session);
        Ok(cookie)
    }

    /// Whose session a cookie is of.
    pub(super) fn find(&self, host: &Host, cookie: &str) -> Option<Visitor> {
        let digest = Digest::of(cookie.as_bytes());
        let visitor = {
            let mut open = self.lock();
            let session = open.get_mut(&digest)?;
            session.used = Instant::now();
            Visitor {
                key: Some(session.key.clone()),
                token: session.token.clone(),
                end: Some(session.end.subscribe()),
            }
        };
        let secret = host.keys.secret(&host.catalog, visitor.key.as_deref()?);
        if let Ok(Some(_)) = secret {
            return Some(visitor);
        }
        self.lock().remove(&digest);
        None
    }

    /// Everybody, where nobody signs in.
    pub(super) fn everybody(&self) -> Result<Visitor, Refusal> {
        if self.everybody.get().is_none() {
            self.everybody.set(unique::secret()?).ok();
        }
        Ok(Visitor {
            key: None,
            token: self.everybody.get().cloned().unwrap_or_default(),
            end: None,
        })
    }

    /// Signs out.
    pub(super) fn end(&self, cookie: &str) {
        self.lock().remove(&Digest::of(cookie.as_bytes()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_are_bounded_and_the_least_used_one_goes() {
        let sessions = Sessions::default();
        let all: Vec<String> = (0..MAX_SESSIONS)
            .map(|_| sessions.begin("key").unwrap())
            .collect();
        let digest = |cookie: &String| Digest::of(cookie.as_bytes());
        sessions.lock().get_mut(&digest(&all[0])).unwrap().used = Instant::now();
        let one_more = sessions.begin("key").unwrap();
        let open = sessions.lock();
        assert_eq!(open.len(), MAX_SESSIONS);
        assert!(open.contains_key(&digest(&all[0])) && open.contains_key(&digest(&one_more)));
        assert!(!open.contains_key(&digest(&all[1])));
    }

    #[test]
    fn a_session_that_is_not_used_is_over() {
        let sessions = Sessions::default();
        let cookie = sessions.begin("key").unwrap();
        let digest = Digest::of(cookie.as_bytes());
        let long_ago = Instant::now().checked_sub(IDLE);
        // A machine that has just been started has no such moment.
        let Some(long_ago) = long_ago else { return };
        sessions.lock().get_mut(&digest).unwrap().used = long_ago;
        assert!(sessions.lock().is_empty());
    }

    #[test]
    fn secrets_are_compared_whole() {
        assert!(same("secret", "secret"));
        assert!(!same("secret", "secre") && !same("", "x"));
    }
}
