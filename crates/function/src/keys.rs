//! Access keys: an id, and a secret that both sides sign with. A signature can only be checked with
//! the secret itself, so it is kept, encrypted (AES-256-GCM) with a key in a file of its own beside
//! the database: who gets hold of a copy of the database has no secrets.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use jiff::Timestamp;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::rand::{SecureRandom, SystemRandom};
use serde::{Deserialize, Serialize};

use crate::catalog::{Catalog, CatalogError, Entity, Table};
use crate::error::Refusal;

/// A key as it is stored.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Stored {
    id: String,
    nonce: [u8; NONCE_LEN],
    /// The secret, encrypted for this id.
    sealed: Vec<u8>,
    description: String,
    created: Timestamp,
}

impl Entity for Stored {
    const TABLE: Table = Table::new("keys");
    fn key(&self) -> String {
        self.id.clone()
    }
}

/// A new key. The secret is not shown again.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct NewKey {
    pub(crate) access_key_id: String,
    pub(crate) access_key_secret: String,
    pub(crate) account_id: String,
}

/// What is told of a key.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct KeyFacts {
    access_key_id: String,
    description: String,
    created: Timestamp,
}

/// The keys of a host.
pub(crate) struct Keys {
    master: LessSafeKey,
    random: SystemRandom,
    /// Secrets that were decrypted, by id.
    known: Mutex<HashMap<String, String>>,
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keys").finish_non_exhaustive()
    }
}

impl Keys {
    /// With the key in the file at `path`, which is made if it is missing.
    ///
    /// # Errors
    /// Those of the file; one of another length is damaged.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let random = SystemRandom::new();
        let bytes = match File::open(path) {
            Ok(file) => {
                let mut bytes = Vec::new();
                file.take(64).read_to_end(&mut bytes)?;
                bytes
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => make(path, &random)?,
            Err(error) => return Err(error),
        };
        let key = UnboundKey::new(&AES_256_GCM, &bytes);
        let key = key.map_err(|_| io::Error::other("it has to have 32 bytes"))?;
        Ok(Self {
            master: LessSafeKey::new(key),
            random,
            known: Mutex::default(),
        })
    }

    /// Makes a key.
    pub(crate) fn create(
        &self,
        catalog: &Catalog,
        account: &str,
        description: &str,
    ) -> Result<NewKey, Refusal> {
        let id = format!("THAW{}", self.random_text(16)?);
        let secret = self.random_text(32)?;
        let mut nonce = [0; NONCE_LEN];
        self.fill(&mut nonce)?;
        let mut sealed = secret.clone().into_bytes();
        let tied = Aad::from(id.as_bytes());
        self.master
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), tied, &mut sealed)
            .map_err(|_| Refusal::internal("the secret cannot be encrypted"))?;
        catalog.put(&Stored {
            id: id.clone(),
            nonce,
            sealed,
            description: description.to_owned(),
            created: Timestamp::now(),
        })?;
        Ok(NewKey {
            access_key_id: id,
            access_key_secret: secret,
            account_id: account.to_owned(),
        })
    }

    /// The secret of a key; `None` where there is no such key.
    pub(crate) fn secret(&self, catalog: &Catalog, id: &str) -> Result<Option<String>, Refusal> {
        if let Some(secret) = self.known().get(id) {
            return Ok(Some(secret.clone()));
        }
        let Some(mut stored) = catalog.get::<Stored>(id)? else {
            return Ok(None);
        };
        let nonce = Nonce::assume_unique_for_key(stored.nonce);
        let tied = Aad::from(id.as_bytes());
        let opened = self.master.open_in_place(nonce, tied, &mut stored.sealed);
        let secret = opened
            .ok()
            .and_then(|bytes| String::from_utf8(bytes.to_vec()).ok());
        let secret = secret.ok_or_else(|| {
            let file = "the file master.key is not the one that it was made with";
            Refusal::internal(format!("the access key {id} cannot be decrypted: {file}"))
        })?;
        self.known().insert(id.to_owned(), secret.clone());
        Ok(Some(secret))
    }

    /// All keys, without their secrets.
    pub(crate) fn list(&self, catalog: &Catalog) -> Result<Vec<KeyFacts>, CatalogError> {
        let facts = |stored: Stored| KeyFacts {
            access_key_id: stored.id,
            description: stored.description,
            created: stored.created,
        };
        Ok(catalog.list("")?.into_iter().map(facts).collect())
    }

    /// Removes a key: what is signed with it is refused from now on.
    pub(crate) fn delete(&self, catalog: &Catalog, id: &str) -> Result<(), Refusal> {
        let removed = catalog.change(|open| Ok(open.remove::<Stored>(id)?))?;
        self.known().remove(id);
        match removed {
            true => Ok(()),
            false => Err(Refusal::missing(
                "AccessKeyNotFound",
                format!("there is no access key {id}"),
            )),
        }
    }

    fn known(&self) -> std::sync::MutexGuard<'_, HashMap<String, String>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fill(&self, bytes: &mut [u8]) -> Result<(), Refusal> {
        let filled = self.random.fill(bytes);
        filled.map_err(|_| Refusal::internal("there are no random numbers"))
    }

    /// Letters and digits, chosen evenly.
    fn random_text(&self, length: usize) -> Result<String, Refusal> {
        const LETTERS: &[u8; 32] = b"ABCDEFGHJKLMNPQRSTUVWXYZ23456789";
        let mut bytes = vec![0; length];
        self.fill(&mut bytes)?;
        let letter = |byte: &u8| char::from(LETTERS[usize::from(byte % 32)]);
        Ok(bytes.iter().map(letter).collect())
    }
}

fn make(path: &Path, random: &SystemRandom) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; AES_256_GCM.key_len()];
    random
        .fill(&mut bytes)
        .map_err(|_| io::Error::other("there are no random numbers"))?;
    let mut options = File::options();
    let mut file = options
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(&bytes)?;
    file.sync_all()?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_comes_back_with_the_master_key_and_only_with_it() {
        let dir = tempfile::tempdir().unwrap();
        let catalog = Catalog::open(&dir.path().join("state")).unwrap();
        let master = dir.path().join("master.key");
        let keys = Keys::open(&master).unwrap();
        let new = keys.create(&catalog, "1", "ci").unwrap();
        let again = Keys::open(&master).unwrap();
        let secret = again.secret(&catalog, &new.access_key_id).unwrap();
        assert_eq!(secret.as_deref(), Some(new.access_key_secret.as_str()));
        let database = std::fs::read(dir.path().join("state")).unwrap();
        let secret = new.access_key_secret.as_bytes();
        assert!(!database.windows(secret.len()).any(|bytes| bytes == secret));
        std::fs::remove_file(&master).unwrap();
        let other = Keys::open(&master).unwrap();
        let error = other.secret(&catalog, &new.access_key_id).unwrap_err();
        assert!(error.message.contains("master.key"), "{error}");
        again.delete(&catalog, &new.access_key_id).unwrap();
        assert!(
            again
                .secret(&catalog, &new.access_key_id)
                .unwrap()
                .is_none()
        );
        assert!(again.delete(&catalog, &new.access_key_id).is_err());
    }
}
