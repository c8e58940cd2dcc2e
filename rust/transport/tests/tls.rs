//! TLS between a borrower and a lender: who is let in, who is not and what it is told, and that nothing on the way can be
//! read, altered or held up for ever.

mod world;

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use weft_sys::memory::Span;
use weft_transport::{
    ConnectOptions, Identity, Peer, PeerAddress, Server, ServerConfig, TcpLane, Tls, TlsPart, TransportError,
};
use weft_wire::Range;
use world::*;

fn borrower_with(tls: Option<Arc<Tls>>) -> Identity {
    borrower().with_tls(tls)
}

fn connect(address: SocketAddr, identity: &Identity) -> Result<TcpLane, TransportError> {
    TcpLane::connect(address, "lender", identity, &options())
}

fn refusal(address: SocketAddr, identity: &Identity) -> (&'static str, String) {
    let error = connect(address, identity).expect_err("it should have been refused");
    (error.code(), error.to_string())
}

/// A whole exchange: a write, and a read of it.
fn exchange(peer: &mut Peer, bytes: &[u8], deadline: Instant) -> Result<Vec<u8>, TransportError> {
    let opened = peer.open(&grant(), 0, LENDER_LIFE, deadline)?;
    let ranges = [Range { offset: 0, length: bytes.len() as u64 }];
    peer.write(opened, &ranges, &[Span::of_const(bytes)], deadline)?;
    let mut back = vec![0; bytes.len()];
    peer.read(opened, &ranges, &[Span::of(&mut back)], deadline)?;
    Ok(back)
}

fn peer_at(address: SocketAddr, identity: Identity) -> Peer {
    Peer::new(PeerAddress { node: "lender".to_owned(), address }, Arc::new(identity), options())
}

/// What a proxy does to the bytes that go one way, at byte `at`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Harm {
    None,
    Cut,
    Flip,
    Repeat,
    Leave,
}

struct Proxy {
    address: SocketAddr,
    /// All that went through, both ways.
    seen: Arc<Mutex<Vec<u8>>>,
    /// Connections made through it.
    connections: Arc<AtomicUsize>,
}

/// Forwards to `target`. Of the first connection, the bytes that come back meet `harm` at byte `at`.
fn proxy(target: SocketAddr, harm: Harm, at: usize) -> Proxy {
    proxy_both(target, Harm::None, harm, at)
}

/// The same, for the bytes that go there and those that come back.
fn proxy_both(target: SocketAddr, there: Harm, back: Harm, at: usize) -> Proxy {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound");
    let seen = Arc::new(Mutex::new(Vec::new()));
    let connections = Arc::new(AtomicUsize::new(0));
    let (saw, counted) = (Arc::clone(&seen), Arc::clone(&connections));
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let (Ok(client), Ok(server)) = (client, TcpStream::connect(target)) else { return };
            let first = counted.fetch_add(1, Ordering::SeqCst) == 0;
            let (there, back) = if first { (there, back) } else { (Harm::None, Harm::None) };
            for (from, to, harm) in [(&client, &server, there), (&server, &client, back)] {
                let (from, to) = (from.try_clone().expect("a descriptor"), to.try_clone().expect("a descriptor"));
                let saw = Arc::clone(&saw);
                std::thread::spawn(move || {
                    let _ = forward(&from, &to, &saw, harm, at);
                    let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
                });
            }
        }
    });
    Proxy { address, seen, connections }
}

fn forward(
    mut from: &TcpStream,
    mut to: &TcpStream,
    seen: &Mutex<Vec<u8>>,
    harm: Harm,
    at: usize,
) -> std::io::Result<()> {
    let mut done = 0;
    let mut buffer = vec![0; 64 << 10];
    loop {
        let got = from.read(&mut buffer)?;
        if got == 0 {
            return Ok(());
        }
        seen.lock().expect("nobody panics with it").extend_from_slice(&buffer[..got]);
        let bytes = &mut buffer[..got];
        if (done..done + got).contains(&at) {
            let here = at - done;
            match harm {
                Harm::None => {}
                Harm::Cut => return to.write_all(&bytes[..here]),
                Harm::Flip => bytes[here] ^= 1 << (at % 8),
                Harm::Repeat => to.write_all(&bytes[..here])?,
                Harm::Leave => {
                    to.write_all(&bytes[..here])?;
                    done += got;
                    continue;
                }
            }
        }
        to.write_all(bytes)?;
        done += got;
    }
}

#[test]
fn bytes_arrive_under_tls_and_nobody_between_can_read_them() {
    let server = lender_under_tls();
    let path = proxy(server.address(), Harm::None, 0);
    let secret_page = b"what is in this page is nobody's business ".repeat(100);
    let back = exchange(&mut peer_at(path.address, borrower_under_tls()), &secret_page, soon()).unwrap();
    assert!(back == secret_page);
    let seen = path.seen.lock().unwrap();
    assert!(seen.len() > 2 * secret_page.len(), "both ways went by the proxy");
    let contains = |wanted: &[u8]| seen.windows(wanted.len()).any(|window| window == wanted);
    assert!(!contains(&secret_page[..16]));
    // Nor the wire's own words, the region's name or the parties' names and certificates.
    for word in [&b"WEFT"[..], b"r1", b"weft:lender", b"weft:borrower"] {
        assert!(word.len() < 4 || !contains(word), "{word:?} was in the clear");
    }
    drop(seen);
    // The proof that the proxy would have seen it: the same without TLS.
    let plain = lender();
    let path = proxy(plain.address(), Harm::None, 0);
    exchange(&mut peer_at(path.address, borrower()), &secret_page, soon()).unwrap();
    assert!(path.seen.lock().unwrap().windows(16).any(|window| window == &secret_page[..16]));
}

#[test]
fn a_lender_under_tls_tells_a_plain_peer_what_to_set() {
    let server = lender_under_tls();
    let (code, sentence) = refusal(server.address(), &borrower());
    assert_eq!(code, "tls_mismatch");
    assert!(
        sentence.contains("lender speaks TLS only; set WEFT_TLS_CA, WEFT_TLS_CERT and WEFT_TLS_KEY here"),
        "{sentence}"
    );
    until(|| server.counters().list().contains(&("tls_refused".to_owned(), 1)));
}

#[test]
fn a_plain_lender_tells_a_peer_under_tls_what_to_set_and_is_not_spoken_to_in_plain() {
    let server = lender();
    let (code, sentence) = refusal(server.address(), &borrower_under_tls());
    assert_eq!(code, "tls_mismatch");
    assert!(sentence.contains("lender has no TLS"), "{sentence}");
    assert!(sentence.contains("set WEFT_TLS_CA, WEFT_TLS_CERT and WEFT_TLS_KEY there"), "{sentence}");
    assert_eq!(server.counters().refused(weft_wire::Code::TlsMismatch), 1);
}

#[test]
fn a_lender_of_another_authority_is_refused_by_name_and_reason() {
    let server = lender_with(Some(Certificates::new().tls("lender")), config(0));
    let (code, sentence) = refusal(server.address(), &borrower_under_tls());
    assert_eq!(code, "certificate_refused");
    assert!(
        sentence.starts_with("lender showed a certificate that is refused: another authority signed it"),
        "{sentence}"
    );
    assert!(sentence.contains("WEFT_TLS_CA"), "{sentence}");
}

#[test]
fn a_borrower_of_another_authority_is_refused_and_told_so() {
    // It trusts the lender's authority and shows another's certificate.
    let (ours, theirs) = (Certificates::shared(), Certificates::new());
    let stranger = theirs.issue(&["borrower"], now_s(), DAY_S);
    let tls =
        Tls::from_pem(ours.root().certificate.as_bytes(), stranger.certificate.as_bytes(), stranger.key.as_bytes());
    let server = lender_under_tls();
    let (code, sentence) = refusal(server.address(), &borrower_with(Some(Arc::new(tls.unwrap()))));
    assert_eq!(code, "certificate_refused");
    assert!(
        sentence.starts_with("lender refused the certificate of this process: another authority signed it"),
        "{sentence}"
    );
    until(|| server.counters().list().contains(&("tls_refused".to_owned(), 1)));
}

#[test]
fn an_expired_certificate_is_refused_on_either_side() {
    let ours = Certificates::shared();
    let old = ours.tls_with(&ours.issue(&["lender"], now_s() - 10 * DAY_S, DAY_S));
    let server = lender_with(Some(old), config(0));
    let (code, sentence) = refusal(server.address(), &borrower_under_tls());
    assert_eq!(code, "certificate_refused");
    assert!(sentence.starts_with("lender showed a certificate that is refused: it has expired"), "{sentence}");

    let old = ours.tls_with(&ours.issue(&["borrower"], now_s() - 10 * DAY_S, DAY_S));
    let server = lender_under_tls();
    let (code, sentence) = refusal(server.address(), &borrower_with(Some(old)));
    assert_eq!(code, "certificate_refused");
    assert!(sentence.starts_with("lender refused the certificate of this process: it has expired"), "{sentence}");
}

#[test]
fn a_certificate_of_tomorrow_is_refused() {
    let ours = Certificates::shared();
    let early = ours.tls_with(&ours.issue(&["lender"], now_s() + DAY_S, DAY_S));
    let (code, sentence) = refusal(lender_with(Some(early), config(0)).address(), &borrower_under_tls());
    assert_eq!(code, "certificate_refused");
    assert!(sentence.contains("not valid yet"), "{sentence}");
}

/// What holds a good certificate of one node and says that it is another.
fn impostor(name: &str, held: &str) -> Identity {
    let mut identity =
        Identity::new(CLUSTER, SECRET, name, LENDER_LIFE).with_tls(Some(Certificates::shared().tls(held)));
    name.clone_into(&mut identity.name);
    identity
}

#[test]
fn a_node_that_goes_by_another_name_than_its_certificates_is_refused() {
    let server = Server::start(impostor("lender", "somebody"), config(0)).unwrap();
    let (code, sentence) = refusal(server.address(), &borrower_under_tls());
    assert_eq!(code, "certificate_refused");
    assert!(sentence.contains("it is for somebody, and its holder goes by lender"), "{sentence}");

    let server = lender_under_tls();
    let (code, sentence) = refusal(server.address(), &impostor("borrower", "borrow"));
    assert_eq!(code, "certificate_refused");
    assert!(sentence.contains("it is for borrow, and its holder goes by borrower"), "{sentence}");
}

#[test]
fn a_process_goes_by_its_machines_name_and_its_own() {
    let tls = Certificates::shared().tls("gpu-1");
    assert_eq!(tls.name_for("gpu-1"), "gpu-1");
    assert_eq!(tls.name_for("gpu-1:77"), "gpu-1:77");
    assert_eq!(tls.name_for("gpu-17"), "gpu-1:gpu-17");
    let server = lender_under_tls();
    let lane = connect(server.address(), &borrower_with(Some(tls)));
    assert!(lane.is_ok(), "{:?}", lane.err());
}

#[test]
fn what_does_not_belong_together_is_refused_at_the_start_by_variable() {
    let (ours, theirs) = (Certificates::shared(), Certificates::new());
    let (mine, other) = (ours.issue(&["a"], now_s(), DAY_S), ours.issue(&["b"], now_s(), DAY_S));
    let root = ours.root().certificate.as_bytes();
    let part = |authority: &[u8], certificate: &[u8], key: &[u8]| {
        Tls::from_pem(authority, certificate, key).and_then(|tls| tls.check()).expect_err("it should be refused")
    };
    let error = part(root, mine.certificate.as_bytes(), other.key.as_bytes());
    assert_eq!(error.to_string(), "WEFT_TLS_KEY is not the key of the certificate in WEFT_TLS_CERT");
    assert_eq!(part(b"nothing", mine.certificate.as_bytes(), mine.key.as_bytes()).part, TlsPart::Authority);
    assert_eq!(part(root, b"nothing", mine.key.as_bytes()).part, TlsPart::Certificate);
    assert_eq!(part(root, mine.certificate.as_bytes(), b"nothing").part, TlsPart::Key);
    let nameless = part(root, root, ours.root().key.as_bytes());
    assert!(nameless.to_string().contains("without a node's name"), "{nameless}");
    let foreign = part(theirs.root().certificate.as_bytes(), mine.certificate.as_bytes(), mine.key.as_bytes());
    assert_eq!(foreign.to_string(), "WEFT_TLS_CERT was not signed by the authority in WEFT_TLS_CA");
    let old = ours.issue(&["a"], now_s() - 10 * DAY_S, DAY_S);
    let expired = part(root, old.certificate.as_bytes(), old.key.as_bytes());
    assert!(expired.to_string().starts_with("WEFT_TLS_CERT has expired"), "{expired}");
}

#[test]
fn whatever_happens_to_a_record_on_its_way_no_wrong_byte_arrives_and_the_next_connection_goes_on() {
    let server = lender_under_tls();
    let bytes = pattern(120_000, 9);
    let clean = proxy(server.address(), Harm::None, 0);
    assert!(exchange(&mut peer_at(clean.address, borrower_under_tls()), &bytes, soon()).unwrap() == bytes);
    let impatient = ConnectOptions { timeout: Duration::from_millis(400), ..options() };
    let harms = [Harm::Cut, Harm::Flip, Harm::Repeat, Harm::Leave];
    for (harm, there) in harms.into_iter().flat_map(|harm| [(harm, false), (harm, true)]) {
        // In the handshake, in the heads after it, and in bulk. What is left out costs a deadline each time.
        let all = [0, 7, 100, 700, 1200, 1500, 5000, 110_000];
        for at in if harm == Harm::Leave { &all[4..] } else { &all[..] } {
            let at = *at;
            let (out, home) = if there { (harm, Harm::None) } else { (Harm::None, harm) };
            let path = proxy_both(server.address(), out, home, at);
            let address = PeerAddress { node: "lender".to_owned(), address: path.address };
            let mut peer = Peer::new(address, Arc::new(borrower_under_tls()), impatient.clone());
            // What is left out at the end of an answer is waited for, as everything that does not come is.
            let patience = if harm == Harm::Leave { 400 } else { 5000 };
            match exchange(&mut peer, &bytes, Instant::now() + Duration::from_millis(patience)) {
                Ok(back) => assert!(back == bytes, "{harm:?} at {at} let wrong bytes through"),
                Err(error) => {
                    let waited = harm == Harm::Leave && error.code() == "timed_out";
                    // The first byte decides whether it is TLS at all; what is neither that nor the wire is final.
                    let no_tls = at == 0 && error.code() == "tls_mismatch";
                    assert!(waited || no_tls, "{harm:?} at {at}: {error}");
                }
            }
            assert!(path.connections.load(Ordering::SeqCst) <= 3, "{harm:?} at {at} took many connections");
        }
    }
}

#[test]
fn a_peer_that_stops_in_the_handshake_holds_nobody_beyond_the_deadline() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound");
    let mut identity_options = options();
    identity_options.timeout = Duration::from_millis(300);
    let began = Instant::now();
    let error =
        TcpLane::connect(address, "silent", &borrower_under_tls(), &identity_options).expect_err("it is silent");
    assert_eq!(error.code(), "timed_out");
    assert_eq!(error.peer(), "silent");
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    drop(listener);
}

/// One that feeds the client a byte now and then must not be taken for one that makes progress.
#[test]
fn a_peer_that_trickles_holds_nobody_beyond_the_deadline() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound");
    let stop = Arc::new(AtomicBool::new(false));
    let stopping = Arc::clone(&stop);
    let trickle = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("it connects");
        let mut head = vec![22, 3, 3, 0x3f, 0xff];
        head.resize(4096, 0);
        for byte in head {
            if stopping.load(Ordering::SeqCst) || stream.write_all(&[byte]).is_err() {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    });
    let mut impatient = options();
    impatient.timeout = Duration::from_millis(300);
    let began = Instant::now();
    let error = TcpLane::connect(address, "slow", &borrower_under_tls(), &impatient).expect_err("it is too slow");
    assert_eq!(error.code(), "timed_out", "{error} {error:?}");
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    stop.store(true, Ordering::SeqCst);
    trickle.join().expect("it ends");
}

#[test]
fn unfinished_handshakes_are_bounded_in_time_and_keep_nobody_out() {
    let server =
        lender_with(Some(Certificates::shared().tls("lender")), ServerConfig { connections_max: 1000, ..config(0) });
    // The beginning of a record and nothing more, far more often than a loop keeps unproved connections.
    let idlers: Vec<TcpStream> = (0..200)
        .map(|_| {
            let mut stream = TcpStream::connect(server.address()).expect("the lender listens");
            stream.write_all(&[22, 3, 1, 1, 0, 1]).expect("it takes bytes");
            stream
        })
        .collect();
    let back = exchange(&mut peer_at(server.address(), borrower_under_tls()), b"in between", soon()).unwrap();
    assert_eq!(back, b"in between");
    let count =
        |name: &str| server.counters().list().iter().find(|(known, _)| known == name).map_or(0, |(_, count)| *count);
    until(|| count("connections_turned_away") + count("connections_stalled") == 200);
    drop(idlers);
}

#[test]
fn large_transfers_and_small_ones_cross_under_tls_from_many_threads() {
    let server = lender_under_tls();
    let address = server.address();
    std::thread::scope(|scope| {
        for lane in 0..4u64 {
            scope.spawn(move || {
                let mut peer = peer_at(address, borrower_under_tls());
                let opened = peer.open(&grant(), 0, LENDER_LIFE, soon()).unwrap();
                for round in 0..20u64 {
                    let length = [1, 4096, 70_000, 900_000][usize::try_from((lane + round) % 4).unwrap()];
                    let bytes = pattern(length, lane * 100 + round);
                    let ranges = [Range { offset: lane << 20, length: length as u64 }];
                    peer.write(opened, &ranges, &[Span::of_const(&bytes)], soon()).unwrap();
                    let mut back = vec![0; length];
                    peer.read(opened, &ranges, &[Span::of(&mut back)], soon()).unwrap();
                    assert!(back == bytes, "lane {lane}, round {round}");
                }
            });
        }
    });
}
