//! What clients ask and are answered.

use windlass_wire::{
    Blob, Consistency, Epoch, Incarnation, Lsn, PartitionId, ServerId, ServerSecret, SessionId,
    ShardId, TableId, Ticket, Wire, WorkerClock, WorkerRank,
    control::{
        ClientReply, ClientRequest, ClockPlace, PartitionPlace, Peer, PeerRole, Provider,
        RefusalKind, WhichRows,
    },
    coordination::{Kept, Operation, PartitionChecksum},
};

use super::coordination::status;
use super::{check_every_kind, every_kind, map, region, schema, table};

pub(crate) fn client_requests() -> Vec<(String, Vec<u8>)> {
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
    let mut requests = vec![
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
        ("leave_worker", Request::LeaveWorker { rank: WorkerRank(2), incarnation: Incarnation(5) }),
    ];
    requests.extend(alterations());
    every_kind("client_request", requests)
}

fn alterations() -> Vec<(&'static str, ClientRequest)> {
    use ClientRequest as Request;
    let name = || "t".to_owned();
    let consistency = Consistency::Bounded { tau: 8 };
    vec![
        ("alter_table", Request::AlterTable { name: name(), consistency }),
        (
            "set_expiry",
            Request::SetExpiry {
                name: name(),
                expiry: windlass_wire::Expiry { age_s: 90, rows_max: 5 },
            },
        ),
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
        (
            "remove_rows",
            Request::RemoveRows {
                table: TableId(7),
                partition: PartitionId(3),
                which: WhichRows::Keys { keys: Blob(vec![1, 2, 3, 4]) },
            },
        ),
        (
            "remove_rows_below",
            Request::RemoveRows {
                table: TableId(7),
                partition: PartitionId(3),
                which: WhichRows::Below { norm: 0.25, from: 9 },
            },
        ),
    ]
}

pub(crate) fn client_replies() -> Vec<(String, Vec<u8>)> {
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
    // Refusals, of every kind, are files of their own.
    let refused = Reply::Refused { status: RefusalKind::Invalid {}, text: "no".to_owned() };
    every_kind(
        "client_reply",
        vec![
            ("refused_invalid", refused),
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
            ("rows_removed", Reply::RowsRemoved { rows: 5, next: Some(9) }),
            (
                "worker_registered",
                Reply::WorkerRegistered { rank: WorkerRank(2), clock: WorkerClock(8) },
            ),
        ],
    )
}

pub(crate) fn refusals() -> Vec<(String, Vec<u8>)> {
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
    check_every_kind(kinds.iter().map(|(_, kind)| kind));
    let refused = |status| ClientReply::Refused { status, text: "no".to_owned() };
    kinds
        .into_iter()
        .map(|(name, kind)| (format!("client_reply_refused_{name}"), refused(kind).to_bytes()))
        .collect()
}
