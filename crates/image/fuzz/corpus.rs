//! Writes what the fuzzers begin with into `corpus/`: what the encoders of the crate write, without the
//! checksums, which the targets add.

use std::error::Error;
use std::fs;

use thaw_image::{
    BlockRun, Chunk, ChunkDigest, CodecState, DiffId, Digest, Extent, Frame, LayerFormat, Run,
    SeekTable, WindowRef, WorkingSet,
};

/// An input, after the names of its target and its own.
type Input = (&'static str, String, Vec<u8>);

/// Without the checksum.
fn body(sealed: &[u8]) -> &[u8] {
    &sealed[..sealed.len() - 32]
}

fn table(format: LayerFormat, states: &[CodecState]) -> SeekTable {
    let chunks = states.iter().enumerate().map(|(number, state)| {
        let at = number as u64 * 1000;
        let extent = Extent {
            offset: at,
            len: 1000,
        };
        Chunk {
            tar: extent,
            blob: extent,
            state: *state,
            digest: ChunkDigest::of(&at.to_le_bytes()),
        }
    });
    let chunks: Vec<Chunk> = chunks.collect();
    let size = chunks.len() as u64 * 1000;
    SeekTable {
        format,
        blob: Digest::of(b"blob"),
        blob_size: size,
        diff_id: DiffId(Digest::of(b"tar")),
        tar_size: size,
        windows_size: 4000,
        chunks,
    }
}

fn set(frames: u64) -> WorkingSet {
    let run = |first, count, layer| Run {
        layer,
        blocks: BlockRun { first, count },
    };
    let frame = |number: u64| Frame {
        data: Extent {
            offset: number * 100,
            len: 100,
        },
        digest: Digest::of(&number.to_le_bytes()),
        runs: vec![run(number * 9, 3, 0), run(number, 1, 1)],
    };
    WorkingSet {
        layers: vec![
            (DiffId(Digest::of(b"one")), 1 << 20),
            (DiffId(Digest::of(b"two")), 12_345),
        ],
        frames: (0..frames).map(frame).collect(),
    }
}

/// The inputs of all targets, each with a name.
pub(crate) fn inputs() -> Result<Vec<Input>, Box<dyn Error>> {
    let mut inputs = Vec::new();
    let mut put = |target, name: &str, bytes: &[u8]| {
        inputs.push((target, name.to_owned(), bytes.to_vec()));
    };
    let deflate = |skip_bits, in_block, offset, len| CodecState::Deflate {
        skip_bits,
        in_block,
        window: WindowRef { offset, len },
    };
    let states = [
        CodecState::GzipMember,
        deflate(0, false, 0, 0),
        deflate(3, false, 0, 700),
        deflate(7, true, 700, 900),
        CodecState::GzipMember,
    ];
    let stored = [CodecState::Stored; 4];
    for count in [0, 1, 4] {
        let tar = table(LayerFormat::Tar, &stored[..count]).encode();
        put("seek_table", &format!("tar-{count}"), body(&tar));
        let gzip = table(LayerFormat::Gzip, &states[..count + count / 4]).encode();
        put("seek_table", &format!("gzip-{count}"), body(&gzip));
        let set = set(count as u64).encode();
        put("working_set", &format!("frames-{count}"), body(&set));
    }
    let digest = Digest::of(b"manifest");
    for (number, text) in [
        "debian".to_owned(),
        "docker.io/library/debian:13".to_owned(),
        "localhost:5000/team/app:1.2_x".to_owned(),
        "[::1]:5000/app".to_owned(),
        format!("registry.example/a/b__c/d-e@{digest}"),
        format!("registry.example/app:1@{digest}"),
        "oci:/images/app:latest".to_owned(),
        "oci:relative/dir".to_owned(),
    ]
    .iter()
    .enumerate()
    {
        put("reference", &number.to_string(), text.as_bytes());
    }
    Ok(inputs)
}

fn main() -> Result<(), Box<dyn Error>> {
    for (target, name, bytes) in inputs()? {
        fs::create_dir_all(format!("corpus/{target}"))?;
        fs::write(format!("corpus/{target}/{name}"), bytes)?;
    }
    Ok(())
}
