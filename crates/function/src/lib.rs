//! The function host: functions packaged as images, scaled from zero by the first request.
//!
//! ```text
//!            ┌ api ── catalog (redb) ◀──────────── timers, events ── queue
//! server ────┤                                                        │
//!  (auth)    └ proxy ── invoke ── pool ── instance ◀──────────────────┘
//!                                  │         ╰ a container, reached in its own network namespace
//!                                fleet ── machine (a node: images, containers)
//!                                  ╰ acceleration: indexes and records in the background
//! ```
//!
//! - `server` reads requests; `auth` and `keys` say whose they are; `api` is Function Compute's API in
//!   three versions over one `model`, kept in the `catalog`.
//! - `invoke` hands events and requests to an `instance`; `pool` and `fleet` have as many of those as are
//!   needed; `contract` is what a container is told.
//! - `acceleration` makes the sentence true that this is all about: a function's image is accelerated
//!   while the function serves, and its next instance starts faster.
//! - `queue`, `timers` and `events` invoke functions when nobody waits for an answer.
//! - `admin` is for the commands of this machine, `console` for browsers; `template` reads what commands
//!   deploy.
//!
//! The machine blocks, so it is asked on threads of its own; everything else is asynchronous.

mod acceleration;
mod admin;
mod api;
mod auth;
mod catalog;
mod client;
mod console;
mod contract;
mod destination;
mod error;
mod events;
mod fields;
mod fleet;
mod flow;
#[doc(hidden)]
pub mod fuzz;
mod host;
mod http;
mod instance;
mod invoke;
mod keys;
mod logs;
mod machine;
mod model;
mod pool;
mod proxy;
mod query;
mod queue;
mod reach;
mod remembered;
mod schedule;
mod server;
mod starts;
mod stats;
mod template;
#[cfg(test)]
mod testing;
mod timers;
mod unique;

pub use catalog::CatalogError;
pub use error::Refusal;
pub use fleet::Limits;
pub use host::{Host, HostError, Settings};
pub use server::{Listeners, serve};
pub use template::{
    DomainSpec, FunctionSpec, MAX_TEMPLATE_BYTES, Mistake, ServiceSpec, Template, TemplateError,
    TriggerSpec,
};
