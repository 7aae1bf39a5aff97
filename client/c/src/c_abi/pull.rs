//! Pulls.

use std::ffi::c_void;

use windlass_client::{Pooling, RowSelection};

use super::{
    arguments::{Handle, handle, keys as keys_of, out, take, values_mut},
    options::{WindlassPullOptions, pull_options},
    push::range,
    status::WindlassStatus,
    table::WindlassTable,
};
use crate::{
    erased::ErasedPull,
    failure::Failure,
    guard::{Owner, guard},
};

/// A pull under way. Belongs to its client's thread.
pub struct WindlassPull {
    owner: Owner,
    pull: Box<dyn ErasedPull>,
    value_count: usize,
    value_len: usize,
}

impl Handle for WindlassPull {
    const NAME: &'static str = "pull";

    fn owner(&self) -> Owner {
        self.owner
    }
}

impl std::fmt::Debug for WindlassPull {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("WindlassPull")
            .field("timestamp", &self.pull.timestamp())
            .finish_non_exhaustive()
    }
}

/// Pulls rows by key and waits for them. `keys` may come in any order, and more than once;
/// `into` has room for value_count values, width for each key.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn windlass_pull(
    table: *const WindlassTable,
    keys: *const u64,
    key_count: usize,
    into: *mut c_void,
    value_count: usize,
    options: *const WindlassPullOptions,
) -> WindlassStatus {
    guard(|| {
        // SAFETY: the header's rules on pointers.
        let rows = RowSelection::Keys(unsafe { keys_of(keys, key_count) }?);
        // SAFETY: the same rules.
        unsafe { pull(table, rows, into, value_count, options) }
    })
}

/// Pulls `row_count` rows of a dense table, from `first_row` on, by one-sided reads. Otherwise as
/// windlass_pull().
#[unsafe(no_mangle)]
pub unsafe extern "C" fn windlass_pull_range(
    table: *const WindlassTable,
    first_row: u64,
    row_count: u64,
    into: *mut c_void,
    value_count: usize,
    options: *const WindlassPullOptions,
) -> WindlassStatus {
    guard(|| {
        let rows = range(first_row, row_count)?;
        // SAFETY: the header's rules.
        unsafe { pull(table, rows, into, value_count, options) }
    })
}

/// Starts to pull rows by key. The rows come from windlass_finish_pull().
#[unsafe(no_mangle)]
pub unsafe extern "C" fn windlass_start_pull(
    table: *const WindlassTable,
    keys: *const u64,
    key_count: usize,
    options: *const WindlassPullOptions,
    pull: *mut *mut WindlassPull,
) -> WindlassStatus {
    guard(|| {
        // SAFETY: the header's rules on pointers.
        let rows = RowSelection::Keys(unsafe { keys_of(keys, key_count) }?);
        // SAFETY: the same rules.
        unsafe { start(table, rows, options, pull) }
    })
}

/// Starts to pull `row_count` rows of a dense table, from `first_row` on.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn windlass_start_pull_range(
    table: *const WindlassTable,
    first_row: u64,
    row_count: u64,
    options: *const WindlassPullOptions,
    pull: *mut *mut WindlassPull,
) -> WindlassStatus {
    guard(|| {
        let rows = range(first_row, row_count)?;
        // SAFETY: the header's rules.
        unsafe { start(table, rows, options, pull) }
    })
}

/// Waits for a pull's rows and copies them into `into`. The pull is closed, unless an argument was
/// wrong: NULL, another thread's, or value_count not the number of values.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn windlass_finish_pull(
    pull: *mut WindlassPull,
    into: *mut c_void,
    value_count: usize,
) -> WindlassStatus {
    guard(|| {
        // SAFETY: the header's rules on handles.
        let started = unsafe { handle(pull) }?;
        if value_count != started.value_count {
            let text = format!("the pull has {} values, not {value_count}", started.value_count);
            return Err(Failure::new(WindlassStatus::WrongLength, text));
        }
        // SAFETY: the header's rules on pointers.
        let into = unsafe { values_mut(into, value_count, started.value_len) }?;
        // SAFETY: the header's rules on handles, and it is closed from here on.
        match unsafe { take(pull) }? {
            Some(pull) => pull.pull.wait_into(into),
            None => Err(Failure::null("pull")),
        }
    })
}

/// Bags are pooled by the sum of their rows.
pub const WINDLASS_POOL_SUM: u32 = 0;
/// Bags are pooled by the mean of their rows: of floating-point types only.
pub const WINDLASS_POOL_MEAN: u32 = 1;

/// Pulls bags of rows by key, pools each of them, and waits for that: `into` has room for value_count values, width
/// for each bag. Bag b has the keys from offsets[b] up to, not including, offsets[b + 1]: so there are bag_count + 1
/// `offsets`, which begin at 0, ascend and end at key_count. `pooling` is one of WINDLASS_POOL_*. A bag without keys is all
/// zeros.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn windlass_pull_bags(
    table: *const WindlassTable,
    keys: *const u64,
    key_count: usize,
    offsets: *const u64,
    bag_count: usize,
    pooling: u32,
    into: *mut c_void,
    value_count: usize,
    options: *const WindlassPullOptions,
) -> WindlassStatus {
    guard(|| {
        // SAFETY: the header's rules on pointers.
        let keys = unsafe { keys_of(keys, key_count) }?;
        // SAFETY: the same rules; there is one offset more than there are bags.
        let offsets = unsafe { keys_of(offsets, bag_count.saturating_add(1)) }?;
        let pooling = match pooling {
            WINDLASS_POOL_SUM => Pooling::Sum,
            WINDLASS_POOL_MEAN => Pooling::Mean,
            _ => return Err(Failure::argument(format!("{pooling} is no WINDLASS_POOL_*"))),
        };
        // SAFETY: the header's rules on handles.
        let table = unsafe { handle(table) }?;
        // SAFETY: the header's rules on pointers.
        let options = unsafe { pull_options(options) }?;
        // SAFETY: the same rules.
        let into = unsafe { values_mut(into, value_count, table.value_len) }?;
        table.table.pull_bags((keys, offsets, pooling), into, &options)
    })
}

/// Closes a pull without waiting for its rows; NULL is allowed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn windlass_forget_pull(pull: *mut WindlassPull) -> WindlassStatus {
    guard(|| {
        // SAFETY: the header's rules on handles.
        drop(unsafe { take(pull) }?);
        Ok(())
    })
}

/// # Safety
/// As the header says of the pointers that [`windlass_pull`] has too.
unsafe fn pull(
    table: *const WindlassTable,
    rows: RowSelection<'_>,
    into: *mut c_void,
    value_count: usize,
    options: *const WindlassPullOptions,
) -> Result<(), Failure> {
    // SAFETY: the caller's promise on handles.
    let table = unsafe { handle(table) }?;
    // SAFETY: the caller's promise on pointers.
    let options = unsafe { pull_options(options) }?;
    // SAFETY: as above.
    let into = unsafe { values_mut(into, value_count, table.value_len) }?;
    table.table.pull_into(rows, into, &options)
}

/// # Safety
/// As the header says of the pointers that [`windlass_start_pull`] has too.
unsafe fn start(
    table: *const WindlassTable,
    rows: RowSelection<'_>,
    options: *const WindlassPullOptions,
    pull: *mut *mut WindlassPull,
) -> Result<(), Failure> {
    // SAFETY: the caller's promise on pointers.
    let place = unsafe { out(pull, "pull") }?;
    // SAFETY: the caller's promise on handles.
    let table = unsafe { handle(table) }?;
    // SAFETY: the caller's promise on pointers.
    let options = unsafe { pull_options(options) }?;
    let width = table.width();
    let row_count = usize::try_from(rows.count()).unwrap_or(usize::MAX);
    let started = WindlassPull {
        owner: Owner::current(),
        pull: table.table.start_pull(rows, &options)?,
        value_count: row_count.saturating_mul(width),
        value_len: table.value_len,
    };
    place.set(Box::into_raw(Box::new(started)));
    Ok(())
}
