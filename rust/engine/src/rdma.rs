//! Peers by queue pair, where both ends have RDMA.

use std::sync::Arc;
use std::time::Instant;

use weft_transport::{Driven, TransportError};
use weft_verbs::{Lender, Rail, RdmaDialer};

use crate::link::Shortcut;

/// What an endpoint has of RDMA: the device, and the desk that lends its registered memory by keys.
pub struct Rdma {
    /// The device.
    pub rail: Arc<Rail>,
    /// Gives keys to whoever presents an advert; none for an endpoint that only calls.
    pub lender: Option<Lender>,
}

/// The way to one peer by queue pair.
pub struct ByQueuePair(pub RdmaDialer);

impl Shortcut for ByQueuePair {
    fn dial(&self, deadline: Instant) -> Result<Box<dyn Driven>, TransportError> {
        self.0.dial(deadline)
    }

    fn transport(&self) -> &'static str {
        "rdma"
    }
}
