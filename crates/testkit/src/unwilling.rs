//! A registry that does not give ranges of blobs as it should, as long as the test says so.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Result, bail};

use crate::http::Answer;
use crate::proxy::{Asked, Proxy};

/// What it answers instead.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Instead {
    /// A status, and `Retry-After` in seconds.
    Status(u16, Option<u32>),
    /// All of the blob.
    Whole,
    /// Nothing: the connection is broken off.
    Nothing,
}

/// The way to a registry. Ends on drop; connections end with their clients.
#[derive(Debug)]
pub struct Unwilling {
    proxy: Proxy,
    wish: Arc<Mutex<Wish>>,
}

#[derive(Debug, Default)]
struct Wish {
    instead: Option<Instead>,
    /// For so many answers.
    left: usize,
    done: usize,
}

impl Unwilling {
    /// In front of the registry at `host`, and willing so far.
    ///
    /// # Errors
    /// When no port can be listened on.
    pub fn new(host: &str) -> Result<Self> {
        let (host, wish) = (host.to_owned(), Arc::<Mutex<Wish>>::default());
        let asked_for = Arc::clone(&wish);
        let proxy = Proxy::start(move |asked| answer(asked, &host, &asked_for))?;
        Ok(Self { proxy, wish })
    }

    /// `address:port`, the first part of references to its images.
    #[must_use]
    pub fn host(&self) -> String {
        let address: SocketAddr = self.proxy.address();
        address.to_string()
    }

    /// Answers so the next `times` that somebody wants a range of a blob.
    pub fn answer(&self, instead: Instead, times: usize) {
        *lock(&self.wish) = Wish {
            instead: Some(instead),
            left: times,
            done: 0,
        };
    }

    /// Does what it is asked from now on, and tells how often it did not.
    #[must_use]
    pub fn be_willing(&self) -> usize {
        std::mem::take(&mut *lock(&self.wish)).done
    }
}

fn lock(wish: &Mutex<Wish>) -> MutexGuard<'_, Wish> {
    wish.lock().unwrap_or_else(PoisonError::into_inner)
}

fn answer(asked: &Asked, host: &str, wish: &Mutex<Wish>) -> Result<Answer> {
    let is_range = asked.path.contains("/blobs/") && asked.header("range").is_some();
    let instead = {
        let mut wish = lock(wish);
        let instead = wish.instead.filter(|_| is_range && wish.left > 0);
        if instead.is_some() {
            wish.left -= 1;
            wish.done += 1;
        }
        instead
    };
    match instead {
        None => asked.pass_on(host, &asked.path),
        Some(Instead::Whole) => asked.without("range").pass_on(host, &asked.path),
        Some(Instead::Nothing) => bail!("the connection is broken off"),
        Some(Instead::Status(status, after)) => {
            let after = after.map(|seconds| ("retry-after".to_owned(), seconds.to_string()));
            Ok(Answer {
                status,
                headers: after.into_iter().collect(),
                body: b"{}".to_vec(),
            })
        }
    }
}
