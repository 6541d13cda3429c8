//! Media types and annotation keys: OCI's, Docker's and our own.

/// An OCI image manifest.
pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// An OCI image index.
pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// Docker's image manifest.
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
/// Docker's manifest list.
pub const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
/// The empty JSON object that stands where an artifact needs no configuration.
pub const EMPTY: &str = "application/vnd.oci.empty.v1+json";
/// The content of [`EMPTY`].
pub const EMPTY_CONTENT: &[u8] = b"{}";

/// Artifact type of an acceleration: a manifest whose subject is the image it speaks for.
pub const ACCELERATION: &str = "application/vnd.thaw.acceleration.v1";
/// Artifact type of a working set.
pub const WORKING_SET: &str = "application/vnd.thaw.working-set.v1";
/// The layout, compressed with zstd.
pub const LAYOUT: &str = "application/vnd.thaw.layout.v1.erofs+zstd";
/// A layer's seek table.
pub const SEEK_TABLE: &str = "application/vnd.thaw.seek-table.v1";
/// The checkpoint windows that a seek table refers to.
pub const WINDOWS: &str = "application/vnd.thaw.windows.v1";
/// Bytes that a layout refers to and no layer tar holds aligned: the generated device.
pub const GENERATED: &str = "application/vnd.thaw.generated.v1+zstd";
/// The index of a working set: its runs and frames.
pub const WORKING_SET_INDEX: &str = "application/vnd.thaw.working-set.index.v1";
/// The frames of a working set, one zstd frame behind the other.
pub const WORKING_SET_DATA: &str = "application/vnd.thaw.working-set.data.v1+zstd";

/// Artifact type of a Sigstore bundle as a referrer, and media type of the bundle itself.
pub const SIGSTORE_BUNDLE: &str = "application/vnd.dev.sigstore.bundle.v0.3+json";
/// Artifact type of cosign's signatures as referrers, before there were bundles.
pub const COSIGN_SIGNATURE: &str = "application/vnd.dev.cosign.artifact.sig.v1+json";
/// A payload that cosign signs.
pub const SIMPLE_SIGNING: &str = "application/vnd.dev.cosign.simplesigning.v1+json";

/// On a payload's descriptor: the signature over it, in base64.
pub const ANNOTATION_SIGNATURE: &str = "dev.cosignproject.cosign/signature";
/// On the manifest of a bundle: what is in it.
pub const ANNOTATION_BUNDLE_CONTENT: &str = "dev.sigstore.bundle.content";
/// On the manifest of a bundle: what its statement is about.
pub const ANNOTATION_BUNDLE_PREDICATE: &str = "dev.sigstore.bundle.predicateType";
/// On a seek table or windows descriptor: digest of the layer blob it is for.
pub const ANNOTATION_LAYER: &str = "dev.thaw.layer.digest";
/// On a seek table descriptor: the layer's diffID.
pub const ANNOTATION_DIFF_ID: &str = "dev.thaw.layer.diff-id";
/// On a seek table descriptor: bytes of the layer's tar, in decimal.
pub const ANNOTATION_TAR_SIZE: &str = "dev.thaw.layer.tar-size";
/// On a working set's manifest: the profile's name.
pub const ANNOTATION_PROFILE: &str = "dev.thaw.profile";
/// On a working set's manifest: how it came about. Without it, it was recorded.
pub const ANNOTATION_ORIGIN: &str = "dev.thaw.origin";
/// The origin of a working set that was guessed from the image, without a start.
pub const ORIGIN_STATIC: &str = "static";
/// On a layout or generated device descriptor: its bytes when unpacked, in decimal.
pub const ANNOTATION_UNPACKED_SIZE: &str = "dev.thaw.unpacked.size";
/// On a layout or generated device descriptor: digest of the unpacked bytes.
pub const ANNOTATION_UNPACKED_DIGEST: &str = "dev.thaw.unpacked.digest";
