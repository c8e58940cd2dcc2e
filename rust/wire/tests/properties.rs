//! What holds for all bytes: encode then decode is the identity, and decoding what a peer sent never panics, never
//! accepts what encoding would not produce, and never asks for more than the bounds.

use proptest::prelude::*;
use weft_wire::{
    ClientHello, ClientProof, Flags, Grant, GrantError, HEADER_BYTES, Header, Kind, Mode, PAYLOAD_BYTES_MAX,
    RANGES_MAX, Range, Rights, ServerHello, decode_ranges, encode_ranges, grant_key, hello_key, total_bytes,
};

fn kinds() -> impl Strategy<Value = Kind> {
    (1u8..=9).prop_map(|number| Kind::from_number(number).expect("all nine exist"))
}

fn headers() -> impl Strategy<Value = Header> {
    let flags = prop_oneof![Just(Flags::NONE), Just(Flags::ZERO), Just(Flags::SPARSE)];
    (kinds(), flags, any::<u16>(), 0..=RANGES_MAX, any::<[u64; 4]>(), 0u64..=512).prop_map(
        |(kind, flags, lane, count, [request, handle, offset, tag], length)| Header {
            kind,
            flags,
            lane,
            count,
            request,
            handle,
            offset,
            length,
            tag,
        },
    )
}

fn grants() -> impl Strategy<Value = Grant> {
    let modes = prop_oneof![Just(Mode::Read), Just(Mode::Exclusive), Just(Mode::Private)];
    let rights = prop_oneof![Just(Rights::READ), Just(Rights::READ_WRITE)];
    (any::<[u8; 16]>(), "[a-z0-9]{1,20}", any::<u64>(), modes, rights, "\\PC{0,40}", any::<u64>()).prop_map(
        |(cluster_id, region_id, generation, mode, rights, holder, expires_at_ms)| Grant {
            cluster_id,
            region_id,
            generation,
            mode,
            rights,
            holder,
            expires_at_ms,
        },
    )
}

proptest! {
    #[test]
    fn a_header_comes_back_as_it_was(header in headers()) {
        prop_assert_eq!(Header::decode(&header.encode()), Ok(header));
    }

    #[test]
    fn any_bytes_decode_to_a_bounded_header_or_to_an_error(bytes in any::<[u8; 32]>(), more in any::<[u8; 32]>()) {
        let mut frame = [0u8; HEADER_BYTES];
        frame[..32].copy_from_slice(&bytes);
        frame[32..].copy_from_slice(&more);
        if let Ok(header) = Header::decode(&frame) {
            prop_assert!(header.payload_bytes() <= PAYLOAD_BYTES_MAX && header.count <= RANGES_MAX);
            prop_assert_eq!(header.encode(), frame);
        }
    }

    #[test]
    fn one_flipped_bit_is_always_noticed(header in headers(), bit in 0usize..HEADER_BYTES * 8) {
        let mut bytes = header.encode();
        bytes[bit / 8] ^= 1 << (bit % 8);
        prop_assert!(Header::decode(&bytes).is_err());
    }

    #[test]
    fn ranges_come_back_as_they_were(lengths in prop::collection::vec((any::<u32>(), 1u32..65536), 1..64)) {
        let ranges: Vec<Range> = lengths
            .iter()
            .map(|(offset, length)| Range { offset: (*offset).into(), length: (*length).into() })
            .collect();
        let mut bytes = Vec::new();
        encode_ranges(&ranges, &mut bytes);
        let total = total_bytes(&ranges).expect("small");
        prop_assert_eq!(decode_ranges(&bytes, total), Ok(ranges));
        prop_assert!(decode_ranges(&bytes, total + 1).is_err());
        prop_assert!(decode_ranges(&bytes[1..], total).is_err());
    }

    #[test]
    fn any_bytes_as_ranges_never_add_up_beyond_the_bound(bytes in prop::collection::vec(any::<u8>(), 0..512), length in any::<u64>()) {
        if let Ok(ranges) = decode_ranges(&bytes, length) {
            prop_assert!(total_bytes(&ranges).expect("accepted") <= PAYLOAD_BYTES_MAX);
        }
    }

    #[test]
    fn a_grant_verifies_under_its_key_and_no_other(grant in grants(), other in any::<[u8; 8]>()) {
        let key = grant_key(b"secret");
        let bytes = grant.mint(&key);
        prop_assert_eq!(Grant::verify(&bytes, &key), Ok(grant));
        prop_assert_eq!(Grant::verify(&bytes, &grant_key(&other)), Err(GrantError::Forged));
    }

    #[test]
    fn a_grant_with_one_changed_byte_is_refused(grant in grants(), at in any::<prop::sample::Index>(), change in 1u8..) {
        let key = grant_key(b"secret");
        let mut bytes = grant.mint(&key);
        let at = at.index(bytes.len());
        bytes[at] ^= change;
        prop_assert!(Grant::verify(&bytes, &key).is_err());
    }

    #[test]
    fn any_bytes_as_grant_or_hello_are_refused_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        prop_assert!(Grant::verify(&bytes, &grant_key(b"secret")).is_err());
        let _ = ClientHello::decode(&bytes);
        let _ = ServerHello::decode(&bytes);
        let _ = ClientProof::decode(&bytes);
    }
}

#[test]
fn proofs_are_worth_nothing_in_another_role_or_connection() {
    let key = hello_key(b"secret");
    let client = ClientHello { cluster_id: [1; 16], nonce: [2; 32], incarnation: 3, name: "a".to_owned() };
    let server = ServerHello::prove(&key, &client, [4; 32], 5, "b");
    assert!(server.verifies(&key, &client));
    assert!(!server.verifies(&hello_key(b"other"), &client));
    let replayed_to = ClientHello { nonce: [9; 32], ..client.clone() };
    assert!(!server.verifies(&key, &replayed_to));
    let proof = ClientProof::prove(&key, &client, &server);
    assert!(proof.verifies(&key, &client, &server));
    assert!(!ClientProof { proof: server.proof }.verifies(&key, &client, &server));
}

/// `tests/corpus/headers.txt`: one frame a line, what comes of it after the arrow. Every defect a fuzzer or a person found
/// stays here.
#[test]
fn the_saved_corpus_decodes_as_it_says() {
    let corpus = include_str!("corpus/headers.txt");
    let mut checked = 0;
    for line in corpus.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let (hex, expected) = line.split_once(" -> ").expect("hex -> outcome");
        let bytes: Vec<u8> = (0..hex.len() / 2)
            .map(|index| u8::from_str_radix(&hex[index * 2..index * 2 + 2], 16).expect("hex"))
            .collect();
        let frame: [u8; HEADER_BYTES] = bytes.try_into().expect("64 bytes");
        let outcome = match Header::decode(&frame) {
            Ok(header) => format!("{:?} {} bytes", header.kind, header.payload_bytes()),
            Err(error) => error.to_string(),
        };
        assert_eq!(outcome, expected, "for {hex}");
        checked += 1;
    }
    assert!(checked >= 10, "the corpus was not read");
}

/// Prints the corpus; run with `--ignored` and redirect to refresh it after a deliberate change of the wire.
#[test]
#[ignore = "a tool, not a test"]
fn print_the_corpus() {
    let good = |kind: Kind, length: u64| {
        let mut header = Header::new(kind, 1);
        header.length = length;
        header.encode()
    };
    let damaged = |change: &dyn Fn(&mut [u8; HEADER_BYTES])| {
        let mut bytes = good(Kind::Read, 4096);
        change(&mut bytes);
        let checksum = crc32fast::hash(&bytes[..60]);
        bytes[60..].copy_from_slice(&checksum.to_le_bytes());
        bytes
    };
    let mut flipped = good(Kind::Write, 4096);
    flipped[40] ^= 1;
    let frames = [
        good(Kind::Hello, 57),
        good(Kind::Open, 100),
        good(Kind::Read, 4096),
        good(Kind::Write, PAYLOAD_BYTES_MAX),
        good(Kind::Message, 0),
        good(Kind::Reply, 0),
        good(Kind::Refusal, 12),
        *b"GET / HTTP/1.1\r\nHost: localhost\r\nUser-Agent: curl\r\nAccept: */*\r\n",
        [0; HEADER_BYTES],
        [255; HEADER_BYTES],
        flipped,
        damaged(&|bytes| bytes[4] = 2),
        damaged(&|bytes| bytes[5] = 0),
        damaged(&|bytes| bytes[5] = 10),
        damaged(&|bytes| bytes[7] = 128),
        damaged(&|bytes| bytes[10] = 1),
        damaged(&|bytes| bytes[56] = 1),
        damaged(&|bytes| bytes[12..16].copy_from_slice(&1025u32.to_le_bytes())),
        damaged(&|bytes| bytes[40..48].copy_from_slice(&u64::MAX.to_le_bytes())),
        good(Kind::Message, (8 << 20) + 1),
        good(Kind::Hello, 1025),
    ];
    for frame in frames {
        let hex: String = frame.iter().map(|byte| format!("{byte:02x}")).collect();
        let outcome = match Header::decode(&frame) {
            Ok(header) => format!("{:?} {} bytes", header.kind, header.payload_bytes()),
            Err(error) => error.to_string(),
        };
        println!("{hex} -> {outcome}");
    }
}
