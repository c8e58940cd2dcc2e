//! What moved over which transport, and why a transport is of no use.

use std::sync::atomic::{AtomicU64, Ordering};

use weft_transport::TransportError;

/// The transports by the names people read, in the order they are listed in.
pub const WAYS: [&str; 4] = ["ipc", "rdma", "tcpx", "tcp"];

/// Bytes that moved to and from one peer, by the transport that carried them.
#[derive(Debug, Default)]
pub struct Moved([AtomicU64; WAYS.len()]);

impl Moved {
    /// So many more moved by this transport.
    pub fn add(&self, transport: &str, bytes: u64) {
        if let Some(index) = WAYS.iter().position(|way| *way == transport) {
            self.0[index].fetch_add(bytes, Ordering::Relaxed);
        }
    }

    /// All that moved at all.
    pub fn list(&self) -> Vec<(&'static str, u64)> {
        let counted = WAYS.iter().zip(&self.0).map(|(way, bytes)| (*way, bytes.load(Ordering::Relaxed)));
        counted.filter(|(_, bytes)| *bytes > 0).collect()
    }
}

/// Why a way could not be had, or broke: of what another transport than TCP says, its own words.
pub(crate) fn reason(error: &TransportError) -> String {
    match error {
        TransportError::Unreachable { cause, .. } | TransportError::Disconnected { cause: Some(cause), .. } => {
            cause.to_string()
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_counted_by_what_carried_them() {
        let moved = Moved::default();
        moved.add("rdma", 5);
        moved.add("tcp", 7);
        moved.add("rdma", 1);
        moved.add("carrier pigeon", 9);
        assert_eq!(moved.list(), [("rdma", 6), ("tcp", 7)]);
    }
}
