//! How a window ends.

mod common;

use std::os::unix::process::ExitStatusExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::*;
use weft_pager::{Options, Pager, PagerError, RegionMode};
use weft_paging::directory::{Owner, PageDirectory};
use weft_sys::memory::Mapping;

#[test]
fn a_closed_window_refuses_operations_and_closing_again_is_nothing() {
    let home = Home::written(64);
    let Some(pager) = window(&home, RegionMode::Exclusive, &options()) else { return };
    assert_eq!(touch(&pager, 1), 1);
    pager.close(soon()).expect("close");
    pager.close(soon()).expect("close again");
    assert!(matches!(pager.prefetch(0, 1, soon()), Err(PagerError::Closed)));
    assert!(matches!(pager.flush(soon()), Err(PagerError::Closed)));
    assert_eq!(pager.statistics().remote_faults, 1);
}

#[test]
fn closing_ends_the_threads() {
    let home = Home::written(64);
    let options = Options { threads: 3, ..options() };
    let Some(pager) = window(&home, RegionMode::Read, &options) else { return };
    let source = Arc::strong_count(&home);
    pager.close(soon()).expect("close");
    drop(pager);
    assert!(Arc::strong_count(&home) < source, "the threads and their channels are gone");
}

#[test]
fn a_window_that_was_closed_is_a_segmentation_fault_and_not_zeros() {
    let name = "a_window_that_was_closed_is_a_segmentation_fault_and_not_zeros";
    if is_child() {
        let home = Home::written(64);
        let Some(pager) = window(&home, RegionMode::Read, &options()) else { return };
        pager.close(soon()).expect("close");
        std::process::exit(i32::from(touch(&pager, 5) == 5));
    }
    let Some(_) = window(&Home::written(1), RegionMode::Read, &options()) else { return };
    assert_eq!(child(name).0.signal(), Some(libc::SIGSEGV));
}

#[test]
fn closing_while_a_home_is_slow_ends_by_its_deadline_and_says_so() {
    let home = Home::written(64);
    let Some(pager) = window(&home, RegionMode::Read, &options()) else { return };
    home.stall(true);
    std::thread::scope(|scope| {
        let prefetch = scope.spawn(|| pager.prefetch(0, 8 * PAGE as u64, Instant::now() + Duration::from_secs(2)));
        home.await_asked(1);
        let start = Instant::now();
        let result = pager.close(Instant::now() + Duration::from_millis(100));
        assert!(matches!(result, Err(PagerError::TimedOut { .. })), "{result:?}");
        assert!(start.elapsed() < Duration::from_secs(1));
        home.stall(false);
        let _ = prefetch.join().expect("no panic");
    });
}

#[test]
fn memory_that_was_claimed_stays_and_remote_pages_are_not_zeros_after_the_pager() {
    let name = "memory_that_was_claimed_stays_and_remote_pages_are_not_zeros_after_the_pager";
    let home = Home::written(8);
    let memory = Mapping::anonymous(8 * PAGE, true).expect("mapping");
    let directory = Arc::new(PageDirectory::new(8));
    (4..8).for_each(|page| directory.set_owner(page, Owner::Remote(0)));
    let source = Arc::new(Source(Arc::clone(&home)));
    let made = Pager::claim("guest", memory.span(), directory, Some(source), &options());
    let Some(pager) = available(made) else { return };
    write_byte(&pager, 0, 3);
    assert_eq!(touch(&pager, 4), 4);
    drop(pager);
    let word = |page: usize| {
        let mut word = [0u8; 8];
        memory.span().part(page * PAGE, 8).expect("inside").copy_to(&mut word);
        u64::from_le_bytes(word)
    };
    assert_eq!((word(0), word(1), word(4)), (3, 0, 4));
    if is_child() {
        std::hint::black_box(word(5));
        unreachable!("page 5 was another's and never came");
    }
    assert_eq!(child(name).0.signal(), Some(libc::SIGBUS));
}

#[test]
fn many_windows_come_and_go() {
    let home = Home::written(64);
    for round in 0..40 {
        let Some(pager) = window(&home, RegionMode::Private, &options()) else { return };
        assert_eq!(touch(&pager, round), round);
        drop(pager);
    }
}

#[test]
fn a_window_that_makes_no_sense_is_refused() {
    let home = Home::written(1);
    let source = || Arc::new(Source(Arc::clone(&home)));
    let refused = |made: Result<Pager, PagerError>| matches!(made, Err(PagerError::BadArgument { .. }));
    assert!(refused(Pager::region("r", 0, RegionMode::Read, source(), None, &options())));
    assert!(refused(Pager::region("r", 100, RegionMode::Read, source(), None, &options())));
    assert!(refused(Pager::region("r", 4096, RegionMode::Exclusive, source(), None, &options())));
    let sink = Box::new(Sink(Arc::clone(&home)));
    assert!(refused(Pager::region("r", 4096, RegionMode::Read, source(), Some(sink), &options())));
    let idle = Options { threads: 0, ..options() };
    assert!(refused(Pager::region("r", 4096, RegionMode::Read, source(), None, &idle)));
}
