//! What an installer does to a window, one effect at a time.

mod common;

use std::sync::Arc;

use common::PAGE;
use weft_pager::{Installer, SameProcess};
use weft_sys::memory::{Mapping, Span};
use weft_sys::pagemap::Pagemap;
use weft_sys::uffd::{Features, Uffd, Why};

const FEATURES: Features = Features::WRITE_PROTECT.with(Features::WRITE_PROTECT_ASYNC).with(Features::MOVE);

struct World {
    installer: SameProcess,
    window: Mapping,
    pool: Mapping,
}

/// A registered window of eight pages, and eight registered pages to take pages out into.
fn world() -> Option<World> {
    let uffd = match Uffd::open(FEATURES) {
        Ok(uffd) => Arc::new(uffd),
        Err(error) => {
            eprintln!("skipped: no userfaultfd that moves pages here ({error})");
            return None;
        }
    };
    let [window, pool] = [(); 2].map(|()| Mapping::anonymous(8 * PAGE, true).expect("mapping"));
    for memory in [&window, &pool] {
        memory.span().keep_small().expect("advice");
        uffd.register(memory.span(), true).expect("register");
    }
    Some(World { installer: SameProcess::new(uffd), window, pool })
}

fn resident(span: Span) -> usize {
    let (start, mut bytes) = (span.base() as u64, 0);
    let found = |start: u64, end: u64| bytes += (end - start) as usize;
    Pagemap::open().expect("page map").resident(start, start + span.len() as u64, found).expect("scan");
    bytes / PAGE
}

fn bytes(byte: u8) -> Mapping {
    let source = Mapping::anonymous(8 * PAGE, true).expect("mapping");
    source.span().copy_from(&[byte; 8 * PAGE]);
    source
}

fn first_byte(span: Span) -> u8 {
    let mut byte = [0];
    span.copy_to(&mut byte);
    byte[0]
}

#[test]
fn pages_that_are_taken_out_are_missing_and_whole_when_moved_in_again() {
    let Some(World { installer, window, pool }) = world() else { return };
    let base = window.base() as u64;
    installer.copy(base, bytes(7).span(), false).expect("copy");
    installer.take_out(base, pool.span()).expect("take out");
    assert_eq!((resident(window.span()), resident(pool.span()), first_byte(pool.span())), (0, 8, 7));
    installer.move_in(base, pool.span()).expect("move in");
    assert_eq!((resident(window.span()), resident(pool.span()), first_byte(window.span())), (8, 0, 7));
}

#[test]
fn nothing_is_installed_over_a_page_that_is_there() {
    let Some(World { installer, window, .. }) = world() else { return };
    let base = window.base() as u64;
    installer.copy(base, bytes(1).span().part(0, PAGE).expect("page"), false).expect("copy");
    let source = bytes(2);
    for result in
        [installer.copy(base, source.span(), false), installer.move_in(base, source.span()), installer.zero(base, PAGE)]
    {
        let halt = result.expect_err("there is a page");
        assert!(matches!(halt.why, Why::Present) && halt.done == 0, "{halt:?}");
    }
    assert_eq!(first_byte(window.span()), 1);
}

#[test]
fn a_page_counts_as_written_unless_it_came_protected_or_was_protected_since() {
    let Some(World { installer, window, .. }) = world() else { return };
    let base = window.base() as u64;
    let source = bytes(3);
    let half = source.span().part(0, 4 * PAGE).expect("half");
    installer.copy(base, half, true).expect("protected copy");
    installer.copy(base + 4 * PAGE as u64, half, false).expect("copy");
    installer.protect(base + 6 * PAGE as u64, 2 * PAGE, true).expect("protect");
    let mut written = Vec::new();
    let found = |start: u64, end: u64| written.push(((start - base) / PAGE as u64, (end - base) / PAGE as u64));
    Pagemap::open().expect("page map").take_written(base, base + 8 * PAGE as u64, found).expect("scan");
    assert_eq!(written, [(4, 6)]);
}
