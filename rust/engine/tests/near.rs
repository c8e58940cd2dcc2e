//! A lender's extents, mapped by a process of its machine: what ends a right, and what becomes of the mapping then.

mod world;

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use weft_engine::{NearLender, NearUpgrade};
use weft_sys::memory::Span;
use weft_transport::{
    ConnectOptions, Identity, Lane, Reply, Request, Server, ServerConfig, TcpLane, TransportError, Upgrade,
};
use weft_wire::{Flags, Grant, Header, Kind, Mode, Rights, encode_opening, grant_key};
use world::{SECRET, now_ms, pattern, soon, until};

const CLUSTER: [u8; 16] = *b"a test's cluster";
const EXTENT_BYTES: u64 = 1 << 20;
const MINUTE_MS: u64 = 60_000;

/// A lender that hands its one extent over, as `name`.
struct Lending {
    server: Arc<Server>,
    near: NearLender,
}

fn identity(name: &str, life: u64) -> Identity {
    Identity::new(CLUSTER, SECRET, name, life)
}

impl Lending {
    fn start(name: &str) -> Self {
        let lender = identity(name, 77);
        let config = ServerConfig {
            host: std::net::Ipv4Addr::LOCALHOST.into(),
            ports: 0..=0,
            socket: weft_sys::socket::Options::default(),
            spin: Duration::from_micros(50),
            connections_max: 64,
            handshake_deadline: Duration::from_millis(500),
            drain_deadline: Duration::from_secs(1),
            now_ms,
        };
        let server = Arc::new(Server::start(lender.clone(), config).expect("a port is free"));
        server.store().reserve("r1", 0, EXTENT_BYTES, 1).expect("memory for the extent");
        let near = NearLender::start(&server, &lender).expect("a socket");
        Self { server, near }
    }
}

/// A lane to a lender, and what went out of mappings on it.
struct Reader {
    lane: Box<dyn Lane>,
    upgrade: NearUpgrade,
}

impl Reader {
    fn meet(name: &str, address: std::net::SocketAddr) -> Self {
        let options = ConnectOptions { timeout: Duration::from_secs(2), ..ConnectOptions::default() };
        let borrower = identity("borrower", 5);
        let tcp = TcpLane::connect(address, name, &borrower, &options).expect("the lender is up");
        let upgrade = NearUpgrade::new(Arc::new(borrower), now_ms, None).expect("descriptors");
        let lane = upgrade.upgrade(Box::new(tcp), soon()).expect("the lender is up");
        Self { lane, upgrade }
    }

    fn open(&mut self, generation: u64, mode: Mode, lasts_ms: u64) -> u64 {
        self.try_open(generation, mode, lasts_ms).unwrap()
    }

    fn try_open(&mut self, generation: u64, mode: Mode, lasts_ms: u64) -> Result<u64, &'static str> {
        let rights = if mode == Mode::Exclusive { Rights::READ_WRITE } else { Rights::READ };
        let grant = Grant {
            cluster_id: CLUSTER,
            region_id: "r1".to_owned(),
            generation,
            mode,
            rights,
            holder: "borrower".to_owned(),
            expires_at_ms: now_ms() + lasts_ms,
        }
        .mint(&grant_key(SECRET));
        let mut header = Header::new(Kind::Open, 0);
        header.tag = 77;
        let writer = encode_opening(generation, 1);
        header.length = (writer.len() + grant.len()) as u64;
        let payload = [Span::of_const(&writer), Span::of_const(&grant)];
        let posted = self.lane.post(Request { header, ranges: &[], payload: &payload }, soon());
        let reply = posted.and_then(|()| self.lane.begin(&[], soon())).map_err(|error| error.code())?;
        Ok(reply.header.handle)
    }

    fn post(&mut self, handle: u64, offset: u64, length: usize, flags: Flags) -> Result<(), TransportError> {
        let header = Header { handle, offset, length: length as u64, flags, ..Header::new(Kind::Read, 0) };
        self.lane.post(Request { header, ranges: &[], payload: &[] }, soon())
    }

    fn read(&mut self, handle: u64, offset: u64, length: usize) -> Result<Vec<u8>, &'static str> {
        let mut bytes = vec![0; length];
        let into = [Span::of(&mut bytes)];
        let done = self.post(handle, offset, length, Flags::NONE).and_then(|()| {
            let reply = self.lane.begin(&into, soon())?;
            self.lane.fill(&into, reply.filled, reply.bytes(), soon())
        });
        done.map(|_| bytes).map_err(|error| error.code())
    }

    fn write(&mut self, handle: u64, offset: u64, bytes: &[u8]) -> Result<Reply, &'static str> {
        let header = Header { handle, offset, length: bytes.len() as u64, ..Header::new(Kind::Write, 0) };
        let payload = [Span::of_const(bytes)];
        let posted = self.lane.post(Request { header, ranges: &[], payload: &payload }, soon());
        posted.and_then(|()| self.lane.begin(&[], soon())).map_err(|error| error.code())
    }

    /// Bytes that were read out of mappings, and reads that went over TCP after all.
    fn counted(&self) -> (u64, u64) {
        let counters = self.upgrade.counters();
        (counters.read_bytes.load(Ordering::Relaxed), counters.fallbacks.load(Ordering::Relaxed))
    }
}

/// How often this process has extents of its own mapped for reading alone.
fn views() -> usize {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    maps.lines().filter(|line| line.contains("r--s") && line.contains("weft-extent")).count()
}

/// The tests of this file look at one process's mappings, so they take turns.
fn alone() -> std::sync::MutexGuard<'static, ()> {
    static TURN: std::sync::Mutex<()> = std::sync::Mutex::new(());
    TURN.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

#[test]
fn what_is_flushed_home_is_read_out_of_the_mapping_and_pages_nobody_wrote_are_zero_without_bytes() {
    let _turn = alone();
    let lending = Lending::start("flushed");
    let mut reader = Reader::meet("flushed", lending.server.address());
    let handle = reader.open(1, Mode::Exclusive, MINUTE_MS);
    assert_eq!(reader.read(handle, 0, 4096).unwrap(), [0; 4096]);
    assert_eq!(reader.counted(), (0, 0), "it is known to be zero");
    let bytes = pattern(10_000, 1);
    reader.write(handle, 5000, &bytes).unwrap();
    assert_eq!(reader.read(handle, 5000, 10_000).unwrap(), bytes);
    assert_eq!(reader.counted(), (10_000, 0));
    // Pages 1, 2 and 3 have content, their neighbours none.
    reader.post(handle, 0, 8 * 4096, Flags::SPARSE).unwrap();
    let mut back = vec![9; 3 * 4096];
    // A fault has room for its own page first.
    let reply = reader.lane.begin(&[Span::of(&mut back[..4096])], soon()).unwrap();
    assert_eq!((reply.header.tag, reply.bytes(), reply.filled), (0b1111_0001, 3 * 4096, 4096));
    let whole = [Span::of(&mut back)];
    assert_eq!(reader.lane.fill(&whole, reply.filled, reply.bytes(), soon()).unwrap(), 3 * 4096);
    assert!(back[904..10_904] == bytes && back[10_904..].iter().chain(&back[..904]).all(|byte| *byte == 0));
    assert_eq!(reader.lane.outstanding(), 0);
    assert_eq!(views(), 1);
}

#[test]
fn a_newer_generation_ends_reading_out_of_the_mapping_and_the_mapping() {
    let _turn = alone();
    let lending = Lending::start("raised");
    let mut reader = Reader::meet("raised", lending.server.address());
    let handle = reader.open(1, Mode::Exclusive, MINUTE_MS);
    reader.write(handle, 0, b"old").unwrap();
    assert_eq!(reader.read(handle, 0, 3).unwrap(), b"old");
    assert_eq!((reader.counted(), views()), ((3, 0), 1));
    assert!(lending.server.store().raise_generation("r1", 2, Duration::from_secs(1)));
    assert_eq!(reader.read(handle, 0, 3), Err("stale_generation"), "in the lender's words");
    until(|| views() == 0);
    let newer = reader.open(2, Mode::Read, MINUTE_MS);
    assert_eq!(reader.read(newer, 0, 3).unwrap(), b"old");
    assert_eq!((reader.counted().0, views()), (6, 1));
}

/// The newest exclusive holder fences the older by arriving, over the same desk.
#[test]
fn a_newer_exclusive_holder_is_handed_the_extent_and_the_older_loses_it() {
    let _turn = alone();
    let lending = Lending::start("fenced");
    let mut older = Reader::meet("fenced", lending.server.address());
    let mut newer = Reader::meet("fenced", lending.server.address());
    let first = older.open(1, Mode::Exclusive, MINUTE_MS);
    older.write(first, 0, b"one").unwrap();
    assert_eq!(older.read(first, 0, 3).unwrap(), b"one");
    let second = newer.open(2, Mode::Exclusive, MINUTE_MS);
    newer.write(second, 0, b"two").unwrap();
    assert_eq!(newer.read(second, 0, 3).unwrap(), b"two");
    assert_eq!(older.read(first, 0, 3), Err("stale_generation"));
    assert_eq!(older.write(first, 0, b"old").map(|_| ()), Err("stale_generation"));
    until(|| views() == 1);
}

#[test]
fn an_extent_that_is_released_gives_its_memory_back_though_nobody_reads_any_more() {
    let _turn = alone();
    let lending = Lending::start("released");
    let mut reader = Reader::meet("released", lending.server.address());
    let handle = reader.open(1, Mode::Exclusive, MINUTE_MS);
    reader.write(handle, 0, b"x").unwrap();
    reader.read(handle, 0, 1).unwrap();
    assert_eq!(views(), 1);
    lending.server.store().release("r1", 0);
    until(|| !std::fs::read_to_string("/proc/self/maps").unwrap().contains("weft-extent"));
    assert_eq!(reader.read(handle, 0, 1), Err("extent_lost"));
}

#[test]
fn a_grant_that_runs_out_ends_both_too() {
    let _turn = alone();
    let lending = Lending::start("expired");
    let mut reader = Reader::meet("expired", lending.server.address());
    let handle = reader.open(1, Mode::Exclusive, 500);
    reader.write(handle, 0, b"x").unwrap();
    reader.read(handle, 0, 1).unwrap();
    until(|| reader.read(handle, 0, 1) == Err("grant_expired"));
    until(|| views() == 0);
}

#[test]
fn a_lender_that_hands_nothing_over_any_more_is_read_over_tcp() {
    let _turn = alone();
    let lending = Lending::start("closing");
    let mut reader = Reader::meet("closing", lending.server.address());
    let handle = reader.open(1, Mode::Exclusive, MINUTE_MS);
    reader.write(handle, 0, b"still here").unwrap();
    reader.read(handle, 0, 10).unwrap();
    lending.near.close();
    assert_eq!(reader.read(handle, 0, 10).unwrap(), b"still here");
    assert_eq!(reader.counted(), (10, 1));
    assert_eq!(reader.read(handle, 0, 10).unwrap(), b"still here");
    assert_eq!(reader.counted(), (10, 1), "it is not looked for where it is not");
    until(|| views() == 0);
    let mut later = Reader::meet("closing", lending.server.address());
    let handle = later.open(1, Mode::Read, MINUTE_MS);
    assert_eq!(later.read(handle, 0, 10).unwrap(), b"still here");
    assert_eq!(later.counted(), (0, 0));
}

/// Requests of both ways, posted together, are answered in their order.
#[test]
fn reads_out_of_the_mapping_and_requests_over_tcp_keep_their_order() {
    let _turn = alone();
    let lending = Lending::start("ordered");
    let mut reader = Reader::meet("ordered", lending.server.address());
    let handle = reader.open(1, Mode::Exclusive, MINUTE_MS);
    reader.write(handle, 0, &[1; 4096]).unwrap();
    for round in 2..40u8 {
        reader.post(handle, 0, 1, Flags::NONE).unwrap();
        let bytes = [round; 4096];
        let header = Header { handle, length: 4096, ..Header::new(Kind::Write, 0) };
        reader.lane.post(Request { header, ranges: &[], payload: &[Span::of_const(&bytes)] }, soon()).unwrap();
        reader.post(handle, 4095, 1, Flags::NONE).unwrap();
        reader.post(handle, EXTENT_BYTES, 1, Flags::NONE).unwrap();
        let mut seen = [0; 1];
        reader.lane.begin(&[Span::of(&mut seen)], soon()).unwrap();
        assert_eq!(seen[0], round - 1, "a read saw what was posted after it");
        reader.lane.begin(&[], soon()).unwrap();
        reader.lane.begin(&[Span::of(&mut seen)], soon()).unwrap();
        assert_eq!(seen[0], round, "a read did not see what was posted before it");
        assert_eq!(reader.lane.begin(&[], soon()).unwrap_err().code(), "out_of_range");
    }
    assert!(reader.counted().0 > 30, "nothing came out of the mapping");
}

/// Whoever reads while its generation ends has bytes from before, or is refused.
#[test]
fn a_read_that_meets_a_newer_writer_never_has_its_bytes() {
    let _turn = alone();
    let lending = Lending::start("racing");
    let mut writer = Reader::meet("racing", lending.server.address());
    let stop = AtomicBool::new(false);
    let newest = std::sync::atomic::AtomicU64::new(1);
    std::thread::scope(|scope| {
        let reading = scope.spawn(|| {
            let mut reader = Reader::meet("racing", lending.server.address());
            let mut reads = 0u64;
            while !stop.load(Ordering::SeqCst) {
                let generation = newest.load(Ordering::SeqCst);
                let Ok(handle) = reader.try_open(generation, Mode::Read, MINUTE_MS) else { continue };
                while let Ok(bytes) = reader.read(handle, 0, 200_000) {
                    let most = u64::from(*bytes.iter().max().unwrap());
                    assert!(most <= generation, "generation {generation} read what {most} wrote");
                    reads += 1;
                    if stop.load(Ordering::SeqCst) {
                        break;
                    }
                }
            }
            (reads, reader.counted().0)
        });
        for generation in 1..=60u8 {
            // The coordinator tells lenders before anybody has the newer grant.
            assert!(lending.server.store().raise_generation("r1", generation.into(), Duration::from_secs(1)));
            let handle = writer.open(generation.into(), Mode::Exclusive, MINUTE_MS);
            writer.write(handle, 0, &vec![generation; 200_000]).unwrap();
            newest.store(generation.into(), Ordering::SeqCst);
            std::thread::sleep(Duration::from_millis(2));
        }
        stop.store(true, Ordering::SeqCst);
        let (reads, bytes) = reading.join().unwrap();
        assert!(reads > 0 && bytes > 0, "nothing was read out of the mapping");
    });
}

/// Whoever asks nonsense, or shows what it was not given, is refused; others are served as before.
#[test]
fn what_is_no_right_is_refused_and_hands_nothing_over() {
    let _turn = alone();
    let lending = Lending::start("asked");
    let socket = identity("asked", 77).near_socket("asked", 77);
    let talk = weft_sys::neighbour::Conversation::connect(&socket).unwrap();
    let mut answer = [0; 4096];
    until(|| talk.receive(&mut answer).is_ok());
    let grant = |key: &[u8], region: &str| {
        Grant {
            cluster_id: CLUSTER,
            region_id: region.to_owned(),
            generation: 1,
            mode: Mode::Read,
            rights: Rights::READ,
            holder: "borrower".to_owned(),
            expires_at_ms: now_ms() + MINUTE_MS,
        }
        .mint(&grant_key(key))
    };
    let record = |index: u32, life: u64, grant: &[u8]| {
        let mut record = index.to_le_bytes().to_vec();
        record.extend_from_slice(&life.to_le_bytes());
        record.extend_from_slice(&encode_opening(1, 1));
        record.extend_from_slice(grant);
        record
    };
    let good = record(0, 77, &grant(SECRET, "r1"));
    let cases = [
        (vec![1], "too short"),
        (good[..40].to_vec(), "cut short"),
        (record(1, 77, &grant(SECRET, "r1")), "another extent"),
        (record(0, 78, &grant(SECRET, "r1")), "another life"),
        (record(0, 77, &grant(SECRET, "r2")), "another region"),
        (record(0, 77, &grant(b"another secret", "r1")), "forged"),
    ];
    let ask = |record: &[u8], answer: &mut [u8]| {
        talk.send(record, None).unwrap();
        let mut received = None;
        until(|| {
            received = talk.receive(answer).ok();
            received.is_some()
        });
        (answer[0], received.unwrap().1.is_some())
    };
    for (record, what) in cases {
        assert_eq!(ask(&record, &mut answer), (1, false), "{what} was granted");
    }
    assert_eq!(ask(&good, &mut answer), (0, true), "what was given is handed over");
    lending.server.store().raise_generation("r1", 2, Duration::from_secs(1));
    assert_eq!(ask(&good, &mut answer), (1, false), "an older generation was granted");
}

/// Anybody of the machine may connect; those who are given nothing keep nobody out.
#[test]
fn a_crowd_that_is_given_nothing_keeps_no_reader_from_the_desk() {
    let _turn = alone();
    let lending = Lending::start("crowded");
    let socket = identity("crowded", 77).near_socket("crowded", 77);
    let mut first = Reader::meet("crowded", lending.server.address());
    let handle = first.open(1, Mode::Exclusive, MINUTE_MS);
    first.write(handle, 0, b"x").unwrap();
    let crowd: Vec<_> = (0..300)
        .map(|_| {
            let talk = weft_sys::neighbour::Conversation::connect(&socket).unwrap();
            until(|| talk.receive(&mut [0; 4096]).is_ok());
            talk
        })
        .collect();
    let mut late = Reader::meet("crowded", lending.server.address());
    let handle = late.open(1, Mode::Read, MINUTE_MS);
    assert_eq!((late.read(handle, 0, 1).unwrap(), late.counted()), (vec![b'x'], (1, 0)));
    assert_eq!(first.read(handle, 0, 1).unwrap(), b"x");
    assert_eq!(first.counted(), (1, 0), "whoever was given something keeps it");
    drop(crowd);
}

/// The other side of the tests below, in a process of its own.
#[test]
#[ignore = "a lender for other tests"]
fn be_a_lender() {
    let Ok(name) = std::env::var("WEFT_TEST_LENDER") else { return };
    let lending = Lending::start(&name);
    println!("lending {}", lending.server.address().port());
    std::thread::sleep(Duration::from_secs(60));
}

struct Away(Child, std::net::SocketAddr);

impl Away {
    fn start(name: &str) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "be_a_lender", "--ignored", "--nocapture"])
            .env("WEFT_TEST_LENDER", name)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let port = lines.map_while(Result::ok).find_map(|line| line.split("lending ").nth(1)?.parse().ok());
        Self(child, (std::net::Ipv4Addr::LOCALHOST, port.expect("it lends")).into())
    }
}

impl Drop for Away {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_lender_that_is_killed_while_it_is_read_leaves_right_bytes_and_then_an_end() {
    let _turn = alone();
    for _ in 0..5 {
        let mut away = Away::start("killed");
        let mut reader = Reader::meet("killed", away.1);
        let handle = reader.open(1, Mode::Exclusive, MINUTE_MS);
        let bytes = pattern(1 << 20, 7);
        reader.write(handle, 0, &bytes).unwrap();
        let (mut reads, mut killed) = (0, None);
        let code = loop {
            match reader.read(handle, 0, 1 << 20) {
                Ok(seen) => assert!(seen == bytes, "a dead lender's memory changed"),
                Err(code) => break code,
            }
            reads += 1;
            if reads == 20 {
                away.0.kill().unwrap();
                killed = Some(Instant::now());
            }
            assert!(killed.is_none_or(|killed| killed.elapsed() < Duration::from_secs(5)), "reading never ended");
        };
        assert!(reads >= 20 && reader.counted().0 > 0);
        assert!(["disconnected", "unreachable", "closed"].contains(&code), "{code}");
        drop(reader);
        assert_eq!(views(), 0);
    }
}

/// A user of its own cannot read a lender's memory through the kernel; what it was granted it is handed all the same, and
/// cannot write.
#[test]
fn a_process_of_another_user_is_handed_what_it_was_granted() {
    let _turn = alone();
    if weft_sys::neighbour::user() != 0 {
        println!("skipped: only root can become another user");
        return;
    }
    let lending = Lending::start("another");
    let mut writer = Reader::meet("another", lending.server.address());
    let handle = writer.open(1, Mode::Exclusive, MINUTE_MS);
    writer.write(handle, 0, b"for everybody").unwrap();
    // A thread may have credentials of its own; the kernel asks the thread that connects.
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // SAFETY: this thread alone becomes another user, and ends so.
            let rc = unsafe { libc::syscall(libc::SYS_setresuid, 65_534, 65_534, 65_534) };
            assert_eq!(rc, 0);
            let mut reader = Reader::meet("another", lending.server.address());
            let handle = reader.open(1, Mode::Read, MINUTE_MS);
            assert_eq!(reader.read(handle, 0, 13).unwrap(), b"for everybody");
            assert_eq!(reader.counted(), (13, 0));
        });
    });
}
