//! A store in memory, which ends with the process.

use std::time::Duration;

use super::{Item, Store, StoreError, Written, version_of};

/// Bytes of each item.
#[derive(Debug, Default)]
pub(super) struct MemoryStore {
    items: [Option<Vec<u8>>; Item::ALL.len()],
}

impl Store for MemoryStore {
    fn name(&self) -> &'static str {
        "memory"
    }

    fn campaign(&mut self, _: Duration) -> Result<Option<Vec<Option<Vec<u8>>>>, StoreError> {
        Ok(Some(self.items.to_vec()))
    }

    fn write(&mut self, item: Item, expected: u64, bytes: &[u8]) -> Result<Written, StoreError> {
        let held = &mut self.items[item as usize];
        if held.as_deref().map_or(0, version_of) != expected {
            return Ok(Written::Deposed);
        }
        *held = Some(bytes.to_vec());
        Ok(Written::Done)
    }

    fn lease(&self) -> Option<Duration> {
        None
    }

    fn renew(&mut self) -> Result<bool, StoreError> {
        Ok(true)
    }

    fn resign(&mut self) {}
}
