//! Headers as they are encoded, sealed and refused.

use super::*;

pub(super) fn push() -> RequestHeader {
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
        values: None,
        reply: None,
    }
}

#[test]
fn checksums_leave_long_values_out() {
    let long = vec![1; usize::try_from(CHECKED_VALUES_LEN_MAX).unwrap() + 1];
    assert_eq!(RequestHeader::checked(&long), &[0_u8; 0]);
    assert_eq!(RequestHeader::checked(&long[1..]), &long[1..]);
}

#[test]
fn headers_round_trip_and_verify() {
    let body = [7_u8; 48];
    let headers = [
        push(),
        RequestHeader {
            rows: Rows::Range { first: 10 },
            values: Some(Place { key: 4, address: 4096 }),
            ..push()
        },
        RequestHeader {
            kind: RequestKind::PushPull,
            reply: Some(Place { key: 1, address: 64 }),
            sync: true,
            resumes: true,
            strong: false,
            ..push()
        },
    ];
    for header in headers {
        let body = &body[..usize::try_from(header.body_len()).unwrap()];
        let mut bytes = header.encode();
        RequestHeader::seal(&mut bytes, &[body]);
        assert_eq!(RequestHeader::decode(&bytes, body.len() as u64), Ok(header));
        assert_eq!(RequestHeader::verify(&bytes, &[body]), Ok(()));
        let mut message = [&bytes, body].concat();
        let len = message.len() as u64;
        let opened = RequestHeader::open(&mut message, len).unwrap();
        assert_eq!((opened.header, opened.len), (header, RequestHeader::LEN));
        assert_eq!(opened.sealed, Checksum::of(&message));
        assert!(RequestHeader::open(&mut message, len + 1).is_err());
        assert!(RequestHeader::decode(&bytes, body.len() as u64 + 1).is_err());
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes;
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(
                RequestHeader::verify(&damaged, &[body]).is_err(),
                "flip of bit {bit} went unnoticed"
            );
        }
    }
}

#[test]
fn lengths_out_of_bounds_are_refused() {
    let wide = RequestHeader { width: WIDTH_MAX, row_count: ROWS_MAX, ..push() };
    assert!(matches!(
        RequestHeader::decode(&wide.encode(), wide.body_len()),
        Err(DecodeError::TooLong { .. })
    ));
    let far = RequestHeader { rows: Rows::Range { first: u64::MAX }, ..push() };
    assert!(RequestHeader::decode(&far.encode(), far.body_len()).is_err());
}
