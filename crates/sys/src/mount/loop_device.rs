//! Loop devices (loop(4)): how a kernel before 6.12 mounts an image that is a file.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

// include/uapi/linux/loop.h
const LOOP_CTL_GET_FREE: libc::Ioctl = 0x4c82;
const LOOP_CONFIGURE: libc::Ioctl = 0x4c0a;
const LO_FLAGS_READ_ONLY: u32 = 1;
const LO_FLAGS_AUTOCLEAR: u32 = 4;
const LO_FLAGS_DIRECT_IO: u32 = 16;
// include/uapi/linux/magic.h
const FUSE_SUPER_MAGIC: u64 = 0x6573_5546;

/// The device's block size: that of a layout.
const BLOCK_SIZE: u32 = 512;
/// Tries for a free device, when others take theirs at the same time.
const TRIES: usize = 64;

/// `struct loop_info64`.
#[repr(C)]
struct LoopInfo {
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    sizelimit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [u8; 64],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}

/// `struct loop_config`.
#[repr(C)]
struct LoopConfig {
    fd: u32,
    block_size: u32,
    info: LoopInfo,
    reserved: [u64; 8],
}

/// A loop device, which vanishes when this and the mount over it are gone.
#[derive(Debug)]
pub(super) struct LoopDevice {
    path: PathBuf,
    _held: File,
}

impl LoopDevice {
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

/// Whether a loop device can be written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Access {
    ReadOnly,
    ReadWrite,
}

/// Makes a loop device of `file`.
pub(super) fn attach(file: &Path, access: Access) -> io::Result<LoopDevice> {
    let writable = access == Access::ReadWrite;
    let open = |path: &Path| OpenOptions::new().read(true).write(writable).open(path);
    let backing = open(file)?;
    let control = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/loop-control")?;
    for _ in 0..TRIES {
        // SAFETY: takes no argument and touches no memory of ours.
        let number = unsafe { libc::ioctl(control.as_raw_fd(), LOOP_CTL_GET_FREE) };
        if number < 0 {
            return Err(io::Error::last_os_error());
        }
        let path = PathBuf::from(format!("/dev/loop{number}"));
        let device = open(&path)?;
        match configure(&device, &backing, access) {
            Ok(()) => {
                return Ok(LoopDevice {
                    path,
                    _held: device,
                });
            }
            // Somebody else was quicker.
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::ErrorKind::ResourceBusy.into())
}

/// Buffered reads of a loop device come one after the other, which is too slow where each may wait
/// for a server. Files on disks are better buffered: their bytes have often just been written.
fn flags_for(backing: &File, access: Access) -> io::Result<u32> {
    let filesystem = rustix::fs::fstatfs(backing)?;
    let direct = match u64::try_from(filesystem.f_type) {
        Ok(FUSE_SUPER_MAGIC) => LO_FLAGS_DIRECT_IO,
        _ => 0,
    };
    let read_only = match access {
        Access::ReadOnly => LO_FLAGS_READ_ONLY,
        Access::ReadWrite => 0,
    };
    Ok(read_only | LO_FLAGS_AUTOCLEAR | direct)
}

fn configure(device: &File, backing: &File, access: Access) -> io::Result<()> {
    let config = LoopConfig {
        fd: backing.as_raw_fd().cast_unsigned(),
        block_size: BLOCK_SIZE,
        info: LoopInfo {
            device: 0,
            inode: 0,
            rdevice: 0,
            offset: 0,
            sizelimit: 0,
            number: 0,
            encrypt_type: 0,
            encrypt_key_size: 0,
            flags: flags_for(backing, access)?,
            file_name: [0; 64],
            crypt_name: [0; 64],
            encrypt_key: [0; 32],
            init: [0; 2],
        },
        reserved: [0; 8],
    };
    // SAFETY: the request reads one `struct loop_config`, which lives until the call returns.
    let done = unsafe { libc::ioctl(device.as_raw_fd(), LOOP_CONFIGURE, &raw const config) };
    if done < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    #[test]
    fn the_kernels_structures_have_their_sizes() {
        assert_eq!(size_of::<LoopInfo>(), 232);
        assert_eq!(size_of::<LoopConfig>(), 304);
    }

    #[test]
    fn a_file_is_read_through_its_device() {
        let mut file = tempfile::NamedTempFile::new_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        file.write_all(&[7; 1024]).unwrap();
        file.flush().unwrap();
        let device = attach(file.path(), Access::ReadOnly).unwrap();
        let mut bytes = Vec::new();
        File::open(device.path())
            .unwrap()
            .read_to_end(&mut bytes)
            .unwrap();
        assert_eq!(bytes, [7; 1024]);
    }
}
