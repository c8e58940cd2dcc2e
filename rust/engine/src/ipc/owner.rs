//! An endpoint's buffers, as neighbours reach them: for processes of its own user.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use weft_sys::neighbour::{Credentials, user};
use weft_transport::Server;
use weft_wire::{Code, Grant, Refusal, decode_opening, grant_key};

use crate::ipc::desk::{Desk, Given, Judge, lost};
use crate::memory::{Memory, Withdraw};

struct Buffers {
    cluster_id: [u8; 16],
    incarnation: u64,
    key: [u8; 32],
    now_ms: fn() -> u64,
    memory: Arc<Memory>,
    server: Arc<Server>,
}

/// Answers neighbours until it is closed.
pub struct Owner {
    desk: Arc<Desk<Buffers>>,
    name: String,
}

impl Owner {
    /// Listens under a name of its own.
    ///
    /// # Errors
    /// No UNIX sockets, or out of descriptors or threads.
    pub fn start(
        cluster_id: [u8; 16],
        secret: &[u8],
        incarnation: u64,
        memory: Arc<Memory>,
        server: Arc<Server>,
        now_ms: fn() -> u64,
    ) -> io::Result<Self> {
        let mut random = [0u8; 16];
        weft_sys::random::fill(&mut random)?;
        let name = format!("weft-{:032x}", u128::from_le_bytes(random));
        let buffers = Buffers { cluster_id, incarnation, key: grant_key(secret), now_ms, memory, server };
        Ok(Self { desk: Arc::new(Desk::start(&name, incarnation, buffers)?), name })
    }

    /// The name of its socket.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whom to ask before memory goes.
    pub fn withdrawing(&self) -> Arc<dyn Withdraw> {
        Arc::clone(&self.desk) as _
    }

    /// Ends every conversation: what was attached is out of reach. Twice is once.
    pub fn close(&self) {
        self.desk.close();
    }
}

impl Judge for Buffers {
    type Key = u64;

    fn hears(&self, who: &Credentials) -> bool {
        who.user == user()
    }

    /// Checks an opening and its grant as a server would.
    fn examine(&self, record: &[u8]) -> Result<Given<u64>, Refusal> {
        let (incarnation, opening) =
            record.split_at_checked(8).ok_or_else(|| Refusal::new(Code::BadFrame, "an attach begins with a life"))?;
        let (writer, epoch, grant) =
            decode_opening(opening).map_err(|cause| Refusal::new(Code::GrantForged, cause.to_string()))?;
        let grant = Grant::verify(grant, &self.key)
            .map_err(|_| Refusal::new(Code::GrantForged, "the grant was not minted with this cluster's secret"))?;
        if grant.cluster_id != self.cluster_id {
            return Err(Refusal::new(Code::WrongCluster, "the grant is another cluster's"));
        }
        if (self.now_ms)() >= grant.expires_at_ms {
            return Err(Refusal::new(Code::GrantExpired, "the advert's time is over; ask its owner for another"));
        }
        if u64::from_le_bytes(incarnation.try_into().expect("eight bytes")) != self.incarnation {
            return Err(lost());
        }
        let extent = self.server.store().find(&grant.region_id, 0).ok_or_else(lost)?;
        drop(extent.gate.enter(grant.generation)?);
        if grant.rights.can_write() {
            extent.take_writer(writer, epoch)?;
        }
        let buffer = grant.region_id.strip_prefix("buffer-").and_then(|number| u64::from_str_radix(number, 16).ok());
        let buffer = buffer.ok_or_else(|| Refusal::new(Code::NotSupported, "only buffers are reached this way"))?;
        let reachable = self.memory.reachable(buffer).ok_or_else(lost)?;
        let lent = self.memory.lent(reachable.span);
        let lent = lent.and_then(|(mapping, offset)| Some((mapping.lent()?.try_clone_to_owned().ok()?, offset)));
        Ok(Given {
            key: buffer,
            base: reachable.span.base() as u64,
            size: reachable.span.len() as u64,
            writable: grant.rights.can_write() && reachable.writable,
            expires_at_ms: grant.expires_at_ms,
            lent,
        })
    }

    fn holds(&self, buffer: &u64) -> bool {
        // A withdrawal raises the buffer's gate above every grant before it does anything else.
        let extent = self.server.store().find(&weft_wire::Advert::region_id(*buffer), 0);
        extent.is_some_and(|extent| extent.gate.generation() < u64::MAX) && self.memory.reachable(*buffer).is_some()
    }
}

impl Withdraw for Desk<Buffers> {
    fn withdraw(&self, buffer: u64, timeout: Duration) -> bool {
        self.clear(&buffer, timeout)
    }
}
