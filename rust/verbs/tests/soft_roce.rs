//! Two endpoints over real verbs: this process borrows, a child of it lends.
//!
//! Where there is no RDMA device it says so and passes; `make test-rdma` runs it inside a small virtual machine whose
//! kernel speaks RDMA over Ethernet in software, and there a missing device is a failure. Every step has a deadline.

#[path = "real/mod.rs"]
mod real;

use std::process::ExitCode;
use std::time::Instant;

use weft_verbs::{Rail, RailOptions};

type Step = fn(&real::World);

const STEPS: &[(&str, Step)] = &[
    ("two queue pairs send, read and write", real::raw::two_queue_pairs_send_read_and_write),
    ("a key that was never given is refused", real::raw::a_wrong_key_is_refused),
    ("a send that nobody awaits ends", real::raw::a_send_nobody_awaits_ends),
    ("a window of a pager is not pinned", real::raw::a_watched_window_is_refused),
    ("reads and writes of every size arrive whole", real::lanes::every_size_arrives_whole),
    ("a peer's pages come over it", real::lanes::a_peer_uses_it),
    ("a reader's key does not write", real::lanes::a_readers_key_does_not_write),
    ("a key ends with its generation", real::lanes::a_key_ends_with_its_generation),
    ("a lender that gives RDMA up is reached over TCP", real::lanes::a_lender_gives_rdma_up),
    ("a lender killed in the middle of a transfer", real::lanes::a_lender_is_killed),
    ("a lender stopped in the middle of a transfer", real::lanes::a_lender_is_stopped),
];

fn main() -> ExitCode {
    if std::env::var_os(real::LENDER).is_some() {
        return real::lend();
    }
    let rail = match Rail::open(&RailOptions::default()) {
        Ok(rail) => rail,
        Err(why) if std::env::var_os("WEFT_RDMA_REQUIRED").is_none() => {
            println!("soft_roce: skipped: {why}");
            return ExitCode::SUCCESS;
        }
        Err(why) => {
            println!("soft_roce: FAILED: {why}");
            return ExitCode::FAILURE;
        }
    };
    println!("soft_roce: device {} {:?}", rail.device().name(), rail.device().port());
    let world = real::World { rail };
    let mut failed = 0;
    for (name, step) in STEPS {
        let started = Instant::now();
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| step(&world)));
        for sentence in world.rail.said() {
            println!("    said: {sentence}");
        }
        failed += usize::from(outcome.is_err());
        let verdict = if outcome.is_ok() { "ok" } else { "FAILED" };
        println!("soft_roce: {verdict}: {name} ({} ms)", started.elapsed().as_millis());
    }
    println!("soft_roce: {} passed, {failed} failed", STEPS.len() - failed);
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
