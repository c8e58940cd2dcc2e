//! How fast remote faults are resolved, over a page server in a child process on loopback TCP.
//!
//! `cargo run --release -p weft-pager --example fault_rate` prints a line a setting. The server is as simple as it can be
//! (a request names pages, the reply is their bytes), so that what is measured is the pager and the machine: run it
//! beside the C programs of `benches/floor` and compare within one run.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use weft_pager::source::{FetchError, PageChannel, PageSource, ReplyHead};
use weft_pager::{Options, Pager, Readahead, RegionMode};
use weft_sys::cpu::pin_to;
use weft_sys::memory::Span;

const PAGE: usize = 4096;
const REQUEST_BYTES: usize = 16;
const STRIPE_PAGES: u64 = 512;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    match arguments.get(1).map(String::as_str) {
        Some("serve") => serve(arguments[2].parse().expect("pages"), arguments[3].parse().expect("spin")),
        Some("pinned") => {
            pin_to(0).expect("CPU 0");
            measure("all on CPU 0", 6000, false, &Options { threads: 1, ..options() }, 0, 0);
            measure("all on CPU 0", 65_536, true, &Options { threads: 1, ..options() }, 0, 0);
        }
        _ => matrix(),
    }
}

fn options() -> Options {
    Options { readahead: Readahead::Sequential, ..Options::default() }
}

fn matrix() {
    for (channel_spin_us, server_spin_us) in [(0, 0), (50, 0), (50, 50)] {
        for spin_us in [0, 50] {
            let options = Options { spin: Duration::from_micros(spin_us), ..options() };
            let name = format!("spin: faults {spin_us}, channel {channel_spin_us}, server {server_spin_us}");
            measure(&name, 6000, false, &options, channel_spin_us, server_spin_us);
            measure(&name, 65_536, true, &options, channel_spin_us, server_spin_us);
        }
    }
    let status = Command::new(std::env::current_exe().expect("own path")).arg("pinned").status().expect("run");
    assert!(status.success());
}

/// Touches `pages` pages in order or not, three times over a fresh window, and prints the middle of the three rates.
fn measure(name: &str, pages: u64, in_order: bool, options: &Options, channel_spin_us: u64, server_spin_us: u64) {
    let (mut child, port) = start_server(pages, server_spin_us);
    let spin = Duration::from_micros(channel_spin_us);
    let mut rates = Vec::new();
    let mut service = (0, 0);
    let mut times: Vec<u64> = Vec::new();
    let order = if in_order { (0..pages).collect() } else { shuffled(pages) };
    for _ in 0..3 {
        let source = Arc::new(Loopback { port, spin, pages });
        let pager =
            Pager::region("bench", pages * PAGE as u64, RegionMode::Read, source, None, options).expect("pager");
        std::thread::sleep(Duration::from_millis(20));
        times.clear();
        let start = Instant::now();
        for &page in &order {
            let before = Instant::now();
            let mut word = [0u8; 8];
            pager.span().part(page as usize * PAGE, 8).expect("inside").copy_to(&mut word);
            times.push(before.elapsed().as_nanos() as u64);
            assert_eq!(u64::from_le_bytes(word), page, "the page's own bytes");
        }
        rates.push(pages as f64 / start.elapsed().as_secs_f64());
        let statistics = pager.statistics();
        service = (statistics.remote_faults, statistics.median_us().unwrap_or(0));
        pager.close(Instant::now() + Duration::from_secs(1)).expect("close");
    }
    let _ = child.kill();
    let _ = child.wait();
    times.sort_unstable();
    rates.sort_by(f64::total_cmp);
    let pattern = if in_order { "in order" } else { "random" };
    println!(
        "{name:<44} {pattern:<9} p50 {:>7.2} us  p99 {:>7.2} us  {:>8.0} pages/s  faults {:>6}  service p50 {} us",
        times[times.len() / 2] as f64 / 1e3,
        times[times.len() * 99 / 100] as f64 / 1e3,
        rates[1],
        service.0,
        service.1
    );
}

fn shuffled(count: u64) -> Vec<u64> {
    let mut pages: Vec<u64> = (0..count).collect();
    let mut state = 1u64;
    for index in (1..pages.len()).rev() {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        pages.swap(index, (state >> 33) as usize % (index + 1));
    }
    pages
}

fn start_server(pages: u64, spin_us: u64) -> (Child, u16) {
    let mut child = Command::new(std::env::current_exe().expect("own path"))
        .args(["serve", &pages.to_string(), &spin_us.to_string()])
        .stdout(Stdio::piped())
        .spawn()
        .expect("server");
    let mut line = [0u8; 6];
    child.stdout.as_mut().expect("piped").read_exact(&mut line).expect("port");
    (child, std::str::from_utf8(&line).expect("text").trim().parse().expect("port"))
}

fn serve(pages: u64, spin_us: u64) {
    let mut memory = vec![0u8; pages as usize * PAGE];
    for (page, bytes) in (0u64..).zip(memory.chunks_exact_mut(PAGE)) {
        bytes[..8].copy_from_slice(&page.to_le_bytes());
    }
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    print!("{:6}", listener.local_addr().expect("address").port());
    std::io::stdout().flush().expect("flush");
    let memory = Arc::new(memory);
    for stream in listener.incoming() {
        let (mut stream, memory) = (stream.expect("accept"), Arc::clone(&memory));
        std::thread::spawn(move || {
            tune(&stream);
            let mut request = [0u8; REQUEST_BYTES];
            loop {
                if receive(&stream, &mut [(request.as_mut_ptr(), REQUEST_BYTES)], Duration::from_micros(spin_us))
                    < REQUEST_BYTES
                {
                    return;
                }
                let page = u64::from_le_bytes(request[..8].try_into().expect("eight")) as usize;
                let count = u64::from_le_bytes(request[8..].try_into().expect("eight")) as usize;
                if stream.write_all(&memory[page * PAGE..(page + count) * PAGE]).is_err() {
                    return;
                }
            }
        });
    }
}

struct Loopback {
    port: u16,
    spin: Duration,
    pages: u64,
}

impl PageSource for Loopback {
    fn channel(&self) -> Result<Box<dyn PageChannel>, FetchError> {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).expect("connect");
        tune(&stream);
        Ok(Box::new(Channel { stream, spin: self.spin, expected: Default::default() }))
    }

    fn home(&self, _page: u64) -> &str {
        "loopback"
    }

    fn run_at(&self, page: u64) -> u32 {
        (STRIPE_PAGES - page % STRIPE_PAGES).min(64).min(self.pages - page) as u32
    }
}

struct Channel {
    stream: TcpStream,
    spin: Duration,
    expected: std::collections::VecDeque<usize>,
}

impl PageChannel for Channel {
    fn post(&mut self, page: u64, count: u32, _deadline: Instant) -> Result<(), FetchError> {
        let mut request = [0u8; REQUEST_BYTES];
        request[..8].copy_from_slice(&page.to_le_bytes());
        request[8..].copy_from_slice(&u64::from(count).to_le_bytes());
        self.stream.write_all(&request).expect("send");
        self.expected.push_back(count as usize * PAGE);
        Ok(())
    }

    fn begin(&mut self, into: Span, deadline: Instant) -> Result<ReplyHead, FetchError> {
        let bytes = self.expected[0];
        let filled = self.fill(into, 0, PAGE, deadline)?;
        Ok(ReplyHead { zero_map: 0, bytes, filled })
    }

    fn fill(&mut self, into: Span, filled: usize, at_least: usize, _deadline: Instant) -> Result<usize, FetchError> {
        let bytes = self.expected[0];
        let mut filled = filled;
        while filled < at_least {
            let rest = into.part(filled, bytes - filled).expect("inside");
            filled += receive(&self.stream, &mut [(rest.base(), rest.len())], self.spin);
        }
        if filled == bytes {
            self.expected.pop_front();
        }
        Ok(filled)
    }

    fn outstanding(&self) -> usize {
        self.expected.len()
    }
}

/// One `recv`, after looking for `spin` whether it would find something.
fn receive(stream: &TcpStream, parts: &mut [(*mut u8, usize)], spin: Duration) -> usize {
    let (base, len) = parts[0];
    let start = Instant::now();
    loop {
        let looking = !spin.is_zero() && start.elapsed() < spin;
        let flags = if looking { libc::MSG_DONTWAIT } else { 0 };
        // SAFETY: the caller's memory is writable and as long as it says.
        let received = unsafe { libc::recv(stream.as_raw_fd(), base.cast(), len, flags) };
        if received >= 0 {
            return received as usize;
        }
        if !looking {
            return 0;
        }
        std::hint::spin_loop();
    }
}

fn tune(stream: &TcpStream) {
    stream.set_nodelay(true).expect("no delay");
    let name = b"cubic";
    // SAFETY: the name is live for the call; a kernel without it refuses and keeps its default.
    unsafe {
        libc::setsockopt(stream.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_CONGESTION, name.as_ptr().cast(), 5);
    }
}
