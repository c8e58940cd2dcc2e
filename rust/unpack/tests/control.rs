//! The kernel's control messages, from bytes: no card, no kernel of a certain age.

use proptest::prelude::*;
use weft_unpack::control::{
    Arrival, ControlError, RUNS_MAX, SCM_DEVMEM_DMABUF, SCM_DEVMEM_LINEAR, TOKENS_MAX, TokenRun, control_bytes, parse,
    sort, token_runs,
};
use weft_unpack::{BlockError, FRAGMENTS_MAX};

fn message(level: i32, kind: i32, data: &[u8]) -> Vec<u8> {
    let mut bytes = (16 + data.len() as u64).to_ne_bytes().to_vec();
    bytes.extend(level.to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(data);
    bytes.resize(bytes.len().next_multiple_of(8), 0);
    bytes
}

fn named(arrival: &Arrival) -> Vec<u8> {
    let mut data = Vec::new();
    let (kind, offset, token, dmabuf) = match *arrival {
        Arrival::Device { offset, token, dmabuf, .. } => (SCM_DEVMEM_DMABUF, offset, token, dmabuf),
        Arrival::Linear { .. } => (SCM_DEVMEM_LINEAR, 0, 0, 0),
    };
    data.extend(offset.to_ne_bytes());
    for word in [arrival.size(), token, dmabuf, 0] {
        data.extend(word.to_ne_bytes());
    }
    message(1, kind, &data)
}

fn arrivals() -> impl Strategy<Value = Vec<Arrival>> {
    let device = (any::<u32>(), 1u32..5000, any::<u32>(), any::<u32>())
        .prop_map(|(offset, size, token, dmabuf)| Arrival::Device { offset: offset.into(), size, token, dmabuf });
    let linear = (1u32..5000).prop_map(|size| Arrival::Linear { size });
    prop::collection::vec(prop_oneof![device, linear], 1..40)
}

fn total(arrivals: &[Arrival]) -> usize {
    arrivals.iter().map(|arrival| arrival.size() as usize).sum()
}

proptest! {
    #[test]
    fn what_the_kernel_names_is_what_is_read(arrivals in arrivals(), stamps in any::<bool>()) {
        let mut bytes = if stamps { message(1, 29, &[0; 16]) } else { vec![] };
        bytes.extend(arrivals.iter().flat_map(named));
        prop_assert_eq!(parse(&bytes, false, total(&arrivals)), Ok(arrivals.clone()));
        prop_assert_eq!(parse(&bytes, true, total(&arrivals)), Err(ControlError::Truncated));
        let received = total(&arrivals) + 1;
        let named = total(&arrivals) as u64;
        prop_assert_eq!(parse(&bytes, false, received), Err(ControlError::Sum { named, received: named + 1 }));
    }

    #[test]
    fn any_control_bytes_add_up_or_are_an_error(bytes in prop::collection::vec(any::<u8>(), 0..400), received in 0usize..10_000) {
        if let Ok(arrivals) = parse(&bytes, false, received) {
            prop_assert_eq!(total(&arrivals), received);
        }
    }

    #[test]
    fn messages_cut_anywhere_never_pass_for_whole(arrivals in arrivals(), at in any::<prop::sample::Index>()) {
        let bytes: Vec<u8> = arrivals.iter().flat_map(named).collect();
        let cut = at.index(bytes.len());
        // Cut before the first head ends there is nothing to read, and the bytes are plain.
        prop_assume!(cut >= 16);
        prop_assert!(parse(&bytes[..cut], false, total(&arrivals)).is_err());
    }

    #[test]
    fn given_back_tokens_are_the_tokens_in_calls_the_kernel_takes(runs in prop::collection::vec((any::<u32>(), 1u32..40), 0..300)) {
        let tokens: Vec<u32> = runs.iter().flat_map(|(start, count)| (0..*count).map(move |n| start.wrapping_add(n))).collect();
        let calls = token_runs(&tokens);
        let mut back = Vec::new();
        for call in &calls {
            prop_assert!(!call.is_empty() && call.len() <= RUNS_MAX);
            prop_assert!(call.iter().map(|run| run.count).sum::<u32>() <= TOKENS_MAX);
            back.extend(call.iter().flat_map(|run| run.start..=run.start + (run.count - 1)));
        }
        prop_assert_eq!(back, tokens);
    }
}

#[test]
fn no_message_means_plain_bytes() {
    assert_eq!(parse(&[], false, 700), Ok(vec![Arrival::Linear { size: 700 }]));
    assert_eq!(parse(&[], false, 0), Ok(vec![]));
    assert_eq!(parse(&message(1, 29, &[0; 16]), false, 5), Ok(vec![Arrival::Linear { size: 5 }]));
}

#[test]
fn a_message_that_contradicts_itself_is_refused() {
    let good = named(&Arrival::Linear { size: 9 });
    for length in [0u64, 15, 17, 39, 41, u64::MAX] {
        let mut bytes = good.clone();
        bytes[..8].copy_from_slice(&length.to_ne_bytes());
        assert_eq!(parse(&bytes, false, 9), Err(ControlError::Short { at: 0, length }));
    }
    assert_eq!(parse(&message(1, SCM_DEVMEM_DMABUF, &[1; 23]), false, 9).map_err(|error| error.to_string()), {
        Err("the control message at byte 0 says it has 39 bytes".to_owned())
    });
    let mut empty = good;
    empty[24..28].fill(0);
    assert_eq!(parse(&empty, false, 0), Err(ControlError::Empty));
}

#[test]
fn runs_merge_and_are_cut_at_the_kernels_bounds() {
    assert!(token_runs(&[]).is_empty());
    let run = |start, count| TokenRun { start, count };
    assert_eq!(token_runs(&[7, 8, 9, 3, u32::MAX, 0]), [vec![run(7, 3), run(3, 1), run(u32::MAX, 1), run(0, 1)]]);
    let many: Vec<u32> = (0..TOKENS_MAX + 1).collect();
    assert_eq!(token_runs(&many), [vec![run(0, TOKENS_MAX)], vec![run(TOKENS_MAX, 1)]]);
    let apart: Vec<u32> = (0..RUNS_MAX as u32 + 1).map(|token| token * 2).collect();
    assert_eq!(token_runs(&apart).iter().map(Vec::len).collect::<Vec<_>>(), [RUNS_MAX, 1]);
}

#[test]
fn a_mixed_receive_becomes_a_block_for_the_device_and_one_for_the_cpu() {
    let device = |offset, size, token| Arrival::Device { offset, size, token, dmabuf: 3 };
    let arrivals =
        [Arrival::Linear { size: 10 }, device(8192, 100, 5), Arrival::Linear { size: 3 }, device(4096, 50, 6)];
    let sorted = sort(&arrivals, 1000, 2000, 16384, 64).unwrap();
    let places = |block: &weft_unpack::Block| {
        block.fragments().iter().map(|f| (f.source, f.length, f.target)).collect::<Vec<_>>()
    };
    assert_eq!(places(&sorted.device), [(8192, 100, 1010), (4096, 50, 1113)]);
    assert_eq!(places(&sorted.linear), [(0, 10, 1000), (10, 3, 1110)]);
    assert_eq!(sorted.tokens, [5, 6]);
}

#[test]
fn arrivals_beyond_their_memory_are_refused() {
    let device = |offset, size| Arrival::Device { offset, size, token: 0, dmabuf: 0 };
    for (arrival, at) in
        [(device(16384, 1), 0), (device(1 << 40, 1), 0), (device(u64::MAX, 5), 0), (device(16380, 5), 0)]
    {
        let error = sort(&[arrival], at, 2000, 16384, 64).unwrap_err();
        assert!(matches!(error, BlockError::BeyondBounce { .. }), "{error}");
    }
    for (arrival, at) in [(device(0, 5), 1996), (device(0, 5), u64::MAX), (Arrival::Linear { size: 5 }, 1996)] {
        let error = sort(&[arrival], at, 2000, 16384, 64).unwrap_err();
        assert!(matches!(error, BlockError::BeyondTarget { .. }), "{error}");
    }
    let many = vec![device(0, 1); FRAGMENTS_MAX + 1];
    assert_eq!(sort(&many, 0, 1 << 20, 16384, 64), Err(BlockError::Count(FRAGMENTS_MAX as u64 + 1)));
    assert_eq!(control_bytes(2), named(&many[0]).len() * 2);
}
