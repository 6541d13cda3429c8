//! What a user can type: one definition for parsing, help, completions and man pages. No I/O.

#![allow(
    rustdoc::broken_intra_doc_links,
    reason = "what stands here is printed as help, where brackets mean options"
)]

pub(crate) mod container;
pub(crate) mod function;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::parser::ValueSource;
use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
use thaw_node::container::parse;
use thaw_node::{Ready, parse_duration};

pub(crate) use container::{ContainerArgs, InMemory, Net};

/// Starts containers before their image has arrived.
#[derive(Debug, Parser)]
#[command(
    name = "thaw",
    version,
    max_term_width = 100,
    subcommand_required = true
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

impl Cli {
    /// Parses the command line of this process.
    ///
    /// # Errors
    /// What is wrong with it; or help or version, which were asked for.
    pub(crate) fn parse_args() -> Result<Self, clap::Error> {
        let mut matches = Self::command().try_get_matches()?;
        let root = matches.value_source("root");
        let mut cli = Self::from_arg_matches_mut(&mut matches)
            .map_err(|error| error.format(&mut Self::command()))?;
        cli.global.root_from_environment = root == Some(ValueSource::EnvVariable);
        Ok(cli)
    }
}

/// What every command takes.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct Global {
    /// The store: images, containers, and the socket of the daemon that owns them
    #[arg(long, global = true, value_name = "DIR", env = "THAW_ROOT")]
    pub(crate) root: Option<PathBuf>,
    /// Whether the root is that of the environment.
    #[arg(skip)]
    pub(crate) root_from_environment: bool,
    /// Configuration file [default: /etc/thaw/config.toml, where it exists]
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Print facts as JSON
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Say less: no progress, no notices
    #[arg(short, long, global = true)]
    pub(crate) quiet: bool,
    /// Speak plain HTTP with registries of this HOST[:PORT] (loopback ones do, unless the configuration says otherwise)
    #[arg(long, global = true, value_name = "HOST")]
    pub(crate) plain_http: Vec<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Start a container: accelerated if it can be, by a full pull if not
    Run(Box<Run>),
    /// Index an image once, so that every later start loads only what it reads
    Accelerate(Box<Accelerate>),
    /// Mount an image's root filesystem, lazily and read-only; without arguments: list such mounts
    Mount(Mount),
    /// Undo `mount`
    Unmount(Unmount),
    /// Fetch all of an image, fast
    Pull(Pull),
    /// Show an image: layers, acceleration, working set, what of it is here
    Inspect(Inspect),
    /// List containers and how their images were started; with --quiet only their ids
    Ps(Ps),
    /// Run a command in a running container
    Exec(Exec),
    /// Show what a container printed
    Logs(Logs),
    /// Stop containers
    Stop(Stop),
    /// Remove containers
    Rm(Rm),
    /// List the images in the store and what they cost; with --quiet only their manifests
    Images,
    /// Give space back: what no image refers to, and the images that are named
    #[command(visible_alias = "rmi")]
    Gc(Gc),
    /// Print what the daemon has counted, in Prometheus' text format
    Metrics,
    /// Check credentials against a registry and keep them in Docker's config.json
    Login(Login),
    /// Print the configuration that a daemon would be started with, and where each value comes from
    Config(Config),
    /// Own a store in the foreground; other commands start it by themselves when it is not there
    Daemon(Daemon),
    /// Own a store and serve functions in the foreground: Function Compute's API and HTTP triggers
    Serve(Serve),
    /// Deploy and invoke functions, and see what they do; asks the function host of this store
    #[command(subcommand, name = "fn")]
    Function(function::Function),
    /// Make, list and delete access keys of the function host
    #[command(subcommand)]
    Key(Key),
    /// Say what this machine has and lacks, and which fault transport it will use
    Doctor {
        /// Say instead why the start of this container took as long as it did, and what would help
        #[arg(long, value_name = "CONTAINER")]
        explain: Option<String>,
    },
    /// Print a completion script for a shell
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
    /// Write the man pages into a directory
    Man {
        /// Where
        dir: PathBuf,
    },
    /// The process that holds the event group or FUSE connection; started by the daemon
    #[command(hide = true)]
    Keeper,
    /// The parent of a detached container; started by `run -d`
    #[command(hide = true)]
    Monitor {
        /// The container's directory
        dir: PathBuf,
    },
}

/// How an image gets here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum PullMode {
    /// Lazily if there is a trusted acceleration and it is not slower; in full otherwise
    #[default]
    Auto,
    /// Lazily, or fail
    Lazy,
    /// In full before the start
    Full,
}

/// Who asks for a range that is absent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum TransportName {
    /// The best that works here: fanotify, else fuse, else directories
    #[default]
    Auto,
    /// Pre-content events (Linux 6.14 and later; ext4, xfs, btrfs)
    Fanotify,
    /// A FUSE server: any store, and errors where nobody is left to answer
    Fuse,
    /// Nobody: layers are unpacked into directories for overlayfs (Linux 5.10 and later), never lazily
    Directories,
}

/// How to find and fetch an image.
#[derive(Clone, Debug, Args)]
pub(crate) struct ImageArgs {
    /// Image: [HOST/]REPOSITORY[:TAG][@DIGEST], or oci:DIR[:TAG]
    pub(crate) image: String,
    /// How the image gets here
    #[arg(long, value_enum, default_value_t, value_name = "MODE")]
    pub(crate) pull: PullMode,
    /// Working set to stream ahead of the reads, or `none`
    #[arg(long, default_value = "default", value_name = "NAME")]
    pub(crate) profile: String,
    /// Fault transport
    #[arg(long, value_enum, default_value_t, value_name = "NAME")]
    pub(crate) transport: TransportName,
    /// Platform of a multi-platform image, e.g. linux/arm64 [default: this machine's]
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    pub(crate) platform: Option<String>,
    /// Ask the registry even if the image is here already
    #[arg(long)]
    pub(crate) refresh: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Run {
    #[command(flatten)]
    pub(crate) image: ImageArgs,
    #[command(flatten)]
    pub(crate) container: ContainerArgs,
    /// Run in the background and print the container's id
    #[arg(short, long)]
    pub(crate) detach: bool,
    /// Remove the container when it ends
    #[arg(long)]
    pub(crate) rm: bool,
    /// Complete the layers in the background while nobody waits
    #[arg(long)]
    pub(crate) fill: bool,
    /// Print where the start's time went
    #[arg(long)]
    pub(crate) timing: bool,
    /// With --timing: the start ends when this answers, e.g. http://:8080/
    #[arg(long, value_name = "WHEN", requires = "timing")]
    pub(crate) ready: Option<Ready>,
    /// Command and arguments, instead of the image's
    #[arg(
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "CMD"
    )]
    pub(crate) command: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Accelerate {
    #[command(flatten)]
    pub(crate) image: ImageArgs,
    /// Push the acceleration to this repository instead of the image's own
    #[arg(long, value_name = "REPOSITORY", conflicts_with = "local")]
    pub(crate) to: Option<String>,
    /// Keep it in the local store only
    #[arg(long)]
    pub(crate) local: bool,
    /// Sign what is pushed, as cosign does, with this private key (PEM, PKCS #8, not encrypted)
    #[arg(long, value_name = "KEY", conflicts_with = "local")]
    pub(crate) sign: Option<PathBuf>,
    /// Start the image under observation and record what it reads
    #[arg(long)]
    pub(crate) record: bool,
    /// With --record, when the start is over: http://:PORT/PATH, exit, log:REGEX, or a time (20s)
    #[arg(long, value_name = "WHEN", default_value = "10s", requires = "record")]
    pub(crate) ready: Ready,
    /// Publish a working set from what the starts on this machine have read
    #[arg(long, conflicts_with = "record")]
    pub(crate) from_traces: bool,
    #[command(flatten)]
    pub(crate) container: ContainerArgs,
    /// With --record: command and arguments, instead of the image's
    #[arg(last = true, value_name = "CMD")]
    pub(crate) command: Vec<String>,
}

#[derive(Debug, Args)]
#[command(mut_arg("image", |image| image.required(false).requires("dir").index(1)))]
pub(crate) struct Mount {
    #[command(flatten)]
    pub(crate) image: Option<ImageArgs>,
    /// Where
    #[arg(index = 2, requires = "image")]
    pub(crate) dir: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct Unmount {
    /// Where
    #[arg(required_unless_present = "all")]
    pub(crate) dir: Option<PathBuf>,
    /// Everything: mounts, and the root filesystems of containers that have ended
    #[arg(long, conflicts_with = "dir")]
    pub(crate) all: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Pull {
    /// Image: [HOST/]REPOSITORY[:TAG][@DIGEST], or oci:DIR[:TAG]
    pub(crate) image: String,
    /// For which fault transport: `directories` are pulled otherwise than for the others
    #[arg(long, value_enum, default_value_t, value_name = "NAME")]
    pub(crate) transport: TransportName,
    /// Platform of a multi-platform image [default: this machine's]
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    pub(crate) platform: Option<String>,
    /// Push the index that falls out of the pull, as `accelerate` does: other nodes start lazily then
    #[arg(long)]
    pub(crate) push: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Inspect {
    /// Image
    pub(crate) image: String,
    /// Platform of a multi-platform image [default: this machine's]
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    pub(crate) platform: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Ps {
    /// Those that have ended, too
    #[arg(short, long)]
    pub(crate) all: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Exec {
    /// Container: name or start of its id
    pub(crate) container: String,
    /// Environment variable
    #[arg(short, long, value_name = "NAME=VALUE")]
    pub(crate) env: Vec<String>,
    /// File with an environment variable on each line; --env goes before it
    #[arg(long, value_name = "FILE")]
    pub(crate) env_file: Vec<PathBuf>,
    /// Working directory
    #[arg(short, long, value_name = "DIR")]
    pub(crate) workdir: Option<String>,
    /// User
    #[arg(short, long, value_name = "USER[:GROUP]")]
    pub(crate) user: Option<String>,
    /// Keep standard input open
    #[arg(short, long)]
    pub(crate) interactive: bool,
    /// Give it a terminal
    #[arg(short, long)]
    pub(crate) tty: bool,
    /// Command and arguments
    #[arg(
        trailing_var_arg = true,
        allow_hyphen_values = true,
        required = true,
        value_name = "CMD"
    )]
    pub(crate) command: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Logs {
    /// Container: name or start of its id
    pub(crate) container: String,
    /// Go on as it prints
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// Only the last lines
    #[arg(short = 'n', long, value_name = "LINES")]
    pub(crate) tail: Option<usize>,
}

#[derive(Debug, Args)]
pub(crate) struct Stop {
    /// Containers: names or starts of ids
    #[arg(required = true)]
    pub(crate) containers: Vec<String>,
    /// Seconds between the stop signal and SIGKILL
    #[arg(short, long, default_value_t = 10)]
    pub(crate) time: u64,
}

#[derive(Debug, Args)]
pub(crate) struct Rm {
    /// Containers: names or starts of ids
    #[arg(required = true)]
    pub(crate) containers: Vec<String>,
    /// Kill them if they run
    #[arg(short, long)]
    pub(crate) force: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Gc {
    /// Images that go, too: references, or manifests as `thaw images` shows them
    #[arg(value_name = "IMAGE")]
    pub(crate) images: Vec<String>,
    /// Remove all that nothing uses, not only what no image refers to
    #[arg(long)]
    pub(crate) all: bool,
    /// Show what would be removed and why
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Bring layers to at most this size, as the key of the configuration does all the time
    #[arg(long, value_name = "BYTES", value_parser = parse::bytes)]
    pub(crate) cache_size: Option<u64>,
}

#[derive(Debug, Args)]
pub(crate) struct Login {
    /// Registry: HOST[:PORT]
    pub(crate) registry: String,
    /// User
    #[arg(short, long)]
    pub(crate) username: String,
    /// Read the password from standard input
    #[arg(long)]
    pub(crate) password_stdin: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Config {
    /// Say what is wrong with a file instead, a line for each problem
    #[arg(long, value_name = "FILE", conflicts_with = "example")]
    pub(crate) check: Option<PathBuf>,
    /// Print a file with every key instead, explained and commented out
    #[arg(long)]
    pub(crate) example: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Daemon {
    /// Stop the daemon that owns the store; containers go on
    #[arg(long)]
    pub(crate) stop: bool,
    /// Take the place of the daemon that owns the store: containers, mounts and reads that wait go on.
    /// For another version of the program, or another configuration
    #[arg(long, conflicts_with = "stop")]
    pub(crate) replace: bool,
    /// End by itself when nothing was asked and nothing is mounted for this long, e.g. 10m
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub(crate) idle: Option<Duration>,
}

#[derive(Debug, Args)]
pub(crate) struct Serve {
    /// Where the API and HTTP triggers are
    #[arg(long, default_value = "127.0.0.1:7000", value_name = "ADDRESS")]
    pub(crate) listen: SocketAddr,
    /// Take requests without signatures; only on a loopback address
    #[arg(long)]
    pub(crate) no_auth: bool,
    /// How long an instance is kept that nobody uses, e.g. 5m
    #[arg(long, default_value = "5m", value_name = "TIME", value_parser = parse_duration)]
    pub(crate) keep: Duration,
    /// Memory that all instances may have together, e.g. 8g [default: 90 % of the machine's]
    #[arg(long, value_name = "BYTES", value_parser = parse::bytes)]
    pub(crate) memory: Option<u64>,
    /// What functions are told of where they are
    #[arg(long, default_value = "local", value_name = "NAME")]
    pub(crate) region: String,
    /// The account that functions and keys belong to
    #[arg(long, default_value = "1", value_name = "ID")]
    pub(crate) account: String,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Key {
    /// Make a key; its secret is shown this once
    Create {
        /// What it is for
        #[arg(long, default_value = "", value_name = "TEXT")]
        description: String,
    },
    /// List the keys, without their secrets
    List,
    /// Delete a key: what is signed with it is refused from now on
    Delete {
        /// Its id
        id: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn run_takes_what_people_type() {
        let line = "thaw run --rm -it -e A=b -p 8080:80 -v /a:/b:ro alpine -- sh -c id";
        let cli = Cli::try_parse_from(line.split(' ')).unwrap();
        let Command::Run(run) = cli.command else {
            panic!("not run")
        };
        assert!(run.rm && run.container.tty && run.container.interactive);
        assert_eq!(run.command, ["sh", "-c", "id"]);
        let cli = Cli::try_parse_from(["thaw", "run", "alpine", "ls", "-l"]).unwrap();
        let Command::Run(run) = cli.command else {
            panic!("not run")
        };
        assert_eq!(run.command, ["ls", "-l"]);
    }
}
