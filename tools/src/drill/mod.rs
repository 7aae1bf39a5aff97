//! Killing servers under load, and what it costs: for `windlass demo` and `windlass drill`.

mod ledger;
mod recovery;

pub use ledger::{Ledger, LedgerError, Writers};
pub use recovery::{Drill, DrillError, Recovery, busy_head};
