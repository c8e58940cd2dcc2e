//! The 64-byte item of the fifth seed: an advert small enough for a slot of a ring.
//!
//! ```text
//!  0 address u64   8 size u32   12 key u32   16 count u32   20 number u32   24 index u64   32 tail [32]
//! ```
//!
//! A receiver may narrow it by patching address and size. The key is the lower half of the range's own address, so that
//! the place in the range is known whatever was patched; number and count say when the right ends (seconds, and the rest
//! in milliseconds) and, in the lowest bit, whether it allows writing; the index is the buffer; the tail is the
//! authentication of the grant, which whoever knows the cluster can write down again from the rest.

use std::sync::Arc;

use crate::{Advert, Grant, WireError};

/// Bytes of an item.
pub const ITEM_BYTES: usize = 64;
const MAC_BYTES: usize = 32;

/// An item, parsed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Item {
    /// Where the range, or the part of it that is meant, begins in the owner's memory.
    pub address: u64,
    /// Its length in bytes.
    pub size: u32,
    /// The lower half of the whole range's address.
    pub key: u32,
    /// Whether it may be written, and the milliseconds of the end.
    pub count: u32,
    /// The second of the end.
    pub number: u32,
    /// The buffer.
    pub index: u64,
    /// The grant's authentication.
    pub tail: [u8; MAC_BYTES],
}

impl Item {
    /// The item of an advert whose range begins at `address`. `None` for four gigabytes and more.
    pub fn of(advert: &Advert, address: u64, expires_at_ms: u64) -> Option<Self> {
        let tail = advert.grant.last_chunk::<MAC_BYTES>()?;
        Some(Self {
            address,
            size: u32::try_from(advert.size_bytes).ok()?,
            key: low(address),
            count: u32::try_from(expires_at_ms % 1000).ok()? << 1 | u32::from(advert.writable),
            number: u32::try_from(expires_at_ms / 1000).ok()?,
            index: advert.buffer,
            tail: *tail,
        })
    }

    /// The advert it stands for, and where in its range the part begins. The owner is the peer it came from.
    pub fn advert(&self, cluster_id: [u8; 16], owner: &str, incarnation: u64) -> (Advert, u64) {
        let offset = u64::from(low(self.address).wrapping_sub(self.key));
        let expires_at_ms = u64::from(self.number) * 1000 + u64::from(self.count >> 1);
        let writable = self.count & 1 == 1;
        let grant: Grant = Advert::grant_for(cluster_id, self.index, writable, expires_at_ms);
        let mut bytes = grant.mint(&[0; 32]);
        let start = bytes.len() - MAC_BYTES;
        bytes[start..].copy_from_slice(&self.tail);
        let advert = Advert {
            buffer: self.index,
            incarnation,
            size_bytes: offset + u64::from(self.size),
            writable,
            owner: owner.to_owned(),
            grant: Arc::from(bytes),
            extent: None,
        };
        (advert, offset)
    }

    /// As it travels.
    pub fn encode(&self) -> [u8; ITEM_BYTES] {
        let mut bytes = [0; ITEM_BYTES];
        bytes[..8].copy_from_slice(&self.address.to_le_bytes());
        for (at, number) in [(8, self.size), (12, self.key), (16, self.count), (20, self.number)] {
            bytes[at..at + 4].copy_from_slice(&number.to_le_bytes());
        }
        bytes[24..32].copy_from_slice(&self.index.to_le_bytes());
        bytes[32..].copy_from_slice(&self.tail);
        bytes
    }

    /// Parses one; what it is worth only its owner can say.
    ///
    /// # Errors
    /// Another length than 64 bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        let bytes: &[u8; ITEM_BYTES] =
            bytes.try_into().map_err(|_| WireError::Payload("an item has sixty-four bytes"))?;
        let short = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
        let long = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
        Ok(Self {
            address: long(0),
            size: short(8),
            key: short(12),
            count: short(16),
            number: short(20),
            index: long(24),
            tail: bytes[32..].try_into().expect("thirty-two bytes"),
        })
    }
}

fn low(address: u64) -> u32 {
    u32::try_from(address & u64::from(u32::MAX)).expect("masked")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_item_is_its_advert_again_wherever_it_was_narrowed() {
        let key = crate::grant_key(b"secret");
        let (cluster_id, ends) = ([7; 16], 1_700_000_000_123);
        let grant = Advert::grant_for(cluster_id, 99, true, ends).mint(&key);
        let (owner, grant, extent) = ("owner".to_owned(), Arc::from(grant), None);
        let advert = Advert { buffer: 99, incarnation: 5, size_bytes: 1000, writable: true, owner, grant, extent };
        for address in [0x1000, 0xffff_fff0, 0x7fff_ffff_ff00] {
            let item = Item::of(&advert, address, ends).unwrap();
            assert_eq!(Item::decode(&item.encode()).unwrap(), item);
            assert_eq!(item.advert(cluster_id, "owner", 5), (advert.clone(), 0));
            let narrowed = Item { address: address + 300, size: 200, ..item };
            let (again, offset) = narrowed.advert(cluster_id, "owner", 5);
            assert_eq!((offset, again.size_bytes, again.grant), (300, 500, advert.grant.clone()));
        }
        assert!(Item::decode(&[0; 63]).is_err());
        assert!(Item::of(&Advert { size_bytes: 1 << 32, ..advert }, 0, ends).is_none());
    }
}
