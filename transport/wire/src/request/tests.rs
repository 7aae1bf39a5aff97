//! Headers as they are encoded, sealed and refused.

use super::*;
use crate::FilterStack;

fn push() -> RequestHeader {
    RequestHeader {
        kind: RequestKind::Push,
        sync: false,
        resumes: false,
        strong: false,
        dtype: DataType::F32,
        table: TableId(3),
        sequence: Sequence(9),
        epoch: Epoch(2),
        clock: WorkerClock(5),
        rows: Rows::Keys,
        row_count: 2,
        width: 4,
        coding: None,
        values: None,
        reply: None,
    }
}

/// Headers of each length, and whether they have keys.
fn headers() -> [(RequestHeader, usize); 10] {
    let place = Place { key: 4, address: 4096 };
    let kept = Coding {
        filters: "bf16".parse().unwrap(),
        keys: CodedKeys::Kept { at: 9, checksum: 0xdead_beef },
        values_len: 16,
    };
    let kept = RequestHeader { coding: Some(kept), ..push() };
    let keep = Coding {
        filters: "delta-keys".parse().unwrap(),
        keys: CodedKeys::Keep { at: 7, len: 3 },
        values_len: 32,
    };
    let keep = RequestHeader { coding: Some(keep), ..push() };
    let coding = |filters: &str, keys_len, values_len| {
        Some(Coding {
            filters: filters.parse().unwrap(),
            keys: CodedKeys::Sent { len: keys_len },
            values_len,
        })
    };
    [
        (kept, 64),
        (keep, 64),
        (RequestHeader { coding: coding("delta-keys,bf16", 3, 16), ..push() }, 64),
        (
            RequestHeader {
                coding: coding("fixed:1,snappy", 16, 9),
                rows: Rows::Keys,
                values: Some(place),
                kind: RequestKind::PushPull,
                reply: Some(place),
                ..push()
            },
            96,
        ),
        (
            RequestHeader {
                kind: RequestKind::Pull,
                reply: Some(place),
                coding: coding("delta-keys,snappy,f16", 5, 0),
                ..push()
            },
            80,
        ),
        (push(), 48),
        (RequestHeader { rows: Rows::Range { first: 10 }, values: Some(place), ..push() }, 64),
        (RequestHeader { kind: RequestKind::Pull, reply: Some(place), ..push() }, 64),
        (
            RequestHeader {
                kind: RequestKind::PushPull,
                reply: Some(Place { key: 1, address: 64 }),
                sync: true,
                resumes: true,
                ..push()
            },
            64,
        ),
        (
            RequestHeader {
                kind: RequestKind::PushPull,
                values: Some(place),
                reply: Some(Place { key: 1, address: u64::MAX }),
                strong: true,
                row_count: ROWS_MAX,
                width: 1,
                dtype: DataType::ALL[DataType::ALL.len() - 1],
                rows: Rows::Range { first: u64::MAX - u64::from(ROWS_MAX) },
                ..push()
            },
            80,
        ),
    ]
}

/// A sealed message of a header, with a body of as many bytes as it says.
fn message(header: &RequestHeader) -> Vec<u8> {
    let body: Vec<u8> = (0..header.body_len()).map(|at| at.to_le_bytes()[0] | 1).collect();
    let (keys, values) = body.split_at(usize::try_from(header.sent_keys_len()).unwrap());
    let mut bytes = header.encode();
    RequestHeader::seal(&mut bytes, keys, values);
    [&bytes, keys, values].concat()
}

#[test]
fn digests_leave_long_values_out() {
    let long = vec![1; usize::try_from(CHECKED_VALUES_LEN_MAX).unwrap() + 1];
    let sealed = |values: &[u8]| {
        let mut bytes = push().encode();
        RequestHeader::seal(&mut bytes, &[], values);
        RequestHeader::sealed(&bytes)
    };
    assert_eq!(sealed(&long), sealed(&[]));
    assert_ne!(sealed(&long[1..]), sealed(&[]));
}

#[test]
fn headers_round_trip_and_verify() {
    for (header, len) in headers() {
        let message = message(&header);
        let message_len = message.len() as u64;
        assert_eq!((header.len(), header.encode().len()), (len, len));
        assert_eq!(message_len, len as u64 + header.body_len());
        assert_eq!(RequestHeader::decode(&message, message_len), Ok(header));
        let start = &message[..message.len().min(RequestHeader::LEN_MAX)];
        assert_eq!(RequestHeader::decode(start, message_len), Ok(header));
        assert_eq!(RequestHeader::verify(&message), Ok(()));
        for other in [message_len - 1, message_len + 1] {
            assert!(RequestHeader::decode(&message, other).is_err());
        }
        for shorter in 0..message.len() {
            assert!(RequestHeader::verify(&message[..shorter]).is_err(), "{shorter} bytes of it");
        }
        for bit in 0..message.len() * 8 {
            let mut damaged = message.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            let seen = RequestHeader::verify(&damaged).is_err();
            assert!(seen, "flip of bit {bit} of {header:?} went unnoticed");
        }
    }
}

#[test]
fn codings_that_contradict_their_header_are_refused() {
    let place = Some(Place::default());
    let range = Rows::Range { first: 0 };
    let pull = RequestHeader { kind: RequestKind::Pull, reply: place, ..push() };
    let cases = [
        // Two keys and eight values of f32.
        (push(), "", 8, 32, "plain keys have another length"),
        (push(), "", 16, 31, "values have another length"),
        (push(), "bf16", 16, 32, "values have another length"),
        (push(), "fixed:2", 16, 16, "values have another length"),
        (push(), "snappy", 17, 32, "no longer"),
        (push(), "snappy", 16, 33, "no longer"),
        (RequestHeader { dtype: DataType::F64, ..push() }, "bf16", 16, 32, "values of this type"),
        (
            RequestHeader { rows: range, ..push() },
            "delta-keys",
            3,
            32,
            "a range has filters of keys",
        ),
        (RequestHeader { rows: range, ..push() }, "bf16", 8, 16, "plain keys have another length"),
        (pull, "snappy", 5, 0, "an answer's length would not be known"),
        (pull, "delta-keys", 5, 32, "values have another length"),
        (
            RequestHeader { kind: RequestKind::Nothing, row_count: 0, ..push() },
            "",
            0,
            0,
            "a request about no rows",
        ),
    ];
    for (header, filters, keys_len, values_len, expected) in cases {
        let filters = filters.parse().unwrap();
        let header = RequestHeader {
            coding: Some(Coding { filters, keys: CodedKeys::Sent { len: keys_len }, values_len }),
            ..header
        };
        let refused =
            RequestHeader::decode(&header.encode(), header.len() as u64 + header.body_len());
        let text = refused.unwrap_err().to_string();
        assert!(text.contains(expected), "{header:?}: {text}");
    }
    let filters: FilterStack = "delta-keys,snappy".parse().unwrap();
    let coding = Some(Coding { filters, keys: CodedKeys::Sent { len: 9 }, values_len: 9 });
    let bomb = RequestHeader { coding, row_count: 1 << 17, width: 3, ..push() };
    let refused = RequestHeader::decode(&bomb.encode(), bomb.len() as u64 + bomb.body_len());
    assert!(
        matches!(refused, Err(DecodeError::TooLong { field: "decoded length", .. })),
        "{refused:?}"
    );
    // Reserved bytes and numbers that no filter has.
    for (at, byte) in [(48, 16), (49, 7), (50, 1), (51, 1), (48, 12), (60, 1), (63, 1)] {
        let header = RequestHeader {
            coding: Some(Coding {
                filters: FilterStack::default(),
                keys: CodedKeys::Sent { len: 16 },
                values_len: 32,
            }),
            ..push()
        };
        let mut bytes = header.encode();
        assert!(RequestHeader::decode(&bytes, 64 + 48).is_ok());
        bytes[at] = byte;
        assert!(RequestHeader::decode(&bytes, 64 + 48).is_err(), "byte {at}");
    }
}

#[test]
fn lengths_out_of_bounds_are_refused() {
    let wide = RequestHeader { width: WIDTH_MAX, row_count: ROWS_MAX, ..push() };
    let refused = |header: &RequestHeader| {
        RequestHeader::decode(&header.encode(), header.len() as u64 + header.body_len())
    };
    assert!(matches!(refused(&wide), Err(DecodeError::TooLong { .. })));
    let far = RequestHeader { rows: Rows::Range { first: u64::MAX }, ..push() };
    assert!(refused(&far).is_err());
    for (word, field) in [(u64::from(ROWS_MAX) + 1, "row count"), (5 << 21 | 7, "")] {
        let mut bytes = push().encode();
        let counts = word.to_le_bytes();
        bytes[2..8].copy_from_slice(&counts[..6]);
        let len = RequestHeader::LEN_MIN as u64 + 7 * 5 * 4 + 7 * 8;
        match RequestHeader::decode(&bytes, len) {
            Ok(header) => assert_eq!((header.row_count, header.width, field), (7, 5, "")),
            Err(error) => assert!(error.to_string().starts_with(field) && !field.is_empty()),
        }
    }
}

/// A header has one encoding: bytes that decode encode to the same bytes again.
#[test]
fn a_header_with_any_other_bit_is_refused_or_says_another_thing() {
    let scan = RequestHeader {
        kind: RequestKind::Scan,
        rows: Rows::Partition { partition: PartitionId(3), from: 77, columns: ScanColumns::Keys },
        reply: Some(Place { key: 4, address: 4096 }),
        ..push()
    };
    for header in headers().map(|(header, _)| header).into_iter().chain([scan]) {
        let bytes = header.encode();
        for bit in
            (0..bytes.len() * 8).filter(|bit| !(DIGEST_AT..DIGEST_AT + 4).contains(&(bit / 8)))
        {
            let mut changed = bytes.to_vec();
            changed[bit / 8] ^= 1 << (bit % 8);
            // The body is as long as the changed header says, where that is not refused for itself.
            let lens = [header.len() as u64 + header.body_len(), u64::MAX];
            for len in lens {
                if let Ok(other) = RequestHeader::decode(&changed, len) {
                    assert_eq!(&other.encode()[..], &changed[..], "bit {bit} of {header:?}");
                }
            }
        }
    }
}

#[test]
fn a_short_header_says_how_much_is_missing() {
    for (header, len) in headers() {
        let bytes = message(&header);
        let missing = |start: usize| match RequestHeader::decode(&bytes[..start], 1 << 20) {
            Err(DecodeError::Truncated { missing }) => missing,
            other => panic!("{start} bytes of {len}: {other:?}"),
        };
        assert_eq!(missing(0), RequestHeader::LEN_MIN);
        assert_eq!(missing(RequestHeader::LEN_MIN - 1), 1);
        for start in RequestHeader::LEN_MIN..len {
            // Up to the end of the section in which it ends.
            let section = (start - RequestHeader::LEN_MIN) / PLACE_LEN + 1;
            let end = RequestHeader::LEN_MIN + section * PLACE_LEN;
            assert_eq!(missing(start), end - start);
        }
    }
}

/// What a filter adds to values counts only where there are values.
#[test]
fn keys_of_pulls_are_bounded_and_their_values_are_none() {
    let pull = |row_count: u32, values_len| {
        let coding = Coding {
            filters: "delta-keys,fixed:2".parse().unwrap(),
            keys: CodedKeys::Sent { len: 9 },
            values_len,
        };
        let (kind, reply) = (RequestKind::Pull, Some(Place::default()));
        let header =
            RequestHeader { kind, reply, row_count, coding: Some(coding), width: 1, ..push() };
        RequestHeader::decode(&header.encode(), header.len() as u64 + header.body_len())
    };
    let most = u32::try_from(DECODED_LEN_MAX / 8).unwrap();
    assert!(pull(most, 0).is_ok(), "{:?}", pull(most, 0));
    let refused = pull(most + 1, 0);
    assert!(
        matches!(refused, Err(DecodeError::TooLong { field: "decoded length", value, max })
            if (value, max) == (DECODED_LEN_MAX + 8, DECODED_LEN_MAX)),
        "{refused:?}"
    );
    assert!(pull(2, 4).is_err(), "a pull sends no values, nor the head of some");
}
