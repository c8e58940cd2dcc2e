//! Everything that can go wrong over RDMA, on devices that fail on request: the bytes are right whichever way they went, the
//! way is said aloud, and whatever was made is destroyed in order.

#[path = "asking/mod.rs"]
mod asking;
mod fake;
#[path = "../../transport/tests/world/mod.rs"]
mod world;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use asking::{header, open, read, read_until, write};
use fake::{Fake, Fault};
use proptest::prelude::*;
use weft_sys::memory::{Mapping, Span};
use weft_transport::{
    Driven, Finished, Forgotten, Lane, Outcome, PageState, Pages, Payload, Peer, PeerAddress, PeerIdentity, Request,
    Server, Submission, TcpLane,
};
use weft_verbs::ffi::layout::*;
use weft_verbs::ffi::{Access, Bounds, CompletionQueue, MemoryRegion, QueuePair, Verb, Work};
use weft_verbs::{EndpointRecord, Lender, Rail, RdmaDialer, RdmaLane, RdmaUpgrade, VerbsError, Way};
use weft_wire::{Grant, Kind, Mode, Range, Rights};
use world::*;

/// A lender and a borrower, each with a device of its own.
struct Pair {
    lane: RdmaLane,
    rail: Arc<Rail>,
    lender: Lender,
    server: Arc<Server>,
    near: Fake,
    far: Fake,
}

fn rail(fake: &Fake) -> Arc<Rail> {
    Rail::over(&Fake::library(), Some(&fake.name)).unwrap()
}

fn connect(server: &Server, rail: &Arc<Rail>, expected: Option<EndpointRecord>) -> RdmaLane {
    let tcp = TcpLane::connect(server.address(), "lender", &borrower(), &options()).unwrap();
    RdmaLane::over(Box::new(tcp), rail, expected, Duration::from_micros(50), soon()).unwrap()
}

fn pair() -> Pair {
    pair_with(Duration::from_secs(30))
}

fn pair_with(lease: Duration) -> Pair {
    let (near, far) = (Fake::plug_in(), Fake::plug_in());
    let server = Arc::new(lender());
    let lender = Lender::start_with(&rail(&far), &server, now_ms, lease).unwrap();
    let rail = rail(&near);
    let lane = connect(&server, &rail, Some(lender.record()));
    Pair { lane, rail, lender, server, near, far }
}

impl Pair {
    /// Opens the extent under `grant`, and waits until its key was given.
    fn open(&mut self, writer: u64, grant: &[u8]) -> u64 {
        let handle = open(&mut self.lane, writer, grant);
        let before = self.near.posted();
        until(|| {
            read(&mut self.lane, handle, 0, 8).unwrap();
            self.near.posted() > before
        });
        handle
    }

    fn why(&self) -> String {
        match self.lane.way() {
            Way::Tcp(why) => why,
            Way::Rdma => panic!("it is still on RDMA"),
        }
    }

    /// Ends both ends, and checks what they did with their devices.
    fn end(self) {
        let (near, far) = (self.near, self.far);
        drop(self.lane);
        drop(self.lender);
        drop((self.rail, self.server));
        for device in [near, far] {
            assert_eq!(device.violations(), Vec::<String>::new());
            assert_eq!(device.alive(), vec![], "something was not destroyed");
        }
    }
}

#[test]
fn every_size_arrives_whole_and_all_of_it_goes_by_queue_pair() {
    let mut pair = pair();
    assert_eq!(pair.lane.way(), Way::Rdma);
    let handle = pair.open(9, &grant());
    let before = pair.rail.counters.read_bytes.load(Ordering::Relaxed);
    let mut moved = 0;
    for (seed, length) in [(1, 1), (2, 8), (3, 4095), (4, 4096), (5, 65_536), (6, 262_145), (7, 3 << 20)] {
        let bytes = pattern(length, seed);
        write(&mut pair.lane, handle, 4096 - seed, &bytes).unwrap();
        assert_eq!(read(&mut pair.lane, handle, 4096 - seed, length).unwrap(), bytes, "{length} bytes");
        moved += length as u64;
    }
    assert_eq!(pair.rail.counters.read_bytes.load(Ordering::Relaxed) - before, moved);
    assert_eq!(pair.server.counters().list().iter().find(|(name, _)| name == "writes").unwrap().1, 0, "none over TCP");
    pair.end();
}

#[test]
fn requests_complete_in_the_order_of_posting_whatever_they_are() {
    let mut pair = pair();
    let handle = pair.open(9, &grant());
    let pages = pattern(64 * 4096, 8);
    write(&mut pair.lane, handle, 0, &pages).unwrap();
    let new = pattern(4096, 9);
    // Reads, a write between them, ranges, a message that goes over TCP, and a read that TCP refuses.
    let lane = &mut pair.lane;
    let post = |lane: &mut RdmaLane, kind, offset, length, payload: &[Span], ranges: &[Range]| {
        lane.post(Request { header: header(kind, handle, offset, length), ranges, payload }, soon()).unwrap();
    };
    post(lane, Kind::Read, 0, 4096, &[], &[]);
    post(lane, Kind::Write, 0, 4096, &[Span::of_const(&new)], &[]);
    post(lane, Kind::Read, 0, 4096, &[], &[]);
    let ranges: Vec<Range> = (1..64).rev().map(|page| Range { offset: page * 4096 + 7, length: 100 }).collect();
    post(lane, Kind::Read, 0, 6300, &[], &ranges);
    post(lane, Kind::Message, 0, 0, &[], &[]);
    post(lane, Kind::Read, EXTENT_BYTES, 8, &[], &[]);
    post(lane, Kind::Read, 4096, 4096, &[], &[]);
    let mut next = |length: usize| {
        let mut back = vec![0; length];
        let into = [Span::of(&mut back)];
        let reply = lane.begin(&into, soon())?;
        lane.fill(&into, reply.filled, length, soon()).map(|_| back)
    };
    assert_eq!(next(4096).unwrap(), pages[..4096]);
    next(0).unwrap();
    assert_eq!(next(4096).unwrap(), new);
    for (part, page) in next(6300).unwrap().chunks(100).zip((1..64usize).rev()) {
        assert_eq!(part, &pages[page * 4096 + 7..][..100]);
    }
    next(0).unwrap();
    assert_eq!(code(next(8)), "out_of_range");
    assert_eq!(next(4096).unwrap(), pages[4096..8192]);
    assert_eq!(pair.lane.way(), Way::Rdma);
    pair.end();
}

#[test]
fn whatever_a_request_ends_with_its_bytes_come_over_tcp_and_the_reason_is_said() {
    let ends = [
        (IBV_WC_RNR_RETRY_EXC_ERR, "no receive posted"),
        (IBV_WC_RETRY_EXC_ERR, "acknowledged nothing"),
        (IBV_WC_REM_ACCESS_ERR, "refused the key"),
        (IBV_WC_WR_FLUSH_ERR, "failed before its turn"),
        (IBV_WC_FATAL_ERR, "the device failed"),
        (23, "status 23"),
    ];
    for (status, sentence) in ends {
        for at in [0, 3, 7] {
            for fault in [Fault::Ends(status), Fault::EndsAfter(status)] {
                let mut pair = pair();
                let handle = pair.open(9, &grant());
                let old = pattern(2 << 20, 1);
                write(&mut pair.lane, handle, 0, &old).unwrap();
                pair.near.inject(at, fault);
                assert_eq!(read(&mut pair.lane, handle, 0, 2 << 20).unwrap(), old, "{fault:?} at {at}");
                assert!(pair.why().contains(sentence), "{}", pair.why());
                assert!(pair.rail.said().iter().any(|said| said.contains(sentence)), "nothing was said");
                assert_eq!(pair.rail.counters.fallbacks.load(Ordering::Relaxed), 1);
                assert_eq!(pair.lender.counts().0, 0, "the session was cut");
                let new = pattern(2 << 20, 2);
                write(&mut pair.lane, handle, 0, &new).unwrap();
                assert_eq!(read(&mut pair.lane, handle, 0, 2 << 20).unwrap(), new);
                pair.end();
            }
        }
    }
}

#[test]
fn a_write_that_fails_in_its_middle_is_carried_out_over_tcp() {
    for at in [0, 1, 6] {
        let mut pair = pair();
        let handle = pair.open(9, &grant());
        pair.near.inject(at, Fault::Ends(IBV_WC_RETRY_EXC_ERR));
        let bytes = pattern(2 << 20, 3);
        write(&mut pair.lane, handle, 100, &bytes).unwrap();
        assert!(pair.why().contains("acknowledged nothing"));
        assert_eq!(read(&mut pair.lane, handle, 100, 2 << 20).unwrap(), bytes);
        pair.end();
    }
}

#[test]
fn work_that_is_not_even_taken_goes_over_tcp() {
    let mut pair = pair();
    let handle = pair.open(9, &grant());
    pair.near.inject(0, Fault::Refused(libc::ENOMEM));
    let bytes = pattern(4096, 3);
    write(&mut pair.lane, handle, 0, &bytes).unwrap();
    assert!(pair.why().contains("posting work"), "{}", pair.why());
    assert_eq!(read(&mut pair.lane, handle, 0, 4096).unwrap(), bytes);
    pair.end();
}

#[test]
fn a_completion_that_is_never_told_ends_at_the_deadline_and_breaks_the_lane() {
    let mut pair = pair();
    let handle = pair.open(9, &grant());
    pair.near.inject(0, Fault::Silent);
    let started = Instant::now();
    let ended = read_until(&mut pair.lane, handle, 0, 4096, started + Duration::from_millis(300)).unwrap_err();
    assert_eq!(ended.code(), "timed_out");
    assert!(ended.breaks_lane() && started.elapsed() < Duration::from_secs(1));
    assert_eq!(code(read(&mut pair.lane, handle, 0, 8)), "closed");
    pair.end();
}

#[test]
fn a_device_that_is_pulled_out_on_either_side_is_left_for_tcp() {
    for near in [true, false] {
        let mut pair = pair();
        let handle = pair.open(9, &grant());
        let bytes = pattern(1 << 20, 5);
        write(&mut pair.lane, handle, 0, &bytes).unwrap();
        if near {
            pair.near.inject(1, Fault::Removed)
        } else {
            pair.far.remove()
        }
        assert_eq!(read(&mut pair.lane, handle, 0, 1 << 20).unwrap(), bytes, "near: {near}");
        pair.why();
        if !near {
            // Its keys and sessions go, and whoever connects now is told why not.
            until(|| pair.lender.counts() == (0, 0));
            let other = connect(&pair.server, &pair.rail, None);
            assert!(matches!(other.way(), Way::Tcp(why) if why.contains("went away")));
        }
        pair.end();
    }
}

#[test]
fn a_key_is_gone_when_raising_the_generation_returns_and_the_refusal_is_the_right_one() {
    let mut pair = pair();
    let handle = pair.open(9, &grant());
    write(&mut pair.lane, handle, 0, b"original").unwrap();
    assert_eq!(pair.lender.counts(), (1, 1));
    assert!(pair.server.store().raise_generation("r1", 2, Duration::from_secs(1)));
    assert_eq!(pair.lender.counts(), (1, 0));
    assert_eq!(code(write(&mut pair.lane, handle, 0, b"replaced")), "stale_generation");
    let newer = mint(&Grant { generation: 2, ..plain_grant() });
    let handle = open(&mut pair.lane, 10, &newer);
    assert_eq!(read(&mut pair.lane, handle, 0, 8).unwrap(), b"original");
    pair.end();
}

#[test]
fn a_released_extent_is_lost_and_its_memory_is_let_go() {
    let mut pair = pair();
    let handle = pair.open(9, &grant());
    pair.server.store().release("r1", 0);
    assert_eq!(pair.lender.counts(), (1, 0));
    assert_eq!(code(read(&mut pair.lane, handle, 0, 8)), "extent_lost");
    pair.end();
}

#[test]
fn a_grant_is_judged_before_a_key_is_given_and_no_key_outlives_it() {
    let mut pair = pair();
    let short = mint(&Grant { expires_at_ms: now_ms() + 600, ..plain_grant() });
    let handle = pair.open(9, &short);
    assert_eq!(pair.lender.counts(), (1, 1));
    until(|| read(&mut pair.lane, handle, 0, 8).is_err());
    assert_eq!(code(read(&mut pair.lane, handle, 0, 8)), "grant_expired");
    until(|| pair.lender.counts() == (1, 0));
    assert_eq!(pair.lane.way(), Way::Rdma, "the queue pair is none the worse for it");
    let reading = mint(&Grant { mode: Mode::Read, rights: Rights::READ, ..plain_grant() });
    let handle = pair.open(10, &reading);
    assert_eq!(code(write(&mut pair.lane, handle, 0, b"no")), "read_only");
    pair.end();
}

#[test]
fn a_newer_connection_of_a_writer_cuts_the_session_of_the_older() {
    let pair_ = pair();
    let address = PeerAddress { node: "lender".to_owned(), address: pair_.server.address() };
    let peer = || {
        let mut peer = Peer::new(address.clone(), Arc::new(borrower()), options());
        peer.set_upgrade(Arc::new(RdmaUpgrade::new(&pair_.rail, None, Duration::from_micros(50))));
        peer
    };
    let mut peer = peer();
    let opened = peer.open(&grant(), 0, LENDER_LIFE, soon()).unwrap();
    let whole = [Range { offset: 0, length: 4096 }];
    let before = pair_.near.posted();
    until(|| {
        peer.write(opened, &whole, &[Span::of_const(&[1; 4096])], soon()).unwrap();
        pair_.near.posted() > before + 1
    });
    let sessions = pair_.lender.counts().0;
    // Its device goes silent: the lane times out, and the next connection must not be overtaken by what it sent.
    pair_.near.inject(0, Fault::Silent);
    let deadline = Instant::now() + Duration::from_millis(200);
    assert_eq!(code(peer.write(opened, &whole, &[Span::of_const(&[2; 4096])], deadline)), "timed_out");
    peer.write(opened, &whole, &[Span::of_const(&[3; 4096])], soon()).unwrap();
    let mut back = [0; 4096];
    peer.read(opened, &whole, &[Span::of(&mut back)], soon()).unwrap();
    assert_eq!(back, [3; 4096]);
    until(|| pair_.lender.counts().0 <= sessions);
    drop(peer);
    pair_.end();
}

#[test]
fn pages_that_come_and_go_are_never_pinned() {
    struct Window(Mapping);
    impl Pages for Window {
        fn state(&self, _: u64) -> PageState {
            PageState::Present
        }
        fn span(&self) -> Span {
            self.0.span()
        }
    }
    let mut pair = pair();
    pair.server.store().serve("window", 0, Arc::new(Window(Mapping::anonymous(8192, true).unwrap()))).unwrap();
    let reading =
        mint(&Grant { region_id: "window".to_owned(), mode: Mode::Read, rights: Rights::READ, ..plain_grant() });
    let handle = open(&mut pair.lane, 9, &reading);
    assert_eq!(read(&mut pair.lane, handle, 0, 8).unwrap(), [0; 8]);
    assert_eq!(pair.lender.counts(), (1, 0));
    assert!(pair.rail.said().iter().any(|said| said.contains("stays on TCP")));
    let lent = pair.open(10, &grant());
    assert_eq!(read(&mut pair.lane, lent, 0, 8).unwrap(), [0; 8]);
    pair.end();
}

#[test]
fn a_server_without_rdma_says_so_and_a_lane_to_it_works() {
    let near = Fake::plug_in();
    let (server, rail) = (lender(), rail(&near));
    let mut lane = connect(&server, &rail, None);
    assert!(matches!(lane.way(), Way::Tcp(why) if why.contains("has no RDMA")));
    let handle = open(&mut lane, 9, &grant());
    write(&mut lane, handle, 0, b"by tcp").unwrap();
    assert_eq!(read(&mut lane, handle, 0, 6).unwrap(), b"by tcp");
    drop((lane, rail));
    assert_eq!((near.violations(), near.alive()), (vec![], vec![]));
}

#[test]
fn a_lender_whose_record_names_another_device_is_reached_over_tcp() {
    let pair = pair();
    let wrong = EndpointRecord { gid: [3; 16], ..pair.lender.record() };
    let lane = connect(&pair.server, &pair.rail, Some(wrong));
    assert!(matches!(lane.way(), Way::Tcp(why) if why.contains("endpoint record")));
    drop(lane);
    pair.end();
}

#[test]
fn a_lender_that_gives_rdma_up_ends_its_sessions_and_answers_whoever_asks() {
    let mut pair = pair();
    let handle = pair.open(9, &grant());
    let bytes = pattern(1 << 20, 6);
    write(&mut pair.lane, handle, 0, &bytes).unwrap();
    pair.lender.close();
    assert_eq!(read(&mut pair.lane, handle, 0, 1 << 20).unwrap(), bytes);
    pair.why();
    pair.end();
}

#[test]
fn a_session_nobody_renews_ends_and_a_lane_that_was_idle_has_a_new_one_at_once() {
    let mut pair = pair_with(Duration::from_millis(400));
    let handle = pair.open(9, &grant());
    write(&mut pair.lane, handle, 0, b"before").unwrap();
    until(|| pair.lender.counts().0 == 0);
    assert_eq!(read(&mut pair.lane, handle, 0, 6).unwrap(), b"before");
    assert_eq!(pair.lane.way(), Way::Rdma);
    assert_eq!(pair.rail.counters.fallbacks.load(Ordering::Relaxed), 0);
    // One that is used is renewed as it goes.
    let until_then = Instant::now() + Duration::from_millis(900);
    while Instant::now() < until_then {
        read(&mut pair.lane, handle, 0, 6).unwrap();
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!((pair.lender.counts().0, pair.lane.way()), (1, Way::Rdma));
    pair.end();
}

/// Submits, and drives the lane until that is finished.
fn drive(lane: &mut dyn Driven, submission: Submission) -> Result<Outcome, &'static str> {
    let (id, deadline) = (submission.id, soon());
    let mut finished: Vec<Finished> = Vec::new();
    lane.submit(submission);
    loop {
        let moved = lane.advance(&mut finished).map_err(|error| error.code())?;
        if let Some(found) = finished.iter().position(|finished| finished.id == id) {
            return Ok(finished.swap_remove(found).outcome);
        }
        assert!(Instant::now() < deadline, "nothing finished");
        if !moved && let Some((descriptor, interest)) = lane.readiness() {
            weft_sys::event::wait_for(descriptor, interest, Duration::from_millis(20)).unwrap();
        }
    }
}

fn submission(id: u64, kind: Kind, handle: u64, offset: u64, payload: Payload, into: Vec<Span>) -> Submission {
    let length = if kind == Kind::Read { into.iter().map(|span| span.len()).sum() } else { payload.len() };
    Submission { id, header: header(kind, handle, offset, length), ranges: Arc::new([]), payload, into }
}

/// A lane nobody waits on, with the extent open and its key given.
fn driven(pair: &Pair, dialer: &RdmaDialer) -> (Box<dyn Driven>, u64) {
    let mut lane = dialer.dial(soon()).unwrap();
    assert_eq!(lane.transport(), "rdma");
    let opening = [&weft_wire::encode_opening(5, 1)[..], &grant()].concat();
    let mut open = submission(1, Kind::Open, 0, 0, Payload::Owned(opening), Vec::new());
    open.header.tag = LENDER_LIFE;
    let Ok(Outcome::Done(answer, _)) = drive(lane.as_mut(), open) else { panic!("it was not opened") };
    let before = pair.near.posted();
    until(|| {
        let mut back = [0; 8];
        let read = submission(2, Kind::Read, answer.handle, 0, Payload::Empty, vec![Span::of(&mut back)]);
        assert!(matches!(drive(lane.as_mut(), read), Ok(Outcome::Done(..))));
        pair.near.posted() > before
    });
    (lane, answer.handle)
}

fn dialer(pair: &Pair) -> RdmaDialer {
    let peer = PeerIdentity { name: "lender".to_owned(), incarnation: LENDER_LIFE };
    let record = Some(pair.lender.record());
    RdmaDialer::new(&pair.rail, pair.server.address(), peer, Arc::new(borrower()), options(), record)
}

#[test]
fn a_lane_nobody_waits_on_moves_every_size_and_refuses_as_tcp_does() {
    let pair = pair();
    let dialer = dialer(&pair);
    let (mut lane, handle) = driven(&pair, &dialer);
    for (seed, length) in [(1, 1), (2, 4096), (3, 262_145), (4, 3 << 20)] {
        let bytes = pattern(length, seed);
        let write = submission(10, Kind::Write, handle, 77, Payload::Spans(vec![Span::of_const(&bytes)]), Vec::new());
        assert!(matches!(drive(lane.as_mut(), write), Ok(Outcome::Done(..))));
        let mut back = vec![0; length];
        let (head, tail) = back.split_at_mut(length / 2);
        let into = vec![Span::of(head), Span::of(tail)];
        let read = submission(11, Kind::Read, handle, 77, Payload::Empty, into);
        assert!(matches!(drive(lane.as_mut(), read), Ok(Outcome::Done(..))));
        assert_eq!(back, bytes, "{length} bytes");
    }
    let mut back = [0; 8];
    let outside = submission(12, Kind::Read, handle, EXTENT_BYTES, Payload::Empty, vec![Span::of(&mut back)]);
    assert!(
        matches!(drive(lane.as_mut(), outside), Ok(Outcome::Refused(refusal)) if refusal.code.name() == "out_of_range")
    );
    assert_eq!(lane.outstanding(), 0);
    drop((lane, dialer));
    until(|| pair.lender.counts().0 == 1);
    pair.end();
}

#[test]
fn what_is_given_up_touches_no_memory_any_more_and_the_lane_goes_on() {
    let pair = pair();
    let dialer = dialer(&pair);
    let (mut lane, handle) = driven(&pair, &dialer);
    let mut untouched = vec![7; 3 << 20];
    let into = vec![Span::of(&mut untouched)];
    lane.submit(submission(20, Kind::Read, handle, 0, Payload::Empty, into.clone()));
    assert_eq!(lane.forget(20), Forgotten::Unsent);
    lane.submit(submission(21, Kind::Read, handle, 0, Payload::Empty, into));
    let mut finished = Vec::new();
    lane.advance(&mut finished).unwrap();
    if finished.is_empty() {
        untouched.fill(7);
        assert_eq!(lane.forget(21), Forgotten::Sent);
    }
    assert_eq!(lane.forget(99), Forgotten::Unknown);
    let mut back = [1; 8];
    let read = submission(22, Kind::Read, handle, 0, Payload::Empty, vec![Span::of(&mut back)]);
    assert!(matches!(drive(lane.as_mut(), read), Ok(Outcome::Done(..))));
    assert_eq!(back, [0; 8]);
    if finished.is_empty() {
        assert!(untouched.iter().all(|byte| *byte == 7), "a request that was given up came through");
    }
    drop((lane, dialer));
    pair.end();
}

#[test]
fn a_lane_nobody_waits_on_breaks_with_its_queue_pair_and_the_next_is_left_to_tcp() {
    for fault in [Fault::Ends(IBV_WC_RETRY_EXC_ERR), Fault::Removed, Fault::Refused(libc::ENOMEM)] {
        let pair = pair();
        let dialer = dialer(&pair);
        let (mut lane, handle) = driven(&pair, &dialer);
        pair.near.inject(0, fault);
        let mut back = [0; 4096];
        let read = submission(30, Kind::Read, handle, 0, Payload::Empty, vec![Span::of(&mut back)]);
        assert_eq!(drive(lane.as_mut(), read), Err("disconnected"), "{fault:?}");
        assert_eq!(lane.advance(&mut Vec::new()).unwrap_err().code(), "closed");
        assert_eq!(dialer.dial(soon()).err().unwrap().code(), "unreachable", "not again at once");
        assert!(pair.rail.said().iter().any(|said| said.contains("is reached over TCP")));
        until(|| pair.lender.counts().0 <= 1);
        drop((lane, dialer));
        pair.end();
    }
}

#[test]
fn a_queue_pair_is_used_in_order_or_not_at_all() {
    let near = Fake::plug_in();
    let rail = rail(&near);
    let page = Mapping::anonymous(4096, true).unwrap();
    let span = page.span();
    let memory = MemoryRegion::register(rail.domain(), span, Access::Local, Arc::new(page)).unwrap();
    let completions = CompletionQueue::new(rail.device(), 4).unwrap();
    let bounds = Bounds { work: 4, receives: 1, inline_bytes: 0, answers: true };
    let mut queue_pair = QueuePair::new(rail.domain(), &completions, bounds, 0xab_cdef).unwrap();
    let work = Work { id: 1, verb: Verb::Send, memory: &memory, offset: 0, length: 8 };
    assert!(matches!(queue_pair.post(&work), Err(VerbsError::State(_))), "work before it is connected");
    let side = rail.side(queue_pair.number(), queue_pair.sequence());
    let nowhere = weft_verbs::ffi::Remote { gid: [9; 16], ..side };
    let mut lost = QueuePair::new(rail.domain(), &completions, bounds, 1).unwrap();
    assert!(matches!(lost.connect(&nowhere), Err(VerbsError::Call { .. })), "an address nobody has");
    queue_pair.connect(&side).unwrap();
    assert!(matches!(queue_pair.connect(&side), Err(VerbsError::State(_))), "it connects once");
    let outside = Work { offset: 4090, ..work };
    assert!(matches!(queue_pair.post(&outside), Err(VerbsError::Memory(_))), "memory that is not registered");
    queue_pair.fail();
    queue_pair.fail();
    assert!(matches!(queue_pair.post(&work), Err(VerbsError::State(_))), "work after it ended");
    assert_eq!(near.violations(), Vec::<String>::new(), "none of that reached the device");
    drop((queue_pair, lost, memory, completions, rail));
    assert_eq!((near.violations(), near.alive()), (vec![], vec![]));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn memory_is_as_if_nothing_had_failed(
        steps in prop::collection::vec((any::<bool>(), 0u64..3_000_000, 1usize..700_000, any::<u8>()), 1..12),
        faults in prop::collection::vec((0u32..30, 0usize..5), 0..3),
    ) {
        let mut pair = pair();
        let handle = pair.open(9, &grant());
        for (at, kind) in faults {
            let all = [
                Fault::Ends(IBV_WC_RETRY_EXC_ERR),
                Fault::EndsAfter(IBV_WC_RNR_RETRY_EXC_ERR),
                Fault::Ends(IBV_WC_REM_ACCESS_ERR),
                Fault::Refused(libc::EIO),
                Fault::Removed,
            ];
            pair.near.inject(at, all[kind]);
        }
        let mut model = vec![0u8; usize::try_from(EXTENT_BYTES).unwrap()];
        for (is_write, offset, length, seed) in steps {
            let at = usize::try_from(offset).unwrap();
            if is_write {
                let bytes = pattern(length, seed.into());
                write(&mut pair.lane, handle, offset, &bytes).unwrap();
                model[at..at + length].copy_from_slice(&bytes);
            } else {
                let back = read(&mut pair.lane, handle, offset, length).unwrap();
                prop_assert!(back == model[at..at + length]);
            }
        }
        prop_assert!(read(&mut pair.lane, handle, 0, model.len()).unwrap() == model);
        pair.end();
    }
}
