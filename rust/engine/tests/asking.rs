//! Questions, extents, and endpoints that only call.

mod world;

use std::sync::Arc;
use std::time::{Duration, Instant};

use weft_engine::{Direction, Endpoint, EndpointConfig, Part};
use weft_sys::memory::Span;
use weft_transport::ConnectOptions;
use weft_wire::{Advert, Code, ExtentName, Grant, Mode, Refusal, Rights, grant_key};
use world::{SECRET, endpoint_keeping_messages, now_ms, part, pattern, soon};

const REGION: &str = "r0000000000000001";
const STRIPE: u64 = 2 << 20;

/// One that does not listen.
fn caller(ipc: bool) -> Endpoint {
    Endpoint::start(EndpointConfig {
        cluster_id: *b"a test's cluster",
        secret: SECRET.to_vec(),
        name: "caller".to_owned(),
        incarnation: 5,
        server: None,
        inbox: false,
        connect: ConnectOptions { timeout: Duration::from_secs(1), ..ConnectOptions::default() },
        now_ms,
        ipc,
        tls: None,
    })
    .expect("it needs no port")
}

fn extent(node: &Endpoint, index: u32, generation: u64) -> Arc<Advert> {
    let grant = Grant {
        cluster_id: *b"a test's cluster",
        region_id: REGION.to_owned(),
        generation,
        mode: Mode::Exclusive,
        rights: Rights::READ_WRITE,
        holder: "caller".to_owned(),
        expires_at_ms: now_ms() + 60_000,
    };
    let name = ExtentName { region_id: REGION.to_owned(), index };
    let grant = grant.mint(&grant_key(SECRET)).into();
    Arc::new(Advert::of_extent(u64::from(index) + 1, name, node.identity().incarnation, STRIPE, grant))
}

#[test]
fn a_question_reaches_whoever_takes_messages_and_its_answer_comes_back() {
    let (node, caller) = (endpoint_keeping_messages("node"), caller(false));
    let link = caller.connect(node.address(), soon()).unwrap();
    std::thread::scope(|threads| {
        threads.spawn(|| {
            for answer in [Ok(b"yes".to_vec()), Err(Refusal::new(Code::Busy, "later"))] {
                let message = node.server().receive_message(Duration::from_secs(5)).expect("somebody asks");
                assert_eq!(
                    (message.sender.as_str(), message.topic, &message.payload[..]),
                    ("caller", 77, &b"well?"[..])
                );
                node.server().answer(message.ticket.expect("an answer is wanted"), answer);
            }
        });
        assert_eq!(link.ask(77, b"well?", soon()).unwrap(), b"yes");
        assert_eq!(link.ask(77, b"well?", soon()).unwrap_err().code, "busy");
    });
    assert!(link.ping(soon()).unwrap() < Duration::from_secs(1));
}

#[test]
fn an_endpoint_that_keeps_no_messages_refuses_questions_it_does_not_know() {
    let (node, caller) = (world::endpoint("node"), caller(false));
    let link = caller.connect(node.address(), soon()).unwrap();
    assert_eq!(link.ask(77, b"well?", soon()).unwrap_err().code, "bad_frame");
}

#[test]
fn a_question_that_nobody_answers_ends_with_its_deadline_and_the_next_is_asked_over_another_connection() {
    let (node, caller) = (endpoint_keeping_messages("node"), caller(false));
    let link = caller.connect(node.address(), soon()).unwrap();
    let failure = link.ask(77, b"well?", Instant::now() + Duration::from_millis(100)).unwrap_err();
    assert_eq!(failure.code, "timed_out");
    assert!(link.ping(soon()).is_ok());
}

#[test]
fn a_caller_is_reached_by_nobody_and_says_so() {
    let caller = caller(false);
    let mut memory = vec![0; 4096];
    let registration = caller.memory().register(Span::of(&mut memory)).unwrap();
    let refused = caller.advertise(registration, 0, 4096, true, Duration::from_secs(1)).unwrap_err();
    assert_eq!(refused.code, "bad_argument");
    assert_eq!(caller.address().port(), 0);
}

#[test]
fn a_node_does_not_accept_whoever_only_calls() {
    let (node, caller) = (endpoint_keeping_messages("node"), caller(false));
    let _link = caller.connect(node.address(), soon()).unwrap();
    assert!(node.accept(Instant::now() + Duration::from_millis(50)).unwrap().is_none());
}

#[test]
fn extents_of_a_region_are_read_and_written_by_their_grant_also_between_neighbours() {
    for ipc in [false, true] {
        let (node, caller) = (endpoint_keeping_messages("node"), caller(ipc));
        for index in [0, 3] {
            node.server().store().reserve(REGION, index, STRIPE, 1).unwrap();
        }
        let link = caller.connect(node.address(), soon()).unwrap();
        for index in [0, 3] {
            let right = extent(&node, index, 1);
            let mut sent = pattern(100_000, index.into());
            let mut seen = vec![1; 100_000];
            let (from, into) = (part(&right, 4096, &mut sent), part(&right, 4096, &mut seen));
            caller.move_now(&link, Direction::Write, &[from], soon()).unwrap();
            caller.move_now(&link, Direction::Read, &[into], soon()).unwrap();
            assert!(seen == sent);
        }
    }
}

#[test]
fn an_extent_is_refused_to_an_older_grant_and_to_one_of_another_life() {
    let (node, caller) = (endpoint_keeping_messages("node"), caller(true));
    node.server().store().reserve(REGION, 0, STRIPE, 7).unwrap();
    let link = caller.connect(node.address(), soon()).unwrap();
    let mut memory = vec![0; 4096];
    let mut read = |right: &Arc<Advert>| -> &'static str {
        let into: Part = part(right, 0, &mut memory);
        caller.move_now(&link, Direction::Read, &[into], soon()).unwrap_err().code
    };
    assert_eq!(read(&extent(&node, 0, 6)), "stale_generation");
    let lost = Advert { incarnation: 1, ..(*extent(&node, 0, 7)).clone() };
    assert_eq!(read(&Arc::new(lost)), "extent_lost");
}
