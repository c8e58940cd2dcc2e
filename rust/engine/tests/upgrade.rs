//! A link goes from TCP to RDMA and back while transfers are under way on it: each arrives whole, and none fails.

mod world;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use weft_engine::{Direction, Endpoint, Link, Status};
use weft_verbs::Rail;
use weft_wire::Advert;
use world::fake::Fake;
use world::*;

const CHUNK_BYTES: usize = 96 << 10;
const CHUNKS: usize = 6;

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

/// Writes what is different each round and reads it back, by waiting calls or by many transfers at once.
fn round(other: &Endpoint, link: &Arc<Link>, advert: &Arc<Advert>, seed: u64, waits: bool) {
    let mut chunks: Vec<Vec<u8>> =
        (0..CHUNKS).map(|index| pattern(CHUNK_BYTES, seed * CHUNKS as u64 + index as u64)).collect();
    let written = chunks.clone();
    for direction in [Direction::Write, Direction::Read] {
        if direction == Direction::Read {
            chunks.iter_mut().for_each(|chunk| chunk.fill(0));
        }
        let parts: Vec<_> = chunks
            .iter_mut()
            .enumerate()
            .map(|(index, chunk)| part(advert, (index * CHUNK_BYTES) as u64, chunk))
            .collect();
        if waits {
            other.move_now(link, direction, &parts, soon()).unwrap();
            continue;
        }
        let moving: Vec<_> =
            parts.into_iter().map(|part| other.post(link, direction, &[part], soon()).unwrap()).collect();
        for transfer in &moving {
            assert_eq!(ended(transfer), Status::Done(CHUNK_BYTES as u64), "round {seed}");
        }
    }
    assert!(chunks == written, "round {seed} came back as something else");
}

/// Keeps four callers at it while `story` runs. How many rounds they made.
fn under_load(owner: &Endpoint, other: &Endpoint, link: &Arc<Link>, story: impl FnOnce(&dyn Fn() -> u64)) -> u64 {
    let (ended, rounds) = (AtomicBool::new(false), AtomicU64::new(0));
    let mut memory = vec![vec![0u8; CHUNK_BYTES * CHUNKS]; 4];
    let adverts: Vec<_> = memory.iter_mut().map(|memory| advertise(owner, memory, true).1).collect();
    thread::scope(|scope| {
        for (index, advert) in adverts.iter().enumerate() {
            let (ended, rounds) = (&ended, &rounds);
            scope.spawn(move || {
                let mut seed = index as u64;
                while !ended.load(Ordering::Relaxed) {
                    round(other, link, advert, seed, index % 2 == 0);
                    seed += 4;
                    rounds.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        // The callers stop also when the story fails.
        let told = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| story(&|| rounds.load(Ordering::Relaxed))));
        ended.store(true, Ordering::Relaxed);
        if let Err(failed) = told {
            std::panic::resume_unwind(failed);
        }
    });
    rounds.into_inner()
}

fn moved(link: &Link, transport: &str) -> u64 {
    link.status().moved.iter().find(|(way, _)| *way == transport).map_or(0, |(_, bytes)| *bytes)
}

/// Waits until this transport has carried more than it has now.
fn carries_more(link: &Link, transport: &str) {
    let before = moved(link, transport);
    until(|| moved(link, transport) > before + (1 << 20));
}

#[test]
fn transfers_under_way_outlive_an_upgrade_a_way_back_and_the_loss_of_a_device() {
    let (owner, other, link) = met();
    let rounds = under_load(&owner, &other, &link, |rounds| {
        carries_more(&link, "tcp");
        let (_, far) = plug_in(&owner);
        let (rail, _near) = plug_in(&other);
        other.take_way(&link, "rdma", None, soon()).unwrap();
        carries_more(&link, "rdma");
        until(|| rail.counters.read_bytes.load(Ordering::Relaxed) > 1 << 20);

        // The owner registers TCP again: its queue pairs end, and its peer is told later than that.
        assert!(owner.drop_rdma());
        carries_more(&link, "tcp");
        assert_eq!((link.wanted(), link.transport()), ("rdma", "tcp"));
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
    let mut memory = vec![0u8; CHUNK_BYTES * CHUNKS];
    let (_, advert) = advertise(&owner, &mut memory, true);
    round(&other, &link, &advert, 1, false);
    let devices = (plug_in(&owner), plug_in(&other));
    other.take_way(&link, "rdma", None, soon()).unwrap();
    let before = moved(&link, "tcp");
    for seed in 2..6 {
        round(&other, &link, &advert, seed, seed % 2 == 0);
    }
    assert_eq!(moved(&link, "tcp"), before, "lanes of the old way were left idle and are closed");
    assert!(moved(&link, "rdma") >= 4 * 2 * (CHUNK_BYTES * CHUNKS) as u64);

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
    let mut memory = vec![0u8; CHUNK_BYTES * CHUNKS];
    let (_, advert) = advertise(&owner, &mut memory, true);
    round(&other, &link, &advert, 1, true);
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
