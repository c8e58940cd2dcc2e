//! Everything a peer may do wrong: a typed error where it was asked, a counted refusal where it was served, and everything
//! else keeps running.

mod world;

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use weft_sys::memory::Span;
use weft_transport::{Identity, Opened, Peer, Server};
use weft_wire::{Code, Grant, HEADER_BYTES, Header, Kind, Mode, Range, Rights, grant_key};
use world::*;

fn refused(server: &Server, code: Code) -> u64 {
    server.counters().refused(code)
}

/// After the misdeed, an honest peer is served as before.
fn still_serves(server: &Server) {
    let mut peer = peer(server.address());
    let opened = peer.open(&grant(), 0, LENDER_LIFE, soon()).unwrap();
    assert_eq!(read(&mut peer, opened, 0, 16), Ok(()));
}

fn read(peer: &mut Peer, opened: Opened, offset: u64, length: usize) -> Result<(), &'static str> {
    let mut bytes = vec![0; length];
    let range = Range { offset, length: length as u64 };
    peer.read(opened, &[range], &[Span::of(&mut bytes)], soon()).map_err(|error| error.code())
}

fn write(peer: &mut Peer, opened: Opened, offset: u64, bytes: &[u8]) -> Result<(), &'static str> {
    let range = Range { offset, length: bytes.len() as u64 };
    peer.write(opened, &[range], &[Span::of_const(bytes)], soon()).map_err(|error| error.code())
}

/// Sends bytes as they are and returns what came back until the server closed.
fn say(server: &Server, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(server.address()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    stream.write_all(bytes).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut back = Vec::new();
    let _ = stream.read_to_end(&mut back);
    back
}

fn refusal_in(bytes: &[u8]) -> Code {
    let head: &[u8; HEADER_BYTES] = bytes[..HEADER_BYTES].try_into().expect("a whole frame came back");
    let header = Header::decode(head).unwrap();
    assert_eq!(header.kind, Kind::Refusal);
    Code::from_number(header.tag)
}

#[test]
fn a_peer_of_another_cluster_is_told_so() {
    let server = lender();
    let stranger = Identity::new(*b"another  cluster", SECRET, "stranger", 1);
    assert_eq!(code(peer_as(stranger, server.address()).connect(soon())), "wrong_cluster");
    assert_eq!(refused(&server, Code::WrongCluster), 1);
    still_serves(&server);
}

#[test]
fn a_peer_with_another_secret_notices_before_it_proves_anything() {
    let server = lender();
    let stranger = Identity::new(CLUSTER, b"guessed", "stranger", 1);
    assert_eq!(code(peer_as(stranger, server.address()).connect(soon())), "wrong_secret");
    until(|| refused(&server, Code::WrongSecret) == 1);
    still_serves(&server);
}

#[test]
fn a_grant_is_checked_for_its_key_its_time_its_cluster_and_its_generation() {
    let server = lender();
    server.store().raise_generation("r1", 5, Duration::from_secs(1));
    let good = Grant { generation: 5, ..plain_grant() };
    let table = [
        ("grant_forged", good.mint(&grant_key(b"guessed"))),
        ("grant_forged", b"not a grant at all, only long enough to be one, if one did not look closely.....".to_vec()),
        ("grant_expired", Grant { expires_at_ms: 1, ..good.clone() }.mint(&grant_key(SECRET))),
        ("wrong_cluster", Grant { cluster_id: [0; 16], ..good.clone() }.mint(&grant_key(SECRET))),
        ("stale_generation", Grant { generation: 4, ..good.clone() }.mint(&grant_key(SECRET))),
        ("extent_lost", Grant { region_id: "r2".to_owned(), ..good.clone() }.mint(&grant_key(SECRET))),
    ];
    let mut peer = peer(server.address());
    for (expected, bytes) in table {
        assert_eq!(code(peer.open(&bytes.into(), 0, LENDER_LIFE, soon())), expected);
    }
    assert_eq!(code(peer.open(&mint(&good), 7, LENDER_LIFE, soon())), "extent_lost");
    assert_eq!(code(peer.open(&mint(&good), 0, LENDER_LIFE + 1, soon())), "extent_lost");
    assert_eq!(refused(&server, Code::GrantForged), 2);
    peer.open(&mint(&good), 0, LENDER_LIFE, soon()).unwrap();
}

#[test]
fn a_write_under_read_and_a_range_outside_change_nothing() {
    let server = lender();
    let mut writer = peer(server.address());
    let written = writer.open(&grant(), 0, LENDER_LIFE, soon()).unwrap();
    write(&mut writer, written, 0, b"original").unwrap();
    let mut reader = peer(server.address());
    let reading = Grant { mode: Mode::Read, rights: Rights::READ, ..plain_grant() };
    let opened = reader.open(&mint(&reading), 0, LENDER_LIFE, soon()).unwrap();
    assert_eq!(write(&mut reader, opened, 0, b"replaced"), Err("read_only"));
    assert_eq!(write(&mut writer, written, EXTENT_BYTES - 4, b"replaced"), Err("out_of_range"));
    assert_eq!(read(&mut reader, opened, u64::MAX - 3, 2), Err("out_of_range"));
    let mut back = [0; 8];
    reader.read(opened, &[Range { offset: 0, length: 8 }], &[Span::of(&mut back)], soon()).unwrap();
    assert_eq!(&back, b"original");
}

#[test]
fn a_raised_generation_refuses_whoever_opened_before() {
    let server = lender();
    let mut old = peer(server.address());
    let opened = old.open(&grant(), 0, LENDER_LIFE, soon()).unwrap();
    assert!(server.store().raise_generation("r1", 2, Duration::from_secs(1)));
    assert_eq!(read(&mut old, opened, 0, 16), Err("stale_generation"));
    assert_eq!(write(&mut old, opened, 0, b"late"), Err("stale_generation"));
}

#[test]
fn a_released_extent_is_lost_to_whoever_had_it_open() {
    let server = lender();
    let mut peer = peer(server.address());
    let opened = peer.open(&grant(), 0, LENDER_LIFE, soon()).unwrap();
    server.store().release("r1", 0);
    assert_eq!(read(&mut peer, opened, 0, 16), Err("extent_lost"));
}

#[test]
fn a_grant_that_ran_out_is_refused_until_a_renewed_one_is_presented() {
    let server = lender();
    let mut peer = peer(server.address());
    let short = mint(&Grant { expires_at_ms: now_ms() + 300, ..plain_grant() });
    let opened = peer.open(&short, 0, LENDER_LIFE, soon()).unwrap();
    until(|| read(&mut peer, opened, 0, 16) == Err("grant_expired"));
    peer.renew(&grant());
    assert_eq!(read(&mut peer, opened, 0, 16), Ok(()));
}

#[test]
fn garbage_is_refused_and_counted() {
    let server = lender();
    let back = say(&server, b"GET / HTTP/1.1\r\nHost: weft\r\nAccept: everything there is, and more than that\r\n\r\n");
    assert_eq!(refusal_in(&back), Code::BadFrame);
    let mut future = Header::new(Kind::Hello, 1).encode();
    future[4] = 9;
    assert_eq!(refusal_in(&say(&server, &future)), Code::UnsupportedVersion);
    let mut early = Header::new(Kind::Read, 1);
    early.length = 4096;
    assert_eq!(refusal_in(&say(&server, &early.encode())), Code::NotAuthenticated);
    let mut oversized = Header::new(Kind::Write, 1);
    oversized.length = u64::MAX;
    assert_eq!(refusal_in(&say(&server, &oversized.encode())), Code::TooLarge);
    still_serves(&server);
}

#[test]
fn a_truncated_frame_ends_the_connection_and_nothing_else() {
    let server = lender();
    for length in [0, 1, 63] {
        assert_eq!(say(&server, &Header::new(Kind::Hello, 1).encode()[..length]), b"");
    }
    let mut hello = Header::new(Kind::Hello, 1);
    hello.length = 100;
    assert_eq!(say(&server, &hello.encode()), b"");
    until(|| server.counters().list().contains(&("connections_closed".to_owned(), 4)));
    still_serves(&server);
}

#[test]
fn a_peer_that_says_nothing_is_let_go_after_the_handshake_deadline() {
    let server = lender();
    let mut stream = TcpStream::connect(server.address()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let started = Instant::now();
    assert_eq!(stream.read(&mut [0; 1]).unwrap(), 0);
    assert!(started.elapsed() >= Duration::from_millis(400));
    assert!(server.counters().list().contains(&("connections_stalled".to_owned(), 1)));
}

#[test]
fn a_full_inbox_pushes_back_and_loses_nothing() {
    let server = lender();
    let mut peer = peer(server.address());
    let payload = vec![7; 8 << 20];
    for _ in 0..8 {
        peer.message(3, Span::of_const(&payload), soon()).unwrap();
    }
    assert_eq!(code(peer.message(3, Span::of_const(&payload), soon())), "busy");
    for _ in 0..8 {
        let message = server.receive_message(Duration::ZERO).expect("eight were taken in");
        assert_eq!((message.sender.as_str(), message.topic, message.payload.len()), ("borrower", 3, 8 << 20));
    }
    assert_eq!(server.receive_message(Duration::ZERO), None);
}

#[test]
fn a_request_is_answered_by_whoever_took_the_message() {
    let server = lender();
    std::thread::scope(|scope| {
        let asked = scope.spawn(|| {
            let mut peer = peer(server.address());
            let first = peer.request(7, Span::of_const(b"what is it?"), 100, soon());
            let second = peer.request(8, Span::of_const(b"and this?"), 100, soon());
            (first.unwrap(), second.unwrap_err().code())
        });
        let message = server.receive_message(Duration::from_secs(5)).expect("it was sent");
        assert_eq!((message.topic, message.payload.as_slice()), (7, b"what is it?".as_slice()));
        let ticket = message.ticket.expect("the sender waits");
        server.answer(ticket, Ok(b"an answer".to_vec()));
        server.answer(ticket, Ok(b"twice is dropped".to_vec()));
        let message = server.receive_message(Duration::from_secs(5)).expect("it was sent");
        server.answer(message.ticket.unwrap(), Err(weft_wire::Refusal::new(Code::NotSupported, "not here")));
        assert_eq!(asked.join().unwrap(), (b"an answer".to_vec(), "not_supported"));
    });
}

#[test]
fn an_asker_that_goes_while_it_waits_is_let_go() {
    let server = lender();
    let mut peer = peer(server.address());
    let deadline = Instant::now() + Duration::from_millis(100);
    assert_eq!(code(peer.request(7, Span::of_const(b"?"), 100, deadline)), "timed_out");
    until(|| server.counters().list().contains(&("connections_closed".to_owned(), 1)));
    let late = server.receive_message(Duration::ZERO).expect("it was taken in");
    server.answer(late.ticket.unwrap(), Ok(b"too late".to_vec()));
    still_serves(&server);
}

#[test]
fn bytes_of_a_connection_its_writer_gave_up_do_not_land_after_those_of_the_next() {
    use weft_transport::{Lane, Request, TcpLane};
    let server = lender();
    let grant = grant();
    let mut lanes: Vec<(TcpLane, u64)> = Vec::new();
    for epoch in 1..=2 {
        let mut lane = TcpLane::connect(server.address(), "lender", &borrower(), &options()).unwrap();
        let writer = weft_wire::encode_opening(9, epoch);
        let mut header = Header::new(Kind::Open, 0);
        header.tag = LENDER_LIFE;
        header.length = (writer.len() + grant.len()) as u64;
        let payload = [Span::of_const(&writer), Span::of_const(&grant)];
        lane.post(Request { header, ranges: &[], payload: &payload }, soon()).unwrap();
        let handle = lane.begin(&[], soon()).unwrap().header.handle;
        lanes.push((lane, handle));
    }
    let mut write = |index: usize, bytes: &[u8]| {
        let (lane, handle) = &mut lanes[index];
        let header = Header { handle: *handle, length: bytes.len() as u64, ..Header::new(Kind::Write, 0) };
        lane.post(Request { header, ranges: &[], payload: &[Span::of_const(bytes)] }, soon()).unwrap();
        lane.begin(&[], soon()).map(|_| ()).map_err(|error| error.code())
    };
    assert_eq!(write(1, b"newer"), Ok(()));
    assert_eq!(write(0, b"older"), Err("stale_generation"));
    let mut back = [0; 5];
    server.store().find("r1", 0).unwrap().part(Range { offset: 0, length: 5 }).unwrap().copy_to(&mut back);
    assert_eq!(&back, b"newer");
}

#[test]
fn the_newest_exclusive_holder_fences_the_older_by_arriving() {
    let server = lender();
    let mut old = peer(server.address());
    let opened = old.open(&grant(), 0, LENDER_LIFE, soon()).unwrap();
    let newer = Grant { generation: 2, ..plain_grant() };
    peer(server.address()).open(&mint(&newer), 0, LENDER_LIFE, soon()).unwrap();
    assert_eq!(write(&mut old, opened, 0, b"late"), Err("stale_generation"));
    let reading = Grant { generation: 3, mode: Mode::Read, rights: Rights::READ, ..plain_grant() };
    let other = Grant { generation: 2, ..reading.clone() };
    let mut readers = peer(server.address());
    readers.open(&mint(&reading), 0, LENDER_LIFE, soon()).unwrap();
    readers.open(&mint(&other), 0, LENDER_LIFE, soon()).unwrap();
}

#[test]
fn peers_without_the_secret_cannot_keep_others_out() {
    let server = lender();
    let held: Vec<TcpStream> = (0..70).map(|_| TcpStream::connect(server.address()).unwrap()).collect();
    still_serves(&server);
    drop(held);
}
