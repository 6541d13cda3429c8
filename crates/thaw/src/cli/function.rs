//! What `thaw fn` takes.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

#[derive(Debug, Subcommand)]
pub(crate) enum Function {
    /// List the functions: image, acceleration, instances, counts
    List,
    /// Show a function: configuration, acceleration, triggers, instances, last cold starts
    Show(Named),
    /// Invoke a function and print its answer; 1 is the exit code when the function fails
    Invoke(Invoke),
    /// Show what a function's instances have printed
    Logs(Logs),
    /// Delete a function
    Delete(Delete),
    /// Say how many instances a function has at least and at most; without flags: show it
    Scale(Scale),
    /// Turn the acceleration of a function's image on or off, show it, or try again what failed
    Accelerate(Accelerate),
    /// Make what a Funcraft template asks for, or bring it up to date; shows a plan first
    Deploy(Deploy),
}

/// A function.
#[derive(Debug, Args)]
pub(crate) struct Named {
    /// Function: SERVICE/FUNCTION, or FUNCTION where it has no service
    pub(crate) name: String,
}

#[derive(Debug, Args)]
pub(crate) struct Invoke {
    #[command(flatten)]
    pub(crate) function: Named,
    /// The event [default: standard input, unless that is a terminal]
    #[arg(short, long, value_name = "TEXT", conflicts_with = "file")]
    pub(crate) event: Option<String>,
    /// Take the event from this file; -: standard input
    #[arg(short, long, value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
    /// Do not wait: put it into the queue, and print its id
    #[arg(long = "async", conflicts_with = "tail")]
    pub(crate) asynchronous: bool,
    /// Print to standard error the end of what the function printed
    #[arg(long)]
    pub(crate) tail: bool,
    /// Version or alias
    #[arg(long, value_name = "VERSION")]
    pub(crate) qualifier: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Logs {
    #[command(flatten)]
    pub(crate) function: Named,
    /// Go on as it prints
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// Only the last lines
    #[arg(short = 'n', long, value_name = "LINES", default_value_t = 200)]
    pub(crate) lines: u32,
}

#[derive(Debug, Args)]
pub(crate) struct Delete {
    #[command(flatten)]
    pub(crate) function: Named,
    /// Delete its triggers, too
    #[arg(short, long)]
    pub(crate) force: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Scale {
    #[command(flatten)]
    pub(crate) function: Named,
    /// Instances that are kept ready
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(..=1000))]
    pub(crate) min: Option<u32>,
    /// Most instances at once; none: as many as the host has room for
    #[arg(long, value_name = "N|none", value_parser = most)]
    pub(crate) max: Option<Most>,
}

/// An upper bound, or that there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Most(pub(crate) Option<u32>);

fn most(text: &str) -> Result<Most, String> {
    if text == "none" {
        return Ok(Most(None));
    }
    let number = text.parse().ok().filter(|number| *number <= 10_000);
    let number = number.ok_or("it has to be a number up to 10000, or none")?;
    Ok(Most(Some(number)))
}

#[derive(Debug, Args)]
pub(crate) struct Accelerate {
    #[command(flatten)]
    pub(crate) function: Named,
    /// What to do
    #[arg(value_enum, value_name = "WHAT")]
    pub(crate) to: Switch,
}

/// What `accelerate` is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Switch {
    /// Accelerate the image in the background; new instances use it when it is ready
    On,
    /// New instances start from the original
    Off,
    /// How far it is, or why it failed
    Status,
    /// Try again at once what failed
    Retry,
}

#[derive(Debug, Args)]
pub(crate) struct Deploy {
    /// Template [default: template.yml or template.yaml of the working directory]
    pub(crate) template: Option<PathBuf>,
    /// Do not ask
    #[arg(short, long)]
    pub(crate) yes: bool,
    /// Show the plan and end
    #[arg(long)]
    pub(crate) dry_run: bool,
}
