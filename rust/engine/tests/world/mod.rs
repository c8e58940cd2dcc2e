//! Two endpoints, in a line.
#![allow(dead_code, reason = "each test file uses its own part")]

#[allow(unused_macros, reason = "each test file uses its own part")]
/// Runs each of these with two endpoints that meet over TCP, over TCP under TLS, with two that are neighbours, and with two that have RDMA.
macro_rules! on_every_transport {
    ($($name:ident)*) => {
        mod tcp {
            $(#[test] fn $name() { super::$name(super::world::pair_with(false)); })*
        }
        mod tls {
            $(#[test] fn $name() { super::$name(super::world::pair_under_tls()); })*
        }
        mod ipc {
            $(#[test] fn $name() {
                let pair = super::world::pair_with(true);
                assert_eq!(pair.to_owner.transport(), "ipc");
                super::$name(pair);
            })*
        }
        mod rdma {
            $(#[test] fn $name() {
                let pair = super::world::pair_by_rdma();
                assert_eq!(pair.to_owner.transport(), "rdma");
                super::$name(pair);
            })*
        }
    };
}

#[path = "../../../verbs/tests/fake/mod.rs"]
pub mod fake;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use weft_engine::{Endpoint, EndpointConfig, Link, Part, Status, Transfer};
use weft_sys::memory::Span;
use weft_sys::socket::Options;
use weft_transport::{Authority, ConnectOptions, Issued, ServerConfig, Tls};
use weft_wire::Advert;

pub const SECRET: &[u8] = b"a test's secret";

pub fn soon() -> Instant {
    Instant::now() + Duration::from_secs(10)
}

pub fn now_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
    u64::try_from(since.as_millis()).expect("before the year 500 million")
}

pub fn endpoint(name: &str) -> Endpoint {
    endpoint_at(name, 0)
}

pub fn endpoint_at(name: &str, port: u16) -> Endpoint {
    endpoint_with(name, port, false)
}

pub fn endpoint_with(name: &str, port: u16, ipc: bool) -> Endpoint {
    endpoint_of(name, port, ipc, false, None)
}

/// One that speaks TLS, with a certificate of the tests' one authority.
pub fn endpoint_under_tls(name: &str, port: u16) -> Endpoint {
    static ROOT: OnceLock<Issued> = OnceLock::new();
    let now_s = i64::try_from(now_ms() / 1000).expect("before the year 500 million");
    let root = ROOT.get_or_init(|| Authority::make(now_s, 86_400).expect("randomness"));
    let issued = Authority::of_key(&root.key).and_then(|authority| authority.issue(&[name.to_owned()], now_s, 86_400));
    let issued = issued.expect("a good name");
    let tls = Tls::from_pem(root.certificate.as_bytes(), issued.certificate.as_bytes(), issued.key.as_bytes());
    endpoint_of(name, port, false, false, Some(Arc::new(tls.expect("they belong together"))))
}

/// One whose other messages somebody takes.
pub fn endpoint_keeping_messages(name: &str) -> Endpoint {
    endpoint_of(name, 0, true, true, None)
}

fn endpoint_of(name: &str, port: u16, ipc: bool, inbox: bool, tls: Option<Arc<Tls>>) -> Endpoint {
    let mut random = [0; 8];
    weft_sys::random::fill(&mut random).expect("randomness");
    Endpoint::start(EndpointConfig {
        cluster_id: *b"a test's cluster",
        secret: SECRET.to_vec(),
        name: name.to_owned(),
        incarnation: u64::from_le_bytes(random),
        server: Some(ServerConfig {
            host: IpAddr::V4(Ipv4Addr::LOCALHOST),
            ports: port..=port,
            socket: Options::default(),
            spin: Duration::from_micros(50),
            connections_max: 4096,
            handshake_deadline: Duration::from_millis(500),
            drain_deadline: Duration::from_millis(200),
            now_ms,
        }),
        inbox,
        connect: ConnectOptions { timeout: Duration::from_secs(1), ..ConnectOptions::default() },
        now_ms,
        ipc,
        tls,
    })
    .expect("a port is free")
}

/// Two endpoints that met: the second reaches the first and the other way round.
pub struct Pair {
    pub owner: Endpoint,
    pub other: Endpoint,
    pub to_owner: Arc<Link>,
    pub to_other: Arc<Link>,
    /// How another like the owner is made, at a port.
    pub again: fn(&str, u16) -> Endpoint,
}

pub fn pair() -> Pair {
    pair_with(false)
}

/// Two that speak TLS.
pub fn pair_under_tls() -> Pair {
    let pair = pair_of(endpoint_under_tls("owner", 0), endpoint_under_tls("other", 0));
    Pair { again: endpoint_under_tls, ..pair }
}

/// Two that have a device each, of a verbs library that is none.
pub fn pair_by_rdma() -> Pair {
    let ends = ["owner", "other"].map(|name| {
        let (endpoint, device) = (endpoint_with(name, 0, false), fake::Fake::plug_in());
        let rail = weft_verbs::Rail::over(&fake::Fake::library(), Some(&device.name)).expect("it was just plugged in");
        endpoint.use_rdma(&rail).expect("the device lends");
        endpoint
    });
    let [owner, other] = ends;
    pair_of(owner, other)
}

/// Two that are neighbours, where `ipc` says so.
pub fn pair_with(ipc: bool) -> Pair {
    pair_of(endpoint_with("owner", 0, ipc), endpoint_with("other", 0, ipc))
}

fn pair_of(owner: Endpoint, other: Endpoint) -> Pair {
    let to_owner = other.connect(owner.address(), soon()).expect("the owner listens");
    let to_other = owner.accept(soon()).expect("the other can be reached").expect("it connected");
    Pair { owner, other, to_owner, to_other, again: endpoint_at }
}

/// Advertises all of `memory`, which outlives the endpoint's use of it.
pub fn advertise(endpoint: &Endpoint, memory: &mut [u8], writable: bool) -> (u64, Arc<Advert>) {
    advertise_span(endpoint, Span::of(memory), writable)
}

/// The same of a span.
pub fn advertise_span(endpoint: &Endpoint, memory: Span, writable: bool) -> (u64, Arc<Advert>) {
    let registration = endpoint.memory().register(memory).expect("there is room");
    let advert = endpoint
        .advertise(registration, 0, memory.len() as u64, writable, Duration::from_secs(60))
        .expect("it is registered");
    (registration, Arc::new(advert))
}

pub fn part(advert: &Arc<Advert>, offset: u64, memory: &mut [u8]) -> Part {
    Part { advert: Arc::clone(advert), offset, span: Span::of(memory) }
}

pub fn ended(transfer: &Transfer) -> Status {
    let status = transfer.wait(soon());
    assert!(status.is_terminal(), "the transfer did not end: {status:?}");
    status
}

pub fn failed(transfer: &Transfer) -> &'static str {
    match ended(transfer) {
        Status::Failed(failure) => failure.code,
        other => panic!("it should have failed: {other:?}"),
    }
}

/// Waits for a condition, at most ten seconds.
pub fn until(mut condition: impl FnMut() -> bool) {
    let deadline = soon();
    while !condition() {
        assert!(Instant::now() < deadline, "the condition did not come true in time");
        std::thread::sleep(Duration::from_millis(1));
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

/// Where nobody listens.
pub fn nowhere() -> SocketAddr {
    let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    listener.local_addr().expect("bound")
}
