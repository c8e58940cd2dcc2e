//! The 64-byte header, version 1.
//!
//! ```text
//!  0 magic "WEFT"   4 version u8   5 kind u8      6 flags u16     8 lane u16   10 zero u16
//! 12 count u32     16 request u64                24 handle u64
//! 32 offset u64                                  40 length u64 (payload bytes that follow, or bytes asked for)
//! 48 tag u64                                     56 zero u32                  60 crc32 of bytes 0..60
//! ```

use std::fmt;

use crate::{HELLO_BYTES_MAX, MESSAGE_BYTES_MAX, PAYLOAD_BYTES_MAX, RANGES_MAX};

/// Bytes of every header.
pub const HEADER_BYTES: usize = 64;
/// The first four bytes of every frame.
pub const MAGIC: [u8; 4] = *b"WEFT";
/// The version this crate speaks.
pub const VERSION: u8 = 1;

/// What a frame is. All kinds there will be are reserved here; no later feature adds one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    /// A step of the handshake; `tag` says which.
    Hello = 1,
    /// Presents a grant for one extent; `offset` is the extent's index, `tag` the lender's incarnation.
    Open = 2,
    /// Asks for bytes of an opened extent.
    Read = 3,
    /// Brings bytes to an opened extent.
    Write = 4,
    /// All that is not bulk; `tag` is the topic.
    Message = 5,
    /// Returns room to a sender.
    Credit = 6,
    /// Gives up a request; `tag` names it.
    Cancel = 7,
    /// The answer to a request that was carried out.
    Reply = 8,
    /// The answer to a request that was not; `tag` is the code, the payload a sentence.
    Refusal = 9,
}

impl Kind {
    /// The kind with this number.
    pub const fn from_number(number: u8) -> Option<Self> {
        Some(match number {
            1 => Self::Hello,
            2 => Self::Open,
            3 => Self::Read,
            4 => Self::Write,
            5 => Self::Message,
            6 => Self::Credit,
            7 => Self::Cancel,
            8 => Self::Reply,
            9 => Self::Refusal,
            _ => return None,
        })
    }

    /// Whether frames of this kind are followed by `length` bytes of payload.
    ///
    /// A read's `length` is what it asks for; nothing follows it.
    pub const fn carries_payload(self) -> bool {
        !matches!(self, Self::Read | Self::Credit | Self::Cancel)
    }
}

/// Properties of a frame, one bit each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Flags(u16);

impl Flags {
    /// No property.
    pub const NONE: Self = Self(0);
    /// Reply: all that was asked for is zero, no byte follows.
    pub const ZERO: Self = Self(1);
    /// Read: the asker understands a zero map. Reply: `tag` is one, a bit a page; only the other pages' bytes follow.
    pub const SPARSE: Self = Self(2);
    /// Message: the sender wants an answer, which the reply brings as its payload.
    pub const ANSWER: Self = Self(4);
    const KNOWN: u16 = 7;

    /// Whether every bit of `other` is set.
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// The bits.
    pub const fn bits(self) -> u16 {
        self.0
    }
}

/// One frame's header, checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// What the frame is.
    pub kind: Kind,
    /// Its properties.
    pub flags: Flags,
    /// Which lane of the peer pair it travels on.
    pub lane: u16,
    /// Ranges that follow the header.
    pub count: u32,
    /// Chosen by the asker, repeated in the answer.
    pub request: u64,
    /// An opened extent, as the server named it.
    pub handle: u64,
    /// Where in the extent, in bytes.
    pub offset: u64,
    /// Bytes that follow, or are asked for.
    pub length: u64,
    /// Meaning by kind.
    pub tag: u64,
}

impl Header {
    /// A header of this kind with every other field zero.
    pub const fn new(kind: Kind, request: u64) -> Self {
        Self { kind, flags: Flags::NONE, lane: 0, count: 0, request, handle: 0, offset: 0, length: 0, tag: 0 }
    }

    /// Bytes of payload that follow the ranges.
    pub const fn payload_bytes(&self) -> u64 {
        if self.kind.carries_payload() { self.length } else { 0 }
    }

    /// The header as it travels.
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0u8; HEADER_BYTES];
        bytes[0..4].copy_from_slice(&MAGIC);
        bytes[4] = VERSION;
        bytes[5] = self.kind as u8;
        bytes[6..8].copy_from_slice(&self.flags.0.to_le_bytes());
        bytes[8..10].copy_from_slice(&self.lane.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.count.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.request.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.handle.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.offset.to_le_bytes());
        bytes[40..48].copy_from_slice(&self.length.to_le_bytes());
        bytes[48..56].copy_from_slice(&self.tag.to_le_bytes());
        let checksum = crc32fast::hash(&bytes[..60]);
        bytes[60..64].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// Parses a header a peer sent.
    ///
    /// # Errors
    /// The first field that is wrong, in the order magic, version, checksum, kind, flags, reserved fields, count,
    /// length. Version comes before checksum so that a peer of another version is told so and not "corrupted".
    pub fn decode(bytes: &[u8; HEADER_BYTES]) -> Result<Self, WireError> {
        if bytes[0..4] != MAGIC {
            return Err(WireError::Magic([bytes[0], bytes[1], bytes[2], bytes[3]]));
        }
        if bytes[4] != VERSION {
            return Err(WireError::Version(bytes[4]));
        }
        let checksum = u32_at(bytes, 60);
        if crc32fast::hash(&bytes[..60]) != checksum {
            return Err(WireError::Checksum);
        }
        let kind = Kind::from_number(bytes[5]).ok_or(WireError::Kind(bytes[5]))?;
        let flags = u16_at(bytes, 6);
        if flags & !Flags::KNOWN != 0 {
            return Err(WireError::Flags(flags));
        }
        if u16_at(bytes, 10) != 0 || u32_at(bytes, 56) != 0 {
            return Err(WireError::Reserved);
        }
        let header = Self {
            kind,
            flags: Flags(flags),
            lane: u16_at(bytes, 8),
            count: u32_at(bytes, 12),
            request: u64_at(bytes, 16),
            handle: u64_at(bytes, 24),
            offset: u64_at(bytes, 32),
            length: u64_at(bytes, 40),
            tag: u64_at(bytes, 48),
        };
        if header.count > RANGES_MAX {
            return Err(WireError::Count(header.count));
        }
        let length_max = match kind {
            Kind::Hello | Kind::Open => HELLO_BYTES_MAX * 2,
            Kind::Message => MESSAGE_BYTES_MAX,
            _ => PAYLOAD_BYTES_MAX,
        };
        if header.length > length_max {
            return Err(WireError::Length { length: header.length, max: length_max });
        }
        Ok(header)
    }
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

/// What is wrong with bytes that should have been a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WireError {
    /// The first four bytes are not "WEFT": somebody else's protocol.
    Magic([u8; 4]),
    /// A version this side does not speak.
    Version(u8),
    /// The header's checksum does not match.
    Checksum,
    /// A kind that does not exist.
    Kind(u8),
    /// A flag that does not exist.
    Flags(u16),
    /// A field that must be zero is not.
    Reserved,
    /// More ranges than a frame may have.
    Count(u32),
    /// More bytes than a frame of this kind may have.
    Length {
        /// What the header says.
        length: u64,
        /// What it may say.
        max: u64,
    },
    /// The payload does not have the shape its kind asks for.
    Payload(&'static str),
}

impl fmt::Display for WireError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Magic(found) => write!(f, "the frame starts with {found:02x?} and not with \"WEFT\""),
            Self::Version(found) => write!(f, "the peer speaks wire version {found}, this side speaks {VERSION}"),
            Self::Checksum => f.write_str("the header's checksum does not match its bytes"),
            Self::Kind(found) => write!(f, "there is no frame kind {found}"),
            Self::Flags(found) => write!(f, "flags {found:#06x} hold a bit that has no meaning"),
            Self::Reserved => f.write_str("a reserved field of the header is not zero"),
            Self::Count(found) => write!(f, "{found} ranges in one frame, at most {RANGES_MAX} are allowed"),
            Self::Length { length, max } => write!(f, "{length} bytes in one frame, at most {max} are allowed"),
            Self::Payload(what) => write!(f, "the payload is malformed: {what}"),
        }
    }
}

impl std::error::Error for WireError {}
