//! How fast neighbours are. A tool, not a test: `cargo test --release -p weft-engine --test pace -- --ignored --nocapture`.
//!
//! Reads of memory that Weft allocated (mapped here) and of memory that was registered (copied by the kernel), each beside
//! its floor: a plain copy between two places of this process, and the kernel's copy by itself. Hot reads one place again
//! and again; walking goes through 64 MiB on both sides. The four take turns, so that ratios hold where a machine's pace
//! drifts.

mod world;

use std::time::Instant;

use weft_engine::Direction;
use weft_sys::memory::Span;
use weft_sys::neighbour::{Remote, read_memory};
use world::*;

const WALK_BYTES: usize = 64 << 20;
const ROUNDS: usize = 7;

/// The middle of what `count` calls took, in nanoseconds; each is told where it is in the walk.
fn p50(count: usize, step: usize, hot: bool, mut call: impl FnMut(usize)) -> u64 {
    let places = WALK_BYTES / step;
    let mut took: Vec<u64> = (0..count)
        .map(|index| {
            let at = if hot { 0 } else { index % places * step };
            let started = Instant::now();
            call(at);
            u64::try_from(started.elapsed().as_nanos()).unwrap()
        })
        .collect();
    took.sort_unstable();
    took[took.len() / 2]
}

fn middle(mut samples: Vec<u64>) -> u64 {
    samples.sort_unstable();
    samples[samples.len() / 2]
}

#[test]
#[ignore = "a measurement"]
fn show_what_a_read_between_neighbours_costs() {
    let pair = pair_with(true);
    let mut registered = pattern(WALK_BYTES, 1);
    let (registration, by_kernel) = advertise(&pair.owner, &mut registered, true);
    let allocated = pair.owner.allocate(WALK_BYTES).unwrap();
    allocated.span().copy_from(&registered);
    let (lent, mapped) = advertise_span(&pair.owner, allocated.span(), true);
    let mut target = vec![1; WALK_BYTES];
    let whole = Span::of(&mut target);
    let own = i32::try_from(std::process::id()).unwrap();
    let source = Span::of_const(&registered);
    println!("     bytes          mapped      floor: a copy     by the kernel   floor: its copy");
    for size in [4096, 65_536, 1 << 20] {
        for hot in [true, false] {
            let count = (4_000_000 / size).clamp(300, 4_000);
            let into = |at: usize| whole.part(at, size).unwrap();
            let read = |advert, at: usize| {
                let parts =
                    [weft_engine::Part { advert: std::sync::Arc::clone(advert), offset: at as u64, span: into(at) }];
                pair.other.move_now(&pair.to_owner, Direction::Read, &parts, soon()).unwrap();
            };
            let mut took: [Vec<u64>; 4] = Default::default();
            for _ in 0..ROUNDS {
                took[0].push(p50(count, size, hot, |at| read(&mapped, at)));
                took[1].push(p50(count, size, hot, |at| source.part(at, size).unwrap().copy_span_to(into(at))));
                took[2].push(p50(count, size, hot, |at| read(&by_kernel, at)));
                took[3].push(p50(count, size, hot, |at| {
                    let from = [Remote { base: registered.as_ptr() as u64 + at as u64, length: size }];
                    read_memory(own, &from, &[into(at)]).unwrap();
                }));
            }
            let columns: Vec<String> = took
                .into_iter()
                .map(|samples| {
                    let ns = middle(samples);
                    format!("{ns:>7} ns {:>4.1}", size as f64 / ns as f64)
                })
                .collect();
            println!("{size:>8} {:>4}  {} GB/s", if hot { "hot" } else { "walk" }, columns.join("   "));
        }
    }
    pair.owner.release(registration).unwrap();
    pair.owner.release(lent).unwrap();
}
