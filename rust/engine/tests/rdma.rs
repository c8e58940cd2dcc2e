//! Endpoints with an RDMA device each: their bytes go by queue pair, and by TCP when a device is lost.

mod world;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use weft_engine::{Direction, Endpoint};
use weft_verbs::Rail;
use world::fake::Fake;
use world::*;

fn with_device(name: &str) -> (Endpoint, Arc<Rail>, Fake) {
    let (endpoint, device) = (endpoint_with(name, 0, false), Fake::plug_in());
    let rail = Rail::over(&Fake::library(), Some(&device.name)).unwrap();
    endpoint.use_rdma(&rail).unwrap();
    (endpoint, rail, device)
}

#[test]
fn bytes_go_by_queue_pair_and_by_tcp_once_a_device_is_lost() {
    let (owner, _owned, far) = with_device("owner");
    let (other, rail, _near) = with_device("other");
    let link = other.connect(owner.address(), soon()).unwrap();
    assert_eq!(link.transport(), "rdma");
    let mut memory = vec![0u8; 3 << 20];
    let (_, advert) = advertise(&owner, &mut memory, true);
    let round = |seed: u8| {
        let mut bytes = vec![seed; 3 << 20];
        let whole = [part(&advert, 0, &mut bytes)];
        link.move_now(Direction::Write, &whole, soon()).unwrap();
        whole[0].span.copy_from(&vec![0; 3 << 20]);
        link.move_now(Direction::Read, &whole, soon()).unwrap();
        assert!(bytes.iter().all(|byte| *byte == seed), "round {seed}");
    };
    let moved = || rail.counters.read_bytes.load(Ordering::Relaxed);
    let mut seed = 0;
    until(|| {
        seed += 1;
        round(seed);
        moved() >= 3 << 20
    });
    far.remove();
    round(200);
    assert_eq!(link.transport(), "tcp");
    assert!(rail.said().iter().any(|said| said.contains("is reached over TCP")));
}
