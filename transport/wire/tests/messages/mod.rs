//! One message of every kind, and any message of any kind.

pub(crate) mod coordination;

use proptest::{option, prelude::*};
use windlass_wire::{
    Aggregation, Blob, ClusterMap, Consistency, DataType, Durability, Epoch, Expiry, Incarnation,
    Initializer, NotFinitePolicy, PartitionId, ServerEntry, ServerId, ServerSecret, SessionId,
    ShardId, TableEntry, TableId, TableKind, TableSchema, Ticket, UpdateRule, WorkerClock,
    WorkerRank,
    control::{
        ClientReply, ClientRequest, ClockPlace, PartitionPlace, Peer, PeerRole, Provider,
        RefusalKind, SharedRegion, WhichRows,
    },
    coordination::Kept,
    map::{Chain, ServerState},
};

pub(crate) fn rules() -> Vec<UpdateRule> {
    [
        "add",
        "assign",
        "sgd:lr=0.5,momentum=0.25",
        "adagrad:lr=0.5",
        "adam:lr=0.5,wd=0.25",
        "ftrl:alpha=0.5,l1=1",
    ]
    .iter()
    .map(|text| text.parse().unwrap_or_else(|error| panic!("{text}: {error}")))
    .collect()
}

pub(crate) fn any_schema() -> impl Strategy<Value = TableSchema> {
    let kind = prop_oneof![
        any::<u64>().prop_map(|rows| TableKind::Dense { rows }),
        Just(TableKind::Sparse {})
    ];
    let consistency = prop_oneof![
        Just(Consistency::Sequential {}),
        any::<u64>().prop_map(|tau| Consistency::Bounded { tau }),
        Just(Consistency::Eventual {})
    ];
    let durability = prop_oneof![
        Just(Durability::Memory {}),
        any::<u32>().prop_map(|milliseconds| Durability::Interval { milliseconds }),
        Just(Durability::Sync {})
    ];
    let aggregation = prop_oneof![
        Just(Aggregation::Immediate {}),
        any::<(u32, bool)>()
            .prop_map(|(quorum, fold_late)| Aggregation::Rounds { quorum, fold_late })
    ];
    let policy = prop_oneof![Just(NotFinitePolicy::Accept {}), Just(NotFinitePolicy::Reject {})];
    let dtype = proptest::sample::select(DataType::ALL.to_vec());
    let rule = proptest::sample::select(rules());
    let numbers = any::<(f64, f64, u64)>();
    let initializer = (0..5, numbers)
        .prop_filter("equal to themselves", |(_, (first, second, _))| {
            !first.is_nan() && !second.is_nan()
        });
    let initializer = initializer.prop_map(|(kind, (first, second, seed))| match kind {
        0 => Initializer::Zero {},
        1 => Initializer::Constant { value: first },
        2 => Initializer::Uniform { low: first, high: second, seed },
        3 => Initializer::Normal { mean: first, deviation: second, seed },
        _ => Initializer::TruncatedNormal { mean: first, deviation: second, seed },
    });
    let expiry = any::<(u32, u64)>().prop_map(|(age_s, rows_max)| Expiry { age_s, rows_max });
    let rule = (rule, initializer, expiry);
    (dtype, any::<u32>(), kind, rule, consistency, any::<u8>(), durability, policy, aggregation)
        .prop_map(
            |(
                dtype,
                width,
                kind,
                (rule, initializer, expiry),
                consistency,
                replicas,
                durability,
                not_finite,
                aggregation,
            )| {
                TableSchema {
                    dtype,
                    width,
                    kind,
                    rule,
                    first_rule: (replicas % 2 == 1).then(|| Box::new(rule)),
                    consistency,
                    replicas,
                    durability,
                    not_finite,
                    aggregation,
                    initializer,
                    expiry,
                }
            },
        )
}

pub(crate) fn any_table() -> impl Strategy<Value = TableEntry> {
    (any::<u32>(), any::<String>(), any_schema()).prop_map(|(id, name, schema)| TableEntry {
        id: TableId(id),
        name,
        schema,
    })
}

pub(crate) fn any_map() -> impl Strategy<Value = ClusterMap> {
    let server = (any::<u32>(), any::<u64>(), any::<String>(), any::<u16>()).prop_map(
        |(id, incarnation, address, shard_count)| ServerEntry {
            id: ServerId(id),
            incarnation: Incarnation(incarnation),
            address,
            shard_count,
            state: match id % 3 {
                0 => ServerState::Up,
                1 => ServerState::Draining,
                _ => ServerState::Down,
            },
        },
    );
    let servers = proptest::collection::vec(any::<u32>().prop_map(ServerId), 0..5);
    let learner = proptest::option::of(any::<u32>().prop_map(ServerId));
    let chain = (any::<u64>(), servers, any::<bool>(), learner).prop_map(
        |(epoch, servers, tail_joining, learner)| Chain {
            epoch: Epoch(epoch),
            servers,
            tail_joining,
            learner,
        },
    );
    let servers = proptest::collection::vec(server, 0..5);
    let chains = proptest::collection::vec(chain, 0..70);
    (any::<u64>(), any::<(u8, u32)>(), servers, chains).prop_map(
        |(epoch, (replicas, session_expiry_ms), servers, chains)| ClusterMap {
            epoch: Epoch(epoch),
            replicas,
            session_expiry_ms,
            servers,
            chains,
        },
    )
}

fn any_blob() -> impl Strategy<Value = Blob> {
    proptest::collection::vec(any::<u8>(), 0..600).prop_map(Blob)
}

fn any_region() -> impl Strategy<Value = SharedRegion> {
    any::<(u32, u64, u64)>().prop_map(|(key, address, len)| SharedRegion { key, address, len })
}

fn any_place() -> impl Strategy<Value = PartitionPlace> {
    (any::<(u32, u64, u64, u64, u32, u32)>(), any_region()).prop_map(|(numbers, region)| {
        let (partition, offset, first_row, row_count, block_rows, block_stride) = numbers;
        let partition = PartitionId(partition);
        PartitionPlace { partition, region, offset, first_row, row_count, block_rows, block_stride }
    })
}

fn any_provider() -> impl Strategy<Value = Provider> {
    proptest::sample::select(Provider::ALL.to_vec())
}

pub(crate) fn any_request() -> impl Strategy<Value = ClientRequest> {
    use ClientRequest as Request;
    let text = any::<String>;
    let shard = || any::<u16>().prop_map(ShardId);
    let peer = option::of(option::of(any::<(u32, u64, u64)>()));
    let hello = (any::<(u32, u64, u64)>(), text(), option::of(any::<u32>()), text(), peer)
        .prop_map(|((version, session, incarnation), token, rank, host, peer)| Request::Hello {
            version,
            token,
            session: SessionId(session),
            incarnation: Incarnation(incarnation),
            rank: rank.map(WorkerRank),
            host,
            peer: peer.map(|links| match links {
                None => PeerRole::Joins {},
                Some((server, incarnation, ticket)) => PeerRole::Links {
                    peer: Peer { server: ServerId(server), incarnation: Incarnation(incarnation) },
                    ticket: Ticket(ticket),
                },
            }),
        });
    prop_oneof![
        hello,
        Just(Request::Map {}),
        (text(), any_schema()).prop_map(|(name, schema)| Request::CreateTable { name, schema }),
        text().prop_map(|name| Request::OpenTable { name }),
        text().prop_map(|name| Request::DropTable { name }),
        Just(Request::ListTables {}),
        (shard(), any_provider(), any_blob()).prop_map(|(shard, provider, endpoint)| {
            Request::OpenMailbox { shard, provider, endpoint }
        }),
        (shard(), any_region(), any::<u32>()).prop_map(|(shard, reply, completion_slots)| {
            Request::AttachMailbox { shard, reply, completion_slots }
        }),
        (any::<u32>().prop_map(TableId), shard())
            .prop_map(|(table, shard)| Request::Locate { table, shard }),
        (any::<u32>().prop_map(TableId), shard())
            .prop_map(|(table, shard)| Request::JoinClock { table, shard }),
        (text(), any_schema()).prop_map(|(name, schema)| Request::AlterTable {
            name,
            consistency: schema.consistency,
        }),
        (text(), text()).prop_map(|(name, parameters)| Request::SetRule { name, parameters }),
        (text(), any_schema())
            .prop_map(|(name, schema)| Request::SetExpiry { name, expiry: schema.expiry }),
        Just(Request::LeaveClocks {}),
        Just(Request::Statistics {}),
        Just(Request::Shutdown {}),
        Just(Request::Checkpoint {}),
        (option::of(any::<u32>()), text(), any::<(u64, u16, u64, u8, [u8; 16])>()).prop_map(
            |(server, address, (cluster, shard_count, incarnation, kept, secret))| Request::Join {
                server: server.map(ServerId),
                cluster,
                address,
                shard_count,
                incarnation: Incarnation(incarnation),
                kept: any_kept(kept),
                secret: ServerSecret(secret),
            }
        ),
        any_rows(),
        Just(Request::CoordinatorStatus {}),
        coordination::any_operation().prop_map(|operation| Request::Operate { operation }),
        Just(Request::Checksums {}),
        (option::of(any::<u32>()), any::<u64>()).prop_map(|(rank, incarnation)| {
            let incarnation = Incarnation(incarnation);
            Request::RegisterWorker { rank: rank.map(WorkerRank), incarnation }
        }),
        any::<(u32, u64)>().prop_map(|(rank, incarnation)| Request::LeaveWorker {
            rank: WorkerRank(rank),
            incarnation: Incarnation(incarnation),
        }),
    ]
}

fn any_rows() -> impl Strategy<Value = ClientRequest> {
    use ClientRequest as Request;
    prop_oneof![
        (any::<(u32, u32, u64)>(), any::<Vec<u8>>()).prop_map(
            |((table, partition, first), values)| Request::SetRows {
                table: TableId(table),
                partition: PartitionId(partition),
                first,
                values: Blob(values),
            }
        ),
        (any::<(u32, u32, bool)>(), any::<Vec<u8>>()).prop_map(
            |((table, partition, with_state), rows)| Request::SetKeys {
                table: TableId(table),
                partition: PartitionId(partition),
                with_state,
                rows: Blob(rows),
            }
        ),
        (any::<(u32, u32)>(), any::<Vec<u8>>()).prop_map(|((table, partition), keys)| {
            let which = WhichRows::Keys { keys: Blob(keys) };
            Request::RemoveRows { table: TableId(table), partition: PartitionId(partition), which }
        }),
        any::<(u32, u32, f32, u64)>().prop_map(|(table, partition, norm, from)| {
            let which = WhichRows::Below { norm: f64::from(norm.abs()), from };
            Request::RemoveRows { table: TableId(table), partition: PartitionId(partition), which }
        }),
    ]
}

pub(crate) fn any_reply() -> impl Strategy<Value = ClientReply> {
    use ClientReply as Reply;
    let lists = (
        proptest::collection::vec(any_provider(), 0..4),
        proptest::collection::vec(any::<String>(), 0..4),
    );
    let refusal = prop_oneof![
        proptest::sample::select(refusals()),
        any::<u64>().prop_map(|epoch| RefusalKind::StaleEpoch { epoch: Epoch(epoch) })
    ];
    prop_oneof![
        any::<(u64, Option<u64>)>().prop_map(|(rows, next)| Reply::RowsRemoved { rows, next }),
        (any::<(u64, u32, u64, u64, u16)>(), lists).prop_map(
            |((session, server, incarnation, started, shard_count), (providers, notes))| {
                Reply::Welcome {
                    session: SessionId(session),
                    server: ServerId(server),
                    incarnation: Incarnation(incarnation),
                    started: Incarnation(started),
                    shard_count,
                    providers,
                    notes,
                }
            }
        ),
        any_map().prop_map(|map| Reply::Map { map }),
        any_table().prop_map(|table| Reply::Table { table }),
        proptest::collection::vec(any_table(), 0..4).prop_map(|tables| Reply::Tables { tables }),
        any_blob().prop_map(|endpoint| Reply::Mailbox { endpoint }),
        (any_region(), any::<(u32, u32, u32)>()).prop_map(
            |(mailbox, (ring_len, spin_us, by_reference_len))| Reply::Attached {
                mailbox,
                ring_len,
                spin_us,
                by_reference_len,
                kept_keys_max: ring_len ^ spin_us,
            }
        ),
        proptest::collection::vec(any_place(), 0..9).prop_map(|places| Reply::Located { places }),
        (any_region(), any::<(u64, u64)>()).prop_map(|(region, (offset, clock))| {
            Reply::ClockJoined { place: ClockPlace { region, offset, clock: WorkerClock(clock) } }
        }),
        any_blob().prop_map(|json| Reply::Statistics { json }),
        Just(Reply::Done {}),
        (refusal, any::<String>()).prop_map(|(status, text)| Reply::Refused { status, text }),
        any::<(u32, u64, u32)>().prop_map(|(server, cluster, heartbeat_ms)| Reply::Joined {
            server: ServerId(server),
            cluster,
            heartbeat_ms,
        }),
        coordination::any_status().prop_map(|status| Reply::CoordinatorStatus { status }),
        proptest::collection::vec(coordination::any_checksum(), 0..9)
            .prop_map(|partitions| Reply::Checksums { partitions }),
        any::<(u32, u64)>().prop_map(|(rank, clock)| Reply::WorkerRegistered {
            rank: WorkerRank(rank),
            clock: WorkerClock(clock),
        }),
    ]
}

pub(crate) fn refusals() -> Vec<RefusalKind> {
    vec![
        RefusalKind::Version {},
        RefusalKind::Token {},
        RefusalKind::UnknownTable {},
        RefusalKind::TableExists {},
        RefusalKind::Invalid {},
        RefusalKind::Full {},
        RefusalKind::ShuttingDown {},
        RefusalKind::NoCoordinator {},
        RefusalKind::Internal {},
        RefusalKind::NoMailbox {},
    ]
}

fn any_kept(number: u8) -> Kept {
    match number % 3 {
        0 => Kept::Whole {},
        1 => Kept::Disk {},
        _ => Kept::Nothing {},
    }
}
