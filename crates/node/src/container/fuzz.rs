//! What an image says of itself, for fuzz targets: these parsers are nobody's interface.

use oci_spec::image::ImageConfiguration;

use super::options::{Options, ProcessOptions, Signal};
use super::{ContainerError, parse, process};

pub use super::user::{User, look_up};

/// What a container runs, and where, when nobody asks for anything.
#[derive(Debug)]
pub struct Plan {
    /// Its program and arguments.
    pub args: Vec<String>,
    /// `NAME=value`.
    pub env: Vec<String>,
    /// Where it begins.
    pub cwd: String,
    /// Where the image has VOLUMEs.
    pub volumes: Vec<String>,
    /// What ends it, where the image says so.
    pub stop_signal: Option<Signal>,
}

impl Plan {
    /// What a configuration comes to.
    ///
    /// # Errors
    /// [`ContainerError`], as a start of the image.
    pub fn of(image: &ImageConfiguration) -> Result<Self, ContainerError> {
        let config = image.config().as_ref();
        let options = Options::default();
        let env = config.and_then(|config| config.env().clone());
        let volumes = config.and_then(|config| config.volumes().clone());
        let volumes = volumes.unwrap_or_default();
        let volumes = volumes.iter().map(|at| parse::target("VOLUME", at));
        let own = ProcessOptions::default();
        Ok(Self {
            args: process::arguments(image, &options)?,
            env: process::environment(&env.unwrap_or_default(), &own, "host", "/")?,
            cwd: process::workdir(image, &own)?,
            volumes: volumes.collect::<Result<_, _>>()?,
            stop_signal: process::stop_signal(image)?,
        })
    }
}
