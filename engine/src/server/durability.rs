//! Decides whether this server can provide a table's durability.

use windlass_wire::{Durability, TableSchema};

use super::cluster::Cluster;
use crate::{
    persist::limits::CHECKPOINT_BLOCK_BYTES_MAX,
    refusal::{Refusal, invalid},
};

/// Most bytes of a row and its state in a table that is kept on disk: one piece of a checkpoint.
const KEPT_ROW_LEN_MAX: u64 = CHECKPOINT_BLOCK_BYTES_MAX as u64 / 2;

impl Cluster {
    /// Refuses tables that cannot be kept as they ask.
    pub(super) fn check_durability(&self, schema: &TableSchema) -> Result<(), Refusal> {
        if schema.durability == (Durability::Memory {}) {
            return Ok(());
        }
        if self.data.is_none() {
            let text =
                "the server has no data directory: start it with one, or use durability memory";
            return Err(invalid(text));
        }
        let kept_len = schema.row_len() + schema.state_planes_len();
        if kept_len > KEPT_ROW_LEN_MAX {
            let text = format!(
                "a row and its optimiser state take {kept_len} bytes, and checkpoints hold at most \
                 {KEPT_ROW_LEN_MAX}: use narrower rows, or durability memory"
            );
            return Err(invalid(text));
        }
        Ok(())
    }
}
