//! Why a request was refused: a number on the wire, a stable name for programs, a sentence for people.

use std::fmt;

/// The reason of a refusal. The names are the `code` of the Python classes; the numbers are the wire's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum Code {
    /// The bytes are not a frame.
    BadFrame = 1,
    /// A wire version this side does not speak.
    UnsupportedVersion = 2,
    /// The peer belongs to another cluster.
    WrongCluster = 3,
    /// The peer does not know the cluster's secret.
    WrongSecret = 4,
    /// A request before the handshake.
    NotAuthenticated = 5,
    /// The grant's authentication does not hold.
    GrantForged = 6,
    /// The grant's time is over.
    GrantExpired = 7,
    /// A newer attachment exists.
    StaleGeneration = 8,
    /// The lender does not hold the extent, or holds it no more.
    ExtentLost = 9,
    /// A handle that was never given out on this connection.
    UnknownHandle = 10,
    /// A range outside the extent.
    OutOfRange = 11,
    /// A write where the grant allows reading.
    ReadOnly = 12,
    /// More than a frame or a table may hold.
    TooLarge = 13,
    /// A bound was reached; again later.
    Busy = 14,
    /// The server is going away.
    ShuttingDown = 15,
    /// Something this side does not do.
    NotSupported = 16,
    /// The machine has no memory for it.
    NoMemory = 17,
    /// A defect of the server.
    Internal = 18,
    /// One end speaks TLS and the other does not.
    TlsMismatch = 19,
    /// The certificate is for another name than the one its holder goes by.
    CertificateRefused = 20,
}

impl Code {
    /// Every code, in the order of the numbers.
    pub const ALL: [Self; 20] = [
        Self::BadFrame,
        Self::UnsupportedVersion,
        Self::WrongCluster,
        Self::WrongSecret,
        Self::NotAuthenticated,
        Self::GrantForged,
        Self::GrantExpired,
        Self::StaleGeneration,
        Self::ExtentLost,
        Self::UnknownHandle,
        Self::OutOfRange,
        Self::ReadOnly,
        Self::TooLarge,
        Self::Busy,
        Self::ShuttingDown,
        Self::NotSupported,
        Self::NoMemory,
        Self::Internal,
        Self::TlsMismatch,
        Self::CertificateRefused,
    ];

    /// The code with this number; a number of a later version counts as `Internal`.
    pub fn from_number(number: u64) -> Self {
        usize::try_from(number)
            .ok()
            .and_then(|number| number.checked_sub(1))
            .and_then(|index| Self::ALL.get(index))
            .copied()
            .unwrap_or(Self::Internal)
    }

    /// The stable name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::BadFrame => "bad_frame",
            Self::UnsupportedVersion => "unsupported_version",
            Self::WrongCluster => "wrong_cluster",
            Self::WrongSecret => "wrong_secret",
            Self::NotAuthenticated => "not_authenticated",
            Self::GrantForged => "grant_forged",
            Self::GrantExpired => "grant_expired",
            Self::StaleGeneration => "stale_generation",
            Self::ExtentLost => "extent_lost",
            Self::UnknownHandle => "unknown_handle",
            Self::OutOfRange => "out_of_range",
            Self::ReadOnly => "read_only",
            Self::TooLarge => "too_large",
            Self::Busy => "busy",
            Self::ShuttingDown => "shutting_down",
            Self::NotSupported => "not_supported",
            Self::NoMemory => "no_memory",
            Self::Internal => "internal",
            Self::TlsMismatch => "tls_mismatch",
            Self::CertificateRefused => "certificate_refused",
        }
    }

    /// Whether the same request may succeed later, unchanged.
    pub const fn temporary(self) -> bool {
        matches!(self, Self::Busy | Self::ShuttingDown | Self::NoMemory)
    }
}

/// A refusal as the server decides it: the code and one sentence with the facts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Why.
    pub code: Code,
    /// The sentence, with the numbers that matter and what to do.
    pub detail: String,
}

impl Refusal {
    /// A refusal with this sentence.
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        Self { code, detail: detail.into() }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code.name(), self.detail)
    }
}
