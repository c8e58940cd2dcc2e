//! One piece of a message: where it lies, how long it is, where it belongs.

/// Bytes of an encoded fragment.
pub const FRAGMENT_BYTES: usize = 16;

/// `source u32 | length u32 | target u64`, little-endian: offsets into the bounce buffer and into the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fragment {
    /// Where it lies in the bounce buffer.
    pub source: u32,
    /// How many bytes it has.
    pub length: u32,
    /// Where it belongs in the target.
    pub target: u64,
}

impl Fragment {
    /// The first offset of the bounce buffer behind it.
    pub const fn source_end(&self) -> u64 {
        self.source as u64 + self.length as u64
    }

    /// The first offset of the target behind it; nothing when that has no number.
    pub const fn target_end(&self) -> Option<u64> {
        self.target.checked_add(self.length as u64)
    }

    /// The fragment as a device reads it.
    pub fn encode(&self) -> [u8; FRAGMENT_BYTES] {
        let mut bytes = [0; FRAGMENT_BYTES];
        bytes[0..4].copy_from_slice(&self.source.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.length.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.target.to_le_bytes());
        bytes
    }

    /// Any 16 bytes are a fragment; whether it lies anywhere is the block's to say.
    pub fn decode(bytes: &[u8; FRAGMENT_BYTES]) -> Self {
        let [s0, s1, s2, s3, l0, l1, l2, l3, target @ ..] = *bytes;
        Self {
            source: u32::from_le_bytes([s0, s1, s2, s3]),
            length: u32::from_le_bytes([l0, l1, l2, l3]),
            target: u64::from_le_bytes(target),
        }
    }
}
