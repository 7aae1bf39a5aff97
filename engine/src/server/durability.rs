//! What a server can keep on disk.

use windlass_wire::{Durability, TableSchema, UpdateRule};

use crate::{
    persist::limits::CHECKPOINT_BLOCK_BYTES_MAX,
    refusal::{Refusal, invalid},
};

/// Most bytes of a row and its state in a table that is kept on disk: one piece of a checkpoint.
const KEPT_ROW_LEN_MAX: u64 = CHECKPOINT_BLOCK_BYTES_MAX as u64 / 2;

/// Refuses tables that cannot be kept as they ask.
pub(super) fn check_durability(schema: &TableSchema, has_data: bool) -> Result<(), Refusal> {
    if schema.durability == (Durability::Memory {}) {
        return Ok(());
    }
    if !has_data {
        let text = "the server has no data directory: start it with one, or use durability memory";
        return Err(invalid(text));
    }
    let state_len = schema.rule.state_width() as u64
        * u64::from(schema.width)
        * UpdateRule::state_value_size(schema.dtype) as u64;
    if schema.row_len() + state_len > KEPT_ROW_LEN_MAX {
        let text = format!(
            "a row and its optimiser state take {} bytes, and checkpoints hold at most \
             {KEPT_ROW_LEN_MAX}: use narrower rows, or durability memory",
            schema.row_len() + state_len
        );
        return Err(invalid(text));
    }
    Ok(())
}
