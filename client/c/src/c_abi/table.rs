//! Tables.

use std::ffi::c_char;

use windlass_client::{Client, TableEntry};

use super::{
    arguments::{Handle, fill, handle, keys as keys_of, out, take, text},
    client::WindlassClient,
    schema::{SchemaTexts, WindlassSchema, c_schema, table_schema},
    status::WindlassStatus,
};
use crate::{
    erased::{ErasedTable, create_table, open_table},
    guard::{Owner, guard},
};

/// A table. Belongs to its client's thread.
pub struct WindlassTable {
    owner: Owner,
    pub(super) client: Client,
    pub(super) table: Box<dyn ErasedTable>,
    pub(super) value_len: usize,
    entry: TableEntry,
    texts: SchemaTexts,
}

impl Handle for WindlassTable {
    const NAME: &'static str = "table";

    fn owner(&self) -> Owner {
        self.owner
    }
}

impl WindlassTable {
    /// Values per row.
    pub(super) fn width(&self) -> usize {
        self.entry.schema.width as usize
    }

    fn into_handle(client: &Client, table: Box<dyn ErasedTable>) -> *mut Self {
        let entry = table.entry();
        let texts = SchemaTexts::of(&entry.schema);
        let (owner, value_len) = (Owner::current(), entry.schema.dtype.size());
        let client = client.clone();
        Box::into_raw(Box::new(Self { owner, client, table, value_len, entry, texts }))
    }
}

impl std::fmt::Debug for WindlassTable {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("WindlassTable").field("entry", &self.entry).finish_non_exhaustive()
    }
}

/// Creates a table, or opens the one of that name and schema.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn windlass_create_table(
    client: *const WindlassClient,
    name: *const c_char,
    schema: *const WindlassSchema,
    table: *mut *mut WindlassTable,
) -> WindlassStatus {
    guard(|| {
        // SAFETY: the header's rules on pointers.
        let place = unsafe { out(table, "table") }?;
        // SAFETY: as above.
        let name = unsafe { text(name, "name") }?;
        // SAFETY: as above.
        let schema = unsafe { table_schema(schema) }?;
        // SAFETY: the header's rules on handles.
        let client = &unsafe { handle(client) }?.client;
        let created = create_table(client, name, &schema)?;
        place.set(WindlassTable::into_handle(client, created));
        Ok(())
    })
}

/// Opens a table with the schema it has: see windlass_table_schema().
#[unsafe(no_mangle)]
pub unsafe extern "C" fn windlass_open_table(
    client: *const WindlassClient,
    name: *const c_char,
    table: *mut *mut WindlassTable,
) -> WindlassStatus {
    guard(|| {
        // SAFETY: the header's rules on pointers.
        let place = unsafe { out(table, "table") }?;
        // SAFETY: as above.
        let name = unsafe { text(name, "name") }?;
        // SAFETY: the header's rules on handles.
        let client = &unsafe { handle(client) }?.client;
        let opened = open_table(client, name)?;
        place.set(WindlassTable::into_handle(client, opened));
        Ok(())
    })
}

/// Closes a table's handle; NULL is allowed. The table stays: windlass_drop_table() ends it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn windlass_close_table(table: *mut WindlassTable) -> WindlassStatus {
    guard(|| {
        // SAFETY: the header's rules on handles.
        drop(unsafe { take(table) }?);
        Ok(())
    })
}

/// A table's schema. Set schema->size first. Its texts live as long as the handle, and are as of when the handle was
/// made: windlass_list_tables() has hyper-parameters that were changed since.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn windlass_table_schema(
    table: *const WindlassTable,
    schema: *mut WindlassSchema,
) -> WindlassStatus {
    guard(|| {
        // SAFETY: the header's rules on handles.
        let table = unsafe { handle(table) }?;
        let fields = c_schema(&table.entry.schema, &table.texts);
        // SAFETY: the header's rules on pointers.
        unsafe { fill(schema, &fields) }
    })
}

/// Waits until `count` workers, this one included, have opened the table: those that come later start where
/// the others are, and are not waited for before. Its workers have to keep clocks.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn windlass_wait_for_workers(
    table: *const WindlassTable,
    count: u64,
) -> WindlassStatus {
    guard(|| {
        // SAFETY: the header's rules on handles.
        unsafe { handle(table) }?.table.wait_for_workers(count)
    })
}

/// Removes the rows of keys of a sparse table, with their optimiser state, at every replica. Keys may come in any
/// order and more than once; one that has no row is passed over. A pull of a removed key brings the table's first
/// values, and a push makes its row anew. Returns once the removal is as safe as the table's durability says; a push
/// that is under way may be applied before or after it. Stores in `removed` how many rows there were; should a server
/// die meanwhile, rows that it had removed already may not be counted.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn windlass_remove_rows(
    table: *const WindlassTable,
    keys: *const u64,
    key_count: usize,
    removed: *mut u64,
) -> WindlassStatus {
    guard(|| {
        // SAFETY: the header's rules on pointers.
        let keys = unsafe { keys_of(keys, key_count) }?;
        // SAFETY: the header's rules on handles.
        let table = unsafe { handle(table) }?;
        // SAFETY: the header's rules on pointers.
        let removed = unsafe { out(removed, "removed") }?;
        removed.set(table.table.remove(keys)?);
        Ok(())
    })
}

/// Removes the rows of a sparse table whose values have a Euclidean norm below `norm`, as `windlass_remove_rows` does:
/// each row is compared and removed in one step, so that no push is lost.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn windlass_remove_rows_below(
    table: *const WindlassTable,
    norm: f64,
    removed: *mut u64,
) -> WindlassStatus {
    guard(|| {
        // SAFETY: the header's rules on handles.
        let table = unsafe { handle(table) }?;
        // SAFETY: the header's rules on pointers.
        let removed = unsafe { out(removed, "removed") }?;
        removed.set(table.table.remove_below(norm)?);
        Ok(())
    })
}
