//! Every wait ends: peers that stop, die, come back, or never were.

mod world;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::time::{Duration, Instant};

use weft_sys::memory::Span;
use weft_transport::{Identity, Server};
use weft_wire::Range;
use world::*;

const PAGE: Range = Range { offset: 0, length: 4096 };

#[test]
fn nobody_at_the_port_is_an_error_at_once() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let started = Instant::now();
    assert_eq!(code(peer(free).connect(soon())), "unreachable");
    assert!(started.elapsed() < Duration::from_secs(2));
}

#[test]
fn a_peer_that_accepts_and_never_answers_is_given_up_at_the_deadline() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let started = Instant::now();
    let deadline = started + Duration::from_millis(300);
    assert_eq!(code(peer(silent.local_addr().unwrap()).connect(deadline)), "timed_out");
    assert!(started.elapsed() < Duration::from_secs(1));
}

#[test]
fn a_peer_that_speaks_something_else_is_recognised() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let other = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let _ = stream.read(&mut [0; 256]);
        let _ = stream.write_all(&[b'x'; 256]);
        let _ = stream.read(&mut [0; 256]);
    });
    assert_eq!(code(peer(address).connect(soon())), "bad_frame");
    other.join().unwrap();
}

#[test]
fn a_server_that_closed_and_came_back_is_used_again_by_the_same_handle() {
    let server = lender();
    let port = server.address().port();
    let mut peer = peer(server.address());
    let opened = peer.open(&grant(), 0, LENDER_LIFE, soon()).unwrap();
    server.close();
    drop(server);
    let again = lender_at(port, LENDER_LIFE);
    let mut back = [1; 4096];
    peer.read(opened, &[PAGE], &[Span::of(&mut back)], soon()).unwrap();
    assert_eq!(back, [0; 4096]);
    drop(again);
}

#[test]
fn a_lender_that_comes_back_as_another_life_has_lost_its_extents_and_never_reads_as_zeros() {
    let server = lender();
    let port = server.address().port();
    let mut peer = peer(server.address());
    let opened = peer.open(&grant(), 0, LENDER_LIFE, soon()).unwrap();
    peer.write(opened, &[PAGE], &[Span::of_const(&[7; 4096])], soon()).unwrap();
    drop(server);
    let _again = lender_at(port, LENDER_LIFE + 1);
    let mut back = [1; 4096];
    let read = peer.read(opened, &[PAGE], &[Span::of(&mut back)], soon());
    assert_eq!(code(read), "extent_lost");
}

#[test]
fn a_lender_that_is_gone_for_good_fails_after_a_bounded_number_of_tries() {
    let server = lender();
    let mut peer = peer(server.address());
    let opened = peer.open(&grant(), 0, LENDER_LIFE, soon()).unwrap();
    drop(server);
    let started = Instant::now();
    let read = peer.read(opened, &[PAGE], &[Span::of(&mut [0; 4096])], soon());
    assert_eq!(code(read), "unreachable");
    assert!(started.elapsed() < Duration::from_secs(1));
}

#[test]
fn a_cut_in_the_middle_of_a_write_leaves_every_page_old_or_new() {
    for cut_at in [1, 4095, 4096, 5000, 100_000, 999_999] {
        let server = lender();
        let mut steady = peer(server.address());
        let opened = steady.open(&grant(), 0, LENDER_LIFE, soon()).unwrap();
        let (old, new) = (vec![1u8; 1 << 20], vec![2u8; 1 << 20]);
        let whole = [Range { offset: 0, length: 1 << 20 }];
        steady.write(opened, &whole, &[Span::of_const(&old)], soon()).unwrap();
        // A middleman passes the handshake and the head of the write on, and cuts after so many bytes of payload.
        let mut cut = peer(cutting_middleman(server.address(), cut_at));
        let through = cut.open(&grant(), 0, LENDER_LIFE, soon()).unwrap();
        let deadline = Instant::now() + Duration::from_millis(500);
        cut.write(through, &whole, &[Span::of_const(&new)], deadline).unwrap_err();
        until(|| {
            let closed = server.counters().list().into_iter().find(|(name, _)| name == "connections_closed");
            closed.is_some_and(|(_, count)| count >= 1)
        });
        let mut back = vec![0u8; 1 << 20];
        steady.read(opened, &whole, &[Span::of(&mut back)], soon()).unwrap();
        let pages: Vec<u8> = back
            .chunks(4096)
            .map(|page| {
                assert!(page.iter().all(|byte| *byte == page[0]), "a page is torn when cut after {cut_at} bytes");
                page[0]
            })
            .collect();
        assert!(pages.iter().all(|byte| *byte == 1 || *byte == 2));
        assert_eq!(pages.last(), Some(&1), "the cut came before the end");
    }
}

/// Passes everything on until `payload` bytes have followed the first large frame's head, then cuts both sides.
fn cutting_middleman(to: SocketAddr, payload: usize) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let (mut client, _) = listener.accept().unwrap();
        let mut server = std::net::TcpStream::connect(to).unwrap();
        let (mut answers, mut back) = (server.try_clone().unwrap(), client.try_clone().unwrap());
        std::thread::spawn(move || std::io::copy(&mut answers, &mut back));
        let mut left: Option<usize> = None;
        let mut buffer = vec![0u8; 65536];
        while let Ok(got) = client.read(&mut buffer) {
            if got == 0 {
                break;
            }
            // The write's head starts the first read that holds a frame of kind 4.
            if left.is_none() && got >= 64 && buffer[..4] == *b"WEFT" && buffer[5] == 4 {
                left = Some(payload + 64);
            }
            let pass = left.map_or(got, |left| left.min(got));
            if server.write_all(&buffer[..pass]).is_err() {
                break;
            }
            if let Some(left) = &mut left {
                *left -= pass;
                if *left == 0 {
                    break;
                }
            }
        }
        let _ = server.shutdown(std::net::Shutdown::Both);
        let _ = client.shutdown(std::net::Shutdown::Both);
    });
    address
}

#[test]
fn fencing_under_load_never_lets_an_older_write_land_after_it() {
    let server = lender();
    let whole = Range { offset: 0, length: 1 << 20 };
    let mut writers: Vec<_> = (0..3).map(|_| peer(server.address())).collect();
    let opened: Vec<_> =
        writers.iter_mut().map(|writer| writer.open(&grant(), 0, LENDER_LIFE, soon()).unwrap()).collect();
    std::thread::scope(|scope| {
        for (writer, opened) in writers.iter_mut().zip(opened) {
            scope.spawn(move || {
                let bytes = vec![1u8; 1 << 20];
                let refused = loop {
                    if let Err(error) = writer.write(opened, &[whole], &[Span::of_const(&bytes)], soon()) {
                        break error;
                    }
                };
                assert_eq!(refused.code(), "stale_generation");
            });
        }
        until(|| server.counters().list().iter().any(|(name, count)| name == "writes" && *count > 20));
        assert!(server.store().raise_generation("r1", 2, Duration::from_secs(2)));
        let extent = server.store().find("r1", 0).unwrap();
        extent.part(whole).unwrap().copy_from(&vec![2u8; 1 << 20]);
        // The scope ends when every older writer was refused; none may have touched the extent since.
    });
    let mut now = vec![0u8; 1 << 20];
    server.store().find("r1", 0).unwrap().part(whole).unwrap().copy_to(&mut now);
    assert!(now.iter().all(|byte| *byte == 2));
}

#[test]
fn two_servers_that_race_for_the_same_ports_get_two_of_them() {
    let mut config = config(0);
    let first = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    config.ports = first..=first.saturating_add(20);
    let servers: Vec<Server> = std::thread::scope(|scope| {
        let starting: Vec<_> = (0..4)
            .map(|life| {
                let config = config.clone();
                scope.spawn(move || Server::start(Identity::new(CLUSTER, SECRET, "lender", life), config).unwrap())
            })
            .collect();
        starting.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let mut ports: Vec<u16> = servers.iter().map(|server| server.address().port()).collect();
    ports.sort_unstable();
    ports.dedup();
    assert_eq!(ports.len(), 4);
    for server in &servers {
        peer(server.address()).connect(soon()).unwrap();
    }
}
