//! Windows over memory of a process's own: where their remote pages come from, and how their local pages are served.
//!
//! Every node of the cluster may have one such window, all of the same size; page `n` is page `n` in each. A process that
//! holds the cluster's secret mints its own grants for its peers' windows: the right to reach them is knowing the secret.

use std::net::SocketAddr;
use std::sync::Arc;

use weft_pager::source::{FetchError, PageChannel, PageSource};
use weft_paging::directory::{Owner, PageDirectory};
use weft_sys::memory::Span;
use weft_wire::{Grant, Mode, PAGE_BYTES, Rights};

use crate::channel::{Channel, Place, Router};
use crate::homes::{ExtentHome, Homes};
use crate::store::{PageState, Pages};
use crate::tcp::ConnectOptions;
use crate::{Identity, Store};

/// Nodes a directory can name. The first seed's clusters have sixteen; a lender costs a name and an empty slot.
pub const NODES_MAX: u32 = 1024;

/// Where a claimed window's remote pages come from.
pub struct ClaimedSource {
    homes: Arc<Homes>,
    router: Arc<DirectoryRouter>,
}

struct DirectoryRouter {
    directory: Arc<PageDirectory>,
}

impl Router for DirectoryRouter {
    fn locate(&self, page: u64) -> Result<Place, FetchError> {
        match self.directory.get_owner(page) {
            Owner::Remote(node) => Ok(Place { extent: node as usize, offset: page * PAGE_BYTES, pages: 1 }),
            Owner::Local | Owner::Unknown => Err(FetchError {
                node: String::new(),
                code: "extent_lost",
                detail: format!("page {page} is no other node's any more"),
                temporary: false,
            }),
        }
    }
}

impl ClaimedSource {
    /// A source for the pages that `directory` says are remote. Peers are told one by one, as they are met.
    pub fn new(directory: Arc<PageDirectory>, identity: Arc<Identity>, options: ConnectOptions) -> Self {
        let lenders: Vec<String> = (0..NODES_MAX).map(|node| node.to_string()).collect();
        let extents =
            (0..NODES_MAX as usize).map(|lender| ExtentHome { lender, index: 0, incarnation: None }).collect();
        let grants = (0..NODES_MAX).map(|node| grant(&identity, node)).collect();
        let addresses = vec![None; NODES_MAX as usize];
        let homes = Arc::new(Homes::new(identity, options, extents, lenders, addresses, grants));
        Self { homes, router: Arc::new(DirectoryRouter { directory }) }
    }

    /// Says where a node is reached from now on.
    pub fn set_address(&self, node: u32, address: SocketAddr) {
        self.homes.set_address(&node.to_string(), address);
    }
}

impl PageSource for ClaimedSource {
    fn channel(&self) -> Result<Box<dyn PageChannel>, FetchError> {
        Ok(Box::new(Channel::new(Arc::clone(&self.homes), Arc::clone(&self.router))))
    }

    fn home(&self, page: u64) -> &str {
        match self.router.directory.get_owner(page) {
            Owner::Remote(node) => &self.homes.lenders[node as usize],
            Owner::Local | Owner::Unknown => &self.homes.identity.name,
        }
    }

    fn run_at(&self, _page: u64) -> u32 {
        1
    }
}

/// The name a node's window is served under.
fn region_id(node: u32) -> String {
    format!("window-{node}")
}

/// Its right to read a peer's window. It has no end: whoever can mint it could mint another.
fn grant(identity: &Identity, node: u32) -> Arc<[u8]> {
    let grant = Grant {
        cluster_id: identity.cluster_id,
        region_id: region_id(node),
        generation: 1,
        mode: Mode::Read,
        rights: Rights::READ,
        holder: identity.name.clone(),
        expires_at_ms: u64::MAX,
    };
    grant.mint(&identity.grant_key).into()
}

/// A node's own window as its server sees it: only pages this node owns are served.
pub struct ClaimedPages {
    directory: Arc<PageDirectory>,
    memory: Span,
}

impl ClaimedPages {
    /// Serves `memory` as node `node`'s window until [`ClaimedPages::withdraw`]. Whoever owns the memory keeps it mapped
    /// until then.
    ///
    /// # Errors
    /// When a window of this node is served already.
    pub fn serve(
        store: &Store,
        node: u32,
        memory: Span,
        directory: Arc<PageDirectory>,
    ) -> Result<(), weft_wire::Refusal> {
        store.serve(&region_id(node), 0, Arc::new(Self { directory, memory }))
    }

    /// Stops serving it, and returns when no request is touching it any more.
    pub fn withdraw(store: &Store, node: u32) {
        // The gate is raised above every grant first: a request that passed before is waited for, none passes after.
        store.raise_generation(&region_id(node), u64::MAX, std::time::Duration::from_secs(2));
        store.release(&region_id(node), 0);
    }
}

impl Pages for ClaimedPages {
    fn state(&self, page: u64) -> PageState {
        match self.directory.get_owner(page) {
            Owner::Local => PageState::Present,
            Owner::Unknown => PageState::Zero,
            Owner::Remote(_) => PageState::Elsewhere,
        }
    }

    fn span(&self) -> Span {
        self.memory
    }
}
