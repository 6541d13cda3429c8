//! How a daemon begins, whether it serves functions or not, and what becomes of readers where it cannot.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use thaw_node::Settings;
use thaw_sys::process::{begin_with_our_first_limit, raise_open_files_to_hard_limit};

use super::Context;
use crate::OWN_FAILURE;
use crate::access::Access;
use crate::cli::Global;
use crate::config::{Config, DEFAULT_FAULT_TIMEOUT, Trust};
use crate::output::complain;
use crate::service::Given;

/// Longest that a daemon which cannot begin stays: shorter than a service manager lets it try.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// For how long it denies what comes: the kernel asks again for what was denied, a page at a time,
/// before a reader hears of it.
const DENIAL: Duration = Duration::from_secs(1);

/// Is the daemon that `serve` makes, until that is told to end. Where it cannot begin, and daemon and
/// keeper before it have died together, readers wait for nobody: they get an error when they have waited
/// for long.
pub(super) fn begin(
    global: Global,
    serve: impl FnOnce(&Context, Given) -> anyhow::Result<ExitCode>,
) -> anyhow::Result<ExitCode> {
    crate::log::to_stderr();
    // A layer that is served costs three, and what a daemon before us held may be more than a shell lets
    // its programs have.
    if let Err(error) = raise_open_files_to_hard_limit() {
        tracing::warn!(%error, "the limit of open files cannot be raised: so few layers can be served");
    }
    let given = Given::take();
    let typed = global.root.clone();
    let context = Context::load(global);
    let (root, bound) = match &context {
        Ok(Context { config, .. }) => (Some(config.root.clone()), config.fault_timeout),
        // A file that cannot be read may name another root.
        Err(_) => (typed, Duration::from_secs(DEFAULT_FAULT_TIMEOUT.get())),
    };
    let keepsake = given.keepsake(root.as_deref());
    let ended = context.and_then(|context| serve(&context, given));
    match (ended, keepsake) {
        (Err(error), Some(keepsake)) if keepsake.is_alone() => {
            // Half of it: the next one comes after this one, and may fail as well.
            let pause = (bound / 2).min(LONGEST_PAUSE);
            let seconds = pause.as_secs_f64();
            complain(format_args!("{error:#}"));
            complain(format_args!(
                "no daemon, and no keeper: in {seconds} s reads that wait are denied"
            ));
            std::thread::sleep(pause);
            if keepsake.is_alone() {
                keepsake.deny_waiting(DENIAL);
            }
            Ok(ExitCode::from(OWN_FAILURE))
        }
        (ended, _) => ended,
    }
}

/// What file and flags come to: who may ask the daemon, and what its node is told. Everything that a
/// configuration can have wrong is found here, and nothing is touched.
///
/// # Errors
/// Whatever a daemon would refuse.
pub(super) fn told(config: &Config) -> anyhow::Result<(Access, Settings)> {
    let access = Access::new(config.socket.as_ref())?;
    let settings = settings(config)?;
    settings.registry.check()?;
    Ok((access, settings))
}

fn settings(config: &Config) -> anyhow::Result<Settings> {
    Ok(Settings {
        root: config.root.clone(),
        registry: thaw_registry::Settings {
            plain_http: config.plain_http.clone(),
            docker_config: config.docker_config.clone(),
            certificate_authorities: config.ca.clone(),
            registries: config.registries.clone(),
            proxy: config.proxy.clone(),
            helper_path: std::env::var_os("PATH").unwrap_or_default(),
            prepare_helper: begin_with_our_first_limit,
            ..thaw_registry::Settings::default()
        },
        trusted_repositories: config.trusted_repositories.clone(),
        trust: config
            .trust
            .iter()
            .map(Trust::rule)
            .collect::<anyhow::Result<_>>()?,
        runtime: config.runtime.clone(),
        fault_timeout: config.fault_timeout,
        search_timeout: config.search_timeout,
        cache_size: config.cache_size,
        direct_reads: config.direct_reads,
        program: std::env::current_exe().context("cannot find this program's own file")?,
        arguments: config.daemon_args(),
        custodian: None,
    })
}
