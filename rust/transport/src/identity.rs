//! Who speaks: the cluster, the secret's keys, a name and a life.

use std::fmt;
use std::sync::Arc;

use weft_wire::{grant_key, hello_key, near_socket};

use crate::Tls;

/// This process as its peers know it. The secret itself is not kept, only the keys derived from it.
#[derive(Clone)]
pub struct Identity {
    /// The cluster this process belongs to.
    pub cluster_id: [u8; 16],
    /// Node or process name.
    pub name: String,
    /// This life of the process.
    pub incarnation: u64,
    pub(crate) hello_key: [u8; 32],
    pub(crate) grant_key: [u8; 32],
    pub(crate) tls: Option<Arc<Tls>>,
}

impl Identity {
    /// An identity whose keys come from the cluster's `secret`.
    pub fn new(cluster_id: [u8; 16], secret: &[u8], name: impl Into<String>, incarnation: u64) -> Self {
        let (hello_key, grant_key) = (hello_key(secret), grant_key(secret));
        Self { cluster_id, name: name.into(), incarnation, hello_key, grant_key, tls: None }
    }

    /// The same, speaking TLS and nothing else where there are certificates. It goes by a name they hold.
    #[must_use]
    pub fn with_tls(mut self, tls: Option<Arc<Tls>>) -> Self {
        if let Some(tls) = &tls {
            self.name = tls.name_for(&self.name);
        }
        self.tls = tls;
        self
    }

    /// Whether it does.
    pub fn speaks_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// Where a life of a lender hands its extents to processes of its machine.
    pub fn near_socket(&self, lender: &str, incarnation: u64) -> String {
        near_socket(&self.hello_key, &self.cluster_id, lender, incarnation)
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity")
            .field("name", &self.name)
            .field("incarnation", &self.incarnation)
            .finish_non_exhaustive()
    }
}

/// The other side, as it proved itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerIdentity {
    /// Node or process name.
    pub name: String,
    /// That life of it.
    pub incarnation: u64,
}
