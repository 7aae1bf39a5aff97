//! What values of the protocol answer when they are asked, and the exact ends of what is allowed.
#![allow(missing_docs, clippy::unwrap_used)]

use windlass_wire::{
    ClusterMap, DataType, DecodeError, Epoch, FilterStack, Incarnation, Layout, Lsn, PartitionId,
    RequestHeader, RequestKind, RowRange, Rows, Sequence, ServerId, ServerSecret, SessionId,
    Status, TableId, TableKind, TableSchema, UpdateRule, WorkerClock,
    codec::{BLOB_LEN_MAX, Reader},
    control::{FRAME_HEADER_LEN, MESSAGE_LEN_MAX, Provider, decode_frame_header, encode_frame},
    filter::{BodyEncoder, SavedBytes},
    map::{Chain, ServerEntry, ServerState},
    request::{CodedKeys, Coding, WIDTH_MAX},
    scan::{HEAD_LEN, ScanColumns, answer_len},
    schema::{DENSE_ROWS_MAX, REPLICAS_MAX, ROW_LEN_MAX, TABLE_NAME_LEN_MAX, validate_table_name},
};

#[test]
fn numbers_go_up_by_one() {
    assert_eq!(Sequence(7).next(), Sequence(8));
    assert_eq!(Lsn(7).next(), Lsn(8));
    assert_eq!(Epoch(7).next(), Epoch(8));
    assert_eq!(Lsn::MAX, Lsn((1 << 63) - 1));
}

#[test]
fn a_range_has_its_first_row_and_not_its_end() {
    let rows = RowRange::new(4, 6);
    assert_eq!([3, 4, 5, 6].map(|row| rows.contains(row)), [false, true, true, false]);
    assert_eq!(rows.count(), 2);
    assert!(!rows.is_empty() && RowRange::new(4, 4).is_empty());
    assert_eq!(rows.intersection(RowRange::new(5, 9)), Some(RowRange::new(5, 6)));
    assert_eq!(rows.intersection(RowRange::new(6, 9)), None);
}

#[test]
fn a_map_says_who_leads_and_who_answers() {
    let [first, second, down] = [1, 2, 3].map(ServerId);
    let entry = |id, state| ServerEntry {
        id,
        incarnation: Incarnation(5),
        address: "127.0.0.1:1".to_owned(),
        shard_count: 2,
        state,
    };
    let mut map = ClusterMap {
        servers: vec![
            entry(first, ServerState::Up),
            entry(second, ServerState::Up),
            entry(down, ServerState::Down),
        ],
        chains: vec![Chain::default(); 4],
        ..ClusterMap::default()
    };
    assert!(!map.is_founded(), "no chain has an epoch");
    map.chains[1] = Chain { epoch: Epoch(1), servers: vec![second, first], ..Chain::default() };
    assert!(map.is_founded());
    assert_eq!(map.partition_count(), 4);
    assert_eq!(map.head(PartitionId(1)), Some(second));
    assert_eq!(map.tail(PartitionId(1)), Some(first));
    for nobody in [PartitionId(0), PartitionId(4)] {
        assert_eq!((map.head(nobody), map.tail(nobody)), (None, None));
    }
    assert!(map.admits(first, Incarnation(5)));
    assert!(!map.admits(first, Incarnation(6)), "another life");
    assert!(!map.admits(down, Incarnation(5)), "it is down");
    assert!(!map.admits(ServerId(4), Incarnation(5)), "it is not known");
}

#[test]
fn values_are_called_by_their_names() {
    let floats = [DataType::F32, DataType::F64, DataType::F16, DataType::Bf16];
    for dtype in DataType::ALL {
        assert_eq!(dtype.is_float(), floats.contains(&dtype), "{dtype}");
        assert_eq!(dtype.to_string().parse(), Ok(dtype));
        let state = if dtype == DataType::F64 { 8 } else { 4 };
        assert_eq!(UpdateRule::state_value_size(dtype), state, "{dtype}");
    }
    assert_eq!(Provider::ALL.map(Provider::name), ["verbs", "shm", "tcp"]);
    let all: Vec<_> = (0..).map_while(Status::from_number).collect();
    let mut said: Vec<_> = all.iter().map(ToString::to_string).collect();
    said.sort();
    said.dedup();
    assert_eq!(said.len(), all.len(), "no two outcomes are told alike");
    assert!(said.iter().all(|text| !text.is_empty()));
}

#[test]
fn a_message_may_be_as_long_as_its_bound_and_no_longer() {
    let header = |len: usize| {
        let mut frame = encode_frame(&7_u32);
        frame.truncate(FRAME_HEADER_LEN);
        frame[4..8].copy_from_slice(&u32::try_from(len).unwrap().to_le_bytes());
        decode_frame_header(frame.as_slice().try_into().unwrap())
    };
    const { assert!(MESSAGE_LEN_MAX > BLOB_LEN_MAX) };
    assert_eq!(header(MESSAGE_LEN_MAX).unwrap().0, MESSAGE_LEN_MAX);
    for len in [MESSAGE_LEN_MAX + 1, u32::MAX as usize] {
        assert!(matches!(header(len), Err(DecodeError::TooLong { .. })), "{len}");
    }
}

#[test]
fn a_schema_may_be_as_wide_as_its_bound_and_no_wider() {
    let is_valid = |width| TableSchema::sparse(DataType::I8, width).validate().is_ok();
    let widest = WIDTH_MAX;
    assert!(is_valid(1) && !is_valid(0));
    assert!(is_valid(widest) && !is_valid(widest + 1));
}

#[test]
fn a_row_may_be_as_long_as_its_bound_and_no_longer() {
    let longest = u32::try_from(ROW_LEN_MAX / 8).unwrap();
    let is_valid = |dtype, width| TableSchema::dense(dtype, 1, width).validate().is_ok();
    if longest < WIDTH_MAX {
        assert!(is_valid(DataType::F64, longest));
        assert!(!is_valid(DataType::F64, longest + 1));
    }
    assert!(is_valid(DataType::F64, longest.min(WIDTH_MAX)), "the bound itself");
}

#[test]
fn rows_and_their_state_are_as_long_as_their_columns() {
    for width in [1, 3, 16] {
        let mut schema = TableSchema::sparse(DataType::F32, width);
        for (rule, planes, counts) in [("add", 0, 0), ("adagrad", 1, 0), ("adam", 2, 4)] {
            schema.rule = rule.parse().unwrap();
            let row = u64::from(width) * 4;
            assert_eq!(schema.state_planes_len(), planes * row, "{rule}");
            assert_eq!(schema.state_len(), planes * row + counts, "{rule}");
            let words = |columns: ScanColumns| columns.row_words(&schema);
            assert_eq!(words(ScanColumns::Keys), 1);
            assert_eq!(words(ScanColumns::Values), 1 + row.div_ceil(8));
            assert_eq!(words(ScanColumns::State), 1 + (row + planes * row + counts).div_ceil(8));
        }
    }
}

#[test]
fn a_tail_that_is_joining_is_not_read_but_where_it_is_alone() {
    let [first, second] = [1, 2].map(ServerId);
    let mut map = ClusterMap { chains: vec![Chain::default(); 1], ..ClusterMap::default() };
    for (servers, joining, readable) in [
        (vec![], false, vec![]),
        (vec![first], false, vec![first]),
        (vec![first], true, vec![first]),
        (vec![first, second], true, vec![first]),
        (vec![first, second], false, vec![first, second]),
    ] {
        map.chains[0] =
            Chain { epoch: Epoch(1), servers, tail_joining: joining, ..Chain::default() };
        assert_eq!(map.readable(PartitionId(0)), readable);
        assert_eq!(map.read_tail(PartitionId(0)), readable.last().copied());
    }
    assert!(map.readable(PartitionId(1)).is_empty());
}

#[test]
fn a_range_is_said_as_rust_says_it() {
    assert_eq!(RowRange::new(4, 6).to_string(), "4..6");
}

/// Cutting a range gives what asking for the partition of each row would.
#[test]
fn a_range_is_cut_where_partitions_meet() {
    for (table, rows, partitions) in [(0, 10, 4), (3, 1, 8), (7, 64, 8), (200, 1000, 16)] {
        let layout = Layout::new(TableId(table), TableKind::Dense { rows }, partitions);
        assert_eq!(layout.rows_per_partition(), rows.div_ceil(u64::from(partitions)));
        for (start, end) in [(0, rows), (0, rows + 5), (rows / 3, rows / 2), (rows, rows + 1)] {
            let mut expected: Vec<(PartitionId, RowRange)> = Vec::new();
            for row in start..end.min(rows) {
                let partition = layout.partition_of(row);
                match expected.last_mut() {
                    Some((last, piece)) if *last == partition => piece.end += 1,
                    _ => expected.push((partition, RowRange::new(row, row + 1))),
                }
            }
            let cut: Vec<_> = layout.pieces_of(RowRange::new(start, end)).collect();
            assert_eq!(cut, expected, "{start}..{end} of {rows} rows in {partitions}");
        }
    }
    let sparse = Layout::new(TableId(1), TableKind::Sparse {}, 4);
    assert_eq!(sparse.pieces_of(RowRange::new(0, 9)).count(), 0, "keys do not lie in a row");
    assert_eq!(sparse.rows_per_partition(), 1);
}

/// Sessions whose numbers differ in few bits, of a partition that has these bits.
#[test]
fn neighbouring_sessions_spread_over_the_replicas_of_every_partition() {
    let servers: Vec<ServerId> = (0..4).map(ServerId).collect();
    let chain = Chain { epoch: Epoch(1), servers, ..Chain::default() };
    let map = ClusterMap { chains: vec![chain; 256], ..ClusterMap::default() };
    for partition in [0, 1, 85, 255].map(PartitionId) {
        let mut counts = [0; 4];
        for session in (0..256).map(SessionId) {
            let order: Vec<ServerId> = map.any_of(partition, session).collect();
            counts[order[0].0 as usize] += 1;
            let around = (0..4).map(|offset| ServerId((order[0].0 + offset) % 4));
            assert!(order.iter().copied().eq(around), "the others follow in turn: {order:?}");
        }
        assert!(counts.iter().all(|count| (32..=96).contains(count)), "{partition:?}: {counts:?}");
    }
}

#[test]
fn filters_say_what_they_do_to_values() {
    // Filters, whether there are none, whether they code values, whether these have to be finite.
    for (text, is_empty, codes_values, needs_finite) in [
        ("", true, false, false),
        ("delta-keys", false, false, false),
        ("key-cache", false, false, false),
        ("bf16", false, true, false),
        ("f16", false, true, false),
        ("fixed:3", false, true, true),
        ("snappy", false, true, false),
        ("snappy,fixed:1", false, true, true),
    ] {
        let stack: FilterStack = text.parse().unwrap();
        let said = (stack.is_empty(), stack.codes_values(), stack.needs_finite());
        assert_eq!(said, (is_empty, codes_values, needs_finite), "{text}");
    }
    let between: FilterStack = "fixed:2,snappy,delta-keys".parse().unwrap_or_default();
    assert!(between.is_empty(), "delta-keys finds compressed keys");
    // The coding of values stands right behind.
    let keys_only: FilterStack = "snappy,bf16".parse().unwrap();
    assert!(keys_only.snappy_keys && !keys_only.snappy_values);
}

#[test]
fn rules_whose_gradients_may_be_summed_are_known() {
    for (text, is_linear) in [
        ("add", true),
        ("assign", false),
        ("sgd:lr=0.1", true),
        ("sgd:lr=0.1,momentum=0.9", false),
        ("sgd:lr=0.1,weight_decay=0.01", false),
        ("sgd:lr=0.1,momentum=0.9,weight_decay=0.01", false),
        ("sgd:lr=0.1,clip=1", false),
        ("adam:lr=0.1", false),
    ] {
        let rule: UpdateRule = text.parse().unwrap();
        assert_eq!(rule.is_linear(), is_linear, "{text}");
    }
    let unknown = "adma".parse::<UpdateRule>().unwrap_err().to_string();
    for rule in UpdateRule::ALL {
        assert!(unknown.contains(rule.name), "{unknown}");
    }
}

#[test]
fn a_sparse_table_has_no_rows_from_the_start() {
    assert_eq!(TableSchema::sparse(DataType::F32, 4).kind, TableKind::Sparse {});
}

#[test]
fn an_answer_has_a_head_and_its_rows() {
    assert_eq!(answer_len(0, 7), HEAD_LEN as u64);
    assert_eq!(answer_len(3, 5), HEAD_LEN as u64 + 3 * 5 * 8);
}

#[test]
fn a_push_that_is_applied_leaves_its_pull() {
    for (kind, rest) in [
        (RequestKind::PushPull, RequestKind::Pull),
        (RequestKind::Push, RequestKind::Push),
        (RequestKind::Pull, RequestKind::Pull),
        (RequestKind::Scan, RequestKind::Scan),
    ] {
        assert_eq!(kind.without_push(), rest);
    }
}

/// Two wrong bytes that differ alike do not make up for each other.
#[test]
fn a_secret_is_the_same_in_every_byte() {
    let secret = ServerSecret([7; 16]);
    for at in 0..16 {
        for other in 0..16 {
            let mut wrong = [7; 16];
            wrong[at] ^= 1;
            wrong[other] ^= if at == other { 2 } else { 1 };
            assert!(!secret.is(&ServerSecret(wrong)), "bytes {at} and {other}");
        }
    }
}

#[test]
fn what_codings_save_is_counted_under_their_names() {
    let mut saved = SavedBytes::default();
    for (text, bytes) in [("bf16", 1), ("f16", 10), ("fixed:2", 100), ("delta-keys", 1000)] {
        let stack: FilterStack = text.parse().unwrap();
        saved.add(stack.values, bytes);
        saved.add(stack.values, 2 * bytes);
    }
    let by_filter = saved.by_filter();
    assert_eq!(by_filter[3..], [("bf16", 3), ("f16", 30), ("fixed", 300)]);
    assert!(by_filter[..3].iter().all(|(_, bytes)| *bytes == 0));
}

#[test]
fn keys_that_servers_have_are_not_sent() {
    let (mut encoder, mut used) = (BodyEncoder::default(), FilterStack::default());
    let keys = [1, 2, 9];
    encoder
        .encode_keys(&keys, &FilterStack::default(), &mut used, &mut SavedBytes::default())
        .unwrap();
    assert_eq!(encoder.keys().len(), 24);
    encoder.send_no_keys();
    assert_eq!(encoder.keys(), b"");
    assert_ne!(CodedKeys::checksum(&keys), CodedKeys::checksum(&[1, 2, 8]));
}

#[test]
fn rows_and_replicas_may_be_as_many_as_their_bounds_and_no_more() {
    let rows = |rows| TableSchema::dense(DataType::I8, rows, 1).validate().is_ok();
    let most = DENSE_ROWS_MAX;
    assert_eq!(
        [0, 1, 2, most - 1, most, most + 1, u64::MAX].map(rows),
        [false, true, true, true, true, false, false]
    );
    let replicas = |replicas| {
        TableSchema { replicas, ..TableSchema::sparse(DataType::I8, 1) }.validate().is_ok()
    };
    let most = REPLICAS_MAX;
    assert_eq!(
        [0, 1, 2, most - 1, most, most + 1, u8::MAX].map(replicas),
        [false, true, true, true, true, false, false]
    );
}

#[test]
fn a_long_name_is_told_shortly_and_one_that_fits_in_full() {
    let told = |name: &str| validate_table_name(name).unwrap_err().to_string();
    let longest = "\n".repeat(TABLE_NAME_LEN_MAX);
    assert!(told(&longest).contains(&format!("{longest:?} is not valid")));
    let longer = told(&"\n".repeat(TABLE_NAME_LEN_MAX + 1));
    assert!(longer.contains(&format!("... of {} bytes", TABLE_NAME_LEN_MAX + 1)), "{longer}");
}

#[test]
fn every_coding_of_values_has_its_number() {
    let texts = ["", "bf16", "f16", "fixed:1", "fixed:2", "fixed:3", "fixed:4"];
    for (number, text) in (0..).zip(texts) {
        let stack: FilterStack = text.parse().unwrap();
        assert_eq!(stack.to_bytes(), [0, number], "{text}");
        assert_eq!(FilterStack::from_bytes([0, number]), Some(stack), "{text}");
    }
    assert_eq!(FilterStack::from_bytes([0, 7]), None);
}

/// A filter that makes keys no shorter is left out.
#[test]
fn keys_go_plain_where_differences_are_as_long() {
    let stack: FilterStack = "delta-keys".parse().unwrap();
    // Eight bytes as a difference, and seven.
    for (key, is_used, saves) in [(1_u64 << 49, false, 0), ((1 << 49) - 1, true, 1)] {
        let (mut used, mut saved) = (FilterStack::default(), SavedBytes::default());
        let mut encoder = BodyEncoder::default();
        encoder.encode_keys(&[key], &stack, &mut used, &mut saved).unwrap();
        assert_eq!((used.delta_keys, saved.delta_keys), (is_used, saves), "{key:#x}");
        assert_eq!(encoder.keys().len(), 8 - usize::from(is_used));
    }
}

#[test]
fn a_reader_knows_what_is_left_and_believes_no_count() {
    let bytes = [3, 0, 0, 0, 1, 2, 3, 4, 5, 6];
    let mut reader = Reader::new(&bytes);
    assert_eq!(reader.remaining(), 10);
    assert_eq!(reader.count("things", 3, 2), Ok(3));
    assert_eq!(reader.remaining(), 6);
    let count = |max, len| Reader::new(&bytes).count("things", max, len);
    assert!(matches!(count(3, 3), Err(DecodeError::Truncated { missing: 3 })));
    assert!(matches!(count(2, 1), Err(DecodeError::TooLong { value: 3, max: 2, .. })));
}

#[test]
fn an_answer_to_a_pull_is_as_long_as_its_coding_makes_it() {
    let coding = |filters: &str| {
        let (filters, keys) = (filters.parse().unwrap(), CodedKeys::Sent { len: 0 });
        Some(Coding { filters, keys, values_len: 0 })
    };
    let header = |kind, coding| RequestHeader {
        kind,
        sync: false,
        resumes: false,
        strong: false,
        dtype: DataType::F32,
        table: TableId(3),
        sequence: Sequence(9),
        epoch: Epoch(2),
        clock: WorkerClock(5),
        rows: Rows::Keys,
        row_count: 6,
        width: 5,
        coding,
        values: None,
        reply: None,
    };
    let len = |kind, coding| header(kind, coding).answer_len();
    assert_eq!(len(RequestKind::Pull, None), 120);
    assert_eq!(len(RequestKind::Pull, coding("bf16")), 60);
    assert_eq!(len(RequestKind::Pull, coding("fixed:1")), 34);
    assert_eq!(len(RequestKind::PushPull, coding("bf16")), 120, "it codes what is pushed");
    assert_eq!(len(RequestKind::Scan, None), answer_len(6, 5));
}
