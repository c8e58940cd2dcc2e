//! What is written comes home: all of it, and nothing else.

mod common;

use std::sync::atomic::{AtomicBool, Ordering};

use common::*;
use proptest::prelude::*;
use weft_pager::{Pager, PagerError, RegionMode};

fn look_at(pager: &Pager, pages: std::ops::Range<u64>) {
    for page in pages {
        let _ = touch(pager, page);
    }
}

#[test]
fn flush_sends_the_pages_that_were_written_and_no_others() {
    let home = Home::written(256);
    home.forget(7);
    let Some(pager) = window(&home, RegionMode::Exclusive, &options()) else { return };
    look_at(&pager, 0..64);
    for page in [3, 4, 5, 7, 200] {
        write_byte(&pager, page, 250);
    }
    assert_eq!(pager.flush(soon()).expect("flush"), 5 * PAGE as u64);
    assert_eq!([2, 3, 4, 5, 6, 7, 200].map(|page| home.first_byte(page)), [2, 250, 250, 250, 6, 250, 250]);
    assert_eq!(pager.flush(soon()).expect("flush"), 0);
    write_byte(&pager, 4, 251);
    assert_eq!(pager.flush(soon()).expect("flush"), PAGE as u64);
    assert_eq!(home.first_byte(4), 251);
}

#[test]
fn pages_that_were_only_read_are_never_sent_whether_zero_ahead_or_prefetched() {
    let home = Home::written(256);
    (100..120).for_each(|page| home.forget(page));
    let Some(pager) = window(&home, RegionMode::Exclusive, &options()) else { return };
    look_at(&pager, 0..40);
    look_at(&pager, 100..120);
    pager.prefetch(0, 256 * PAGE as u64, soon()).expect("prefetch");
    assert_eq!(pager.flush(soon()).expect("flush"), 0);
}

#[test]
fn whole_pages_written_without_a_fetch_are_sent() {
    let home = Home::fresh(64);
    let Some(pager) = window(&home, RegionMode::Exclusive, &options()) else { return };
    pager.write(8 * PAGE as u64, &[5; 3 * PAGE], soon()).expect("write");
    assert_eq!(pager.flush(soon()).expect("flush"), 3 * PAGE as u64);
    assert_eq!((home.first_byte(8), home.first_byte(10), home.asked().len()), (5, 5, 0));
}

#[test]
fn what_could_not_be_sent_stays_dirty_and_is_sent_by_the_next_flush() {
    let home = Home::written(64);
    let Some(pager) = window(&home, RegionMode::Exclusive, &options()) else { return };
    for page in [1, 10, 20, 30] {
        write_byte(&pager, page, 240);
    }
    home.refuses_writes.store(true, Ordering::Relaxed);
    let result = pager.flush(soon());
    assert!(matches!(&result, Err(PagerError::NotFlushed { flushed: 0, error }) if error.node == "odd"), "{result:?}");
    assert_eq!(pager.unsent_bytes(), 4 * PAGE as u64);
    write_byte(&pager, 40, 240);
    home.refuses_writes.store(false, Ordering::Relaxed);
    assert_eq!(pager.flush(soon()).expect("flush"), 5 * PAGE as u64);
    assert_eq!([1, 10, 20, 30, 40].map(|page| home.first_byte(page)), [240; 5]);
    assert_eq!((pager.unsent_bytes(), pager.flush(soon()).expect("flush")), (0, 0));
}

#[test]
fn a_page_that_was_written_and_then_dropped_is_not_sent() {
    let home = Home::written(64);
    let Some(pager) = window(&home, RegionMode::Exclusive, &options()) else { return };
    write_byte(&pager, 5, 99);
    write_byte(&pager, 6, 99);
    home.refuses_writes.store(true, Ordering::Relaxed);
    assert!(pager.flush(soon()).is_err());
    home.refuses_writes.store(false, Ordering::Relaxed);
    page_of(&pager, 5).discard().expect("discard");
    assert_eq!(pager.flush(soon()).expect("flush"), PAGE as u64);
    assert_eq!((home.first_byte(5), home.first_byte(6), touch(&pager, 5)), (5, 99, 5));
}

#[test]
fn writers_that_never_stop_lose_no_write_once_they_have_stopped() {
    let home = Home::written(256);
    let Some(pager) = window(&home, RegionMode::Exclusive, &options()) else { return };
    let stop = AtomicBool::new(false);
    let last = std::thread::scope(|scope| {
        let writers: Vec<_> = (0..3u64)
            .map(|writer| {
                let (pager, stop) = (&pager, &stop);
                scope.spawn(move || {
                    let mut last = vec![0u8; 256];
                    let mut step = writer;
                    while !stop.load(Ordering::Relaxed) {
                        step = step.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                        let page = (step >> 33) % 85 * 3 + writer;
                        last[page as usize] = last[page as usize].wrapping_add(1).max(1);
                        write_byte(pager, page, last[page as usize]);
                    }
                    last
                })
            })
            .collect();
        for _ in 0..60 {
            pager.flush(soon()).expect("flush");
        }
        stop.store(true, Ordering::Relaxed);
        writers.into_iter().map(|writer| writer.join().expect("no panic")).collect::<Vec<_>>()
    });
    pager.flush(soon()).expect("flush");
    for page in 0..255u64 {
        let written = last[(page % 3) as usize][page as usize];
        if written != 0 {
            assert_eq!(home.first_byte(page), written, "page {page}");
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Write(u64, u8),
    WriteWhole(u64, u64, u8),
    Read(u64),
    Prefetch(u64, u64),
    Drop(u64, u64),
    Flush,
    FlushInVain,
}

fn step() -> impl Strategy<Value = Step> {
    const PAGES: u64 = 24;
    prop_oneof![
        4 => (0..PAGES, 1u8..).prop_map(|(page, byte)| Step::Write(page, byte)),
        2 => (0..PAGES - 4, 1..4u64, 1u8..).prop_map(|(page, pages, byte)| Step::WriteWhole(page, pages, byte)),
        2 => (0..PAGES).prop_map(Step::Read),
        1 => (0..PAGES - 8, 1..8u64).prop_map(|(page, pages)| Step::Prefetch(page, pages)),
        2 => (0..PAGES - 4, 1..4u64).prop_map(|(page, pages)| Step::Drop(page, pages)),
        2 => Just(Step::Flush),
        1 => Just(Step::FlushInVain),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]
    #[test]
    fn a_window_and_its_home_agree_with_two_plain_arrays(steps in prop::collection::vec(step(), 1..60)) {
        let home = Home::fresh(24);
        (0..24).for_each(|page| if page % 3 != 0 { home.put(page, page as u8) });
        let Some(pager) = window(&home, RegionMode::Exclusive, &options()) else { return Ok(()) };
        // What the program should see, what the home should have, and which pages differ by a write not sent.
        let mut here: Vec<u8> = (0..24).map(|page| home.first_byte(page)).collect();
        let mut there = here.clone();
        let mut dirty = [false; 24];
        for step in steps {
            match step {
                Step::Write(page, byte) => {
                    write_byte(&pager, page, byte);
                    (here[page as usize], dirty[page as usize]) = (byte, true);
                }
                Step::WriteWhole(page, pages, byte) => {
                    pager.write(page * PAGE as u64, &vec![byte; pages as usize * PAGE], soon()).expect("write");
                    for each in page..page + pages {
                        (here[each as usize], dirty[each as usize]) = (byte, true);
                    }
                }
                Step::Read(page) => prop_assert_eq!(touch(&pager, page) as u8, here[page as usize]),
                Step::Prefetch(page, pages) => {
                    pager.prefetch(page * PAGE as u64, pages * PAGE as u64, soon()).expect("prefetch");
                }
                Step::Drop(page, pages) => {
                    let span = pager.span().part(page as usize * PAGE, pages as usize * PAGE).expect("inside");
                    span.discard().expect("discard");
                    for each in page..page + pages {
                        (here[each as usize], dirty[each as usize]) = (there[each as usize], false);
                    }
                }
                Step::Flush => {
                    let count = dirty.iter().filter(|dirty| **dirty).count();
                    prop_assert_eq!(pager.flush(soon()).expect("flush"), (count * PAGE) as u64);
                    there.clone_from(&here);
                    dirty = [false; 24];
                }
                Step::FlushInVain => {
                    home.refuses_writes.store(true, Ordering::Relaxed);
                    let any = dirty.iter().any(|dirty| *dirty);
                    prop_assert_eq!(pager.flush(soon()).is_err(), any);
                    home.refuses_writes.store(false, Ordering::Relaxed);
                    // What did come home before the refusal is there; it stays dirty all the same.
                    (0..24).for_each(|page| there[page as usize] = home.first_byte(page));
                }
            }
            for page in 0..24u64 {
                prop_assert_eq!(home.first_byte(page), there[page as usize], "home, page {}", page);
            }
        }
        for page in 0..24u64 {
            prop_assert_eq!(touch(&pager, page) as u8, here[page as usize], "window, page {}", page);
        }
    }
}
