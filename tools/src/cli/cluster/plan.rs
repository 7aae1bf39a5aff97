//! `windlass cluster plan`.

use windlass_wire::control::Provider;

use super::super::{ExitStatus, Failure, Output};
use crate::{
    plan::{Plan, PlanOptions, Share},
    report::{table, units},
};

pub(super) const HELP: &str = "\
Placement is the cluster's own; nothing is connected to. A worker links to a shard when it first sends \
there, so a job whose tables lie on few shards takes less. Rings take their memory as they are used, but \
for verbs, where they are pinned.

JSON keys: transport; workers; servers; shards; replicas; partitions; empty_shards; map_bytes; worker and \
server (the one with the most): objects of links, peer_links, open_files, ring_bytes; total_links; \
total_ring_bytes; files_limit, files_limit_hard (of this machine); advice: a list of sentences.

Examples:
  windlass cluster plan --workers 1000 --servers 200 --shards 16 --replicas 3 --transport verbs
  windlass cluster plan --workers 64 --servers 4 --json";

#[derive(Debug, clap::Args)]
pub(crate) struct PlanArguments {
    /// Processes that push and pull
    #[arg(long, value_name = "N")]
    workers: u32,
    /// Servers
    #[arg(long, value_name = "M")]
    servers: u32,
    /// Shards of each server
    #[arg(long, value_name = "S", default_value_t = 1)]
    shards: u16,
    /// Copies of each partition
    #[arg(long, value_name = "K", default_value_t = 1)]
    replicas: u8,
    /// Partitions, a power of two [default: as many as suit servers and shards]
    #[arg(long, value_name = "N")]
    partitions: Option<u32>,
    /// What links go over: verbs, shm or tcp
    #[arg(long, value_name = "NAME", value_parser = super::super::connection::provider, default_value = "verbs")]
    transport: Provider,
}

pub(super) fn run(arguments: &PlanArguments, output: Output) -> Result<(), Failure> {
    let plan = Plan::new(&PlanOptions {
        workers: arguments.workers,
        servers: arguments.servers,
        shards: arguments.shards,
        replicas: arguments.replicas,
        partitions: arguments.partitions,
        transport: arguments.transport,
    })
    .map_err(|error| Failure::new(ExitStatus::Usage, error))?;
    output.result(&plan, || text(&plan))
}

fn text(plan: &Plan) -> String {
    #[expect(clippy::cast_precision_loss, reason = "for people")]
    let bytes = |count: u64| units::bytes(count as f64);
    let row = |who: &str, share: &Share| {
        vec![
            who.to_owned(),
            units::grouped(share.links),
            units::grouped(share.peer_links),
            units::grouped(share.open_files),
            bytes(share.ring_bytes),
        ]
    };
    let facts = table::facts(&[
        ("partitions", units::grouped(u64::from(plan.partitions))),
        ("map", format!("{} in each process", bytes(plan.map_bytes))),
        ("links in all", format!("{} over {}", units::grouped(plan.total_links), plan.transport)),
        ("rings in all", bytes(plan.total_ring_bytes)),
        (
            "open files here",
            format!("{} a process, up to {}", plan.files_limit, plan.files_limit_hard),
        ),
    ]);
    let shares = table::table(
        &["at most", "links", "to servers", "open files", "rings"],
        &[row("a worker", &plan.worker), row("a server", &plan.server)],
    );
    let advice: String = plan.advice.iter().map(|line| format!("\n- {line}")).collect();
    format!("{facts}\n{shares}{advice}")
}
