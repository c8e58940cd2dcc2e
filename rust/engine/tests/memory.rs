//! Registrations: numbers, what they share, and what they give back.

mod world;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use weft_engine::{Direction, Memory};
use weft_sys::memory::Span;
use weft_transport::Store;
use world::*;

fn memory() -> Memory {
    Memory::new(*b"a test's cluster", SECRET, "owner", 1)
}

fn span(bytes: &mut [u8], from: usize, to: usize) -> Span {
    Span::of(&mut bytes[from..to])
}

#[test]
fn the_same_memory_registered_twice_has_two_numbers_and_one_backing() {
    let (memory, mut bytes) = (memory(), vec![0; 4096]);
    let (one, two) = (memory.register(Span::of(&mut bytes)).unwrap(), memory.register(Span::of(&mut bytes)).unwrap());
    assert_ne!(one, two);
    let counts = memory.counts();
    assert_eq!((counts.registrations, counts.backings, counts.backings_shared), (2, 1, 1));
}

#[test]
fn a_range_inside_another_shares_the_smallest_that_contains_it() {
    let (memory, mut bytes) = (memory(), vec![0; 8192]);
    let _all = memory.register(Span::of(&mut bytes)).unwrap();
    let half = {
        // Registered before it could share, so that there are two to choose from.
        let other = super_half(&memory, &mut bytes);
        assert_eq!(memory.counts().backings, 1);
        other
    };
    let inside = memory.register(span(&mut bytes, 100, 200)).unwrap();
    assert_eq!(memory.counts().backings, 1);
    assert_eq!(memory.containing(span(&mut bytes, 150, 160)), Some(inside));
    assert_eq!(memory.containing(span(&mut bytes, 1000, 1001)), Some(half));
    assert_eq!(memory.containing(span(&mut bytes, 4000, 5000)), Some(1));
}

fn super_half(memory: &Memory, bytes: &mut [u8]) -> u64 {
    memory.register(span(bytes, 0, 4096)).unwrap()
}

#[test]
fn ranges_that_overlap_in_part_share_nothing() {
    let (memory, mut bytes) = (memory(), vec![0; 8192]);
    memory.register(span(&mut bytes, 0, 5000)).unwrap();
    memory.register(span(&mut bytes, 4999, 8192)).unwrap();
    memory.register(span(&mut bytes, 0, 5001)).unwrap();
    assert_eq!((memory.counts().backings, memory.counts().backings_shared), (3, 0));
}

#[test]
fn a_backing_goes_with_the_last_that_uses_it_in_whatever_order() {
    let (memory, store, mut bytes) = (memory(), Store::default(), vec![0; 8192]);
    let all = memory.register(Span::of(&mut bytes)).unwrap();
    let inside = memory.register(span(&mut bytes, 10, 20)).unwrap();
    memory.release(&store, all).unwrap();
    assert_eq!(memory.counts().backings, 1);
    memory.release(&store, inside).unwrap();
    assert_eq!((memory.counts().backings, memory.counts().registrations), (0, 0));
    let fresh = memory.register(Span::of(&mut bytes)).unwrap();
    assert!(fresh > inside, "a number was given out twice");
    assert_eq!(memory.release(&store, all).unwrap_err().code, "unknown_handle");
}

#[test]
fn nothing_is_registered_of_no_bytes_and_nothing_advertised_outside() {
    let (memory, store, mut bytes) = (memory(), Store::default(), vec![0; 100]);
    assert_eq!(memory.register(Span::of(&mut [])).unwrap_err().code, "bad_argument");
    let all = memory.register(Span::of(&mut bytes)).unwrap();
    for (offset, length) in [(0, 101), (100, 1), (u64::MAX, 2), (1, u64::MAX), (0, 0)] {
        assert_eq!(memory.advertise(&store, all, offset, length, true, u64::MAX).unwrap_err().code, "out_of_range");
    }
    let advert = memory.advertise(&store, all, 50, 50, true, u64::MAX).unwrap();
    assert_eq!(memory.counts().adverts, 1);
    memory.withdraw(&store, advert.buffer).unwrap();
    memory.withdraw(&store, advert.buffer).unwrap();
    assert_eq!((memory.counts().adverts, store.list().len()), (0, 0));
}

/// Memory that is released while others hammer it is never touched after.
#[test]
fn a_buffer_released_under_load_is_its_owners_at_once() {
    for ipc in [false, true] {
        let pair = pair_with(ipc);
        for round in 0..20u8 {
            let mut bytes = vec![0; 1 << 20];
            let (registration, advert) = advertise(&pair.owner, &mut bytes, true);
            let stop = AtomicBool::new(false);
            std::thread::scope(|scope| {
                for _ in 0..2 {
                    scope.spawn(|| {
                        let mut data = vec![round + 1; 300_000];
                        while !stop.load(Ordering::SeqCst) {
                            let parts = [part(&advert, 7, &mut data)];
                            let posted = pair.other.post(&pair.to_owner, Direction::Write, &parts, soon()).unwrap();
                            let failed = !matches!(ended(&posted), weft_engine::Status::Done(_));
                            if failed || pair.other.move_now(&pair.to_owner, Direction::Write, &parts, soon()).is_err()
                            {
                                return;
                            }
                        }
                    });
                }
                std::thread::sleep(Duration::from_millis(2));
                pair.owner.release(registration).unwrap();
                bytes.fill(0);
                std::thread::sleep(Duration::from_millis(2));
                assert!(bytes.iter().all(|byte| *byte == 0), "bytes landed in memory that was given back");
                stop.store(true, Ordering::SeqCst);
            });
        }
    }
}

/// A faster way that appears, and one that goes, in the middle of transfers fails none of them.
#[test]
fn a_link_changes_its_transport_without_a_failed_transfer() {
    let pair = pair_with(true);
    let mut bytes = pattern(4 << 20, 1);
    let (registration, advert) = advertise(&pair.owner, &mut bytes, false);
    let stop = Arc::new(AtomicBool::new(false));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let mut into = vec![0; 4 << 20];
                while !stop.load(Ordering::SeqCst) {
                    into.fill(0);
                    let parts = [part(&advert, 0, &mut into)];
                    pair.other.move_now(&pair.to_owner, Direction::Read, &parts, soon()).unwrap();
                    assert!(into == bytes);
                    into.fill(0);
                    let parts = [part(&advert, 0, &mut into)];
                    let posted = pair.other.post(&pair.to_owner, Direction::Read, &parts, soon()).unwrap();
                    assert_eq!(ended(&posted), weft_engine::Status::Done(4 << 20));
                    assert!(into == bytes);
                }
            });
        }
        for _ in 0..5 {
            let near = pair.to_owner.take_shortcut();
            assert!(near.is_some(), "there was a faster way");
            until(|| pair.to_owner.transport() == "tcp");
            pair.to_owner.set_shortcut(near);
            until(|| pair.to_owner.transport() == "ipc");
        }
        stop.store(true, Ordering::SeqCst);
    });
    pair.owner.release(registration).unwrap();
}
