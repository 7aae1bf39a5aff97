//! Messages between the coordinator and those it coordinates.

use proptest::{collection::vec, option, prelude::*};
use windlass_wire::{
    Epoch, Incarnation, Lsn, PartitionId, ServerId, TableId, Ticket, WorkerClock, WorkerRank,
    control::RefusalKind,
    coordination::{
        CoordinatorStatus, EmptiedTable, Instruction, LatePeer, Operation, Order, OrderRefusal,
        PartitionChecksum, PeerTicket, Report, SeparatedPair, WorkerEntry, WorkerPulse,
    },
};

use super::{any_map, any_schema, any_table};

fn any_worker() -> impl Strategy<Value = WorkerEntry> {
    any::<(u32, bool, u64)>().prop_map(|(rank, live, clock)| WorkerEntry {
        rank: WorkerRank(rank),
        live,
        clock: WorkerClock(clock),
    })
}

pub(crate) fn any_instruction() -> impl Strategy<Value = Instruction> {
    prop_oneof![
        any_map().prop_map(|map| Instruction::InstallMap { map }),
        any_table().prop_map(|table| Instruction::CreateTable { table }),
        any::<u32>().prop_map(|table| Instruction::DropTable { table: TableId(table) }),
        Just(Instruction::Ping {}),
        (any::<(u32, u32)>(), vec(any_table(), 0..3)).prop_map(
            |((partitions, next_table), tables)| Instruction::SetTables {
                partitions,
                next_table,
                tables
            }
        ),
        any::<(u64, u64)>().prop_map(|(incarnation, known)| Instruction::Fence {
            incarnation: Incarnation(incarnation),
            known: Incarnation(known),
        }),
        vec(any_worker(), 0..5).prop_map(|workers| Instruction::SetWorkers { workers }),
        Just(Instruction::Leave {}),
        (any::<u32>(), any_schema()).prop_map(|(table, schema)| Instruction::AlterTable {
            table: TableId(table),
            consistency: schema.consistency,
        }),
        (any::<u32>(), any_schema()).prop_map(|(table, schema)| Instruction::SetRule {
            table: TableId(table),
            rule: schema.rule,
        }),
        (any::<u32>(), any_schema()).prop_map(|(table, schema)| Instruction::SetExpiry {
            table: TableId(table),
            expiry: schema.expiry,
        }),
        vec(any::<(u32, u64)>(), 0..5).prop_map(|tickets| Instruction::Introduce {
            tickets: tickets
                .into_iter()
                .map(|(server, ticket)| PeerTicket {
                    server: ServerId(server),
                    ticket: Ticket(ticket)
                })
                .collect(),
        }),
    ]
}

pub(crate) fn any_order() -> impl Strategy<Value = Order> {
    (any::<u64>(), any_instruction())
        .prop_map(|(number, instruction)| Order { number, instruction })
}

pub(crate) fn any_report() -> impl Strategy<Value = Report> {
    let pulse = any::<(u32, u64, u64)>().prop_map(|(rank, incarnation, clock)| WorkerPulse {
        rank: WorkerRank(rank),
        incarnation: Incarnation(incarnation),
        clock: WorkerClock(clock),
    });
    let refusal =
        any::<String>().prop_map(|text| OrderRefusal { status: RefusalKind::Full {}, text });
    let place = || any::<(u32, u64)>().prop_map(|(at, epoch)| (PartitionId(at), Epoch(epoch)));
    prop_oneof![
        (any::<u64>(), vec(pulse, 0..4))
            .prop_map(|(epoch, workers)| Report::Heartbeat { map_epoch: Epoch(epoch), workers }),
        (any::<u64>(), option::of(refusal))
            .prop_map(|(number, refusal)| Report::Answer { number, refusal }),
        any::<u32>().prop_map(|server| Report::Suspect { server: ServerId(server) }),
        place().prop_map(|(partition, epoch)| Report::CaughtUp { partition, epoch }),
        place().prop_map(|(partition, epoch)| Report::Synchronised { partition, epoch }),
        (place(), any::<u32>()).prop_map(|((partition, epoch), server)| Report::Rejected {
            partition,
            epoch,
            server: ServerId(server)
        }),
        place().prop_map(|(partition, epoch)| Report::CannotHold { partition, epoch }),
        Just(Report::WantMap {}),
        Just(Report::DiskFailed {}),
        (any::<u64>(), vec(any::<(u32, u32)>(), 0..4)).prop_map(|(ping, late)| Report::Hearing {
            ping,
            late: { late.into_iter() }
                .map(|(server, late_ms)| LatePeer { server: ServerId(server), late_ms })
                .collect()
        }),
        vec(any::<u32>(), 0..4).prop_map(|tables| Report::Emptied {
            tables: tables.into_iter().map(TableId).collect()
        }),
    ]
}

pub(crate) fn any_operation() -> impl Strategy<Value = Operation> {
    any::<(u8, u32)>().prop_map(|(kind, server)| {
        let server = ServerId(server);
        match kind % 6 {
            0 => Operation::Drain { server },
            1 => Operation::Undrain { server },
            2 => Operation::Forget { server },
            3 => Operation::Fail { server },
            4 => Operation::Rebalance {},
            _ => Operation::AcceptLoss {},
        }
    })
}

pub(crate) fn any_checksum() -> impl Strategy<Value = PartitionChecksum> {
    any::<(u32, u64, u64)>().prop_map(|(partition, lsn, checksum)| PartitionChecksum {
        partition: PartitionId(partition),
        lsn: Lsn(lsn),
        checksum,
    })
}

pub(crate) fn any_status() -> impl Strategy<Value = CoordinatorStatus> {
    let servers = vec(any::<u32>().prop_map(ServerId), 0..5);
    let texts = (any::<String>(), option::of(any::<String>()));
    (any::<(bool, u32)>(), texts, servers, vec(any_worker(), 0..5), any_map()).prop_map(
        |((leads, copies_under_way), (store, store_error), connected, workers, map)| {
            let emptied: Vec<_> = connected
                .iter()
                .map(|server: &ServerId| EmptiedTable {
                    table: TableId(server.0),
                    server: *server,
                    seconds: u64::from(copies_under_way),
                })
                .collect();
            let pairs = connected.iter().zip(connected.iter().skip(1));
            CoordinatorStatus {
                resting: connected.iter().rev().copied().collect(),
                separated: pairs.map(|(a, b)| SeparatedPair { a: *a, b: *b }).collect(),
                leads,
                store,
                store_error,
                connected,
                workers,
                copies_under_way,
                emptied,
                map,
            }
        },
    )
}
