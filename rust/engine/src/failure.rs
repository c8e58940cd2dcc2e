//! Why a transfer failed: facts that can be kept, told twice, and turned into an exception.

use std::fmt;

use weft_transport::TransportError;
use weft_wire::{Advert, Code, Refusal};

/// The reason of a failure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The stable name, the same as the `code` of the Python class.
    pub code: &'static str,
    /// Who the other side is; empty where there is none.
    pub peer: String,
    /// The range, as its owner names it; empty where there is none.
    pub region: String,
    /// Where in it the failed part begins, in bytes.
    pub offset: u64,
    /// One sentence.
    pub detail: String,
    /// Whether the same may succeed later.
    pub temporary: bool,
}

impl Failure {
    /// A failure that concerns no range.
    pub fn new(code: &'static str, peer: &str, detail: impl Into<String>) -> Self {
        let (peer, detail) = (peer.to_owned(), detail.into());
        Self { code, peer, region: String::new(), offset: 0, detail, temporary: false }
    }

    /// The caller asked for something no peer could do.
    pub fn argument(detail: impl Into<String>) -> Self {
        Self::new("bad_argument", "", detail)
    }

    /// The deadline passed.
    pub fn timed_out(peer: &str, doing: &str) -> Self {
        let detail = format!("{peer} did not answer in time while {doing}; is the process stopped or the network cut?");
        Self { temporary: true, ..Self::new("timed_out", peer, detail) }
    }

    /// This side closed.
    pub fn closed(peer: &str) -> Self {
        Self::new("closed", peer, "the endpoint was closed on this side")
    }

    /// What the connection says.
    pub fn of(error: &TransportError) -> Self {
        Self { temporary: error.temporary(), ..Self::new(error.code(), error.peer(), error.to_string()) }
    }

    /// What the peer says.
    pub fn refused(peer: &str, refusal: &Refusal) -> Self {
        let detail = format!("{peer} refused ({}): {}", refusal.code.name(), refusal.detail);
        Self { temporary: refusal.code.temporary(), ..Self::new(refusal.code.name(), peer, detail) }
    }

    /// The same, of this range.
    #[must_use]
    pub fn at(mut self, region: &str, offset: u64) -> Self {
        region.clone_into(&mut self.region);
        self.offset = offset;
        self
    }

    /// The same, of a transfer that begins here, unless it says already where it failed.
    #[must_use]
    pub fn within(self, advert: &Advert, offset: u64) -> Self {
        if self.region.is_empty() { self.at(&advert.region(), offset) } else { self }
    }

    /// Whether it is the peer's refusal with this code.
    pub fn is(&self, code: Code) -> bool {
        self.code == code.name()
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.detail)
    }
}

impl std::error::Error for Failure {}
