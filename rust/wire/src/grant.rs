//! Grants: the proof of a right to reach a region, minted by the coordinator, checked by lenders without asking anybody.
//!
//! ```text
//!  0 "WGR1"   4 mode u8   5 rights u8   6 zero u16   8 cluster_id [16]   24 generation u64   32 expires_at_ms u64
//! 40 region length u16   42 holder length u16   44 region utf-8, holder utf-8   then HMAC-SHA256 of all before [32]
//! ```

use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};

use crate::NAME_BYTES_MAX;

const MAGIC: [u8; 4] = *b"WGR1";
const FIXED_BYTES: usize = 44;
const MAC_BYTES: usize = 32;

/// The key grants are authenticated with, derived from the cluster's secret.
pub fn grant_key(secret: &[u8]) -> [u8; 32] {
    authenticate(secret, b"weft/1 grant")
}

/// The cluster of endpoints that hold one secret and were told of no other, so that they meet whatever they are written in.
pub fn cluster_of_secret(secret: &[u8]) -> [u8; 16] {
    let digest = Sha256::new().chain_update(b"weft endpoints ").chain_update(secret).finalize();
    digest[..16].try_into().expect("sixteen bytes of thirty-two")
}

pub(crate) fn authenticate(key: &[u8], message: &[u8]) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes a key of any length");
    mac.update(message);
    mac.finalize().into_bytes().into()
}

/// Compares in constant time.
pub(crate) fn verifies(key: &[u8], message: &[u8], proof: &[u8]) -> bool {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes a key of any length");
    mac.update(message);
    mac.verify_slice(proof).is_ok()
}

/// How a process holds a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Mode {
    /// The region is sealed; any number of readers.
    Read = 1,
    /// One reader and writer.
    Exclusive = 2,
    /// Reads from the region, writes stay in the mapping.
    Private = 3,
}

/// What a grant allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Rights(u8);

impl Rights {
    /// Reading.
    pub const READ: Self = Self(1);
    /// Reading and writing.
    pub const READ_WRITE: Self = Self(3);

    /// Whether bytes may be read.
    pub const fn can_read(self) -> bool {
        self.0 & 1 != 0
    }

    /// Whether bytes may be written.
    pub const fn can_write(self) -> bool {
        self.0 & 2 != 0
    }
}

/// A grant that was authenticated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The cluster it is good in.
    pub cluster_id: [u8; 16],
    /// The region it opens.
    pub region_id: String,
    /// The attachment's generation; lenders refuse an older one.
    pub generation: u64,
    /// How the holder holds the region.
    pub mode: Mode,
    /// What the holder may do.
    pub rights: Rights,
    /// Who holds it; for messages and logs.
    pub holder: String,
    /// When it ends, in milliseconds of the Unix clock.
    pub expires_at_ms: u64,
}

/// Why bytes are not a grant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GrantError {
    /// They do not have a grant's shape.
    Malformed(&'static str),
    /// They have, and the authentication does not hold.
    Forged,
}

impl Grant {
    /// The grant as bytes, authenticated under `key`.
    ///
    /// # Panics
    /// When the region or the holder is longer than 65 535 bytes; both are bounded far below it.
    pub fn mint(&self, key: &[u8; 32]) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(FIXED_BYTES + self.region_id.len() + self.holder.len() + MAC_BYTES);
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&[self.mode as u8, self.rights.0, 0, 0]);
        bytes.extend_from_slice(&self.cluster_id);
        bytes.extend_from_slice(&self.generation.to_le_bytes());
        bytes.extend_from_slice(&self.expires_at_ms.to_le_bytes());
        bytes.extend_from_slice(&u16::try_from(self.region_id.len()).expect("a region id is short").to_le_bytes());
        bytes.extend_from_slice(&u16::try_from(self.holder.len()).expect("a holder is short").to_le_bytes());
        bytes.extend_from_slice(self.region_id.as_bytes());
        bytes.extend_from_slice(self.holder.as_bytes());
        let mac = authenticate(key, &bytes);
        bytes.extend_from_slice(&mac);
        bytes
    }

    /// What a grant's bytes say may be done, for its holder, who cannot authenticate them. Nothing when they are no grant.
    pub fn claimed_rights(bytes: &[u8]) -> Option<Rights> {
        match bytes.get(..6)? {
            [magic @ .., _, 1] if *magic == MAGIC => Some(Rights::READ),
            [magic @ .., _, 3] if *magic == MAGIC => Some(Rights::READ_WRITE),
            _ => None,
        }
    }

    /// Parses and authenticates. Authentication comes before any field is believed.
    ///
    /// # Errors
    /// [`GrantError::Malformed`] for a wrong shape, [`GrantError::Forged`] for a wrong proof.
    pub fn verify(bytes: &[u8], key: &[u8; 32]) -> Result<Self, GrantError> {
        if bytes.len() < FIXED_BYTES + MAC_BYTES || bytes[..4] != MAGIC {
            return Err(GrantError::Malformed("it is too short or does not start with WGR1"));
        }
        let (body, mac) = bytes.split_at(bytes.len() - MAC_BYTES);
        if !verifies(key, body, mac) {
            return Err(GrantError::Forged);
        }
        let region_len = usize::from(u16::from_le_bytes([body[40], body[41]]));
        let holder_len = usize::from(u16::from_le_bytes([body[42], body[43]]));
        if body.len() != FIXED_BYTES + region_len + holder_len || holder_len > NAME_BYTES_MAX {
            return Err(GrantError::Malformed("its lengths do not add up"));
        }
        let text = |range: std::ops::Range<usize>| {
            std::str::from_utf8(&body[range]).map(str::to_owned).map_err(|_| GrantError::Malformed("it is not utf-8"))
        };
        let mode = match body[4] {
            1 => Mode::Read,
            2 => Mode::Exclusive,
            3 => Mode::Private,
            _ => return Err(GrantError::Malformed("there is no such mode")),
        };
        let rights = match body[5] {
            1 => Rights::READ,
            3 => Rights::READ_WRITE,
            _ => return Err(GrantError::Malformed("there are no such rights")),
        };
        Ok(Self {
            cluster_id: body[8..24].try_into().expect("sixteen bytes"),
            region_id: text(FIXED_BYTES..FIXED_BYTES + region_len)?,
            generation: u64::from_le_bytes(body[24..32].try_into().expect("eight bytes")),
            mode,
            rights,
            holder: text(FIXED_BYTES + region_len..body.len())?,
            expires_at_ms: u64::from_le_bytes(body[32..40].try_into().expect("eight bytes")),
        })
    }
}
