//! What servers and the coordinator say to each other.

use windlass_wire::{
    Consistency, Epoch, Incarnation, PartitionId, ServerId, TableId, Ticket, WorkerClock,
    WorkerRank,
    control::RefusalKind,
    coordination::{
        CoordinatorStatus, EmptiedTable, Instruction, LatePeer, Operation, OrderRefusal,
        PeerTicket, Report, SeparatedPair, WorkerEntry, WorkerPulse,
    },
};

use super::{every_kind, map, schema, table};

pub(crate) fn instructions() -> Vec<(String, Vec<u8>)> {
    let alter =
        Instruction::AlterTable { table: TableId(7), consistency: Consistency::Sequential {} };
    let expiry = windlass_wire::Expiry { age_s: 90, rows_max: 5 };
    let expiry = Instruction::SetExpiry { table: TableId(7), expiry };
    every_kind(
        "instruction",
        vec![
            ("install_map", Instruction::InstallMap { map: map() }),
            ("create_table", Instruction::CreateTable { table: table() }),
            ("drop_table", Instruction::DropTable { table: TableId(7) }),
            ("ping", Instruction::Ping {}),
            ("alter_table", alter),
            ("set_expiry", expiry),
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

pub(crate) fn status() -> CoordinatorStatus {
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

pub(crate) fn reports() -> Vec<(String, Vec<u8>)> {
    let (partition, epoch, server) = (PartitionId(5), Epoch(8), ServerId(4));
    let workers = vec![WorkerPulse {
        rank: WorkerRank(2),
        incarnation: Incarnation(5),
        clock: WorkerClock(8),
    }];
    let refusal = OrderRefusal { status: RefusalKind::Full {}, text: "no".to_owned() };
    every_kind(
        "report",
        vec![
            ("heartbeat", Report::Heartbeat { map_epoch: epoch, workers }),
            ("answer", Report::Answer { number: 7, refusal: Some(refusal) }),
            ("suspect", Report::Suspect { server }),
            ("caught_up", Report::CaughtUp { partition, epoch }),
            ("synchronised", Report::Synchronised { partition, epoch }),
            ("rejected", Report::Rejected { partition, epoch, server }),
            ("want_map", Report::WantMap {}),
            ("cannot_hold", Report::CannotHold { partition, epoch }),
            ("disk_failed", Report::DiskFailed {}),
            ("emptied", Report::Emptied { tables: vec![TableId(7)] }),
            ("hearing", Report::Hearing { ping: 9, late: vec![LatePeer { server, late_ms: 350 }] }),
        ],
    )
}

pub(crate) fn operations() -> Vec<(String, Vec<u8>)> {
    let server = ServerId(4);
    every_kind(
        "operation",
        vec![
            ("drain", Operation::Drain { server }),
            ("undrain", Operation::Undrain { server }),
            ("forget", Operation::Forget { server }),
            ("fail", Operation::Fail { server }),
            ("rebalance", Operation::Rebalance {}),
            ("accept_loss", Operation::AcceptLoss {}),
        ],
    )
}
