//! Making more of a connection than TCP.

use std::time::Instant;

use crate::{Lane, TransportError};

/// Something faster that two peers may agree on over a fresh connection.
pub trait Upgrade: Send + Sync {
    /// Makes the most of `lane`, on which nothing is outstanding. What comes back takes its place, and carries on over it
    /// where nothing better can be had.
    ///
    /// # Errors
    /// Only what broke the connection itself.
    fn upgrade(&self, lane: Box<dyn Lane>, deadline: Instant) -> Result<Box<dyn Lane>, TransportError>;
}
