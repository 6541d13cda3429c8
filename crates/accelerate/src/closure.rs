//! What a start reads for certain, found without starting anything.
//!
//! The program, the interpreter that its first line or its ELF header names, and the libraries
//! that those need, found where the dynamic linker would look. It is a guess, and a cheap one: of
//! what the program then reads itself it knows nothing. It makes no start wrong.
//!
//! Everything looked at is an image's, hence hostile. What is malformed is passed over; files,
//! depth and bytes are bounded by [`MAX_FILES`], [`MAX_SCRIPTS`] and [`MAX_BYTES`], the names that are
//! looked up by [`MAX_STEPS`].

mod elf;
mod files;
#[cfg(test)]
mod tests;

use std::collections::{HashSet, VecDeque};
use std::io;

use thaw_erofs::InodeId;
use thaw_image::{DiffId, Extent};

use elf::{Elf, Kind};
pub use files::{ReadTar, Root};

/// Bytes of a page.
const PAGE: u64 = 4096;
/// Most files in a closure.
pub const MAX_FILES: usize = 512;
/// Most bytes in a closure.
pub const MAX_BYTES: u64 = 64 << 20;
/// Most scripts that interpret each other (Linux gives up after as many).
const MAX_SCRIPTS: usize = 5;
/// Most bytes taken of one file; of one that is no ELF file.
const MAX_FILE: u64 = 32 << 20;
const MAX_PLAIN: u64 = 1 << 20;
/// Most bytes of the first line of a script (Linux).
const MAX_LINE: u64 = 256;
/// Most words of a command that are looked at.
const MAX_WORDS: usize = 16;
/// Most headers that are read: also those of files that are then passed over.
const MAX_LOOKS: usize = 4 * MAX_FILES;
/// Most path components that are looked up, all files together. As many files as there may be that need
/// ten libraries each, and find them six names deep in the last of ten directories, take a third of it.
const MAX_STEPS: u64 = 1 << 20;
/// Most directories in which a program or a library is looked for.
const MAX_DIRECTORIES: usize = 64;
/// Where the dynamic linkers of glibc and musl look at last.
const LIBRARY_PATH: [&str; 5] = ["/lib64", "/usr/lib64", "/lib", "/usr/lib", "/usr/local/lib"];
/// Where programs are when the environment does not say.
const PROGRAM_PATH: &[u8] = b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// How a container starts.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Start {
    /// Entrypoint and command, one word after the other.
    pub command: Vec<Vec<u8>>,
    /// `PATH` of its environment.
    pub path: Option<Vec<u8>>,
    /// `LD_LIBRARY_PATH` of its environment.
    pub library_path: Option<Vec<u8>>,
    /// Its working directory.
    pub directory: Vec<u8>,
}

/// The parts of the layers that `start` reads before the program itself says more, in the order
/// in which they are read: a trace that can be packed. Later words of the command that name files
/// count too, since a first one often runs the next.
///
/// # Errors
/// What [`Root::read`] says.
pub fn static_set(root: &Root<'_>, start: &Start) -> io::Result<Vec<(DiffId, Extent)>> {
    let mut closure = Closure::new(root, start);
    closure.find()?;
    Ok(closure.trace)
}

/// [`static_set`] of a layout whose devices are `layers`, widened to whole pages of the tars: a
/// kernel reads a tar by pages, of which a file rarely begins one.
///
/// # Errors
/// [`io::ErrorKind::InvalidData`] where it is no layout; what [`Root::read`] says.
pub fn of_layout(
    layout: &[u8],
    layers: &[DiffId],
    read: ReadTar<'_>,
    start: &Start,
) -> io::Result<Vec<(DiffId, Extent)>> {
    let invalid = |error| io::Error::new(io::ErrorKind::InvalidData, error);
    let image = thaw_erofs::Image::open(layout).map_err(invalid)?;
    let tree = &image.to_tree().map_err(invalid)?;
    let trace = static_set(&Root { tree, layers, read }, start)?;
    let pages = |extent: Extent| {
        let end = extent.end().next_multiple_of(PAGE);
        Extent::between(extent.offset / PAGE * PAGE, end)
    };
    let widened = trace.into_iter().map(|(layer, part)| (layer, pages(part)));
    Ok(widened.collect())
}

/// An object whose libraries are to be found.
struct Object {
    path: Vec<u8>,
    elf: Elf,
}

struct Closure<'a> {
    root: &'a Root<'a>,
    start: &'a Start,
    seen: HashSet<InodeId>,
    queue: VecDeque<Object>,
    trace: Vec<(DiffId, Extent)>,
    bytes: u64,
    looks: usize,
    /// Of [`MAX_STEPS`], what is left.
    steps: u64,
}

impl<'a> Closure<'a> {
    fn new(root: &'a Root<'a>, start: &'a Start) -> Self {
        Self {
            root,
            start,
            seen: HashSet::new(),
            queue: VecDeque::new(),
            trace: Vec::new(),
            bytes: 0,
            looks: 0,
            steps: MAX_STEPS,
        }
    }

    fn find(&mut self) -> io::Result<()> {
        for word in self.start.command.iter().take(MAX_WORDS) {
            if let Some((path, id)) = self.program(word) {
                self.run(&path, id, 0)?;
            }
            self.load()?;
        }
        Ok(())
    }

    /// The regular file that a path leads to, if there are steps left to find it.
    fn file(&mut self, path: &[u8]) -> Option<InodeId> {
        self.root.file(path, &mut self.steps)
    }

    /// The file that a word of a command names, as execvp(3) finds it.
    fn program(&mut self, word: &[u8]) -> Option<(Vec<u8>, InodeId)> {
        let (root, start) = (self.root, self.start);
        let mut find = |path: Vec<u8>| self.file(&path).map(|id| (path, id));
        if word.is_empty() || word.starts_with(b"-") {
            return None;
        }
        if word.contains(&b'/') {
            return find(join(&start.directory, word));
        }
        let path = start.path.as_deref().unwrap_or(PROGRAM_PATH);
        path.split(|byte| *byte == b':')
            .take(MAX_DIRECTORIES)
            .filter_map(|directory| find(join(directory, word)))
            .find(|(_, id)| root.is_executable(*id))
    }

    /// Takes a program, and what its first line or its header says must run it.
    fn run(&mut self, path: &[u8], id: InodeId, scripts: usize) -> io::Result<()> {
        let line = self.root.read(
            id,
            Extent {
                offset: 0,
                len: MAX_LINE,
            },
        )?;
        let Some(line) = line.strip_prefix(b"#!") else {
            return self.object(path, id, None);
        };
        self.take(
            id,
            Extent {
                offset: 0,
                len: MAX_PLAIN,
            },
        );
        let line = line.split(|byte| *byte == b'\n').next().unwrap_or_default();
        let mut words = line
            .split(u8::is_ascii_whitespace)
            .filter(|word| !word.is_empty());
        let Some((interpreter, id)) = words.next().and_then(|word| self.program(word)) else {
            return Ok(());
        };
        if scripts >= MAX_SCRIPTS {
            return Ok(());
        }
        self.run(&interpreter, id, scripts + 1)?;
        // env(1) runs the first word that is neither an option nor an assignment.
        let is_program = |word: &&[u8]| !word.starts_with(b"-") && !word.contains(&b'=');
        if interpreter.ends_with(b"/env")
            && let Some((path, id)) = words.find(is_program).and_then(|word| self.program(word))
        {
            self.run(&path, id, scripts + 1)?;
        }
        Ok(())
    }

    /// Takes an ELF file of the right kind, and notes what it needs; a file of no kind is taken
    /// only where none is asked for.
    fn object(&mut self, path: &[u8], id: InodeId, kind: Option<Kind>) -> io::Result<()> {
        if self.seen.contains(&id) || self.is_full() {
            return Ok(());
        }
        self.looks += 1;
        let file = |offset, len| self.root.read(id, Extent { offset, len });
        match elf::read(&file)? {
            Some(elf) if kind.is_none_or(|kind| kind == elf.kind) => {
                self.seen.insert(id);
                for segment in elf.segments.clone() {
                    self.add(
                        id,
                        segment.intersect(&Extent {
                            offset: 0,
                            len: MAX_FILE,
                        }),
                    );
                }
                if let Some(interpreter) = &elf.interpreter {
                    let path = join(b"/", interpreter);
                    if let Some(id) = self.file(&path) {
                        self.object(&path, id, Some(elf.kind))?;
                    }
                    if let Some(cache) = self.file(b"/etc/ld.so.cache") {
                        self.take(
                            cache,
                            Extent {
                                offset: 0,
                                len: MAX_PLAIN,
                            },
                        );
                    }
                }
                self.queue.push_back(Object {
                    path: path.to_vec(),
                    elf,
                });
            }
            None if kind.is_none() => self.take(
                id,
                Extent {
                    offset: 0,
                    len: MAX_PLAIN,
                },
            ),
            _ => {}
        }
        Ok(())
    }

    /// Finds the libraries of all objects, breadth first as the dynamic linker does.
    fn load(&mut self) -> io::Result<()> {
        while let Some(object) = self.queue.pop_front() {
            let directories = self.directories(&object);
            for name in &object.elf.needed {
                if self.is_full() {
                    return Ok(());
                }
                let paths = match name.contains(&b'/') {
                    true => vec![join(&self.start.directory, name)],
                    false => directories
                        .iter()
                        .map(|directory| join(directory, name))
                        .collect(),
                };
                for path in paths {
                    let Some(id) = self.file(&path) else {
                        continue;
                    };
                    self.object(&path, id, Some(object.elf.kind))?;
                    // One of another machine is passed over, as the dynamic linker does.
                    if self.seen.contains(&id) || self.is_full() {
                        break;
                    }
                }
            }
        }
        Ok(())
    }

    /// Where the libraries of an object are looked for (ld.so(8)), without the linker's cache:
    /// its directories are those of the machine.
    fn directories(&self, object: &Object) -> Vec<Vec<u8>> {
        let origin = object.path.iter().rposition(|byte| *byte == b'/');
        let origin = &object.path[..origin.unwrap_or(0)];
        let elf = &object.elf;
        // The older path is not looked at where there is a newer one.
        let rpath = elf.rpath.as_ref().filter(|_| elf.runpath.is_none());
        let given = [
            rpath,
            self.start.library_path.as_ref(),
            elf.runpath.as_ref(),
        ];
        let given = given
            .into_iter()
            .flatten()
            .flat_map(|path| path.split(|byte| *byte == b':'))
            .take(MAX_DIRECTORIES);
        let machine = triple(elf.kind.machine)
            .into_iter()
            .flat_map(|triple| [format!("/lib/{triple}"), format!("/usr/lib/{triple}")]);
        given
            .filter_map(|directory| expand(directory, origin))
            .chain(machine.map(String::into_bytes))
            .take(MAX_DIRECTORIES)
            .chain(LIBRARY_PATH.map(|directory| directory.as_bytes().to_vec()))
            .collect()
    }

    /// Takes a range of a file that was not taken before.
    fn take(&mut self, id: InodeId, range: Extent) {
        if !self.is_full() && self.seen.insert(id) {
            self.add(id, range);
        }
    }

    fn add(&mut self, id: InodeId, range: Extent) {
        for (_, layer, tar) in self.root.places(id, range) {
            let len = tar.len.min(MAX_BYTES.saturating_sub(self.bytes));
            if len > 0 {
                self.bytes += len;
                self.trace.push((layer, Extent { len, ..tar }));
            }
        }
    }

    fn is_full(&self) -> bool {
        let most = self.seen.len() >= MAX_FILES || self.looks >= MAX_LOOKS;
        most || self.bytes >= MAX_BYTES || self.steps == 0
    }
}

/// A path in a directory; an absolute one is itself.
fn join(directory: &[u8], path: &[u8]) -> Vec<u8> {
    if path.starts_with(b"/") {
        return path.to_vec();
    }
    [directory, b"/", path].concat()
}

/// A directory of a library path, the object's own put in; none where it is not known here.
fn expand(directory: &[u8], origin: &[u8]) -> Option<Vec<u8>> {
    let rest = directory
        .strip_prefix(b"$ORIGIN")
        .or_else(|| directory.strip_prefix(b"${ORIGIN}"));
    match rest {
        Some(rest) => Some([origin, rest].concat()),
        None if directory.is_empty() || directory.contains(&b'$') => None,
        None => Some(directory.to_vec()),
    }
}

/// The directory in which Debian has the libraries of a machine (by `e_machine`).
fn triple(machine: u16) -> Option<&'static str> {
    Some(match machine {
        3 => "i386-linux-gnu",
        21 => "powerpc64le-linux-gnu",
        22 => "s390x-linux-gnu",
        40 => "arm-linux-gnueabihf",
        62 => "x86_64-linux-gnu",
        183 => "aarch64-linux-gnu",
        243 => "riscv64-linux-gnu",
        _ => return None,
    })
}
