//! Frames come back as they went, and nothing else is taken for one.

use super::*;

const P: PartitionId = PartitionId(0x0102);
const E: Epoch = Epoch(7);

fn frames() -> Vec<(ChainFrame, Vec<u8>)> {
    let at = ChainPosition { epoch: Epoch(5), lsn: Lsn(99) };
    let bare = |frame| (frame, Vec::new());
    vec![
        (ChainFrame::Records { partition: P, epoch: E, first: Lsn(3) }, vec![1; 64]),
        (
            ChainFrame::RecordPiece { partition: P, epoch: E, lsn: Lsn(3), offset: 64, len: 128 },
            vec![2; 64],
        ),
        bare(ChainFrame::Committed { partition: P, epoch: E, lsn: Lsn(8) }),
        bare(ChainFrame::Report { partition: P, epoch: E, position: Some(at), attempt: 1 << 40 }),
        bare(ChainFrame::Report { partition: P, epoch: E, position: None, attempt: 2 }),
        bare(ChainFrame::AskReport { partition: P, epoch: E }),
        bare(ChainFrame::Welcome { partition: P, epoch: E, last: Lsn(4) }),
        bare(ChainFrame::CopyFrom { partition: P, epoch: E, start: at }),
        (
            ChainFrame::CopyRows {
                partition: P,
                epoch: E,
                table: TableId(4),
                index: 77,
                offset: 8,
                len: 48,
            },
            vec![3; 40],
        ),
        (
            ChainFrame::CopyClock { partition: P, epoch: E, table: TableId(4), offset: 0, len: 12 },
            vec![5; 12],
        ),
        (
            ChainFrame::CopyEnd {
                partition: P,
                epoch: E,
                start: Lsn(9),
                through: Lsn(12),
                offset: 0,
                len: 12,
            },
            vec![0; 12],
        ),
        bare(ChainFrame::Refuse { partition: P, epoch: E }),
        bare(ChainFrame::Ping { asked_at: 123 }),
        bare(ChainFrame::Grant { asked_at: 123, map_epoch: E }),
    ]
}

#[test]
fn frames_come_back_and_flipped_bits_are_refused() {
    for (frame, body) in frames() {
        let bytes = frame.encode(&body);
        assert_eq!(ChainFrame::decode(&bytes, &body), Ok(frame));
        for bit in 0..HEADER_LEN * 8 {
            let mut bad = bytes;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(ChainFrame::decode(&bad, &body).is_err(), "{frame:?} bit {bit}");
        }
        let mut longer = body.clone();
        longer.resize(BODY_LEN_MAX + 1, 0);
        assert!(ChainFrame::decode(&bytes, &longer).is_err());
    }
}

#[test]
fn positions_that_no_log_has_are_refused() {
    for lsn in [Lsn(Lsn::MAX.0 + 1), Lsn(u64::MAX)] {
        let at = ChainPosition { epoch: Epoch(5), lsn };
        let (start, through, offset, len) = (lsn, lsn, 0, 1);
        let frames = [
            (ChainFrame::Records { partition: P, epoch: E, first: lsn }, &[1_u8; 64][..]),
            (ChainFrame::RecordPiece { partition: P, epoch: E, lsn, offset, len }, &[1]),
            (ChainFrame::Committed { partition: P, epoch: E, lsn }, &[]),
            (ChainFrame::Report { partition: P, epoch: E, position: Some(at), attempt: 3 }, &[]),
            (ChainFrame::Welcome { partition: P, epoch: E, last: lsn }, &[]),
            (ChainFrame::CopyFrom { partition: P, epoch: E, start: at }, &[]),
            (ChainFrame::CopyEnd { partition: P, epoch: E, start, through, offset, len }, &[1]),
        ];
        for (frame, body) in frames {
            let decoded = ChainFrame::decode(&frame.encode(body), body);
            assert!(matches!(decoded, Err(DecodeError::TooLong { .. })), "{frame:?}: {decoded:?}");
        }
    }
    let highest = ChainFrame::Committed { partition: P, epoch: E, lsn: Lsn::MAX };
    assert_eq!(ChainFrame::decode(&highest.encode(&[]), &[]), Ok(highest));
}

#[test]
fn a_report_has_these_bytes() {
    let at = ChainPosition { epoch: Epoch(5), lsn: Lsn(99) };
    let frame = ChainFrame::Report { partition: P, epoch: E, position: Some(at), attempt: 3 };
    let mut expected = [0_u8; HEADER_LEN];
    expected[0] = 4;
    expected[1] = 1;
    expected[4..6].copy_from_slice(&[2, 1]);
    expected[8] = 7;
    expected[16] = 5;
    expected[24] = 99;
    expected[32] = 3;
    let checksum = Checksum::of(&expected);
    expected[40..44].copy_from_slice(&checksum.0.to_le_bytes());
    assert_eq!(frame.encode(&[]), expected);
}

/// A header changed by hand, with the checksum it should have then.
fn changed(frame: ChainFrame, change: impl FnOnce(&mut [u8; HEADER_LEN])) -> [u8; HEADER_LEN] {
    let mut bytes = frame.encode(&[]);
    bytes[CHECKSUM_AT..].fill(0);
    change(&mut bytes);
    let checksum = Checksum::of(&bytes);
    bytes[CHECKSUM_AT..CHECKSUM_AT + 4].copy_from_slice(&checksum.0.to_le_bytes());
    bytes
}

#[test]
fn a_field_that_a_kind_has_not_is_refused() {
    let ping = ChainFrame::Ping { asked_at: 123 };
    assert_eq!(ChainFrame::decode(&changed(ping, |_| {}), &[]), Ok(ping));
    // Flags, partition, epoch, the second word, and both halves.
    for at in [1, 4, 8, 24, 32, 36] {
        let decoded = ChainFrame::decode(&changed(ping, |bytes| bytes[at] = 1), &[]);
        assert!(matches!(decoded, Err(DecodeError::Inconsistent { .. })), "byte {at}: {decoded:?}");
    }
}

#[test]
fn bodies_are_as_long_as_their_kind_allows() {
    let decode = |frame: ChainFrame, body: &[u8]| ChainFrame::decode(&frame.encode(body), body);
    let body = vec![7; BODY_LEN_MAX + 1];
    let records = ChainFrame::Records { partition: P, epoch: E, first: Lsn(3) };
    assert_eq!(decode(records, &body[1..]), Ok(records));
    assert!(matches!(decode(records, &body), Err(DecodeError::TooLong { .. })));
    assert!(matches!(decode(records, &[]), Err(DecodeError::Inconsistent { .. })));
    let ask = ChainFrame::AskReport { partition: P, epoch: E };
    assert_eq!(decode(ask, &body[..2]), Err(DecodeError::Trailing { extra: 2 }));
    let piece =
        |offset, len| ChainFrame::RecordPiece { partition: P, epoch: E, lsn: Lsn(3), offset, len };
    assert!(decode(piece(WHOLE_LEN_MAX - 8, WHOLE_LEN_MAX), &body[..8]).is_ok());
    assert!(matches!(
        decode(piece(0, WHOLE_LEN_MAX + 1), &body[..8]),
        Err(DecodeError::TooLong { .. })
    ));
    for (offset, len) in [(9, 16), (u32::MAX, 16), (0, 7)] {
        let decoded = decode(piece(offset, len), &body[..8]);
        assert!(matches!(decoded, Err(DecodeError::Inconsistent { .. })), "{offset} of {len}");
    }
    assert!(matches!(decode(piece(0, 16), &[]), Err(DecodeError::Inconsistent { .. })));
    // A part of a copy may have no rows.
    assert_eq!(decode(piece(0, 0), &[]), Ok(piece(0, 0)));
}

/// Records have checksums of their own, which are looked at where they are applied.
#[test]
fn checksums_cover_all_bodies_but_those_with_records() {
    for (frame, body) in frames().into_iter().filter(|(_, body)| !body.is_empty()) {
        let mut other = body.clone();
        other[0] ^= 1;
        let holds_records =
            matches!(frame, ChainFrame::Records { .. } | ChainFrame::RecordPiece { .. });
        let decoded = ChainFrame::decode(&frame.encode(&body), &other);
        assert_eq!(decoded.is_ok(), holds_records, "{frame:?}");
    }
}
