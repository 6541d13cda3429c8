//! Funcraft templates: what they ask for, in the words of the API.
//!
//! ```text
//! text ─ yaml ─▶ Node (values with their lines) ─ resources, by the tables of schema ─▶ Template
//! ```
//!
//! A template has services, their functions and triggers, and custom domains. What comes out are the bodies of the calls that make
//! them, in camelCase, in the order of the template. Nothing is asked of any host here, and no ranges are checked that the API
//! checks: only what the template says wrongly, all of it at once, each mistake with its path and line.
//!
//! What a template may say that is of no use here (policies, other products' resources) is a warning; what would be another
//! function than was meant (other runtimes, references that nobody resolves) is a mistake.
//!
//! Templates come from anywhere: text, nesting, aliases and what they expand to are bounded in [`yaml`].

mod report;
mod resources;
mod schema;
mod yaml;

use serde::Serialize;
use serde_json::{Map, Value};

/// Most bytes of a template.
pub const MAX_TEMPLATE_BYTES: usize = 1 << 20;

/// What a template asks for.
#[derive(Clone, PartialEq, Debug, Default, Serialize)]
pub struct Template {
    /// In the order of the template.
    pub services: Vec<ServiceSpec>,
    /// In the order of the template.
    pub domains: Vec<DomainSpec>,
    /// What was left out or looks wrong, with its path.
    pub warnings: Vec<String>,
}

/// A service and what belongs to it.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct ServiceSpec {
    /// Its name.
    pub name: String,
    /// The body of `POST /services`.
    pub fields: Map<String, Value>,
    /// In the order of the template.
    pub functions: Vec<FunctionSpec>,
}

/// A function and what belongs to it.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct FunctionSpec {
    /// Its name.
    pub name: String,
    /// The body of `POST /services/{service}/functions`.
    pub fields: Map<String, Value>,
    /// In the order of the template.
    pub triggers: Vec<TriggerSpec>,
    /// The body of `PUT …/async-invoke-config`.
    pub async_config: Option<Map<String, Value>>,
}

/// A trigger.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct TriggerSpec {
    /// Its name.
    pub name: String,
    /// As the API calls it: `http`, `timer`, `oss`, ….
    pub kind: &'static str,
    /// The body of `POST …/triggers`. A template does not know region and account: a `sourceArn` has
    /// `*` for them.
    pub fields: Map<String, Value>,
}

/// A custom domain.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct DomainSpec {
    /// Its name, a host's.
    pub name: String,
    /// The body of `POST /custom-domains`.
    pub fields: Map<String, Value>,
}

/// Why a text is no template. What is printed is for whoever wrote it: one line for each mistake.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum TemplateError {
    /// More than [`MAX_TEMPLATE_BYTES`].
    #[error("a template of {0} bytes, over the limit of {MAX_TEMPLATE_BYTES}")]
    TooLarge(usize),
    /// It is no YAML, or too much of it.
    #[error("the template is not readable: {0}")]
    Yaml(String),
    /// It says things that cannot be.
    #[error("{}", lines(.0))]
    Mistakes(Vec<Mistake>),
}

/// Something that a template says wrongly.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{path} {what} (line {line})")]
pub struct Mistake {
    /// From the root, like `Resources.demo.web.Properties.MemorySize`.
    pub path: String,
    /// Completes the sentence that the path begins.
    pub what: String,
    /// From 1.
    pub line: u64,
}

fn lines(mistakes: &[Mistake]) -> String {
    let lines: Vec<String> = mistakes.iter().map(ToString::to_string).collect();
    lines.join("\n")
}

impl Template {
    /// Of `template.yml`.
    ///
    /// # Errors
    /// [`TemplateError`], with every mistake of the template.
    pub fn parse(text: &str) -> Result<Self, TemplateError> {
        if text.len() > MAX_TEMPLATE_BYTES {
            return Err(TemplateError::TooLarge(text.len()));
        }
        resources::read(&yaml::parse(text)?)
    }
}

#[cfg(test)]
mod tests;
