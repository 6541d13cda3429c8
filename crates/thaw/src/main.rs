//! The `thaw` program: commands, and the daemon they talk to.
//!
//! A command is thin: it parses, asks the daemon over the Unix socket in the store (and starts the
//! daemon when there is none), and prints. `run` is also the parent of its container, so that
//! standard input and output, signals and the exit code are the container's own. Nothing but the
//! daemon touches the store, save for the state and log below a container's own directory.

mod access;
mod cli;
mod client;
mod commands;
mod config;
mod functions;
mod handlers;
mod http;
mod log;
mod metrics;
mod output;
mod path;
mod progress;
mod protocol;
mod server;
mod service;

use std::process::ExitCode;

/// What `docker run` and its kin return when the failure is their own, not the container's.
pub(crate) const OWN_FAILURE: u8 = 125;

fn main() -> ExitCode {
    let cli = match cli::Cli::parse_args() {
        Ok(cli) => cli,
        Err(error) => return explain(&error),
    };
    match commands::run(cli) {
        Ok(code) => code,
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            output::complain(format_args!("{error:#}"));
            let refused = error.downcast_ref::<client::Refused>();
            ExitCode::from(refused.map_or(OWN_FAILURE, |refused| refused.0.code))
        }
    }
}

/// Prints help or version, or what is wrong with the arguments.
fn explain(error: &clap::Error) -> ExitCode {
    error.print().ok();
    if error.use_stderr() {
        ExitCode::from(OWN_FAILURE)
    } else {
        ExitCode::SUCCESS
    }
}

/// Whoever reads our output has seen enough.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause
            .downcast_ref::<std::io::Error>()
            .is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
    })
}
