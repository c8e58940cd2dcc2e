//! Blocks of what arrived.

use crate::block::{Block, BlockError, Ends, FRAGMENTS_MAX, SLICE_BYTES_MAX};
use crate::fragment::Fragment;
use crate::pool::{Piece, Pool};
use crate::slots::Slot;

/// What came of carving.
#[derive(Debug, PartialEq, Eq)]
pub enum Carved {
    /// A block, and the slot that holds its bytes until it is unpacked.
    Block(Slot, Block),
    /// Nothing waits: receive first.
    Nothing,
    /// All slots are held: give some back first.
    Held,
}

/// Makes a block of the first bytes that wait in `pool`, at most `bytes` of them, for `at` and on in a target of
/// `target_bytes`. No fragment crosses an offset of `cuts` (ascending), where one piece of the target's memory ends and
/// another begins. The bytes wait on until they are taken or skipped; nothing when none wait.
///
/// # Errors
/// When the bytes do not belong into the target.
pub fn lay_out(pool: &Pool, bytes: u64, at: u64, target_bytes: u64, cuts: &[u64]) -> Result<Option<Block>, BlockError> {
    let bytes = bytes.min(pool.waiting()).min(SLICE_BYTES_MAX);
    if bytes == 0 {
        return Ok(None);
    }
    let mut pieces = Vec::new();
    pool.waiting_pieces(bytes, FRAGMENTS_MAX, &mut pieces);
    let mut fragments = Vec::with_capacity(pieces.len());
    let mut target = at;
    let mut cuts = cuts.iter().copied().skip_while(|cut| *cut <= at).peekable();
    'pieces: for Piece { mut offset, mut length } in pieces {
        while length > 0 {
            if fragments.len() == FRAGMENTS_MAX {
                break 'pieces;
            }
            while cuts.next_if(|cut| *cut <= target).is_some() {}
            let until_cut = cuts.peek().map_or(u64::MAX, |cut| cut - target);
            let part = length.min(u32::try_from(until_cut).unwrap_or(u32::MAX));
            fragments.push(Fragment { source: offset, length: part, target });
            offset += part;
            length -= part;
            target += u64::from(part);
        }
    }
    Block::new(Ends { bounce_bytes: pool.bytes(), target_bytes }, fragments).map(Some)
}

/// Lays a block out and holds its bytes in a slot, for a sink that takes its time.
///
/// # Errors
/// As [`lay_out`].
pub fn carve(pool: &mut Pool, bytes: u64, at: u64, target_bytes: u64, cuts: &[u64]) -> Result<Carved, BlockError> {
    let Some(block) = lay_out(pool, bytes, at, target_bytes, cuts)? else { return Ok(Carved::Nothing) };
    Ok(match pool.take(block.total_bytes()) {
        // Slot numbers grow for ever, a block names the low half of one.
        Some(slot) => Carved::Block(slot, block.named(0, 0, (slot.number() & u64::from(u32::MAX)) as u32)),
        None => Carved::Held,
    })
}
