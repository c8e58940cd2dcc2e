//! The ways to a peer: what two processes found out about each other, and what moved over each way.
//!
//! Which way is taken is decided above this crate, from what both ends registered; here a way is taken, given up, or found
//! wanting. What if a way breaks while transfers are under way? They are asked again over TCP, which always stays; why the
//! way broke is kept for whoever asks.

use std::net::SocketAddr;
use std::sync::{Arc, PoisonError};
use std::time::Instant;

use weft_transport::{Driven, Spin, TransportError};
use weft_verbs::{EndpointRecord, Lender, Rail, RdmaDialer};

use crate::bounced::Bounced;
use crate::ipc::Neighbour;
use crate::link::{Link, OpenLane, Shortcut, WAITED_LANES_MAX, Waited};
use crate::moved::{WAYS, reason};
use crate::progress::Command;
use crate::rdma::{ByQueuePair, Rdma};
use crate::{Endpoint, Failure};

/// What two processes found out about each other when they greeted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Both run on one kernel.
    pub same_machine: bool,
    /// Both are of one user.
    pub same_user: bool,
    /// This end answers neighbours.
    pub answers_here: bool,
    /// The other end answers neighbours.
    pub answers_there: bool,
}

/// A link as it is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkStatus {
    /// Who is at its other end.
    pub peer: String,
    /// Where it listens.
    pub address: SocketAddr,
    /// The transport the last lane for data came up on.
    pub transport: &'static str,
    /// The one that is meant to be used.
    pub wanted: &'static str,
    /// Why the last lane that was meant to be faster did not come up, or broke; nothing while it works.
    pub trouble: Option<String>,
    /// Bytes moved, by transport.
    pub moved: Vec<(&'static str, u64)>,
}

impl Endpoint {
    /// Without anybody who says which way: a neighbour's, else a queue pair's, else TCP; a bounce buffer where one is wanted.
    pub(crate) fn take_best(&self, link: &Arc<Link>, deadline: Instant) {
        let facts = self.facts(link);
        let near = facts.same_machine && facts.same_user && facts.answers_there;
        if !(near && self.take_way(link, "ipc", None, deadline).is_ok()) && self.rdma().is_some() {
            // Without it everything works over TCP, and why is said where links are shown.
            let _ = self.take_way(link, "rdma", None, deadline);
        }
        if self.bounce.lock().unwrap_or_else(PoisonError::into_inner).is_some() {
            let _ = self.take_way(link, "tcpx", None, deadline);
        }
    }

    /// What this process and the link's peer found out about each other.
    pub fn facts(&self, link: &Link) -> Facts {
        let (ours, theirs) = (self.router.greeting(), &link.greeting);
        Facts {
            same_machine: !ours.machine.is_empty() && ours.machine == theirs.machine,
            same_user: ours.user == theirs.user,
            answers_here: self.owner.is_some(),
            answers_there: !theirs.socket.is_empty(),
        }
    }

    /// Has a link's transfers go another way from now on, one of [`WAYS`]. What is under way ends where it is, and the link
    /// stays as it was when no lane comes up. `expected` is the RDMA record its peer is known by.
    ///
    /// # Errors
    /// Why the way cannot be had; for "tcp", that this life of the peer does not answer any more.
    pub fn take_way(
        &self,
        link: &Arc<Link>,
        way: &str,
        expected: Option<EndpointRecord>,
        deadline: Instant,
    ) -> Result<(), Failure> {
        self.check_open()?;
        if self.identity.speaks_tls() && matches!(way, "rdma" | "tcpx") {
            let detail = format!("this process speaks TLS, and {way} does not encrypt");
            return Err(Failure::new("not_supported", &link.peer.name, detail));
        }
        let (connect, identity) = (self.connect.clone(), Arc::clone(&self.identity));
        let (address, peer) = (link.address, link.peer.clone());
        let shortcut: Arc<dyn Shortcut> = match way {
            "tcp" => {
                let taken = link.take_tcp(deadline).map_err(|error| Failure::of(&error));
                self.mailbox.put(Command::Turn(link.number));
                return taken;
            }
            "ipc" => {
                let Some(watch) = &self.watch else {
                    let detail = "this endpoint looks for no neighbours".to_owned();
                    return Err(Failure::new("not_supported", &peer.name, detail));
                };
                Arc::new(Neighbour::new(link.greeting.socket.clone(), peer, self.now_ms, Arc::clone(watch)))
            }
            "rdma" => {
                let Some(rdma) = self.rdma() else {
                    let detail = "this endpoint uses no RDMA device".to_owned();
                    return Err(Failure::new("not_supported", &peer.name, detail));
                };
                Arc::new(ByQueuePair(RdmaDialer::new(&rdma.rail, address, peer, identity, connect, expected)))
            }
            "tcpx" => {
                let tcpx = self.bounce.lock().unwrap_or_else(PoisonError::into_inner).unwrap_or_default();
                Arc::new(Bounced { address, peer, identity, connect, tcpx })
            }
            other => {
                let known = WAYS.join(", ");
                return Err(Failure::argument(format!("a way to a peer is one of {known}, not {other:?}")));
            }
        };
        link.take_up(shortcut, deadline).map_err(|error| Failure { detail: reason(&error), ..Failure::of(&error) })?;
        self.mailbox.put(Command::Turn(link.number));
        Ok(())
    }

    /// Takes an RDMA device into use, for ways that are taken from now on and for peers that ask. What to publish of it.
    /// Twice is once, also with another device: give the first up before.
    ///
    /// # Errors
    /// `not_supported` when the device lends nothing, and under TLS, which a queue pair's bytes would go past.
    pub fn use_rdma(&self, rail: &Arc<Rail>) -> Result<EndpointRecord, Failure> {
        self.check_open()?;
        if self.identity.speaks_tls() {
            let detail = "this process speaks TLS only, and RDMA does not encrypt".to_owned();
            return Err(Failure::new("not_supported", &self.identity.name, detail));
        }
        let mut rdma = self.rdma.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(rdma) = rdma.as_ref() {
            let record = rdma.lender.as_ref().map(Lender::record);
            return record.ok_or_else(|| Failure::argument("this endpoint only calls by RDMA"));
        }
        let lender = Lender::start(rail, &self.server, self.now_ms)
            .map_err(|error| Failure::new("not_supported", &self.identity.name, error.to_string()))?;
        let record = lender.record();
        *rdma = Some(Arc::new(Rdma { rail: Arc::clone(rail), lender: Some(lender) }));
        Ok(record)
    }

    /// Takes an RDMA device into use for peers that are met from now on, and lends nothing by it. Twice is once.
    pub fn call_by_rdma(&self, rail: &Arc<Rail>) {
        let mut rdma = self.rdma.lock().unwrap_or_else(PoisonError::into_inner);
        rdma.get_or_insert_with(|| Arc::new(Rdma { rail: Arc::clone(rail), lender: None }));
    }

    /// Gives the device up: peers' queue pairs end here, and every link that used one goes on over TCP. No transfer fails
    /// of it. Whether there was one.
    pub fn drop_rdma(&self) -> bool {
        let Some(rdma) = self.rdma.lock().unwrap_or_else(PoisonError::into_inner).take() else { return false };
        let links: Vec<_> = self.links.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect();
        for link in links.iter().filter(|link| link.wanted() == "rdma") {
            link.set_shortcut(None);
            self.mailbox.put(Command::Turn(link.number));
        }
        if let Some(lender) = &rdma.lender {
            lender.close();
        }
        true
    }

    /// Why the device in use is of no use any more; nothing while it works, or when none is in use.
    pub fn rdma_trouble(&self) -> Option<String> {
        self.rdma().and_then(|rdma| rdma.rail.check().err()).map(|error| error.to_string())
    }

    pub(crate) fn rdma(&self) -> Option<Arc<Rdma>> {
        self.rdma.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Link {
    /// Takes a faster way if a lane comes up on it now. What is under way ends where it is.
    ///
    /// # Errors
    /// Why none came up; the link stays as it was.
    pub fn take_up(&self, shortcut: Arc<dyn Shortcut>, deadline: Instant) -> Result<(), TransportError> {
        let driven = shortcut.dial(deadline).inspect_err(|error| self.troubled(reason(error)))?;
        self.came_up(shortcut.transport());
        // The connection there was is as good as any to ask over.
        if let Some(waited) = self.borrow_tcp() {
            self.asking.keep(waited);
        }
        self.set_shortcut(Some(shortcut));
        self.lend_out(driven);
        Ok(())
    }

    /// As [`Link::take_up`], and says only whether one came up.
    pub fn try_shortcut(&self, shortcut: Arc<dyn Shortcut>, deadline: Instant) -> bool {
        self.take_up(shortcut, deadline).is_ok()
    }

    /// Goes back to TCP, once a connection shows that the same life of the peer answers there. What is under way ends where
    /// it is.
    ///
    /// # Errors
    /// As [`Link::dial_tcp`]; the faster way is given up all the same.
    pub fn take_tcp(&self, deadline: Instant) -> Result<(), TransportError> {
        if self.wanted() != "tcp" {
            self.set_shortcut(None);
        }
        let driven = self.dial_tcp(deadline)?;
        self.came_up("tcp");
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.lend_out(driven);
        Ok(())
    }

    /// Tries the faster way again that is meant to be used and is not. Whether it is used now.
    pub fn retry(&self, deadline: Instant) -> bool {
        let shortcut = self.shortcut.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(shortcut) = shortcut else { return true };
        self.transport() == shortcut.transport() || self.try_shortcut(shortcut, deadline)
    }

    /// Gives a lane that just came up to whoever waits next.
    fn lend_out(&self, driven: Box<dyn Driven>) {
        let mut pool = self.pool.lock().unwrap_or_else(PoisonError::into_inner);
        if self.is_closed() {
            return;
        }
        let (lane, way) = (Some(OpenLane::new(driven)), self.ways());
        if let Some(waited) = pool.idle.iter_mut().find(|waited| waited.lane.is_none()) {
            (waited.lane, waited.way) = (lane, way);
        } else if pool.out + pool.idle.len() < WAITED_LANES_MAX {
            pool.idle.push(Waited { lane, way, spin: Spin::new(self.options.spin) });
        }
    }

    /// A lane that was meant to be faster did not come up, or broke.
    pub fn troubled(&self, why: String) {
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = Some(why);
    }

    /// The transport that is meant to be used; TCP is, wherever it does not work.
    pub fn wanted(&self) -> &'static str {
        let shortcut = self.shortcut.lock().unwrap_or_else(PoisonError::into_inner);
        shortcut.as_ref().map_or("tcp", |shortcut| shortcut.transport())
    }

    /// What there is to be said of it.
    pub fn status(&self) -> LinkStatus {
        LinkStatus {
            peer: self.peer.name.clone(),
            address: self.address,
            transport: self.transport(),
            wanted: self.wanted(),
            trouble: self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            moved: self.moved.list(),
        }
    }
}
