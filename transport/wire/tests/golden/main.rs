//! The bytes of one message of every kind, as files: a change of any is a change of the protocol,
//! and needs another [`PROTOCOL_VERSION`](windlass_wire::control::PROTOCOL_VERSION).
#![allow(missing_docs, clippy::unwrap_used)]

mod control;
mod coordination;

use std::{fmt::Write, path::PathBuf};

use windlass_wire::{
    Aggregation, ClusterMap, CompletionWord, Consistency, DataType, Durability, Epoch, Expiry,
    Incarnation, Initializer, NotFinitePolicy, PartitionId, Place, RequestHeader, RequestKind,
    Rows, ScanColumns, Sequence, ServerEntry, ServerId, Status, TableEntry, TableId, TableKind,
    TableSchema, Ticket, UpdateRule, Wire, WorkerClock,
    codec::Tagged,
    control::{ClientRequest, Peer, PeerRole, Provider, SharedRegion, encode_frame},
    coordination::{Instruction, Kept, Order},
    map::{Chain, ServerState},
    request::{CodedKeys, Coding},
    rule::RuleDescription,
    scan::ScanHead,
};

#[test]
fn messages_have_the_bytes_of_their_golden_files() {
    let mut wrong = Vec::new();
    let mut names = Vec::new();
    for (name, bytes) in messages() {
        let file = folder().join(format!("{name}.hex"));
        let expected = std::fs::read_to_string(&file).unwrap_or_default();
        if expected != hex(&bytes) {
            wrong.push(format!("{name}:\n{}", hex(&bytes)));
        }
        names.push(format!("{name}.hex"));
    }
    for entry in std::fs::read_dir(folder()).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if !names.contains(&name) {
            wrong.push(format!("{name} is the file of no message"));
        }
    }
    assert!(
        wrong.is_empty(),
        "the protocol has changed; if it was meant to, raise PROTOCOL_VERSION and run the ignored \
         test `write_golden_files`:\n{}",
        wrong.join("\n")
    );
}

#[test]
#[ignore = "writes the golden files"]
fn write_golden_files() {
    for (name, bytes) in messages() {
        std::fs::write(folder().join(format!("{name}.hex")), hex(&bytes)).unwrap();
    }
}

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("golden")
}

/// Sixteen bytes a line.
fn hex(bytes: &[u8]) -> String {
    let mut text = String::new();
    for line in bytes.chunks(16) {
        for (at, byte) in line.iter().enumerate() {
            write!(text, "{}{byte:02x}", if at == 0 { "" } else { " " }).unwrap();
        }
        text.push('\n');
    }
    text
}

/// Every rule, with another value for each of its hyper-parameters.
fn rules() -> Vec<(String, Vec<u8>)> {
    let text = |rule: &RuleDescription| {
        let values = rule.parameters.iter().zip(1..);
        let mut parts: Vec<String> =
            values.map(|(parameter, at)| format!("{}=0.{at}", parameter.key)).collect();
        parts.extend(rule.flag.map(|flag| format!("{flag}=true")));
        format!("{}:{}", rule.name, parts.join(","))
    };
    let rule = |described| text(described).parse::<UpdateRule>().unwrap().to_bytes();
    UpdateRule::ALL.iter().map(|given| (format!("rule_{}", given.name), rule(given))).collect()
}

fn schema() -> TableSchema {
    TableSchema {
        rule: "adamw:lr=0.5,wd=0.25".parse().unwrap(),
        consistency: Consistency::Bounded { tau: 3 },
        replicas: 2,
        durability: Durability::Interval { milliseconds: 20 },
        not_finite: NotFinitePolicy::Reject {},
        aggregation: Aggregation::Rounds { quorum: 5, fold_late: true },
        ..TableSchema::dense(DataType::Bf16, 0x0102_0304_0506, 128)
    }
}

fn table() -> TableEntry {
    TableEntry { id: TableId(7), name: "embedding/0".to_owned(), schema: schema() }
}

fn map() -> ClusterMap {
    ClusterMap {
        epoch: Epoch(9),
        replicas: 3,
        session_expiry_ms: 0x0036_ee80,
        servers: vec![ServerEntry {
            id: ServerId(1),
            incarnation: Incarnation(0x1111_2222_3333_4444),
            address: "10.0.0.1:7700".to_owned(),
            shard_count: 2,
            state: ServerState::Draining,
        }],
        chains: vec![
            Chain {
                epoch: Epoch(8),
                servers: vec![ServerId(1)],
                tail_joining: true,
                learner: Some(ServerId(2)),
            },
            Chain::default(),
        ],
    }
}

fn region() -> SharedRegion {
    SharedRegion { key: 0x0a0b_0c0d, address: 0x7000_0000_1000, len: 1 << 20 }
}

fn header() -> RequestHeader {
    RequestHeader {
        kind: RequestKind::Push,
        sync: true,
        resumes: false,
        strong: false,
        dtype: DataType::F32,
        table: TableId(7),
        sequence: Sequence(0x0102_0304),
        epoch: Epoch(9),
        clock: WorkerClock(11),
        rows: Rows::Keys,
        row_count: 1,
        width: 2,
        coding: None,
        values: None,
        reply: None,
    }
}

fn request(header: &RequestHeader, body: &[u8]) -> Vec<u8> {
    let mut bytes = header.encode();
    let (keys, values) = body.split_at(usize::try_from(header.sent_keys_len()).unwrap());
    RequestHeader::seal(&mut bytes, keys, values);
    [&bytes, body].concat()
}

fn messages() -> Vec<(String, Vec<u8>)> {
    let place = Place { key: 5, address: 4096 };
    let range = Rows::Range { first: 3 };
    let key = 42_u64.to_le_bytes();
    let body = [&key[..], &1_f32.to_le_bytes(), &(-2_f32).to_le_bytes()].concat();
    let pushed = RequestHeader { rows: range, values: Some(place), ..header() };
    let pulled = RequestHeader { kind: RequestKind::Pull, reply: Some(place), ..header() };
    let both =
        RequestHeader { kind: RequestKind::PushPull, reply: Some(place), rows: range, ..header() };
    let none = RequestHeader { row_count: 0, rows: range, ..header() };
    let clock = RequestHeader { kind: RequestKind::AdvanceClock, ..none };
    let nothing = RequestHeader { kind: RequestKind::Nothing, ..none };
    let scan = RequestHeader {
        kind: RequestKind::Scan,
        sync: false,
        strong: true,
        clock: WorkerClock(0),
        rows: Rows::Partition {
            partition: PartitionId(6),
            from: 0x0102_0304_0506_0708,
            columns: ScanColumns::State,
        },
        row_count: 100,
        width: 5,
        reply: Some(place),
        ..header()
    };
    let coding = Coding {
        filters: "delta-keys,snappy,fixed:2".parse().unwrap(),
        keys: CodedKeys::Keep { len: 1, at: 0x0102_0304 },
        values_len: 8,
    };
    let filtered = RequestHeader { coding: Some(coding), ..header() };
    let answers = [Some(0x0102_0304_0506_0708), None].map(|next| ScanHead { row_count: 3, next });
    let idle = RequestHeader { kind: RequestKind::Idle, ..none };
    let word =
        CompletionWord { number: 0x0102_0304, status: Status::OutOfRange, detail: 0x0a_0b0c };
    let headers = [header(), pulled, both, clock, nothing, idle, scan];
    for kind in RequestKind::ALL {
        let there = headers.iter().any(|header| header.kind == kind);
        assert!(there, "no golden file has the bytes of {}", kind.name());
    }
    let mut all = vec![
        ("request_push".to_owned(), request(&header(), &body)),
        ("request_push_by_reference".to_owned(), request(&pushed, &[])),
        ("request_pull".to_owned(), request(&pulled, &key)),
        ("request_push_pull".to_owned(), request(&both, &body[8..])),
        ("request_advance_clock".to_owned(), request(&clock, &[])),
        ("request_nothing".to_owned(), request(&nothing, &[])),
        ("request_idle".to_owned(), request(&idle, &[])),
        ("request_scan".to_owned(), request(&scan, &[])),
        ("request_push_filtered".to_owned(), request(&filtered, &body[..9])),
        ("scan_answer".to_owned(), answers.map(ScanHead::encode).concat()),
        ("completion".to_owned(), word.encode().to_le_bytes().to_vec()),
        ("frame".to_owned(), encode_frame(&ClientRequest::Map {})),
    ];
    all.extend(rules());
    all.extend(parts());
    all.extend(control::client_requests());
    all.extend(control::client_replies());
    all.extend(control::refusals());
    all.extend(coordination::instructions());
    all.extend(coordination::reports());
    all.extend(coordination::operations());
    all.push((
        "order".to_owned(),
        Order { number: 7, instruction: Instruction::Ping {} }.to_bytes(),
    ));
    all
}

/// A message of every kind there is of a type, by name.
fn every_kind<M: Tagged>(of: &str, messages: Vec<(&str, M)>) -> Vec<(String, Vec<u8>)> {
    check_every_kind(messages.iter().map(|(_, message)| message));
    messages
        .into_iter()
        .map(|(name, message)| (format!("{of}_{name}"), message.to_bytes()))
        .collect()
}

/// Checks that no kind is left out.
fn check_every_kind<'a, M: Tagged + 'a>(messages: impl Iterator<Item = &'a M>) {
    let there: Vec<u8> = messages.map(|message| message.to_bytes()[0]).collect();
    for (tag, name) in M::TAGS {
        assert!(there.contains(tag), "no golden file has the bytes of {name}");
    }
}

/// The kinds of a type that is part of messages, one behind the other.
fn kinds<M: Tagged>(name: &str, all: &[M]) -> (String, Vec<u8>) {
    check_every_kind(all.iter());
    (name.to_owned(), all.iter().flat_map(M::to_bytes).collect())
}

fn parts() -> Vec<(String, Vec<u8>)> {
    let tau = 0x0102_0304_0506_0708;
    let peer = Peer { server: ServerId(2), incarnation: Incarnation(5) };
    vec![
        kinds("kinds_of_tables", &[TableKind::Dense { rows: tau }, TableKind::Sparse {}]),
        kinds(
            "kinds_of_consistency",
            &[Consistency::Sequential {}, Consistency::Bounded { tau }, Consistency::Eventual {}],
        ),
        kinds(
            "kinds_of_durability",
            &[
                Durability::Memory {},
                Durability::Interval { milliseconds: 20 },
                Durability::Sync {},
            ],
        ),
        kinds("kinds_of_not_finite", &[NotFinitePolicy::Accept {}, NotFinitePolicy::Reject {}]),
        kinds(
            "kinds_of_aggregation",
            &[Aggregation::Immediate {}, Aggregation::Rounds { quorum: 5, fold_late: true }],
        ),
        kinds(
            "kinds_of_initializers",
            &[
                Initializer::Zero {},
                Initializer::Constant { value: 0.5 },
                Initializer::Uniform { low: -1.0, high: 1.0, seed: 7 },
                Initializer::Normal { mean: 0.0, deviation: 0.02, seed: 7 },
                Initializer::TruncatedNormal { mean: 0.0, deviation: 0.02, seed: 7 },
            ],
        ),
        ("expiry".to_owned(), Expiry { age_s: 90, rows_max: 1_000_000 }.to_bytes()),
        kinds("kinds_of_providers", &[Provider::Verbs {}, Provider::Shm {}, Provider::Tcp {}]),
        kinds(
            "kinds_of_peers",
            &[PeerRole::Joins {}, PeerRole::Links { peer, ticket: Ticket(0x55aa) }],
        ),
        kinds("kinds_of_kept", &[Kept::Nothing {}, Kept::Whole {}, Kept::Disk {}]),
        ("dtypes".to_owned(), DataType::ALL.iter().flat_map(DataType::to_bytes).collect()),
        (
            "statuses".to_owned(),
            Status::ALL
                .into_iter()
                .flat_map(|status| {
                    CompletionWord { number: 1, status, detail: 2 }.encode().to_le_bytes()
                })
                .collect(),
        ),
    ]
}
