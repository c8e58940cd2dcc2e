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

use weft_engine::{Direction, Status, Transfer};
use weft_sys::memory::Span;
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

/// One life of a pair under one fault. How many frames it took until the fault had passed.
fn life(fault: Fault, at: usize) -> usize {
    let case = format!("{fault:?} at frame {at}");
    let (owner, other) = (endpoint("owner"), endpoint("other"));
    let mut memory = pattern(300_000, 1);
    let mut model = memory.clone();
    let (registration, advert) = advertise(&owner, &mut memory, true);
    let (address, count) = proxy(owner.address(), fault, at);
    let mut link = other.connect(address, shortly());
    if link.is_err() {
        // The fault met the handshake, and there was no time to repeat it.
        link = other.connect(address, soon());
    }
    let link = link.unwrap_or_else(|failure| panic!("{case}: {failure}"));
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
    assert!(memory == model, "{case}: the owner's memory differs");
    frames
}

#[test]
fn any_frame_may_be_lost_late_cut_torn_doubled_or_damaged() {
    let frames = life(Fault::Delay, usize::MAX);
    assert!(frames > 30, "only {frames} frames");
    let cases: Vec<(Fault, usize)> =
        FAULTS.into_iter().flat_map(|fault| (0..frames).map(move |at| (fault, at))).collect();
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..12 {
            scope.spawn(|| {
                while let Some((fault, at)) = cases.get(next.fetch_add(1, Ordering::SeqCst)) {
                    life(*fault, *at);
                }
            });
        }
    });
}

/// A send whose words or bytes meet a fault arrives whole at one receive, or both say that it did not.
#[test]
fn a_send_meets_its_receive_through_a_path_that_fails_once() {
    for fault in [Fault::Cut, Fault::Truncate, Fault::Duplicate] {
        for at in 8..24 {
            let (owner, other) = (endpoint("owner"), endpoint("other"));
            let (address, _) = proxy(owner.address(), fault, at);
            let Ok(link) = other.connect(address, soon()) else { continue };
            let back = owner.accept(soon()).unwrap().expect("it connected");
            for round in 0..3u8 {
                let (data, mut buffer) = (vec![round; 30_000], vec![9; 30_000]);
                let receive = owner.receive(&back, 7, Span::of(&mut buffer), soon()).unwrap();
                let send = other.send(&link, 7, Span::of_const(&data), soon()).unwrap();
                assert_eq!(ended(&send), Status::Done(30_000), "{fault:?} at {at}, round {round}");
                assert_eq!(ended(&receive), Status::Done(30_000), "{fault:?} at {at}, round {round}");
                assert!(buffer == data, "{fault:?} at {at}, round {round}");
            }
        }
    }
}
