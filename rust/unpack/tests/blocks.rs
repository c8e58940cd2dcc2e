//! Blocks and the CPU's sink: every list of fragments moves exactly its bytes, or is refused with nothing moved.

use std::sync::OnceLock;

use proptest::prelude::*;
use weft_unpack::{Block, BlockError, Ends, FRAGMENTS_MAX, Fragment, SLICE_BYTES_MAX, unpack};

const BOUNCE: usize = 1 << 20;

fn ends(target_bytes: u64) -> Ends {
    Ends { bounce_bytes: BOUNCE as u64, target_bytes }
}

fn bounce() -> &'static [u8] {
    static BYTES: OnceLock<Vec<u8>> = OnceLock::new();
    BYTES.get_or_init(|| {
        let mut state = 0x9E37_79B9_7F4A_7C15u64;
        (0..BOUNCE)
            .map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state.to_le_bytes()[3]
            })
            .collect()
    })
}

/// Byte by byte, in no hurry: what unpacking means.
fn slowly(fragments: &[Fragment], bounce: &[u8], target: &mut [u8]) {
    for fragment in fragments {
        for index in 0..fragment.length as usize {
            target[usize::try_from(fragment.target).unwrap() + index] = bounce[fragment.source as usize + index];
        }
    }
}

/// Fragments that do not overlap, in shuffled order, each from anywhere in the bounce buffer (sources may overlap).
fn scattered() -> impl Strategy<Value = (Vec<Fragment>, u64)> {
    prop::collection::vec((0u32..5000, 1u32..3000, 0u64..40), 0..60)
        .prop_map(|parts| {
            let mut target = 0;
            let mut fragments = Vec::new();
            for (source, length, gap) in parts {
                target += gap;
                fragments.push(Fragment { source: source * 200, length, target });
                target += u64::from(length);
            }
            (fragments, target + 7)
        })
        .prop_shuffle_fragments()
}

trait ShuffleFragments: Strategy<Value = (Vec<Fragment>, u64)> + Sized {
    fn prop_shuffle_fragments(self) -> impl Strategy<Value = (Vec<Fragment>, u64)> {
        self.prop_flat_map(|(fragments, target)| (Just(fragments).prop_shuffle(), Just(target)))
    }
}

impl<S: Strategy<Value = (Vec<Fragment>, u64)>> ShuffleFragments for S {}

proptest! {
    #[test]
    fn shuffled_and_misaligned_fragments_land_where_the_slow_way_puts_them((fragments, target) in scattered()) {
        let bounce = bounce();
        let mut expected = vec![0xEE; usize::try_from(target).unwrap()];
        slowly(&fragments, bounce, &mut expected);
        let block = Block::new(ends(target), fragments).unwrap();
        let mut got = vec![0xEE; expected.len()];
        unpack(&block, bounce, &mut got).unwrap();
        prop_assert!(got == expected);
    }

    #[test]
    fn a_block_comes_back_as_it_was((fragments, target) in scattered(), request in any::<u64>(), id in any::<u32>(), slot in any::<u32>()) {
        let block = Block::new(ends(target), fragments).unwrap().named(request, id, slot);
        prop_assert_eq!(Block::decode(&block.encode()), Ok(block));
    }

    #[test]
    fn overlapping_targets_are_refused_wherever_they_stand((fragments, target) in scattered(), which in any::<prop::sample::Index>(), within in any::<prop::sample::Index>(), at in any::<prop::sample::Index>()) {
        prop_assume!(!fragments.is_empty());
        let mut fragments = fragments;
        let victim = *which.get(&fragments);
        let shared = victim.target + within.index(victim.length as usize) as u64;
        fragments.insert(at.index(fragments.len() + 1), Fragment { source: 0, length: 1, target: shared });
        prop_assert_eq!(Block::new(ends(target), fragments), Err(BlockError::Overlap { offset: shared }));
    }

    #[test]
    fn any_bytes_are_a_block_that_encodes_to_them_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        if let Ok(block) = Block::decode(&bytes) {
            prop_assert_eq!(block.encode(), bytes);
        }
    }

    #[test]
    fn any_fragment_is_inside_both_ends_or_refused(source in any::<u32>(), length in any::<u32>(), target in any::<u64>(), target_bytes in any::<u64>()) {
        let inside = u64::from(source) + u64::from(length) <= BOUNCE as u64
            && target.checked_add(length.into()).is_some_and(|end| end <= target_bytes)
            && length > 0
            && u64::from(length) <= SLICE_BYTES_MAX;
        prop_assert_eq!(Block::new(ends(target_bytes), vec![Fragment { source, length, target }]).is_ok(), inside);
    }
}

fn fragment(source: u32, length: u32, target: u64) -> Fragment {
    Fragment { source, length, target }
}

#[test]
fn none_moves_nothing_and_is_a_block() {
    let block = Block::new(ends(3), vec![]).unwrap();
    let mut target = [1, 2, 3];
    unpack(&block, &vec![0; BOUNCE], &mut target).unwrap();
    assert_eq!((target, block.total_bytes(), block.longest()), ([1, 2, 3], 0, 0));
}

#[test]
fn two_thousand_and_forty_eight_fragments_are_a_block_and_one_more_is_not() {
    let mut list: Vec<Fragment> =
        (0..FRAGMENTS_MAX as u32).map(|index| fragment(index * 500, 499, u64::from(index) * 501)).collect();
    list.reverse();
    let target_bytes = FRAGMENTS_MAX as u64 * 501;
    let bounce = bounce();
    let block = Block::new(ends(target_bytes), list.clone()).unwrap();
    let (mut expected, mut got) = (vec![0; 2048 * 501], vec![0; 2048 * 501]);
    slowly(&list, bounce, &mut expected);
    unpack(&block, bounce, &mut got).unwrap();
    assert!(got == expected);
    list.push(fragment(0, 1, 499));
    assert_eq!(Block::new(ends(target_bytes), list), Err(BlockError::Count(2049)));
}

/// The table of what is refused: one fragment list a row.
#[test]
fn what_is_beyond_an_end_is_refused_by_name() {
    let bounce = BOUNCE as u64;
    let whole = u32::try_from(BOUNCE).unwrap();
    for (list, target_bytes, error) in [
        (vec![fragment(0, 0, 0)], 10, BlockError::Empty { index: 0 }),
        (
            vec![fragment(0, 1, 0), fragment(whole - 1, 2, 1)],
            10,
            BlockError::BeyondBounce { index: 1, end: bounce + 1, bytes: bounce },
        ),
        (
            vec![fragment(u32::MAX, u32::MAX, 0)],
            u64::MAX,
            BlockError::BeyondBounce { index: 0, end: 2 * u64::from(u32::MAX), bytes: bounce },
        ),
        (vec![fragment(0, 2, 9)], 10, BlockError::BeyondTarget { index: 0, end: 11, bytes: 10 }),
        (
            vec![fragment(0, 2, u64::MAX)],
            u64::MAX,
            BlockError::BeyondTarget { index: 0, end: u64::MAX, bytes: u64::MAX },
        ),
        (vec![fragment(0, 4, 4), fragment(9, 4, 0), fragment(4, 4, 7)], 99, BlockError::Overlap { offset: 7 }),
        (
            vec![fragment(0, 9, u64::MAX - 20), fragment(4, 4, u64::MAX - 12)],
            u64::MAX,
            BlockError::Overlap { offset: u64::MAX - 12 },
        ),
        (
            (0u32..5).map(|index| fragment(0, whole, u64::from(index) * bounce)).collect(),
            5 * bounce,
            BlockError::TooLong(5 * bounce),
        ),
    ] {
        assert_eq!(Block::new(ends(target_bytes), list.clone()), Err(error), "for {list:?}");
    }
    for bytes in [bounce + 1, 15, 1 << 32] {
        assert_eq!(Block::new(Ends { bounce_bytes: bytes, target_bytes: 1 }, vec![]), Err(BlockError::Bounce(bytes)));
    }
}

#[test]
fn a_sink_refuses_other_memory_than_the_block_was_checked_against() {
    let block = Block::new(Ends { bounce_bytes: 32, target_bytes: 8 }, vec![fragment(0, 8, 0)]).unwrap();
    let mut target = [9; 8];
    for (bounce, room) in [(16, 8), (48, 8), (32, 7)] {
        let error = unpack(&block, &vec![1; bounce], &mut target[..room]).unwrap_err();
        assert!(matches!(error, BlockError::OtherMemory { .. }));
    }
    assert_eq!(target, [9; 8]);
}
