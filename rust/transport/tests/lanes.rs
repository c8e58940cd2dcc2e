//! The conformance suite of `Lane`: what every transport promises, run on each that there is.

mod world;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use weft_engine::{NearLender, NearUpgrade};
use weft_sys::memory::Span;
use weft_transport::{
    Identity, Lane, Request, Server, ServerConfig, TcpLane, TcpxLane, TcpxOptions, TransportError, Upgrade,
};
use weft_unpack::Order;
use weft_wire::{Code, Flags, Header, Kind, Range};
use world::*;

/// A transport, whether both ends speak TLS, and whether its reads are the server's work, and counted there.
struct Way {
    name: &'static str,
    tls: bool,
    connect: fn(&weft_transport::Server) -> Box<dyn Lane>,
    served: bool,
}

fn tcp(server: &weft_transport::Server) -> Box<dyn Lane> {
    Box::new(TcpLane::connect(server.address(), "lender", &borrower(), &options()).expect("the lender is up"))
}

fn tcpx_with(server: &weft_transport::Server, options: TcpxOptions) -> Box<dyn Lane> {
    let address = server.address();
    Box::new(TcpxLane::connect(address, "lender", &borrower(), &self::options(), options).expect("the lender is up"))
}

fn tcpx(server: &weft_transport::Server) -> Box<dyn Lane> {
    tcpx_with(server, TcpxOptions::default())
}

/// As a card would: pages in no order, and fewer of them than one answer needs.
fn tcpx_shuffled(server: &weft_transport::Server) -> Box<dyn Lane> {
    tcpx_with(server, TcpxOptions { bounce_bytes: 23 * 4096, order: Order::Shuffled(7) })
}

fn under_tls(server: &weft_transport::Server) -> Box<dyn Lane> {
    let lane = TcpLane::connect(server.address(), "lender", &borrower_under_tls(), &options());
    Box::new(lane.expect("the lender is up"))
}

/// Extents are mapped, and read without the server.
fn ipc(server: &weft_transport::Server) -> Box<dyn Lane> {
    let upgrade = NearUpgrade::new(Arc::new(borrower()), now_ms, None).expect("descriptors");
    let lane = upgrade.upgrade(tcp(server), soon()).expect("the lender is up");
    assert_eq!(upgrade.counters().upgrades.load(Ordering::Relaxed), 1, "the lender was not found on its own machine");
    lane
}

const LANES: [Way; 5] = [
    Way { name: "tcp", tls: false, connect: tcp, served: true },
    Way { name: "tcp under TLS", tls: true, connect: under_tls, served: true },
    Way { name: "tcpx", tls: false, connect: tcpx, served: true },
    Way { name: "tcpx, shuffled", tls: false, connect: tcpx_shuffled, served: true },
    Way { name: "ipc", tls: false, connect: ipc, served: false },
];

fn lender_for(tls: bool, config: ServerConfig) -> Server {
    lender_with(tls.then(|| Certificates::shared().tls("lender")), config)
}

/// Hands over what a server lends, until it is dropped.
fn handing_over(server: Server) -> (Arc<Server>, NearLender) {
    let (server, lender) = (Arc::new(server), Identity::new(CLUSTER, SECRET, "lender", LENDER_LIFE));
    // One life of a lender has one name: those of tests that run beside this one wait.
    let near = loop {
        match NearLender::start(&server, &lender) {
            Ok(near) => break near,
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::AddrInUse, "{error}"),
        }
        std::thread::sleep(Duration::from_millis(1));
    };
    (server, near)
}

fn on_every_lane(test: impl Fn(&weft_transport::Server, &mut dyn Lane)) {
    on_every_way(|_, server, lane| test(server, lane));
}

fn on_every_way(test: impl Fn(&Way, &weft_transport::Server, &mut dyn Lane)) {
    for way in LANES {
        let (server, _near) = handing_over(lender_for(way.tls, config(0)));
        let mut lane = (way.connect)(&server);
        println!("on {}", way.name);
        test(&way, &server, lane.as_mut());
    }
}

fn open(lane: &mut dyn Lane) -> u64 {
    let grant = grant();
    let mut header = Header::new(Kind::Open, 0);
    header.tag = LENDER_LIFE;
    let writer = weft_wire::encode_opening(1, 1);
    header.length = (writer.len() + grant.len()) as u64;
    let payload = [Span::of_const(&writer), Span::of_const(&grant)];
    lane.post(Request { header, ranges: &[], payload: &payload }, soon()).unwrap();
    let reply = lane.begin(&[], soon()).unwrap();
    assert_eq!((reply.header.offset, reply.header.tag), (EXTENT_BYTES, 1));
    reply.header.handle
}

fn transfer(kind: Kind, handle: u64, offset: u64, length: u64) -> Header {
    Header { handle, offset, length, ..Header::new(kind, 0) }
}

fn write(lane: &mut dyn Lane, handle: u64, offset: u64, bytes: &[u8]) {
    let header = transfer(Kind::Write, handle, offset, bytes.len() as u64);
    lane.post(Request { header, ranges: &[], payload: &[Span::of_const(bytes)] }, soon()).unwrap();
    lane.begin(&[], soon()).unwrap();
}

fn post_read(lane: &mut dyn Lane, handle: u64, offset: u64, length: u64) {
    let header = transfer(Kind::Read, handle, offset, length);
    lane.post(Request { header, ranges: &[], payload: &[] }, soon()).unwrap();
}

fn receive(lane: &mut dyn Lane, into: &mut [u8]) -> Result<(), TransportError> {
    let wanted = into.len();
    let span = Span::of(into);
    let reply = lane.begin(&[span], soon())?;
    lane.fill(&[span], reply.filled, wanted, soon()).map(|_| ())
}

#[test]
fn a_read_brings_what_was_written_at_every_alignment() {
    on_every_lane(|_, lane| {
        let handle = open(lane);
        for (offset, length) in [(0, 1), (4095, 2), (1, 4096), (4096, 4096), (123, 100_000), (0, 1 << 20)] {
            let bytes = pattern(length, offset);
            write(lane, handle, offset, &bytes);
            let mut back = vec![0; length];
            post_read(lane, handle, offset, length as u64);
            receive(lane, &mut back).unwrap();
            assert!(back == bytes, "{length} bytes at {offset} differ");
        }
    });
}

#[test]
fn answers_come_in_the_order_of_posting() {
    on_every_lane(|_, lane| {
        let handle = open(lane);
        let bytes = pattern(64 * 4096, 1);
        write(lane, handle, 0, &bytes);
        for page in 0..64 {
            post_read(lane, handle, page * 4096, 4096);
        }
        assert_eq!(lane.outstanding(), 64);
        for page in 0..64usize {
            let mut back = vec![0; 4096];
            receive(lane, &mut back).unwrap();
            assert!(back == bytes[page * 4096..][..4096]);
        }
        assert_eq!(lane.outstanding(), 0);
    });
}

/// While a long answer waits to leave, requests pile up; the server then takes them in with one receive, and more of them
/// than it answers in one turn. No socket announces the rest: a server that sleeps then never answers it.
#[test]
fn a_pile_of_requests_longer_than_a_turn_is_answered_by_a_server_that_does_not_spin() {
    for way in LANES {
        println!("on {}", way.name);
        let (server, _near) = handing_over(lender_for(way.tls, ServerConfig { spin: Duration::ZERO, ..config(0) }));
        let mut lane = (way.connect)(&server);
        let handle = open(lane.as_mut());
        let bytes = pattern(usize::try_from(EXTENT_BYTES).unwrap(), 3);
        write(lane.as_mut(), handle, 0, &bytes);
        for _ in 0..4 {
            post_read(lane.as_mut(), handle, 0, EXTENT_BYTES);
        }
        for page in 0..100 {
            post_read(lane.as_mut(), handle, page * 4096, 4096);
        }
        std::thread::sleep(Duration::from_millis(50));
        for _ in 0..4 {
            let mut back = vec![0; bytes.len()];
            receive(lane.as_mut(), &mut back).unwrap();
            assert!(back == bytes);
        }
        for page in 0..100usize {
            let mut back = vec![0; 4096];
            receive(lane.as_mut(), &mut back).unwrap();
            assert!(back == bytes[page * 4096..][..4096]);
        }
    }
}

#[test]
fn a_vectored_write_and_read_keep_each_range_apart() {
    on_every_lane(|_, lane| {
        let handle = open(lane);
        let ranges: Vec<Range> =
            (0..1000u64).map(|index| Range { offset: index * 4000, length: 7 + index % 90 }).collect();
        let total: u64 = ranges.iter().map(|range| range.length).sum();
        let bytes = pattern(usize::try_from(total).unwrap(), 3);
        let header = transfer(Kind::Write, handle, 0, total);
        lane.post(Request { header, ranges: &ranges, payload: &[Span::of_const(&bytes)] }, soon()).unwrap();
        lane.begin(&[], soon()).unwrap();
        let header = transfer(Kind::Read, handle, 0, total);
        lane.post(Request { header, ranges: &ranges, payload: &[] }, soon()).unwrap();
        let mut back = vec![0; bytes.len()];
        receive(lane, &mut back).unwrap();
        assert!(back == bytes);
    });
}

#[test]
fn a_range_never_written_is_answered_zero_without_bytes() {
    on_every_way(|way, server, lane| {
        let handle = open(lane);
        post_read(lane, handle, 0, 1 << 20);
        let mut back = vec![9; 1 << 20];
        let reply = lane.begin(&[Span::of(&mut back)], soon()).unwrap();
        assert!(reply.header.flags.has(Flags::ZERO) && reply.bytes() == 0);
        let counted = server.counters().list();
        let pages = if way.served { 256 } else { 0 };
        assert!(counted.contains(&("zero_pages".to_owned(), pages)) && counted.contains(&("read_bytes".to_owned(), 0)));
    });
}

#[test]
fn a_sparse_read_names_the_zero_pages_and_brings_the_others() {
    on_every_lane(|_, lane| {
        let handle = open(lane);
        let bytes = pattern(4096, 8);
        for page in [1, 2, 63] {
            write(lane, handle, page * 4096, &bytes);
        }
        let header = Header { flags: Flags::SPARSE, ..transfer(Kind::Read, handle, 0, 64 * 4096) };
        lane.post(Request { header, ranges: &[], payload: &[] }, soon()).unwrap();
        let mut back = vec![0; 64 * 4096];
        let span = Span::of(&mut back);
        let reply = lane.begin(&[span], soon()).unwrap();
        assert_eq!(reply.header.tag, !(1u64 << 1 | 1 << 2 | 1 << 63));
        assert_eq!(reply.bytes(), 3 * 4096);
        lane.fill(&[span], reply.filled, 3 * 4096, soon()).unwrap();
        assert!((0..3).all(|page| back[page * 4096..][..4096] == bytes[..]));
    });
}

#[test]
fn a_refusal_completes_its_request_and_leaves_the_lane_whole() {
    on_every_lane(|server, lane| {
        let handle = open(lane);
        write(lane, handle, 0, b"still here");
        post_read(lane, handle, EXTENT_BYTES, 1);
        post_read(lane, handle + 9, 0, 1);
        post_read(lane, handle, 0, 10);
        let mut back = [0; 10];
        assert_eq!(code(receive(lane, &mut back[..1])), "out_of_range");
        assert_eq!(code(receive(lane, &mut back[..1])), "unknown_handle");
        receive(lane, &mut back).unwrap();
        assert_eq!(&back, b"still here");
        assert_eq!(server.counters().refused(Code::OutOfRange), 1);
    });
}

#[test]
fn a_refused_write_is_dropped_whole_and_the_lane_goes_on() {
    on_every_lane(|_, lane| {
        let handle = open(lane);
        let bytes = pattern(1 << 20, 4);
        let header = transfer(Kind::Write, handle, EXTENT_BYTES - 4096, bytes.len() as u64);
        lane.post(Request { header, ranges: &[], payload: &[Span::of_const(&bytes)] }, soon()).unwrap();
        assert_eq!(code(lane.begin(&[], soon())), "out_of_range");
        post_read(lane, handle, EXTENT_BYTES - 4096, 4096);
        let reply = lane.begin(&[Span::of(&mut [0; 4096])], soon()).unwrap();
        assert!(reply.header.flags.has(Flags::ZERO), "a refused write left bytes behind");
    });
}

#[test]
fn a_closed_lane_says_so() {
    on_every_lane(|_, lane| {
        lane.close();
        let request = Request { header: transfer(Kind::Read, 1, 0, 1), ranges: &[], payload: &[] };
        assert_eq!(code(lane.post(request, soon())), "closed");
    });
}
