//! `config`: what is in force and whence, what may be there, and what is wrong with a file.

use std::path::Path;
use std::process::ExitCode;

use anyhow::Context as _;
use serde_json::{Value, json};

use super::begin::told;
use super::{Context, print};
use crate::OWN_FAILURE;
use crate::cli::Global;
use crate::config::{Config, Key, Problem, Setting, parse};
use crate::output::table;

pub(super) fn show(context: &Context) -> anyhow::Result<ExitCode> {
    let config = &context.config;
    let facts = json!({ "file": config.file, "settings": config.settings });
    context.print(&facts, |_| describe(config))?;
    Ok(ExitCode::SUCCESS)
}

fn describe(config: &Config) -> String {
    let row = |setting: &Setting| {
        let default = Key::find(setting.key).map_or("", |key| key.default);
        let value = match &setting.value {
            Value::Null => default.to_owned(),
            Value::Array(values) if values.is_empty() => default.to_owned(),
            Value::String(text) => text.clone(),
            value => value.to_string(),
        };
        let from: Vec<&str> = setting.from.iter().map(|from| from.name()).collect();
        vec![setting.key.to_owned(), value, from.join(" and ")]
    };
    let rows: Vec<Vec<String>> = config.settings.iter().map(row).collect();
    let file = match &config.file {
        Some(file) => format!("file: {}\n", file.display()),
        None => "file: none\n".to_owned(),
    };
    file + &table(&["KEY", "VALUE", "FROM"], &rows)
}

/// Says what is wrong with a file, a line for each problem: what cannot be read, else the first thing for
/// which a daemon with these flags would refuse it.
pub(super) fn check(global: &Global, file: &Path) -> anyhow::Result<ExitCode> {
    let text = std::fs::read_to_string(file)
        .with_context(|| format!("cannot read the configuration {}", file.display()))?;
    let problems = match parse(&text) {
        Err(problems) => problems,
        Ok(read) => {
            let file = std::path::absolute(file)?;
            let told = Config::of(global, Some(file), read).and_then(|config| told(&config));
            let refused = told.err().map(|error| Problem::of_all(&error));
            refused.into_iter().collect()
        }
    };
    let facts = json!({ "file": file, "problems": problems });
    print(global.json, &facts, |_| match problems.as_slice() {
        [] => format!("{}: good\n", file.display()),
        all => all
            .iter()
            .map(|problem| format!("{}: {problem}\n", file.display()))
            .collect(),
    })?;
    Ok(match problems.is_empty() {
        true => ExitCode::SUCCESS,
        false => ExitCode::from(OWN_FAILURE),
    })
}
