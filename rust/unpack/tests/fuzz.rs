//! Fuzzing from a corpus: each saved input, then thousands of its mutations from one seed, through everything that reads
//! bytes. Nothing may panic, nothing may be accepted that does not hold what a block or a control message promises.
//!
//! `corpus/blocks.txt` and `corpus/control.txt`: hex, an arrow, what comes of it. Every defect that a fuzzer or a person
//! found stays there.

use weft_unpack::control::{Arrival, parse, sort, token_runs};
use weft_unpack::{Block, Ends, Fragment, unpack};

const MUTATIONS: u64 = 3_000;

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound.max(1) as u64).unwrap()
    }
}

fn corpus(text: &str) -> Vec<(Vec<u8>, String)> {
    text.lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(|line| {
            let (hex, outcome) = line.split_once("-> ").expect("hex -> outcome");
            let hex = hex.trim();
            let bytes = (0..hex.len() / 2)
                .map(|index| u8::from_str_radix(&hex[index * 2..index * 2 + 2], 16).expect("hex"))
                .collect();
            (bytes, outcome.to_owned())
        })
        .collect()
}

/// Flips, overwrites with telling numbers, cuts, repeats, and splices of two inputs.
fn mutate(bytes: &mut Vec<u8>, other: &[u8], random: &mut Random) {
    for _ in 0..=random.below(4) {
        let at = random.below(bytes.len());
        match random.below(6) {
            0 if !bytes.is_empty() => bytes[at] ^= 1 << random.below(8),
            1 if bytes.len() >= 4 => {
                let at = at.min(bytes.len() - 4) & !3;
                let telling = [0, 1, 15, 16, 17, 2048, 2049, 4096, i32::MAX as u32, u32::MAX];
                bytes[at..at + 4].copy_from_slice(&telling[random.below(telling.len())].to_le_bytes());
            }
            2 => bytes.truncate(at),
            3 => bytes.extend_from_within(at..),
            4 => {
                let from = random.below(other.len());
                bytes.extend_from_slice(&other[from..]);
            }
            _ if !bytes.is_empty() => bytes[at] = random.next() as u8,
            _ => {}
        }
        bytes.truncate(4096);
    }
}

fn fuzz(saved: &[(Vec<u8>, String)], check: impl Fn(&[u8], &mut Random)) {
    let mut random = Random(0x5745_4654);
    for (bytes, _) in saved {
        for _ in 0..MUTATIONS {
            let mut mutant = bytes.clone();
            let other = &saved[random.below(saved.len())].0;
            mutate(&mut mutant, other, &mut random);
            check(&mutant, &mut random);
        }
    }
}

fn of_block(bytes: &[u8]) -> String {
    match Block::decode(bytes) {
        Ok(block) => format!("{} fragments, {} bytes", block.fragments().len(), block.total_bytes()),
        Err(error) => error.to_string(),
    }
}

fn of_control(bytes: &[u8]) -> String {
    match parse(bytes, false, 300) {
        Ok(arrivals) => format!("{arrivals:?}"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn the_saved_blocks_decode_as_they_say_and_no_mutation_gets_past_the_checks() {
    let saved = corpus(include_str!("corpus/blocks.txt"));
    assert!(saved.len() >= 10, "the corpus was not read");
    for (bytes, outcome) in &saved {
        assert_eq!(&of_block(bytes), outcome);
    }
    fuzz(&saved, |bytes, _| {
        let Ok(block) = Block::decode(bytes) else { return };
        assert_eq!(block.encode(), bytes);
        let Ends { bounce_bytes, target_bytes } = block.ends();
        if bounce_bytes <= 1 << 16 && target_bytes <= 1 << 16 {
            // Slices check their bounds: a fragment that got past the checks would panic here.
            let bounce = vec![7; bounce_bytes as usize];
            let mut target = vec![0; target_bytes as usize];
            unpack(&block, &bounce, &mut target).unwrap();
            assert_eq!(target.iter().filter(|byte| **byte == 7).count() as u64, block.total_bytes());
        }
    });
}

#[test]
fn the_saved_control_bytes_parse_as_they_say_and_no_mutation_gets_past_the_checks() {
    let saved = corpus(include_str!("corpus/control.txt"));
    assert!(saved.len() >= 6, "the corpus was not read");
    for (bytes, outcome) in &saved {
        assert_eq!(&of_control(bytes), outcome);
    }
    fuzz(&saved, |bytes, random| {
        let received = random.below(4096);
        let Ok(arrivals) = parse(bytes, random.below(50) == 0, received) else { return };
        assert_eq!(arrivals.iter().map(|arrival| arrival.size() as usize).sum::<usize>(), received);
        let Ok(sorted) = sort(&arrivals, 8, 4096, 1 << 16, 4096) else { return };
        let given: u32 = token_runs(&sorted.tokens).iter().flatten().map(|run| run.count).sum();
        assert_eq!(given as usize, sorted.device.fragments().len());
        assert_eq!(sorted.device.total_bytes() + sorted.linear.total_bytes(), received as u64);
    });
}

/// Prints the corpus; run with `--ignored --nocapture` to refresh it after a deliberate change.
#[test]
#[ignore = "a tool, not a test"]
fn print_the_corpus() {
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let fragment = |source, length, target| Fragment { source, length, target };
    let ends = Ends { bounce_bytes: 8192, target_bytes: 4096 };
    let block = |list| Block::new(ends, list).unwrap().named(9, 1, 2).encode();
    let good = block(vec![fragment(4096, 100, 7), fragment(3, 50, 200), fragment(8000, 192, 1000)]);
    let damaged = |at: usize, bytes: &[u8]| {
        let mut block = good.clone();
        block[at..at + bytes.len()].copy_from_slice(bytes);
        block
    };
    let blocks = [
        good.clone(),
        block(vec![]),
        block(vec![fragment(0, 4096, 0)]),
        vec![],
        good[..63].to_vec(),
        good[..100].to_vec(),
        damaged(0, b"UPK2"),
        damaged(4, &[2]),
        damaged(6, &[1]),
        damaged(56, &[1]),
        damaged(8, &[1, 8]),
        damaged(8, &u32::MAX.to_le_bytes()),
        damaged(12, &[0]),
        damaged(16, &[1]),
        damaged(24, &[1]),
        damaged(24, &u64::MAX.to_le_bytes()),
        damaged(32, &[0, 4, 0]),
        damaged(64, &u32::MAX.to_le_bytes()),
        damaged(68, &[0; 4]),
        damaged(72, &u64::MAX.to_le_bytes()),
        damaged(72, &[0xC7]),
    ];
    for bytes in blocks {
        println!("{} -> {}", hex(&bytes), of_block(&bytes));
    }
    let message = |length: u64, level: i32, kind: i32, words: [u32; 6]| {
        let mut bytes = length.to_le_bytes().to_vec();
        bytes.extend(level.to_le_bytes());
        bytes.extend(kind.to_le_bytes());
        bytes.extend(words.iter().flat_map(|word| word.to_le_bytes()));
        bytes
    };
    let device = |offset, size, token| message(40, 1, 79, [offset, 0, size, token, 3, 0]);
    let linear = |size| message(40, 1, 78, [0, 0, size, 0, 0, 0]);
    let controls = [
        vec![],
        [device(4096, 200, 5), device(8192, 100, 6)].concat(),
        [linear(10), device(0, 290, 1)].concat(),
        linear(300),
        linear(299),
        linear(0),
        message(40, 1, 29, [0; 6]),
        message(39, 1, 79, [0, 0, 300, 0, 0, 0]),
        message(15, 1, 79, [0; 6]),
        message(u64::MAX, 1, 79, [0; 6]),
        device(u32::MAX, 300, u32::MAX),
        [device(0, 300, 0), vec![0; 9]].concat(),
    ];
    for bytes in controls {
        println!("{} -> {}", hex(&bytes), of_control(&bytes));
    }
    assert!(matches!(parse(&linear(300), false, 300).unwrap()[0], Arrival::Linear { size: 300 }));
}
