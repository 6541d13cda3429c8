//! Writes what the fuzzer begins with into `corpus/document`: what the writers of the crate write, and
//! what others do.

use std::error::Error;
use std::fs;

use thaw_image::media;
use thaw_registry::{Descriptor, IndexContent, ManifestContent};

/// An input, after the names of its target and its own.
type Input = (&'static str, String, Vec<u8>);

const CONFIG: &str = r#"{"architecture":"amd64","os":"linux","created":"2024-01-02T03:04:05Z","config":{"User":"33","Env":["PATH=/bin"],"Entrypoint":["/app"],"Cmd":["x"],"WorkingDir":"/srv","Labels":{"a":"b"},"ExposedPorts":{"80/tcp":{}},"Volumes":{"/data":{}}},"rootfs":{"type":"layers","diff_ids":["sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"]},"history":[{"created_by":"x","empty_layer":true}]}"#;

/// The inputs of all targets, each with a name.
pub(crate) fn inputs() -> Result<Vec<Input>, Box<dyn Error>> {
    let mut inputs = Vec::new();
    let mut put = |target, name: &str, bytes: &[u8]| {
        inputs.push((target, name.to_owned(), bytes.to_vec()));
    };
    let layer = Descriptor::of(media::LAYOUT, b"layout").annotated("key", "value");
    let subject = Descriptor::of(media::MANIFEST, b"{}");
    let artifact = ManifestContent::artifact(media::ACCELERATION, subject, vec![layer]);
    let bytes = artifact.to_bytes();
    put("document", "artifact", &bytes);
    let listed = Descriptor::of(media::MANIFEST, &bytes).with_data(&bytes);
    let other = Descriptor::of(media::MANIFEST, b"other").annotated("key", "value");
    put(
        "document",
        "index",
        &IndexContent::of(vec![listed, other]).to_bytes(),
    );
    put("document", "config", CONFIG.as_bytes());
    let platform = r#"{"schemaVersion":2,"manifests":[{"mediaType":"application/vnd.docker.distribution.manifest.v2+json","digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","size":2,"platform":{"os":"linux","architecture":"arm","variant":"v7"}}]}"#;
    put("document", "platforms", platform.as_bytes());
    Ok(inputs)
}

fn main() -> Result<(), Box<dyn Error>> {
    for (target, name, bytes) in inputs()? {
        fs::create_dir_all(format!("corpus/{target}"))?;
        fs::write(format!("corpus/{target}/{name}"), bytes)?;
    }
    Ok(())
}
