//! Prepared operations: rows fixed once, pushed and pulled again and again.

use std::{cell::RefCell, ffi::c_void};

use windlass_client::RowSelection;

use super::{
    arguments::{Handle, handle, keys as keys_of, out, set_timestamp, take},
    options::{WindlassPullOptions, WindlassPushOptions, pull_options, push_options},
    push::range,
    status::WindlassStatus,
    table::WindlassTable,
};
use crate::{
    erased::ErasedPrepared,
    failure::Failure,
    guard::{Owner, guard},
};

/// Rows of a table with registered values of their own, pushed from where they are and pulled into
/// the same place: keys are copied and checked once. Belongs to its client's thread.
pub struct WindlassPrepared {
    owner: Owner,
    prepared: RefCell<Box<dyn ErasedPrepared>>,
}

impl Handle for WindlassPrepared {
    const NAME: &'static str = "prepared operation";

    fn owner(&self) -> Owner {
        self.owner
    }
}

impl std::fmt::Debug for WindlassPrepared {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("WindlassPrepared").finish_non_exhaustive()
    }
}

/// Prepares rows by key. `keys` may come in any order, and more than once.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn windlass_prepare(
    table: *const WindlassTable,
    keys: *const u64,
    key_count: usize,
    prepared: *mut *mut WindlassPrepared,
) -> WindlassStatus {
    guard(|| {
        // SAFETY: the header's rules on pointers.
        let rows = RowSelection::Keys(unsafe { keys_of(keys, key_count) }?);
        // SAFETY: the same rules.
        unsafe { prepare(table, rows, prepared) }
    })
}

/// Prepares `row_count` rows of a dense table, from `first_row` on.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn windlass_prepare_range(
    table: *const WindlassTable,
    first_row: u64,
    row_count: u64,
    prepared: *mut *mut WindlassPrepared,
) -> WindlassStatus {
    guard(|| {
        let rows = range(first_row, row_count)?;
        // SAFETY: the header's rules.
        unsafe { prepare(table, rows, prepared) }
    })
}

/// Waits for the push that still reads the values, and says where they are and how many: width for
/// each row. The place stays the same until the prepared operation is closed. Write the values only
/// after this or a pull, and before the next push.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn windlass_prepared_values(
    prepared: *const WindlassPrepared,
    values: *mut *mut c_void,
    value_count: *mut usize,
) -> WindlassStatus {
    guard(|| {
        // SAFETY: the header's rules on pointers.
        let place = unsafe { out(values, "values") }?;
        // SAFETY: the header's rules on handles.
        let (address, count) = unsafe { handle(prepared) }?.prepared.borrow_mut().values()?;
        place.set(address.cast());
        if !value_count.is_null() {
            // SAFETY: the header's rules on pointers.
            unsafe { out(value_count, "value_count") }?.set(count);
        }
        Ok(())
    })
}

/// Starts a push of the values, once the push before is over. `timestamp` may be NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn windlass_push_prepared(
    prepared: *const WindlassPrepared,
    options: *const WindlassPushOptions,
    timestamp: *mut u64,
) -> WindlassStatus {
    guard(|| {
        // SAFETY: the header's rules on handles.
        let prepared = unsafe { handle(prepared) }?;
        // SAFETY: the header's rules on pointers.
        let options = unsafe { push_options(options) }?;
        let pushed = prepared.prepared.borrow_mut().push(&options)?;
        // SAFETY: as above.
        unsafe { set_timestamp(timestamp, pushed) }
    })
}

/// Pulls the rows over the values, once the push before is over, and waits for them.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn windlass_pull_prepared(
    prepared: *const WindlassPrepared,
    options: *const WindlassPullOptions,
) -> WindlassStatus {
    guard(|| {
        // SAFETY: the header's rules on handles.
        let prepared = unsafe { handle(prepared) }?;
        // SAFETY: the header's rules on pointers.
        let options = unsafe { pull_options(options) }?;
        prepared.prepared.borrow_mut().pull(&options)
    })
}

/// Waits for the last push and closes a prepared operation; NULL is allowed. Its values are gone.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn windlass_close_prepared(
    prepared: *mut WindlassPrepared,
) -> WindlassStatus {
    guard(|| {
        // SAFETY: the header's rules on handles.
        drop(unsafe { take(prepared) }?);
        Ok(())
    })
}

/// # Safety
/// As the header says of the pointers that [`windlass_prepare`] has too.
unsafe fn prepare(
    table: *const WindlassTable,
    rows: RowSelection<'_>,
    prepared: *mut *mut WindlassPrepared,
) -> Result<(), Failure> {
    // SAFETY: the caller's promise on pointers.
    let place = unsafe { out(prepared, "prepared") }?;
    // SAFETY: the caller's promise on handles.
    let table = unsafe { handle(table) }?;
    let made = WindlassPrepared {
        owner: Owner::current(),
        prepared: RefCell::new(table.table.prepare(rows)?),
    };
    place.set(Box::into_raw(Box::new(made)));
    Ok(())
}
