//! Memory that neighbours map: read as any other, and gone from their maps when the right to it is.

mod world;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use weft_engine::{Direction, Endpoint, Status};
use weft_sys::memory::{Mapping, Span};
use weft_wire::Advert;
use world::*;

/// Memory of the owner's that may be mapped, with content, and a right to all of it.
fn allocated(endpoint: &Endpoint, length: usize, lasts: Duration) -> (Arc<Mapping>, u64, Arc<Advert>) {
    let mapping = endpoint.allocate(length).unwrap();
    mapping.span().copy_from(&pattern(length, 1));
    let registration = endpoint.memory().register(mapping.span().part(0, length).unwrap()).unwrap();
    let advert = endpoint.advertise(registration, 0, length as u64, true, lasts).unwrap();
    (mapping, registration, Arc::new(advert))
}

const MINUTE: Duration = Duration::from_secs(60);

/// How often this process has the memory mapped for reading alone: its owner writes it.
fn views_of(mapping: &Mapping) -> usize {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let fields: Vec<Vec<&str>> = maps.lines().map(|line| line.split_whitespace().collect()).collect();
    let base = format!("{:x}-", mapping.base() as usize);
    let own = fields.iter().find(|line| line[0].starts_with(&base)).expect("it is mapped");
    fields.iter().filter(|line| line[1] == "r--s" && line[3..5] == own[3..5]).count()
}

fn read(pair: &Pair, advert: &Arc<Advert>, offset: u64, into: &mut [u8]) -> Result<u64, &'static str> {
    let parts = [part(advert, offset, into)];
    pair.other.move_now(&pair.to_owner, Direction::Read, &parts, soon()).map_err(|failure| failure.code)
}

#[test]
fn what_is_mapped_is_read_at_every_alignment_waited_for_and_posted() {
    let pair = pair_with(true);
    let length = 1 << 20;
    let (mapping, registration, advert) = allocated(&pair.owner, length, MINUTE);
    let expected = pattern(length, 1);
    assert_eq!(views_of(&mapping), 0, "it is mapped when it is first asked for");
    for (offset, count) in [(0, 1), (4095, 2), (1, 4096), (4096, 4096), (123, 100_000), (0, length), (length - 1, 1)] {
        let (mut waited, mut posted) = (vec![0; count], vec![0; count]);
        assert_eq!(read(&pair, &advert, offset as u64, &mut waited), Ok(count as u64));
        let parts = [part(&advert, offset as u64, &mut posted)];
        let transfer = pair.other.post(&pair.to_owner, Direction::Read, &parts, soon()).unwrap();
        assert_eq!(ended(&transfer), Status::Done(count as u64));
        assert!(waited == expected[offset..][..count] && posted == waited, "{count} bytes at {offset}");
    }
    assert_eq!(views_of(&mapping), 2, "a view for the lane that is waited on, and one for the engine's");
    pair.owner.release(registration).unwrap();
}

#[test]
fn a_vector_over_what_is_mapped_keeps_its_parts_apart() {
    let pair = pair_with(true);
    let (_mapping, registration, advert) = allocated(&pair.owner, 1 << 20, MINUTE);
    let expected = pattern(1 << 20, 1);
    let mut into: Vec<Vec<u8>> = (0..500).map(|index| vec![0; 7 + index % 90]).collect();
    let parts: Vec<_> = (0..).zip(&mut into).map(|(index, span)| part(&advert, index * 2000, span)).collect();
    pair.other.move_now(&pair.to_owner, Direction::Read, &parts, soon()).unwrap();
    for (index, bytes) in into.iter().enumerate() {
        assert!(*bytes == expected[index * 2000..][..bytes.len()], "part {index}");
    }
    pair.owner.release(registration).unwrap();
}

/// Writes go by the kernel, into the same memory.
#[test]
fn what_anybody_writes_is_read_at_once() {
    let pair = pair_with(true);
    let (mapping, registration, advert) = allocated(&pair.owner, 8192, MINUTE);
    let mut into = vec![0; 100];
    for round in 1..50u8 {
        mapping.span().part(4000, 100).unwrap().copy_from(&[round; 100]);
        read(&pair, &advert, 4000, &mut into).unwrap();
        assert_eq!(into, [round; 100], "the owner wrote it");
        let mut data = vec![round ^ 0xFF; 100];
        pair.other.move_now(&pair.to_owner, Direction::Write, &[part(&advert, 4000, &mut data)], soon()).unwrap();
        read(&pair, &advert, 4000, &mut into).unwrap();
        assert_eq!(into, data, "the reader wrote it");
    }
    pair.owner.release(registration).unwrap();
}

#[test]
fn only_the_granted_range_is_mapped_and_read() {
    let pair = pair_with(true);
    let mapping = pair.owner.allocate(1 << 20).unwrap();
    mapping.span().copy_from(&pattern(1 << 20, 3));
    let registration = pair.owner.memory().register(mapping.span()).unwrap();
    let advert = Arc::new(pair.owner.advertise(registration, 5000, 6000, false, MINUTE).unwrap());
    let mut into = vec![0; 6000];
    read(&pair, &advert, 0, &mut into).unwrap();
    assert!(into == pattern(1 << 20, 3)[5000..11_000]);
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let line = maps.lines().find(|line| line.contains("r--s 00001000") && line.contains("weft-memory"));
    let (from, to) = line.expect("the page it begins in").split_once(' ').unwrap().0.split_once('-').unwrap();
    let bytes = u64::from_str_radix(to, 16).unwrap() - u64::from_str_radix(from, 16).unwrap();
    assert_eq!(bytes, 8192, "two pages have these six thousand bytes");
    // An advert that says it is larger was altered on its way; its owner's word is what counts.
    let forged = Arc::new(Advert { size_bytes: 1 << 20, ..(*advert).clone() });
    let mut beyond = vec![0; 7000];
    assert_eq!(read(&pair, &forged, 0, &mut beyond), Err("out_of_range"));
    pair.owner.release(registration).unwrap();
}

#[test]
fn what_is_taken_back_is_not_read_and_does_not_stay_mapped() {
    let pair = pair_with(true);
    let (mapping, registration, advert) = allocated(&pair.owner, 1 << 20, MINUTE);
    let mut into = vec![0; 4096];
    read(&pair, &advert, 0, &mut into).unwrap();
    assert_eq!(views_of(&mapping), 1);
    pair.owner.release(registration).unwrap();
    mapping.span().copy_from(&[9; 4096]);
    assert_eq!(read(&pair, &advert, 0, &mut into), Err("extent_lost"));
    // Nobody asks again, and still nothing of it stays.
    until(|| views_of(&mapping) == 0);
}

#[test]
fn an_idle_lane_lets_go_of_what_its_owner_took_back() {
    let pair = pair_with(true);
    let (mapping, registration, advert) = allocated(&pair.owner, 1 << 20, MINUTE);
    read(&pair, &advert, 0, &mut [0; 4096]).unwrap();
    assert_eq!(views_of(&mapping), 1);
    pair.owner.release(registration).unwrap();
    until(|| views_of(&mapping) == 0);
    // The same memory, lent anew, is mapped anew.
    let (again, fresh) = advertise_span(&pair.owner, mapping.span(), true);
    read(&pair, &fresh, 0, &mut [0; 4096]).unwrap();
    assert_eq!(views_of(&mapping), 1);
    pair.owner.release(again).unwrap();
}

#[test]
fn a_grant_that_runs_out_ends_reading_and_the_mapping() {
    let pair = pair_with(true);
    let (mapping, registration, advert) = allocated(&pair.owner, 8192, Duration::from_millis(400));
    let mut into = vec![0; 4096];
    read(&pair, &advert, 0, &mut into).unwrap();
    until(|| read(&pair, &advert, 0, &mut into) == Err("grant_expired"));
    until(|| views_of(&mapping) == 0);
    pair.owner.release(registration).unwrap();
}

/// Whoever reads while memory is taken back and used for something else is either done with what it was, or refused.
#[test]
fn a_read_that_meets_a_release_has_the_old_bytes_or_none() {
    let pair = pair_with(true);
    for round in 0..40u8 {
        let mapping = pair.owner.allocate(1 << 20).unwrap();
        mapping.span().copy_from(&[1; 1 << 20]);
        let (registration, advert) = advertise_span(&pair.owner, mapping.span(), false);
        let reading = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for posted in [false, true] {
                let (pair, advert, reading) = (&pair, &advert, &reading);
                scope.spawn(move || {
                    let mut into = vec![0; 500_000];
                    loop {
                        into.fill(0);
                        let parts = [part(advert, 100_000, &mut into)];
                        let done = if posted {
                            let posted = pair.other.post(&pair.to_owner, Direction::Read, &parts, soon()).unwrap();
                            matches!(ended(&posted), Status::Done(_))
                        } else {
                            pair.other.move_now(&pair.to_owner, Direction::Read, &parts, soon()).is_ok()
                        };
                        if !done {
                            return;
                        }
                        reading.store(true, Ordering::SeqCst);
                        assert!(into.iter().all(|byte| *byte == 1), "round {round}: what came next was read");
                    }
                });
            }
            until(|| reading.load(Ordering::SeqCst));
            pair.owner.release(registration).unwrap();
            mapping.span().copy_from(&[2; 1 << 20]);
        });
    }
}

#[test]
fn an_endpoint_that_closes_is_not_read_any_more() {
    let pair = pair_with(true);
    let (mapping, _, advert) = allocated(&pair.owner, 8192, MINUTE);
    let mut into = vec![0; 4096];
    read(&pair, &advert, 0, &mut into).unwrap();
    pair.owner.close();
    let parts = [part(&advert, 0, &mut into)];
    assert!(pair.other.move_now(&pair.to_owner, Direction::Read, &parts, soon()).is_err());
    until(|| views_of(&mapping) == 0);
}

#[test]
fn memory_of_no_bytes_and_more_than_there_is_are_not_had() {
    let endpoint = endpoint("owner");
    assert_eq!(endpoint.allocate(0).unwrap_err().code, "bad_argument");
    assert_eq!(endpoint.allocate(usize::MAX).unwrap_err().code, "bad_argument");
    assert_eq!(endpoint.allocate(1 << 46).unwrap_err().code, "no_memory");
    let mut odd = [7];
    let small = endpoint.allocate(1).unwrap();
    small.span().copy_to(&mut odd);
    assert_eq!((small.len(), odd), (4096, [0]));
    assert!(Span::is_empty(small.span().part(4096, 0).unwrap()));
}
