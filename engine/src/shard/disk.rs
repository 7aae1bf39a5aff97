//! The part of a shard that deals with its disk.

use super::{durable::Durable, open_log::Opening};

/// A shard's data directory, when its server has one.
#[derive(Default)]
pub(super) struct Disk {
    /// Log and checkpoints, once what was recovered goes on in them.
    pub(super) durable: Option<Box<Durable>>,
    /// What was recovered, until all shards of the server are: then its log is opened.
    pub(super) recovered: Option<Box<Opening>>,
}
