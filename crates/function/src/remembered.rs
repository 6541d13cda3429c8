//! What was worked out from the catalog, good until that changes.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};

use crate::catalog::Catalog;
use crate::error::Refusal;

/// Values by key, all as of one generation of the catalog. There are as many keys as names that exist:
/// failures are not remembered.
#[derive(Debug)]
pub(crate) struct Remembered<K, V>(Mutex<(u64, HashMap<K, Arc<V>>)>);

impl<K, V> Default for Remembered<K, V> {
    fn default() -> Self {
        Self(Mutex::new((0, HashMap::new())))
    }
}

impl<K: Hash + Eq, V> Remembered<K, V> {
    /// The value of a key; `work` makes it.
    ///
    /// # Errors
    /// Those of `work`.
    pub(crate) fn get(
        &self,
        catalog: &Catalog,
        key: K,
        work: impl FnOnce(&K) -> Result<V, Refusal>,
    ) -> Result<Arc<V>, Refusal> {
        // What is read from now on is at least as new.
        let generation = catalog.generation();
        {
            let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if known.0 != generation {
                *known = (generation, HashMap::new());
            }
            if let Some(value) = known.1.get(&key) {
                return Ok(Arc::clone(value));
            }
        }
        let value = Arc::new(work(&key)?);
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.0 == generation {
            known.1.insert(key, Arc::clone(&value));
        }
        Ok(value)
    }
}
