//! The bounce pool: what is received comes out again in order, whatever is held; slots come back in order or not at all.

use std::collections::VecDeque;

use proptest::prelude::*;
use weft_unpack::{Carved, FRAGMENTS_MAX, Order, PAGE_BYTES, Pool, SLOTS_MAX, Slot, SlotError, carve, unpack};

fn orders() -> impl Strategy<Value = Order> {
    prop_oneof![Just(Order::InTurn), any::<u64>().prop_map(Order::Shuffled)]
}

/// A stream's byte at a position.
fn byte(position: u64) -> u8 {
    (position.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56) as u8
}

/// A pool, its memory, and the stream that fills it.
struct World {
    pool: Pool,
    memory: Vec<u8>,
    received: u64,
}

impl World {
    fn new(pages: usize, order: Order) -> Self {
        Self { pool: Pool::new(pages * PAGE_BYTES, order), memory: vec![0; pages * PAGE_BYTES], received: 0 }
    }

    fn receive(&mut self, bytes: u64) {
        let mut pieces = Vec::new();
        self.pool.vacant(bytes, 1000, &mut pieces);
        let mut got = 0;
        for piece in pieces {
            for at in piece.offset..piece.offset + piece.length {
                self.memory[at as usize] = byte(self.received);
                self.received += 1;
            }
            got += u64::from(piece.length);
        }
        self.pool.receive(got);
    }
}

#[derive(Clone, Debug)]
enum Step {
    Receive(u64),
    Carve(u64),
    Skip(u64),
    GiveBack,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => (1u64..20_000).prop_map(Step::Receive),
        3 => (1u64..20_000).prop_map(Step::Carve),
        1 => (1u64..100).prop_map(Step::Skip),
        2 => Just(Step::GiveBack),
    ];
    prop::collection::vec(step, 1..200)
}

proptest! {
    /// Held blocks are unpacked late, when their slot comes back: their bytes must still be there.
    #[test]
    fn what_was_received_is_unpacked_whatever_is_held(order in orders(), pages in 1usize..20, steps in steps(), cut in 1u64..5000) {
        let mut world = World::new(pages, order);
        let mut held = VecDeque::new();
        let mut taken = 0u64;
        for step in steps {
            match step {
                Step::Receive(bytes) => world.receive(bytes),
                Step::Skip(bytes) => {
                    let bytes = bytes.min(world.pool.waiting());
                    world.pool.skip(bytes);
                    taken += bytes;
                }
                Step::Carve(bytes) => {
                    let cuts = [cut, cut * 2, cut * 3];
                    match carve(&mut world.pool, bytes, 11, 11 + bytes, &cuts).unwrap() {
                        Carved::Block(slot, block) => {
                            prop_assert!(block.fragments().iter().all(|f| cuts.iter().all(|cut| !(f.target < *cut && *cut < f.target_end().unwrap()))));
                            held.push_back((slot, taken, block));
                            taken += held.back().unwrap().2.total_bytes();
                        }
                        Carved::Nothing => prop_assert_eq!(world.pool.waiting(), 0),
                        Carved::Held => prop_assert_eq!(held.len(), SLOTS_MAX),
                    }
                }
                Step::GiveBack => if let Some((slot, start, block)) = held.pop_front() {
                    let mut target = vec![0; usize::try_from(block.ends().target_bytes).unwrap()];
                    unpack(&block, &world.memory, &mut target).unwrap();
                    for index in 0..block.total_bytes() {
                        prop_assert_eq!(target[11 + usize::try_from(index).unwrap()], byte(start + index));
                    }
                    world.pool.give_back(slot).unwrap();
                }
            }
            prop_assert!(world.pool.room() <= world.pool.bytes());
        }
        while let Some((slot, _, _)) = held.pop_front() {
            world.pool.give_back(slot).unwrap();
        }
        let waiting = world.pool.waiting();
        world.pool.skip(waiting);
        prop_assert_eq!(world.pool.room(), world.pool.bytes());
    }
}

#[test]
fn an_exhausted_pool_has_no_room_until_the_oldest_slot_comes_back() {
    let mut world = World::new(2, Order::InTurn);
    world.receive(1 << 20);
    assert_eq!((world.pool.room(), world.pool.waiting()), (0, 8192));
    let first = world.pool.take(4096).unwrap();
    let second = world.pool.take(4096).unwrap();
    world.receive(1);
    assert_eq!(world.pool.room(), 0, "bytes that are held were overwritten");
    assert_eq!(world.pool.give_back(second), Err(SlotError::OutOfOrder { given: 1, oldest: 0 }));
    assert_eq!(world.pool.room(), 0, "a refused return made room");
    world.pool.give_back(first).unwrap();
    assert_eq!(world.pool.room(), 4096);
}

#[test]
fn a_slot_comes_back_once_and_only_if_it_was_taken() {
    let mut world = World::new(1, Order::InTurn);
    world.receive(10);
    let slot = world.pool.take(10).unwrap();
    assert_eq!(world.pool.give_back(Slot::from_number(1)), Err(SlotError::Never(1)));
    assert_eq!(world.pool.give_back(Slot::from_number(u64::MAX)), Err(SlotError::Never(u64::MAX)));
    world.pool.give_back(slot).unwrap();
    assert_eq!(world.pool.give_back(slot), Err(SlotError::Twice(0)));
}

#[test]
fn seventeen_slots_are_one_too_many() {
    let mut world = World::new(1, Order::InTurn);
    world.receive(17);
    let slots: Vec<Slot> = (0..SLOTS_MAX).map(|_| world.pool.take(1).unwrap()).collect();
    assert_eq!(carve(&mut world.pool, 1, 0, 1, &[]), Ok(Carved::Held));
    world.pool.give_back(slots[0]).unwrap();
    assert!(matches!(carve(&mut world.pool, 1, 0, 1, &[]), Ok(Carved::Block(..))));
}

#[test]
fn bytes_that_are_skipped_behind_a_slot_are_free_with_it() {
    let mut world = World::new(1, Order::InTurn);
    world.receive(100);
    let slot = world.pool.take(50).unwrap();
    world.pool.skip(50);
    assert_eq!(world.pool.room(), 3996);
    world.pool.give_back(slot).unwrap();
    assert_eq!(world.pool.room(), 4096);
}

#[test]
fn one_block_takes_as_many_fragments_as_it_holds_and_leaves_the_rest() {
    let mut world = World::new(2, Order::InTurn);
    world.receive(8192);
    let cuts: Vec<u64> = (1..8192).collect();
    let Carved::Block(_, block) = carve(&mut world.pool, 8192, 0, 8192, &cuts).unwrap() else { panic!("no block") };
    assert_eq!((block.fragments().len(), block.total_bytes()), (FRAGMENTS_MAX, FRAGMENTS_MAX as u64));
    assert_eq!(world.pool.waiting(), 8192 - FRAGMENTS_MAX as u64);
}
