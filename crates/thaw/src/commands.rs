//! The commands: one function each, chosen in one match.

mod begin;
mod config;
mod container;
mod daemon;
mod doctor;
mod environment;
mod explain;
mod facts;
mod function;
mod image;
mod key;
mod run;
mod serve;

use std::io::Write;
use std::process::ExitCode;

use clap::CommandFactory;
use serde::Serialize;
use thaw_node::{ImageWish, Pull, Transport};

use crate::cli::{Cli, Command, Config as ConfigArgs, Global, ImageArgs, PullMode, TransportName};
use crate::client::Client;
use crate::config::Config;

/// What every command works with.
pub(crate) struct Context {
    pub(crate) global: Global,
    pub(crate) config: Config,
    pub(crate) client: Client,
}

impl Context {
    fn load(global: Global) -> anyhow::Result<Self> {
        let config = Config::load(&global)?;
        let client = Client::new(&config, global.quiet);
        Ok(Self {
            global,
            config,
            client,
        })
    }

    /// Prints `value` as JSON where that was asked for, else what `text` makes of it.
    pub(crate) fn print<T: Serialize>(
        &self,
        value: &T,
        text: impl FnOnce(&T) -> String,
    ) -> anyhow::Result<()> {
        print(self.global.json, value, text)
    }

    /// Says something on standard error, unless that is not wanted.
    pub(crate) fn notice(&self, text: &str) {
        if !self.global.quiet {
            crate::output::complain(text);
        }
    }
}

fn print<T: Serialize>(
    json: bool,
    value: &T,
    text: impl FnOnce(&T) -> String,
) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    if json {
        serde_json::to_writer_pretty(&mut out, value)?;
        writeln!(out)?;
    } else {
        out.write_all(text(value).as_bytes())?;
    }
    out.flush()?;
    Ok(())
}

/// Carries out what was typed.
pub(crate) fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    let Cli { global, command } = cli;
    match command {
        Command::Completions { shell } => {
            // It takes no failure of a writer for an answer.
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut shown(), "thaw", &mut script);
            std::io::stdout().write_all(&script)?;
            return Ok(ExitCode::SUCCESS);
        }
        Command::Man { dir } => {
            std::fs::create_dir_all(&dir)?;
            clap_mangen::generate_to(Cli::command(), &dir)?;
            return Ok(ExitCode::SUCCESS);
        }
        Command::Keeper => return Ok(daemon::keeper()),
        // A configuration that is no good is what they are for.
        Command::Config(ConfigArgs { example: true, .. }) => {
            std::io::stdout().write_all(crate::config::example().as_bytes())?;
            return Ok(ExitCode::SUCCESS);
        }
        Command::Config(ConfigArgs {
            check: Some(ref file),
            ..
        }) => return config::check(&global, file),
        _ => {}
    }
    match &command {
        Command::Daemon(args) if !args.stop => {
            return begin::begin(global, |context, given| daemon::serve(context, args, given));
        }
        Command::Serve(args) => {
            return begin::begin(global, |context, given| serve::serve(context, args, given));
        }
        _ => {}
    }
    let context = Context::load(global)?;
    match command {
        Command::Run(args) => run::run(&context, *args),
        Command::Accelerate(args) => image::accelerate(&context, *args),
        Command::Mount(args) => match (args.image, args.dir) {
            (Some(image), Some(dir)) => image::mount(&context, &image, &dir),
            _ => facts::mounts(&context),
        },
        Command::Unmount(args) => image::unmount(&context, args),
        Command::Pull(args) => image::pull(&context, &args),
        Command::Inspect(args) => facts::inspect(&context, &args),
        Command::Ps(args) => facts::ps(&context, &args),
        Command::Images => facts::images(&context),
        Command::Gc(args) => facts::gc(&context, &args),
        Command::Metrics => facts::metrics(&context),
        Command::Exec(args) => container::exec(&context, args),
        Command::Logs(args) => container::logs(&context, &args),
        Command::Stop(args) => container::stop(&context, &args),
        Command::Rm(args) => container::rm(&context, &args),
        Command::Login(args) => image::login(&context, args),
        Command::Config(_) => config::show(&context),
        Command::Daemon(_) => daemon::stop(&context),
        Command::Function(command) => function::function(&context, &command),
        Command::Key(command) => key::key(&context, &command),
        Command::Doctor { explain: None } => doctor::doctor(&context),
        Command::Doctor {
            explain: Some(container),
        } => explain::explain(&context, container),
        Command::Monitor { dir } => {
            crate::log::to_stderr();
            Ok(container::monitor(&context.client, &dir))
        }
        Command::Completions { .. } | Command::Man { .. } | Command::Keeper | Command::Serve(_) => {
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// The definition without the commands that only `thaw` itself calls: shells would offer them.
fn shown() -> clap::Command {
    let all = Cli::command();
    let shown = all
        .get_subcommands()
        .filter(|command| !command.is_hide_set());
    clap::Command::new("thaw")
        .args(all.get_arguments())
        .subcommands(shown)
        .version(env!("CARGO_PKG_VERSION"))
}

/// An image as the user named it, on its way to the daemon.
pub(crate) fn wish(args: &ImageArgs) -> anyhow::Result<ImageWish> {
    Ok(ImageWish {
        reference: reference(&args.image)?,
        platform: args.platform.clone(),
        pull: match args.pull {
            PullMode::Auto => Pull::Auto,
            PullMode::Lazy => Pull::Lazy,
            PullMode::Full => Pull::Full,
        },
        profile: Some(args.profile.clone()).filter(|profile| profile != "none"),
        transport: transport(args.transport),
        refresh: args.refresh,
    })
}

/// A fault transport as the node names it.
pub(crate) const fn transport(name: TransportName) -> Transport {
    match name {
        TransportName::Auto => Transport::Auto,
        TransportName::Fanotify => Transport::Fanotify,
        TransportName::Fuse => Transport::Fuse,
        TransportName::Directories => Transport::Directories,
    }
}

/// A wish with nothing forced.
pub(crate) fn plain_wish(image: &str, platform: Option<&String>) -> anyhow::Result<ImageWish> {
    Ok(ImageWish {
        reference: reference(image)?,
        platform: platform.cloned(),
        pull: Pull::Auto,
        profile: Some("default".to_owned()),
        transport: Transport::Auto,
        refresh: false,
    })
}

/// Completes a reference; the daemon has another working directory, so `oci:` becomes absolute.
fn reference(typed: &str) -> anyhow::Result<String> {
    let mut reference: thaw_image::ImageReference = typed.parse()?;
    if let thaw_image::ImageReference::Layout { dir, .. } = &mut reference {
        *dir = std::path::absolute(&*dir)?;
    }
    Ok(reference.to_string())
}
