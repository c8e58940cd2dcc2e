//! What can go wrong with a window, for those who ask. (Those who touch get SIGBUS; see [`crate::lost`].)

use std::fmt;
use std::io;

use crate::source::FetchError;

/// A page that its home did not give.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageUnavailable {
    /// The region's name.
    pub region: String,
    /// The page's first byte, counted in the region.
    pub offset: u64,
    /// The node that was asked, or that would have been.
    pub node: String,
    /// A stable name for what happened, from the list of native errors.
    pub code: &'static str,
    /// What happened, as the end of a sentence.
    pub reason: String,
    /// Whether asking again later may help.
    pub temporary: bool,
}

impl fmt::Display for PageUnavailable {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { region, offset, node, reason, .. } = self;
        write!(formatter, "page unavailable: region {region} offset {offset:#x} node {node}: {reason}")
    }
}

/// What an operation on a window answers when it did not do what it was asked.
#[derive(Debug)]
pub enum PagerError {
    /// This process may not open a userfaultfd.
    NoPrivilege {
        /// What was refused, and what would allow it.
        detail: String,
    },
    /// This kernel lacks something the window needs.
    NotSupported {
        /// What it lacks.
        detail: String,
    },
    /// The caller asked for something impossible.
    BadArgument {
        /// What is wrong with it.
        detail: String,
    },
    /// A range that leaves the window.
    OutOfRange {
        /// First byte asked for.
        offset: u64,
        /// Bytes asked for.
        len: u64,
        /// Bytes there are.
        window: u64,
    },
    /// A write to a window that is only read.
    ReadOnly,
    /// The window was stopped.
    Closed,
    /// A page that its home did not give.
    Unavailable(Box<PageUnavailable>),
    /// Pages that did not come home; they stay dirty and are sent again by the next flush.
    NotFlushed {
        /// Bytes that did come home before.
        flushed: u64,
        /// Why the others did not.
        error: FetchError,
    },
    /// A wait that reached its end.
    TimedOut {
        /// What was waited for.
        what: &'static str,
    },
    /// The kernel refused something that it should not.
    System {
        /// What was attempted.
        what: &'static str,
        /// Its answer.
        error: io::Error,
    },
}

impl PagerError {
    /// The stable name of the situation, from the list that every native error uses.
    pub fn code(&self) -> &'static str {
        match self {
            Self::NoPrivilege { .. } => "no_privilege",
            Self::NotSupported { .. } => "not_supported",
            Self::BadArgument { .. } => "bad_argument",
            Self::OutOfRange { .. } => "out_of_range",
            Self::ReadOnly => "read_only",
            Self::Closed => "closed",
            Self::Unavailable(_) => "page_unavailable",
            Self::NotFlushed { error, .. } => error.code,
            Self::TimedOut { .. } => "timed_out",
            Self::System { .. } => "internal",
        }
    }

    pub(crate) fn system(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |error| Self::System { what, error }
    }
}

impl fmt::Display for PagerError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoPrivilege { detail } | Self::NotSupported { detail } | Self::BadArgument { detail } => {
                formatter.write_str(detail)
            }
            Self::OutOfRange { offset, len, window } => {
                write!(formatter, "{len} bytes at offset {offset} leave a window of {window} bytes")
            }
            Self::ReadOnly => formatter.write_str("the window is attached for reading only"),
            Self::Closed => formatter.write_str("the window is closed"),
            Self::Unavailable(page) => page.fmt(formatter),
            Self::NotFlushed { flushed, error } => {
                write!(formatter, "not all pages came home ({flushed} bytes did): {error}")
            }
            Self::TimedOut { what } => write!(formatter, "{what} did not end by its deadline"),
            Self::System { what, error } => write!(formatter, "{what}: {error}"),
        }
    }
}

impl std::error::Error for PagerError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::NotFlushed { error, .. } => Some(error),
            Self::System { error, .. } => Some(error),
            _ => None,
        }
    }
}
