//! A thousand neighbours met and left leave nothing behind: no descriptor, mapping or thread.

mod world;

use weft_engine::Direction;
use world::*;

fn count(folder: &str) -> usize {
    std::fs::read_dir(folder).unwrap().count()
}

fn held() -> [usize; 3] {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let shared = maps.lines().filter(|line| line.contains("memfd:weft")).count();
    [count("/proc/self/fd"), count("/proc/self/task"), shared]
}

#[test]
fn a_thousand_connects_leave_no_descriptor_mapping_or_thread() {
    let pair = pair_with(true);
    let memory = pair.owner.allocate(1 << 20).unwrap();
    let expected = pattern(1 << 20, 1);
    memory.span().copy_from(&expected);
    let (registration, advert) = advertise_span(&pair.owner, memory.span(), true);
    let mut into = vec![0; 4096];
    let mut meet = || {
        let link = pair.other.connect(pair.owner.address(), soon()).unwrap();
        assert_eq!(link.transport(), "ipc");
        let back = pair.owner.accept(soon()).unwrap().expect("it connected");
        pair.other.move_now(&link, Direction::Read, &[part(&advert, 5, &mut into)], soon()).unwrap();
        assert!(into == expected[5..4101]);
        pair.other.disconnect(&link);
        pair.owner.disconnect(&back);
    };
    meet();
    until(|| {
        // What the first left is on its way out.
        let before = held();
        std::thread::sleep(std::time::Duration::from_millis(50));
        before == held()
    });
    let before = held();
    for _ in 0..1000 {
        meet();
    }
    until(|| held().iter().zip(before).all(|(now, before)| *now <= before));
    pair.owner.release(registration).unwrap();
}
