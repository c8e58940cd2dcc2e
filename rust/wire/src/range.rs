//! The range list of a vectored read or write: `count` pairs of (offset, length), 16 bytes each.

use crate::{PAYLOAD_BYTES_MAX, WireError};

/// Bytes of one range on the wire.
pub const RANGE_BYTES: usize = 16;

/// Some bytes of an extent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// Where it starts in the extent, in bytes.
    pub offset: u64,
    /// How long it is, in bytes.
    pub length: u64,
}

impl Range {
    /// One past its last byte; `None` where that does not fit 64 bits.
    pub const fn end(self) -> Option<u64> {
        self.offset.checked_add(self.length)
    }
}

/// The ranges as they travel, appended to `into`.
pub fn encode_ranges(ranges: &[Range], into: &mut Vec<u8>) {
    for range in ranges {
        into.extend_from_slice(&range.offset.to_le_bytes());
        into.extend_from_slice(&range.length.to_le_bytes());
    }
}

/// Parses a range list whose ranges must add up to `length`.
///
/// # Errors
/// A list that is not whole ranges, an empty range, one that wraps around, or a sum other than `length`.
pub fn decode_ranges(bytes: &[u8], length: u64) -> Result<Vec<Range>, WireError> {
    if !bytes.len().is_multiple_of(RANGE_BYTES) {
        return Err(WireError::Payload("the range list is not a whole number of ranges"));
    }
    let ranges: Vec<Range> = bytes
        .chunks_exact(RANGE_BYTES)
        .map(|pair| Range {
            offset: u64::from_le_bytes(pair[..8].try_into().expect("eight bytes")),
            length: u64::from_le_bytes(pair[8..].try_into().expect("eight bytes")),
        })
        .collect();
    if ranges.iter().any(|range| range.length == 0 || range.end().is_none()) {
        return Err(WireError::Payload("a range is empty or wraps around"));
    }
    match total_bytes(&ranges) {
        Some(total) if total == length => Ok(ranges),
        _ => Err(WireError::Payload("the ranges do not add up to the length")),
    }
}

/// The sum of the ranges' lengths; `None` where it is more than a frame may carry.
pub fn total_bytes(ranges: &[Range]) -> Option<u64> {
    let mut total = 0u64;
    for range in ranges {
        total = total.checked_add(range.length)?;
        if total > PAYLOAD_BYTES_MAX {
            return None;
        }
    }
    Some(total)
}
