//! A lane whose answers arrive in a bounce buffer, for a waiter, who may take them from there in blocks.

use std::net::SocketAddr;
use std::time::Instant;

use weft_sys::memory::Span;
use weft_unpack::{Block, Carved, Slot};

use super::{TcpxDriven, TcpxOptions};
use crate::driven::Outcome;
use crate::tcp::ConnectOptions;
use crate::waited::{Connection, Waited};
use crate::{Identity, Reply, Spin, TransportError};

/// What there is to gather of the answer under way.
#[derive(Debug)]
pub enum Taken {
    /// A block, and the slot to give back once it is gathered.
    Block(Slot, Block),
    /// The bounce buffer or the list of slots is full: give the oldest slot back first. Until then the peer waits.
    Full,
    /// Nothing: the whole answer was taken.
    Complete,
}

/// A connected, authenticated TCP connection that receives into a bounce buffer, with a waiter.
pub type TcpxLane = Waited<TcpxDriven>;

impl TcpxLane {
    /// Connects as [`crate::TcpLane`] does.
    ///
    /// # Errors
    /// As [`TcpxDriven::connect`].
    pub fn connect(
        address: SocketAddr,
        label: &str,
        identity: &Identity,
        options: &ConnectOptions,
        tcpx: TcpxOptions,
    ) -> Result<Self, TransportError> {
        let driven = TcpxDriven::connect(address, label, identity, options, tcpx)?;
        Ok(Self::over(driven, Spin::new(options.spin)))
    }

    /// The bounce buffer, for a device that gathers from it. It lives as long as the lane.
    pub fn bounce(&self) -> Span {
        self.connection_ref().bounce.span()
    }

    /// Receives the head of the oldest answer only; its payload is then taken with [`TcpxLane::take`].
    ///
    /// # Errors
    /// As [`crate::Lane::begin`].
    pub fn begin_blocks(&mut self, deadline: Instant) -> Result<Reply, TransportError> {
        self.turn()?;
        // However long it is: whoever takes blocks bounds each by its own target.
        self.connection().book().oldest_mut().expect("it is outstanding").expected = usize::MAX;
        self.connection().by_blocks = true;
        let received = self.receive(deadline, |body| !body.is_refusal());
        if let Err(error) = received {
            self.connection().by_blocks = false;
            return Err(error);
        }
        match self.take_outcome() {
            Some(Outcome::Done(header, _)) => Ok(Reply { header, filled: 0 }),
            Some(Outcome::Refused(refusal)) => Err(self.refused(refusal)),
            None => {
                let body = self.connection_ref().under_way().expect("it has begun");
                Ok(Reply { header: body.header, filled: 0 })
            }
        }
    }

    /// Bytes of the answer under way that were not taken yet.
    pub fn remaining(&self) -> usize {
        self.connection_ref().under_way().map_or(0, |body| body.total - body.done)
    }

    /// The next block of the answer under way, for `at` and on in a target of `target_bytes`; waits for its bytes.
    ///
    /// # Errors
    /// Whatever breaks the lane; `BadArgument` when the bytes do not belong into the target.
    pub fn take(&mut self, at: u64, target_bytes: u64, deadline: Instant) -> Result<Taken, TransportError> {
        loop {
            let wanted = self.remaining();
            if wanted == 0 {
                return Ok(Taken::Complete);
            }
            match self.connection().bounce.carve(wanted as u64, at, target_bytes) {
                Ok(Carved::Block(slot, block)) => {
                    self.taken(usize::try_from(block.total_bytes()).expect("at most 4 MiB"));
                    return Ok(Taken::Block(slot, block));
                }
                Ok(Carved::Held) => return Ok(Taken::Full),
                Ok(Carved::Nothing) if !self.connection().bounce.has_room() => return Ok(Taken::Full),
                Ok(Carved::Nothing) => self.receive_once(deadline)?,
                Err(error) => return Err(TransportError::BadArgument(error.to_string())),
            }
        }
    }

    /// Takes back the slot of a block that was gathered.
    ///
    /// # Errors
    /// `BadArgument` when it is not the oldest one held; nothing changed then.
    pub fn give_back(&mut self, slot: Slot) -> Result<(), TransportError> {
        self.connection().bounce.give_back(slot).map_err(|error| TransportError::BadArgument(error.to_string()))
    }

    fn taken(&mut self, bytes: usize) {
        let mut finished = Vec::new();
        self.connection().taken(bytes, &mut finished);
    }
}
