//! Writes what the fuzzers begin with into `corpus/`: what the writers of the crate write, and what
//! others do.

use std::error::Error;
use std::fs;

use thaw_image::media;
use thaw_registry::{Descriptor, IndexContent, ManifestContent};

/// An input, after the names of its target and its own.
type Input = (&'static str, String, Vec<u8>);

const CONFIG: &str = r#"{"architecture":"amd64","os":"linux","created":"2024-01-02T03:04:05Z","config":{"User":"33","Env":["PATH=/bin"],"Entrypoint":["/app"],"Cmd":["x"],"WorkingDir":"/srv","Labels":{"a":"b"},"ExposedPorts":{"80/tcp":{}},"Volumes":{"/data":{}}},"rootfs":{"type":"layers","diff_ids":["sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"]},"history":[{"created_by":"x","empty_layer":true}]}"#;

/// Answers as registries, token servers and blob stores give them: of head and body what is read.
const ANSWERS: [(&str, &str); 13] = [
    (
        "bearer",
        "WWW-Authenticate: Bearer realm=\"https://auth.docker.io/token\",service=\"registry.docker.io\",scope=\"repository:library/debian:pull\"\n\n{\"errors\":[{\"code\":\"UNAUTHORIZED\",\"message\":\"authentication required\",\"detail\":[{\"Type\":\"repository\"}]}]}",
    ),
    (
        "both",
        "www-authenticate: Basic realm=\"x\"\nwww-authenticate: BEARER realm=http://127.0.0.1:5001/auth, service=\"a\\\"b\\\\c\"\n\nunauthorized",
    ),
    ("basic", "www-authenticate: Basic\n\n"),
    (
        "token",
        "content-type: application/json\n\n{\"token\":\"eyJ.a-b_c.d\",\"access_token\":\"x\",\"expires_in\":300,\"issued_at\":\"2024-01-02T03:04:05Z\"}",
    ),
    (
        "access-token",
        "\n{\"access_token\":\"t\",\"expires_in\":18446744073709551615,\"refresh_token\":\"r\"}",
    ),
    (
        "range",
        "content-length: 512\ncontent-range: bytes 1024-1535/18446744073709551615\n\n",
    ),
    (
        "page",
        "link: </v2/team/app/tags/list?last=v1&n=100>; rel=\"next\"\n\n{\"tags\":[]}",
    ),
    (
        "redirect",
        "location: https://blobs.example:8443/a/../b?sig=%2F%20&se=1\n\n",
    ),
    (
        "unencrypted",
        "location: http://registry.example/v2/team/app/blobs/x\n\n",
    ),
    ("unencrypted-relative", "Location: HTTP:blobs/x\n\n"),
    ("relative", "location: ../blobs/uploads/1?state=x#y\n\n"),
    (
        "busy",
        "retry-after: Sun, 06 Nov 1994 08:51:07 GMT\ndate: Sun, 06 Nov 1994 08:49:37 GMT\n\n<html>slow down</html>",
    ),
    ("seconds", "Retry-After: 120\n\n\u{1}\u{1b}[2J"),
];

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
    for (name, answer) in ANSWERS {
        put("headers", name, answer.as_bytes());
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
