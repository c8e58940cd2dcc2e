//! Adverts: what the owner of a buffer hands out so that others may reach it.
//!
//! ```text
//!  0 "WAD1"   4 flags u32 (1: may be written)   8 buffer u64   16 incarnation u64   24 size u64
//! 32 owner length u16   34 grant length u16   36 owner utf-8, grant
//! ```
//!
//! The grant inside is what the owner checks; the rest tells the holder what it holds. An advert that was altered is
//! refused where the memory lives.

use std::sync::Arc;

use crate::{Grant, Mode, NAME_BYTES_MAX, Rights, WireError};

const MAGIC: [u8; 4] = *b"WAD1";
const FIXED_BYTES: usize = 36;

/// An extent of a region: what a grant opens where it is no buffer's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExtentName {
    /// The region.
    pub region_id: String,
    /// The extent's number in it.
    pub index: u32,
}

/// A right to reach one range of one buffer, or one extent of a region.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Advert {
    /// The range, as its owner numbers it; never given out twice.
    pub buffer: u64,
    /// The owner's life.
    pub incarnation: u64,
    /// Bytes that may be reached, from zero.
    pub size_bytes: u64,
    /// Whether they may be written.
    pub writable: bool,
    /// The owner's name.
    pub owner: String,
    /// What the owner checks.
    pub grant: Arc<[u8]>,
    /// The extent, where it is one. Such a right is made where it is used, out of a grant, and does not travel.
    pub extent: Option<ExtentName>,
}

impl Advert {
    /// The right to an extent of a region, by a grant that was minted elsewhere. `number` is the holder's own name for it,
    /// unlike that of any other it uses.
    pub fn of_extent(number: u64, name: ExtentName, incarnation: u64, size_bytes: u64, grant: Arc<[u8]>) -> Self {
        let (writable, owner, extent) = (true, String::new(), Some(name));
        Self { buffer: number, incarnation, size_bytes, writable, owner, grant, extent }
    }

    /// What it reaches, as its owner names it.
    pub fn region(&self) -> String {
        self.extent.as_ref().map_or_else(|| Self::region_id(self.buffer), |extent| extent.region_id.clone())
    }

    /// The number of its extent there.
    pub fn index(&self) -> u32 {
        self.extent.as_ref().map_or(0, |extent| extent.index)
    }

    /// The name the range is served under.
    pub fn region_id(buffer: u64) -> String {
        format!("buffer-{buffer:016x}")
    }

    /// The grant for a range, before it is authenticated. Whoever knows the cluster and these numbers can say what it
    /// was; only who knows the key can say that it was given.
    pub fn grant_for(cluster_id: [u8; 16], buffer: u64, writable: bool, expires_at_ms: u64) -> Grant {
        let (mode, rights) = if writable { (Mode::Exclusive, Rights::READ_WRITE) } else { (Mode::Read, Rights::READ) };
        Grant {
            cluster_id,
            region_id: Self::region_id(buffer),
            generation: 1,
            mode,
            rights,
            holder: String::new(),
            expires_at_ms,
        }
    }

    /// Whether both open the same at their owner: the range, the life and the grant. The rest is what the holder is told.
    pub fn opens_the_same(&self, other: &Self) -> bool {
        (self.buffer, self.incarnation, &self.grant, &self.extent)
            == (other.buffer, other.incarnation, &other.grant, &other.extent)
    }

    /// As it travels.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(FIXED_BYTES + self.owner.len() + self.grant.len());
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&u32::from(self.writable).to_le_bytes());
        bytes.extend_from_slice(&self.buffer.to_le_bytes());
        bytes.extend_from_slice(&self.incarnation.to_le_bytes());
        bytes.extend_from_slice(&self.size_bytes.to_le_bytes());
        bytes.extend_from_slice(&u16::try_from(self.owner.len()).expect("a name is short").to_le_bytes());
        bytes.extend_from_slice(&u16::try_from(self.grant.len()).expect("a grant is short").to_le_bytes());
        bytes.extend_from_slice(self.owner.as_bytes());
        bytes.extend_from_slice(&self.grant);
        bytes
    }

    /// Parses what somebody handed over.
    ///
    /// # Errors
    /// A wrong shape. Whether the grant inside is good, only its owner can say.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        let (fixed, rest) =
            bytes.split_at_checked(FIXED_BYTES).ok_or(WireError::Payload("an advert has at least 36 bytes"))?;
        if fixed[..4] != MAGIC {
            return Err(WireError::Payload("an advert starts with WAD1"));
        }
        let number = |at: usize| u64::from_le_bytes(fixed[at..at + 8].try_into().expect("eight bytes"));
        let short = |at: usize| usize::from(u16::from_le_bytes([fixed[at], fixed[at + 1]]));
        let flags = u32::from_le_bytes(fixed[4..8].try_into().expect("four bytes"));
        let (owner_bytes, grant_bytes) = (short(32), short(34));
        if flags > 1 || owner_bytes > NAME_BYTES_MAX || rest.len() != owner_bytes + grant_bytes || number(24) == 0 {
            return Err(WireError::Payload("an advert's flags, size or lengths are wrong"));
        }
        let (owner, grant) = rest.split_at(owner_bytes);
        Ok(Self {
            buffer: number(8),
            incarnation: number(16),
            size_bytes: number(24),
            writable: flags == 1,
            owner: String::from_utf8(owner.to_vec()).map_err(|_| WireError::Payload("an owner's name is not utf-8"))?,
            grant: grant.into(),
            extent: None,
        })
    }
}
