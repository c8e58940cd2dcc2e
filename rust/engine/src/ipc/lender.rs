//! What a server lends, handed to the processes of its machine: extents, to be mapped and read.
//!
//! Whoever asks has opened the extent over TCP first, and shows the same grant here. It may be another user's process: what
//! it is handed can be read and nothing else, by the kernel's word, and its gates are on a slate of its own. Writes stay on
//! TCP, where the newest writer fences the older and every page that was written is noted.

use std::io;
use std::sync::Arc;

use weft_sys::neighbour::Credentials;
use weft_transport::{Bypass, Identity, Server};
use weft_wire::{Code, Refusal};

use crate::ipc::desk::{Desk, Given, Judge};

/// An extent under one generation.
type Key = (String, u32, u64);

struct Extents(Arc<Server>);

/// Hands a server's extents over until it is closed.
pub struct NearLender {
    desk: Arc<Desk<Extents>>,
    told: Arc<dyn Bypass>,
    server: Arc<Server>,
}

impl NearLender {
    /// Hands over what `server` serves, as the lender `identity` is.
    ///
    /// # Errors
    /// No UNIX sockets, or out of descriptors or threads.
    pub fn start(server: &Arc<Server>, identity: &Identity) -> io::Result<Self> {
        let name = identity.near_socket(&identity.name, identity.incarnation);
        let desk = Arc::new(Desk::start(&name, identity.incarnation, Extents(Arc::clone(server)))?);
        let told: Arc<dyn Bypass> = Arc::clone(&desk) as _;
        server.store().tell(Arc::clone(&told));
        Ok(Self { desk, told, server: Arc::clone(server) })
    }

    /// Processes that are being lent to this way now.
    pub fn neighbours(&self) -> usize {
        self.desk.neighbours()
    }

    /// Takes back everything. Twice is once.
    pub fn close(&self) {
        self.desk.close();
        self.server.store().tell_no_more(&self.told);
    }
}

impl Drop for NearLender {
    fn drop(&mut self) {
        self.close();
    }
}

impl Judge for Extents {
    type Key = Key;

    fn hears(&self, _who: &Credentials) -> bool {
        true
    }

    /// A record is the extent's index u32, the lender's life u64, and the opening as it was sent over TCP.
    fn examine(&self, record: &[u8]) -> Result<Given<Key>, Refusal> {
        let bad = || Refusal::new(Code::BadFrame, "an attach begins with an index and a life");
        let (index, rest) = record.split_first_chunk::<4>().ok_or_else(bad)?;
        let (life, opening) = rest.split_first_chunk::<8>().ok_or_else(bad)?;
        let granted = self.0.examine(u32::from_le_bytes(*index).into(), u64::from_le_bytes(*life), opening)?;
        let extent = &granted.extent;
        let lent = extent.lent().and_then(|lent| lent.try_clone_to_owned().ok());
        let lent = lent.ok_or_else(|| Refusal::new(Code::NotSupported, "this extent is not handed over"))?;
        Ok(Given {
            key: (extent.region_id.clone(), extent.index, granted.generation),
            base: 0,
            size: extent.size_bytes(),
            writable: false,
            expires_at_ms: granted.expires_at_ms,
            lent: Some((lent, 0)),
        })
    }

    fn holds(&self, (region_id, index, generation): &Key) -> bool {
        let extent = self.0.store().find(region_id, *index);
        extent.is_some_and(|extent| extent.gate.generation() <= *generation)
    }
}

impl Bypass for Desk<Extents> {
    fn raise(&self, region_id: &str, lowest: u64) -> bool {
        // Nobody is waited for: who reads past this does not believe what it read.
        self.shut(|(region, _, generation)| region == region_id && *generation < lowest);
        true
    }

    fn release(&self, region_id: &str, index: u32) {
        self.shut(|(region, number, _)| region == region_id && *number == index);
    }

    fn fence(&self, _writer: u64, _epoch: u64) -> bool {
        // Nothing is written this way.
        true
    }
}
