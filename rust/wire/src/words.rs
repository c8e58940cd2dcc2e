//! What two endpoints say to each other, as the payload of messages.
//!
//! ```text
//!  0 "WEP1"   4 topic u32   8 writer u64   16 sequence u64   24 the body
//! ```
//!
//! A sender says one thing after the other and repeats what was not answered; by writer and sequence the receiver knows a
//! repetition. Bodies are little-endian, every length is checked, and not a byte may be left over.

use crate::{MESSAGE_BYTES_MAX, NAME_BYTES_MAX, WireError};

const MAGIC: [u8; 4] = *b"WEP1";
/// Bytes before the body.
pub const ENVELOPE_BYTES: usize = 24;
/// Most content of a notification in one message; more is sent in parts.
pub const NOTICE_PART_BYTES_MAX: usize = MESSAGE_BYTES_MAX as usize - 1024;
/// Most content of a notification, over all its parts.
pub const NOTICE_BYTES_MAX: u64 = 64 << 20;
/// Longest name of a notification, in bytes.
pub const NOTICE_NAME_BYTES_MAX: usize = 255;

/// What is said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Word {
    /// Who I am, where I listen, and what machine I run on.
    Greet(Greeting),
    /// A receive is posted: this is where its bytes go.
    Posted {
        /// The receive; numbers of one endpoint only grow.
        receive: u64,
        /// What sends are matched by.
        tag: u64,
        /// An advert of the receive's buffer, as it travels.
        advert: Vec<u8>,
    },
    /// The bytes of a receive are there.
    Landed {
        /// The receive.
        receive: u64,
        /// How many bytes.
        length: u64,
    },
    /// A receive was taken back.
    Withdrawn {
        /// The receive.
        receive: u64,
    },
    /// A notification, or a part of one.
    Notice {
        /// Which part, from zero.
        part: u32,
        /// How many there are.
        parts: u32,
        /// Bytes of the content over all parts.
        total: u64,
        /// What it is called.
        name: Vec<u8>,
        /// The content, or this part of it.
        bytes: Vec<u8>,
    },
}

/// How an endpoint is reached, and what its machine is called by its kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Greeting {
    /// The address it listens at, as text.
    pub host: String,
    /// The port.
    pub port: u16,
    /// The kernel's boot id, and the numbers of its PID and network namespaces; empty where it does not say.
    pub machine: String,
    /// The user the process runs as.
    pub user: u32,
    /// Name of its abstract UNIX socket; empty where it has none.
    pub socket: String,
}

impl Word {
    /// Whether messages of this topic carry words.
    pub const fn is_topic(topic: u64) -> bool {
        matches!(topic, 0x5745_5001..=0x5745_5005)
    }

    /// The topic of the message that carries it.
    pub const fn topic(&self) -> u64 {
        match self {
            Self::Greet(_) => 0x5745_5001,
            Self::Posted { .. } => 0x5745_5002,
            Self::Landed { .. } => 0x5745_5003,
            Self::Withdrawn { .. } => 0x5745_5004,
            Self::Notice { .. } => 0x5745_5005,
        }
    }

    /// As it travels: the `sequence`-th word of `writer`.
    pub fn encode(&self, writer: u64, sequence: u64) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(ENVELOPE_BYTES + 64);
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&u32::try_from(self.topic()).expect("topics are small").to_le_bytes());
        bytes.extend_from_slice(&writer.to_le_bytes());
        bytes.extend_from_slice(&sequence.to_le_bytes());
        match self {
            Self::Greet(greeting) => {
                bytes.extend_from_slice(&greeting.port.to_le_bytes());
                bytes.extend_from_slice(&greeting.user.to_le_bytes());
                for text in [&greeting.host, &greeting.machine, &greeting.socket] {
                    put(&mut bytes, text.as_bytes());
                }
            }
            Self::Posted { receive, tag, advert } => {
                bytes.extend_from_slice(&receive.to_le_bytes());
                bytes.extend_from_slice(&tag.to_le_bytes());
                put(&mut bytes, advert);
            }
            Self::Landed { receive, length } => {
                bytes.extend_from_slice(&receive.to_le_bytes());
                bytes.extend_from_slice(&length.to_le_bytes());
            }
            Self::Withdrawn { receive } => bytes.extend_from_slice(&receive.to_le_bytes()),
            Self::Notice { part, parts, total, name, bytes: content } => {
                bytes.extend_from_slice(&part.to_le_bytes());
                bytes.extend_from_slice(&parts.to_le_bytes());
                bytes.extend_from_slice(&total.to_le_bytes());
                put(&mut bytes, name);
                put(&mut bytes, content);
            }
        }
        bytes
    }

    /// Parses what came under `topic`: the word, its writer and its sequence.
    ///
    /// # Errors
    /// Another magic or topic, a length that leaves the message, bytes left over, text that is none.
    pub fn decode(topic: u64, bytes: &[u8]) -> Result<(Self, u64, u64), WireError> {
        let mut reader = Reader { bytes };
        if reader.take(4)? != MAGIC {
            return Err(WireError::Payload("a word between endpoints starts with WEP1"));
        }
        if u64::from(reader.u32()?) != topic {
            return Err(WireError::Payload("a word's topic is not its message's"));
        }
        let (writer, sequence) = (reader.u64()?, reader.u64()?);
        let word = match topic {
            0x5745_5001 => {
                let (port, user) = (reader.u16()?, reader.u32()?);
                Self::Greet(Greeting {
                    host: reader.text()?,
                    port,
                    machine: reader.text()?,
                    user,
                    socket: reader.text()?,
                })
            }
            0x5745_5002 => {
                Self::Posted { receive: reader.u64()?, tag: reader.u64()?, advert: reader.bytes()?.to_vec() }
            }
            0x5745_5003 => Self::Landed { receive: reader.u64()?, length: reader.u64()? },
            0x5745_5004 => Self::Withdrawn { receive: reader.u64()? },
            0x5745_5005 => {
                let (part, parts, total) = (reader.u32()?, reader.u32()?, reader.u64()?);
                let (name, content) = (reader.bytes()?.to_vec(), reader.bytes()?.to_vec());
                if part >= parts || total > NOTICE_BYTES_MAX || content.len() as u64 > total {
                    return Err(WireError::Payload("a notification's parts do not fit together"));
                }
                if name.len() > NOTICE_NAME_BYTES_MAX {
                    return Err(WireError::Payload("a notification's name is too long"));
                }
                Self::Notice { part, parts, total, name, bytes: content }
            }
            _ => return Err(WireError::Payload("there is no such word between endpoints")),
        };
        if !reader.bytes.is_empty() {
            return Err(WireError::Payload("bytes are left over behind a word"));
        }
        Ok((word, writer, sequence))
    }
}

fn put(into: &mut Vec<u8>, bytes: &[u8]) {
    into.extend_from_slice(&u32::try_from(bytes.len()).expect("bounded by a message").to_le_bytes());
    into.extend_from_slice(bytes);
}

struct Reader<'a> {
    bytes: &'a [u8],
}

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], WireError> {
        let (head, rest) =
            self.bytes.split_at_checked(length).ok_or(WireError::Payload("a word ends before its fields do"))?;
        self.bytes = rest;
        Ok(head)
    }

    fn u16(&mut self) -> Result<u16, WireError> {
        Ok(u16::from_le_bytes(self.take(2)?.try_into().expect("two bytes")))
    }

    fn u32(&mut self) -> Result<u32, WireError> {
        Ok(u32::from_le_bytes(self.take(4)?.try_into().expect("four bytes")))
    }

    fn u64(&mut self) -> Result<u64, WireError> {
        Ok(u64::from_le_bytes(self.take(8)?.try_into().expect("eight bytes")))
    }

    fn bytes(&mut self) -> Result<&'a [u8], WireError> {
        let length = self.u32()? as usize;
        self.take(length)
    }

    fn text(&mut self) -> Result<String, WireError> {
        let bytes = self.bytes()?;
        if bytes.len() > NAME_BYTES_MAX {
            return Err(WireError::Payload("a name in a greeting is too long"));
        }
        String::from_utf8(bytes.to_vec()).map_err(|_| WireError::Payload("a name in a greeting is not utf-8"))
    }
}
