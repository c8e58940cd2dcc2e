//! The verbs by themselves: two queue pairs of this process on one device.

use std::sync::Arc;
use std::time::{Duration, Instant};

use weft_sys::memory::Mapping;
use weft_sys::uffd::{Features, Uffd};
use weft_verbs::ffi::{Access, Bounds, CompletionQueue, MemoryRegion, QueuePair, State, Verb, Work};
use weft_verbs::{Status, VerbsError};

use super::World;
use super::world::{pattern, soon};

const BYTES: usize = 256 << 10;

struct End {
    queue_pair: QueuePair,
    completions: Arc<CompletionQueue>,
    memory: MemoryRegion,
}

fn end(world: &World, access: Access) -> End {
    let mapping = Mapping::anonymous(BYTES, true).unwrap();
    let span = mapping.span();
    let memory = MemoryRegion::register(world.rail.domain(), span, access, Arc::new(mapping)).unwrap();
    let completions = CompletionQueue::new(world.rail.device(), 32).unwrap();
    let bounds = Bounds { work: 16, receives: 4, inline_bytes: 64, answers: true };
    let sequence = world.rail.sequence().unwrap();
    let queue_pair = QueuePair::new(world.rail.domain(), &completions, bounds, sequence).unwrap();
    End { queue_pair, completions, memory }
}

fn pair(world: &World, access: Access) -> (End, End) {
    let (mut near, mut far) = (end(world, Access::Local), end(world, access));
    let sides = [&near, &far].map(|end| world.rail.side(end.queue_pair.number(), end.queue_pair.sequence()));
    near.queue_pair.connect(&sides[1]).unwrap();
    far.queue_pair.connect(&sides[0]).unwrap();
    assert_eq!(near.queue_pair.state(), State::ReadyToSend);
    (near, far)
}

fn wait(end: &End) -> (u64, Status) {
    let deadline = soon();
    let mut finished = Vec::new();
    while Instant::now() < deadline {
        end.completions.arm().unwrap();
        end.completions.poll(&mut finished).unwrap();
        if let Some(first) = finished.first() {
            return (first.id, first.status);
        }
        end.completions.sleep(Duration::from_millis(100)).unwrap();
    }
    panic!("nothing finished by the deadline");
}

fn run(end: &mut End, id: u64, verb: Verb, length: usize) -> Status {
    end.queue_pair.post(&Work { id, verb, memory: &end.memory, offset: 0, length }).unwrap();
    let (finished, status) = wait(end);
    assert_eq!(finished, id);
    status
}

pub fn two_queue_pairs_send_read_and_write(world: &World) {
    let (mut near, mut far) = pair(world, Access::RemoteReadWrite);
    let (address, key) = (far.memory.address(), far.memory.remote_key());
    for (id, length) in [(1, 8), (2, 4096), (3, BYTES)] {
        let bytes = pattern(length, id);
        near.memory.span().copy_from(&bytes);
        assert_eq!(run(&mut near, id, Verb::Write { address, key, after_reads: false }, length), Status::Done);
        let mut there = vec![0; length];
        far.memory.span().copy_to(&mut there);
        assert_eq!(there, bytes);
        near.memory.span().copy_from(&vec![0; length]);
        assert_eq!(run(&mut near, id + 10, Verb::Read { address, key }, length), Status::Done);
        near.memory.span().copy_to(&mut there);
        assert_eq!(there, bytes);
    }
    far.queue_pair.post_receive(90, &far.memory, 0, 4096).unwrap();
    near.memory.span().copy_from(b"a word");
    assert_eq!(run(&mut near, 91, Verb::Send, 6), Status::Done);
    assert_eq!(wait(&far), (90, Status::Done));
    let mut there = [0; 6];
    far.memory.span().copy_to(&mut there);
    assert_eq!(&there, b"a word");
}

pub fn a_wrong_key_is_refused(world: &World) {
    for wrong in 0..3 {
        let (mut near, far) = pair(world, Access::RemoteRead);
        let (address, key) = (far.memory.address(), far.memory.remote_key());
        let verb = match wrong {
            0 => Verb::Read { address, key: key ^ 0x55 },
            1 => Verb::Read { address: address + BYTES as u64, key },
            _ => Verb::Write { address, key, after_reads: false },
        };
        assert_eq!(run(&mut near, 7, verb, 4096), Status::RemoteAccess, "case {wrong}");
        // The queue pair is over: what is posted now is flushed.
        assert_eq!(run(&mut near, 8, Verb::Read { address, key }, 8), Status::Flushed);
    }
    let (mut near, far) = pair(world, Access::RemoteRead);
    let (address, key) = (far.memory.address(), far.memory.remote_key());
    assert_eq!(run(&mut near, 1, Verb::Read { address, key }, 8), Status::Done);
    drop(far.memory);
    assert_eq!(run(&mut near, 2, Verb::Read { address, key }, 8), Status::RemoteAccess, "a key outlived its memory");
}

pub fn a_send_nobody_awaits_ends(world: &World) {
    let (mut near, _far) = pair(world, Access::RemoteRead);
    assert_eq!(run(&mut near, 3, Verb::Send, 8), Status::ReceiverNotReady);
}

pub fn a_watched_window_is_refused(world: &World) {
    let Ok(uffd) = Uffd::open(Features::NONE) else {
        println!("    skipped: this kernel has no userfaultfd");
        return;
    };
    let window = Mapping::anonymous(BYTES, true).unwrap();
    uffd.register(window.span(), false).unwrap();
    let span = window.span();
    let refused = MemoryRegion::register(world.rail.domain(), span, Access::RemoteRead, Arc::new(window));
    assert!(matches!(refused, Err(VerbsError::Memory(_))));
}
