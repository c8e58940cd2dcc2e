//! Several links to one peer: what is said over one is not mixed up with the other, and giving one up leaves the other whole.

mod world;

use std::time::{Duration, Instant};

use weft_engine::Status;
use weft_sys::memory::Span;
use world::*;

/// Two endpoints, two links from the second to the first, and one back.
fn pair_and_second() -> (Pair, std::sync::Arc<weft_engine::Link>) {
    let pair = pair();
    let second = pair.other.connect(pair.owner.address(), soon()).unwrap();
    (pair, second)
}

#[test]
fn large_notifications_over_two_links_arrive_whole() {
    let (pair, second) = pair_and_second();
    // Both lanes are up: each notification goes in two parts, and the parts of both links are under way at once.
    for link in [&pair.to_owner, &second] {
        assert_eq!(ended(&pair.other.notify(link, b"", b"", soon()).unwrap()), Status::Done(0));
    }
    assert_eq!(pair.owner.notices(soon()).len(), 2);
    let contents: Vec<Vec<u8>> = (0..6).map(|seed| pattern(9 << 20, seed)).collect();
    let told: Vec<_> = (0u8..)
        .zip(&contents)
        .map(|(index, content)| {
            let link = [&pair.to_owner, &second][usize::from(index % 2)];
            pair.other.notify(link, &[index], content, soon()).unwrap()
        })
        .collect();
    let mut seen = Vec::new();
    while seen.len() < contents.len() {
        let notices = pair.owner.notices(soon());
        assert!(!notices.is_empty(), "only {} came", seen.len());
        seen.extend(notices);
    }
    assert!(seen.iter().all(|notice| notice.bytes == contents[usize::from(notice.name[0])]));
    assert!(told.iter().all(|transfer| ended(transfer) == Status::Done(9 << 20)));
}

#[test]
fn a_link_that_is_given_up_takes_no_receive_from_the_others() {
    let (pair, second) = pair_and_second();
    let (mut buffer, data) = (vec![0; 5_000], pattern(5_000, 3));
    assert_eq!(ended(&pair.other.notify(&pair.to_owner, b"in use", b"", soon()).unwrap()), Status::Done(0));
    let receive = pair.owner.receive(&pair.to_other, 7, Span::of(&mut buffer), soon()).unwrap();
    // Words arrive in their order: the receive is known over there.
    assert_eq!(ended(&pair.owner.notify(&pair.to_other, b"posted", b"", soon()).unwrap()), Status::Done(0));
    pair.other.disconnect(&pair.to_owner);
    assert_eq!(ended(&pair.other.notify(&second, b"it is gone", b"", soon()).unwrap()), Status::Done(0));
    let send = pair.other.send(&second, 7, Span::of_const(&data), Instant::now() + Duration::from_secs(3)).unwrap();
    assert_eq!((ended(&send), ended(&receive)), (Status::Done(5_000), Status::Done(5_000)));
    assert!(buffer == data);
}

#[test]
fn a_transfer_over_a_link_that_is_given_up_fails_and_over_the_other_goes_on() {
    let (pair, second) = pair_and_second();
    let (mut first, mut other) = (vec![0; 10], vec![0; 10]);
    let given_up = pair.other.receive(&pair.to_owner, 1, Span::of(&mut first), soon()).unwrap();
    let kept = pair.other.receive(&second, 2, Span::of(&mut other), soon()).unwrap();
    pair.other.disconnect(&pair.to_owner);
    assert_eq!(failed(&given_up), "closed");
    let send = pair.owner.send(&pair.to_other, 2, Span::of_const(&[9; 10]), soon()).unwrap();
    assert_eq!((ended(&send), ended(&kept)), (Status::Done(10), Status::Done(10)));
    assert_eq!((first, other), (vec![0; 10], vec![9; 10]));
}
