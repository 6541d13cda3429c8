//! Writes what the fuzzers begin with into `corpus/`: manifests as they are published, scripts, and the
//! headers of ELF files.

use std::error::Error;
use std::fs;

use thaw_accelerate::{Origin, PackOptions, WorkingSetArtifact, pack};
use thaw_image::{DiffId, Digest, Extent, media};
use thaw_registry::{Descriptor, ManifestContent};

/// An input, after the names of its target and its own.
type Input = (&'static str, String, Vec<u8>);

/// A descriptor of something packed.
fn packed(media_type: &str, bytes: &[u8]) -> Descriptor {
    Descriptor::of(media_type, bytes)
        .annotated(media::ANNOTATION_UNPACKED_SIZE, "4096")
        .annotated(
            media::ANNOTATION_UNPACKED_DIGEST,
            Digest::of(b"unpacked").to_string(),
        )
}

fn acceleration() -> Vec<u8> {
    let subject = Descriptor::of(media::MANIFEST, b"{}");
    let table = |name: &[u8]| {
        Descriptor::of(media::SEEK_TABLE, &[name, b" table"].concat())
            .annotated(media::ANNOTATION_LAYER, Digest::of(name).to_string())
            .annotated(media::ANNOTATION_TAR_SIZE, "10240")
    };
    let windows = Descriptor::of(media::WINDOWS, b"windows")
        .annotated(media::ANNOTATION_LAYER, Digest::of(b"one").to_string());
    let layers = vec![
        packed(media::LAYOUT, b"layout"),
        table(b"one"),
        windows,
        table(b"two"),
        packed(media::GENERATED, b"generated"),
    ];
    ManifestContent::artifact(media::ACCELERATION, subject, layers).to_bytes()
}

/// A 64-bit program with an interpreter, a string table and the library that it needs.
fn elf() -> Vec<u8> {
    let mut bytes = vec![0; 0x400];
    let mut set = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
    set(0, b"\x7fELF\x02\x01\x01");
    set(16, &[3, 0, 62, 0, 1]);
    set(32, &64u64.to_le_bytes());
    set(52, &[64, 0, 56, 0, 3, 0]);
    let mut segment = |number: usize, kind: u32, offset: u64, len: u64| {
        let at = 64 + number * 56;
        set(at, &kind.to_le_bytes());
        set(at + 8, &offset.to_le_bytes());
        set(at + 16, &offset.to_le_bytes());
        set(at + 32, &len.to_le_bytes());
        set(at + 40, &len.to_le_bytes());
    };
    segment(0, 3, 0x200, 13);
    segment(1, 1, 0, 0x400);
    segment(2, 2, 0x300, 0x50);
    set(0x200, b"/lib64/ld.so\0");
    set(0x220, b"\0lib.so.1\0$ORIGIN/../lib64\0");
    for (number, (tag, value)) in [(5u64, 0x220u64), (10, 0x40), (1, 1), (29, 10), (0, 0)]
        .into_iter()
        .enumerate()
    {
        set(0x300 + number * 16, &tag.to_le_bytes());
        set(0x308 + number * 16, &value.to_le_bytes());
    }
    bytes
}

/// The inputs of all targets, each with a name.
pub(crate) fn inputs() -> Result<Vec<Input>, Box<dyn Error>> {
    let mut inputs = Vec::new();
    let mut put = |target, name: &str, bytes: &[u8]| {
        inputs.push((target, name.to_owned(), bytes.to_vec()));
    };
    put("artifact", "acceleration", &acceleration());
    let layers = [(DiffId(Digest::of(b"one tar")), 10_240)];
    let trace = [(
        layers[0].0,
        Extent {
            offset: 0,
            len: 4096,
        },
    )];
    let read = |_: &DiffId, extent: Extent| Ok(vec![7; usize::try_from(extent.len).unwrap_or(0)]);
    let set = pack(&trace, &layers, &read, &PackOptions::default())?;
    let subject = Descriptor::of(media::MANIFEST, b"{}");
    let set = WorkingSetArtifact::build(&subject, "default", Origin::Recorded, set)?;
    put("artifact", "working-set", set.manifest().bytes());
    put("program", "elf", &elf());
    put("program", "script", b"#!/bin/sh -e\nexec true\n");
    put("program", "env", b"#! /usr/bin/env -S program -u\n");
    Ok(inputs)
}

fn main() -> Result<(), Box<dyn Error>> {
    for (target, name, bytes) in inputs()? {
        fs::create_dir_all(format!("corpus/{target}"))?;
        fs::write(format!("corpus/{target}/{name}"), bytes)?;
    }
    Ok(())
}
