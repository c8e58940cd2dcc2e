//! A link goes from TCP to RDMA and back while transfers are under way on it: each arrives whole, and none fails.

mod load;
mod world;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use load::{BYTES, CALLERS, carries_more, moved, round, under_load};
use weft_engine::{Endpoint, Link};
use weft_verbs::Rail;
use world::fake::Fake;
use world::*;

fn plug_in(endpoint: &Endpoint) -> (Arc<Rail>, Fake) {
    let device = Fake::plug_in();
    let rail = Rail::over(&Fake::library(), Some(&device.name)).unwrap();
    endpoint.use_rdma(&rail).unwrap();
    (rail, device)
}

/// Two endpoints that met over TCP and know of no device.
fn met() -> (Endpoint, Endpoint, Arc<Link>) {
    let (owner, other) = (endpoint("owner"), endpoint("other"));
    let link = other.meet(owner.address(), soon()).unwrap();
    assert_eq!((link.transport(), link.wanted()), ("tcp", "tcp"));
    (owner, other, link)
}

#[test]
fn transfers_under_way_outlive_an_upgrade_a_way_back_and_the_loss_of_a_device() {
    let (owner, other, link) = met();
    let mut memory = vec![vec![0u8; BYTES]; CALLERS];
    let adverts: Vec<_> = memory.iter_mut().map(|memory| advertise(&owner, memory, true).1).collect();
    let rounds = under_load(&other, &link, &adverts, |rounds| {
        carries_more(&link, "tcp");
        let (_, far) = plug_in(&owner);
        let (rail, _near) = plug_in(&other);
        other.take_way(&link, "rdma", None, soon()).unwrap();
        carries_more(&link, "rdma");
        until(|| rail.counters.read_bytes.load(Ordering::Relaxed) > 1 << 20);

        // The owner registers TCP again: its queue pairs end, and its peer is told later than that.
        assert!(owner.drop_rdma());
        carries_more(&link, "tcp");
        until(|| (link.wanted(), link.transport()) == ("rdma", "tcp"));
        assert!(link.status().trouble.is_some(), "why it is not RDMA is known");
        other.take_way(&link, "tcp", None, soon()).unwrap();
        assert_eq!((link.wanted(), link.status().trouble), ("tcp", None));
        carries_more(&link, "tcp");
        // Nothing of it is left at the owner: no queue pair, no registered memory, not even the device.
        until(|| far.alive().is_empty());

        // And RDMA once more, with a device that is then pulled out.
        let (_, again) = plug_in(&owner);
        other.take_way(&link, "rdma", None, soon()).unwrap();
        carries_more(&link, "rdma");
        again.remove();
        carries_more(&link, "tcp");
        assert!(owner.rdma_trouble().is_some(), "the owner knows that its device is gone");
        let seen = rounds();
        until(|| rounds() > seen + 8);
        assert_eq!(far.violations(), [""; 0]);
        assert_eq!(again.violations(), [""; 0]);
    });
    assert!(rounds > 8);
}

#[test]
fn what_was_begun_on_the_old_way_ends_there_and_what_comes_after_takes_the_new_one() {
    let (owner, other, link) = met();
    let mut memory = vec![0u8; BYTES];
    let (_, advert) = advertise(&owner, &mut memory, true);
    round(&other, &link, &advert, 1, false);
    let devices = (plug_in(&owner), plug_in(&other));
    other.take_way(&link, "rdma", None, soon()).unwrap();
    // A new lane has no key for its first requests; once it has, nothing goes by the connections of before.
    let mut seed = 2;
    until(|| {
        let (tcp, rdma) = (moved(&link, "tcp"), moved(&link, "rdma"));
        round(&other, &link, &advert, seed, seed % 2 == 0);
        seed += 1;
        moved(&link, "tcp") == tcp && moved(&link, "rdma") == rdma + 2 * BYTES as u64
    });

    // Given up while nothing is under way: its queue pairs end at once, not with the next transfer.
    let pairs = |device: &Fake| device.alive().iter().find(|(kind, _)| *kind == "queue pair").map_or(0, |(_, n)| *n);
    let near = &devices.1.1;
    assert!(pairs(near) > 1);
    other.take_way(&link, "tcp", None, soon()).unwrap();
    until(|| pairs(near) == 1);
}

#[test]
fn a_way_that_cannot_be_had_leaves_the_link_as_it_was_and_says_why() {
    let (owner, other, link) = met();
    let refused = other.take_way(&link, "rdma", None, soon()).unwrap_err();
    assert_eq!(refused.code, "not_supported");
    let _near = plug_in(&other);
    // The owner has no device: the agreement is refused, in words.
    other.take_way(&link, "rdma", None, soon()).unwrap_err();
    assert_eq!((link.wanted(), link.transport()), ("tcp", "tcp"));
    assert!(link.status().trouble.unwrap().contains("RDMA"), "it names what could not be had");
    assert!(other.take_way(&link, "ipc", None, soon()).is_err(), "the owner answers no neighbours");
    assert_eq!(other.take_way(&link, "pigeon", None, soon()).unwrap_err().code, "bad_argument");
    let mut memory = vec![0u8; BYTES];
    let (_, advert) = advertise(&owner, &mut memory, true);
    round(&other, &link, &advert, 1, true);
}

#[test]
fn a_peer_that_gave_rdma_up_is_off_it_with_the_first_key_that_is_refused() {
    let (owner, other, link) = met();
    let _devices = (plug_in(&owner), plug_in(&other));
    other.take_way(&link, "rdma", None, soon()).unwrap();
    let mut memory = vec![0u8; BYTES];
    let (_, advert) = advertise(&owner, &mut memory, true);
    // No key was given yet, so that no request meets the queue pair's end. The session would be renewed in ten seconds.
    assert!(owner.drop_rdma());
    let (started, mut seed) = (Instant::now(), 0);
    until(|| {
        round(&other, &link, &advert, seed, false);
        seed += 1;
        link.transport() == "tcp"
    });
    assert!(started.elapsed() < Duration::from_secs(5));
}

#[test]
fn a_record_that_names_another_device_is_not_connected_to() {
    let (owner, other, link) = met();
    let devices = (plug_in(&owner), plug_in(&other));
    let mut expected = other.use_rdma(&devices.1.0).unwrap();
    expected.gid[15] ^= 0x55;
    let refused = other.take_way(&link, "rdma", Some(expected), soon()).unwrap_err();
    assert!(refused.detail.contains("endpoint record"), "{}", refused.detail);
    let published = owner.use_rdma(&devices.0.0).unwrap();
    other.take_way(&link, "rdma", Some(published), soon()).unwrap();
    assert_eq!(link.transport(), "rdma");
}

#[test]
fn a_peer_that_is_another_life_by_now_is_told_by_taking_tcp() {
    let (owner, other, link) = met();
    let port = owner.address().port();
    drop(owner);
    let _second = endpoint_at("owner", port);
    assert_eq!(other.take_way(&link, "tcp", None, soon()).unwrap_err().code, "extent_lost");
}
