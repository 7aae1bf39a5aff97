//! Pushes.

use std::ffi::c_void;

use windlass_client::{PullOptions, RowSelection};

use super::{
    arguments::{handle, keys as keys_of, set_timestamp, values as values_of, values_mut},
    options::{WindlassPushOptions, push_options},
    status::WindlassStatus,
    table::WindlassTable,
};
use crate::{erased::pulls_overtake, failure::Failure, guard::guard};

/// Starts a push of rows by key. `keys` may come in any order, and more than once: the values of such a key
/// are summed, or the last count where the rule assigns. `values` has width values for each, in the order of
/// the keys, and is copied before this returns. `timestamp`, which may be NULL, gets
/// what windlass_wait() and `after` take.
///
/// Each shard gets it in messages of at most 1 MiB of values (256 KiB where devices write values) and
/// 16,384 keys (4,096 in a sparse table), and applies and keeps each whole or not at all: where some are refused,
/// windlass_last_refused() says which rows. Of a push that is not acknowledged when server and client both
/// end, so that nobody sends it again, some messages may be there and others not; of one message some
/// partitions and not others where there are replicas, and in tables of durability interval.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn windlass_push(
    table: *const WindlassTable,
    keys: *const u64,
    key_count: usize,
    values: *const c_void,
    value_count: usize,
    options: *const WindlassPushOptions,
    timestamp: *mut u64,
) -> WindlassStatus {
    guard(|| {
        // SAFETY: the header's rules on pointers.
        let rows = RowSelection::Keys(unsafe { keys_of(keys, key_count) }?);
        // SAFETY: the same rules.
        unsafe { push(table, rows, values, value_count, options, timestamp) }
    })
}

/// Starts a push of `row_count` rows of a dense table, from `first_row` on. Otherwise as
/// windlass_push().
#[unsafe(no_mangle)]
pub unsafe extern "C" fn windlass_push_range(
    table: *const WindlassTable,
    first_row: u64,
    row_count: u64,
    values: *const c_void,
    value_count: usize,
    options: *const WindlassPushOptions,
    timestamp: *mut u64,
) -> WindlassStatus {
    guard(|| {
        let rows = range(first_row, row_count)?;
        // SAFETY: the header's rules.
        unsafe { push(table, rows, values, value_count, options, timestamp) }
    })
}

/// Pushes rows by key, pulls the same rows once the push is applied, and waits for them. `into` has
/// room for value_count values and may be `values`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn windlass_push_pull(
    table: *const WindlassTable,
    keys: *const u64,
    key_count: usize,
    values: *const c_void,
    into: *mut c_void,
    value_count: usize,
    options: *const WindlassPushOptions,
) -> WindlassStatus {
    guard(|| {
        // SAFETY: the header's rules on pointers.
        let rows = RowSelection::Keys(unsafe { keys_of(keys, key_count) }?);
        // SAFETY: the same rules.
        unsafe { push_pull(table, rows, values, into, value_count, options) }
    })
}

/// Pushes `row_count` rows of a dense table, from `first_row` on, and pulls them. Otherwise as
/// windlass_push_pull().
#[unsafe(no_mangle)]
pub unsafe extern "C" fn windlass_push_pull_range(
    table: *const WindlassTable,
    first_row: u64,
    row_count: u64,
    values: *const c_void,
    into: *mut c_void,
    value_count: usize,
    options: *const WindlassPushOptions,
) -> WindlassStatus {
    guard(|| {
        let rows = range(first_row, row_count)?;
        // SAFETY: the header's rules.
        unsafe { push_pull(table, rows, values, into, value_count, options) }
    })
}

/// # Safety
/// As the header says of the pointers that [`windlass_push`] has too.
unsafe fn push(
    table: *const WindlassTable,
    rows: RowSelection<'_>,
    values: *const c_void,
    value_count: usize,
    options: *const WindlassPushOptions,
    timestamp: *mut u64,
) -> Result<(), Failure> {
    // SAFETY: the caller's promise on handles.
    let table = unsafe { handle(table) }?;
    // SAFETY: the caller's promise on pointers.
    let options = unsafe { push_options(options) }?;
    // SAFETY: as above.
    let values = unsafe { values_of(values, value_count, table.value_len) }?;
    let pushed = table.table.push(rows, values, &options)?;
    // SAFETY: as above.
    unsafe { set_timestamp(timestamp, pushed) }
}

/// # Safety
/// As the header says of the pointers that [`windlass_push_pull`] has too.
unsafe fn push_pull(
    table: *const WindlassTable,
    rows: RowSelection<'_>,
    values: *const c_void,
    into: *mut c_void,
    value_count: usize,
    options: *const WindlassPushOptions,
) -> Result<(), Failure> {
    // SAFETY: the caller's promise on handles.
    let handle = unsafe { handle(table) }?;
    // SAFETY: the caller's promise on pointers.
    let options = unsafe { push_options(options) }?;
    if into.is_null() && value_count > 0 {
        return Err(Failure::null("into"));
    }
    let table = handle.table.as_ref();
    let pushed = {
        // SAFETY: as above. The slice is gone before `into`, which may be the same memory.
        let values = unsafe { values_of(values, value_count, handle.value_len) }?;
        table.push(rows.clone(), values, &options)?
    };
    // Keys are answered by the servers in order; only one-sided reads could overtake.
    let after = pulls_overtake(table).then_some(pushed);
    // SAFETY: as above.
    let into = unsafe { values_mut(into, value_count, handle.value_len) }?;
    table.pull_into(rows, into, &PullOptions { after, ..PullOptions::default() })?;
    Ok(handle.client.wait(pushed)?)
}

/// A range from C's numbers.
pub(super) fn range<'a>(first_row: u64, row_count: u64) -> Result<RowSelection<'a>, Failure> {
    let end = first_row.checked_add(row_count).ok_or_else(|| {
        Failure::argument(format!("{row_count} rows from {first_row} on end past 2^64"))
    })?;
    Ok(RowSelection::Range(first_row..end))
}
