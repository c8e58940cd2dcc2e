//! A region over several lenders: what was written home is what is read back, whatever happens to the connections.

mod world;

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use proptest::prelude::*;
use weft_pager::source::{PageChannel, PageSink, PageSource};
use weft_paging::layout::{Band, Layout};
use weft_sys::memory::Span;
use weft_transport::{Identity, RegionSource, RegionSpec, Server};
use world::*;

const STRIPE: u64 = 2 << 20;
const PAGE: usize = 4096;

/// Three lenders with unequal room: a band over all of them, then one over the last two.
struct World {
    servers: Vec<Server>,
    layout: Layout,
}

const LENDERS: [&str; 3] = ["a", "b", "c"];
const EXTENT_LENDERS: [usize; 5] = [0, 1, 2, 1, 2];
const PAGES: u64 = 7 * STRIPE / PAGE as u64;

impl World {
    fn new() -> Self {
        let layout = Layout::new(
            STRIPE,
            vec![
                Band { first_stripe: 0, stripes: 4, extents: vec![0, 1, 2] },
                Band { first_stripe: 4, stripes: 3, extents: vec![3, 4] },
            ],
        )
        .unwrap();
        let servers: Vec<Server> = LENDERS
            .iter()
            .map(|name| Server::start(Identity::new(CLUSTER, SECRET, *name, LENDER_LIFE), config(0)).unwrap())
            .collect();
        for (index, lender) in (0u32..).zip(EXTENT_LENDERS) {
            servers[lender].store().reserve("r1", index, layout.extent_bytes(index).unwrap(), 1).unwrap();
        }
        Self { servers, layout }
    }

    fn addresses(&self) -> Vec<SocketAddr> {
        self.servers.iter().map(Server::address).collect()
    }

    fn source_through(&self, addresses: &[SocketAddr]) -> RegionSource {
        let spec = RegionSpec {
            layout: self.layout.clone(),
            extents: EXTENT_LENDERS.iter().map(|lender| (LENDERS[*lender].to_owned(), LENDER_LIFE)).collect(),
            addresses: LENDERS.iter().map(|name| (*name).to_owned()).zip(addresses.iter().copied()).collect(),
            grant: grant(),
        };
        RegionSource::new(spec, Arc::new(borrower()), options())
    }

    fn source(&self) -> RegionSource {
        self.source_through(&self.addresses())
    }
}

/// Reads `count` pages from `page` on, a run at a time, with two requests in flight.
fn read(source: &RegionSource, channel: &mut dyn PageChannel, page: u64, count: u64) -> Vec<u8> {
    let mut runs = Vec::new();
    let mut next = page;
    while next < page + count {
        let run = u64::from(source.run_at(next)).min(page + count - next);
        runs.push((next, u32::try_from(run).unwrap()));
        next += run;
    }
    let mut all = Vec::new();
    let mut posted = 0;
    for index in 0..runs.len() {
        while posted < runs.len() && posted < index + 2 {
            channel.post(runs[posted].0, runs[posted].1, soon()).unwrap();
            posted += 1;
        }
        let pages = runs[index].1 as usize;
        let mut landing = vec![0u8; pages * PAGE];
        let span = Span::of(&mut landing);
        let head = channel.begin(span, soon()).unwrap();
        let filled = channel.fill(span, head.filled, head.bytes, soon()).unwrap();
        assert_eq!(filled, head.bytes);
        let mut from = 0;
        for page in 0..pages {
            if head.zero_map & (1 << page) != 0 {
                all.extend_from_slice(&[0; PAGE]);
            } else {
                all.extend_from_slice(&landing[from..from + PAGE]);
                from += PAGE;
            }
        }
    }
    assert_eq!(channel.outstanding(), 0);
    all
}

#[derive(Clone, Debug)]
struct Piece {
    page: u64,
    pages: u64,
    seed: u64,
}

fn pieces() -> impl Strategy<Value = Vec<Piece>> {
    let piece = (0..PAGES, 1u64..700, any::<u64>()).prop_map(|(page, pages, seed)| Piece {
        page,
        pages: pages.min(PAGES - page),
        seed,
    });
    prop::collection::vec(piece, 1..8)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]
    #[test]
    fn what_is_written_home_is_what_is_read_back(pieces in pieces(), from in 0..PAGES, count in 1u64..900) {
        let world = World::new();
        let source = world.source();
        let mut sink = source.sink();
        let mut model = vec![0u8; usize::try_from(PAGES).unwrap() * PAGE];
        let contents: Vec<Vec<u8>> =
            pieces.iter().map(|piece| pattern(usize::try_from(piece.pages).unwrap() * PAGE, piece.seed)).collect();
        for (piece, content) in pieces.iter().zip(&contents) {
            sink.write(&[(piece.page * PAGE as u64, Span::of_const(content))], soon()).unwrap();
            model[usize::try_from(piece.page).unwrap() * PAGE..][..content.len()].copy_from_slice(content);
        }
        let mut channel = source.channel().unwrap();
        let count = count.min(PAGES - from);
        let back = read(&source, channel.as_mut(), from, count);
        prop_assert!(back == model[usize::try_from(from).unwrap() * PAGE..][..back.len()]);
    }
}

/// Forwards to `to`, and cuts each of the first `cuts` connections after a number of bytes that grows with each.
fn cutting(to: SocketAddr, cuts: usize, after: u64) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let done = Arc::new(AtomicUsize::new(0));
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let Ok(server) = TcpStream::connect(to) else { return };
            let nth = done.fetch_add(1, Ordering::SeqCst);
            let limit = if nth < cuts { after * (nth as u64 + 1) } else { u64::MAX };
            let (mut up_from, mut up_to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
            std::thread::spawn(move || {
                let _ = std::io::copy(&mut up_from, &mut up_to);
                let _ = up_to.shutdown(std::net::Shutdown::Both);
            });
            std::thread::spawn(move || {
                let mut limited = std::io::Read::take(&server, limit);
                let _ = std::io::copy(&mut limited, &mut (&client));
                let _ = client.shutdown(std::net::Shutdown::Both);
                let _ = server.shutdown(std::net::Shutdown::Both);
            });
        }
    });
    address
}

#[test]
fn connections_cut_in_the_middle_of_answers_are_made_again_and_nothing_is_lost_or_shifted() {
    let world = World::new();
    let content = pattern(usize::try_from(PAGES).unwrap() * PAGE, 9);
    world.source().sink().write(&[(0, Span::of_const(&content))], soon()).unwrap();
    for after in [700, 5_000, 70_000, 300_000] {
        let addresses: Vec<SocketAddr> =
            world.addresses().into_iter().map(|address| cutting(address, 2, after)).collect();
        let source = world.source_through(&addresses);
        let mut channel = source.channel().unwrap();
        assert!(read(&source, channel.as_mut(), 0, PAGES) == content, "cut after {after} bytes");
    }
}

#[test]
fn writes_go_on_over_cut_connections() {
    let world = World::new();
    let content = pattern(usize::try_from(PAGES).unwrap() * PAGE, 11);
    let addresses: Vec<SocketAddr> = world.addresses().into_iter().map(|address| cutting(address, 2, 300)).collect();
    world.source_through(&addresses).sink().write(&[(0, Span::of_const(&content))], soon()).unwrap();
    let source = world.source();
    let mut channel = source.channel().unwrap();
    assert!(read(&source, channel.as_mut(), 0, PAGES) == content);
}

#[test]
fn a_lost_extent_fails_by_itself_and_the_others_are_read_on() {
    let world = World::new();
    let content = pattern(usize::try_from(PAGES).unwrap() * PAGE, 12);
    world.source().sink().write(&[(0, Span::of_const(&content))], soon()).unwrap();
    world.servers[2].store().release("r1", 2);
    let source = world.source();
    let mut channel = source.channel().unwrap();
    let stripe_pages = STRIPE / PAGE as u64;
    assert!(read(&source, channel.as_mut(), 0, stripe_pages) == content[..usize::try_from(STRIPE).unwrap()]);
    // Stripe 2 was in the lost extent; its lender still serves extent 4, in the second band.
    let mut landing = vec![0u8; PAGE];
    let failed = channel
        .post(2 * stripe_pages, 1, soon())
        .and_then(|()| channel.begin(Span::of(&mut landing), soon()))
        .unwrap_err();
    assert_eq!((failed.node.as_str(), failed.code, failed.temporary), ("c", "extent_lost", false));
    let page = 5 * stripe_pages;
    assert!(read(&source, channel.as_mut(), page, 64) == content[usize::try_from(page).unwrap() * PAGE..][..64 * PAGE]);
}

#[test]
fn an_address_that_changes_under_outstanding_requests_never_mixes_their_answers() {
    let world = World::new();
    let content = pattern(usize::try_from(PAGES).unwrap() * PAGE, 21);
    world.source().sink().write(&[(0, Span::of_const(&content))], soon()).unwrap();
    let direct = world.addresses();
    let detours: Vec<SocketAddr> = direct.iter().map(|address| cutting(*address, 0, 0)).collect();
    let source = world.source();
    let mut channel = source.channel().unwrap();
    let stripe_pages = STRIPE / PAGE as u64;
    for turn in 0..20u64 {
        let first = turn * 37 % (stripe_pages - 8);
        for page in first..first + 4 {
            channel.post(page, 1, soon()).unwrap();
        }
        let addresses = if turn % 2 == 0 { &detours } else { &direct };
        for (name, address) in LENDERS.iter().zip(addresses) {
            source.set_address(name, *address);
        }
        channel.post(first + 4, 1, soon()).unwrap();
        for page in first..first + 5 {
            let mut landing = vec![0u8; PAGE];
            let span = Span::of(&mut landing);
            let head = channel.begin(span, soon()).unwrap();
            channel.fill(span, head.filled, head.bytes, soon()).unwrap();
            assert!(landing == content[usize::try_from(page).unwrap() * PAGE..][..PAGE], "page {page} in turn {turn}");
        }
    }
}

#[test]
fn a_flush_whose_lender_moves_in_the_middle_is_whole() {
    let world = World::new();
    let direct = world.addresses();
    let detours: Vec<SocketAddr> = direct.iter().map(|address| cutting(*address, 0, 0)).collect();
    let source = world.source();
    std::thread::scope(|scope| {
        let flushing = scope.spawn(|| {
            let mut sink = source.sink();
            for seed in 0..10 {
                let content = pattern(usize::try_from(PAGES).unwrap() * PAGE, seed);
                sink.write(&[(0, Span::of_const(&content))], soon()).unwrap();
                let plain = world.source();
                let mut channel = plain.channel().unwrap();
                assert!(read(&plain, channel.as_mut(), 0, PAGES) == content, "flush {seed}");
            }
        });
        for turn in 0.. {
            if flushing.is_finished() {
                break;
            }
            let addresses = if turn % 2 == 0 { &detours } else { &direct };
            for (name, address) in LENDERS.iter().zip(addresses) {
                source.set_address(name, *address);
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    });
}

#[test]
fn a_path_that_is_gone_for_half_a_second_loses_nothing() {
    let world = World::new();
    let content = pattern(PAGE, 5);
    world.source().sink().write(&[(0, Span::of_const(&content))], soon()).unwrap();
    // Nobody listens at this lender's address at first; the lender itself moves there while the read is being tried.
    let mut addresses = world.addresses();
    addresses[0] = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let source = world.source_through(&addresses);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(std::time::Duration::from_millis(500));
            source.set_address(LENDERS[0], world.addresses()[0]);
        });
        let mut channel = source.channel().unwrap();
        assert!(read(&source, channel.as_mut(), 0, 1) == content);
    });
}
