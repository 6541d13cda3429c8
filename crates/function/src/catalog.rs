//! What has to outlive the host: services, functions, triggers and the rest, in one redb file.
//!
//! A value is stored as JSON under its key, in the table of its kind. What is read together with
//! what is written is done in one [`Catalog::change`], which only one caller at a time is in; it is
//! on the disk when that returns, and not at all where it fails. Keys of what belongs together begin
//! alike, so that a list is a range.
//!
//! [`Catalog::generation`] grows with every change: what was worked out from the catalog is good as
//! long as that is the same.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition, WriteTransaction};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::Refusal;

/// A table of one kind of value.
pub(crate) type Table = TableDefinition<'static, &'static str, &'static [u8]>;

/// What can be stored.
pub(crate) trait Entity: Serialize + DeserializeOwned {
    /// Where.
    const TABLE: Table;
    /// Under which key.
    fn key(&self) -> String;
}

/// Why the catalog could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    /// Of the file.
    #[error("cannot use the functions' database")]
    Database(#[source] Box<redb::Error>),
    /// Of a value in it.
    #[error("the functions' database has a value that cannot be read, under {key}")]
    Value {
        /// Its key.
        key: String,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
}

impl<E: Into<redb::Error>> From<E> for CatalogError {
    fn from(error: E) -> Self {
        Self::Database(Box::new(error.into()))
    }
}

impl From<CatalogError> for Refusal {
    fn from(error: CatalogError) -> Self {
        let mut text = error.to_string();
        let mut cause = std::error::Error::source(&error);
        while let Some(error) = cause {
            text = format!("{text}: {error}");
            cause = error.source();
        }
        tracing::error!(error = text, "the functions' database");
        Self::internal(text)
    }
}

/// The database.
#[derive(Debug)]
pub(crate) struct Catalog {
    database: Database,
    generation: AtomicU64,
}

impl Catalog {
    /// Opens the file at `path`, which is made if it is missing.
    ///
    /// # Errors
    /// [`CatalogError`], also where another process has it open.
    pub(crate) fn open(path: &Path) -> Result<Self, CatalogError> {
        Ok(Self {
            database: Database::create(path)?,
            generation: AtomicU64::new(1),
        })
    }

    /// Another number after each change.
    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// A value.
    pub(crate) fn get<T: Entity>(&self, key: &str) -> Result<Option<T>, CatalogError> {
        let transaction = self.database.begin_read()?;
        let table = match transaction.open_table(T::TABLE) {
            Err(redb::TableError::TableDoesNotExist(_)) => return Ok(None),
            table => table?,
        };
        let value = table.get(key)?;
        value.map(|value| read(key, value.value())).transpose()
    }

    /// The values whose keys begin with `prefix`, by key.
    pub(crate) fn list<T: Entity>(&self, prefix: &str) -> Result<Vec<T>, CatalogError> {
        let transaction = self.database.begin_read()?;
        match transaction.open_table(T::TABLE) {
            Err(redb::TableError::TableDoesNotExist(_)) => Ok(Vec::new()),
            table => collect(&table?, prefix),
        }
    }

    /// Does several things at once, or none of them.
    ///
    /// # Errors
    /// What `change` says, or [`CatalogError`] as a [`Refusal`].
    pub(crate) fn change<R>(
        &self,
        change: impl FnOnce(&Change) -> Result<R, Refusal>,
    ) -> Result<R, Refusal> {
        let begin = || self.database.begin_write().map_err(CatalogError::from);
        let open = Change(begin()?);
        let result = change(&open)?;
        open.0.commit().map_err(CatalogError::from)?;
        self.generation.fetch_add(1, Ordering::AcqRel);
        Ok(result)
    }

    /// Stores one value.
    pub(crate) fn put<T: Entity>(&self, value: &T) -> Result<(), Refusal> {
        self.change(|open| Ok(open.put(value)?))
    }
}

/// A change that is being made.
pub(crate) struct Change(WriteTransaction);

impl Change {
    /// A value as it is now.
    pub(crate) fn get<T: Entity>(&self, key: &str) -> Result<Option<T>, CatalogError> {
        let table = self.0.open_table(T::TABLE)?;
        let value = table.get(key)?;
        value.map(|value| read(key, value.value())).transpose()
    }

    /// The values whose keys begin with `prefix`, by key.
    pub(crate) fn list<T: Entity>(&self, prefix: &str) -> Result<Vec<T>, CatalogError> {
        collect(&self.0.open_table(T::TABLE)?, prefix)
    }

    /// Stores a value, in the place of the one under its key.
    pub(crate) fn put<T: Entity>(&self, value: &T) -> Result<(), CatalogError> {
        let key = value.key();
        let text = serde_json::to_vec(value).map_err(|source| CatalogError::Value {
            key: key.clone(),
            source,
        })?;
        let mut table = self.0.open_table(T::TABLE)?;
        table.insert(key.as_str(), text.as_slice())?;
        Ok(())
    }

    /// Removes a value; whether there was one.
    pub(crate) fn remove<T: Entity>(&self, key: &str) -> Result<bool, CatalogError> {
        let mut table = self.0.open_table(T::TABLE)?;
        let removed = table.remove(key)?;
        Ok(removed.is_some())
    }
}

fn collect<T: Entity>(
    table: &impl ReadableTable<&'static str, &'static [u8]>,
    prefix: &str,
) -> Result<Vec<T>, CatalogError> {
    let mut values = Vec::new();
    for entry in table.range(prefix..)? {
        let (key, value) = entry?;
        if !key.value().starts_with(prefix) {
            break;
        }
        values.push(read(key.value(), value.value())?);
    }
    Ok(values)
}

fn read<T: DeserializeOwned>(key: &str, value: &[u8]) -> Result<T, CatalogError> {
    serde_json::from_slice(value).map_err(|source| CatalogError::Value {
        key: key.to_owned(),
        source,
    })
}

/// Where each kind of value is.
mod tables {
    use super::{Entity, Table};
    use crate::model::{
        Alias, AsyncConfig, Domain, Function, FunctionName, Scaling, Service, Trigger, Version,
    };

    /// The key of a function, and how the keys of what belongs to it begin.
    pub(crate) fn function_key(name: &FunctionName) -> String {
        format!("{}/{}", name.service, name.function)
    }

    macro_rules! entity {
        ($kind:ty, $table:literal, |$value:ident| $key:expr) => {
            impl Entity for $kind {
                const TABLE: Table = Table::new($table);
                fn key(&self) -> String {
                    let $value = self;
                    $key
                }
            }
        };
    }

    entity!(Service, "services", |service| service.name.clone());
    entity!(Function, "functions", |function| function_key(
        &function.name
    ));
    entity!(Trigger, "triggers", |trigger| format!(
        "{}/{}",
        function_key(&trigger.function),
        trigger.name
    ));
    // Numbers are as long as the largest, so that they are in order.
    entity!(Version, "versions", |version| format!(
        "{}{:020}",
        version.owner.key(),
        version.number
    ));
    entity!(Alias, "aliases", |alias| format!(
        "{}{}",
        alias.owner.key(),
        alias.name
    ));
    entity!(AsyncConfig, "async-configs", |config| format!(
        "{}/{}",
        function_key(&config.function),
        config.qualifier
    ));
    entity!(Scaling, "scaling", |scaling| format!(
        "{}/{}",
        scaling
            .function
            .as_ref()
            .map(function_key)
            .unwrap_or_default(),
        scaling.qualifier
    ));
    entity!(Domain, "domains", |domain| domain.name.clone());
}

pub(crate) use tables::function_key;

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use serde_json::Map;

    use super::*;
    use crate::model::Service;

    fn service(name: &str) -> Service {
        Service {
            name: name.to_owned(),
            id: String::new(),
            description: String::new(),
            role: String::new(),
            internet: true,
            kept: Map::new(),
            created: Timestamp::UNIX_EPOCH,
            modified: Timestamp::UNIX_EPOCH,
            last_version: 0,
        }
    }

    #[test]
    fn a_change_is_made_whole_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        let catalog = Catalog::open(&path).unwrap();
        for name in ["b", "a", "ab"] {
            catalog.put(&service(name)).unwrap();
        }
        let before = catalog.generation();
        let failed = catalog.change(|open| {
            open.put(&service("c"))?;
            assert!(open.remove::<Service>("a")?);
            Err::<(), _>(Refusal::invalid("no"))
        });
        assert_eq!(failed.unwrap_err().message, "no");
        assert_eq!(catalog.generation(), before);
        drop(catalog);
        let catalog = Catalog::open(&path).unwrap();
        let names = |prefix| {
            let list: Vec<Service> = catalog.list(prefix).unwrap();
            list.into_iter()
                .map(|service| service.name)
                .collect::<Vec<_>>()
        };
        assert_eq!(names(""), ["a", "ab", "b"]);
        assert_eq!(names("a"), ["a", "ab"]);
        assert!(catalog.get::<Service>("c").unwrap().is_none());
    }
}
