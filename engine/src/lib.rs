//! The Windlass server: shards, tables, update rules, log, coordinator.

pub mod persist;
pub mod update;
