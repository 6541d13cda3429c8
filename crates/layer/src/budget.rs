//! A bound on what reading an image takes in memory.
//!
//! Most of it does not depend on the image: a few buffers for each layer that is being read. What
//! grows with the image (names, attributes and sparse maps of its files, its tables, what they are
//! merged into) is taken from one [`Budget`] before it is allocated. Costs are estimates on the
//! high side: allocators and trees have their own overhead.

use std::sync::atomic::{AtomicU64, Ordering};

/// What an image may take in memory, all layers together.
#[derive(Debug)]
pub struct Budget {
    limit: u64,
    left: AtomicU64,
}

/// The image takes more memory than it may.
#[derive(Debug, Clone, Copy, thiserror::Error, PartialEq, Eq)]
#[error(
    "the image's files up to here take more than {limit} bytes of memory: no layout can be made of so many, \
     or of such large names, attributes and sparse maps, so the image can neither be accelerated nor mounted \
     after a full pull; leave files out of it, or split it"
)]
pub struct OverBudget {
    /// What it may take.
    pub limit: u64,
}

/// A part of a budget that is given back when this is dropped.
#[derive(Debug)]
pub struct Held<'a> {
    budget: &'a Budget,
    bytes: u64,
}

impl Budget {
    /// `limit` bytes.
    #[must_use]
    pub const fn new(limit: u64) -> Self {
        Self {
            limit,
            left: AtomicU64::new(limit),
        }
    }

    /// Takes `bytes` for as long as the budget lives.
    ///
    /// # Errors
    /// [`OverBudget`] if there are not so many left.
    pub fn take(&self, bytes: usize) -> Result<(), OverBudget> {
        let rest = |left: u64| left.checked_sub(bytes as u64);
        match self
            .left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, rest)
        {
            Ok(_) => Ok(()),
            Err(_) => Err(OverBudget { limit: self.limit }),
        }
    }

    /// Takes `bytes` until what is returned is dropped.
    ///
    /// # Errors
    /// As [`Budget::take`].
    pub fn hold(&self, bytes: usize) -> Result<Held<'_>, OverBudget> {
        let mut held = self.holder();
        held.add(bytes)?;
        Ok(held)
    }

    /// Holds nothing yet.
    #[must_use]
    pub const fn holder(&self) -> Held<'_> {
        Held {
            budget: self,
            bytes: 0,
        }
    }
}

impl Held<'_> {
    /// Takes `bytes` more.
    ///
    /// # Errors
    /// As [`Budget::take`].
    pub fn add(&mut self, bytes: usize) -> Result<(), OverBudget> {
        self.budget.take(bytes)?;
        self.bytes += bytes as u64;
        Ok(())
    }

    /// Gives back all that was taken so far.
    pub fn release(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        self.budget.left.fetch_add(bytes, Ordering::Relaxed);
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.release();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_comes_back() {
        let budget = Budget::new(100);
        budget.take(30).unwrap();
        let mut held = budget.hold(50).unwrap();
        assert_eq!(held.add(21), Err(OverBudget { limit: 100 }));
        held.add(20).unwrap();
        assert!(budget.take(1).is_err());
        drop(held);
        budget.take(70).unwrap();
        assert!(budget.take(1).is_err());
    }
}
