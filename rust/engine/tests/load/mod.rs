//! Transfers that go on while something happens to their link, each looked at byte for byte.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use weft_engine::{Direction, Endpoint, Link, Status};
use weft_wire::Advert;

use crate::world::{ended, part, pattern, soon, until};

const CHUNK_BYTES: usize = 96 << 10;
const CHUNKS: usize = 6;
/// Memory that one caller writes and reads.
pub const BYTES: usize = CHUNK_BYTES * CHUNKS;
/// Callers at it at once.
pub const CALLERS: usize = 4;

/// Writes what is different each round and reads it back, by waiting calls or by many transfers at once.
pub fn round(other: &Endpoint, link: &Arc<Link>, advert: &Arc<Advert>, seed: u64, waits: bool) {
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

/// Keeps a caller at each advert while `story` runs. How many rounds they made.
pub fn under_load(
    other: &Endpoint,
    link: &Arc<Link>,
    adverts: &[Arc<Advert>],
    story: impl FnOnce(&dyn Fn() -> u64),
) -> u64 {
    let (ended, rounds) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        for (index, advert) in adverts.iter().enumerate() {
            let (ended, rounds) = (&ended, &rounds);
            scope.spawn(move || {
                let mut seed = index as u64;
                while !ended.load(Ordering::Relaxed) {
                    round(other, link, advert, seed, index % 2 == 0);
                    seed += CALLERS as u64;
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

/// Bytes that this transport has carried.
pub fn moved(link: &Link, transport: &str) -> u64 {
    link.status().moved.iter().find(|(way, _)| *way == transport).map_or(0, |(_, bytes)| *bytes)
}

/// Waits until this transport has carried more than it has now.
pub fn carries_more(link: &Link, transport: &str) {
    let before = moved(link, transport);
    until(|| moved(link, transport) > before + (1 << 20));
}
