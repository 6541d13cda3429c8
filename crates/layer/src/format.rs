//! Which format a layer's blob has.
//!
//! The media type is a claim, the first bytes are a fact: Docker calls its layers gzip and some
//! tools push zstd or plain tars under that name. So the magic decides; the media type is asked
//! only for what no magic shows: encryption, and layers that are not to be distributed.

/// How many first bytes of a blob [`detect`] wants to see. A shorter blob is given whole.
pub const HEAD_BYTES: usize = 512;

/// How a layer's blob is packed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Packing {
    /// The tar itself.
    Tar,
    /// A gzip stream of one or several members.
    Gzip,
    /// zstd frames. There are no seek tables for them.
    Zstd,
}

/// Why a layer cannot be read.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum Unsupported {
    /// A compression that is not known here.
    #[error("layers compressed with {0} are not supported")]
    Compression(&'static str),
    /// Encrypted (media type ending in `+encrypted`).
    #[error("the layer is encrypted ({0})")]
    Encrypted(String),
    /// Nondistributable or foreign: its bytes are not in the registry.
    #[error("the layer is not distributable, its bytes are not in the registry ({0})")]
    Foreign(String),
    /// Not a layer's media type.
    #[error("{0:?} is not the media type of a layer")]
    MediaType(String),
    /// Neither a tar nor anything else that is known, whatever the media type says.
    #[error("the layer is neither a tar nor gzip (media type {0:?})")]
    Content(String),
}

/// Media types of layers, without their compression suffixes.
const LAYERS: [&str; 2] = [
    "application/vnd.oci.image.layer.v1.tar",
    "application/vnd.docker.image.rootfs.diff.tar",
];
/// The same for layers that a registry does not hold.
const FOREIGN: [&str; 2] = [
    "application/vnd.oci.image.layer.nondistributable.v1.tar",
    "application/vnd.docker.image.rootfs.foreign.diff.tar",
];
/// Magic bytes of compressions that are not known here.
const OTHERS: [(&[u8], &str); 4] = [
    (b"BZh", "bzip2"),
    (&[0xfd, b'7', b'z', b'X', b'Z', 0], "xz"),
    (&[0x04, 0x22, 0x4d, 0x18], "lz4"),
    (&[0x5d, 0, 0], "lzma"),
];

/// Says which format the blob has whose media type is `media_type` and whose first
/// [`HEAD_BYTES`] bytes (or all, if it has fewer) are `head`.
///
/// # Errors
/// [`Unsupported`], naming what it is.
pub fn detect(media_type: &str, head: &[u8]) -> Result<Packing, Unsupported> {
    let shown = || media_type.chars().take(96).collect::<String>();
    if media_type.ends_with("+encrypted") {
        return Err(Unsupported::Encrypted(shown()));
    }
    let of = |types: &[&str]| types.iter().any(|base| suffixed(media_type, base));
    if of(&FOREIGN) {
        return Err(Unsupported::Foreign(shown()));
    }
    if !of(&LAYERS) {
        return Err(Unsupported::MediaType(shown()));
    }
    if head.starts_with(&[0x1f, 0x8b]) {
        return Ok(Packing::Gzip);
    }
    let skippable = matches!(head, [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..]);
    if skippable || head.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
        return Ok(Packing::Zstd);
    }
    if crate::tar::is_tar(head) {
        return Ok(Packing::Tar);
    }
    match OTHERS.iter().find(|(magic, _)| head.starts_with(magic)) {
        Some((_, name)) => Err(Unsupported::Compression(name)),
        None => Err(Unsupported::Content(shown())),
    }
}

/// Whether `media_type` is `base`, alone or with a compression suffix: `+gzip` (OCI), `.gzip`
/// (Docker), `+zstd`, `.zstd`.
fn suffixed(media_type: &str, base: &str) -> bool {
    match media_type.strip_prefix(base) {
        Some(rest) => matches!(rest, "" | "+gzip" | ".gzip" | "+zstd" | ".zstd"),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OCI: &str = "application/vnd.oci.image.layer.v1.tar";
    const DOCKER: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";

    #[test]
    fn magic_decides() {
        let gzip = [0x1f, 0x8b, 8, 0];
        let zstd = [0x28, 0xb5, 0x2f, 0xfd, 0];
        let tar = [0; 1024];
        for media_type in [OCI, DOCKER, &format!("{OCI}+gzip"), &format!("{OCI}+zstd")] {
            assert_eq!(detect(media_type, &gzip), Ok(Packing::Gzip));
            assert_eq!(detect(media_type, &tar), Ok(Packing::Tar));
            assert_eq!(detect(media_type, &zstd), Ok(Packing::Zstd));
            let skippable = [0x57, 0x2a, 0x4d, 0x18, 0];
            assert_eq!(detect(media_type, &skippable), Ok(Packing::Zstd));
        }
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        let head = [0x1f, 0x8b, 8, 0];
        let message = |media_type: &str| detect(media_type, &head).unwrap_err().to_string();
        assert!(message(&format!("{OCI}+gzip+encrypted")).contains("encrypted"));
        let foreign = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip";
        assert!(message(foreign).contains("not distributable"));
        let nondistributable = "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd";
        assert!(message(nondistributable).contains("not distributable"));
        assert!(message("application/json").contains("not the media type"));
        assert!(message(&format!("{OCI}+brotli")).contains("not the media type"));
        let xz = detect(OCI, b"\xfd7zXZ\0rest").unwrap_err().to_string();
        assert!(xz.contains("xz"));
        assert_eq!(
            detect(OCI, b"hello").unwrap_err(),
            Unsupported::Content(OCI.into())
        );
    }

    #[test]
    fn an_empty_blob_is_an_empty_tar() {
        assert_eq!(detect(OCI, b""), Ok(Packing::Tar));
    }
}
