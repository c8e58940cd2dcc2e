//! Sends, receives and notifications: who meets whom, in which order, and what room there is.

#[macro_use]
mod world;

use std::time::{Duration, Instant};

use weft_engine::{Direction, Status};
use weft_sys::memory::Span;
use world::*;

on_every_transport! {
    sends_meet_receives_of_their_tag_in_the_order_of_posting
    a_send_that_is_too_large_fails_and_its_receive_waits_for_the_next
    a_receive_that_is_taken_back_gets_nothing_and_the_send_waits_for_the_next
    a_large_send_arrives_whole
    notifications_of_every_size_arrive_once_whole_and_in_order
    a_notification_is_seen_after_the_bytes_of_the_write_before_it
    a_full_inbox_holds_its_senders_back_and_loses_nothing
    what_is_too_large_is_refused_before_it_is_sent
    a_receive_from_a_peer_that_dies_fails_before_its_deadline
}

fn sends_meet_receives_of_their_tag_in_the_order_of_posting(pair: Pair) {
    let tags = [u64::MAX, 0, 1 << 32, 1, u64::MAX, 0, 1 << 32, 1];
    let mut buffers: Vec<Vec<u8>> = tags.iter().map(|_| vec![0; 20_000]).collect();
    let data: Vec<Vec<u8>> = (0..8).map(|index| pattern(1000 + index * 2000, index as u64)).collect();
    // Half of the sends come before their receives, half after.
    let mut sends = Vec::new();
    for index in 0..4 {
        sends.push(pair.other.send(&pair.to_owner, tags[index], Span::of_const(&data[index]), soon()).unwrap());
    }
    let receives: Vec<_> = (0..8)
        .map(|index| pair.owner.receive(&pair.to_other, tags[index], Span::of(&mut buffers[index]), soon()).unwrap())
        .collect();
    for index in 4..8 {
        sends.push(pair.other.send(&pair.to_owner, tags[index], Span::of_const(&data[index]), soon()).unwrap());
    }
    for (index, receive) in receives.iter().enumerate() {
        let length = data[index].len();
        assert_eq!(ended(receive), Status::Done(length as u64));
        assert!(buffers[index][..length] == data[index], "send {index} met another receive");
        assert_eq!(ended(&sends[index]), Status::Done(length as u64));
    }
    assert_eq!(pair.owner.memory().counts().adverts, 0, "a receive's grant ends with it");
}

fn a_send_that_is_too_large_fails_and_its_receive_waits_for_the_next(pair: Pair) {
    let mut buffer = vec![0; 10];
    let receive = pair.owner.receive(&pair.to_other, 5, Span::of(&mut buffer), soon()).unwrap();
    let large = pair.other.send(&pair.to_owner, 5, Span::of_const(&[1; 11]), soon()).unwrap();
    assert_eq!(failed(&large), "too_large");
    assert!(!receive.poll().is_terminal());
    let fits = pair.other.send(&pair.to_owner, 5, Span::of_const(&[2; 9]), soon()).unwrap();
    assert_eq!((ended(&fits), ended(&receive)), (Status::Done(9), Status::Done(9)));
    assert_eq!(buffer, [2, 2, 2, 2, 2, 2, 2, 2, 2, 0]);
}

fn a_receive_that_is_taken_back_gets_nothing_and_the_send_waits_for_the_next(pair: Pair) {
    let mut given_up = vec![0; 1000];
    let first = pair.owner.receive(&pair.to_other, 5, Span::of(&mut given_up), soon()).unwrap();
    std::thread::sleep(Duration::from_millis(20));
    pair.owner.cancel(&first);
    assert_eq!(ended(&first), Status::Cancelled);
    let data = pattern(1000, 1);
    let send = pair.other.send(&pair.to_owner, 5, Span::of_const(&data), soon()).unwrap();
    let mut buffer = vec![0; 1000];
    let second = pair.owner.receive(&pair.to_other, 5, Span::of(&mut buffer), soon()).unwrap();
    assert_eq!((ended(&second), ended(&send)), (Status::Done(1000), Status::Done(1000)));
    assert!(buffer == data && given_up == vec![0; 1000]);
}

fn a_large_send_arrives_whole(pair: Pair) {
    let data = pattern(70 << 20, 3);
    let mut buffer = vec![0; 70 << 20];
    let receive = pair.owner.receive(&pair.to_other, 0, Span::of(&mut buffer), soon()).unwrap();
    let send = pair.other.send(&pair.to_owner, 0, Span::of_const(&data), soon()).unwrap();
    assert_eq!((ended(&receive), ended(&send)), (Status::Done(70 << 20), Status::Done(70 << 20)));
    assert!(buffer == data);
}

fn notifications_of_every_size_arrive_once_whole_and_in_order(pair: Pair) {
    let sizes = [0, 1, 255, 4096, 8 << 20, (8 << 20) - 1024, (8 << 20) - 1023, 20 << 20, 3];
    let contents: Vec<Vec<u8>> = sizes.iter().map(|size| pattern(*size, *size as u64)).collect();
    let told: Vec<_> = contents
        .iter()
        .enumerate()
        .map(|(index, content)| {
            let name = [index as u8, 0, 255];
            pair.other.notify(&pair.to_owner, &name, content, soon()).unwrap()
        })
        .collect();
    let mut seen = Vec::new();
    while seen.len() < sizes.len() {
        let notices = pair.owner.notices(soon());
        assert!(!notices.is_empty(), "only {} of {} notifications came", seen.len(), sizes.len());
        seen.extend(notices);
    }
    for (index, notice) in seen.iter().enumerate() {
        assert_eq!((notice.sender.as_str(), notice.name.as_slice()), ("other", &[index as u8, 0, 255][..]));
        assert!(notice.bytes == contents[index], "notification {index} differs");
    }
    assert!(told.iter().all(|transfer| matches!(ended(transfer), Status::Done(_))));
}

fn a_notification_is_seen_after_the_bytes_of_the_write_before_it(pair: Pair) {
    let mut memory = vec![0u8; 1 << 20];
    let base = memory.as_ptr();
    let (registration, advert) = advertise(&pair.owner, &mut memory, true);
    for round in 1..=50u8 {
        let mut data = vec![round; 1 << 20];
        let write = pair.other.post(&pair.to_owner, Direction::Write, &[part(&advert, 0, &mut data)], soon()).unwrap();
        assert_eq!(ended(&write), Status::Done(1 << 20));
        let told = pair.other.notify(&pair.to_owner, b"round", &[round], soon()).unwrap();
        let notices = pair.owner.notices(soon());
        assert_eq!(notices[0].bytes, [round]);
        assert!(
            !base.is_null() && memory.iter().all(|byte| *byte == round),
            "round {round} was told of before its bytes"
        );
        assert_eq!(ended(&told), Status::Done(1));
    }
    pair.owner.release(registration).unwrap();
}

fn a_full_inbox_holds_its_senders_back_and_loses_nothing(pair: Pair) {
    let told: Vec<_> = (0..1500u32)
        .map(|index| pair.other.notify(&pair.to_owner, b"n", &index.to_le_bytes(), soon()).unwrap())
        .collect();
    until(|| told[1023].has_ended());
    std::thread::sleep(Duration::from_millis(50));
    assert!(!told[1024].has_ended(), "more were taken than there was room for");
    let mut next = 0u32;
    while next < 1500 {
        for notice in pair.owner.notices(soon()) {
            assert_eq!(notice.bytes, next.to_le_bytes());
            next += 1;
        }
    }
    assert!(told.iter().all(|transfer| ended(transfer) == Status::Done(4)));
}

fn what_is_too_large_is_refused_before_it_is_sent(pair: Pair) {
    let name = [0; 256];
    assert_eq!(pair.other.notify(&pair.to_owner, &name, &[], soon()).unwrap_err().code, "too_large");
    assert_eq!(pair.other.send(&pair.to_owner, 0, Span::of_const(&[]), soon()).unwrap_err().code, "bad_argument");
}

fn a_receive_from_a_peer_that_dies_fails_before_its_deadline(pair: Pair) {
    let mut buffer = vec![0; 10];
    let receive = pair.other.receive(&pair.to_owner, 5, Span::of(&mut buffer), soon()).unwrap();
    // The credit is on the other side when this is answered.
    assert_eq!(ended(&pair.other.notify(&pair.to_owner, b"", b"", soon()).unwrap()), Status::Done(0));
    let started = Instant::now();
    pair.owner.close();
    assert_eq!(failed(&receive), "unreachable");
    assert!(started.elapsed() < Duration::from_secs(5));
}
