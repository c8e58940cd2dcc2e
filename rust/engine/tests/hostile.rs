//! Peers that send nonsense: nothing of it panics, hangs or reaches memory, and who behaves is served as before.

mod world;

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use proptest::prelude::*;
use weft_engine::{Direction, Status};
use weft_sys::memory::Span;
use weft_sys::neighbour::Conversation;
use weft_transport::{ConnectOptions, Driven, Identity, Payload, Submission, TcpDriven};
use weft_wire::{Advert, Greeting, Header, Kind, Word, encode_opening};
use world::*;

/// Forwards with one byte in so many changed, either way, wherever it falls.
fn noisy(target: std::net::SocketAddr, seed: u64, one_in: u64) -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound");
    std::thread::spawn(move || {
        for (number, client) in listener.incoming().enumerate() {
            let (Ok(client), Ok(server)) = (client, TcpStream::connect(target)) else { return };
            for (way, (from, to)) in [(&client, &server), (&server, &client)].into_iter().enumerate() {
                let (mut from, mut to) =
                    (from.try_clone().expect("a descriptor"), to.try_clone().expect("a descriptor"));
                let state = AtomicU64::new(seed ^ (number as u64) << 8 ^ way as u64 | 1);
                std::thread::spawn(move || {
                    let mut buffer = [0u8; 4096];
                    while let Ok(got @ 1..) = from.read(&mut buffer) {
                        for byte in &mut buffer[..got] {
                            let mut random = state.load(Ordering::Relaxed);
                            random ^= random << 13;
                            random ^= random >> 7;
                            random ^= random << 17;
                            state.store(random, Ordering::Relaxed);
                            if random.is_multiple_of(one_in) {
                                *byte ^= random.to_le_bytes()[5];
                            }
                        }
                        if to.write_all(&buffer[..got]).is_err() {
                            break;
                        }
                    }
                    let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
                });
            }
        }
    });
    address
}

#[test]
fn a_path_that_changes_bytes_at_random_ends_every_transfer_by_its_deadline() {
    std::thread::scope(|scope| {
        for seed in 1..=8u64 {
            scope.spawn(move || {
                let (owner, other) = (endpoint("owner"), endpoint("other"));
                let mut memory = pattern(1 << 20, seed);
                let (registration, advert) = advertise(&owner, &mut memory, true);
                let address = noisy(owner.address(), seed, [700, 5_000, 100_000][usize::try_from(seed % 3).unwrap()]);
                let Ok(link) = other.connect(address, Instant::now() + Duration::from_secs(1)) else { return };
                for _ in 0..10 {
                    let until = Instant::now() + Duration::from_millis(150);
                    let mut into = vec![0; 100_000];
                    let _ = other.move_now(&link, Direction::Read, &[part(&advert, 0, &mut into)], until);
                    let posted: Vec<_> = (0..3)
                        .map(|_| other.post(&link, Direction::Read, &[part(&advert, 0, &mut into)], until).unwrap())
                        .chain([other.notify(&link, b"n", &[1; 5000], until).unwrap()])
                        .collect();
                    for transfer in posted {
                        let status = transfer.wait(Instant::now() + Duration::from_secs(4));
                        assert!(status.is_terminal(), "seed {seed}: {status:?}");
                    }
                    assert!(until.elapsed() < Duration::from_secs(3), "seed {seed}: beyond the deadline");
                }
                owner.release(registration).unwrap();
            });
        }
    });
}

/// Payloads have no checksum of their own: on a path that changes bytes, TLS is what notices.
#[test]
fn under_tls_what_is_done_is_right_whatever_bytes_the_path_changes() {
    let (right, failed) = (AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for seed in 1..=6u64 {
            let (right, failed) = (&right, &failed);
            scope.spawn(move || {
                let (owner, other) = (endpoint_under_tls("owner", 0), endpoint_under_tls("other", 0));
                let mut memory = pattern(400_000, seed);
                let mut model = memory.clone();
                let (registration, advert) = advertise(&owner, &mut memory, true);
                let clean = other.connect(owner.address(), soon()).unwrap();
                let address = noisy(owner.address(), seed, 600_000);
                let Ok(link) = other.connect(address, soon()) else { return };
                // Where a write failed it may still land, whatever is written there over another link: nobody knows any more.
                let mut known = [true; 4];
                for round in 0..16 {
                    let until = || Instant::now() + Duration::from_millis(700);
                    let (mut data, mut into) = (pattern(100_000, round), vec![0; 150_000]);
                    let place = 100_000 * (round % 4);
                    let at = usize::try_from(place).unwrap();
                    let write = [part(&advert, place, &mut data)];
                    let written = if round % 2 == 0 {
                        other.move_now(&link, Direction::Write, &write, until()).is_ok()
                    } else {
                        let posted = other.post(&link, Direction::Write, &write, until()).unwrap();
                        matches!(posted.wait(soon()), Status::Done(_))
                    };
                    known[at / 100_000] &= written;
                    model[at..at + 100_000].copy_from_slice(&data);
                    let mut whole = vec![0; 400_000];
                    other.move_now(&clean, Direction::Read, &[part(&advert, 0, &mut whole)], soon()).unwrap();
                    // All that comes over the noisy path: the first place, and half of the second.
                    let read = other.move_now(&link, Direction::Read, &[part(&advert, 0, &mut into)], until()).is_ok();
                    for place in (0..4).filter(|place| known[*place]) {
                        let (from, to) = (place * 100_000, (place + 1) * 100_000);
                        let case = format!("seed {seed}, round {round}, place {place}");
                        assert!(whole[from..to] == model[from..to], "{case}: what was done is not what was written");
                        let to = to.min(into.len());
                        assert!(
                            !read || from >= to || into[from..to] == model[from..to],
                            "{case}: read as something else"
                        );
                    }
                    for done in [written, read] {
                        (if done { right } else { failed }).fetch_add(1, Ordering::Relaxed);
                    }
                }
                owner.release(registration).unwrap();
            });
        }
    });
    assert!(right.load(Ordering::Relaxed) >= 20, "hardly anything got through: {right:?} of {failed:?} besides");
}

/// What a process may say that knows the secret and means no good: words of every kind, with numbers that are nobody's.
fn lies() -> impl Strategy<Value = Word> {
    let small = || prop_oneof![0..6u64, Just(u64::MAX), any::<u64>()];
    prop_oneof![
        (small(), small(), prop::collection::vec(any::<u8>(), 0..120))
            .prop_map(|(receive, tag, advert)| Word::Posted { receive, tag, advert }),
        (small(), small(), any::<u64>(), small()).prop_map(|(receive, tag, buffer, size)| {
            let (owner, grant) = ("owner".to_owned(), vec![7; 80].into());
            let advert =
                Advert { buffer, incarnation: 1, size_bytes: size.max(1), writable: true, owner, grant, extent: None };
            Word::Posted { receive, tag, advert: advert.encode() }
        }),
        (small(), small()).prop_map(|(receive, length)| Word::Landed { receive, length }),
        small().prop_map(|receive| Word::Withdrawn { receive }),
        (0..4u32, 1..5u32, 0..2_000u64, prop::collection::vec(any::<u8>(), 0..2_000))
            .prop_map(|(part, parts, total, bytes)| Word::Notice { part, parts, total, name: vec![1], bytes }),
        (any::<u16>(), "[ -~]{0,30}").prop_map(|(port, host)| Word::Greet(Greeting {
            host,
            port,
            ..Greeting::default()
        })),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn a_peer_that_lies_in_every_word_disturbs_nobody_else(
        words in prop::collection::vec((lies(), any::<bool>(), any::<prop::sample::Index>(), any::<u8>()), 1..60),
    ) {
        let pair = pair();
        let liar = Identity::new(*b"a test's cluster", SECRET, "liar".to_owned(), 77);
        let options = ConnectOptions { timeout: Duration::from_secs(2), ..ConnectOptions::default() };
        // Somebody honest waits meanwhile, with the very numbers that are lied about.
        let (mut buffer, data) = (vec![0; 3_000], pattern(3_000, 1));
        let receive = pair.owner.receive(&pair.to_other, 3, Span::of(&mut buffer), soon()).unwrap();
        let mut lane = None;
        for (sequence, (word, damaged, at, byte)) in words.into_iter().enumerate() {
            let mut payload = word.encode(99, sequence as u64 + 1);
            if damaged {
                let index = at.index(payload.len());
                payload[index] = byte;
            }
            let lane = lane.get_or_insert_with(|| {
                TcpDriven::connect(pair.owner.address(), "owner", &liar, &options).expect("it knows the secret")
            });
            let mut header = Header::new(Kind::Message, 0);
            (header.tag, header.length) = (word.topic(), payload.len() as u64);
            let ranges = std::sync::Arc::new([]);
            lane.submit(Submission { id: 1, header, ranges, payload: Payload::Owned(payload), into: Vec::new() });
            let mut finished = Vec::new();
            until(|| lane.advance(&mut finished).is_err() || !finished.is_empty());
        }
        prop_assert!(!receive.poll().is_terminal(), "a receive ended by somebody else's word");
        let send = pair.other.send(&pair.to_owner, 3, Span::of_const(&data), soon()).unwrap();
        prop_assert_eq!((ended(&send), ended(&receive)), (Status::Done(3_000), Status::Done(3_000)));
        prop_assert!(buffer == data);
        pair.owner.notices(Instant::now());
        prop_assert_eq!(ended(&pair.other.notify(&pair.to_owner, b"n", &[1; 5_000], soon()).unwrap()), Status::Done(5_000));
        let notices = pair.owner.notices(soon());
        prop_assert!(notices.iter().any(|notice| notice.sender == "other" && notice.bytes == [1; 5_000]));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn a_neighbour_that_asks_nonsense_is_refused_and_others_are_served(
        records in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 1..20),
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..20),
    ) {
        let pair = pair_with(true);
        let mut memory = pattern(4096, 1);
        let (registration, advert) = advertise(&pair.owner, &mut memory, true);
        let talk = Conversation::connect(&pair.to_owner.greeting.socket).unwrap();
        let mut good = advert.incarnation.to_le_bytes().to_vec();
        good.extend_from_slice(&encode_opening(1, 1));
        good.extend_from_slice(&advert.grant);
        let damaged = flips.iter().map(|(at, byte)| {
            let mut record = good.clone();
            let index = at.index(record.len());
            record[index] ^= byte;
            (record, index, *byte)
        });
        let mut answer = [0; 4096];
        until(|| talk.receive(&mut answer).is_ok());
        for (record, index, byte) in records.into_iter().map(|record| (record, 0, 1)).chain(damaged) {
            if record.is_empty() || talk.send(&record, None).is_err() {
                break;
            }
            answer[0] = 1;
            until(|| talk.is_over() || talk.receive(&mut answer).is_ok());
            // Writer and epoch are the asker's to choose; everything else is checked.
            let chosen = (8..24).contains(&index) || byte == 0;
            prop_assert!(answer[0] != 0 || chosen, "nonsense was granted");
        }
        let mut into = vec![0; 4096];
        pair.other.move_now(&pair.to_owner, Direction::Read, &[part(&advert, 0, &mut into)], soon()).unwrap();
        prop_assert!(into == memory);
        drop(talk);
        pair.owner.release(registration).unwrap();
    }
}
