//! The Windlass server: shards, tables, update rules, log, coordinator.
