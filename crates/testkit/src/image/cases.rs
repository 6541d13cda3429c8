//! Images that try every rule of merging layers, and what a tar can say.
//!
//! Each is small, has a name, and needs no program in it: they are mounted or unpacked, and the
//! trees compared.

use anyhow::Result;

use super::{Compression, Dialect, Entry, Image, Layer, Layout};
use crate::unpack::{self, Unpacked};

/// An image and what it tries.
#[derive(Clone, Debug)]
pub struct Case {
    /// A name that can stand in a tag.
    pub name: &'static str,
    /// The image.
    pub image: Image,
    judge: Judge,
}

/// Who unpacks a case rightly.
#[derive(Clone, Copy, Debug)]
enum Judge {
    Umoci,
    /// Of single layers in GNU's old sparse format, which tools written in Go refuse.
    GnuTar,
}

impl Case {
    /// Unpacks the case's layout with a tool that is known to do this case rightly.
    ///
    /// # Errors
    /// When the tool fails.
    pub fn unpack(&self, layout: &Layout) -> Result<Unpacked> {
        match self.judge {
            Judge::Umoci => unpack::umoci(layout),
            Judge::GnuTar => unpack::gnu_tar(layout),
        }
    }
}

fn case(name: &'static str, layers: impl IntoIterator<Item = Layer>) -> Case {
    Case {
        name,
        image: Image::new(layers),
        judge: Judge::Umoci,
    }
}

fn dir(path: &str) -> Entry {
    Entry::directory(path)
}

fn file(path: &str, content: &str) -> Entry {
    Entry::file(path, content)
}

/// All cases. Every layer begins with the root directory, so that its attributes are defined.
#[must_use]
pub fn all() -> Vec<Case> {
    let mut cases = vec![
        attributes(),
        names(),
        gnu(),
        gnu_sparse(),
        times_and_ids(),
        sparse(),
        compressions(),
    ];
    cases.extend(whiteouts());
    cases.extend(links());
    cases.extend(replacements());
    cases.extend(contexts());
    cases.push(many_layers());
    cases
}

/// A layer that starts with the root directory.
fn layer(entries: impl IntoIterator<Item = Entry>) -> Layer {
    Layer::new(std::iter::once(dir("./")).chain(entries))
}

/// Bytes that differ at every position, so that a shifted read shows.
fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    (0..length).map(|_| next()).collect()
}

fn attributes() -> Case {
    case(
        "attributes",
        [layer([
            dir("bin").mode(0o1777),
            file("bin/setuid", "s").mode(0o4755).owner(1000, 1001),
            file("bin/setgid", "s").mode(0o2755).owner(0, 5),
            file("bin/none", "").mode(0),
            file("bin/capable", "c").mode(0o755).capability(),
            file("bin/acl", "a").acl(1234),
            file("bin/user", "u").xattr("user.note", "hello"),
            file("bin/long", "l").xattr("user.long", noise(1500, 1)),
            // Attributes that many files share.
            file("bin/shared-1", "1")
                .capability()
                .xattr("user.note", "hello"),
            file("bin/shared-2", "2")
                .capability()
                .xattr("user.note", "hello"),
            dir("bin/directory").xattr("user.note", "on a directory"),
            dir("dev"),
            Entry::char_device("dev/null", 1, 3).mode(0o666),
            Entry::char_device("dev/big", 4095, 1_048_575).mode(0o600),
            Entry::block_device("dev/disk", 254, 300)
                .mode(0o660)
                .owner(0, 6),
            Entry::fifo("dev/pipe").mode(0o622),
            Entry::symlink("dev/stdin", "/proc/self/fd/0").owner(7, 7),
        ])],
    )
}

fn names() -> Case {
    let long = format!("long/{}", "n".repeat(255));
    let deep = (0..60)
        .map(|n| format!("directory-{n:03}"))
        .collect::<Vec<_>>()
        .join("/");
    let mut entries = vec![
        dir("long"),
        file(&long, "a name of 255 bytes"),
        Entry::symlink("long/link", "t".repeat(1000)),
        Entry::hard_link("long/hard", &long),
        Entry::file(b"\xff\xfe-not-utf8", "bytes"),
        Entry::symlink("to-bytes", b"\xff\xfe-not-utf8"),
        file("snow ☃ man", "unicode"),
        file(" spaces \t and\nnewline", "white"),
        file("./dot/./slash//twice", "normalised"),
        file("/absolute", "made relative"),
        file("implicit/parents/of/a/file", "no entries for them"),
        file("a.wh.b", "no whiteout: the mark is not at the start"),
    ];
    // In one directory: enough names for several directory blocks.
    entries.extend((0..1500).map(|n| file(&format!("many/{n:04}-{}", n % 7), "x")));
    let mut path = String::new();
    for part in deep.split('/') {
        path = if path.is_empty() {
            part.into()
        } else {
            format!("{path}/{part}")
        };
        entries.push(dir(&path));
    }
    entries.push(file(&format!("{path}/bottom"), "a path over 780 bytes"));
    case("names", [layer(entries)])
}

fn gnu() -> Case {
    let long = format!("{}/{}", "d".repeat(120), "f".repeat(120));
    let entries = [
        dir(&"d".repeat(120)),
        file(&long, "long name").owner(3_000_000, 4_000_000_000),
        Entry::symlink("link", &long),
        Entry::hard_link("hard", &long),
        file("before-1970", "old").time(-1_000_000, 0),
        // Later than what fits in 33 bits of octal, sooner than 2262, where Go's nanoseconds end.
        file("after-2242", "new").time(9_000_000_000, 0),
    ];
    case("gnu", [layer(entries).dialect(Dialect::Gnu)])
}

fn gnu_sparse() -> Case {
    let pieces = (0..30).map(|n| (n * 10_240, noise(1024, n + 1))).collect();
    let odd = vec![(700, noise(1024, 3)), (5000, noise(512, 4))];
    let entries = [
        Entry::sparse("sparse", 1 << 20, pieces),
        Entry::sparse("odd", 100_000, odd),
        Entry::sparse("all-hole", 64 << 20, vec![]),
        file("behind", "the next header is where it should be"),
    ];
    Case {
        judge: Judge::GnuTar,
        ..case("gnu-sparse", [layer(entries).dialect(Dialect::Gnu)])
    }
}

fn times_and_ids() -> Case {
    case(
        "times-and-ids",
        [layer([
            file("epoch", "e").time(0, 0),
            file("nanoseconds", "n").time(1_700_000_000, 123_456_789),
            file("before-1970", "o").time(-86_400, 250_000_000),
            file("just-before-1970", "o").time(-1, 999_999_999),
            file("after-2106", "f").time(5_000_000_000, 1),
            file("big-ids", "i").owner(4_294_967_294, 4_294_967_294),
            file("ids-over-ustar", "i").owner(2_097_152, 70_000),
            dir("directory").time(1_234_567_890, 42),
            // Written after the directory, and must not change its time.
            file("directory/child", "c"),
        ])],
    )
}

fn sparse() -> Case {
    let aligned = vec![(0, noise(4096, 1)), (1 << 20, noise(8192, 2))];
    // Pieces in odd places, of whole blocks but for the last: where they are not, GNU tar and Go
    // disagree about the bytes that follow.
    let odd = vec![
        (700, noise(1024, 3)),
        (5000, noise(512, 4)),
        (99_999, noise(1, 5)),
    ];
    let many = (0..200).map(|n| (n * 1000, noise(512, n + 10))).collect();
    case(
        "sparse",
        [layer([
            Entry::sparse("aligned", 3 << 20, aligned),
            Entry::sparse("odd", 100_000, odd),
            Entry::sparse("many", 1 << 18, many),
            Entry::sparse("all-hole", 64 << 20, vec![]),
            file("behind", "the next header is where it should be"),
        ])],
    )
}

/// The same kind of content in each compression; sizes around block and page borders.
fn compressions() -> Case {
    let files = |name: &str, seed: u64| {
        let sizes = [0, 1, 511, 512, 513, 4095, 4096, 4097, 65_536, 300_001];
        let entries: Vec<Entry> = sizes
            .iter()
            .map(|size| Entry::file(format!("{name}-{size}"), noise(*size, seed)))
            .chain([file(
                &format!("{name}-text"),
                &"compressible ".repeat(50_000),
            )])
            .collect();
        layer(entries)
    };
    let members = Compression::GzipMembers {
        level: 6,
        member: 100_000,
    };
    case(
        "compressions",
        [
            files("tar", 1).compression(Compression::None),
            files("gzip-1", 2).compression(Compression::Gzip(1)),
            files("gzip-9", 3).compression(Compression::Gzip(9)),
            files("stored", 4).compression(Compression::Gzip(0)),
            files("members", 5).compression(members),
        ],
    )
}

fn whiteouts() -> [Case; 4] {
    let base = || {
        layer([
            dir("a"),
            file("a/gone", "1"),
            file("a/stays", "1"),
            dir("a/tree"),
            file("a/tree/leaf", "1"),
            dir("b").owner(1, 1),
            file("b/old", "1"),
            dir("b/sub"),
            file("b/sub/old", "1"),
        ])
    };
    [
        case(
            "whiteouts",
            [
                base(),
                layer([
                    Entry::whiteout("a/gone"),
                    Entry::whiteout("a/tree"),
                    Entry::whiteout("never"),
                ]),
            ],
        ),
        // Siblings in the same layer stay, whether they come before or behind the mark.
        case(
            "opaque",
            [
                base(),
                layer([
                    dir("b").owner(2, 2),
                    file("b/before", "2"),
                    Entry::opaque("b"),
                    file("b/behind", "2"),
                    dir("b/sub"),
                    file("b/sub/new", "2"),
                ]),
            ],
        ),
        case(
            "whiteout-and-again",
            [
                base(),
                layer([Entry::whiteout("a"), Entry::whiteout("b/old")]),
                layer([dir("a").mode(0o700), file("a/new", "3"), file("b/old", "3")]),
            ],
        ),
        // A whiteout speaks of the layers below, not of its own.
        case(
            "whiteout-same-layer",
            [
                base(),
                layer([
                    file("a/gone", "2"),
                    Entry::whiteout("a/gone"),
                    file("c", "2"),
                ]),
            ],
        ),
    ]
}

fn links() -> [Case; 3] {
    [
        case(
            "links",
            [layer([
                file("one", "shared").owner(3, 4).time(1_600_000_000, 5),
                Entry::hard_link("two", "one"),
                dir("d"),
                Entry::hard_link("d/three", "./one"),
                Entry::symlink("symbolic", "one"),
                Entry::hard_link("hard-to-symbolic", "symbolic"),
                Entry::fifo("pipe"),
                Entry::hard_link("hard-to-pipe", "pipe"),
            ])],
        ),
        case(
            "links-across-layers",
            [
                layer([
                    file("base", "from the first layer"),
                    dir("d"),
                    file("d/x", "x"),
                ]),
                layer([
                    Entry::hard_link("d/link", "base"),
                    Entry::hard_link("again", "d/link"),
                ]),
                // The name goes, the file stays under its other names.
                layer([Entry::whiteout("base"), Entry::hard_link("third", "again")]),
            ],
        ),
        case(
            "link-replaced",
            [
                layer([file("one", "1"), Entry::hard_link("two", "one")]),
                // Only one name of the file is replaced.
                layer([file("one", "a new file")]),
            ],
        ),
    ]
}

fn replacements() -> [Case; 3] {
    [
        case(
            "type-changes",
            [
                layer([
                    file("file-to-directory", "1"),
                    dir("directory-to-file"),
                    file("directory-to-file/child", "1"),
                    file("file-to-symlink", "1"),
                    Entry::symlink("symlink-to-file", "elsewhere"),
                    dir("directory-to-symlink"),
                    file("directory-to-symlink/child", "1"),
                    Entry::fifo("pipe-to-device"),
                ]),
                layer([
                    dir("file-to-directory"),
                    file("file-to-directory/child", "2"),
                    file("directory-to-file", "2"),
                    Entry::symlink("file-to-symlink", "symlink-to-file"),
                    file("symlink-to-file", "2"),
                    Entry::symlink("directory-to-symlink", "file-to-directory"),
                    Entry::char_device("pipe-to-device", 1, 5),
                ]),
            ],
        ),
        case(
            "file-directory-file",
            [
                layer([file("it", "a file")]),
                layer([dir("it"), file("it/child", "inside")]),
                layer([file("it", "a file again")]),
                layer([dir("it").mode(0o750)]),
            ],
        ),
        // A directory that comes again keeps its children and takes the new attributes.
        case(
            "directory-again",
            [
                layer([
                    dir("d").mode(0o700).owner(1, 1).xattr("user.a", "1"),
                    file("d/x", "1"),
                ]),
                layer([
                    dir("d").mode(0o755).owner(2, 2).xattr("user.b", "2"),
                    file("d/y", "2"),
                ]),
            ],
        ),
    ]
}

/// Layers that mean what they do only over those below them.
fn contexts() -> [Case; 4] {
    let base = || {
        layer([
            dir("d")
                .mode(0o700)
                .owner(5, 6)
                .xattr("user.of", "the base"),
            file("d/x", "1"),
            file("d/y", "1"),
            dir("usr"),
            dir("usr/lib"),
            file("usr/lib/old", "1"),
            file("usr/lib/stays", "1"),
            Entry::symlink("lib", "usr/lib"),
        ])
    };
    [
        // Directories that only the paths of their files speak of.
        case(
            "implied-parents",
            [
                base(),
                layer([file("d/new", "2"), Entry::whiteout("d/x")]),
                layer([Entry::whiteout("d/y")]),
            ],
        ),
        case(
            "through-links",
            [
                base(),
                layer([file("lib/new", "2"), file("lib/old", "2")]),
                layer([Entry::hard_link("d/linked", "lib/new")]),
            ],
        ),
        // Whiteouts of what no layer has, where one layer alone has the directory.
        case(
            "nothing-hidden",
            [
                layer([dir("d"), file("d/x", "1"), Entry::whiteout("d/never")]),
                layer([
                    dir("e"),
                    Entry::whiteout("e/never"),
                    Entry::whiteout("never"),
                ]),
            ],
        ),
        case(
            "layer-twice",
            [
                base(),
                layer([]),
                layer([file("d/x", "2"), Entry::whiteout("usr")]),
                layer([]),
                base(),
            ],
        ),
    ]
}

/// 128 layers, each with a file of its own, one that all replace, and one that every other removes.
fn many_layers() -> Case {
    let layers = (0..128).map(|n| {
        let toggled = if n % 2 == 0 {
            file("toggled", &format!("{n}"))
        } else {
            Entry::whiteout("toggled")
        };
        layer([
            file("latest", &format!("layer {n}")),
            Entry::file(format!("of-layer-{n:03}"), noise(700 + n, n as u64)),
            toggled,
        ])
    });
    case("many-layers", layers)
}
