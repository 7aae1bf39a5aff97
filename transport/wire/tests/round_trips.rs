//! Every message comes back as it was, whatever is in it, and no bytes make a decoder panic, read
//! too far or allocate much.
#![allow(missing_docs, clippy::unwrap_used)]

mod messages;

use messages::{
    any_map, any_reply, any_request, any_schema, any_table,
    coordination::{any_instruction, any_order, any_report},
};
use proptest::prelude::*;
use windlass_wire::{
    ClusterMap, CompletionWord, DataType, Epoch, FilterStack, PartitionId, Place, RequestHeader,
    RequestKind, Rows, ScanColumns, Sequence, Status, TableEntry, TableId, TableSchema, UpdateRule,
    Wire, WorkerClock,
    control::{
        ClientReply, ClientRequest, FRAME_HEADER_LEN, decode_frame_header, decode_message,
        encode_frame,
    },
    coordination::{Instruction, Order, Report},
    request::{CodedKeys, Coding, ROWS_MAX, VALUES_LEN_MAX, WIDTH_MAX},
};

fn comes_back<M: Wire + PartialEq + std::fmt::Debug>(message: &M) {
    assert_eq!(M::from_bytes(&message.to_bytes()).as_ref(), Ok(message));
    let frame = encode_frame(message);
    let (header, bytes) = frame.split_at(FRAME_HEADER_LEN);
    let (len, checksum) = decode_frame_header(header.try_into().unwrap()).unwrap();
    assert_eq!(len, bytes.len());
    assert_eq!(decode_message::<M>(bytes, checksum).as_ref(), Ok(message));
    // Nothing shorter or longer is the same message.
    assert!(M::from_bytes(&bytes[..len - 1]).is_err());
    assert!(M::from_bytes(&[bytes, &[0]].concat()).is_err());
}

fn any_header() -> impl Strategy<Value = RequestHeader> {
    let place = || any::<(u32, u64)>().prop_map(|(key, address)| Place { key, address });
    let numbers = any::<(u32, u64, u64, u64, bool)>();
    let rows = prop_oneof![
        (0..u64::MAX - u64::from(ROWS_MAX)).prop_map(|first| Rows::Range { first }),
        Just(Rows::Keys)
    ];
    let size = (0..=ROWS_MAX, 0..=WIDTH_MAX);
    let dtype = proptest::sample::select(DataType::ALL.to_vec());
    (0_u8..7, numbers, rows, size, dtype, proptest::option::of(place()), place()).prop_map(
        |(kind, (table, sequence, epoch, clock, sync), rows, size, dtype, values, reply)| {
            let kind = [
                RequestKind::Push,
                RequestKind::Pull,
                RequestKind::PushPull,
                RequestKind::AdvanceClock,
                RequestKind::Nothing,
                RequestKind::Idle,
                RequestKind::Scan,
            ][usize::from(kind)];
            if kind == RequestKind::Scan {
                return scan_header(
                    &[table, size.0, size.1],
                    [sequence, epoch, clock],
                    sync,
                    reply,
                );
            }
            let row_count = if kind.pushes() || kind.pulls() { size.0 } else { 0 };
            let coding = coding_of(kind, sequence, rows, row_count, dtype);
            let most = VALUES_LEN_MAX / dtype.size() as u64 / u64::from(row_count.max(1));
            RequestHeader {
                kind,
                sync,
                resumes: sync && kind.pushes(),
                strong: sync && !kind.pushes(),
                dtype,
                table: TableId(table),
                sequence: Sequence(sequence),
                epoch: Epoch(epoch),
                clock: WorkerClock(clock),
                rows,
                row_count,
                width: match coding {
                    Some(_) => u32::from(row_count < 1000),
                    None => size.1.min(u32::try_from(most).unwrap_or(u32::MAX)),
                },
                coding,
                values: values.filter(|_| kind.pushes()),
                reply: Some(reply).filter(|_| kind.pulls()),
            }
        },
    )
}

/// Filters that change lengths at will, for requests that are about rows few enough.
fn coding_of(
    kind: RequestKind,
    random: u64,
    rows: Rows,
    row_count: u32,
    dtype: DataType,
) -> Option<Coding> {
    if random.is_multiple_of(2) || !(kind.pushes() || kind.pulls()) || row_count > 100_000 {
        return None;
    }
    let (keys, len) = match rows {
        Rows::Keys => ("delta-keys,snappy", u32::from(random.to_le_bytes()[1])),
        _ => ("", 0),
    };
    let values = if dtype == DataType::F32 { ",fixed:2" } else { "" };
    let mut filters: FilterStack = format!("{keys}{values}").trim_matches(',').parse().unwrap();
    filters.snappy_values = kind.pushes();
    // Of rows of one value, or of none where there are many.
    let plain = if row_count < 1000 { row_count * u32::try_from(dtype.size()).unwrap() } else { 0 };
    let values_len = u32::from(random.to_le_bytes()[2]).min(plain);
    let values_len = if kind.pushes() { values_len } else { 0 };
    let len = len.min(row_count * 8);
    Some(Coding { filters, keys: CodedKeys::Sent { len }, values_len })
}

fn scan_header(
    [table, rows, width]: &[u32; 3],
    [sequence, epoch, from]: [u64; 3],
    strong: bool,
    reply: Place,
) -> RequestHeader {
    let columns = [ScanColumns::Keys, ScanColumns::Values, ScanColumns::State];
    let words = (1 + width % 4096).min(u32::try_from(VALUES_LEN_MAX / 8).unwrap() / 2);
    let most = u32::try_from(VALUES_LEN_MAX / 16).unwrap() / words;
    RequestHeader {
        kind: RequestKind::Scan,
        sync: false,
        resumes: false,
        strong,
        dtype: DataType::F32,
        table: TableId(*table),
        sequence: Sequence(sequence),
        epoch: Epoch(epoch),
        clock: WorkerClock(0),
        rows: Rows::Partition {
            partition: PartitionId(*table),
            from,
            columns: columns[(*rows % 3) as usize],
        },
        row_count: (1 + rows % most).min(ROWS_MAX),
        width: words,
        coding: None,
        values: None,
        reply: Some(reply),
    }
}

proptest! {
    #[test]
    fn requests(message in any_request()) { comes_back(&message); }

    #[test]
    fn replies(message in any_reply()) { comes_back(&message); }

    #[test]
    fn instructions(message in any_instruction()) { comes_back(&message); }

    #[test]
    fn orders(message in any_order()) { comes_back(&message); }

    #[test]
    fn reports(message in any_report()) { comes_back(&message); }

    #[test]
    fn maps(message in any_map()) { comes_back(&message); }

    #[test]
    fn tables(message in any_table()) { comes_back(&message); }

    #[test]
    fn schemas(message in any_schema()) { comes_back(&message); }

    #[test]
    fn request_headers(header in any_header()) {
        let bytes = header.encode();
        let len = bytes.len() as u64 + header.body_len();
        prop_assert_eq!(RequestHeader::decode(&bytes, len), Ok(header));
    }

    #[test]
    fn completions(number: u32, status in 0_u8..19, detail in 0_u32..1 << 24) {
        let status = Status::from_number(status).unwrap();
        let word = CompletionWord { number, status, detail };
        prop_assert_eq!(CompletionWord::decode(word.encode()), Some(word));
    }
}

/// SplitMix64 (Steele, Lea, Flood 2014).
fn word(state: &mut u64) -> u64 {
    *state = state.wrapping_add(1);
    windlass_wire::map::mix(*state)
}

/// What every fuzz target does, on a fixed seed: decodes, and encodes again what was decoded.
#[test]
fn no_bytes_harm_a_decoder() {
    let mut state = 0xf0_2251;
    let seeds: Vec<Vec<u8>> = {
        let mut runner = proptest::test_runner::TestRunner::deterministic();
        let mut value =
            |strategy: BoxedStrategy<Vec<u8>>| strategy.new_tree(&mut runner).unwrap().current();
        (0..64)
            .map(|at| match at % 4 {
                0 => value(any_request().prop_map(|message| message.to_bytes()).boxed()),
                1 => value(any_reply().prop_map(|message| message.to_bytes()).boxed()),
                2 => value(any_instruction().prop_map(|message| message.to_bytes()).boxed()),
                _ => value(any_header().prop_map(|header| header.encode().to_vec()).boxed()),
            })
            .collect()
    };
    let mut decoded = 0_u32;
    for round in 0..400_000_usize {
        let mut bytes = if round % 3 == 0 {
            (0..word(&mut state) % 300).map(|_| word(&mut state).to_le_bytes()[0]).collect()
        } else {
            seeds[round % seeds.len()].clone()
        };
        for _ in 0..word(&mut state) % 5 {
            let at = usize::try_from(word(&mut state) % bytes.len().max(1) as u64).unwrap();
            match word(&mut state) % 3 {
                0 if at < bytes.len() => bytes[at] ^= 1 << (word(&mut state) % 8),
                1 => bytes.truncate(at),
                _ => bytes.insert(at.min(bytes.len()), word(&mut state).to_le_bytes()[0]),
            }
        }
        decoded += u32::from(same_again::<ClientRequest>(&bytes));
        decoded += u32::from(same_again::<ClientReply>(&bytes));
        decoded += u32::from(same_again::<Instruction>(&bytes));
        decoded += u32::from(same_again::<Order>(&bytes));
        decoded += u32::from(same_again::<Report>(&bytes));
        decoded += u32::from(same_again::<ClusterMap>(&bytes));
        decoded += u32::from(same_again::<TableEntry>(&bytes));
        decoded += u32::from(same_again::<TableSchema>(&bytes));
        if let Ok(found) = RequestHeader::decode(&bytes, bytes.len() as u64) {
            assert!(found.values_len() <= VALUES_LEN_MAX || found.row_count == 0);
        }
        assert!(RequestHeader::verify(&bytes).is_err());
        if let Some(rule) = bytes.first_chunk::<{ UpdateRule::ENCODED_LENGTH }>()
            && let Ok(found) = UpdateRule::decode(rule)
        {
            assert_eq!(found.encode(), *rule);
        }
        if let Some(header) = bytes.first_chunk::<FRAME_HEADER_LEN>() {
            let _ = decode_frame_header(header);
        }
        if let Some(word) = bytes.first_chunk::<8>().map(|word| u64::from_le_bytes(*word))
            && let Some(found) = CompletionWord::decode(word)
        {
            assert_eq!(found.encode(), word);
        }
    }
    assert!(decoded > 30_000, "only {decoded} inputs were messages");
}

/// Whether the bytes are a message; if so they are its only encoding.
fn same_again<M: Wire + PartialEq + std::fmt::Debug>(bytes: &[u8]) -> bool {
    match M::from_bytes(bytes) {
        Ok(message) => {
            assert_eq!(message.to_bytes(), bytes);
            true
        }
        Err(_) => false,
    }
}
