//! Windlass tests that span crates: simulation, crash, end to end.

pub mod crash;
pub mod hostile;
pub mod simulation;
