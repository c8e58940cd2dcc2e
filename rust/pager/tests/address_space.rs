//! A program that drops, moves and unmaps parts of a window, and forks.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use common::*;
use weft_pager::{Options, Pager, Readahead, RegionMode};
use weft_paging::directory::{Owner, PageDirectory};
use weft_sys::memory::{Mapping, Span};

fn move_pages(pager: &Pager, first: u64, pages: usize, to: &Mapping) -> Span {
    let from = page_of(pager, first).base();
    // SAFETY: both ranges are whole mapped pages that nobody else uses while they move; `to` is given up for it.
    let moved = unsafe {
        libc::mremap(
            from.cast(),
            pages * PAGE,
            pages * PAGE,
            libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED,
            to.base().cast::<libc::c_void>(),
        )
    };
    assert_eq!(moved, to.base().cast(), "{}", std::io::Error::last_os_error());
    to.span()
}

fn unmap(span: Span) {
    // SAFETY: whole mapped pages that nobody uses any more.
    assert_eq!(unsafe { libc::munmap(span.base().cast(), span.len()) }, 0);
}

fn word(span: Span, page: usize) -> u64 {
    let mut word = [0u8; 8];
    span.part(page * PAGE, 8).expect("inside").copy_to(&mut word);
    u64::from_le_bytes(word)
}

#[test]
fn a_dropped_page_comes_from_its_home_again() {
    let home = Home::written(64);
    let Some(pager) = window(&home, RegionMode::Private, &options()) else { return };
    write_byte(&pager, 8, 99);
    page_of(&pager, 8).discard().expect("discard");
    assert_eq!(touch(&pager, 8), 8);
    assert_eq!(pager.counters().events.get(), 1);
}

#[test]
fn a_dropped_page_of_claimed_memory_is_zero_again_and_still_local() {
    let memory = Mapping::anonymous(8 * PAGE, true).expect("mapping");
    let directory = Arc::new(PageDirectory::new(8));
    let made = Pager::claim("guest", memory.span(), Arc::clone(&directory), None, &options());
    let Some(pager) = available(made) else { return };
    write_byte(&pager, 2, 5);
    page_of(&pager, 2).discard().expect("discard");
    assert_eq!((touch(&pager, 2), directory.get_owner(2)), (0, Owner::Local));
}

#[test]
fn a_copy_that_was_on_its_way_when_its_page_was_dropped_does_not_come_back() {
    let home = Home::written(64);
    let options = Options { threads: 1, readahead: Readahead::None, ..options() };
    let Some(pager) = window(&home, RegionMode::Exclusive, &options) else { return };
    // The program writes page 3 while a prefetch of it stands still, flushes, and drops it.
    home.stall(true);
    std::thread::scope(|scope| {
        let prefetch = scope.spawn(|| pager.prefetch(0, 8 * PAGE as u64, soon()));
        home.await_asked(1);
        pager.write(3 * PAGE as u64, &[77; PAGE], soon()).expect("write");
        pager.flush(soon()).expect("flush");
        page_of(&pager, 3).discard().expect("discard");
        home.stall(false);
        prefetch.join().expect("no panic").expect("prefetch");
    });
    assert_eq!(touch(&pager, 3).to_le_bytes(), [77; 8]);
}

#[test]
fn pages_that_moved_keep_their_content_and_missing_ones_come_at_the_new_place() {
    let home = Home::written(64);
    let Some(pager) = window(&home, RegionMode::Private, &options()) else { return };
    write_byte(&pager, 10, 200);
    let place = Mapping::anonymous(8 * PAGE, true).expect("mapping");
    let moved = move_pages(&pager, 8, 8, &place);
    assert_eq!(word(moved, 2) & 0xFF, 200);
    assert_eq!(word(moved, 5), 13);
    assert_eq!(touch(&pager, 7), 7);
    assert_eq!(touch(&pager, 16), 16);
    let mut bytes = [0u8; 8];
    pager.read(9 * PAGE as u64, &mut bytes, soon()).expect("read by offset, wherever it is mapped");
    assert_eq!(u64::from_le_bytes(bytes), 9);
}

#[test]
fn what_was_written_to_pages_that_moved_is_flushed_to_where_it_belongs() {
    let home = Home::written(64);
    let Some(pager) = window(&home, RegionMode::Exclusive, &options()) else { return };
    write_byte(&pager, 8, 50);
    let place = Mapping::anonymous(4 * PAGE, true).expect("mapping");
    let moved = move_pages(&pager, 8, 4, &place);
    moved.part(2 * PAGE, 1).expect("inside").copy_from(&[51]);
    assert_eq!(pager.flush(soon()).expect("flush"), 2 * PAGE as u64);
    assert_eq!((home.first_byte(8), home.first_byte(9), home.first_byte(10)), (50, 9, 51));
}

#[test]
fn the_rest_of_a_window_works_after_a_part_was_unmapped() {
    let home = Home::written(64);
    let Some(pager) = window(&home, RegionMode::Read, &options()) else { return };
    unmap(page_of(&pager, 20));
    for page in (0..64).filter(|page| *page != 20) {
        assert_eq!(touch(&pager, page), page);
    }
    pager.prefetch(0, 64 * PAGE as u64, soon()).expect("what is mapped is there");
    assert!(pager.read(20 * PAGE as u64, &mut [0; 8], soon()).is_err());
}

#[test]
fn pages_are_dropped_and_touched_at_once_and_nobody_sees_anything_else() {
    let home = Home::written(256);
    let Some(pager) = window(&home, RegionMode::Read, &options()) else { return };
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for round in 0..400u64 {
                let first = round * 37 % 250;
                pager.span().part(first as usize * PAGE, 6 * PAGE).expect("inside").discard().expect("discard");
            }
            done.store(true, Ordering::Relaxed);
        });
        for offset in [0, 100] {
            let (pager, done) = (&pager, &done);
            scope.spawn(move || {
                while !done.load(Ordering::Relaxed) {
                    (0..256).map(|page| (page + offset) % 256).for_each(|page| assert_eq!(touch(pager, page), page));
                }
            });
        }
        while !done.load(Ordering::Relaxed) {
            pager.prefetch(0, 256 * PAGE as u64, soon()).expect("prefetch");
        }
    });
}

#[test]
fn a_forked_child_does_not_get_the_window() {
    let home = Home::written(8);
    let Some(pager) = window(&home, RegionMode::Read, &options()) else { return };
    assert_eq!(touch(&pager, 1), 1);
    let page = page_of(&pager, 1).base();
    // SAFETY: the child makes system calls and touches one address, and takes no lock.
    let status = unsafe {
        let child = libc::fork();
        if child == 0 {
            libc::signal(libc::SIGSEGV, libc::SIG_DFL);
            let byte = page.read_volatile();
            libc::_exit(i32::from(byte));
        }
        let mut status = 0;
        assert_eq!(libc::waitpid(child, &raw mut status, 0), child);
        status
    };
    assert!(libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGSEGV, "status {status:#x}");
    assert_eq!(touch(&pager, 2), 2);
}

#[test]
fn a_forked_child_that_drops_its_pager_leaves_everything_alone() {
    let home = Home::written(8);
    let Some(pager) = window(&home, RegionMode::Read, &options()) else { return };
    // SAFETY: the child runs the drop under test, which there does nothing but compare process ids.
    unsafe {
        let child = libc::fork();
        if child == 0 {
            drop(std::ptr::read(&raw const pager));
            libc::_exit(0);
        }
        let mut status = 0;
        assert_eq!(libc::waitpid(child, &raw mut status, 0), child);
        assert_eq!(status, 0);
    }
    assert_eq!(touch(&pager, 3), 3);
}
