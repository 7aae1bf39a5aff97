//! The bytes of one message of every kind, as files: a change of any is a change of the protocol,
//! and needs another [`PROTOCOL_VERSION`](windlass_wire::control::PROTOCOL_VERSION).
#![allow(missing_docs, clippy::unwrap_used)]

use std::{fmt::Write, path::PathBuf};

use windlass_wire::{
    Aggregation, Blob, ClusterMap, CompletionWord, Consistency, DataType, Durability, Epoch,
    Incarnation, Lsn, NotFinitePolicy, PartitionId, Place, RequestHeader, RequestKind, Rows,
    ScanColumns, Sequence, ServerEntry, ServerId, ServerSecret, SessionId, ShardId, Status,
    TableEntry, TableId, TableSchema, Ticket, UpdateRule, Wire, WorkerClock, WorkerRank,
    control::{
        ClientReply, ClientRequest, ClockPlace, PartitionPlace, Peer, PeerRole, Provider,
        RefusalKind, SharedRegion, encode_frame,
    },
    coordination::{
        CoordinatorStatus, EmptiedTable, Instruction, Kept, LatePeer, Operation, Order,
        OrderRefusal, PartitionChecksum, PeerTicket, Report, SeparatedPair, WorkerEntry,
        WorkerPulse,
    },
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
    all.extend(client_requests());
    all.extend(client_replies());
    all.extend(refusals());
    all.extend(instructions());
    all.extend(reports());
    all.push((
        "order".to_owned(),
        Order { number: 7, instruction: Instruction::Ping {} }.to_bytes(),
    ));
    all
}

fn named<M: Wire>(kind: &str, messages: Vec<(&str, M)>) -> Vec<(String, Vec<u8>)> {
    messages
        .into_iter()
        .map(|(name, message)| (format!("{kind}_{name}"), message.to_bytes()))
        .collect()
}

fn client_requests() -> Vec<(String, Vec<u8>)> {
    use ClientRequest as Request;
    let (name, shard) = ("t".to_owned(), ShardId(3));
    let peer = Peer { server: ServerId(2), incarnation: Incarnation(5) };
    let hello = Request::Hello {
        version: 1,
        token: "secret".to_owned(),
        session: SessionId(0x0102_0304_0506_0708),
        incarnation: Incarnation(2),
        rank: Some(WorkerRank(4)),
        host: "boot/net/0".to_owned(),
        peer: Some(PeerRole::Links { peer, ticket: Ticket(0x1122_3344_5566_7788) }),
    };
    let joins = Request::Hello {
        version: 1,
        token: String::new(),
        session: SessionId(1),
        incarnation: Incarnation(2),
        rank: None,
        host: String::new(),
        peer: Some(PeerRole::Joins {}),
    };
    let open =
        Request::OpenMailbox { shard, provider: Provider::Shm {}, endpoint: Blob(vec![1, 2, 3]) };
    let join = Request::Join {
        server: Some(ServerId(4)),
        cluster: 9,
        address: "10.0.0.2:7700".to_owned(),
        shard_count: 2,
        incarnation: Incarnation(5),
        kept: Kept::Whole {},
        secret: ServerSecret(*b"0123456789abcdef"),
    };
    let attach = Request::AttachMailbox { shard, reply: region(), completion_slots: 1024 };
    let mut requests = named(
        "client_request",
        vec![
            ("hello", hello),
            ("map", Request::Map {}),
            ("create_table", Request::CreateTable { name: name.clone(), schema: schema() }),
            ("open_table", Request::OpenTable { name: name.clone() }),
            ("drop_table", Request::DropTable { name }),
            ("list_tables", Request::ListTables {}),
            ("open_mailbox", open),
            ("attach_mailbox", attach),
            ("locate", Request::Locate { table: TableId(7), shard }),
            ("statistics", Request::Statistics {}),
            ("shutdown", Request::Shutdown {}),
            ("hello_joins", joins),
            ("join", join),
            ("join_clock", Request::JoinClock { table: TableId(7), shard }),
            ("leave_clocks", Request::LeaveClocks {}),
            ("checkpoint", Request::Checkpoint {}),
            ("coordinator_status", Request::CoordinatorStatus {}),
            ("operate", Request::Operate { operation: Operation::Drain { server: ServerId(4) } }),
            ("checksums", Request::Checksums {}),
            (
                "register_worker",
                Request::RegisterWorker { rank: Some(WorkerRank(2)), incarnation: Incarnation(5) },
            ),
            (
                "leave_worker",
                Request::LeaveWorker { rank: WorkerRank(2), incarnation: Incarnation(5) },
            ),
        ],
    );
    requests.extend(alterations());
    requests
}

fn alterations() -> Vec<(String, Vec<u8>)> {
    use ClientRequest as Request;
    let name = || "t".to_owned();
    let consistency = Consistency::Bounded { tau: 8 };
    named(
        "client_request",
        vec![
            ("alter_table", Request::AlterTable { name: name(), consistency }),
            ("set_rule", Request::SetRule { name: name(), parameters: "lr=0.25".to_owned() }),
            (
                "set_rows",
                Request::SetRows {
                    table: TableId(7),
                    partition: PartitionId(3),
                    first: 9,
                    values: Blob(vec![1, 2, 3, 4]),
                },
            ),
            (
                "set_keys",
                Request::SetKeys {
                    table: TableId(7),
                    partition: PartitionId(3),
                    with_state: true,
                    rows: Blob(vec![1, 2, 3, 4]),
                },
            ),
        ],
    )
}

fn client_replies() -> Vec<(String, Vec<u8>)> {
    use ClientReply as Reply;
    let welcome = Reply::Welcome {
        session: SessionId(6),
        server: ServerId(1),
        incarnation: Incarnation(2),
        started: Incarnation(5),
        shard_count: 4,
        providers: vec![Provider::Verbs {}, Provider::Tcp {}],
        notes: vec!["shm: another host".to_owned()],
    };
    let attached = Reply::Attached {
        mailbox: region(),
        ring_len: 1 << 20,
        spin_us: 50,
        by_reference_len: 16 << 10,
        kept_keys_max: 131_072,
    };
    let place = PartitionPlace {
        partition: PartitionId(5),
        region: region(),
        offset: 64,
        first_row: 100,
        row_count: 50,
        block_rows: 15,
        block_stride: 1024,
    };
    let clock = ClockPlace { region: region(), offset: 128, clock: WorkerClock(9) };
    named(
        "client_reply",
        vec![
            ("welcome", welcome),
            ("map", Reply::Map { map: map() }),
            ("table", Reply::Table { table: table() }),
            ("tables", Reply::Tables { tables: vec![table()] }),
            ("mailbox", Reply::Mailbox { endpoint: Blob(vec![9, 8]) }),
            ("attached", attached),
            ("located", Reply::Located { places: vec![place] }),
            ("statistics", Reply::Statistics { json: Blob(b"{}".to_vec()) }),
            ("done", Reply::Done {}),
            ("clock_joined", Reply::ClockJoined { place: clock }),
            ("joined", Reply::Joined { server: ServerId(3), cluster: 9, heartbeat_ms: 100 }),
            ("coordinator_status", Reply::CoordinatorStatus { status: status() }),
            (
                "checksums",
                Reply::Checksums {
                    partitions: vec![PartitionChecksum {
                        partition: PartitionId(5),
                        lsn: Lsn(6),
                        checksum: 7,
                    }],
                },
            ),
            (
                "worker_registered",
                Reply::WorkerRegistered { rank: WorkerRank(2), clock: WorkerClock(8) },
            ),
        ],
    )
}

fn refusals() -> Vec<(String, Vec<u8>)> {
    use RefusalKind as Kind;
    let kinds = vec![
        ("version", Kind::Version {}),
        ("token", Kind::Token {}),
        ("unknown_table", Kind::UnknownTable {}),
        ("table_exists", Kind::TableExists {}),
        ("invalid", Kind::Invalid {}),
        ("full", Kind::Full {}),
        ("shutting_down", Kind::ShuttingDown {}),
        ("no_coordinator", Kind::NoCoordinator {}),
        ("internal", Kind::Internal {}),
        ("stale_epoch", Kind::StaleEpoch { epoch: Epoch(8) }),
        ("no_mailbox", Kind::NoMailbox {}),
    ];
    let refused = |status| ClientReply::Refused { status, text: "no".to_owned() };
    named(
        "client_reply_refused",
        kinds.into_iter().map(|(name, kind)| (name, refused(kind))).collect(),
    )
}

fn instructions() -> Vec<(String, Vec<u8>)> {
    let alter =
        Instruction::AlterTable { table: TableId(7), consistency: Consistency::Sequential {} };
    named(
        "instruction",
        vec![
            ("install_map", Instruction::InstallMap { map: map() }),
            ("create_table", Instruction::CreateTable { table: table() }),
            ("drop_table", Instruction::DropTable { table: TableId(7) }),
            ("ping", Instruction::Ping {}),
            ("alter_table", alter),
            ("set_rule", Instruction::SetRule { table: TableId(7), rule: schema().rule }),
            (
                "set_tables",
                Instruction::SetTables { partitions: 64, next_table: 8, tables: vec![table()] },
            ),
            ("fence", Instruction::Fence { incarnation: Incarnation(5), known: Incarnation(6) }),
            ("set_workers", Instruction::SetWorkers { workers: status().workers }),
            ("leave", Instruction::Leave {}),
            (
                "introduce",
                Instruction::Introduce {
                    tickets: vec![PeerTicket { server: ServerId(2), ticket: Ticket(0x55aa) }],
                },
            ),
        ],
    )
}

fn status() -> CoordinatorStatus {
    CoordinatorStatus {
        leads: true,
        store: "etcd".to_owned(),
        store_error: None,
        connected: vec![ServerId(1), ServerId(4)],
        resting: vec![ServerId(3)],
        separated: vec![SeparatedPair { a: ServerId(1), b: ServerId(4) }],
        workers: vec![WorkerEntry { rank: WorkerRank(2), live: false, clock: WorkerClock(8) }],
        copies_under_way: 3,
        emptied: vec![EmptiedTable { table: TableId(7), server: ServerId(4), seconds: 1 << 30 }],
        map: map(),
    }
}

fn reports() -> Vec<(String, Vec<u8>)> {
    let (partition, epoch, server) = (PartitionId(5), Epoch(8), ServerId(4));
    let workers = vec![WorkerPulse {
        rank: WorkerRank(2),
        incarnation: Incarnation(5),
        clock: WorkerClock(8),
    }];
    let refusal = OrderRefusal { status: RefusalKind::Full {}, text: "no".to_owned() };
    named(
        "report",
        vec![
            ("heartbeat", Report::Heartbeat { map_epoch: epoch, workers }),
            ("answer", Report::Answer { number: 7, refusal: Some(refusal) }),
            ("suspect", Report::Suspect { server }),
            ("caught_up", Report::CaughtUp { partition, epoch }),
            ("synchronised", Report::Synchronised { partition, epoch }),
            ("rejected", Report::Rejected { partition, epoch, server }),
            ("want_map", Report::WantMap {}),
            ("disk_failed", Report::DiskFailed {}),
            ("emptied", Report::Emptied { tables: vec![TableId(7)] }),
            ("hearing", Report::Hearing { ping: 9, late: vec![LatePeer { server, late_ms: 350 }] }),
        ],
    )
}
