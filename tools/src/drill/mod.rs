//! Kills servers under load and measures the cost, for `windlass demo` and `windlass drill`.

mod ledger;
mod recovery;

pub use ledger::{Ledger, LedgerError, Writers};
pub use recovery::{Drill, DrillError, Recovery, busy_head};
