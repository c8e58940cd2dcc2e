//! Words and adverts as bytes: what was encoded is decoded, everything else is refused with a sentence.

use std::sync::Arc;

use proptest::prelude::*;
use weft_wire::{Advert, Grant, Greeting, NOTICE_BYTES_MAX, Rights, WireError, Word, cluster_of_secret};

fn sentence(error: &WireError) -> String {
    error.to_string()
}

fn words() -> impl Strategy<Value = Word> {
    prop_oneof![
        ("[a-z0-9.:]{0,40}", any::<u16>(), "[ -~]{0,100}", any::<u32>(), "[a-z0-9-]{0,60}").prop_map(
            |(host, port, machine, user, socket)| Word::Greet(Greeting { host, port, machine, user, socket })
        ),
        (any::<u64>(), any::<u64>(), prop::collection::vec(any::<u8>(), 0..300))
            .prop_map(|(receive, tag, advert)| Word::Posted { receive, tag, advert }),
        (any::<u64>(), any::<u64>()).prop_map(|(receive, length)| Word::Landed { receive, length }),
        any::<u64>().prop_map(|receive| Word::Withdrawn { receive }),
        (0..9u32, 1..9u32, prop::collection::vec(any::<u8>(), 0..255), prop::collection::vec(any::<u8>(), 0..5000))
            .prop_map(|(part, more, name, bytes)| Word::Notice {
                part,
                parts: part + more,
                total: bytes.len() as u64 + 7,
                name,
                bytes,
            }),
    ]
}

proptest! {
    #[test]
    fn what_was_said_is_heard(word in words(), writer: u64, sequence: u64) {
        let bytes = word.encode(writer, sequence);
        prop_assert_eq!(Word::decode(word.topic(), &bytes).unwrap(), (word, writer, sequence));
    }

    #[test]
    fn a_word_that_was_cut_anywhere_or_has_something_behind_it_is_refused(word in words(), at: prop::sample::Index) {
        let mut bytes = word.encode(1, 2);
        prop_assert!(Word::decode(word.topic(), &bytes[..at.index(bytes.len())]).is_err());
        bytes.push(0);
        prop_assert!(sentence(&Word::decode(word.topic(), &bytes).unwrap_err()).contains("left over"));
    }

    #[test]
    fn a_word_of_another_magic_or_topic_is_refused(word in words(), at in 0..8usize, bit in 0..8u32) {
        let mut bytes = word.encode(1, 2);
        bytes[at] ^= 1 << bit;
        prop_assert!(Word::decode(word.topic(), &bytes).is_err());
        prop_assert!(Word::decode(word.topic() + 16, &word.encode(1, 2)).is_err());
    }

    #[test]
    fn any_bytes_are_a_word_or_refused(topic in 0x5745_4fff_u64..0x5745_5008, bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = Word::decode(topic, &bytes);
    }

    #[test]
    fn a_damaged_word_is_a_word_or_refused(word in words(), at: prop::sample::Index, byte: u8) {
        let mut bytes = word.encode(1, 2);
        let index = at.index(bytes.len());
        bytes[index] = byte;
        let _ = Word::decode(word.topic(), &bytes);
    }

    #[test]
    fn an_advert_that_was_handed_over_is_the_same(
        buffer: u64, incarnation: u64, size in 1..u64::MAX, writable: bool, owner in "\\PC{0,60}",
        grant in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        let (grant, extent) = (Arc::from(grant), None);
        let advert = Advert { buffer, incarnation, size_bytes: size, writable, owner, grant, extent };
        let bytes = advert.encode();
        prop_assert_eq!(Advert::decode(&bytes).unwrap(), advert);
        for length in 0..bytes.len() {
            prop_assert!(Advert::decode(&bytes[..length]).is_err());
        }
    }

    #[test]
    fn any_bytes_are_an_advert_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = Advert::decode(&bytes);
    }
}

#[test]
fn a_notification_that_promises_more_than_anybody_keeps_is_refused() {
    let word = Word::Notice { part: 0, parts: 1, total: NOTICE_BYTES_MAX + 1, name: Vec::new(), bytes: Vec::new() };
    assert!(Word::decode(word.topic(), &word.encode(1, 1)).is_err());
    let word = Word::Notice { part: 1, parts: 1, total: 0, name: Vec::new(), bytes: Vec::new() };
    assert!(Word::decode(word.topic(), &word.encode(1, 1)).is_err());
    let word = Word::Notice { part: 0, parts: 1, total: 0, name: vec![0; 256], bytes: Vec::new() };
    assert!(Word::decode(word.topic(), &word.encode(1, 1)).is_err());
}

/// What fuzzing kept, and what is worth keeping: a topic in hex, a space, the bytes in hex; `ok` or `refused` in front.
#[test]
fn the_corpus_is_read_as_it_was() {
    let corpus = include_str!("corpus/words.txt");
    let mut count = 0;
    for line in corpus.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let [verdict, topic, bytes] = line.split(' ').collect::<Vec<_>>()[..] else { panic!("{line}") };
        let topic = u64::from_str_radix(topic, 16).unwrap();
        let bytes: Vec<u8> = (0..bytes.len() / 2)
            .map(|index| u8::from_str_radix(&bytes[index * 2..index * 2 + 2], 16).unwrap())
            .collect();
        assert_eq!(Word::decode(topic, &bytes).is_ok(), verdict == "ok", "{line}");
        count += 1;
    }
    assert!(count >= 12, "the corpus lost its lines");
}

/// The other half is in tests/dataplane/test_wire_vectors.py: endpoints of C and of Python that hold one secret meet.
#[test]
fn the_cluster_of_a_secret_is_the_one_it_is_in_python() {
    let hex: String = cluster_of_secret(b"a test's secret").iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(hex, "271d17f03dbd9b4d084051d50d6c1a3f");
}

#[test]
fn a_grant_says_what_it_claims_to_whoever_holds_it() {
    for (writable, rights) in [(true, Rights::READ_WRITE), (false, Rights::READ)] {
        let grant = Advert::grant_for([1; 16], 7, writable, 99).mint(&[2; 32]);
        assert_eq!(Grant::claimed_rights(&grant), Some(rights));
        assert_eq!(Grant::claimed_rights(&grant[..5]), None);
        assert_eq!(Grant::claimed_rights(&grant[1..]), None);
    }
}
