//! Lanes whose answers are gathered from a bounce buffer, for an endpoint that asks for them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use weft_transport::{ConnectOptions, Driven, Identity, PeerIdentity, TcpxDriven, TcpxOptions, TransportError};
use weft_wire::Code;

use crate::Shortcut;

/// The way to one peer through bounce buffers.
pub struct Bounced {
    /// Where it listens.
    pub address: SocketAddr,
    /// The life of it that is meant.
    pub peer: PeerIdentity,
    /// Who asks.
    pub identity: Arc<Identity>,
    /// How it is connected to.
    pub connect: ConnectOptions,
    /// How its lanes' bounce buffers are made.
    pub tcpx: TcpxOptions,
}

impl Shortcut for Bounced {
    fn dial(&self, deadline: Instant) -> Result<Box<dyn Driven>, TransportError> {
        let name = &self.peer.name;
        let timeout = self.connect.timeout.min(deadline.saturating_duration_since(Instant::now()));
        if timeout.is_zero() {
            return Err(TransportError::TimedOut { peer: name.clone(), doing: "connecting" });
        }
        let options = ConnectOptions { timeout, ..self.connect.clone() };
        let lane = TcpxDriven::connect(self.address, name, &self.identity, &options, self.tcpx)?;
        if lane.peer().incarnation != self.peer.incarnation {
            let detail = "another process answers at its address now; connect again".to_owned();
            return Err(TransportError::Refused { peer: name.clone(), code: Code::ExtentLost, detail });
        }
        Ok(Box::new(lane))
    }

    fn transport(&self) -> &'static str {
        "tcpx"
    }
}
