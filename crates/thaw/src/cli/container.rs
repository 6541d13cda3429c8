//! What a container may be given.

use std::path::PathBuf;

use anyhow::{Context, bail};
use clap::{Args, ValueEnum};
use thaw_node::container::{PortMapping, Signal, Tmpfs, Volume, parse};

/// Most processes that Linux can number.
const MAX_PIDS: i64 = 4 << 20;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Net {
    /// The host's network
    Host,
    /// Loopback only
    None,
    /// A network of its own behind the bridge `thaw0`
    #[default]
    Bridge,
}

/// What a container may be given.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct ContainerArgs {
    /// Name [default: two words]
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// Environment variable; without a value it is taken from here
    #[arg(short, long, value_name = "NAME[=VALUE]")]
    pub(crate) env: Vec<String>,
    /// File with an environment variable on each line; --env goes before it
    #[arg(long, value_name = "FILE")]
    pub(crate) env_file: Vec<PathBuf>,
    /// Bind a path of the host (absolute, or beginning with a dot), or a named volume; DST alone: a volume of the
    /// container's own
    #[arg(short, long, value_name = "SRC:DST[:ro]", value_parser = volume)]
    pub(crate) volume: Vec<Volume>,
    /// Publish a port of the container
    #[arg(short = 'p', long, value_name = "[IP:]HOST:CONTAINER[/PROTO]")]
    pub(crate) publish: Vec<PortMapping>,
    /// Working directory
    #[arg(short, long, value_name = "DIR")]
    pub(crate) workdir: Option<String>,
    /// User, by name or number
    #[arg(short, long, value_name = "USER[:GROUP]")]
    pub(crate) user: Option<String>,
    /// Network
    #[arg(long, visible_alias = "network", value_enum, default_value_t)]
    pub(crate) net: Net,
    /// Name server of the container [default: the host's]
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) dns: Vec<std::net::IpAddr>,
    /// Memory limit, e.g. 512m
    #[arg(short, long, value_name = "BYTES", value_parser = parse::memory)]
    pub(crate) memory: Option<u64>,
    /// CPU limit, e.g. 1.5
    #[arg(long, value_name = "CPUS", value_parser = parse::cpus)]
    pub(crate) cpus: Option<f64>,
    /// Most processes; -1: no limit
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    #[arg(value_parser = clap::value_parser!(i32).range(-1..=MAX_PIDS))]
    pub(crate) pids_limit: Option<i32>,
    /// Program instead of the image's entrypoint
    #[arg(long, value_name = "PROGRAM")]
    pub(crate) entrypoint: Option<String>,
    /// Host name
    #[arg(long)]
    pub(crate) hostname: Option<String>,
    /// Keep standard input open
    #[arg(short, long)]
    pub(crate) interactive: bool,
    /// Give it a terminal
    #[arg(short, long)]
    pub(crate) tty: bool,
    /// No writable root
    #[arg(long)]
    pub(crate) read_only: bool,
    /// Mount a tmpfs; at / what the container writes is kept in memory, e.g. /:size=64m
    #[arg(long, value_name = "PATH[:OPTIONS]", value_parser = in_memory)]
    pub(crate) tmpfs: Vec<InMemory>,
    /// Keep the writable part in a filesystem of its own, of this size, e.g. 1g
    #[arg(long, value_name = "BYTES", value_parser = parse::bytes)]
    pub(crate) storage_size: Option<u64>,
    /// Signal that asks it to stop
    #[arg(long, value_name = "SIGNAL")]
    pub(crate) stop_signal: Option<Signal>,
    /// OCI runtime [default: crun, else runc]
    #[arg(long, value_name = "PROGRAM")]
    pub(crate) runtime: Option<String>,
}

/// What a container keeps in memory.
#[derive(Clone, Debug)]
pub(crate) enum InMemory {
    /// All that it writes where nothing else is mounted, of at most so many bytes.
    Root(Option<u64>),
    /// A tmpfs at some path.
    At(Tmpfs),
}

fn in_memory(text: &str) -> anyhow::Result<InMemory> {
    let (path, options) = text.split_once(':').unwrap_or((text, ""));
    if path != "/" {
        return Ok(InMemory::At(text.parse()?));
    }
    let size = match options.strip_prefix("size=") {
        None if options.is_empty() => None,
        None => bail!("at / a tmpfs takes only size=, as in /:size=64m"),
        Some(size) => Some(parse::bytes(size)?),
    };
    Ok(InMemory::Root(size))
}

/// A volume whose path may begin here.
fn volume(text: &str) -> anyhow::Result<Volume> {
    let (source, rest) = text.split_once(':').unwrap_or((text, ""));
    if !source.starts_with('.') || rest.is_empty() {
        return Ok(text.parse()?);
    }
    let source = std::path::absolute(source)?;
    let source = source
        .to_str()
        .context("the working directory's path is not UTF-8")?;
    Ok(format!("{source}:{rest}").parse()?)
}
