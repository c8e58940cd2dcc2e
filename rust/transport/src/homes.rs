//! The lenders of a window: who they are, and one thread's connections to them.
//!
//! [`Homes`] is shared by all threads of a window and changes only when a grant is renewed or a lender moves. [`Links`]
//! belongs to one thread: a connection to each lender it needs, with every extent that lender holds opened on it.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::time::Instant;

use weft_pager::source::FetchError;

use crate::peer::{Opened, Peer, PeerAddress};
use crate::tcp::ConnectOptions;
use crate::{Identity, TransportError, Upgrade};

/// One extent of a window, and who lends it.
#[derive(Clone, Debug)]
pub struct ExtentHome {
    /// Index into [`Homes::lenders`].
    pub lender: usize,
    /// The region as the lender knows it.
    pub index: u32,
    /// The life of the lender that holds it; `None` takes the life met first and stays with it.
    pub incarnation: Option<u64>,
}

/// Everything a window's channels share.
pub struct Homes {
    /// This process.
    pub identity: Arc<Identity>,
    /// How lanes connect.
    pub options: ConnectOptions,
    /// Extents by number.
    pub extents: Vec<ExtentHome>,
    /// Names of the lenders.
    pub lenders: Vec<String>,
    changing: RwLock<Changing>,
    version: AtomicU64,
    upgrade: OnceLock<Arc<dyn Upgrade>>,
}

struct Changing {
    addresses: Vec<Option<SocketAddr>>,
    grants: Vec<Arc<[u8]>>,
}

impl Homes {
    /// The homes of a window. `grants` holds one for each extent; `addresses` one for each lender, `None` for a lender
    /// that has no endpoint.
    pub fn new(
        identity: Arc<Identity>,
        options: ConnectOptions,
        extents: Vec<ExtentHome>,
        lenders: Vec<String>,
        addresses: Vec<Option<SocketAddr>>,
        grants: Vec<Arc<[u8]>>,
    ) -> Self {
        assert_eq!(extents.len(), grants.len(), "a grant for each extent");
        assert_eq!(lenders.len(), addresses.len(), "an address, or none, for each lender");
        let changing = RwLock::new(Changing { addresses, grants });
        Self { identity, options, extents, lenders, changing, version: AtomicU64::new(1), upgrade: OnceLock::new() }
    }

    /// Makes more of the connections that are made from now on. The first word holds.
    pub fn set_upgrade(&self, upgrade: Arc<dyn Upgrade>) {
        let _ = self.upgrade.set(upgrade);
    }

    /// Takes a renewed grant for every extent.
    pub fn renew(&self, grant: &Arc<[u8]>) {
        let mut changing = self.changing.write().unwrap_or_else(PoisonError::into_inner);
        changing.grants.fill(Arc::clone(grant));
        self.version.fetch_add(1, Ordering::Release);
    }

    /// Takes a new address for one lender; a name that is none of the lenders' is ignored.
    pub fn set_address(&self, lender: &str, address: SocketAddr) {
        if let Some(index) = self.lenders.iter().position(|name| name == lender) {
            let mut changing = self.changing.write().unwrap_or_else(PoisonError::into_inner);
            changing.addresses[index] = Some(address);
            self.version.fetch_add(1, Ordering::Release);
        }
    }
}

/// One thread's connections to the lenders of a window, opened as they are needed.
pub struct Links {
    homes: Arc<Homes>,
    version: u64,
    lenders: Vec<Option<Link>>,
    /// Extents as they were opened, or why they cannot be.
    opened: Vec<Option<Result<Opened, FetchError>>>,
}

struct Link {
    peer: Peer,
    ready: bool,
}

impl Links {
    /// No connection yet.
    pub fn new(homes: Arc<Homes>) -> Self {
        let lenders = homes.lenders.iter().map(|_| None).collect();
        let opened = homes.extents.iter().map(|_| None).collect();
        Self { homes, version: 0, lenders, opened }
    }

    /// The lender's peer with every extent it lends opened, and the handle of `extent`.
    ///
    /// Opening waits for its answer, so it happens only on a connection on which nothing is outstanding: all of a
    /// lender's extents at once, when the connection is new.
    pub fn ready(&mut self, extent: usize, deadline: Instant) -> Result<(&mut Peer, Opened), FetchError> {
        self.take_changes();
        let lender = self.homes.extents[extent].lender;
        let connected = self.lenders[lender].as_mut().is_some_and(|link| link.ready && link.peer.lane().is_some());
        if !connected {
            self.open_all(lender, deadline)?;
        }
        let opened = match &self.opened[extent] {
            Some(Ok(opened)) => *opened,
            Some(Err(error)) => return Err(error.clone()),
            None => unreachable!("every extent of a ready lender was opened or refused"),
        };
        Ok((&mut self.lenders[lender].as_mut().expect("ready above").peer, opened))
    }

    /// The lender's peer, connected or not.
    pub fn peer(&mut self, lender: usize) -> Option<&mut Peer> {
        self.lenders[lender].as_mut().map(|link| &mut link.peer)
    }

    /// The lenders' numbers.
    pub fn lenders(&self) -> std::ops::Range<usize> {
        0..self.lenders.len()
    }

    /// A lender's name.
    pub fn name_of(&self, lender: usize) -> &str {
        &self.homes.lenders[lender]
    }

    /// The lender of an extent.
    pub fn lender_of(&self, extent: usize) -> usize {
        self.homes.extents[extent].lender
    }

    fn open_all(&mut self, lender: usize, deadline: Instant) -> Result<(), FetchError> {
        let homes = Arc::clone(&self.homes);
        let (address, grants) = {
            let changing = homes.changing.read().unwrap_or_else(PoisonError::into_inner);
            (changing.addresses[lender], changing.grants.clone())
        };
        let name = &homes.lenders[lender];
        let Some(address) = address else {
            return Err(FetchError {
                node: name.clone(),
                code: "unreachable",
                detail: "the node has no endpoint at the coordinator; is it running?".to_owned(),
                temporary: true,
            });
        };
        let link = self.lenders[lender].get_or_insert_with(|| {
            let address = PeerAddress { node: name.clone(), address };
            let mut peer = Peer::new(address, Arc::clone(&homes.identity), homes.options.clone());
            if let Some(upgrade) = homes.upgrade.get() {
                peer.set_upgrade(Arc::clone(upgrade));
            }
            Link { peer, ready: false }
        });
        // Opening waits for its answers, so nothing else may be outstanding on this lane. Whoever had something outstanding
        // sees by the new lane's number that it must ask again.
        link.peer.drop_lane();
        link.ready = false;
        for (number, home) in homes.extents.iter().enumerate() {
            if home.lender != lender {
                continue;
            }
            let result = match &self.opened[number] {
                Some(Ok(opened)) => link.peer.handle(*opened, deadline).map(|_| *opened),
                _ => open_one(&mut link.peer, home, &grants[number], deadline),
            };
            match result {
                Ok(opened) => self.opened[number] = Some(Ok(opened)),
                Err(error) if !error.breaks_lane() && !error.temporary() => {
                    self.opened[number] = Some(Err(fetch_error(&error, name)));
                }
                Err(error) => {
                    link.peer.drop_lane();
                    return Err(fetch_error(&error, name));
                }
            }
        }
        link.ready = true;
        Ok(())
    }

    fn take_changes(&mut self) {
        let version = self.homes.version.load(Ordering::Acquire);
        if version == self.version {
            return;
        }
        self.version = version;
        let changing = self.homes.changing.read().unwrap_or_else(PoisonError::into_inner);
        for (number, home) in self.homes.extents.iter().enumerate() {
            if let Some(link) = &mut self.lenders[home.lender] {
                link.peer.renew(&changing.grants[number]);
                if matches!(self.opened[number], Some(Err(_))) {
                    // Refused under the old grant or address; the new one deserves a try on a new connection.
                    link.ready = false;
                    self.opened[number] = None;
                }
            }
        }
        for (link, address) in self.lenders.iter_mut().zip(&changing.addresses) {
            if let (Some(link), Some(address)) = (link, address) {
                link.peer.set_address(*address);
            }
        }
    }
}

fn open_one(
    peer: &mut Peer,
    home: &ExtentHome,
    grant: &Arc<[u8]>,
    deadline: Instant,
) -> Result<Opened, TransportError> {
    let incarnation = match home.incarnation {
        Some(incarnation) => incarnation,
        None => {
            peer.ensure_lane(deadline)?;
            peer.identity().expect("connected above").incarnation
        }
    };
    peer.open(grant, home.index, incarnation, deadline)
}

/// A transport's error as the pager knows errors.
pub fn fetch_error(error: &TransportError, node: &str) -> FetchError {
    FetchError { node: node.to_owned(), code: error.code(), detail: error.to_string(), temporary: error.temporary() }
}
