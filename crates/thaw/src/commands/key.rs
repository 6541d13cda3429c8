//! `key`: access keys of the function host.

use std::process::ExitCode;

use hyper::Method;
use serde_json::Value;

use super::Context;
use crate::cli::Key;
use crate::functions::{Host, escaped};

pub(super) fn key(context: &Context, command: &Key) -> anyhow::Result<ExitCode> {
    let host = Host::of(context.client.root())?;
    match command {
        Key::Create { description } => {
            let path = format!("/thaw/keys?description={}", escaped(description));
            let key = host.ask(Method::POST, &path, "")?;
            context.print(&key, |key| {
                let field = |name: &str| key[name].as_str().unwrap_or_default().to_owned();
                format!(
                    "access key id      {}\naccess key secret  {}\naccount id         {}\n",
                    field("AccessKeyId"),
                    field("AccessKeySecret"),
                    field("AccountId"),
                )
            })?;
            context.notice("the secret is not shown again");
        }
        Key::List => {
            let keys = host.ask(Method::GET, "/thaw/keys", "")?;
            context.print(&keys["keys"], |keys| {
                let keys = keys.as_array().map(Vec::as_slice).unwrap_or_default();
                let line = |key: &Value| {
                    let field = |name: &str| key[name].as_str().unwrap_or_default().to_owned();
                    let (id, made) = (field("AccessKeyId"), field("Created"));
                    format!("{id}  {made}  {}\n", field("Description"))
                };
                keys.iter().map(line).collect()
            })?;
        }
        Key::Delete { id } => {
            host.ask(Method::DELETE, &format!("/thaw/keys/{}", escaped(id)), "")?;
        }
    }
    Ok(ExitCode::SUCCESS)
}
