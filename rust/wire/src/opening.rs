//! What comes before the grant in an `open`: who writes, and over which of its connections.
//!
//! A writer that gave a connection up and opens a newer one must not be overtaken by bytes of the old one that are still on
//! their way: from the moment the newer open is answered, the lender lets nothing of the older land.

use crate::{Header, Kind, WireError};

/// Bytes of it on the wire: writer u64, epoch u64.
pub const OPENING_BYTES: usize = 16;

/// As it travels.
pub fn encode_opening(writer: u64, epoch: u64) -> [u8; OPENING_BYTES] {
    let mut bytes = [0; OPENING_BYTES];
    bytes[..8].copy_from_slice(&writer.to_le_bytes());
    bytes[8..].copy_from_slice(&epoch.to_le_bytes());
    bytes
}

/// The writer, the epoch, and the grant's bytes behind them.
///
/// # Errors
/// A payload too short to have them.
pub fn decode_opening(bytes: &[u8]) -> Result<(u64, u64, &[u8]), WireError> {
    let (head, grant) =
        bytes.split_at_checked(OPENING_BYTES).ok_or(WireError::Payload("an open begins with writer and epoch"))?;
    let number = |at: usize| u64::from_le_bytes(head[at..at + 8].try_into().expect("eight bytes"));
    Ok((number(0), number(8), grant))
}

/// A request to open an extent by a grant, as it is sent over any lane: its head and its payload.
pub fn open_request(index: u32, incarnation: u64, writer: u64, epoch: u64, grant: &[u8]) -> (Header, Vec<u8>) {
    let mut payload = Vec::with_capacity(OPENING_BYTES + grant.len());
    payload.extend_from_slice(&encode_opening(writer, epoch));
    payload.extend_from_slice(grant);
    let mut header = Header::new(Kind::Open, 0);
    header.offset = index.into();
    header.tag = incarnation;
    header.length = payload.len() as u64;
    (header, payload)
}
