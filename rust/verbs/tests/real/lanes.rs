//! Lanes: what a borrower sees, whichever way its bytes go.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use weft_sys::memory::Span;
use weft_transport::{Lane, Peer, PeerAddress, Request, TcpLane};
use weft_verbs::{RdmaLane, RdmaUpgrade, Way};
use weft_wire::{Kind, Mode, Range, Rights};

use super::asking::{header, open, read, read_until, write};
use super::world::{EXTENT_BYTES, LENDER_LIFE, borrower, options, pattern, soon};
use super::{Lending, World, grant};

fn lane(world: &World, lending: &Lending) -> RdmaLane {
    let tcp = TcpLane::connect(lending.address, "lender", &borrower(), &options()).unwrap();
    let lane = RdmaLane::over(Box::new(tcp), &world.rail, Some(lending.record), Duration::from_micros(50), soon());
    lane.unwrap()
}

fn by_rdma(world: &World) -> u64 {
    let counters = &world.rail.counters;
    counters.read_bytes.load(Ordering::Relaxed) + counters.written_bytes.load(Ordering::Relaxed)
}

/// Reads until the extent's key is there: before that, bytes come over TCP.
fn warm(world: &World, lane: &mut dyn Lane, handle: u64) {
    let deadline = soon();
    let before = by_rdma(world);
    while by_rdma(world) == before {
        assert!(Instant::now() < deadline, "no key was given: {:?}", world.rail.said());
        read(lane, handle, 0, 8).unwrap();
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn writing() -> Arc<[u8]> {
    grant(1, Mode::Exclusive, Rights::READ_WRITE)
}

pub fn every_size_arrives_whole(world: &World) {
    let mut lending = Lending::start();
    let mut lane = lane(world, &lending);
    assert_eq!(lane.way(), Way::Rdma);
    let handle = open(&mut lane, 9, &writing());
    warm(world, &mut lane, handle);
    let before = by_rdma(world);
    let mut moved = 0;
    for (seed, length) in [(1, 1), (2, 8), (3, 4095), (4, 4096), (5, 65_536), (6, 262_145), (7, 3 << 20)] {
        let bytes = pattern(length, seed);
        write(&mut lane, handle, 4096 - seed, &bytes).unwrap();
        assert_eq!(read(&mut lane, handle, 4096 - seed, length).unwrap(), bytes, "{length} bytes");
        moved += 2 * length as u64;
    }
    assert_eq!(by_rdma(world) - before, moved, "all of it went by queue pair");
    // Many at once, and ranges: in order, none mixed up.
    let pages = pattern(64 * 4096, 8);
    write(&mut lane, handle, 0, &pages).unwrap();
    for page in 0..64u64 {
        let header = header(Kind::Read, handle, page * 4096, 4096);
        lane.post(Request { header, ranges: &[], payload: &[] }, soon()).unwrap();
    }
    for page in 0..64usize {
        let mut back = vec![0; 4096];
        let into = [Span::of(&mut back)];
        let reply = lane.begin(&into, soon()).unwrap();
        lane.fill(&into, reply.filled, 4096, soon()).unwrap();
        assert_eq!(back, pages[page * 4096..][..4096], "page {page}");
    }
    let ranges: Vec<Range> = (0..64).rev().map(|page| Range { offset: page * 4096 + 7, length: 100 }).collect();
    let mut back = vec![0; 6400];
    let into = [Span::of(&mut back)];
    lane.post(Request { header: header(Kind::Read, handle, 0, 6400), ranges: &ranges, payload: &[] }, soon()).unwrap();
    let reply = lane.begin(&into, soon()).unwrap();
    lane.fill(&into, reply.filled, 6400, soon()).unwrap();
    for (part, page) in back.chunks(100).zip((0..64usize).rev()) {
        assert_eq!(part, &pages[page * 4096 + 7..][..100]);
    }
    assert_eq!(read(&mut lane, handle, EXTENT_BYTES - 1, 2).unwrap_err().code(), "out_of_range");
    assert_eq!(lane.way(), Way::Rdma, "what the key cannot reach is refused over TCP, and costs nothing else");
    assert_eq!(lending.tell("counts"), (1, 1));
}

pub fn a_peer_uses_it(world: &World) {
    let lending = Lending::start();
    let address = PeerAddress { node: "lender".to_owned(), address: lending.address };
    let mut peer = Peer::new(address, Arc::new(borrower()), options());
    peer.set_upgrade(Arc::new(RdmaUpgrade::new(&world.rail, Some(lending.record), Duration::from_micros(50))));
    let opened = peer.open(&writing(), 0, LENDER_LIFE, soon()).unwrap();
    let deadline = soon();
    let before = by_rdma(world);
    let bytes = pattern(4096, 21);
    while by_rdma(world) == before {
        assert!(Instant::now() < deadline, "no key was given");
        peer.write(opened, &[Range { offset: 0, length: 4096 }], &[Span::of_const(&bytes)], soon()).unwrap();
    }
    let mut back = vec![0; 4096];
    peer.read(opened, &[Range { offset: 0, length: 4096 }], &[Span::of(&mut back)], soon()).unwrap();
    assert_eq!(back, bytes);
}

pub fn a_readers_key_does_not_write(world: &World) {
    let lending = Lending::start();
    let mut lane = lane(world, &lending);
    let handle = open(&mut lane, 9, &grant(1, Mode::Read, Rights::READ));
    warm(world, &mut lane, handle);
    assert_eq!(write(&mut lane, handle, 0, b"no").unwrap_err().code(), "read_only");
    assert_eq!(read(&mut lane, handle, 0, 2).unwrap(), [0, 0]);
    assert_eq!(lane.way(), Way::Rdma);
}

pub fn a_key_ends_with_its_generation(world: &World) {
    let mut lending = Lending::start();
    let mut lane = lane(world, &lending);
    let handle = open(&mut lane, 9, &writing());
    warm(world, &mut lane, handle);
    assert_eq!(lending.tell("counts"), (1, 1));
    assert_eq!(lending.tell("raise 2"), (1, 0), "the key is gone when raising returns");
    assert_eq!(write(&mut lane, handle, 0, b"late").unwrap_err().code(), "stale_generation");
    assert!(matches!(lane.way(), Way::Tcp(_)), "a refused key ends the queue pair");
    assert_eq!(lending.tell("counts"), (0, 0), "and its session was cut");
    let newer = open(&mut lane, 10, &grant(2, Mode::Exclusive, Rights::READ_WRITE));
    assert_eq!(read(&mut lane, newer, 0, 4).unwrap(), [0; 4]);
}

pub fn a_lender_gives_rdma_up(world: &World) {
    let mut lending = Lending::start();
    let mut lane = lane(world, &lending);
    let handle = open(&mut lane, 9, &writing());
    warm(world, &mut lane, handle);
    let bytes = pattern(1 << 20, 4);
    write(&mut lane, handle, 0, &bytes).unwrap();
    lending.tell("close-rdma");
    let started = Instant::now();
    assert_eq!(read(&mut lane, handle, 0, 1 << 20).unwrap(), bytes, "over TCP, the same bytes");
    assert!(matches!(lane.way(), Way::Tcp(_)));
    println!("    fell back within {} ms", started.elapsed().as_millis());
}

pub fn a_lender_is_killed(world: &World) {
    let lending = Lending::start();
    let mut lane = lane(world, &lending);
    let handle = open(&mut lane, 9, &writing());
    warm(world, &mut lane, handle);
    let request = Request { header: header(Kind::Read, handle, 0, 4 << 20), ranges: &[], payload: &[] };
    let deadline = Instant::now() + Duration::from_secs(5);
    lane.post(request, deadline).unwrap();
    lending.signal(libc::SIGKILL);
    let mut bytes = vec![0; 4 << 20];
    let into = [Span::of(&mut bytes)];
    let ended = lane.begin(&into, deadline).and_then(|reply| lane.fill(&into, reply.filled, 4 << 20, deadline));
    // What was under way may have arrived before the end of the process did; the next request meets it in any case.
    let error = match ended {
        Ok(_) => read_until(&mut lane, handle, 0, 4096, deadline).unwrap_err(),
        Err(error) => error,
    };
    println!("    ended with: {error}");
    assert!(Instant::now() < deadline + Duration::from_millis(500), "it ended after its deadline");
    assert!(error.temporary() && error.breaks_lane());
}

pub fn a_lender_is_stopped(world: &World) {
    let lending = Lending::start();
    let mut lane = lane(world, &lending);
    let handle = open(&mut lane, 9, &writing());
    warm(world, &mut lane, handle);
    lending.stop();
    // Its device answers for it, which is what one-sided means; a word over TCP is not answered, and ends.
    assert_eq!(read(&mut lane, handle, 0, 8).unwrap().len(), 8);
    let started = Instant::now();
    let deadline = started + Duration::from_millis(700);
    let outside = read_until(&mut lane, handle, EXTENT_BYTES, 8, deadline);
    assert_eq!(outside.unwrap_err().code(), "timed_out");
    assert!(started.elapsed() < Duration::from_secs(2));
    lending.signal(libc::SIGCONT);
}
