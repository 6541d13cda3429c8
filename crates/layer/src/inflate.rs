//! gzip (RFC 1952) and deflate (RFC 1951), in safe Rust, made for seeking.
//!
//! There are good decoders; none of those in safe Rust can stop at a block's boundary, say where
//! it stands to the bit, go on from there later with a window, and tell what of that window was
//! needed. So this one is our own, and the only one that thaw has: the indexer and the decoder of
//! chunks are sure to agree.
//!
//! ```text
//!   Input ──bits──▶ Decoder ──bytes──▶ Output
//!   refilled by       stops at           swapped for an empty one
//!   the caller        a [`Stop`]         by the caller, history kept
//! ```
//!
//! [`Decoder::run`] works until the input runs short, the output is full, or there is a place where
//! a chunk may start: a gzip member, a deflate block, or the first symbol at or after the byte at
//! which the [output pauses](Output::pause_after). It stops only between symbols, so there is no
//! state but the stage, the tables and the bits at hand; and the tables are read again from the
//! block's [header](Decoder::header), which is all that is kept of them.
//!
//! Accepted is what zlib accepts, as gzip(1) frames it: members one behind the other, zeros behind
//! the last. Anything else behind the last member is an error, as it is for Go.

mod block;
mod input;
mod member;
mod output;
mod symbols;
mod table;

pub(crate) use block::MAX_HEADER;
pub(crate) use input::Input;
pub(crate) use output::{Output, WINDOW, Window};
use table::Tables;

/// Why a stream cannot be decoded.
#[derive(Debug, Clone, Copy, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum InflateError {
    /// No gzip member where one must be.
    #[error("not gzip: wrong magic or method")]
    Magic,
    /// A gzip header with reserved flags, a wrong checksum or endless fields.
    #[error("bad gzip header")]
    Header,
    /// The stream ends in the middle.
    #[error("the gzip stream ends too early")]
    Truncated,
    /// Block type 3, which there is not.
    #[error("bad deflate block type")]
    BlockType,
    /// A stored block whose length and its complement do not match.
    #[error("bad length of a stored block")]
    Stored,
    /// Code lengths that make no Huffman code.
    #[error("bad Huffman code")]
    Code,
    /// A code that stands for nothing.
    #[error("bad symbol")]
    Symbol,
    /// A match that begins before the first byte.
    #[error("a match reaches back too far")]
    Distance,
    /// A member's CRC-32 or size differs from its trailer's.
    #[error("the gzip trailer's checksum or size does not match")]
    Trailer,
    /// Something other than a member or zeros behind a member.
    #[error("garbage behind the gzip stream")]
    Garbage,
}

/// Why [`Decoder::run`] stopped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Stop {
    /// It needs more input.
    Input,
    /// It needs more room.
    Output,
    /// At the header of a gzip member.
    Member,
    /// At the header of a deflate block that is not its member's first.
    Block,
    /// Between two symbols of a block, where the output was to pause.
    Symbol,
    /// Behind all that there is.
    End,
}

/// What comes next in the stream.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    FirstMember,
    /// A member, zeros, or the end.
    NextMember,
    Padding,
    Block,
    /// So many bytes of a stored block.
    Stored(usize),
    Symbols,
    Trailer,
}

/// Decodes a gzip stream from its start, or from a checkpoint on.
#[derive(Debug)]
pub(crate) struct Decoder {
    stage: Stage,
    /// The block at hand is its member's last.
    last: bool,
    /// The caller has seen the boundary at which the stream stands.
    offered: bool,
    tables: Box<Tables>,
    header: Vec<u8>,
    /// Of the member at hand; `None` where trailers are not checked.
    crc: Option<crc32fast::Hasher>,
    /// Bytes of the member at hand, modulo 2^32.
    len: u32,
    /// The bit behind the last member's trailer.
    data_end: u64,
}

impl Decoder {
    /// Stands at the first member of a gzip stream. Trailers are checked if `check`.
    pub(crate) fn new(check: bool) -> Self {
        Self {
            stage: Stage::FirstMember,
            last: false,
            offered: false,
            tables: Tables::new(),
            header: Vec::new(),
            crc: check.then(crc32fast::Hasher::new),
            len: 0,
            data_end: 0,
        }
    }

    /// Stands at a block's header, behind `skip` bits of the first byte. Trailers are not checked.
    pub(crate) fn resume(input: &mut Input, skip: u32) -> Self {
        input.refill();
        input.take(skip);
        Self {
            stage: Stage::Block,
            ..Self::new(false)
        }
    }

    /// Stands between two symbols of the block that has this [header](Decoder::header), behind
    /// `skip` bits of the first byte. Trailers are not checked.
    pub(crate) fn resume_in_block(
        input: &mut Input,
        skip: u32,
        header: &[u8],
    ) -> Result<Self, InflateError> {
        let mut decoder = Self {
            stage: Stage::Block,
            offered: true,
            ..Self::new(false)
        };
        let mut header = Input::whole(header);
        decoder.block(&mut header)?;
        if header.overrun() {
            return Err(InflateError::Truncated);
        }
        if decoder.stage != Stage::Symbols {
            return Err(InflateError::BlockType);
        }
        input.refill();
        input.take(skip);
        Ok(decoder)
    }

    /// The bits of the header of the block at hand, its first bit the lowest of the first byte.
    pub(crate) fn header(&self) -> &[u8] {
        &self.header
    }

    /// The bit of the blob behind the last member that ended: padding lies behind it.
    pub(crate) fn data_end(&self) -> u64 {
        self.data_end
    }

    /// Decodes until there is reason to [stop](Stop).
    pub(crate) fn run(
        &mut self,
        input: &mut Input,
        output: &mut Output,
    ) -> Result<Stop, InflateError> {
        loop {
            let stop = match self.stage {
                Stage::FirstMember | Stage::NextMember => self.member(input, output),
                Stage::Padding => padding(input),
                Stage::Block => self.block(input),
                Stage::Stored(left) => self.stored(input, output, left),
                Stage::Symbols => self.symbols(input, output),
                Stage::Trailer => self.trailer(input),
            };
            match stop {
                // Whatever the zeros behind the end were taken for, this is what is wrong.
                _ if input.overrun() => return Err(InflateError::Truncated),
                Ok(None) => {}
                Ok(Some(stop)) => return Ok(stop),
                Err(error) => return Err(error),
            }
        }
    }

    fn member(
        &mut self,
        input: &mut Input,
        output: &mut Output,
    ) -> Result<Option<Stop>, InflateError> {
        if self.stage == Stage::NextMember {
            match input.rest().first() {
                None if input.eof => return Ok(Some(Stop::End)),
                Some(0) => {
                    self.stage = Stage::Padding;
                    return Ok(None);
                }
                Some(byte) if *byte != member::MAGIC[0] => return Err(InflateError::Garbage),
                _ => {}
            }
        }
        let Some(len) = member::header(input.rest())? else {
            return short(input);
        };
        if !self.offered {
            self.offered = true;
            return Ok(Some(Stop::Member));
        }
        input.skip(len);
        output.start_member();
        self.crc = self.crc.take().map(|_| crc32fast::Hasher::new());
        self.len = 0;
        self.last = false;
        self.stage = Stage::Block;
        Ok(None)
    }

    fn block(&mut self, input: &mut Input) -> Result<Option<Stop>, InflateError> {
        if self.last {
            input.align();
            self.stage = Stage::Trailer;
            return Ok(None);
        }
        if !self.offered {
            self.offered = true;
            return Ok(Some(Stop::Block));
        }
        if !input.has(block::MAX_HEADER) {
            return Ok(Some(Stop::Input));
        }
        let start = input.bit_position();
        input.refill();
        self.last = input.take(1) == 1;
        self.stage = match input.take(2) {
            0 => Stage::Stored(block::stored(input)?),
            1 => {
                self.tables.build_fixed()?;
                Stage::Symbols
            }
            2 => {
                block::dynamic(input, &mut self.tables)?;
                Stage::Symbols
            }
            _ => return Err(InflateError::BlockType),
        };
        input.bits_since(start, &mut self.header);
        self.offered = false;
        Ok(None)
    }

    fn stored(
        &mut self,
        input: &mut Input,
        output: &mut Output,
        left: usize,
    ) -> Result<Option<Stop>, InflateError> {
        if left == 0 {
            self.stage = Stage::Block;
            return Ok(None);
        }
        let here = input.rest();
        if here.is_empty() {
            return short(input);
        }
        let before = output.at;
        let taken = output.append(&here[..here.len().min(left)]);
        if taken == 0 {
            return Ok(Some(Stop::Output));
        }
        input.skip(taken);
        self.count(output, before);
        self.stage = Stage::Stored(left - taken);
        Ok(None)
    }

    fn symbols(
        &mut self,
        input: &mut Input,
        output: &mut Output,
    ) -> Result<Option<Stop>, InflateError> {
        if output.pauses_in() == 0 {
            output.pause = None;
            return Ok(Some(Stop::Symbol));
        }
        if output.at >= output.limit() {
            return Ok(Some(Stop::Output));
        }
        if !input.eof && input.pos >= input.limit() {
            return Ok(Some(Stop::Input));
        }
        let before = output.at;
        let ended = if output.pauses_in() < symbols::STRIDE {
            symbols::decode::<true, true>(&self.tables, input, output)?
        } else if output.is_settled() {
            symbols::decode::<false, false>(&self.tables, input, output)?
        } else {
            symbols::decode::<true, false>(&self.tables, input, output)?
        };
        self.count(output, before);
        if ended {
            self.stage = Stage::Block;
        }
        Ok(None)
    }

    /// Adds what was written since `before` to the member's checksum and size.
    fn count(&mut self, output: &Output, before: usize) {
        if let Some(crc) = &mut self.crc {
            let new = &output.data[before..output.at];
            crc.update(new);
            self.len = self.len.wrapping_add(u32::try_from(new.len()).unwrap_or(0));
        }
    }

    fn trailer(&mut self, input: &mut Input) -> Result<Option<Stop>, InflateError> {
        let Some(trailer) = input.rest().first_chunk::<8>() else {
            return short(input);
        };
        if let Some(crc) = self.crc.take() {
            let expected = (u64::from(self.len) << 32) | u64::from(crc.finalize());
            if u64::from_le_bytes(*trailer) != expected {
                return Err(InflateError::Trailer);
            }
            self.crc = Some(crc32fast::Hasher::new());
        }
        input.skip(8);
        self.data_end = input.bit_position();
        self.stage = Stage::NextMember;
        self.offered = false;
        Ok(None)
    }
}

/// There are not enough bytes: more must come, or can not.
fn short(input: &Input) -> Result<Option<Stop>, InflateError> {
    if input.eof {
        Err(InflateError::Truncated)
    } else {
        Ok(Some(Stop::Input))
    }
}

fn padding(input: &mut Input) -> Result<Option<Stop>, InflateError> {
    if input.rest().iter().any(|byte| *byte != 0) {
        return Err(InflateError::Garbage);
    }
    input.skip(input.rest().len());
    Ok(Some(if input.eof { Stop::End } else { Stop::Input }))
}

#[cfg(test)]
mod tests;
