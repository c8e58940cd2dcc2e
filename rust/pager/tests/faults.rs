//! How faults are resolved.

mod common;

use std::sync::Arc;
use std::time::{Duration, Instant};

use common::*;
use weft_pager::{Options, Pager, PagerError, Readahead, RegionMode};
use weft_paging::directory::{Owner, PageDirectory};
use weft_sys::memory::Mapping;

#[test]
fn a_touched_page_comes_from_its_home() {
    let home = Home::written(1024);
    let Some(pager) = window(&home, RegionMode::Read, &options()) else { return };
    assert_eq!(touch(&pager, 700), 700);
    assert_eq!(home.asked(), [(700, 1)]);
    let statistics = pager.statistics();
    assert_eq!((statistics.local_faults, statistics.remote_faults), (0, 1));
}

#[test]
fn a_page_that_was_never_written_is_zero_and_costs_no_bytes() {
    let home = Home::fresh(64);
    let Some(pager) = window(&home, RegionMode::Private, &options()) else { return };
    assert_eq!(touch(&pager, 5), 0);
    write_byte(&pager, 6, 9);
    assert_eq!(touch(&pager, 6), 9);
    assert_eq!(home.bytes_sent.load(std::sync::atomic::Ordering::Relaxed), 0);
    assert_eq!(pager.counters().pages_zero.get(), 2);
}

#[test]
fn a_walk_is_fetched_ahead_in_batches_that_double_and_a_random_touch_is_one_page() {
    let home = Home::written(1024);
    let Some(pager) = window(&home, RegionMode::Read, &Options { threads: 1, ..options() }) else { return };
    assert_eq!(touch(&pager, 900), 900);
    for page in 100..400 {
        assert_eq!(touch(&pager, page), page);
    }
    let asked = home.asked();
    assert_eq!(asked[..8], [(900, 1), (100, 1), (101, 1), (102, 4), (106, 8), (114, 16), (130, 32), (162, 64)]);
    assert!(pager.statistics().remote_faults < 20, "{:?}", pager.statistics().remote_faults);
}

#[test]
fn a_walk_goes_on_whichever_fault_thread_reads_its_faults_and_however_slow_it_is() {
    const PAGES: u64 = 8192;
    let home = Home::written(PAGES);
    let Some(pager) = window(&home, RegionMode::Read, &Options { threads: 4, ..options() }) else { return };
    for page in 0..PAGES {
        if page % 1024 == 512 {
            // Longer than what was asked for ahead lies in the socket.
            std::thread::sleep(Duration::from_millis(10));
        }
        assert_eq!(touch(&pager, page), page);
    }
    let asked = home.asked();
    let few = asked.iter().filter(|&&(first, count)| first > 256 && count < 64 && first + u64::from(count) != PAGES);
    assert!(few.clone().count() < 4, "batches of {:?}", few.collect::<Vec<_>>());
}

#[test]
fn read_ahead_stops_at_the_end_of_the_window_and_of_a_stretch() {
    let home = Home::written(STRETCH_PAGES + 20);
    let Some(pager) = window(&home, RegionMode::Read, &options()) else { return };
    for page in STRETCH_PAGES - 40..STRETCH_PAGES + 20 {
        assert_eq!(touch(&pager, page), page);
    }
    for (first, count) in home.asked() {
        let last = first + u64::from(count) - 1;
        assert!(last < home.len() && first / STRETCH_PAGES == last / STRETCH_PAGES, "{count} at {first}");
    }
}

#[test]
fn what_was_asked_ahead_and_not_touched_is_installed_when_the_window_is_quiet() {
    let home = Home::written(256);
    let Some(pager) = window(&home, RegionMode::Read, &options()) else { return };
    (0..3).for_each(|page| assert_eq!(touch(&pager, page), page));
    // Pages 0, 1, 2..6 now, and 6..14 ahead.
    await_that(|| pager.counters().pages_installed.get() == 14);
    assert_eq!(touch(&pager, 13), 13);
    assert_eq!(pager.statistics().remote_faults, 3);
}

#[test]
fn equal_faults_are_fetched_once_and_all_of_them_go_on() {
    let home = Home::written(64);
    let options = Options { threads: 4, readahead: Readahead::None, ..options() };
    let Some(pager) = window(&home, RegionMode::Read, &options) else { return };
    home.stall(true);
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(|| touch(&pager, 7))).collect();
        await_that(|| pager.counters().faults_coalesced.get() == 7);
        home.stall(false);
        threads.into_iter().for_each(|thread| assert_eq!(thread.join().expect("no panic"), 7));
    });
    assert_eq!(home.asked(), [(7, 1)]);
}

#[test]
fn threads_that_touch_everything_at_once_see_every_page_right() {
    let home = Home::written(2048);
    let Some(pager) = window(&home, RegionMode::Read, &Options { threads: 3, ..options() }) else { return };
    std::thread::scope(|scope| {
        for thread in 0..6u64 {
            let pager = &pager;
            scope.spawn(move || {
                for step in 0..2048u64 {
                    let page = if thread % 2 == 0 { step } else { (step * 977 + thread * 31) % 2048 };
                    assert_eq!(touch(pager, page), page);
                    let mut tail = [0u8; 8];
                    page_of(pager, page).part(PAGE - 8, 8).expect("inside").copy_to(&mut tail);
                    assert_eq!(u64::from_le_bytes(tail), page);
                }
            });
        }
    });
}

#[test]
fn a_claimed_page_is_local_and_zero_and_a_remote_one_is_fetched() {
    let home = Home::written(64);
    let memory = Mapping::anonymous(64 * PAGE, true).expect("mapping");
    let directory = Arc::new(PageDirectory::new(64));
    directory.set_owner(9, Owner::Remote(1));
    let source = Arc::new(Source(Arc::clone(&home)));
    let made = Pager::claim("guest", memory.span(), Arc::clone(&directory), Some(source), &options());
    let Some(pager) = available(made) else { return };
    write_byte(&pager, 3, 1);
    assert_eq!((touch(&pager, 3), touch(&pager, 4), touch(&pager, 9)), (1, 0, 9));
    assert_eq!(directory.get_owner(3), Owner::Local);
    assert_eq!(directory.get_owner(9), Owner::Remote(1));
    assert_eq!((directory.get_owner(5), directory.page_count()), (Owner::Unknown, 3));
    let statistics = pager.statistics();
    assert_eq!((statistics.local_faults, statistics.remote_faults), (2, 1));
    assert!((statistics.remote_miss_ratio() - 1.0 / 3.0).abs() < 1e-9);
}

#[test]
fn prefetch_brings_a_range_over_both_homes_and_later_touches_do_not_fault() {
    let home = Home::written(3 * STRETCH_PAGES);
    home.forget(17);
    let Some(pager) = window(&home, RegionMode::Read, &options()) else { return };
    assert_eq!(touch(&pager, 600), 600);
    pager.prefetch(0, home.len() * PAGE as u64, soon()).expect("prefetch");
    for page in 0..home.len() {
        assert_eq!(touch(&pager, page), if page == 17 { 0 } else { page });
    }
    assert_eq!(pager.statistics().remote_faults, 1);
    let asked = home.asked();
    assert!(asked[1].0 < STRETCH_PAGES && asked[2].0 >= STRETCH_PAGES, "dealt over the homes: {:?}", &asked[..4]);
}

#[test]
fn read_copies_across_pages_and_write_needs_no_fetch_for_whole_pages() {
    let home = Home::written(64);
    let Some(pager) = window(&home, RegionMode::Private, &options()) else { return };
    let mut bytes = vec![0u8; 2 * PAGE];
    pager.read(10 * PAGE as u64 + 8, &mut bytes, soon()).expect("read");
    assert_eq!(bytes[PAGE - 16..PAGE - 8], 10u64.to_le_bytes());
    assert_eq!(bytes[PAGE - 8..PAGE], 11u64.to_le_bytes());
    let asked = home.asked().len();

    pager.write(20 * PAGE as u64, &vec![7u8; 3 * PAGE], soon()).expect("write whole pages");
    assert_eq!(home.asked().len(), asked);
    pager.write(21 * PAGE as u64 - 4, &[8u8; 8], soon()).expect("write over what is there");
    pager.write(30 * PAGE as u64 + 100, &[9u8; 8], soon()).expect("write a part");
    assert_eq!(home.asked()[asked..], [(30, 1)]);
    assert_eq!(touch(&pager, 21).to_le_bytes(), [8, 8, 8, 8, 7, 7, 7, 7]);
    assert_eq!(touch(&pager, 30), 30);
}

#[test]
fn a_write_may_come_from_a_missing_part_of_the_same_window() {
    let home = Home::written(64);
    let Some(pager) = window(&home, RegionMode::Private, &options()) else { return };
    let source = page_of(&pager, 40);
    // SAFETY: the page stays mapped for the whole test, and nobody writes it.
    let borrowed = unsafe { std::slice::from_raw_parts(source.base(), PAGE) };
    pager.write(0, borrowed, soon()).expect("write");
    assert_eq!(touch(&pager, 0), 40);
}

#[test]
fn what_leaves_the_window_or_writes_a_read_only_one_is_refused() {
    let home = Home::written(4);
    let Some(pager) = window(&home, RegionMode::Read, &options()) else { return };
    let end = 4 * PAGE as u64;
    assert!(matches!(pager.prefetch(end, 1, soon()), Err(PagerError::OutOfRange { .. })));
    assert!(matches!(pager.read(u64::MAX, &mut [0; 2], soon()), Err(PagerError::OutOfRange { .. })));
    assert!(matches!(pager.write(0, &[1], soon()), Err(PagerError::ReadOnly)));
    assert!(pager.prefetch(end, 0, soon()).is_ok());
}

#[test]
fn an_idle_window_uses_no_processor() {
    let home = Home::written(64);
    let options = Options { fault_deadline: Duration::from_millis(100), ..options() };
    let Some(pager) = window(&home, RegionMode::Read, &options) else { return };
    (0..8).for_each(|page| assert_eq!(touch(&pager, page), page));
    // Past the watchdog's last looks nothing of it wakes any more.
    let switches = || {
        let tasks = std::fs::read_dir("/proc/self/task").expect("procfs");
        let mut count = 0u64;
        for task in tasks.flatten() {
            let status = std::fs::read_to_string(task.path().join("status")).unwrap_or_default();
            if status.lines().any(|line| line.starts_with("Name:\tweft-")) {
                let line = status.lines().find(|line| line.starts_with("voluntary_ctxt_switches"));
                count += line.and_then(|line| line.rsplit('\t').next()?.parse::<u64>().ok()).unwrap_or(0);
            }
        }
        count
    };
    let start = Instant::now();
    let mut before = switches();
    loop {
        std::thread::sleep(Duration::from_millis(50));
        let now = switches();
        if now == before {
            break;
        }
        before = now;
        assert!(start.elapsed() < Duration::from_secs(20), "the pager's threads keep waking");
    }
}
