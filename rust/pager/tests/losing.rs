//! What happens to pages that their home does not give.

mod common;

use std::os::unix::process::ExitStatusExt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use common::*;
use weft_pager::source::FetchError;
use weft_pager::{Options, Pager, PagerError, Readahead, RegionMode};
use weft_paging::directory::{Owner, PageDirectory};
use weft_sys::memory::Mapping;

const DEADLINE: Duration = Duration::from_millis(300);

fn short() -> Options {
    Options { fault_deadline: DEADLINE, readahead: Readahead::None, ..options() }
}

/// Touches a page of the window through the kernel, which answers an error where the program's own touch would be a
/// SIGBUS; answers whether the page was there.
fn touch_by_system_call(pager: &Pager, page: u64) -> bool {
    let (read_end, write_end) = std::io::pipe().expect("pipe");
    let span = page_of(pager, page);
    // SAFETY: the page is mapped; the kernel answers EFAULT or EHWPOISON where it cannot be read.
    let written = unsafe { libc::write(std::os::fd::AsRawFd::as_raw_fd(&write_end), span.base().cast(), 8) };
    drop(read_end);
    written == 8
}

#[test]
fn a_page_that_does_not_come_by_the_deadline_is_a_line_and_a_sigbus() {
    let name = "a_page_that_does_not_come_by_the_deadline_is_a_line_and_a_sigbus";
    if is_child() {
        let home = Home::written(64);
        let Some(pager) = window(&home, RegionMode::Read, &short()) else { return };
        home.stall(true);
        touch(&pager, 5);
        unreachable!("the touch never returns");
    }
    let Some(_) = window(&Home::written(1), RegionMode::Read, &short()) else { return };
    let start = Instant::now();
    let (status, stderr) = child(name);
    assert_eq!(status.signal(), Some(libc::SIGBUS), "{status:?}: {stderr}");
    assert!(start.elapsed() < DEADLINE + Duration::from_secs(3));
    let line = stderr.lines().find(|line| line.starts_with("weft: page lost:")).expect("the line");
    assert!(line.contains("region r-test offset 0x5000 node even: no answer by the deadline. "), "{line}");
}

#[test]
fn a_lost_page_is_refused_to_those_who_ask_until_it_is_released() {
    let home = Home::written(64);
    let Some(pager) = window(&home, RegionMode::Read, &short()) else { return };
    home.stall(true);
    assert!(!touch_by_system_call(&pager, 5));
    home.stall(false);
    for result in [pager.prefetch(5 * PAGE as u64, 1, soon()), pager.read(4 * PAGE as u64, &mut [0; 2 * PAGE], soon())]
    {
        let Err(PagerError::Unavailable(lost)) = result else { panic!("{result:?}") };
        assert_eq!((lost.region.as_str(), lost.offset, lost.node.as_str()), ("r-test", 5 * PAGE as u64, "even"));
        assert_eq!((lost.code, lost.temporary), ("timed_out", true));
    }
    assert_eq!(pager.counters().pages_lost.get(), 1);

    page_of(&pager, 5).discard().expect("release");
    assert_eq!(touch(&pager, 5), 5);
    pager.prefetch(0, 64 * PAGE as u64, soon()).expect("whole again");
}

#[test]
fn writing_the_whole_of_a_lost_page_makes_it_a_page_again() {
    let home = Home::written(64);
    let Some(pager) = window(&home, RegionMode::Exclusive, &short()) else { return };
    home.stall(true);
    assert!(!touch_by_system_call(&pager, 5));
    home.stall(false);
    assert!(matches!(pager.write(5 * PAGE as u64 + 1, &[1], soon()), Err(PagerError::Unavailable(_))));
    // A lost page was never written here, whatever its entry looks like to the kernel.
    assert_eq!(pager.flush(soon()).expect("flush"), 0);
    assert_eq!(home.first_byte(5), 5);
    pager.write(5 * PAGE as u64, &[6; PAGE], soon()).expect("write");
    assert_eq!(touch(&pager, 5).to_le_bytes(), [6; 8]);
    assert_eq!(pager.flush(soon()).expect("flush"), PAGE as u64);
    assert_eq!(home.first_byte(5), 6);
}

#[test]
fn a_page_that_is_asked_for_and_not_given_is_an_error_and_not_lost() {
    let home = Home::written(64);
    let Some(pager) = window(&home, RegionMode::Read, &short()) else { return };
    home.stall(true);
    let start = Instant::now();
    let result = pager.prefetch(0, 64 * PAGE as u64, Instant::now() + Duration::from_millis(50));
    assert!(matches!(result, Err(PagerError::Unavailable(_))), "{result:?}");
    assert!(start.elapsed() < Duration::from_secs(2));
    home.stall(false);
    assert_eq!(touch(&pager, 0), 0);
    pager.prefetch(0, 64 * PAGE as u64, soon()).expect("prefetch");
    assert_eq!(pager.counters().pages_lost.get(), 0);
}

#[test]
fn every_one_of_many_threads_ends_though_there_are_few_fault_threads() {
    let home = Home::written(64);
    let Some(pager) = window(&home, RegionMode::Read, &short()) else { return };
    home.stall(true);
    let start = Instant::now();
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..10)
            .map(|page| {
                scope.spawn({
                    let pager = &pager;
                    move || touch_by_system_call(pager, page)
                })
            })
            .collect();
        assert!(threads.into_iter().all(|thread| !thread.join().expect("no panic")));
    });
    // Two have the whole deadline, a third perhaps its grace; the others have used up theirs waiting for those.
    assert!(start.elapsed() < 3 * DEADLINE, "{:?}", start.elapsed());
    assert_eq!(pager.counters().pages_lost.get(), 10);
}

#[test]
fn what_was_asked_ahead_of_a_slow_home_does_not_hold_up_another_fault() {
    let home = Home::written(64);
    let options = Options { threads: 1, fault_deadline: Duration::from_secs(5), ..options() };
    let Some(pager) = window(&home, RegionMode::Read, &options) else { return };
    (0..3).for_each(|page| assert_eq!(touch(&pager, page), page));
    // 6..14 are on their way by now, or here; the fault thread may be waiting for them.
    home.stall(true);
    std::thread::scope(|scope| {
        let toucher = scope.spawn(|| touch(&pager, 50));
        home.await_asked(4);
        std::thread::sleep(Duration::from_millis(300));
        home.stall(false);
        assert_eq!(toucher.join().expect("no panic"), 50);
    });
    for page in 0..64 {
        assert_eq!(touch(&pager, page), page);
    }
}

#[test]
fn the_watchdog_gives_up_the_page_of_a_fault_thread_that_is_stuck() {
    let home = Home::written(64);
    let Some(pager) = window(&home, RegionMode::Read, &short()) else { return };
    home.stuck.store(true, Ordering::Relaxed);
    home.stall(true);
    let start = Instant::now();
    std::thread::scope(|scope| {
        // Two fault threads get stuck; the third fault is never read by one.
        let threads: Vec<_> = (0..3)
            .map(|page| {
                scope.spawn({
                    let pager = &pager;
                    move || touch_by_system_call(pager, page)
                })
            })
            .collect();
        assert!(threads.into_iter().all(|thread| !thread.join().expect("no panic")));
    });
    assert!(start.elapsed() < DEADLINE + Duration::from_secs(2), "{:?}", start.elapsed());
    assert_eq!(pager.counters().watchdog_rescues.get(), 3);

    // The threads come back with their pages: too late, the pages stay lost. (Until both are back the watchdog goes on
    // ending what nobody reads.)
    home.stuck.store(false, Ordering::Relaxed);
    home.stall(false);
    await_that(|| {
        let served = touch_by_system_call(&pager, 40);
        page_of(&pager, 40).discard().expect("discard");
        served
    });
    assert_eq!(touch(&pager, 40), 40);
    assert!(matches!(pager.read(0, &mut [0; 8], soon()), Err(PagerError::Unavailable(_))));
    assert!(!touch_by_system_call(&pager, 0));
}

#[test]
fn a_remote_page_of_a_window_without_homes_is_lost_and_not_zero() {
    let memory = Mapping::anonymous(4 * PAGE, true).expect("mapping");
    let directory = Arc::new(PageDirectory::new(4));
    directory.set_owner(2, Owner::Remote(1));
    let Some(pager) = available(Pager::claim("guest", memory.span(), directory, None, &short())) else { return };
    assert_eq!(touch(&pager, 1), 0);
    assert!(!touch_by_system_call(&pager, 2));
}

#[test]
fn an_error_of_a_home_names_it() {
    let error = FetchError { node: "n".into(), code: "extent_lost", detail: "it is gone".into(), temporary: false };
    assert_eq!(error.to_string(), "node n: it is gone (extent_lost)");
}
