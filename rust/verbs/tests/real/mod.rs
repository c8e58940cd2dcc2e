//! The two ends: a lender in a process of its own that obeys lines on its standard input, and whoever borrows from it.

pub mod lanes;
pub mod raw;

use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::{Child, ChildStdin, Command, ExitCode, Stdio};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use weft_sys::socket::Options;
use weft_transport::{ConnectOptions, Identity, Server, ServerConfig};
use weft_verbs::{EndpointRecord, Lender, Rail, RailOptions, gid_text, parse_gid};
use weft_wire::{Grant, Mode, Rights, grant_key};

/// Set in the environment of the process that lends.
pub const LENDER: &str = "WEFT_SOFT_ROCE_LENDER";
pub const EXTENT_BYTES: u64 = 8 << 20;
pub const LIFE: u64 = 77;
const CLUSTER: [u8; 16] = *b"a test's cluster";
const SECRET: &[u8] = b"a test's secret";

pub struct World {
    pub rail: Arc<Rail>,
}

pub fn soon() -> Instant {
    Instant::now() + Duration::from_secs(10)
}

pub fn now_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
    u64::try_from(since.as_millis()).expect("before the year 500 million")
}

pub fn borrower() -> Identity {
    Identity::new(CLUSTER, SECRET, "borrower", 5)
}

pub fn options() -> ConnectOptions {
    ConnectOptions { timeout: Duration::from_secs(5), ..ConnectOptions::default() }
}

pub fn grant(generation: u64, mode: Mode, rights: Rights) -> Arc<[u8]> {
    let grant = Grant {
        cluster_id: CLUSTER,
        region_id: "r1".to_owned(),
        generation,
        mode,
        rights,
        holder: "borrower".to_owned(),
        expires_at_ms: now_ms() + 600_000,
    };
    grant.mint(&grant_key(SECRET)).into()
}

pub fn pattern(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    (0..length)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()[3]
        })
        .collect()
}

/// The process that lends: one extent of region "r1", until its input ends.
pub fn lend() -> ExitCode {
    let config = ServerConfig {
        host: IpAddr::V4(Ipv4Addr::LOCALHOST),
        ports: 0..=0,
        socket: Options::default(),
        spin: Duration::ZERO,
        connections_max: 64,
        handshake_deadline: Duration::from_secs(5),
        drain_deadline: Duration::from_secs(1),
        now_ms,
    };
    let server = Server::start(Identity::new(CLUSTER, SECRET, "lender", LIFE), config).expect("a port is free");
    server.store().reserve("r1", 0, EXTENT_BYTES, 1).expect("memory for the extent");
    let server = Arc::new(server);
    let rail = Rail::open(&RailOptions::default()).expect("the other end has a device");
    let lender = Lender::start(&rail, &server, now_ms).expect("the device lends");
    let record = lender.record();
    println!("{} {} {} {} {}", server.address().port(), record.qpn, record.lid, gid_text(&record.gid), record.psn);
    for line in std::io::stdin().lines().map_while(Result::ok) {
        match line.split_once(' ').unwrap_or((&line, "")) {
            ("raise", generation) => {
                let generation = generation.parse().expect("a number");
                assert!(server.store().raise_generation("r1", generation, Duration::from_secs(2)));
            }
            ("close-rdma", _) => lender.close(),
            ("counts", _) => {}
            other => panic!("{other:?} is no command"),
        }
        let (sessions, keys) = lender.counts();
        println!("done {sessions} {keys}");
    }
    ExitCode::SUCCESS
}

/// A child that lends; ended when dropped.
pub struct Lending {
    child: Child,
    input: ChildStdin,
    lines: mpsc::Receiver<String>,
    pub address: SocketAddr,
    pub record: EndpointRecord,
}

impl Lending {
    pub fn start() -> Self {
        let program = std::env::current_exe().expect("this program has a path");
        let mut child = Command::new(program)
            .env(LENDER, "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("this program starts again");
        let output = child.stdout.take().expect("piped");
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        let input = child.stdin.take().expect("piped");
        let first = lines.recv_timeout(Duration::from_secs(20)).expect("the lender says where it is");
        let mut words = first.split(' ');
        let mut word = || words.next().expect("five words");
        let address = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), word().parse().expect("a port"));
        let record = EndpointRecord {
            qpn: word().parse().expect("a number"),
            lid: word().parse().expect("a number"),
            gid: parse_gid(word()).expect("a GID"),
            psn: word().parse().expect("a number"),
        };
        Self { child, input, lines, address, record }
    }

    /// Tells it a line, and returns how many sessions and keys it then has.
    pub fn tell(&mut self, line: &str) -> (usize, usize) {
        writeln!(self.input, "{line}").expect("the lender reads");
        let answer = self.lines.recv_timeout(Duration::from_secs(10)).expect("the lender answers");
        let mut numbers = answer.split(' ').skip(1).map(|number| number.parse().expect("a number"));
        (numbers.next().expect("sessions"), numbers.next().expect("keys"))
    }

    pub fn signal(&self, signal: i32) {
        // SAFETY: a plain system call on our own child, which was not waited for yet.
        assert_eq!(unsafe { libc::kill(i32::try_from(self.child.id()).expect("a pid"), signal) }, 0);
    }

    /// Stops it, and returns when every thread of it stands.
    pub fn stop(&self) {
        self.signal(libc::SIGSTOP);
        let deadline = soon();
        let stands = |task: std::io::Result<std::fs::DirEntry>| {
            let stat = task.and_then(|task| std::fs::read_to_string(task.path().join("stat"))).unwrap_or_default();
            stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T'))
        };
        let tasks = format!("/proc/{}/task", self.child.id());
        while !std::fs::read_dir(&tasks).expect("it is there").all(stands) {
            assert!(Instant::now() < deadline, "it does not stop");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Lending {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
