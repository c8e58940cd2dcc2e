//! How a TCP connection comes up: the socket, TLS where it is spoken, and the greeting by which both sides prove that they
//! know the secret.

use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use weft_sys::socket::{self, Options};
use weft_wire::{ClientHello, ClientProof, Header, Hello, Kind, ServerHello, WireError};

use crate::book::Book;
use crate::spin::SLEEP_SLICE;
use crate::tls::{self, Stream};
use crate::waited::Waited;
use crate::{Identity, Lane, PeerIdentity, Spin, TcpDriven, TransportError};

/// How a lane connects.
#[derive(Clone, Debug)]
pub struct ConnectOptions {
    /// Socket options.
    pub socket: Options,
    /// Longest spin of one wait.
    pub spin: Duration,
    /// Time for the connection and the handshake together.
    pub timeout: Duration,
}

impl Default for ConnectOptions {
    fn default() -> Self {
        Self { socket: Options::default(), spin: Duration::from_micros(50), timeout: Duration::from_secs(2) }
    }
}

/// A connected, authenticated TCP connection with a waiter, under TLS where this process speaks that.
pub type TcpLane = Waited<TcpDriven>;

impl TcpLane {
    /// Connects to `address` and proves both sides' knowledge of the secret. `label` names the peer in errors until it has
    /// named itself.
    ///
    /// # Errors
    /// `Unreachable`, `TimedOut`, `WrongSecret`, `Refused` (cluster, version, secret), `Garbage`, `Tls`.
    pub fn connect(
        address: SocketAddr,
        label: &str,
        identity: &Identity,
        options: &ConnectOptions,
    ) -> Result<Self, TransportError> {
        let deadline = Instant::now() + options.timeout;
        let stream = socket::connect(address, &options.socket, options.timeout)
            .map_err(|cause| TransportError::Unreachable { peer: label.to_owned(), cause })?;
        socket::set_waits(&stream, SLEEP_SLICE)
            .map_err(|cause| TransportError::Unreachable { peer: label.to_owned(), cause })?;
        let stream = Stream::connect(stream, identity.tls.as_deref(), label, deadline)?;
        let mut lane = Self::over(TcpDriven::fresh(stream, label), Spin::new(options.spin));
        lane.shake_hands(identity, deadline)?;
        Ok(lane)
    }

    fn shake_hands(&mut self, identity: &Identity, deadline: Instant) -> Result<(), TransportError> {
        let mut nonce = [0u8; 32];
        weft_sys::random::fill(&mut nonce)
            .map_err(|cause| TransportError::Unreachable { peer: self.peer().name.clone(), cause })?;
        let hello = ClientHello {
            cluster_id: identity.cluster_id,
            nonce,
            incarnation: identity.incarnation,
            name: identity.name.clone(),
        };
        let (head, payload) = self.greet(Hello::Client, &hello.encode(), deadline)?;
        if head.kind != Kind::Hello || head.tag != Hello::Server as u64 {
            return Err(self.garbage(WireError::Payload("the answer to a hello is not a hello")));
        }
        let server = ServerHello::decode(&payload).map_err(|cause| self.garbage(cause))?;
        if !server.verifies(&identity.hello_key, &hello) {
            // The server counts a wrong proof as a refused peer; an empty one tells it why this side goes.
            let _ = self.greet(Hello::Proof, &[0; 32], deadline);
            self.close();
            return Err(TransportError::WrongSecret { peer: server.name });
        }
        if let Err(fault) = self.connection_ref().stream().check_name(&server.name) {
            return Err(self.broken(|_| TransportError::Tls { peer: server.name, fault }));
        }
        let proof = ClientProof::prove(&identity.hello_key, &hello, &server);
        let (head, _) = self.greet(Hello::Proof, &proof.proof, deadline)?;
        if head.kind != Kind::Reply {
            return Err(self.garbage(WireError::Payload("the answer to a proof is not a reply")));
        }
        self.connection().met(PeerIdentity { name: server.name, incarnation: server.incarnation });
        Ok(())
    }

    fn greet(&mut self, hello: Hello, payload: &[u8], deadline: Instant) -> Result<(Header, Vec<u8>), TransportError> {
        self.call(Header { tag: hello as u64, ..Header::new(Kind::Hello, 0) }, payload, deadline)
    }

    /// The connection by itself, for who receives past TLS, which works on plain bytes alone.
    pub(crate) fn into_socket(self, transport: &str) -> Result<(TcpStream, PeerIdentity, Book), TransportError> {
        match self.into_connection().into_parts() {
            (Stream::Plain(socket), peer, book) => Ok((socket, peer, book)),
            _ => Err(TransportError::BadArgument(format!(
                "{transport} receives past TLS, which this process insists on; unset {} or leave {transport} out",
                tls::VARIABLES
            ))),
        }
    }
}
