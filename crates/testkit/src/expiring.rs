//! A registry whose tokens, and whose addresses of blobs, are good until the test says otherwise.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::Result;

use crate::http::Answer;
use crate::proxy::{Asked, Proxy};

/// The way to a registry that asks for a token and has its blobs elsewhere. Ends on drop.
#[derive(Debug)]
pub struct Expiring {
    shared: Arc<Shared>,
    registry: Proxy,
    _store: Proxy,
}

#[derive(Debug)]
struct Shared {
    /// The registry behind it all.
    real: String,
    /// Before each token and each blob.
    delay: Duration,
    life: AtomicUsize,
    tokens: AtomicUsize,
    addresses: AtomicUsize,
}

impl Expiring {
    /// In front of the registry at `host`.
    ///
    /// # Errors
    /// When no port can be listened on.
    pub fn new(host: &str) -> Result<Self> {
        Self::far(host, Duration::ZERO)
    }

    /// The same with tokens and blobs as far away: what has to be asked besides the registry.
    ///
    /// # Errors
    /// When no port can be listened on.
    pub fn far(host: &str, delay: Duration) -> Result<Self> {
        let shared = Arc::new(Shared {
            real: host.to_owned(),
            delay,
            life: AtomicUsize::new(0),
            tokens: AtomicUsize::new(0),
            addresses: AtomicUsize::new(0),
        });
        let storing = Arc::clone(&shared);
        let store = Proxy::start(move |asked| storing.blob(asked))?;
        let (answering, at) = (Arc::clone(&shared), store.address());
        let registry = Proxy::start(move |asked| answering.answer(asked, at))?;
        Ok(Self {
            shared,
            registry,
            _store: store,
        })
    }

    /// `address:port`, the first part of references to its images.
    #[must_use]
    pub fn host(&self) -> String {
        self.registry.address().to_string()
    }

    /// From now on no token and no address of a blob is good that was given before.
    pub fn expire(&self) {
        self.shared.life.fetch_add(1, Ordering::SeqCst);
    }

    /// How many requests were refused because of a token, and of an address, that had expired.
    #[must_use]
    pub fn refused(&self) -> (usize, usize) {
        let of = |count: &AtomicUsize| count.load(Ordering::SeqCst);
        (of(&self.shared.tokens), of(&self.shared.addresses))
    }
}

impl Shared {
    fn life(&self) -> String {
        self.life.load(Ordering::SeqCst).to_string()
    }

    /// The registry's answer; blobs are at `store`.
    fn answer(&self, asked: &Asked, store: SocketAddr) -> Result<Answer> {
        let life = self.life();
        if asked.path.starts_with("/token") {
            thread::sleep(self.delay);
            let token = format!(r#"{{"token":"t{life}","expires_in":3600}}"#);
            return Ok(own(200, &[], &token));
        }
        let token = asked.header("authorization");
        if token != Some(&format!("Bearer t{life}")) {
            self.tokens.fetch_add(token.iter().len(), Ordering::SeqCst);
            let host = asked.header("host").unwrap_or_default();
            let realm = format!("Bearer realm=\"http://{host}/token\",service=\"s\"");
            return Ok(own(401, &[("www-authenticate", realm)], ""));
        }
        if asked.path.contains("/blobs/") {
            // The number of the life in which it is good.
            let to = format!("http://{store}/{life}{}", asked.path);
            return Ok(own(307, &[("location", to)], ""));
        }
        asked.pass_on(&self.real, &asked.path)
    }

    /// The blob store's answer.
    fn blob(&self, asked: &Asked) -> Result<Answer> {
        thread::sleep(self.delay);
        let path = asked.path.strip_prefix(&format!("/{}", self.life()));
        match path.filter(|path| path.starts_with('/')) {
            Some(path) => asked.pass_on(&self.real, path),
            None => {
                self.addresses.fetch_add(1, Ordering::SeqCst);
                Ok(own(403, &[], "this address has expired"))
            }
        }
    }
}

/// An answer that is not the registry's.
fn own(status: u16, headers: &[(&str, String)], body: &str) -> Answer {
    let headers = headers.iter();
    Answer {
        status,
        headers: headers
            .map(|(key, value)| ((*key).to_owned(), value.clone()))
            .collect(),
        body: body.as_bytes().to_vec(),
    }
}
