//! What two ends say to each other over TCP before and beside the work: bodies of messages that want an answer.
//!
//! ```text
//! side      "WRD1" qpn u32 psn u32 lid u16 mtu u8 reads_in u8 reads_out u8 zero[3] gid[16]
//! connect   side                                   → side session u64 lease_ms u64 beacon address u64, key u32, zero u32
//! key       session u64 index u64 incarnation u64 opening   → address u64 length u64 key u32 writable u32 valid_ms u64 version u64
//! renew     session u64                            → lease_ms u64 version u64
//! cut       session u64                            → nothing, once nothing of the session can land any more
//! ```
//!
//! All little-endian; every length is exact. An opening is that of the wire: writer, epoch and grant.

use std::ops::RangeInclusive;

use crate::VerbsError;
use crate::ffi::Remote;

/// Agrees on queue pairs.
pub const TOPIC_CONNECT: u64 = 0x5752_4401;
/// Presents a grant, and asks for the key to its extent.
pub const TOPIC_KEY: u64 = 0x5752_4402;
/// Says that this end is still there.
pub const TOPIC_RENEW: u64 = 0x5752_4403;
/// Ends a session.
pub const TOPIC_CUT: u64 = 0x5752_4404;
/// All of them.
pub const TOPICS: RangeInclusive<u64> = TOPIC_CONNECT..=TOPIC_CUT;
/// No answer is longer.
pub const ANSWER_BYTES_MAX: usize = 128;

const MAGIC: &[u8; 4] = b"WRD1";
const SIDE_BYTES: usize = 36;

/// The answer to a connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connected {
    /// The other end.
    pub side: Remote,
    /// Names the session from here on.
    pub session: u64,
    /// It ends this long after the last word of its holder.
    pub lease_ms: u64,
    /// Eight bytes that any session may read: proof that the path carries.
    pub beacon_address: u64,
    /// Their key.
    pub beacon_key: u32,
}

/// The answer to a key: where an extent lies, and by which key it is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    /// First byte.
    pub address: u64,
    /// How many.
    pub length: u64,
    /// The key.
    pub key: u32,
    /// Whether it may be written by it.
    pub writable: bool,
    /// For how long.
    pub valid_ms: u64,
    /// The table it comes from: under a newer one it must be asked for again.
    pub version: u64,
}

/// A request for a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyRequest<'a> {
    /// Whose session.
    pub session: u64,
    /// The extent's number in its region.
    pub index: u64,
    /// The lender's life that holds it.
    pub incarnation: u64,
    /// Writer, epoch and grant.
    pub opening: &'a [u8],
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], VerbsError> {
        let (head, rest) = self.0.split_at_checked(count).ok_or(VerbsError::Words("a word is too short"))?;
        self.0 = rest;
        Ok(head)
    }

    fn number<const N: usize>(&mut self) -> Result<[u8; N], VerbsError> {
        Ok(self.take(N)?.try_into().expect("as many as were asked for"))
    }

    fn u64(&mut self) -> Result<u64, VerbsError> {
        Ok(u64::from_le_bytes(self.number()?))
    }

    fn u32(&mut self) -> Result<u32, VerbsError> {
        Ok(u32::from_le_bytes(self.number()?))
    }

    fn end(self) -> Result<(), VerbsError> {
        if self.0.is_empty() { Ok(()) } else { Err(VerbsError::Words("bytes are left over behind a word")) }
    }
}

fn put_side(side: &Remote, into: &mut Vec<u8>) {
    into.extend_from_slice(MAGIC);
    into.extend_from_slice(&side.queue_pair.to_le_bytes());
    into.extend_from_slice(&side.sequence.to_le_bytes());
    into.extend_from_slice(&side.lid.to_le_bytes());
    into.push(u8::try_from(side.mtu).expect("one of five"));
    into.extend_from_slice(&[side.reads_in_max, side.reads_out_max, 0, 0, 0]);
    into.extend_from_slice(&side.gid);
}

fn take_side(reader: &mut Reader<'_>) -> Result<Remote, VerbsError> {
    if reader.take(4)? != MAGIC {
        return Err(VerbsError::Words("a side begins with WRD1"));
    }
    let (queue_pair, sequence) = (reader.u32()?, reader.u32()?);
    let lid = u16::from_le_bytes(reader.number()?);
    let [mtu, reads_in_max, reads_out_max, zero @ ..] = reader.number::<6>()?;
    let gid = reader.number()?;
    let numbers = queue_pair >> 24 == 0 && sequence >> 24 == 0 && (1..=5).contains(&mtu);
    if !numbers || zero != [0; 3] || reads_in_max == 0 || reads_out_max == 0 || (lid == 0 && gid == [0; 16]) {
        return Err(VerbsError::Words("a side's numbers are out of their bounds"));
    }
    Ok(Remote { queue_pair, sequence, lid, gid, mtu: mtu.into(), reads_in_max, reads_out_max })
}

/// A connect, as it travels.
pub fn encode_connect(side: &Remote) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(SIDE_BYTES);
    put_side(side, &mut bytes);
    bytes
}

/// Parses a connect.
///
/// # Errors
/// `Words`, as all of these.
pub fn decode_connect(bytes: &[u8]) -> Result<Remote, VerbsError> {
    let mut reader = Reader(bytes);
    let side = take_side(&mut reader)?;
    reader.end()?;
    Ok(side)
}

impl Connected {
    /// As it travels.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(SIDE_BYTES + 32);
        put_side(&self.side, &mut bytes);
        for number in [self.session, self.lease_ms, self.beacon_address, self.beacon_key.into()] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        bytes
    }

    /// Parses the answer to a connect.
    ///
    /// # Errors
    /// `Words`.
    pub fn decode(bytes: &[u8]) -> Result<Self, VerbsError> {
        let mut reader = Reader(bytes);
        let side = take_side(&mut reader)?;
        let (session, lease_ms, beacon_address) = (reader.u64()?, reader.u64()?, reader.u64()?);
        let beacon_key = u32::try_from(reader.u64()?).map_err(|_| VerbsError::Words("a key has 32 bits"))?;
        reader.end()?;
        Ok(Self { side, session, lease_ms, beacon_address, beacon_key })
    }
}

impl<'a> KeyRequest<'a> {
    /// As it travels.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(24 + self.opening.len());
        for number in [self.session, self.index, self.incarnation] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        bytes.extend_from_slice(self.opening);
        bytes
    }

    /// Parses a request; what the opening holds is judged where grants are.
    ///
    /// # Errors
    /// `Words`.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, VerbsError> {
        let mut reader = Reader(bytes);
        let (session, index, incarnation) = (reader.u64()?, reader.u64()?, reader.u64()?);
        Ok(Self { session, index, incarnation, opening: reader.0 })
    }
}

impl Key {
    /// As it travels.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(40);
        for number in [self.address, self.length] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        for number in [self.key, self.writable.into()] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        for number in [self.valid_ms, self.version] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        bytes
    }

    /// Parses the answer to a request for a key.
    ///
    /// # Errors
    /// `Words`.
    pub fn decode(bytes: &[u8]) -> Result<Self, VerbsError> {
        let mut reader = Reader(bytes);
        let (address, length, key, writable) = (reader.u64()?, reader.u64()?, reader.u32()?, reader.u32()?);
        let (valid_ms, version) = (reader.u64()?, reader.u64()?);
        reader.end()?;
        if writable > 1 || address.checked_add(length).is_none() {
            return Err(VerbsError::Words("a key's range wraps around, or its right is neither of two"));
        }
        Ok(Self { address, length, key, writable: writable == 1, valid_ms, version })
    }
}

/// Two numbers, as a renewal is answered.
pub fn encode_pair(first: u64, second: u64) -> Vec<u8> {
    [first.to_le_bytes(), second.to_le_bytes()].concat()
}

/// Parses two numbers.
///
/// # Errors
/// `Words`.
pub fn decode_pair(bytes: &[u8]) -> Result<(u64, u64), VerbsError> {
    let mut reader = Reader(bytes);
    let pair = (reader.u64()?, reader.u64()?);
    reader.end()?;
    Ok(pair)
}

/// Parses a session's name, alone.
///
/// # Errors
/// `Words`.
pub fn decode_session(bytes: &[u8]) -> Result<u64, VerbsError> {
    let mut reader = Reader(bytes);
    let session = reader.u64()?;
    reader.end()?;
    Ok(session)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn side() -> Remote {
        Remote { queue_pair: 17, sequence: 0xab_cdef, lid: 0, gid: [7; 16], mtu: 3, reads_in_max: 16, reads_out_max: 4 }
    }

    #[test]
    fn every_word_comes_back_as_it_was_said_and_no_shorter_or_longer_one_does() {
        let connected =
            Connected { side: side(), session: 1 << 40, lease_ms: 30_000, beacon_address: 99, beacon_key: 5 };
        let key = Key { address: 4096, length: 8192, key: 77, writable: true, valid_ms: 5, version: 3 };
        let ask = KeyRequest { session: 3, index: 1, incarnation: 9, opening: b"writer, epoch, grant" };
        assert_eq!(decode_connect(&encode_connect(&side())).unwrap(), side());
        assert_eq!(Connected::decode(&connected.encode()).unwrap(), connected);
        assert_eq!(Key::decode(&key.encode()).unwrap(), key);
        assert_eq!(KeyRequest::decode(&ask.encode()).unwrap(), ask);
        assert_eq!(decode_pair(&encode_pair(1, 2)).unwrap(), (1, 2));
        for bytes in [encode_connect(&side()), connected.encode(), key.encode()] {
            assert!(bytes.len() <= ANSWER_BYTES_MAX);
            let longer = [bytes.as_slice(), &[0]].concat();
            for wrong in [&bytes[..bytes.len() - 1], &longer[..], b""] {
                assert!(
                    decode_connect(wrong).is_err() && Connected::decode(wrong).is_err() && Key::decode(wrong).is_err()
                );
            }
        }
    }

    #[test]
    fn a_side_out_of_bounds_is_refused_before_a_device_sees_it() {
        let wrong = [
            Remote { queue_pair: 1 << 24, ..side() },
            Remote { sequence: 1 << 24, ..side() },
            Remote { mtu: 0, ..side() },
            Remote { mtu: 6, ..side() },
            Remote { reads_in_max: 0, ..side() },
            Remote { gid: [0; 16], ..side() },
        ];
        for side in wrong {
            assert!(decode_connect(&encode_connect(&side)).is_err(), "{side:?}");
        }
    }
}
