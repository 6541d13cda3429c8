//! What a name and a qualifier lead to: a version, or several by the weights of an alias.

use std::sync::Arc;

use super::Host;
use crate::catalog::function_key;
use crate::error::Refusal;
use crate::model::{Alias, Function, FunctionName, LATEST, Owner, Service, Target, Version};

/// Targets, with their parts of the invocations.
pub(super) type Choices = Vec<(f64, Arc<Target>)>;

impl Host {
    /// A function as a version of it was.
    ///
    /// # Errors
    /// `FunctionNotFound`, `VersionNotFound` and the like.
    pub(crate) fn function(
        &self,
        name: &FunctionName,
        qualifier: &str,
    ) -> Result<Function, Refusal> {
        let missing = || {
            let message = format!("function '{name}' does not exist");
            Refusal::missing("FunctionNotFound", message)
        };
        if qualifier.is_empty() || qualifier == LATEST {
            let service = name.service.as_str();
            let function = self.catalog.get(&function_key(name))?;
            if function.is_none()
                && !service.is_empty()
                && self.catalog.get::<Service>(service)?.is_none()
            {
                let message = format!("service '{service}' does not exist");
                return Err(Refusal::missing("ServiceNotFound", message));
            }
            return function.ok_or_else(missing);
        }
        let owner = Owner::of(name);
        let version = match self.alias(&owner, qualifier)? {
            Some(alias) if alias.version == LATEST => return self.function(name, ""),
            Some(alias) => alias.version,
            None => qualifier.to_owned(),
        };
        self.published(name, &owner, &version)
    }

    fn alias(&self, owner: &Owner, name: &str) -> Result<Option<Alias>, Refusal> {
        Ok(self.catalog.get(&format!("{}{name}", owner.key()))?)
    }

    fn published(
        &self,
        name: &FunctionName,
        owner: &Owner,
        version: &str,
    ) -> Result<Function, Refusal> {
        let unknown = || {
            let message = format!("'{version}' is no version or alias of function '{name}'");
            Refusal::missing("VersionNotFound", message)
        };
        let number: u64 = version.parse().map_err(|_| unknown())?;
        let key = format!("{}{number:020}", owner.key());
        let mut version: Version = self.catalog.get(&key)?.ok_or_else(unknown)?;
        let function = version.functions.remove(&name.function);
        function.ok_or_else(|| {
            let message = format!("function '{name}' is not in version {number}");
            Refusal::missing("FunctionNotFound", message)
        })
    }

    /// What an invocation of a function runs.
    ///
    /// # Errors
    /// As [`Host::function`].
    pub(crate) fn target(
        &self,
        name: &FunctionName,
        qualifier: &str,
    ) -> Result<Arc<Target>, Refusal> {
        let key = (name.clone(), qualifier.to_owned());
        let choices = self.targets.get(&self.catalog, key, |(name, qualifier)| {
            self.choices(name, qualifier)
        })?;
        choose(&choices).ok_or_else(|| Refusal::internal("an alias leads nowhere"))
    }

    /// The targets that a qualifier leads to, with their parts of the invocations.
    fn choices(&self, name: &FunctionName, qualifier: &str) -> Result<Choices, Refusal> {
        let now: Option<Function> = self.catalog.get(&function_key(name))?;
        if let Some(disabled) = now.and_then(|function| function.disabled) {
            let reason = disabled.reason;
            let message = format!("function '{name}' is not to be invoked (disabled): {reason}");
            return Err(Refusal::denied(message));
        }
        let internet = match name.service.as_str() {
            "" => true,
            service => {
                let service: Option<Service> = self.catalog.get(service)?;
                service.is_none_or(|service| service.internet)
            }
        };
        let target = |version: &str| {
            let mut function = self.function(name, version)?;
            if let Some(previous) = function.previous.take() {
                (function.config, function.number) = (previous.config, previous.number);
            }
            let version = if version.is_empty() { LATEST } else { version };
            Ok::<_, Refusal>(Arc::new(Target {
                name: function.name,
                id: function.id,
                internet: function.config.internet.unwrap_or(internet),
                config: function.config,
                version: version.to_owned(),
                number: function.number,
            }))
        };
        let parts = self.parts(name, qualifier)?.into_iter();
        let choices = parts.map(|(part, version)| Ok((part, target(&version)?)));
        choices.collect()
    }

    /// The versions that a qualifier leads to, with their parts of the invocations.
    fn parts(&self, name: &FunctionName, qualifier: &str) -> Result<Vec<(f64, String)>, Refusal> {
        let alias = match qualifier {
            "" | LATEST => None,
            qualifier => self.alias(&Owner::of(name), qualifier)?,
        };
        let Some(alias) = alias else {
            return Ok(vec![(1.0, qualifier.to_owned())]);
        };
        let others = alias.weights.iter();
        let mut parts: Vec<(f64, String)> = others
            .map(|(version, weight)| (*weight, version.clone()))
            .collect();
        let rest = 1.0 - alias.weights.values().sum::<f64>();
        parts.push((rest, alias.version));
        Ok(parts)
    }

    /// The configurations that a qualifier leads to: versions may have the same.
    pub(crate) fn numbers(
        &self,
        name: &FunctionName,
        qualifier: &str,
    ) -> Result<Vec<u64>, Refusal> {
        let parts = self.parts(name, qualifier)?.into_iter();
        let numbers = parts.map(|(_, version)| Ok(self.function(name, &version)?.serving()));
        numbers.collect()
    }
}

/// One of the choices, by weight.
fn choose(choices: &[(f64, Arc<Target>)]) -> Option<Arc<Target>> {
    let (last, others) = choices.split_last()?;
    if others.is_empty() {
        return Some(Arc::clone(&last.1));
    }
    let mut at = crate::unique::fraction();
    let chosen = others.iter().find(|(weight, _)| {
        at -= weight;
        at < 0.0
    });
    Some(Arc::clone(&chosen.unwrap_or(last).1))
}
