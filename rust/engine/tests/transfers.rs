//! Reads and writes between two endpoints: what is moved, when it is done, and how it ends otherwise.

#[macro_use]
mod world;

use std::time::{Duration, Instant};

use weft_engine::{Direction, Status};
use weft_sys::memory::Span;
use world::*;

on_every_transport! {
    a_read_that_is_waited_for_brings_what_the_owner_has
    a_write_is_in_the_owners_memory_when_it_is_done
    two_consecutive_posted_reads_larger_than_all_windows_complete
    an_ended_transfer_answers_the_same_for_ever
    a_range_outside_the_advert_is_refused_by_the_asker_and_by_the_owner
    an_advert_to_read_gives_no_right_to_write_even_to_one_that_pretends
    a_released_registration_is_out_of_reach_at_once
    an_expired_advert_is_refused_by_its_owner
    what_is_queued_for_a_peer_that_is_gone_fails_and_does_not_wait_for_its_deadline
    a_peer_that_came_back_as_another_process_holds_nothing_of_the_last
    a_transfer_that_is_cancelled_leaves_its_memory_alone
    closing_an_endpoint_ends_its_transfers
}

fn a_read_that_is_waited_for_brings_what_the_owner_has(pair: Pair) {
    let mut memory = pattern(1 << 20, 1);
    let content = memory.clone();
    let (registration, advert) = advertise(&pair.owner, &mut memory, true);
    for (offset, length) in [(0, 1), (1, 4096), (4095, 2), (123, 100_000), (0, 1 << 20)] {
        let mut into = vec![0; length];
        let parts = [part(&advert, offset as u64, &mut into)];
        let moved = pair.other.move_now(&pair.to_owner, Direction::Read, &parts, soon()).unwrap();
        assert_eq!(moved, length as u64);
        assert!(into == content[offset..offset + length], "{length} bytes at {offset} differ");
    }
    pair.owner.release(registration).unwrap();
}

fn a_write_is_in_the_owners_memory_when_it_is_done(pair: Pair) {
    let mut memory = vec![0; 1 << 20];
    let (registration, advert) = advertise(&pair.owner, &mut memory, true);
    let mut data = pattern(300_000, 2);
    pair.other.move_now(&pair.to_owner, Direction::Write, &[part(&advert, 77, &mut data)], soon()).unwrap();
    let mut more = pattern(1000, 3);
    let posted =
        pair.other.post(&pair.to_owner, Direction::Write, &[part(&advert, 500_000, &mut more)], soon()).unwrap();
    assert_eq!(ended(&posted), Status::Done(1000));
    pair.owner.release(registration).unwrap();
    assert!(memory[77..300_077] == data && memory[500_000..501_000] == more);
}

fn two_consecutive_posted_reads_larger_than_all_windows_complete(pair: Pair) {
    // Four lanes of eight mebibytes at most.
    let size = 80 << 20;
    let mut memory = pattern(size, 4);
    let (registration, advert) = advertise(&pair.owner, &mut memory, false);
    let (mut first, mut second) = (vec![0; size], vec![0; size]);
    let one = pair.other.post(&pair.to_owner, Direction::Read, &[part(&advert, 0, &mut first)], soon()).unwrap();
    let two = pair.other.post(&pair.to_owner, Direction::Read, &[part(&advert, 0, &mut second)], soon()).unwrap();
    assert_eq!((ended(&one), ended(&two)), (Status::Done(size as u64), Status::Done(size as u64)));
    pair.owner.release(registration).unwrap();
    assert!(first == memory && second == memory);
}

fn an_ended_transfer_answers_the_same_for_ever(pair: Pair) {
    let mut memory = pattern(4096, 5);
    let (_, advert) = advertise(&pair.owner, &mut memory, false);
    let mut into = vec![0; 4096];
    let transfer = pair.other.post(&pair.to_owner, Direction::Read, &[part(&advert, 0, &mut into)], soon()).unwrap();
    assert_eq!(ended(&transfer), Status::Done(4096));
    pair.other.cancel(&transfer);
    for _ in 0..3 {
        assert_eq!(transfer.poll(), Status::Done(4096));
    }
    pair.owner.close();
}

fn a_range_outside_the_advert_is_refused_by_the_asker_and_by_the_owner(pair: Pair) {
    let mut memory = pattern(8192, 6);
    let registration = pair.owner.memory().register(Span::of(&mut memory)).unwrap();
    let advert = pair.owner.advertise(registration, 0, 4096, true, Duration::from_secs(60)).unwrap();
    let mut into = vec![0; 4097];
    let own = std::sync::Arc::new(advert.clone());
    let refused = pair.other.move_now(&pair.to_owner, Direction::Read, &[part(&own, 0, &mut into)], soon());
    assert_eq!(refused.unwrap_err().code, "out_of_range");
    // A peer that lies to itself about the size is told by the owner, who has more there and does not give it.
    let lie = std::sync::Arc::new(weft_wire::Advert { size_bytes: 8192, ..advert });
    let refused =
        pair.other.move_now(&pair.to_owner, Direction::Read, &[part(&lie, 0, &mut into)], soon()).unwrap_err();
    assert_eq!((refused.code, refused.peer.as_str()), ("out_of_range", "owner"));
    assert!(refused.region.starts_with("buffer-"));
    let posted = pair.other.post(&pair.to_owner, Direction::Read, &[part(&lie, 0, &mut into)], soon()).unwrap();
    assert_eq!(failed(&posted), "out_of_range");
    pair.owner.close();
}

fn an_advert_to_read_gives_no_right_to_write_even_to_one_that_pretends(pair: Pair) {
    let mut memory = pattern(4096, 7);
    let before = memory.clone();
    let (_, advert) = advertise(&pair.owner, &mut memory, false);
    let pretended = std::sync::Arc::new(weft_wire::Advert { writable: true, ..(*advert).clone() });
    let mut data = vec![1; 16];
    let refused = pair.other.move_now(&pair.to_owner, Direction::Write, &[part(&pretended, 0, &mut data)], soon());
    assert_eq!(refused.unwrap_err().code, "read_only");
    pair.owner.close();
    assert!(memory == before);
}

fn a_released_registration_is_out_of_reach_at_once(pair: Pair) {
    let mut memory = pattern(4096, 8);
    let (registration, advert) = advertise(&pair.owner, &mut memory, true);
    let mut into = vec![0; 4096];
    pair.other.move_now(&pair.to_owner, Direction::Read, &[part(&advert, 0, &mut into)], soon()).unwrap();
    pair.owner.release(registration).unwrap();
    let refused = pair.other.move_now(&pair.to_owner, Direction::Read, &[part(&advert, 0, &mut into)], soon());
    assert_eq!(refused.unwrap_err().code, "extent_lost");
    let posted = pair.other.post(&pair.to_owner, Direction::Read, &[part(&advert, 0, &mut into)], soon()).unwrap();
    assert_eq!(failed(&posted), "extent_lost");
    assert_eq!(pair.owner.release(registration).unwrap_err().code, "unknown_handle");
}

fn an_expired_advert_is_refused_by_its_owner(pair: Pair) {
    let mut memory = pattern(4096, 8);
    let registration = pair.owner.memory().register(Span::of(&mut memory)).unwrap();
    let advert = pair.owner.advertise(registration, 0, 4096, true, Duration::ZERO).unwrap();
    let mut into = vec![0; 4096];
    let parts = [part(&std::sync::Arc::new(advert), 0, &mut into)];
    let refused = pair.other.move_now(&pair.to_owner, Direction::Read, &parts, soon());
    assert_eq!(refused.unwrap_err().code, "grant_expired");
    pair.owner.close();
}

fn what_is_queued_for_a_peer_that_is_gone_fails_and_does_not_wait_for_its_deadline(pair: Pair) {
    let mut memory = pattern(4096, 9);
    let (_, advert) = advertise(&pair.owner, &mut memory, true);
    pair.owner.close();
    let mut into = vec![0; 4096];
    let started = Instant::now();
    let posted = pair.other.post(&pair.to_owner, Direction::Read, &[part(&advert, 0, &mut into)], soon()).unwrap();
    assert_eq!(failed(&posted), "unreachable");
    let refused = pair.other.move_now(&pair.to_owner, Direction::Read, &[part(&advert, 0, &mut into)], soon());
    assert_eq!(refused.unwrap_err().code, "unreachable");
    assert!(started.elapsed() < Duration::from_secs(6));
}

fn a_peer_that_came_back_as_another_process_holds_nothing_of_the_last(pair: Pair) {
    let mut memory = pattern(4096, 10);
    let (_, advert) = advertise(&pair.owner, &mut memory, true);
    let port = pair.owner.address().port();
    pair.owner.close();
    let second = (pair.again)("owner", port);
    let mut into = vec![0; 4096];
    let refused = pair.other.move_now(&pair.to_owner, Direction::Read, &[part(&advert, 0, &mut into)], soon());
    assert_eq!(refused.unwrap_err().code, "extent_lost");
    let again = pair.other.connect(second.address(), soon()).unwrap();
    let refused = pair.other.move_now(&again, Direction::Read, &[part(&advert, 0, &mut into)], soon());
    assert_eq!(refused.unwrap_err().code, "extent_lost");
}

fn a_transfer_that_is_cancelled_leaves_its_memory_alone(pair: Pair) {
    let size = 64 << 20;
    let mut memory = pattern(size, 11);
    let (registration, advert) = advertise(&pair.owner, &mut memory, true);
    for _ in 0..5 {
        let mut into = vec![0; size];
        let posted = pair.other.post(&pair.to_owner, Direction::Read, &[part(&advert, 0, &mut into)], soon()).unwrap();
        until(|| posted.poll() != Status::Queued);
        pair.other.cancel(&posted);
        let status = ended(&posted);
        assert!(matches!(status, Status::Cancelled | Status::Done(_)), "{status:?}");
        let seen = into.clone();
        // The lane goes on, and nothing of the cancelled read arrives any more.
        let mut next = vec![0; 100_000];
        pair.other.move_now(&pair.to_owner, Direction::Read, &[part(&advert, 5, &mut next)], soon()).unwrap();
        let posted = pair.other.post(&pair.to_owner, Direction::Read, &[part(&advert, 5, &mut next)], soon()).unwrap();
        assert_eq!(ended(&posted), Status::Done(100_000));
        assert!(into == seen && next == memory[5..100_005]);
    }
    pair.owner.release(registration).unwrap();
}

fn closing_an_endpoint_ends_its_transfers(pair: Pair) {
    let size = 64 << 20;
    let mut memory = pattern(size, 12);
    let (_, advert) = advertise(&pair.owner, &mut memory, true);
    let mut into = vec![0; size];
    let posted = pair.other.post(&pair.to_owner, Direction::Read, &[part(&advert, 0, &mut into)], soon()).unwrap();
    let waiting = pair.other.receive(&pair.to_owner, 3, Span::of(&mut [0; 10]), soon()).unwrap();
    pair.other.close();
    assert!(posted.poll().is_terminal() && waiting.poll().is_terminal());
    assert_eq!(pair.other.post(&pair.to_owner, Direction::Read, &[], soon()).unwrap_err().code, "bad_argument");
    assert_eq!(pair.other.connect(pair.owner.address(), soon()).unwrap_err().code, "closed");
    pair.owner.close();
}
