//! Writes what the fuzzers begin with into `corpus/`: manifests as they are published, layers, scripts,
//! and the headers of ELF files.

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

/// An entry of a tar: its header, to which the target gives a checksum, and its data.
fn entry(name: &str, kind: u8, link: &str, data: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; 512];
    let mut set = |at: usize, text: &[u8]| bytes[at..at + text.len()].copy_from_slice(text);
    set(0, name.as_bytes());
    set(100, b"0000755");
    set(108, b"0000000");
    set(116, b"0000000");
    set(124, format!("{:011o}", data.len()).as_bytes());
    set(136, b"00000000003");
    set(156, &[kind]);
    set(157, link.as_bytes());
    set(257, b"ustar\x0000");
    set(329, b"0000001");
    set(337, b"0000003");
    bytes.extend_from_slice(data);
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

/// A tar of such entries.
fn tar(entries: &[Vec<u8>]) -> Vec<u8> {
    [&*entries.concat(), &[0; 1024]].concat()
}

/// Layers that try each rule of the merge, and to get out of their directory.
fn images() -> Vec<(&'static str, Vec<u8>)> {
    let dir = |name: &str| entry(name, b'5', "", b"");
    let file = |name: &str, data: &[u8]| entry(name, b'0', "", data);
    let symlink = |name: &str, to: &str| entry(name, b'2', to, b"");
    let hard = |name: &str, to: &str| entry(name, b'1', to, b"");
    let base = tar(&[
        dir("./"),
        dir("a/"),
        file("a/one", b"one"),
        file("a/two", &[7; 700]),
        hard("a/again", "a/one"),
        symlink("link", "a"),
        entry("null", b'3', "", b""),
        entry("pipe", b'6', "", b""),
    ]);
    let over = |entries: &[Vec<u8>]| [base.clone(), tar(entries)].concat();
    vec![
        ("one", base.clone()),
        (
            "whiteouts",
            over(&[
                file("a/.wh.one", b""),
                file("a/.wh..wh..opq", b""),
                file("a/new", b"n"),
            ]),
        ),
        (
            "through-a-link",
            over(&[file("link/three", b"3"), hard("b", "link/two")]),
        ),
        (
            "changed-types",
            over(&[file("a", b"a file"), dir("null/"), symlink("pipe", "a")]),
        ),
        (
            "outside",
            tar(&[
                file("../outside/kept", b"x"),
                file("/outside/kept", b"x"),
                symlink("out", "../../outside"),
                file("out/kept", b"x"),
                hard("kept", "../outside/kept"),
                hard("held", "out/kept"),
                dir("out"),
            ]),
        ),
        (
            "deep",
            tar(&[
                file(&"d/".repeat(49), b"x"),
                symlink("self", "self"),
                file("self/x", b"x"),
            ]),
        ),
    ]
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
    for (name, bytes) in images() {
        put("layers", name, &bytes);
    }
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
