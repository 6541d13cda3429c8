//! Lists over all functions: who is invoked asynchronously in which way, and who has how many
//! instances.

use hyper::Response;
use serde_json::{Value, json};

use super::{Call, Dialect, json, limits, list};
use crate::catalog::function_key;
use crate::error::Refusal;
use crate::host::Host;
use crate::http::Body;
use crate::model::{AsyncConfig, FunctionName, Scaling};

/// What a list over all functions is narrowed by.
fn is_wanted(call: &Call, function: &FunctionName, qualifier: &str) -> bool {
    let is = |name: &str, value: &str| call.query.get(name).is_none_or(|wanted| wanted == value);
    let by_name = match call.dialect {
        Dialect::V2023 => is("functionName", &function.flat()),
        _ => is("serviceName", &function.service),
    };
    let wanted = call.query.get("qualifier").map(limits::plain);
    by_name && wanted.is_none_or(|wanted| wanted == qualifier)
}

/// `provision-configs`, in 2023 also `scaling-configs`: functions that keep instances.
pub(super) fn least(host: &Host, call: &Call, field: &str) -> Result<Response<Body>, Refusal> {
    scaled(host, call, field, |scaling, function| {
        (scaling.least > 0).then(|| limits::show_least(host, call, function, scaling))
    })
}

/// `on-demand-configs`, in 2023 `concurrency-configs`: functions that are bounded.
pub(super) fn most(host: &Host, call: &Call) -> Result<Response<Body>, Refusal> {
    scaled(host, call, "configs", |scaling, function| {
        scaling
            .most
            .is_some()
            .then(|| limits::show_most(call, function, scaling))
    })
}

fn scaled(
    host: &Host,
    call: &Call,
    field: &str,
    show: impl Fn(&Scaling, &FunctionName) -> Option<Value>,
) -> Result<Response<Body>, Refusal> {
    let all: Vec<Scaling> = host.catalog.list("")?;
    let items = all.iter().filter_map(|scaling| {
        let function = scaling.function.as_ref()?;
        let shown =
            show(scaling, function).filter(|_| is_wanted(call, function, &scaling.qualifier));
        Some((limits::resource(call, function, &scaling.qualifier), shown?))
    });
    let mut items: Vec<(String, Value)> = items.collect();
    items.sort_by(|a, b| a.0.cmp(&b.0));
    json(&list::page(call, field, items)?)
}

/// `async-invoke-configs`: of one function, or of all.
pub(super) fn async_configs(
    host: &Host,
    call: &Call,
    function: Option<&FunctionName>,
) -> Result<Response<Body>, Refusal> {
    let prefix = match function {
        Some(function) => {
            host.function(function, "")?;
            format!("{}/", function_key(function))
        }
        None => String::new(),
    };
    let all: Vec<AsyncConfig> = host.catalog.list(&prefix)?;
    let all = all
        .iter()
        .filter(|it| is_wanted(call, &it.function, &it.qualifier));
    let items = all.map(|it| {
        let name = limits::resource(call, &it.function, &it.qualifier);
        (name, limits::show_async(call, it))
    });
    let mut items: Vec<(String, Value)> = items.collect();
    items.sort_by(|a, b| a.0.cmp(&b.0));
    json(&list::page(call, "configs", items)?)
}

/// `stateful-async-invocation-functions`: those whose configuration asks for it.
pub(super) fn stateful(host: &Host, call: &Call) -> Result<Response<Body>, Refusal> {
    let all: Vec<AsyncConfig> = host.catalog.list("")?;
    let items = all.iter().filter(|it| it.stateful).map(|it| {
        let shown = json!({
            "serviceName": it.function.service,
            "functionName": it.function.function,
            "qualifier": it.qualifier,
        });
        (limits::resource(call, &it.function, &it.qualifier), shown)
    });
    json(&list::page(call, "data", items.collect())?)
}
