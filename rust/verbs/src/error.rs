//! What can go wrong below the lane: with the library, the device, or one piece of work.

use std::fmt;
use std::io;

use crate::ffi::layout as ibv;

/// How a piece of work ended, as the device says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Carried out.
    Done,
    /// The peer had no receive posted, however often it was asked.
    ReceiverNotReady,
    /// The peer acknowledged nothing, however often it was sent: it is gone, stopped, or the path is cut.
    RetriesExceeded,
    /// The peer's device refused the key, the range or the right.
    RemoteAccess,
    /// The peer's device refused the request itself, or failed at it.
    RemoteRefused,
    /// This side's own memory was not what the device expected.
    LocalMemory,
    /// It was still waiting when the queue pair failed or was closed.
    Flushed,
    /// The device itself failed.
    Fatal,
    /// Any other number of the library's.
    Other(u32),
}

impl Status {
    /// The status with this number.
    pub const fn from_number(number: u32) -> Self {
        match number {
            ibv::IBV_WC_SUCCESS => Self::Done,
            ibv::IBV_WC_RNR_RETRY_EXC_ERR => Self::ReceiverNotReady,
            ibv::IBV_WC_RETRY_EXC_ERR | ibv::IBV_WC_RESP_TIMEOUT_ERR => Self::RetriesExceeded,
            ibv::IBV_WC_REM_ACCESS_ERR => Self::RemoteAccess,
            ibv::IBV_WC_REM_INV_REQ_ERR | ibv::IBV_WC_REM_OP_ERR => Self::RemoteRefused,
            ibv::IBV_WC_LOC_LEN_ERR | ibv::IBV_WC_LOC_PROT_ERR => Self::LocalMemory,
            ibv::IBV_WC_WR_FLUSH_ERR => Self::Flushed,
            ibv::IBV_WC_FATAL_ERR => Self::Fatal,
            other => Self::Other(other),
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Done => f.write_str("it was carried out"),
            Self::ReceiverNotReady => f.write_str("the peer had no receive posted"),
            Self::RetriesExceeded => {
                f.write_str("the peer acknowledged nothing; it is gone, stopped, or the path is cut")
            }
            Self::RemoteAccess => f.write_str("the peer's device refused the key; it was withdrawn or never given"),
            Self::RemoteRefused => f.write_str("the peer's device refused the request"),
            Self::LocalMemory => f.write_str("the device refused this side's own memory"),
            Self::Flushed => f.write_str("the queue pair failed before its turn came"),
            Self::Fatal => f.write_str("the device failed"),
            Self::Other(number) => write!(f, "the device ended it with status {number}"),
        }
    }
}

/// Why something over verbs did not succeed. None of these ever fails a transfer by itself: the lane goes on over TCP.
#[derive(Debug)]
pub enum VerbsError {
    /// There is no RDMA here: no library, or no device with an active port.
    Unavailable(String),
    /// The library or the kernel refused a call.
    Call {
        /// What was being done.
        doing: &'static str,
        /// What it said.
        cause: io::Error,
    },
    /// A piece of work failed, and the queue pair with it.
    Work {
        /// What was being done.
        doing: &'static str,
        /// What the device said.
        status: Status,
    },
    /// The device or its port went away.
    DeviceLost(String),
    /// Memory that must not be pinned, or does not exist.
    Memory(String),
    /// A queue pair was used out of order, or beyond a bound.
    State(String),
    /// The peer's words make no sense.
    Words(&'static str),
    /// The deadline passed first.
    TimedOut(&'static str),
}

impl VerbsError {
    /// The error of a call that left its reason in `errno`.
    pub fn last(doing: &'static str) -> Self {
        Self::Call { doing, cause: io::Error::last_os_error() }
    }

    /// The error of a call that returned its reason.
    pub fn returned(doing: &'static str, errno: i32) -> Self {
        // Some providers return -1 and set errno, others return the number itself.
        if errno < 0 { Self::last(doing) } else { Self::Call { doing, cause: io::Error::from_raw_os_error(errno) } }
    }
}

impl fmt::Display for VerbsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unavailable(why) => write!(f, "there is no RDMA here: {why}"),
            Self::Call { doing, cause } => write!(f, "{doing}: {cause}"),
            Self::Work { doing, status } => write!(f, "{doing}: {status}"),
            Self::DeviceLost(what) => write!(f, "the RDMA device went away: {what}"),
            Self::Memory(what) | Self::State(what) => f.write_str(what),
            Self::Words(what) => write!(f, "the peer's words about RDMA make no sense: {what}"),
            Self::TimedOut(doing) => write!(f, "the deadline passed while {doing}"),
        }
    }
}

impl std::error::Error for VerbsError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Call { cause, .. } => Some(cause),
            _ => None,
        }
    }
}
