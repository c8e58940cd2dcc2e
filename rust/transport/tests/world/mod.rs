//! A server and whoever talks to it, in a line.
#![allow(dead_code, reason = "each test file uses its own part")]

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use weft_sys::socket::Options;
use weft_transport::{
    Authority, ConnectOptions, Identity, Issued, Peer, PeerAddress, Server, ServerConfig, Tls, TransportError,
};
use weft_wire::{Grant, Mode, Rights, grant_key};

pub const CLUSTER: [u8; 16] = *b"a test's cluster";
pub const SECRET: &[u8] = b"a test's secret";
pub const LENDER_LIFE: u64 = 77;
pub const EXTENT_BYTES: u64 = 4 << 20;

pub fn soon() -> Instant {
    Instant::now() + Duration::from_secs(5)
}

pub fn now_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
    u64::try_from(since.as_millis()).expect("before the year 500 million")
}

pub fn config(port: u16) -> ServerConfig {
    ServerConfig {
        host: IpAddr::V4(Ipv4Addr::LOCALHOST),
        ports: port..=port,
        socket: Options::default(),
        spin: Duration::from_micros(50),
        connections_max: 64,
        handshake_deadline: Duration::from_millis(500),
        drain_deadline: Duration::from_secs(1),
        now_ms,
    }
}

/// A cluster's authority.
pub struct Certificates {
    root: Issued,
}

pub const DAY_S: i64 = 86_400;

pub fn now_s() -> i64 {
    i64::try_from(now_ms() / 1000).expect("before the year 500 million")
}

impl Certificates {
    pub fn new() -> Self {
        Self { root: Authority::make(now_s(), DAY_S).expect("randomness") }
    }

    /// The one all tests share that need no second.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Certificates> = OnceLock::new();
        SHARED.get_or_init(Self::new)
    }

    pub fn issue(&self, names: &[&str], from_s: i64, lasts_s: i64) -> Issued {
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        Authority::of_key(&self.root.key).expect("its own key").issue(&names, from_s, lasts_s).expect("good names")
    }

    /// How the machine of this name speaks TLS.
    pub fn tls(&self, name: &str) -> Arc<Tls> {
        self.tls_with(&self.issue(&[name], now_s(), DAY_S))
    }

    pub fn tls_with(&self, issued: &Issued) -> Arc<Tls> {
        let tls = Tls::from_pem(self.root.certificate.as_bytes(), issued.certificate.as_bytes(), issued.key.as_bytes());
        Arc::new(tls.expect("they belong together"))
    }

    pub fn root(&self) -> &Issued {
        &self.root
    }
}

/// A lender with one extent of region "r1" at generation 1.
pub fn lender() -> Server {
    lender_at(0, LENDER_LIFE)
}

pub fn lender_at(port: u16, life: u64) -> Server {
    let server = Server::start(Identity::new(CLUSTER, SECRET, "lender", life), config(port)).expect("a port is free");
    server.store().reserve("r1", 0, EXTENT_BYTES, 1).expect("memory for the extent");
    server
}

/// The same under TLS, or not.
pub fn lender_with(tls: Option<Arc<Tls>>, config: ServerConfig) -> Server {
    let identity = Identity::new(CLUSTER, SECRET, "lender", LENDER_LIFE).with_tls(tls);
    let server = Server::start(identity, config).expect("a port is free");
    server.store().reserve("r1", 0, EXTENT_BYTES, 1).expect("memory for the extent");
    server
}

pub fn lender_under_tls() -> Server {
    lender_with(Some(Certificates::shared().tls("lender")), config(0))
}

pub fn borrower_under_tls() -> Identity {
    borrower().with_tls(Some(Certificates::shared().tls("borrower")))
}

pub fn borrower() -> Identity {
    Identity::new(CLUSTER, SECRET, "borrower", 5)
}

pub fn options() -> ConnectOptions {
    ConnectOptions { timeout: Duration::from_secs(2), ..ConnectOptions::default() }
}

pub fn peer(address: SocketAddr) -> Peer {
    peer_as(borrower(), address)
}

pub fn peer_as(identity: Identity, address: SocketAddr) -> Peer {
    Peer::new(PeerAddress { node: "lender".to_owned(), address }, Arc::new(identity), options())
}

pub fn plain_grant() -> Grant {
    Grant {
        cluster_id: CLUSTER,
        region_id: "r1".to_owned(),
        generation: 1,
        mode: Mode::Exclusive,
        rights: Rights::READ_WRITE,
        holder: "borrower".to_owned(),
        expires_at_ms: now_ms() + 60_000,
    }
}

pub fn mint(grant: &Grant) -> Arc<[u8]> {
    grant.mint(&grant_key(SECRET)).into()
}

pub fn grant() -> Arc<[u8]> {
    mint(&plain_grant())
}

/// The code an operation failed with.
pub fn code<T: std::fmt::Debug>(result: Result<T, TransportError>) -> &'static str {
    result.expect_err("it should have failed").code()
}

/// Waits for a condition, at most five seconds.
pub fn until(mut condition: impl FnMut() -> bool) {
    let deadline = soon();
    while !condition() {
        assert!(Instant::now() < deadline, "the condition did not come true within five seconds");
        std::thread::yield_now();
    }
}

pub fn pattern(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    (0..length)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()[3]
        })
        .collect()
}
