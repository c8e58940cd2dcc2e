//! How fast neighbours are. A tool, not a test: `cargo test --release -p weft-engine --test pace -- --ignored --nocapture`.

mod world;

use std::time::Instant;

use weft_engine::Direction;
use weft_sys::memory::Span;
use weft_sys::neighbour::{Remote, read_memory};
use world::*;

#[test]
#[ignore = "a measurement"]
fn show_what_a_read_between_neighbours_costs() {
    let pair = pair_with(true);
    let mut memory = pattern(1 << 20, 1);
    let (registration, advert) = advertise(&pair.owner, &mut memory, true);
    for size in [4096, 65_536, 1 << 20] {
        let mut into = vec![0; size];
        let mut target = vec![0; size];
        let parts = [part(&advert, 0, &mut target)];
        let mut took: Vec<u64> = (0..20_000)
            .map(|_| {
                let started = Instant::now();
                pair.other.move_now(&pair.to_owner, Direction::Read, &parts, soon()).unwrap();
                u64::try_from(started.elapsed().as_nanos()).unwrap()
            })
            .collect();
        took.sort_unstable();
        let p50 = took[took.len() / 2];
        let from = [Remote { base: memory.as_ptr() as u64, length: size }];
        let own = i32::try_from(std::process::id()).unwrap();
        let mut bare: Vec<u64> = (0..20_000)
            .map(|_| {
                let started = Instant::now();
                read_memory(own, &from, &[Span::of(&mut into)]).unwrap();
                u64::try_from(started.elapsed().as_nanos()).unwrap()
            })
            .collect();
        bare.sort_unstable();
        let (floor, rate) = (bare[bare.len() / 2], size as u64 * 1000 / p50);
        println!("{size:>8} bytes: p50 {p50} ns, {rate} MB/s; the copy by itself {floor} ns");
    }
    pair.owner.release(registration).unwrap();
}
