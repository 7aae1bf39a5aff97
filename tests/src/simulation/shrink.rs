//! Makes a failed seed small: leaves out every fault, push and machine that the failure does not
//! need, and says what is left.

use std::fmt::Write as _;

use super::options::Options;
use super::schedule::Schedule;
use super::{Outcome, run_schedule};

/// The smallest schedule found that still fails, as text to read and to replay.
#[must_use]
pub fn shrink(seed: u64, options: &Options) -> String {
    let mut options = *options;
    let mut schedule = Schedule::of(seed, &options);
    let mut outcome = run_schedule(seed, &schedule, &options);
    let fails = |schedule: &Schedule, options: &Options| -> Option<Outcome> {
        Some(run_schedule(seed, schedule, options)).filter(|outcome| !outcome.is_clean())
    };
    let mut at = 0;
    while at < schedule.faults.len() {
        let mut less = schedule.clone();
        less.faults.remove(at);
        if let Some(still) = fails(&less, &options) {
            schedule = less;
            outcome = still;
        } else {
            at += 1;
        }
    }
    while options.pushes > 1 {
        let less = Options { pushes: options.pushes / 2, ..options };
        let Some(still) = fails(&schedule, &less) else { break };
        options = less;
        outcome = still;
    }
    while schedule.clients > 1 {
        let less = Schedule { clients: schedule.clients - 1, ..schedule.clone() };
        let Some(still) = fails(&less, &options) else { break };
        schedule = less;
        outcome = still;
    }
    let mut text = format!(
        "seed {seed}, {} servers, chains of {}, {} partitions, {} clients, {} pushes each, sync {}, log of {} records\n",
        schedule.servers,
        schedule.replicas,
        schedule.partitions,
        schedule.clients,
        options.pushes,
        schedule.sync,
        schedule.log_records,
    );
    for fault in &schedule.faults {
        let _ = writeln!(text, "  {:>6} us: {:?}", fault.at_us, fault.kind);
    }
    let _ = writeln!(text, "  {}", outcome.note.unwrap_or_default());
    text
}
