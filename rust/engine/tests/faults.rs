//! Every frame between two endpoints, lost, late, cut, torn, doubled or damaged in turn: everything ends by its deadline, what
//! is done is right, and afterwards all works as before.
//!
//! The path is a proxy that knows frames. Damage to a payload is not here: the wire's checksum is the header's, and bytes
//! on the way are TCP's business, or TLS's.

mod world;

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use weft_engine::{Direction, Endpoint, Link, Status, Transfer};
use weft_sys::memory::Span;
use weft_transport::TcpxOptions;
use weft_unpack::Order;
use weft_wire::{HEADER_BYTES, Header, RANGE_BYTES};
use world::*;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Drop,
    Delay,
    Cut,
    Truncate,
    Duplicate,
    Flip,
}

const FAULTS: [Fault; 6] = [Fault::Drop, Fault::Delay, Fault::Cut, Fault::Truncate, Fault::Duplicate, Fault::Flip];

/// Forwards to `target`; the frame with number `at` meets `fault`. Counts frames of both directions together.
fn proxy(target: SocketAddr, fault: Fault, at: usize) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound");
    let count = Arc::new(AtomicUsize::new(0));
    let counting = Arc::clone(&count);
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let (Ok(client), Ok(server)) = (client, TcpStream::connect(target)) else { return };
            let _ = (client.set_nodelay(true), server.set_nodelay(true));
            for (from, to) in [(&client, &server), (&server, &client)] {
                let (from, to) = (from.try_clone().expect("a descriptor"), to.try_clone().expect("a descriptor"));
                let count = Arc::clone(&counting);
                std::thread::spawn(move || {
                    let _ = forward(&from, &to, &count, fault, at);
                    let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
                });
            }
        }
    });
    (address, count)
}

fn forward(
    mut from: &TcpStream,
    mut to: &TcpStream,
    count: &AtomicUsize,
    fault: Fault,
    at: usize,
) -> std::io::Result<()> {
    loop {
        let mut frame = vec![0; HEADER_BYTES];
        from.read_exact(&mut frame)?;
        let header = Header::decode(frame[..].try_into().expect("a head's worth")).expect("endpoints send frames");
        let rest = header.count as usize * RANGE_BYTES + usize::try_from(header.payload_bytes()).expect("bounded");
        frame.resize(HEADER_BYTES + rest, 0);
        from.read_exact(&mut frame[HEADER_BYTES..])?;
        if count.fetch_add(1, Ordering::SeqCst) != at {
            to.write_all(&frame)?;
            continue;
        }
        match fault {
            Fault::Drop => {}
            Fault::Delay => {
                std::thread::sleep(Duration::from_millis(20));
                to.write_all(&frame)?;
            }
            Fault::Cut => return Ok(()),
            Fault::Truncate => {
                to.write_all(&frame[..frame.len() / 2])?;
                return Ok(());
            }
            Fault::Duplicate => {
                to.write_all(&frame)?;
                to.write_all(&frame)?;
            }
            Fault::Flip => {
                frame[at * 7 % HEADER_BYTES] ^= 1 << (at % 8);
                to.write_all(&frame)?;
            }
        }
    }
}

fn shortly() -> Instant {
    Instant::now() + Duration::from_millis(400)
}

/// Whether it was done; it ended by its deadline in any case.
fn done(transfer: &Transfer, what: &str) -> bool {
    let started = Instant::now();
    let status = transfer.wait(Instant::now() + Duration::from_secs(3));
    assert!(status.is_terminal(), "{what} did not end: {status:?} after {:?}", started.elapsed());
    matches!(status, Status::Done(_))
}

/// Connects: again where the fault met the handshake, or the handshake of what was given up for taking too long.
fn meet(other: &Endpoint, address: SocketAddr, case: &str) -> Arc<Link> {
    let tries = [shortly as fn() -> Instant, soon, soon];
    let mut failure = String::new();
    for until in tries {
        match other.connect(address, until()) {
            Ok(link) => return link,
            Err(error) => failure = error.to_string(),
        }
    }
    panic!("{case}: {failure}")
}

/// One life of a pair under one fault, its answers straight from the socket or gathered from a bounce buffer. How many frames it
/// took until the fault had passed.
fn life(fault: Fault, at: usize, bounced: bool) -> usize {
    let case = format!("{fault:?} at frame {at}{}", if bounced { ", bounced" } else { "" });
    let (owner, other) = (endpoint("owner"), endpoint("other"));
    if bounced {
        other.through_bounce(TcpxOptions { bounce_bytes: 64 << 10, order: Order::Shuffled(at as u64) });
    }
    let mut memory = pattern(300_000, 1);
    let mut model = memory.clone();
    let (registration, advert) = advertise(&owner, &mut memory, true);
    // A second buffer, for vectors; of the second half nothing is ever written, because a forged advert stands beside it.
    let mut beside = pattern(40_000, 9);
    let mut beside_model = beside.clone();
    let (beside_registration, beside_advert) = advertise(&owner, &mut beside, true);
    let forged = {
        let mut grant = advert.grant.to_vec();
        *grant.last_mut().expect("a proof") ^= 1;
        Arc::new(weft_wire::Advert { grant: grant.into(), ..(*advert).clone() })
    };
    let (address, count) = proxy(owner.address(), fault, at);
    let link = meet(&other, address, &case);
    // Reads and writes that are waited for.
    let mut into = vec![0; 100_000];
    if other.move_now(&link, Direction::Read, &[part(&advert, 1000, &mut into)], shortly()).is_ok() {
        assert!(into == model[1000..101_000], "{case}: a read that was waited for brought something else");
    }
    let mut data = pattern(50_000, 2);
    let written = other.move_now(&link, Direction::Write, &[part(&advert, 0, &mut data)], shortly()).is_ok();
    // Reads and writes that are posted, of ranges of their own.
    let mut posted = vec![0; 60_000];
    let read = other.post(&link, Direction::Read, &[part(&advert, 200_000, &mut posted)], shortly()).unwrap();
    if done(&read, &case) {
        assert!(posted == model[200_000..260_000], "{case}: a posted read brought something else");
    }
    let mut more = pattern(40_000, 3);
    let write = other.post(&link, Direction::Write, &[part(&advert, 60_000, &mut more)], shortly()).unwrap();
    let posted_write = done(&write, &case);
    // Vectors of two adverts, and of a good one and one that is none.
    let (mut here, mut there) = (pattern(10_000, 4), pattern(10_000, 5));
    let vector = [part(&advert, 110_000, &mut here), part(&beside_advert, 5_000, &mut there)];
    let wrong = [part(&beside_advert, 20_000, &mut there), part(&forged, 130_000, &mut here)];
    let _ = other.move_now(&link, Direction::Write, &vector, shortly());
    assert!(other.move_now(&link, Direction::Write, &wrong, shortly()).is_err(), "{case}: a forged advert was taken");
    let vectored = other.post(&link, Direction::Write, &vector, shortly()).unwrap();
    done(&vectored, &case);
    let wrongly = other.post(&link, Direction::Write, &wrong, shortly()).unwrap();
    assert!(!done(&wrongly, &case), "{case}: a forged advert was taken");
    // Words: each arrives once or not at all, in order.
    let told: Vec<_> = (0..3u8).map(|word| other.notify(&link, b"n", &[word], shortly()).unwrap()).collect();
    let heard: Vec<bool> = told.iter().map(|word| done(word, &case)).collect();
    let frames = count.load(Ordering::SeqCst);
    // The fault has passed: the same bytes again, and everything is as it should be.
    other
        .move_now(&link, Direction::Write, &[part(&advert, 0, &mut data)], soon())
        .unwrap_or_else(|failure| panic!("{case}: {failure}"));
    let write = other.post(&link, Direction::Write, &[part(&advert, 60_000, &mut more)], soon()).unwrap();
    assert!(matches!(ended(&write), Status::Done(40_000)), "{case}: {:?}", write.poll());
    let vectored = other.post(&link, Direction::Write, &vector, soon()).unwrap();
    assert!(matches!(ended(&vectored), Status::Done(20_000)), "{case}: {:?}", vectored.poll());
    model[110_000..120_000].copy_from_slice(&here);
    beside_model[5_000..15_000].copy_from_slice(&there);
    model[..50_000].copy_from_slice(&data);
    model[60_000..100_000].copy_from_slice(&more);
    let mut whole = vec![0; 300_000];
    other.move_now(&link, Direction::Read, &[part(&advert, 0, &mut whole)], soon()).unwrap();
    assert!(whole == model, "{case}: the memory differs (written {written}, {posted_write})");
    assert!(matches!(ended(&other.notify(&link, b"n", &[9], soon()).unwrap()), Status::Done(1)), "{case}");
    let mut words: Vec<u8> = Vec::new();
    until(|| {
        words.extend(owner.notices(Instant::now()).iter().map(|notice| notice.bytes[0]));
        words.last() == Some(&9)
    });
    assert!(words.is_sorted() && words.windows(2).all(|pair| pair[0] != pair[1]), "{case}: {words:?}");
    for (word, heard) in heard.iter().enumerate() {
        assert!(!heard || words.contains(&u8::try_from(word).unwrap()), "{case}: word {word} was lost: {words:?}");
    }
    // What a peer may no longer reach is its owner's.
    owner.release(registration).unwrap_or_else(|failure| panic!("{case}: {failure}"));
    owner.release(beside_registration).unwrap_or_else(|failure| panic!("{case}: {failure}"));
    assert!(memory == model, "{case}: the owner's memory differs");
    assert!(beside == beside_model, "{case}: a vector was written in part, or beside its place");
    frames
}

/// Runs each case on one of some threads, which mostly wait.
fn in_turn<C: Copy + Sync>(cases: &[C], run: impl Fn(C) + Sync) {
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..12 {
            scope.spawn(|| {
                while let Some(case) = cases.get(next.fetch_add(1, Ordering::SeqCst)) {
                    run(*case);
                }
            });
        }
    });
}

fn every_fault_at_every_frame(frames: usize) -> Vec<(Fault, usize)> {
    FAULTS.into_iter().flat_map(|fault| (0..frames).map(move |at| (fault, at))).collect()
}

#[test]
fn any_frame_may_be_lost_late_cut_torn_doubled_or_damaged() {
    let frames = life(Fault::Delay, usize::MAX, false);
    assert!(frames > 50, "only {frames} frames");
    in_turn(&every_fault_at_every_frame(frames), |(fault, at)| {
        life(fault, at, false);
    });
}

#[test]
fn any_frame_may_meet_a_fault_on_its_way_through_a_bounce_buffer() {
    let frames = life(Fault::Delay, usize::MAX, true);
    // Words and heads are those of the other test; here every third frame, each fault at other frames than the next.
    let cases: Vec<_> = every_fault_at_every_frame(frames)
        .into_iter()
        .enumerate()
        .filter(|(index, (_, at))| (index / frames + at).is_multiple_of(3))
        .map(|(_, case)| case)
        .collect();
    in_turn(&cases, |(fault, at)| {
        life(fault, at, true);
    });
}

/// One life of two endpoints that send each other something, their frames to the owner under one fault. How many there were.
fn exchange(fault: Fault, at: usize) -> usize {
    let case = format!("{fault:?} at frame {at}");
    let (owner, other) = (endpoint("owner"), endpoint("other"));
    let (address, count) = proxy(owner.address(), fault, at);
    let link = meet(&other, address, &case);
    // What met the fault while it greeted is behind a greeting that was heard.
    let back = owner.accept(soon()).unwrap().expect("it connected");
    for round in 0..20u8 {
        // The last comes when the fault has passed; a tag of each round's own keeps what was given up apart.
        let last = round >= 3 && (at == usize::MAX || count.load(Ordering::SeqCst) > at);
        let until = if last { soon } else { shortly };
        let (data, mut buffer) = (vec![round + 1; 30_000], vec![0; 30_000]);
        let (there, mut answer) = (vec![round + 101; 5_000], vec![0; 5_000]);
        let receive = owner.receive(&back, round.into(), Span::of(&mut buffer), soon()).unwrap();
        let send = other.send(&link, round.into(), Span::of_const(&data), until()).unwrap();
        let answered = other.receive(&link, round.into(), Span::of(&mut answer), soon()).unwrap();
        let answering = owner.send(&back, round.into(), Span::of_const(&there), until()).unwrap();
        for (what, sender, receiver, taker, data, buffer) in [
            ("send", &send, &receive, &owner, &data, &buffer),
            ("answer", &answering, &answered, &other, &there, &answer),
        ] {
            let case = format!("{case}, {what} of round {round}");
            let whole = Status::Done(data.len() as u64);
            let sent = done(sender, &case);
            assert!(sent || !last, "{case}: {:?} when the fault had passed", sender.poll());
            if !sent {
                // It may be there all the same, and only the word that it is was lost.
                taker.cancel(receiver);
            }
            let received = ended(receiver);
            assert!(received == whole || (!sent && received == Status::Cancelled), "{case}: {received:?}");
            if received == whole {
                assert!(buffer == data, "{case}: something else arrived");
            }
        }
        if last {
            return count.load(Ordering::SeqCst);
        }
    }
    panic!("{case}: the fault never came");
}

/// A send whose words or bytes meet a fault arrives whole at one receive, or its sender says that it did not.
#[test]
fn a_send_meets_its_receive_through_a_path_that_fails_once() {
    let frames = exchange(Fault::Delay, usize::MAX);
    assert!(frames > 20, "only {frames} frames");
    in_turn(&every_fault_at_every_frame(frames), |(fault, at)| {
        exchange(fault, at);
    });
}
