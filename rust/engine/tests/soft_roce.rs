//! A link that goes over to real verbs and back in the middle of its transfers: the owner of the memory is a process of its
//! own.
//!
//! Where there is no RDMA device it says so and passes; `make test-rdma` runs it inside a small virtual machine whose
//! kernel speaks RDMA over Ethernet in software, and there a missing device is a failure. Every step has a deadline.

mod load;
mod world;

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::process::{Child, ChildStdin, Command, ExitCode, Stdio};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use load::{BYTES, CALLERS, carries_more, under_load};
use weft_engine::Link;
use weft_verbs::{EndpointRecord, Rail, RailOptions, gid_text, parse_gid};
use weft_wire::Advert;
use world::{advertise, endpoint, soon};

/// Set in the environment of the process that owns the memory.
const OWNER: &str = "WEFT_SOFT_ROCE_OWNER";

fn main() -> ExitCode {
    if std::env::var_os(OWNER).is_some() {
        return own();
    }
    let rail = match Rail::open(&RailOptions::default()) {
        Ok(rail) => rail,
        Err(why) if std::env::var_os("WEFT_RDMA_REQUIRED").is_none() => {
            println!("soft_roce: skipped: {why}");
            return ExitCode::SUCCESS;
        }
        Err(why) => {
            println!("soft_roce: FAILED: {why}");
            return ExitCode::FAILURE;
        }
    };
    let started = Instant::now();
    let name = "a link goes over to RDMA and back in the middle of its transfers";
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| goes_over_and_back(&rail)));
    for sentence in rail.said() {
        println!("    said: {sentence}");
    }
    let verdict = if outcome.is_ok() { "ok" } else { "FAILED" };
    println!("soft_roce: {verdict}: {name} ({} ms)", started.elapsed().as_millis());
    println!("soft_roce: {} passed, {} failed", u8::from(outcome.is_ok()), u8::from(outcome.is_err()));
    if outcome.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn goes_over_and_back(rail: &Arc<Rail>) {
    let mut owner = Owner::start();
    let other = endpoint("other");
    let link = other.meet(owner.address, soon()).unwrap();
    let rounds = under_load(&other, &link, &owner.adverts.clone(), |rounds| {
        let counted = |what: &str| println!("    {what} after {} rounds: {:?}", rounds(), link.status().moved);
        carries_more(&link, "tcp");
        counted("on TCP");
        let record = owner.registers_rdma();
        other.use_rdma(rail).unwrap();
        other.take_way(&link, "rdma", Some(record), soon()).unwrap();
        carries_more(&link, "rdma");
        counted("on RDMA");

        // It registers TCP again, and nobody is told before its queue pairs end.
        owner.tell("tcp");
        carries_more(&link, "tcp");
        println!("    fell back: {}", trouble(&link));
        other.take_way(&link, "tcp", None, soon()).unwrap();
        carries_more(&link, "tcp");
        counted("on TCP");

        let record = owner.registers_rdma();
        other.take_way(&link, "rdma", Some(record), soon()).unwrap();
        carries_more(&link, "rdma");
        counted("on RDMA");
        // And this end gives its device up.
        assert!(other.drop_rdma());
        carries_more(&link, "tcp");
        counted("on TCP");
    });
    assert!(rounds > 0);
    println!("    {rounds} rounds of transfers, none failed");
}

fn trouble(link: &Link) -> String {
    link.status().trouble.expect("why it is not RDMA is known")
}

/// The process that owns the memory; obeys lines until its input ends.
fn own() -> ExitCode {
    let owner = endpoint("owner");
    let mut memory = vec![vec![0u8; BYTES]; CALLERS];
    let adverts: Vec<String> =
        memory.iter_mut().map(|memory| hex(&advertise(&owner, memory, true).1.encode())).collect();
    println!("{} {}", owner.address(), adverts.join(" "));
    for line in std::io::stdin().lines().map_while(Result::ok) {
        match line.as_str() {
            "rdma" => {
                let rail = Rail::open(&RailOptions::default()).expect("the other end has a device");
                let record = owner.use_rdma(&rail).expect("the device lends");
                println!("{} {} {} {}", record.qpn, record.lid, gid_text(&record.gid), record.psn);
            }
            "tcp" => println!("{}", owner.drop_rdma()),
            other => panic!("{other:?} is no command"),
        }
    }
    ExitCode::SUCCESS
}

/// A child that owns memory; ended when dropped.
struct Owner {
    child: Child,
    input: ChildStdin,
    lines: mpsc::Receiver<String>,
    address: SocketAddr,
    adverts: Vec<Arc<Advert>>,
}

impl Owner {
    fn start() -> Self {
        let program = std::env::current_exe().expect("this program has a path");
        let mut child = Command::new(program)
            .env(OWNER, "1")
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
        let first = lines.recv_timeout(Duration::from_secs(20)).expect("the owner says where it is");
        let mut words = first.split(' ');
        let address = words.next().and_then(|word| word.parse().ok()).expect("an address");
        let adverts = words.map(|word| Arc::new(Advert::decode(&unhex(word)).expect("an advert"))).collect();
        Self { child, input, lines, address, adverts }
    }

    fn tell(&mut self, line: &str) -> String {
        writeln!(self.input, "{line}").expect("the owner reads");
        self.lines.recv_timeout(Duration::from_secs(10)).expect("the owner answers")
    }

    fn registers_rdma(&mut self) -> EndpointRecord {
        let answer = self.tell("rdma");
        let mut words = answer.split(' ');
        let mut word = || words.next().expect("four words");
        EndpointRecord {
            qpn: word().parse().expect("a number"),
            lid: word().parse().expect("a number"),
            gid: parse_gid(word()).expect("a GID"),
            psn: word().parse().expect("a number"),
        }
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).expect("two digits")).collect()
}
