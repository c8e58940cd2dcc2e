//! What can go wrong between two machines, as the side that asked sees it.

use std::fmt;
use std::io;

use weft_wire::{Code, WireError};

use crate::TlsFault;

/// Why an operation did not succeed. `code()` is the stable name, the display is the sentence.
#[derive(Debug)]
pub enum TransportError {
    /// The peer refused the request and said why.
    Refused {
        /// Who refused.
        peer: String,
        /// Why.
        code: Code,
        /// The peer's sentence.
        detail: String,
    },
    /// The deadline passed first.
    TimedOut {
        /// Who did not answer.
        peer: String,
        /// What was being done.
        doing: &'static str,
    },
    /// The connection ended while something was outstanding.
    Disconnected {
        /// Who went away.
        peer: String,
        /// What was being done.
        doing: &'static str,
        /// What the kernel said; none when the peer closed in order.
        cause: Option<io::Error>,
    },
    /// No connection could be made.
    Unreachable {
        /// Who was to be reached.
        peer: String,
        /// What the kernel said.
        cause: io::Error,
    },
    /// The peer sent bytes that are no answer.
    Garbage {
        /// Who sent them.
        peer: String,
        /// What is wrong with them.
        cause: WireError,
    },
    /// The peer does not know the cluster's secret.
    WrongSecret {
        /// Who answered.
        peer: String,
    },
    /// TLS could not be spoken with it: it has none, a certificate is not good enough, or what came was altered.
    Tls {
        /// Who it is, or where.
        peer: String,
        /// What stood in the way.
        fault: TlsFault,
    },
    /// This side closed.
    Closed {
        /// Who it was connected to.
        peer: String,
    },
    /// The caller asked for something no peer could do.
    BadArgument(String),
}

impl TransportError {
    /// What a connection that ended while `doing` something ended by.
    pub(crate) fn broken_by(peer: String, doing: &'static str, cause: Option<io::Error>) -> Self {
        match cause.as_ref().and_then(TlsFault::of_io) {
            Some(fault) => Self::Tls { peer, fault: fault.clone() },
            None => Self::Disconnected { peer, doing, cause },
        }
    }

    /// The stable name, the same as the `code` of the Python class.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Refused { code, .. } => code.name(),
            Self::TimedOut { .. } => "timed_out",
            Self::Disconnected { .. } => "disconnected",
            Self::Unreachable { .. } => "unreachable",
            Self::Garbage { cause: WireError::Version(_), .. } => "unsupported_version",
            Self::Garbage { .. } => "bad_frame",
            Self::WrongSecret { .. } => "wrong_secret",
            Self::Tls { fault, .. } => fault.code(),
            Self::Closed { .. } => "closed",
            Self::BadArgument(_) => "bad_argument",
        }
    }

    /// Whether the same operation may succeed later, unchanged.
    pub const fn temporary(&self) -> bool {
        match self {
            Self::Refused { code, .. } => code.temporary(),
            Self::TimedOut { .. } | Self::Disconnected { .. } | Self::Unreachable { .. } => true,
            Self::Tls { fault, .. } => fault.temporary(),
            _ => false,
        }
    }

    /// Whether the lane is of no use any more: what comes next on it cannot be told apart from what was given up.
    pub const fn breaks_lane(&self) -> bool {
        !matches!(self, Self::Refused { .. } | Self::BadArgument(_))
    }

    /// Who the other side is; empty where there is none.
    pub fn peer(&self) -> &str {
        match self {
            Self::Refused { peer, .. }
            | Self::TimedOut { peer, .. }
            | Self::Disconnected { peer, .. }
            | Self::Unreachable { peer, .. }
            | Self::Garbage { peer, .. }
            | Self::WrongSecret { peer }
            | Self::Tls { peer, .. }
            | Self::Closed { peer } => peer,
            Self::BadArgument(_) => "",
        }
    }
}

impl fmt::Display for TransportError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused { peer, code, detail } => write!(f, "{peer} refused ({}): {detail}", code.name()),
            Self::TimedOut { peer, doing } => {
                write!(f, "{peer} did not answer in time while {doing}; is the machine stopped or the network cut?")
            }
            Self::Disconnected { peer, doing, cause: Some(cause) } => {
                write!(f, "the connection to {peer} broke while {doing}: {cause}")
            }
            Self::Disconnected { peer, doing, cause: None } => {
                write!(f, "{peer} closed the connection while {doing}; is the node still running?")
            }
            Self::Unreachable { peer, cause } => {
                write!(f, "{peer} cannot be reached: {cause}; is the node running and its port open?")
            }
            Self::Garbage { peer, cause } => write!(f, "{peer} does not speak Weft's wire: {cause}"),
            Self::WrongSecret { peer } => write!(
                f,
                "{peer} could not prove the cluster's secret; give both machines the same WEFT_SECRET (see `weft join`)"
            ),
            Self::Tls { peer, fault } => write!(f, "{peer} {fault}"),
            Self::Closed { peer } => write!(f, "the connection to {peer} was closed on this side"),
            Self::BadArgument(what) => f.write_str(what),
        }
    }
}

impl std::error::Error for TransportError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Disconnected { cause: Some(cause), .. } | Self::Unreachable { cause, .. } => Some(cause),
            Self::Garbage { cause, .. } => Some(cause),
            Self::Tls { fault, .. } => Some(fault),
            _ => None,
        }
    }
}
