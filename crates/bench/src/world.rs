//! What the contenders share: the link, the registry behind it, the images in it.

use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::Serialize;
use thaw_testkit::http;
use thaw_testkit::image::{Layout, real};
use thaw_testkit::net::{Link, Namespace, Shape};
use thaw_testkit::registry::{Options, Registry};

/// A registry in a namespace, behind a link. Fields end in this order.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) registry: Registry,
    pub(crate) link: Link,
    _namespace: Namespace,
}

/// An image in the registry.
#[derive(Debug)]
pub(crate) struct Served {
    pub(crate) name: &'static str,
    pub(crate) reference: String,
    /// Bytes of its layers, compressed.
    pub(crate) compressed: u64,
    largest_layer: String,
}

/// What the link turned out to be.
#[derive(Debug, Serialize)]
pub(crate) struct LinkFacts {
    /// Median time of a TCP connect: one round trip.
    pub(crate) round_trip_ms: f64,
    /// Of the first 16 MiB of a blob over one new connection, slow start included.
    pub(crate) megabit_per_second: f64,
}

impl World {
    pub(crate) fn new() -> Result<Self> {
        let namespace = Namespace::new()?;
        let link = Link::new(&namespace, Shape::GIGABIT)?;
        let registry = Registry::start_with(&Options {
            address: format!("{}:5000", link.far()),
            namespace: Some(namespace.path()),
            ..Options::default()
        })?;
        Ok(Self {
            registry,
            link,
            _namespace: namespace,
        })
    }

    /// Builds the image, or takes it from the cache, and pushes it.
    pub(crate) fn serve(&self, name: &'static str) -> Result<Served> {
        let cache = real::cache_directory();
        let layout = match name {
            "web" => real::web_service(&cache)?,
            _ => real::machine_learning(&cache)?,
        };
        let reference = layout.push(&self.registry, &format!("bench/{name}:1"))?;
        let layers = layers(&layout)?;
        let largest = layers
            .iter()
            .max_by_key(|(_, size)| *size)
            .context("no layers")?;
        Ok(Served {
            name,
            reference,
            compressed: layers.iter().map(|(_, size)| size).sum(),
            largest_layer: largest.0.clone(),
        })
    }

    pub(crate) fn measure(&self, image: &Served) -> Result<LinkFacts> {
        let mut trips = Vec::new();
        for _ in 0..21 {
            let start = Instant::now();
            drop(TcpStream::connect(self.registry.host())?);
            trips.push(start.elapsed().as_secs_f64() * 1000.0);
        }
        let path = format!("/v2/bench/{}/blobs/{}", image.name, image.largest_layer);
        let start = Instant::now();
        let answer = http::get(self.registry.host(), &path, Duration::from_secs(60))?;
        let bits = answer.body.len() as f64 * 8.0;
        Ok(LinkFacts {
            round_trip_ms: crate::report::median(&mut trips),
            megabit_per_second: bits / start.elapsed().as_secs_f64() / 1e6,
        })
    }
}

fn layers(layout: &Layout) -> Result<Vec<(String, u64)>> {
    let manifest = layout.manifest()?;
    let layers = manifest["layers"].as_array().context("no layers")?;
    layers
        .iter()
        .map(|layer| {
            let digest = layer["digest"].as_str().context("no digest")?;
            Ok((
                digest.to_owned(),
                layer["size"].as_u64().context("no size")?,
            ))
        })
        .collect()
}
