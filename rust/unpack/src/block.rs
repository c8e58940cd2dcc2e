//! Fragments of one message, checked.
//!
//! ```text
//!  0 magic "UPK1"   4 version u16   6 zero u16    8 count u32     12 longest u32 (bytes of the longest fragment)
//! 16 total u64 (bytes of all)                    24 bounce u64 (bytes of the bounce buffer)
//! 32 target u64 (bytes of the target)            40 request u64
//! 48 bounce id u32                               52 slot u32     56 zero u64      64 count × fragment
//! ```
//!
//! A block that exists is right: every fragment lies inside both ends, none is empty, no two write the same byte, and the
//! sums agree. Overlapping writes have no order on a GPU, so they are refused here and not there. A sink still checks that
//! the memory it was handed is the memory the block was checked against.

use std::fmt;

use crate::fragment::{FRAGMENT_BYTES, Fragment};

/// Most fragments of one block: what NCCL's plugins use, and 32 KiB of metadata to hand to a device.
pub const FRAGMENTS_MAX: usize = 2048;
/// Most bytes one block moves. At one fragment a page it is half of [`FRAGMENTS_MAX`]: room for pages that came half full.
pub const SLICE_BYTES_MAX: u64 = 4 << 20;
/// Most bytes of a bounce buffer: offsets into it have 32 bits, its length is a multiple of 16.
pub const BOUNCE_BYTES_MAX: u64 = (u32::MAX - 15) as u64;
/// A bounce buffer's base and length are multiples of this, so that a device may read it in units of 16 bytes.
pub const BOUNCE_ALIGNMENT: u64 = 16;
/// Bytes before the fragments.
pub const BLOCK_HEADER_BYTES: usize = 64;

const MAGIC: [u8; 4] = *b"UPK1";
const VERSION: u16 = 1;

/// How much memory there is on either side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ends {
    /// Bytes of the bounce buffer.
    pub bounce_bytes: u64,
    /// Bytes of the target.
    pub target_bytes: u64,
}

/// A checked list of fragments, with what a sink needs to know of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    ends: Ends,
    request: u64,
    bounce_id: u32,
    slot: u32,
    longest: u32,
    total_bytes: u64,
    fragments: Vec<Fragment>,
}

/// Why a list of fragments is no block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockError {
    /// Other bytes than the head and the count say.
    Truncated {
        /// Bytes there are.
        bytes: usize,
        /// Bytes there should be.
        wanted: usize,
    },
    /// The first bytes are not those of a block, or of one of another version.
    Foreign,
    /// Bytes that have no meaning yet are not zero.
    Reserved,
    /// More fragments than a block holds.
    Count(u64),
    /// More bytes than a block moves.
    TooLong(u64),
    /// The bounce buffer is too large, or not a multiple of 16.
    Bounce(u64),
    /// A fragment without bytes.
    Empty {
        /// Which.
        index: usize,
    },
    /// A fragment that lies beyond the bounce buffer.
    BeyondBounce {
        /// Which.
        index: usize,
        /// Where it would end.
        end: u64,
        /// Bytes of the bounce buffer.
        bytes: u64,
    },
    /// A fragment that belongs beyond the target.
    BeyondTarget {
        /// Which.
        index: usize,
        /// Where it would end; the largest number when that has none.
        end: u64,
        /// Bytes of the target.
        bytes: u64,
    },
    /// Two fragments write the same byte.
    Overlap {
        /// The first byte of the target they share.
        offset: u64,
    },
    /// The head's sum or longest fragment is not that of the fragments.
    Sum {
        /// What the head says.
        said: u64,
        /// What the fragments come to.
        is: u64,
    },
    /// The memory handed to a sink is not what the block was checked against.
    OtherMemory {
        /// What there is.
        given: Ends,
        /// What the block was checked against.
        checked: Ends,
    },
}

impl fmt::Display for BlockError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Truncated { bytes, wanted } => write!(f, "the block should have {wanted} bytes and has {bytes}"),
            Self::Foreign => f.write_str("the bytes are no block of version 1"),
            Self::Reserved => f.write_str("a reserved field of the block is not zero"),
            Self::Count(count) => write!(f, "a block has at most {FRAGMENTS_MAX} fragments, this one {count}"),
            Self::TooLong(bytes) => write!(f, "a block moves at most {SLICE_BYTES_MAX} bytes, this one {bytes}"),
            Self::Bounce(bytes) => write!(
                f,
                "a bounce buffer has a multiple of {BOUNCE_ALIGNMENT} bytes and at most {BOUNCE_BYTES_MAX}, this one {bytes}"
            ),
            Self::Empty { index } => write!(f, "fragment {index} has no bytes"),
            Self::BeyondBounce { index, end, bytes } => {
                write!(f, "fragment {index} ends at {end}, the bounce buffer at {bytes}")
            }
            Self::BeyondTarget { index, end, bytes } => {
                write!(f, "fragment {index} would be written up to {end}, the target ends at {bytes}")
            }
            Self::Overlap { offset } => write!(f, "two fragments write byte {offset} of the target"),
            Self::Sum { said, is } => write!(f, "the block says {said}, its fragments come to {is}"),
            Self::OtherMemory { given, checked } => write!(
                f,
                "the block was checked for a bounce buffer of {} and a target of {} bytes; it was handed {} and {}",
                checked.bounce_bytes, checked.target_bytes, given.bounce_bytes, given.target_bytes
            ),
        }
    }
}

impl std::error::Error for BlockError {}

impl Block {
    /// Checks `fragments` against both ends.
    ///
    /// # Errors
    /// Whatever is wrong with the first fragment that is wrong; overlaps last.
    pub fn new(ends: Ends, fragments: Vec<Fragment>) -> Result<Self, BlockError> {
        if ends.bounce_bytes > BOUNCE_BYTES_MAX || !ends.bounce_bytes.is_multiple_of(BOUNCE_ALIGNMENT) {
            return Err(BlockError::Bounce(ends.bounce_bytes));
        }
        if fragments.len() > FRAGMENTS_MAX {
            return Err(BlockError::Count(fragments.len() as u64));
        }
        let (mut longest, mut total_bytes) = (0, 0u64);
        for (index, fragment) in fragments.iter().enumerate() {
            if fragment.length == 0 {
                return Err(BlockError::Empty { index });
            }
            let (end, bytes) = (fragment.source_end(), ends.bounce_bytes);
            if end > bytes {
                return Err(BlockError::BeyondBounce { index, end, bytes });
            }
            let (end, bytes) = (fragment.target_end().unwrap_or(u64::MAX), ends.target_bytes);
            if end > bytes || fragment.target_end().is_none() {
                return Err(BlockError::BeyondTarget { index, end, bytes });
            }
            longest = longest.max(fragment.length);
            total_bytes += u64::from(fragment.length);
        }
        if total_bytes > SLICE_BYTES_MAX {
            return Err(BlockError::TooLong(total_bytes));
        }
        check_disjoint(&fragments)?;
        Ok(Self { ends, request: 0, bounce_id: 0, slot: 0, longest, total_bytes, fragments })
    }

    /// The same block, named: the request it answers, the bounce buffer it lies in, the slot it holds there.
    #[must_use]
    pub fn named(self, request: u64, bounce_id: u32, slot: u32) -> Self {
        Self { request, bounce_id, slot, ..self }
    }

    /// What it was checked against.
    pub fn ends(&self) -> Ends {
        self.ends
    }

    /// Its fragments, in the order in which they came.
    pub fn fragments(&self) -> &[Fragment] {
        &self.fragments
    }

    /// Bytes it moves.
    pub fn total_bytes(&self) -> u64 {
        self.total_bytes
    }

    /// Bytes of its longest fragment: what a device sizes its grid by.
    pub fn longest(&self) -> u32 {
        self.longest
    }

    /// The request it answers.
    pub fn request(&self) -> u64 {
        self.request
    }

    /// The bounce buffer it lies in, as its owner numbers them.
    pub fn bounce_id(&self) -> u32 {
        self.bounce_id
    }

    /// The slot it holds: a slot's number, as many bits as travel.
    pub fn slot(&self) -> u32 {
        self.slot
    }

    /// Whether the memory is what the block was checked against.
    ///
    /// # Errors
    /// `OtherMemory`.
    pub fn fits(&self, given: Ends) -> Result<(), BlockError> {
        if given == self.ends { Ok(()) } else { Err(BlockError::OtherMemory { given, checked: self.ends }) }
    }

    /// The block as it is handed to a device or another language.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![0; BLOCK_HEADER_BYTES];
        bytes[0..4].copy_from_slice(&MAGIC);
        bytes[4..6].copy_from_slice(&VERSION.to_le_bytes());
        bytes[8..12].copy_from_slice(&u32::try_from(self.fragments.len()).expect("at most 2,048").to_le_bytes());
        bytes[12..16].copy_from_slice(&self.longest.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.total_bytes.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.ends.bounce_bytes.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.ends.target_bytes.to_le_bytes());
        bytes[40..48].copy_from_slice(&self.request.to_le_bytes());
        bytes[48..52].copy_from_slice(&self.bounce_id.to_le_bytes());
        bytes[52..56].copy_from_slice(&self.slot.to_le_bytes());
        bytes.extend(self.fragments.iter().flat_map(Fragment::encode));
        bytes
    }

    /// Reads and checks a block. What this accepts is exactly what `encode` produces.
    ///
    /// # Errors
    /// As [`Block::new`], and for a head that is cut, foreign or disagrees with what follows.
    pub fn decode(bytes: &[u8]) -> Result<Self, BlockError> {
        let wanted = BLOCK_HEADER_BYTES;
        let head = bytes.get(..wanted).ok_or(BlockError::Truncated { bytes: bytes.len(), wanted })?;
        if head[0..4] != MAGIC || head[4..6] != VERSION.to_le_bytes() {
            return Err(BlockError::Foreign);
        }
        if head[6..8] != [0; 2] || head[56..64] != [0; 8] {
            return Err(BlockError::Reserved);
        }
        let count = number32(head, 8) as usize;
        if count > FRAGMENTS_MAX {
            return Err(BlockError::Count(count as u64));
        }
        let wanted = BLOCK_HEADER_BYTES + count * FRAGMENT_BYTES;
        if bytes.len() != wanted {
            return Err(BlockError::Truncated { bytes: bytes.len(), wanted });
        }
        let (fragments, _) = bytes[BLOCK_HEADER_BYTES..].as_chunks::<FRAGMENT_BYTES>();
        let ends = Ends { bounce_bytes: number64(head, 24), target_bytes: number64(head, 32) };
        let block = Self::new(ends, fragments.iter().map(Fragment::decode).collect())?;
        for (said, is) in
            [(number64(head, 16), block.total_bytes), (u64::from(number32(head, 12)), u64::from(block.longest))]
        {
            if said != is {
                return Err(BlockError::Sum { said, is });
            }
        }
        Ok(block.named(number64(head, 40), number32(head, 48), number32(head, 52)))
    }
}

/// No two fragments write the same byte. Most lists come in order and are checked as they stand.
fn check_disjoint(fragments: &[Fragment]) -> Result<(), BlockError> {
    let ordered = |pair: &[Fragment]| pair[0].target + u64::from(pair[0].length) <= pair[1].target;
    if fragments.windows(2).all(ordered) {
        return Ok(());
    }
    // Sorting numbers is a third of sorting fragments: offset and index share one, the index in the low bits. Where the
    // offset is too large for that, whole fragments are sorted.
    const INDEX_BITS: u32 = FRAGMENTS_MAX.ilog2() + 1;
    let sorted: Vec<Fragment> = if fragments.iter().all(|fragment| fragment.target >> (64 - INDEX_BITS) == 0) {
        let mut keys: Vec<u64> =
            (0u64..).zip(fragments).map(|(index, fragment)| fragment.target << INDEX_BITS | index).collect();
        keys.sort_unstable();
        let mask = (1 << INDEX_BITS) - 1;
        keys.iter().map(|key| fragments[usize::try_from(key & mask).expect("an index")]).collect()
    } else {
        let mut sorted = fragments.to_vec();
        sorted.sort_unstable_by_key(|fragment| fragment.target);
        sorted
    };
    match sorted.windows(2).find(|pair| !ordered(pair)) {
        None => Ok(()),
        Some(pair) => Err(BlockError::Overlap { offset: pair[1].target }),
    }
}

fn number32(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn number64(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}
