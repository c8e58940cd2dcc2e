//! What only the `tcpx` transport does: blocks for a sink elsewhere, back-pressure, and the lane nobody waits on.

mod world;

use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use weft_sys::memory::Span;
use weft_sys::socket::Wait;
use weft_transport::{
    Devmem, Driven, Finished, Forgotten, Lane, Outcome, Payload, Request, Server, Submission, Taken, TcpDriven,
    TcpxDriven, TcpxLane, TcpxOptions,
};
use weft_unpack::{Block, Order, SLOTS_MAX, Slot};
use weft_wire::{Code, Header, Kind, Range};
use world::*;

const SMALL: TcpxOptions = TcpxOptions { bounce_bytes: 64 << 10, order: Order::Shuffled(3) };

fn connect(server: &Server, tcpx: TcpxOptions) -> TcpxLane {
    TcpxLane::connect(server.address(), "lender", &borrower(), &options(), tcpx).expect("the lender is up")
}

fn opening() -> (Header, Vec<u8>) {
    let mut payload = weft_wire::encode_opening(1, 1).to_vec();
    payload.extend_from_slice(&grant());
    let mut header = Header::new(Kind::Open, 0);
    header.tag = LENDER_LIFE;
    header.length = payload.len() as u64;
    (header, payload)
}

fn transfer(kind: Kind, handle: u64, offset: u64, length: u64) -> Header {
    Header { handle, offset, length, ..Header::new(kind, 0) }
}

fn open(lane: &mut TcpxLane) -> u64 {
    let (header, payload) = opening();
    lane.post(Request { header, ranges: &[], payload: &[Span::of_const(&payload)] }, soon()).unwrap();
    lane.begin(&[], soon()).unwrap().header.handle
}

fn written(lane: &mut TcpxLane, length: usize) -> (u64, Vec<u8>) {
    let handle = open(lane);
    let bytes = pattern(length, 9);
    let header = transfer(Kind::Write, handle, 0, length as u64);
    lane.post(Request { header, ranges: &[], payload: &[Span::of_const(&bytes)] }, soon()).unwrap();
    lane.begin(&[], soon()).unwrap();
    (handle, bytes)
}

fn post_read(lane: &mut TcpxLane, handle: u64, length: usize) {
    let header = transfer(Kind::Read, handle, 0, length as u64);
    lane.post(Request { header, ranges: &[], payload: &[] }, soon()).unwrap();
}

/// A sink elsewhere: gathers from the bounce buffer with nothing but the block.
fn gather(lane: &TcpxLane, block: &Block, target: &mut [u8]) {
    for fragment in block.fragments() {
        let source = lane.bounce().part(fragment.source as usize, fragment.length as usize).unwrap();
        source.copy_to(&mut target[usize::try_from(fragment.target).unwrap()..][..fragment.length as usize]);
    }
}

#[test]
fn blocks_taken_one_after_the_other_are_the_answer() {
    let server = lender();
    let mut lane = connect(&server, SMALL);
    let (handle, bytes) = written(&mut lane, 1 << 20);
    post_read(&mut lane, handle, bytes.len());
    assert_eq!(lane.begin_blocks(soon()).unwrap().bytes(), bytes.len());
    let (mut target, mut at) = (vec![0; bytes.len()], 0);
    while let Taken::Block(slot, block) = lane.take(at, bytes.len() as u64, soon()).unwrap() {
        gather(&lane, &block, &mut target);
        at += block.total_bytes();
        lane.give_back(slot).unwrap();
    }
    assert!(target == bytes);
    assert_eq!((lane.remaining(), lane.outstanding()), (0, 0));
}

/// Nothing is given back: the buffer fills, the peer waits, nothing is lost, and all of it arrives once slots come back.
#[test]
fn a_full_bounce_buffer_holds_the_peer_back_and_loses_nothing() {
    let server = lender();
    let mut lane = connect(&server, SMALL);
    let (handle, bytes) = written(&mut lane, 1 << 20);
    post_read(&mut lane, handle, bytes.len());
    lane.begin_blocks(soon()).unwrap();
    let (mut target, mut at, mut held) = (vec![0; bytes.len()], 0, std::collections::VecDeque::new());
    let mut fulls = 0;
    loop {
        match lane.take(at, bytes.len() as u64, soon()).unwrap() {
            Taken::Block(slot, block) => {
                at += block.total_bytes();
                held.push_back((slot, block));
                assert!(held.len() <= SLOTS_MAX);
            }
            Taken::Full => {
                fulls += 1;
                let (slot, block) = held.pop_front().expect("full of what is held");
                gather(&lane, &block, &mut target);
                lane.give_back(slot).unwrap();
            }
            Taken::Complete => break,
        }
    }
    for (slot, block) in held {
        gather(&lane, &block, &mut target);
        lane.give_back(slot).unwrap();
    }
    assert!(fulls > 0, "the buffer never filled");
    assert!(target == bytes);
}

#[test]
fn a_slot_given_back_out_of_order_is_refused_and_the_lane_goes_on() {
    let server = lender();
    let mut lane = connect(&server, SMALL);
    let (handle, bytes) = written(&mut lane, 4096);
    let mut slots = Vec::new();
    for _ in 0..2 {
        post_read(&mut lane, handle, bytes.len());
        lane.begin_blocks(soon()).unwrap();
        let mut at = 0;
        while let Taken::Block(slot, block) = lane.take(at, bytes.len() as u64, soon()).unwrap() {
            at += block.total_bytes();
            slots.push(slot);
        }
    }
    let last = slots.len() - 1;
    let error = lane.give_back(slots[last]).unwrap_err();
    assert!(error.to_string().contains("in the order they came"), "{error}");
    assert!(lane.give_back(Slot::from_number(999)).unwrap_err().to_string().contains("never taken"));
    for slot in &slots {
        lane.give_back(*slot).unwrap();
    }
    assert!(lane.give_back(slots[last]).unwrap_err().to_string().contains("twice"));
    post_read(&mut lane, handle, bytes.len());
    let mut back = vec![0; bytes.len()];
    let reply = lane.begin(&[Span::of(&mut back)], soon()).unwrap();
    lane.fill(&[Span::of(&mut back)], reply.filled, bytes.len(), soon()).unwrap();
    assert!(back == bytes);
}

/// Somebody still gathers from the buffer while the CPU's own reads go on beside it.
#[test]
fn a_read_beside_blocks_that_are_held_takes_nothing_from_them() {
    let server = lender();
    let mut lane = connect(&server, SMALL);
    let (handle, bytes) = written(&mut lane, 9000);
    post_read(&mut lane, handle, bytes.len());
    lane.begin_blocks(soon()).unwrap();
    let (mut held, mut at) = (Vec::new(), 0);
    while let Taken::Block(slot, block) = lane.take(at, bytes.len() as u64, soon()).unwrap() {
        at += block.total_bytes();
        held.push((slot, block));
    }
    // As often as the buffer has room for, behind the slot that is not back.
    for _ in 0..5 {
        post_read(&mut lane, handle, bytes.len());
        let mut back = vec![0; bytes.len()];
        let reply = lane.begin(&[Span::of(&mut back)], soon()).unwrap();
        lane.fill(&[Span::of(&mut back)], reply.filled, bytes.len(), soon()).unwrap();
        assert!(back == bytes);
    }
    post_read(&mut lane, handle, bytes.len());
    let full = loop {
        let mut back = vec![0; bytes.len()];
        let begun = lane.begin(&[Span::of(&mut back)], soon());
        match begun.and_then(|reply| lane.fill(&[Span::of(&mut back)], reply.filled, bytes.len(), soon())) {
            Ok(_) => post_read(&mut lane, handle, bytes.len()),
            Err(error) => break error,
        }
    };
    assert!(full.to_string().contains("were not given back"), "{full}");
    let mut target = vec![0; bytes.len()];
    for (slot, block) in held {
        gather(&lane, &block, &mut target);
        lane.give_back(slot).unwrap();
    }
    assert!(target == bytes, "bytes that were held were overwritten");
}

/// The most valuable regression test of the original: its second read of this size stalled for ever.
#[test]
fn two_consecutive_reads_larger_than_all_slots_together_both_complete() {
    let server = lender();
    let mut lane = connect(&server, SMALL);
    let (handle, bytes) = written(&mut lane, usize::try_from(EXTENT_BYTES).unwrap());
    for _ in 0..3 {
        post_read(&mut lane, handle, bytes.len());
        post_read(&mut lane, handle, bytes.len());
        for _ in 0..2 {
            let mut back = vec![0; bytes.len()];
            let reply = lane.begin(&[Span::of(&mut back)], soon()).unwrap();
            lane.fill(&[Span::of(&mut back)], reply.filled, bytes.len(), soon()).unwrap();
            assert!(back == bytes);
        }
    }
}

#[test]
fn an_answer_is_unpacked_into_as_many_parts_as_the_caller_has() {
    let server = lender();
    let mut lane = connect(&server, SMALL);
    let (handle, bytes) = written(&mut lane, 300_000);
    post_read(&mut lane, handle, bytes.len());
    let mut back = vec![0; bytes.len()];
    let parts: Vec<Span> = back.chunks_mut(777).map(Span::of).collect();
    let reply = lane.begin(&parts, soon()).unwrap();
    lane.fill(&parts, reply.filled, bytes.len(), soon()).unwrap();
    assert!(back == bytes);
}

#[test]
fn a_lender_that_stops_answering_fails_the_wait_at_its_deadline() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let silent = std::thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        std::thread::sleep(Duration::from_millis(400));
        drop(stream);
    });
    let quick = weft_transport::ConnectOptions { timeout: Duration::from_millis(100), ..options() };
    let started = Instant::now();
    let result = TcpxLane::connect(address, "lender", &borrower(), &quick, SMALL);
    assert_eq!(result.err().unwrap().code(), "timed_out");
    assert!(started.elapsed() < Duration::from_millis(350));
    silent.join().unwrap();
}

type Dial = fn(&Server) -> Box<dyn Driven>;

fn tcp(server: &Server) -> Box<dyn Driven> {
    Box::new(TcpDriven::connect(server.address(), "lender", &borrower(), &options()).expect("the lender is up"))
}

fn tcpx(server: &Server) -> Box<dyn Driven> {
    let driven = TcpxDriven::connect(server.address(), "lender", &borrower(), &options(), TcpxOptions::default());
    Box::new(driven.expect("the lender is up"))
}

fn tcpx_shuffled(server: &Server) -> Box<dyn Driven> {
    let driven = TcpxDriven::connect(server.address(), "lender", &borrower(), &options(), SMALL);
    Box::new(driven.expect("the lender is up"))
}

/// Every lane that nobody waits on keeps the same promises.
fn on_every_driven(test: impl Fn(&Server, &mut dyn Driven, u64)) {
    for (name, dial) in [("tcp", tcp as Dial), ("tcpx", tcpx), ("tcpx, shuffled", tcpx_shuffled)] {
        println!("on {name}");
        let server = lender();
        let mut lane = dial(&server);
        let (header, payload) = opening();
        submit(lane.as_mut(), 1, header, Payload::Owned(payload), vec![]);
        let Outcome::Done(reply, _) = &drive(lane.as_mut(), 1)[0].outcome else { panic!("not opened") };
        test(&server, lane.as_mut(), reply.handle);
    }
}

fn submit(lane: &mut dyn Driven, id: u64, header: Header, payload: Payload, into: Vec<Span>) {
    lane.submit(Submission { id, header, ranges: Arc::new([]), payload, into });
}

/// Drives until so many requests finished, at most five seconds.
fn drive(lane: &mut dyn Driven, count: usize) -> Vec<Finished> {
    let (mut finished, deadline) = (Vec::new(), soon());
    while finished.len() < count {
        assert!(Instant::now() < deadline, "{} of {count} finished within five seconds", finished.len());
        if !lane.advance(&mut finished).unwrap() {
            std::thread::yield_now();
        }
    }
    finished
}

fn put(lane: &mut dyn Driven, handle: u64, bytes: &[u8]) {
    let header = transfer(Kind::Write, handle, 0, bytes.len() as u64);
    submit(lane, 2, header, Payload::Spans(vec![Span::of_const(bytes)]), vec![]);
    assert!(matches!(drive(lane, 1)[0].outcome, Outcome::Done(..)));
}

#[test]
fn what_is_submitted_finishes_in_order_with_its_bytes() {
    on_every_driven(|_, lane, handle| {
        let bytes = pattern(1 << 20, 5);
        put(lane, handle, &bytes);
        let mut back: Vec<Vec<u8>> = (0..40).map(|index| vec![0; 1 + index * 5000]).collect();
        for (index, part) in back.iter_mut().enumerate() {
            let header = transfer(Kind::Read, handle, index as u64 * 17, part.len() as u64);
            submit(lane, 100 + index as u64, header, Payload::Empty, vec![Span::of(part)]);
        }
        let finished = drive(lane, 40);
        assert!(finished.iter().map(|one| one.id).eq(100..140));
        for (index, part) in back.iter().enumerate() {
            assert!(*part == bytes[index * 17..][..part.len()]);
        }
        assert_eq!(lane.outstanding(), 0);
    });
}

#[test]
fn a_vectored_read_lands_in_the_parts_it_was_given() {
    on_every_driven(|_, lane, handle| {
        let bytes = pattern(1 << 20, 6);
        put(lane, handle, &bytes);
        let ranges: Vec<Range> = (0..500).map(|index| Range { offset: index * 2001, length: 1 + index % 90 }).collect();
        let total = ranges.iter().map(|range| range.length).sum();
        let mut back: Vec<Vec<u8>> =
            ranges.iter().map(|range| vec![0; usize::try_from(range.length).unwrap()]).collect();
        let into = back.iter_mut().map(|part| Span::of(part)).collect();
        let header = transfer(Kind::Read, handle, 0, total);
        lane.submit(Submission { id: 5, header, ranges: ranges.clone().into(), payload: Payload::Empty, into });
        drive(lane, 1);
        for (range, part) in ranges.iter().zip(&back) {
            assert!(*part == bytes[usize::try_from(range.offset).unwrap()..][..part.len()]);
        }
    });
}

#[test]
fn a_refusal_finishes_its_request_and_a_zero_answer_writes_zeros() {
    on_every_driven(|_, lane, handle| {
        let (mut beyond, mut unwritten) = (vec![1; 10], vec![1; 8192]);
        submit(lane, 7, transfer(Kind::Read, handle, EXTENT_BYTES, 10), Payload::Empty, vec![Span::of(&mut beyond)]);
        submit(lane, 8, transfer(Kind::Read, handle, 0, 8192), Payload::Empty, vec![Span::of(&mut unwritten)]);
        let finished = drive(lane, 2);
        let Outcome::Refused(refusal) = &finished[0].outcome else { panic!("{finished:?}") };
        assert_eq!(refusal.code, Code::OutOfRange);
        assert!(matches!(finished[1].outcome, Outcome::Done(..)));
        assert!(unwritten.iter().all(|byte| *byte == 0));
    });
}

#[test]
fn what_was_given_up_touches_nothing_and_what_follows_arrives() {
    on_every_driven(|_, lane, handle| {
        let bytes = pattern(1 << 20, 7);
        put(lane, handle, &bytes);
        let (mut dropped, mut kept) = (vec![9; 1 << 20], vec![0; 4096]);
        let header = transfer(Kind::Read, handle, 0, 1 << 20);
        submit(lane, 3, header, Payload::Empty, vec![Span::of(&mut dropped)]);
        submit(lane, 4, transfer(Kind::Read, handle, 0, 4096), Payload::Empty, vec![Span::of(&mut kept)]);
        // Both are sent before anything of the first can be here.
        assert!(matches!(lane.forget(3), Forgotten::Unsent | Forgotten::Sent));
        let finished = drive(lane, 1);
        assert_eq!(finished[0].id, 4);
        assert!(dropped.iter().all(|byte| *byte == 9) && kept == bytes[..4096]);
        assert_eq!((lane.forget(3), lane.outstanding()), (Forgotten::Unknown, 0));
    });
}

#[test]
fn bytes_of_a_connection_without_a_card_arrive_linear() {
    if let Err(reason) = Devmem::probe() {
        println!("skipped: {reason}");
        return;
    }
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut sender = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let mut source = Devmem::new(listener.accept().unwrap().0, 1 << 20, 64 << 10).unwrap();
    let bytes = pattern(100_000, 4);
    std::io::Write::write_all(&mut sender, &bytes).unwrap();
    drop(sender);
    let (mut target, mut at) = (vec![0; bytes.len() + 1], 0);
    while let Some(sorted) = source.receive(at, target.len() as u64, Wait::Yes).unwrap() {
        assert!(sorted.device.fragments().is_empty() && sorted.tokens.is_empty());
        for fragment in sorted.linear.fragments() {
            let part = source.linear().part(fragment.source as usize, fragment.length as usize).unwrap();
            part.copy_to(&mut target[usize::try_from(fragment.target).unwrap()..][..fragment.length as usize]);
        }
        at += sorted.linear.total_bytes();
        source.give_back(&sorted.tokens).unwrap();
    }
    assert!(at == bytes.len() as u64 && target[..bytes.len()] == bytes);
    assert!(source.give_back(&[5]).is_err(), "the kernel took back what it never gave");
}
