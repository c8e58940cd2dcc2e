//! The two ends: a lender in a process of its own that obeys lines on its standard input, and whoever borrows from it.

#[path = "../../../transport/tests/world/mod.rs"]
pub mod world;

#[path = "../asking/mod.rs"]
pub mod asking;

pub mod lanes;
pub mod raw;

use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::{Child, ChildStdin, Command, ExitCode, Stdio};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use weft_verbs::{EndpointRecord, Lender, Rail, RailOptions, gid_text, parse_gid};
use weft_wire::{Grant, Mode, Rights};
use world::{LENDER_LIFE, lender_at, mint, now_ms, plain_grant, soon};

/// Set in the environment of the process that lends.
pub const LENDER: &str = "WEFT_SOFT_ROCE_LENDER";

pub struct World {
    pub rail: Arc<Rail>,
}

pub fn grant(generation: u64, mode: Mode, rights: Rights) -> Arc<[u8]> {
    mint(&Grant { generation, mode, rights, expires_at_ms: now_ms() + 600_000, ..plain_grant() })
}

/// The process that lends: one extent of region "r1", until its input ends.
pub fn lend() -> ExitCode {
    let server = lender_at(0, LENDER_LIFE);
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
