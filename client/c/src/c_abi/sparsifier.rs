//! Sparsifiers: of each push only the rows that matter are sent now.

use std::{
    cell::RefCell,
    ffi::{c_char, c_void},
};

use windlass_client::{RowSelection, Timestamp};

use super::{
    arguments::{
        Handle, handle, keys as keys_of, keys_mut, out, set_timestamp, take, text,
        values as values_of, values_mut,
    },
    options::{WindlassPushOptions, push_options},
    push::range,
    status::WindlassStatus,
    table::WindlassTable,
};
use crate::{
    failure::Failure,
    guard::{Owner, guard},
    sparsify::ErasedSparsifier,
};

/// Filters that choose which rows of each push are sent, and the rows that they hold back: those are added to
/// the next push of the same rows, so that every value counts once in the end. Of one table and one worker.
/// Belongs to its client's thread.
pub struct WindlassSparsifier {
    owner: Owner,
    value_len: usize,
    by: RefCell<Box<dyn ErasedSparsifier>>,
}

impl Handle for WindlassSparsifier {
    const NAME: &'static str = "sparsifier";

    fn owner(&self) -> Owner {
        self.owner
    }
}

impl std::fmt::Debug for WindlassSparsifier {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("WindlassSparsifier").finish_non_exhaustive()
    }
}

/// Makes a sparsifier of a table. `filters` are asked in their order, apart by commas, and a row is sent if all
/// choose it: "significance:T" rows with a value of magnitude T or more; "top-k:K" the K rows of the largest
/// Euclidean norm; "skip:P" each row with probability 1 - P; "kkt" or "kkt:T", for rules with an L1 penalty, rows that
/// are not zero at the servers and those with a value above T in magnitude, or above a twentieth of the penalty.
/// "residuals:bf16" and "residuals:f16" hold what the filter "bf16" or "f16" of pushes cuts off. It holds at most
/// 4,194,304 rows; rows beyond are sent.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn windlass_make_sparsifier(
    table: *const WindlassTable,
    filters: *const c_char,
    sparsifier: *mut *mut WindlassSparsifier,
) -> WindlassStatus {
    guard(|| {
        // SAFETY: the header's rules on pointers.
        let place = unsafe { out(sparsifier, "sparsifier") }?;
        // SAFETY: as above.
        let filters = unsafe { text(filters, "filters") }?;
        // SAFETY: the header's rules on handles.
        let table = unsafe { handle(table) }?;
        let by = RefCell::new(table.table.sparsifier(filters)?);
        let made = WindlassSparsifier { owner: Owner::current(), value_len: table.value_len, by };
        place.set(Box::into_raw(Box::new(made)));
        Ok(())
    })
}

/// Starts a push of those rows by key that the filters choose, and holds the others. As windlass_push(), but that
/// `weights`, which may be NULL, has the rows as they were pulled: value_count values, which only kkt looks at. Where
/// no row is chosen nothing is sent, and `timestamp` gets 0. After a failure of this call nothing was sent, and what
/// was held before still is. A push that fails later takes the rows with it that it sent.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn windlass_push_chosen(
    sparsifier: *const WindlassSparsifier,
    keys: *const u64,
    key_count: usize,
    values: *const c_void,
    weights: *const c_void,
    value_count: usize,
    options: *const WindlassPushOptions,
    timestamp: *mut u64,
) -> WindlassStatus {
    guard(|| {
        // SAFETY: the header's rules on pointers.
        let rows = RowSelection::Keys(unsafe { keys_of(keys, key_count) }?);
        let values = (values, weights, value_count);
        // SAFETY: the same rules.
        unsafe { push_chosen(sparsifier, rows, values, options, timestamp) }
    })
}

/// The same for `row_count` rows of a dense table, from `first_row` on.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn windlass_push_chosen_range(
    sparsifier: *const WindlassSparsifier,
    first_row: u64,
    row_count: u64,
    values: *const c_void,
    weights: *const c_void,
    value_count: usize,
    options: *const WindlassPushOptions,
    timestamp: *mut u64,
) -> WindlassStatus {
    guard(|| {
        let rows = range(first_row, row_count)?;
        let values = (values, weights, value_count);
        // SAFETY: the header's rules.
        unsafe { push_chosen(sparsifier, rows, values, options, timestamp) }
    })
}

/// Starts a push of all rows that are held; none is held then. `timestamp` gets 0 where none was held. After a
/// failure of this call they are still held.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn windlass_push_held(
    sparsifier: *const WindlassSparsifier,
    options: *const WindlassPushOptions,
    timestamp: *mut u64,
) -> WindlassStatus {
    guard(|| {
        // SAFETY: the header's rules on handles.
        let by = &unsafe { handle(sparsifier) }?.by;
        // SAFETY: the header's rules on pointers.
        let options = unsafe { push_options(options) }?;
        let pushed = by.borrow_mut().push_held(&options)?;
        // SAFETY: as above.
        unsafe { set_timestamp(timestamp, pushed.unwrap_or(Timestamp(0))) }
    })
}

/// How many rows are held.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn windlass_held_rows(
    sparsifier: *const WindlassSparsifier,
    row_count: *mut usize,
) -> WindlassStatus {
    guard(|| {
        // SAFETY: the header's rules on pointers.
        let place = unsafe { out(row_count, "row_count") }?;
        // SAFETY: the header's rules on handles.
        place.set(unsafe { handle(sparsifier) }?.by.borrow().held_rows());
        Ok(())
    })
}

/// Copies the rows that are held: their keys, ascending, and width values for each. The counts have to be those
/// of windlass_held_rows(). Give them to windlass_hold() after a restart, and nothing is lost.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn windlass_held(
    sparsifier: *const WindlassSparsifier,
    keys: *mut u64,
    key_count: usize,
    values: *mut c_void,
    value_count: usize,
) -> WindlassStatus {
    guard(|| {
        // SAFETY: the header's rules on handles.
        let sparsifier = unsafe { handle(sparsifier) }?;
        let by = sparsifier.by.borrow();
        if key_count != by.held_rows() {
            let text = format!("{} rows are held, not {key_count}", by.held_rows());
            return Err(Failure::new(WindlassStatus::WrongLength, text));
        }
        // SAFETY: the header's rules on pointers.
        let into = unsafe { keys_mut(keys, key_count) }?;
        // SAFETY: as above.
        let values = unsafe { values_mut(values, value_count, sparsifier.value_len) }?;
        let mut held = Vec::new();
        by.held_into(&mut held, values)?;
        into.copy_from_slice(&held);
        Ok(())
    })
}

/// Adds rows to those that are held, for instance what windlass_held() gave before a restart.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn windlass_hold(
    sparsifier: *const WindlassSparsifier,
    keys: *const u64,
    key_count: usize,
    values: *const c_void,
    value_count: usize,
) -> WindlassStatus {
    guard(|| {
        // SAFETY: the header's rules on handles.
        let sparsifier = unsafe { handle(sparsifier) }?;
        // SAFETY: the header's rules on pointers.
        let keys = unsafe { keys_of(keys, key_count) }?;
        // SAFETY: as above.
        let values = unsafe { values_of(values, value_count, sparsifier.value_len) }?;
        sparsifier.by.borrow_mut().hold(keys, values)
    })
}

/// Bytes of keys and values that the filter of this name, such as "top-k", kept from being sent.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn windlass_saved_by(
    sparsifier: *const WindlassSparsifier,
    filter: *const c_char,
    bytes: *mut u64,
) -> WindlassStatus {
    guard(|| {
        // SAFETY: the header's rules on pointers.
        let place = unsafe { out(bytes, "bytes") }?;
        // SAFETY: as above.
        let filter = unsafe { text(filter, "filter") }?;
        // SAFETY: the header's rules on handles.
        let saved = unsafe { handle(sparsifier) }?.by.borrow().bytes_saved(filter);
        let none = || Failure::argument(format!("the sparsifier has no filter {filter:?}"));
        place.set(saved.ok_or_else(none)?);
        Ok(())
    })
}

/// Closes a sparsifier; NULL is allowed. What it holds is forgotten.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn windlass_close_sparsifier(
    sparsifier: *mut WindlassSparsifier,
) -> WindlassStatus {
    guard(|| {
        // SAFETY: the header's rules on handles.
        drop(unsafe { take(sparsifier) }?);
        Ok(())
    })
}

/// # Safety
/// As the header says of the pointers that [`windlass_push_chosen`] has too.
unsafe fn push_chosen(
    sparsifier: *const WindlassSparsifier,
    rows: RowSelection<'_>,
    (values, weights, value_count): (*const c_void, *const c_void, usize),
    options: *const WindlassPushOptions,
    timestamp: *mut u64,
) -> Result<(), Failure> {
    // SAFETY: the caller's promise on handles.
    let sparsifier = unsafe { handle(sparsifier) }?;
    // SAFETY: the caller's promise on pointers.
    let options = unsafe { push_options(options) }?;
    // SAFETY: as above.
    let values = unsafe { values_of(values, value_count, sparsifier.value_len) }?;
    let weights = match weights.is_null() {
        true => None,
        // SAFETY: as above.
        false => Some(unsafe { values_of(weights, value_count, sparsifier.value_len) }?),
    };
    let pushed = sparsifier.by.borrow_mut().push(rows, values, weights, &options)?;
    // SAFETY: as above.
    unsafe { set_timestamp(timestamp, pushed.unwrap_or(Timestamp(0))) }
}
