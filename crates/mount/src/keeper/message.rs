//! What daemon and keeper say to each other: one message per packet.

use std::time::Duration;

use thaw_image::{DiffId, Extent};

use super::wire::{MAX_MESSAGE, Reader, Writer};
use crate::{Denial, FaultCounters, LayerSpec, MountError, TransportKind};

/// Most layers in one message.
pub(crate) const MAX_LAYERS: usize = 1024;
/// Most entries in one page of a trace.
pub(crate) const PAGE_ENTRIES: usize = 1024;
const PAGE_ENTRY_BYTES: usize = 32;
const _: () = assert!(PAGE_ENTRIES * PAGE_ENTRY_BYTES + 64 < MAX_MESSAGE);
const _: () = assert!(MAX_LAYERS * 32 + 64 < MAX_MESSAGE);

/// Names a question and its reply.
pub(crate) type Request = u64;

/// From the daemon.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Command {
    /// The first message to a new keeper; carries the source.
    Hello {
        version: u64,
        fault_timeout: Duration,
        idle_timeout: Duration,
        socket: std::path::PathBuf,
        kind: TransportKind,
        devices: std::path::PathBuf,
    },
    /// Serve this layer; carries its tar, opened before the mark.
    Register { request: Request, spec: LayerSpec },
    /// All layers are registered: begin to read events, or go on. From now on a reader waits for as long.
    Serve { fault_timeout: Duration },
    /// Let this layer go.
    Release { request: Request, layer: DiffId },
    /// What became of a miss.
    Answer {
        miss: u64,
        outcome: Result<(), Denial>,
    },
    /// Forget the traces of these layers.
    StartTrace {
        request: Request,
        layers: Vec<DiffId>,
    },
    /// The trace of a layer, from this entry on.
    Trace {
        request: Request,
        layer: DiffId,
        from: u64,
    },
    /// The counters.
    Counters { request: Request },
    /// End.
    ShutDown { request: Request },
    /// Say when every read that was let through until now has its bytes.
    Fence { request: Request },
}

impl Command {
    pub(crate) fn encode(&self) -> Vec<u8> {
        match self {
            Self::Hello {
                version,
                fault_timeout,
                idle_timeout,
                socket,
                kind,
                devices,
            } => Writer::new(1)
                .number(*version)
                .number(micros(*fault_timeout))
                .number(micros(*idle_timeout))
                .path(socket)
                .number(number_of(*kind))
                .path(devices),
            Self::Register { request, spec } => put_spec(Writer::new(2).number(*request), spec),
            Self::Serve { fault_timeout } => Writer::new(3).number(micros(*fault_timeout)),
            Self::Release { request, layer } => Writer::new(4).number(*request).layer(layer),
            Self::Answer { miss, outcome } => {
                let errno = outcome.err().map_or(0, Denial::errno);
                Writer::new(5)
                    .number(*miss)
                    .number(u64::from(errno.unsigned_abs()))
            }
            Self::StartTrace { request, layers } => {
                let writer = Writer::new(6).number(*request);
                layers.iter().fold(writer, Writer::layer)
            }
            Self::Trace {
                request,
                layer,
                from,
            } => Writer::new(7).number(*request).layer(layer).number(*from),
            Self::Counters { request } => Writer::new(8).number(*request),
            Self::ShutDown { request } => Writer::new(9).number(*request),
            Self::Fence { request } => Writer::new(10).number(*request),
        }
        .finish()
    }

    pub(crate) fn decode(message: &[u8]) -> Result<Self, MountError> {
        let (kind, mut reader) = Reader::new(message)?;
        let command = match kind {
            1 => Self::Hello {
                version: reader.number()?,
                fault_timeout: Duration::from_micros(reader.number()?),
                idle_timeout: Duration::from_micros(reader.number()?),
                socket: reader.path()?,
                kind: take_kind(&mut reader)?,
                devices: reader.path()?,
            },
            2 => Self::Register {
                request: reader.number()?,
                spec: take_spec(&mut reader)?,
            },
            3 => Self::Serve {
                fault_timeout: Duration::from_micros(reader.number()?),
            },
            4 => Self::Release {
                request: reader.number()?,
                layer: reader.layer()?,
            },
            5 => Self::Answer {
                miss: reader.number()?,
                outcome: take_outcome(&mut reader)?,
            },
            6 => Self::StartTrace {
                request: reader.number()?,
                layers: take_layers(&mut reader)?,
            },
            7 => Self::Trace {
                request: reader.number()?,
                layer: reader.layer()?,
                from: reader.number()?,
            },
            8 => Self::Counters {
                request: reader.number()?,
            },
            9 => Self::ShutDown {
                request: reader.number()?,
            },
            10 => Self::Fence {
                request: reader.number()?,
            },
            _ => return Err(MountError::Protocol("unknown command")),
        };
        reader.end()?;
        Ok(command)
    }
}

/// From the keeper.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Notice {
    /// The first message to a new daemon; carries the group.
    Welcome { version: u64, kind: TransportKind },
    /// There is a daemon already.
    Busy,
    /// A layer that is served; carries its tar.
    Layer(LayerSpec),
    /// All layers were told that the keeper knows; whether there may be more that a dead daemon did not tell it.
    Ready { incomplete: bool },
    /// A reader waits.
    Miss {
        miss: u64,
        layer: DiffId,
        extent: Extent,
        remaining: Duration,
    },
    /// The reply to a question.
    Reply { request: Request, reply: Reply },
}

/// The reply to a question.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Reply {
    Done,
    Refused(String),
    InUse,
    Unknown,
    Whole,
    Trace(TracePage),
    Counters(Box<FaultCounters>),
}

/// Some entries of one layer's trace. Times count from the keeper's start.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct TracePage {
    /// When this trace was started.
    pub(crate) started: Duration,
    /// Entries that were not kept.
    pub(crate) dropped: u64,
    /// Entries that the layer has in all.
    pub(crate) total: u64,
    pub(crate) entries: Vec<Recorded>,
}

/// A first read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Recorded {
    /// Its place in the order over all layers.
    pub(crate) order: u64,
    pub(crate) at: Duration,
    pub(crate) extent: Extent,
}

impl Notice {
    pub(crate) fn encode(&self) -> Vec<u8> {
        match self {
            Self::Welcome { version, kind } => {
                Writer::new(64).number(*version).number(number_of(*kind))
            }
            Self::Busy => Writer::new(65),
            Self::Layer(spec) => put_spec(Writer::new(66), spec),
            Self::Ready { incomplete } => Writer::new(67).number(u64::from(*incomplete)),
            Self::Miss {
                miss,
                layer,
                extent,
                remaining,
            } => Writer::new(68)
                .number(*miss)
                .layer(layer)
                .number(extent.offset)
                .number(extent.len)
                .number(micros(*remaining)),
            Self::Reply { request, reply } => return encode_reply(*request, reply),
        }
        .finish()
    }

    pub(crate) fn decode(message: &[u8]) -> Result<Self, MountError> {
        let (kind, mut reader) = Reader::new(message)?;
        let notice = match kind {
            64 => Self::Welcome {
                version: reader.number()?,
                kind: take_kind(&mut reader)?,
            },
            65 => Self::Busy,
            66 => Self::Layer(take_spec(&mut reader)?),
            67 => Self::Ready {
                incomplete: reader.number()? != 0,
            },
            68 => Self::Miss {
                miss: reader.number()?,
                layer: reader.layer()?,
                extent: take_extent(&mut reader)?,
                remaining: Duration::from_micros(reader.number()?),
            },
            69..=75 => Self::Reply {
                request: reader.number()?,
                reply: decode_reply(kind, &mut reader)?,
            },
            _ => return Err(MountError::Protocol("unknown notice")),
        };
        reader.end()?;
        Ok(notice)
    }
}

fn encode_reply(request: Request, reply: &Reply) -> Vec<u8> {
    match reply {
        Reply::Done => Writer::new(69).number(request),
        Reply::Refused(reason) => Writer::new(70)
            .number(request)
            .text(&reason.as_bytes()[..reason.len().min(1024)]),
        Reply::InUse => Writer::new(71).number(request),
        Reply::Unknown => Writer::new(72).number(request),
        Reply::Whole => Writer::new(73).number(request),
        Reply::Trace(page) => {
            let writer = Writer::new(74)
                .number(request)
                .number(micros(page.started))
                .number(page.dropped)
                .number(page.total);
            page.entries.iter().fold(writer, |writer, entry| {
                writer
                    .number(entry.order)
                    .number(micros(entry.at))
                    .number(entry.extent.offset)
                    .number(entry.extent.len)
            })
        }
        Reply::Counters(counters) => {
            let writer = Writer::new(75).number(request);
            counters.values().into_iter().fold(writer, Writer::number)
        }
    }
    .finish()
}

fn decode_reply(kind: u8, reader: &mut Reader<'_>) -> Result<Reply, MountError> {
    Ok(match kind {
        69 => Reply::Done,
        70 => Reply::Refused(String::from_utf8_lossy(&reader.text()?).into_owned()),
        71 => Reply::InUse,
        72 => Reply::Unknown,
        73 => Reply::Whole,
        74 => Reply::Trace(take_page(reader)?),
        75 => {
            let mut values = [0; FaultCounters::VALUES];
            for value in &mut values {
                *value = reader.number()?;
            }
            Reply::Counters(Box::new(FaultCounters::from_values(values)))
        }
        _ => return Err(MountError::Protocol("unknown reply")),
    })
}

fn take_page(reader: &mut Reader<'_>) -> Result<TracePage, MountError> {
    let mut page = TracePage {
        started: Duration::from_micros(reader.number()?),
        dropped: reader.number()?,
        total: reader.number()?,
        entries: Vec::new(),
    };
    while reader.more() {
        page.entries.push(Recorded {
            order: reader.number()?,
            at: Duration::from_micros(reader.number()?),
            extent: take_extent(reader)?,
        });
    }
    Ok(page)
}

fn number_of(kind: TransportKind) -> u64 {
    match kind {
        TransportKind::Fanotify => 0,
        TransportKind::Fuse => 1,
    }
}

fn take_kind(reader: &mut Reader<'_>) -> Result<TransportKind, MountError> {
    match reader.number()? {
        0 => Ok(TransportKind::Fanotify),
        1 => Ok(TransportKind::Fuse),
        _ => Err(MountError::Protocol("unknown transport")),
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

fn put_spec(writer: Writer, spec: &LayerSpec) -> Writer {
    writer
        .layer(&spec.diff_id)
        .number(spec.size)
        .path(&spec.tar)
        .path(&spec.presence)
}

fn take_spec(reader: &mut Reader<'_>) -> Result<LayerSpec, MountError> {
    Ok(LayerSpec {
        diff_id: reader.layer()?,
        size: reader.number()?,
        tar: reader.path()?,
        presence: reader.path()?,
    })
}

fn take_extent(reader: &mut Reader<'_>) -> Result<Extent, MountError> {
    let (offset, len) = (reader.number()?, reader.number()?);
    Extent::checked(offset, len).ok_or(MountError::Protocol("a range overflows"))
}

fn take_outcome(reader: &mut Reader<'_>) -> Result<Result<(), Denial>, MountError> {
    Ok(match reader.number()? {
        0 => Ok(()),
        errno => Err(Denial::from_errno(i32::try_from(errno).unwrap_or(0))),
    })
}

fn take_layers(reader: &mut Reader<'_>) -> Result<Vec<DiffId>, MountError> {
    let mut layers = Vec::new();
    while reader.more() {
        if layers.len() == MAX_LAYERS {
            return Err(MountError::Protocol("too many layers"));
        }
        layers.push(reader.layer()?);
    }
    Ok(layers)
}

#[cfg(test)]
mod tests {
    use thaw_image::Digest;

    use super::*;

    fn layer() -> DiffId {
        DiffId(Digest::of(b"layer"))
    }

    fn spec() -> LayerSpec {
        LayerSpec {
            diff_id: layer(),
            size: 12345,
            tar: "/a/tar".into(),
            presence: "/a/presence".into(),
        }
    }

    fn commands() -> Vec<Command> {
        let (request, layer) = (7, layer());
        vec![
            Command::Hello {
                version: 1,
                fault_timeout: Duration::from_secs(30),
                idle_timeout: Duration::from_millis(5),
                socket: "/s".into(),
                kind: TransportKind::Fuse,
                devices: "/d".into(),
            },
            Command::Register {
                request,
                spec: spec(),
            },
            Command::Serve {
                fault_timeout: Duration::from_secs(5),
            },
            Command::Release { request, layer },
            Command::Answer {
                miss: 1,
                outcome: Ok(()),
            },
            Command::Answer {
                miss: 1,
                outcome: Err(Denial::NoSpace),
            },
            Command::StartTrace {
                request,
                layers: vec![layer; 3],
            },
            Command::Trace {
                request,
                layer,
                from: 9,
            },
            Command::Counters { request },
            Command::ShutDown { request },
            Command::Fence { request },
        ]
    }

    fn notices() -> Vec<Notice> {
        let extent = Extent {
            offset: 512,
            len: 1024,
        };
        let page = TracePage {
            started: Duration::from_micros(5),
            dropped: 1,
            total: 2,
            entries: vec![
                Recorded {
                    order: 3,
                    at: Duration::from_micros(9),
                    extent,
                };
                PAGE_ENTRIES
            ],
        };
        let replies = [
            Reply::Done,
            Reply::Refused("why".to_owned()),
            Reply::InUse,
            Reply::Unknown,
            Reply::Whole,
            Reply::Trace(page),
            Reply::Counters(Box::default()),
        ];
        let mut notices = vec![
            Notice::Welcome {
                version: 1,
                kind: TransportKind::Fanotify,
            },
            Notice::Busy,
            Notice::Layer(spec()),
            Notice::Ready { incomplete: false },
            Notice::Ready { incomplete: true },
            Notice::Miss {
                miss: 1,
                layer: layer(),
                extent,
                remaining: Duration::from_micros(77),
            },
        ];
        notices.extend(
            replies
                .into_iter()
                .map(|reply| Notice::Reply { request: 4, reply }),
        );
        notices
    }

    #[test]
    fn messages_round_trip() {
        for command in commands() {
            assert_eq!(Command::decode(&command.encode()).unwrap(), command);
        }
        for notice in notices() {
            let bytes = notice.encode();
            assert!(bytes.len() <= MAX_MESSAGE);
            assert_eq!(Notice::decode(&bytes).unwrap(), notice);
        }
    }

    #[test]
    fn cut_and_changed_messages_are_no_panic() {
        let commands = commands().into_iter().map(|command| command.encode());
        let notices = notices().into_iter().map(|notice| notice.encode());
        for bytes in commands.chain(notices) {
            for cut in 0..bytes.len().min(200) {
                let _ = Command::decode(&bytes[..cut]);
                let _ = Notice::decode(&bytes[..cut]);
                let mut changed = bytes.clone();
                changed[cut] ^= 0xff;
                let _ = Command::decode(&changed);
                let _ = Notice::decode(&changed);
            }
        }
    }
}
