//! What the kernel says about bytes that it left in a device's memory (Linux 6.12 and newer, `devmem` TCP).
//!
//! A receive with `MSG_SOCK_DEVMEM` returns bytes in two places. What the card put into the device's buffer is named by a
//! control message `SCM_DEVMEM_DMABUF`: offset, size, and a token to give back. What it did not (`SCM_DEVMEM_LINEAR`) was
//! copied into the caller's own memory, one such part after the other; that is normal, and the CPU has to carry it on.
//! Without either message all of it is plain bytes. See `Documentation/networking/devmem.rst`, `include/uapi/linux/uio.h`.
//!
//! Nothing here touches a socket: control bytes in, pieces out, so that every case can be tested without the card.

use std::fmt;

use crate::block::{Block, BlockError, Ends};
use crate::fragment::Fragment;

/// The message that names bytes in the caller's memory.
pub const SCM_DEVMEM_LINEAR: i32 = 78;
/// The message that names bytes in the device's memory.
pub const SCM_DEVMEM_DMABUF: i32 = 79;
/// Most runs of tokens that one call gives back.
pub const RUNS_MAX: usize = 128;
/// Most tokens that one call gives back.
pub const TOKENS_MAX: u32 = 1024;

const SOL_SOCKET: i32 = 1;
/// `cmsghdr`: u64 length with the head, i32 level, i32 kind; data follows, padded to 8.
const HEAD_BYTES: usize = 16;
const ALIGNMENT: usize = 8;
/// `dmabuf_cmsg`: u64 offset, u32 size, u32 token, u32 dmabuf id, u32 flags.
const DMABUF_BYTES: usize = 24;

/// Where a run of the stream's bytes lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// In the device's buffer.
    Device {
        /// Where in it.
        offset: u64,
        /// How many bytes.
        size: u32,
        /// To be given back when they were moved.
        token: u32,
        /// Which buffer, by the number the kernel gave it when it was bound.
        dmabuf: u32,
    },
    /// In the caller's memory, after the linear parts before it.
    Linear {
        /// How many bytes.
        size: u32,
    },
}

impl Arrival {
    /// How many bytes.
    pub const fn size(&self) -> u32 {
        match self {
            Self::Device { size, .. } | Self::Linear { size } => *size,
        }
    }
}

/// Why control bytes cannot be used. Any of these means that bytes are lost to the reader: the connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ControlError {
    /// The kernel had more to say than there was room for.
    Truncated,
    /// A message ends before it says what it must.
    Short {
        /// Where it begins.
        at: usize,
        /// The length it names.
        length: u64,
    },
    /// A piece without bytes.
    Empty,
    /// The sizes do not add up to what was received.
    Sum {
        /// What the pieces come to.
        named: u64,
        /// What was received.
        received: u64,
    },
}

impl fmt::Display for ControlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Truncated => f.write_str("the kernel's control messages did not fit; give them more room"),
            Self::Short { at, length } => write!(f, "the control message at byte {at} says it has {length} bytes"),
            Self::Empty => f.write_str("the kernel named a piece without bytes"),
            Self::Sum { named, received } => {
                write!(f, "the kernel named {named} bytes of the {received} that were received")
            }
        }
    }
}

impl std::error::Error for ControlError {}

/// Room that `pieces` control messages need.
pub const fn control_bytes(pieces: usize) -> usize {
    pieces * (HEAD_BYTES + DMABUF_BYTES)
}

/// Reads the control bytes of a receive that brought `received` bytes. Without a message of either kind it is one linear
/// arrival. Messages of other kinds (timestamps) are passed over.
///
/// # Errors
/// `truncated` is the kernel's `MSG_CTRUNC`; everything else is a message that contradicts itself or the receive.
pub fn parse(control: &[u8], truncated: bool, received: usize) -> Result<Vec<Arrival>, ControlError> {
    if truncated {
        return Err(ControlError::Truncated);
    }
    let mut arrivals = Vec::new();
    let (mut at, mut named) = (0, 0u64);
    // Like the kernel's own macros: a rest shorter than a head is padding.
    while control.len() - at >= HEAD_BYTES {
        let length = u64::from_ne_bytes(control[at..at + 8].try_into().expect("eight bytes"));
        let level = i32::from_ne_bytes(control[at + 8..at + 12].try_into().expect("four bytes"));
        let kind = i32::from_ne_bytes(control[at + 12..at + 16].try_into().expect("four bytes"));
        let whole = usize::try_from(length).ok().filter(|whole| (HEAD_BYTES..=control.len() - at).contains(whole));
        let Some(whole) = whole else { return Err(ControlError::Short { at, length }) };
        if level == SOL_SOCKET && (kind == SCM_DEVMEM_LINEAR || kind == SCM_DEVMEM_DMABUF) {
            let data = &control[at + HEAD_BYTES..at + whole];
            if data.len() < DMABUF_BYTES {
                return Err(ControlError::Short { at, length });
            }
            let word = |from: usize| u32::from_ne_bytes(data[from..from + 4].try_into().expect("four bytes"));
            let size = word(8);
            if size == 0 {
                return Err(ControlError::Empty);
            }
            named += u64::from(size);
            arrivals.push(if kind == SCM_DEVMEM_LINEAR {
                Arrival::Linear { size }
            } else {
                let offset = u64::from_ne_bytes(data[..8].try_into().expect("eight bytes"));
                Arrival::Device { offset, size, token: word(12), dmabuf: word(16) }
            });
        }
        at = (at + whole.next_multiple_of(ALIGNMENT)).min(control.len());
    }
    let received = received as u64;
    if arrivals.is_empty() {
        return Ok(match u32::try_from(received) {
            Ok(0) => arrivals,
            Ok(size) => vec![Arrival::Linear { size }],
            Err(_) => return Err(ControlError::Sum { named, received }),
        });
    }
    if named != received {
        return Err(ControlError::Sum { named, received });
    }
    Ok(arrivals)
}

/// The two blocks of one receive: what a device gathers from its own buffer, and what the CPU carries there.
#[derive(Debug, PartialEq, Eq)]
pub struct Sorted {
    /// From the device's buffer.
    pub device: Block,
    /// From the caller's memory.
    pub linear: Block,
    /// What to give back once the device's block is done, in the order of arrival.
    pub tokens: Vec<u32>,
}

/// Sorts arrivals that belong to `at` and on in a target of `target_bytes`. `device_bytes` is the device's buffer,
/// `linear_bytes` the caller's.
///
/// # Errors
/// When a piece lies outside of its memory, or there are more than a block holds.
pub fn sort(
    arrivals: &[Arrival],
    at: u64,
    target_bytes: u64,
    device_bytes: u64,
    linear_bytes: u64,
) -> Result<Sorted, BlockError> {
    let (mut device, mut linear, mut tokens) = (Vec::new(), Vec::new(), Vec::new());
    let (mut target, mut linear_at) = (at, 0u32);
    for (index, arrival) in arrivals.iter().enumerate() {
        match *arrival {
            Arrival::Device { offset, size, token, .. } => {
                let source = u32::try_from(offset).map_err(|_| BlockError::BeyondBounce {
                    index,
                    end: offset.saturating_add(u64::from(size)),
                    bytes: device_bytes,
                })?;
                device.push(Fragment { source, length: size, target });
                tokens.push(token);
            }
            Arrival::Linear { size } => {
                linear.push(Fragment { source: linear_at, length: size, target });
                linear_at = linear_at.checked_add(size).ok_or(BlockError::BeyondBounce {
                    index,
                    end: u64::from(linear_at) + u64::from(size),
                    bytes: linear_bytes,
                })?;
            }
        }
        target = target.checked_add(u64::from(arrival.size())).ok_or(BlockError::BeyondTarget {
            index,
            end: u64::MAX,
            bytes: target_bytes,
        })?;
    }
    Ok(Sorted {
        device: Block::new(Ends { bounce_bytes: device_bytes, target_bytes }, device)?,
        linear: Block::new(Ends { bounce_bytes: linear_bytes, target_bytes }, linear)?,
        tokens,
    })
}

/// Tokens that follow each other, as the kernel takes them back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct TokenRun {
    /// The first.
    pub start: u32,
    /// How many.
    pub count: u32,
}

/// The calls that give `tokens` back, each within the kernel's bounds, in order.
pub fn token_runs(tokens: &[u32]) -> Vec<Vec<TokenRun>> {
    let mut calls: Vec<Vec<TokenRun>> = Vec::new();
    let mut in_call = TOKENS_MAX;
    for &token in tokens {
        if in_call < TOKENS_MAX
            && let Some(call) = calls.last_mut()
        {
            in_call += 1;
            if let Some(run) = call.last_mut()
                && run.start.checked_add(run.count) == Some(token)
            {
                run.count += 1;
                continue;
            }
            if call.len() < RUNS_MAX {
                call.push(TokenRun { start: token, count: 1 });
                continue;
            }
        }
        calls.push(vec![TokenRun { start: token, count: 1 }]);
        in_call = 1;
    }
    calls
}
