//! Carries packets between two TUN devices, each at its time.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tun_rs::SyncDevice;

use super::Shape;

/// A packet of 64 KiB and the header that the kernel puts before it.
const MAX_PACKET: usize = 65_536 + VNET_HEADER;
/// `struct virtio_net_hdr`: flags, kind of segmentation, bytes of headers, bytes of a segment, …
const VNET_HEADER: usize = 10;
/// Preamble, Ethernet header, checksum and gap of each frame.
const FRAME_OVERHEAD: usize = 38;
const LOOK_UP: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 50_000_000,
};

pub(super) struct Relay {
    stop: Arc<AtomicBool>,
    cut: Arc<AtomicBool>,
    received: Arc<AtomicU64>,
    sent: Arc<AtomicU64>,
    threads: Vec<JoinHandle<()>>,
}

impl Relay {
    pub(super) fn start(near: Arc<SyncDevice>, far: Arc<SyncDevice>, shape: Shape) -> Result<Self> {
        let mut relay = Self {
            stop: Arc::default(),
            cut: Arc::default(),
            received: Arc::default(),
            sent: Arc::default(),
            threads: Vec::new(),
        };
        let (sent, received) = (relay.sent.clone(), relay.received.clone());
        relay.direction(near.clone(), far.clone(), shape, sent)?;
        relay.direction(far, near, shape, received)?;
        Ok(relay)
    }

    pub(super) fn cut(&self, cut: bool) {
        self.cut.store(cut, Ordering::Relaxed);
    }

    pub(super) fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    pub(super) fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    fn direction(
        &mut self,
        from: Arc<SyncDevice>,
        to: Arc<SyncDevice>,
        shape: Shape,
        counter: Arc<AtomicU64>,
    ) -> Result<()> {
        let (sender, receiver) = channel();
        let (stop, cut) = (self.stop.clone(), self.cut.clone());
        self.thread("link-read", move || {
            read(&from, &sender, shape, &counter, &stop, &cut)
        })?;
        self.thread("link-write", move || write(&to, &receiver))
    }

    fn thread(&mut self, name: &str, body: impl FnOnce() + Send + 'static) -> Result<()> {
        let thread = std::thread::Builder::new()
            .name(name.into())
            .spawn(move || {
                // A wire does not wait for a busy processor. On Linux this is of the thread alone.
                let _ = rustix::process::nice(-20);
                body();
            });
        self.threads.push(thread.context("cannot start a thread")?);
        Ok(())
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl fmt::Debug for Relay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Relay({} bytes received, {} sent)",
            self.received(),
            self.sent()
        )
    }
}

/// Reads packets and says when each arrives: once the wire is free, after the time that its bits
/// take, after the delay. While the wire is cut they are lost. Ends when told to, or when the device
/// goes.
fn read(
    device: &SyncDevice,
    out: &Sender<(Instant, Vec<u8>)>,
    shape: Shape,
    counter: &AtomicU64,
    stop: &AtomicBool,
    cut: &AtomicBool,
) {
    let mut buffer = vec![0; MAX_PACKET];
    let mut wire_free = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        let length = match rustix::io::read(device, &mut buffer[..]) {
            Ok(length) => length,
            Err(rustix::io::Errno::AGAIN) => {
                let _ = poll(&mut [PollFd::new(device, PollFlags::IN)], Some(&LOOK_UP));
                continue;
            }
            Err(rustix::io::Errno::INTR) => continue,
            Err(_) => return,
        };
        if cut.load(Ordering::Relaxed) {
            continue;
        }
        let packet = buffer[..length].to_vec();
        let bytes = wire_bytes(&packet);
        counter.fetch_add(bytes, Ordering::Relaxed);
        let bits = Duration::from_nanos(bytes * 8 * 1_000_000_000 / shape.rate);
        wire_free = wire_free.max(Instant::now()) + bits;
        if out.send((wire_free + shape.delay, packet)).is_err() {
            return;
        }
    }
}

fn write(device: &SyncDevice, packets: &Receiver<(Instant, Vec<u8>)>) {
    while let Ok((due, packet)) = packets.recv() {
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        while let Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) =
            rustix::io::write(device, &packet)
        {
            let _ = poll(&mut [PollFd::new(device, PollFlags::OUT)], Some(&LOOK_UP));
        }
    }
}

/// Bytes that a packet takes on the wire, cut into the segments that its header asks for.
fn wire_bytes(packet: &[u8]) -> u64 {
    let field = |at: usize| {
        packet
            .get(at..at + 2)
            .map_or(0, |b| u16::from_le_bytes([b[0], b[1]]))
    };
    let (headers, segment) = (usize::from(field(2)), usize::from(field(4)));
    let length = packet.len().saturating_sub(VNET_HEADER);
    let segmented = packet.get(1).is_some_and(|kind| *kind != 0) && segment > 0;
    if !segmented {
        return (length + FRAME_OVERHEAD) as u64;
    }
    let payload = length.saturating_sub(headers);
    (payload + payload.div_ceil(segment) * (headers + FRAME_OVERHEAD)) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_segment_pays_for_its_headers() {
        let mut packet = vec![0; VNET_HEADER + 52 + 14_480];
        assert_eq!(wire_bytes(&packet), 52 + 14_480 + 38);
        packet[1] = 1;
        packet[2..4].copy_from_slice(&52u16.to_le_bytes());
        packet[4..6].copy_from_slice(&1448u16.to_le_bytes());
        assert_eq!(wire_bytes(&packet), 14_480 + 10 * (52 + 38));
    }
}
