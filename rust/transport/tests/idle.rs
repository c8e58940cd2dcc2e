//! An idle server uses no CPU, under TLS or not. Alone in its file: the figure is the whole process's.

mod world;

use std::time::Duration;

use weft_sys::memory::Span;
use weft_wire::Range;
use world::*;

fn cpu_time() -> Duration {
    let tasks: u64 = std::fs::read_dir("/proc/self/task")
        .expect("the kernel keeps it")
        .filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("schedstat")).ok())
        .filter_map(|line| line.split_whitespace().next()?.parse::<u64>().ok())
        .sum();
    Duration::from_nanos(tasks)
}

#[test]
fn an_idle_server_with_connected_peers_uses_no_cpu() {
    let (server, under_tls) = (lender(), lender_under_tls());
    let mut peers: Vec<_> = (0..8).map(|_| peer(server.address())).collect();
    peers.extend((0..8).map(|_| peer_as(borrower_under_tls(), under_tls.address())));
    for peer in &mut peers {
        let opened = peer.open(&grant(), 0, LENDER_LIFE, soon()).unwrap();
        let mut page = [0; 4096];
        for _ in 0..100 {
            peer.read(opened, &[Range { offset: 0, length: 4096 }], &[Span::of(&mut page)], soon()).unwrap();
        }
    }
    std::thread::sleep(Duration::from_millis(100));
    let before = cpu_time();
    std::thread::sleep(Duration::from_secs(1));
    let used = cpu_time() - before;
    assert!(used < Duration::from_millis(5), "an idle second cost {used:?} of CPU time");
}
