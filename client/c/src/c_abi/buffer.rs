//! Buffers: values that servers read from where they are.

use std::{ffi::c_void, ptr::NonNull};

use windlass_client::RowSelection;

use super::{
    arguments::{Handle, check_len, handle, keys as keys_of, out, set_timestamp, take},
    client::WindlassClient,
    options::{WindlassPushOptions, push_options},
    push::range,
    registered::Registered,
    schema::dtype as dtype_of,
    status::WindlassStatus,
    table::WindlassTable,
};
use crate::{
    failure::Failure,
    guard::{Owner, guard},
};

/// Values that can be pushed again and again without a copy by the client. Belongs to its client's
/// thread. While a push of them is under way, nobody may write them: windlass_wait() for the push,
/// or windlass_settle_buffer() for all of the buffer's.
#[derive(Debug)]
pub struct WindlassBuffer {
    owner: Owner,
    values: Registered,
}

impl Handle for WindlassBuffer {
    const NAME: &'static str = "buffer";

    fn owner(&self) -> Owner {
        self.owner
    }
}

/// Allocates `value_count` zeroed values of a windlass_dtype in registered memory, which every
/// transport can read without a copy. windlass_buffer_values() says where they are.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn windlass_allocate_buffer(
    client: *const WindlassClient,
    dtype: u32,
    value_count: usize,
    buffer: *mut *mut WindlassBuffer,
) -> WindlassStatus {
    guard(|| {
        // SAFETY: the header's rules on pointers.
        let place = unsafe { out(buffer, "buffer") }?;
        // SAFETY: the header's rules on handles.
        let client = &unsafe { handle(client) }?.client;
        let dtype = dtype_of(dtype)?;
        check_len(value_count, dtype.size(), "values")?;
        let values = Registered::allocate(client, dtype, value_count)?;
        place.set(into_handle(values));
        Ok(())
    })
}

/// Registers `value_count` values of a windlass_dtype in memory of your own, for example from
/// malloc(): it stays yours, and has to stay until the buffer is closed.
///
/// With verbs and tcp, servers read it from where it is; the pages are pinned at the first push
/// over verbs. Shared memory cannot share memory it did not allocate: there each push copies the
/// values once. windlass_buffer_is_shared() tells.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn windlass_register_buffer(
    client: *const WindlassClient,
    dtype: u32,
    memory: *mut c_void,
    value_count: usize,
    buffer: *mut *mut WindlassBuffer,
) -> WindlassStatus {
    guard(|| {
        // SAFETY: the header's rules on pointers.
        let place = unsafe { out(buffer, "buffer") }?;
        // SAFETY: the header's rules on handles.
        let client = &unsafe { handle(client) }?.client;
        let memory = NonNull::new(memory).ok_or_else(|| Failure::null("memory"))?;
        let dtype = dtype_of(dtype)?;
        check_len(value_count, dtype.size(), "values")?;
        if value_count == 0 {
            return Err(Failure::argument("a buffer has at least one value"));
        }
        // SAFETY: the caller's memory stays until the buffer is closed and is not written during
        // pushes, as this function's and the type's documentation ask.
        let values = unsafe { Registered::borrow(client, dtype, memory.cast(), value_count) }?;
        place.set(into_handle(values));
        Ok(())
    })
}

/// Waits for the pushes that read the buffer and closes it; NULL is allowed. With
/// WINDLASS_STATUS_TIMEOUT or _INTERRUPTED a server may still read it: it is not closed and its memory has
/// to stay.
/// Any other failure of a push is windlass_settle_buffer()'s to tell.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn windlass_close_buffer(buffer: *mut WindlassBuffer) -> WindlassStatus {
    guard(|| {
        if buffer.is_null() {
            return Ok(());
        }
        // SAFETY: the header's rules on handles.
        let settled = unsafe { handle(buffer) }.map(|buffer| buffer.values.settle());
        match settled {
            Ok(Err(error)) if error.leaves_request() => return Err(error.into()),
            Ok(_) => {}
            // Nothing that was started here reads it.
            Err(failure) if failure.status == WindlassStatus::WrongProcess => {}
            Err(failure) => return Err(failure),
        }
        // SAFETY: the header's rules on handles, and it is closed from here on.
        drop(unsafe { take(buffer) }?);
        Ok(())
    })
}

/// Where a buffer's values are, and how many. Either place may be NULL. The values live as long as
/// the buffer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn windlass_buffer_values(
    buffer: *const WindlassBuffer,
    values: *mut *mut c_void,
    value_count: *mut usize,
) -> WindlassStatus {
    guard(|| {
        // SAFETY: the header's rules on handles.
        let buffer = unsafe { handle(buffer) }?;
        if !values.is_null() {
            // SAFETY: the header's rules on pointers.
            unsafe { out(values, "values") }?.set(buffer.values.address().cast());
        }
        if !value_count.is_null() {
            // SAFETY: as above.
            unsafe { out(value_count, "value_count") }?.set(buffer.values.len());
        }
        Ok(())
    })
}

/// Whether servers read the buffer from where it is, so that pushes of it copy nothing: 1 or 0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn windlass_buffer_is_shared(
    buffer: *const WindlassBuffer,
    is_shared: *mut i32,
) -> WindlassStatus {
    guard(|| {
        // SAFETY: the header's rules on pointers.
        let place = unsafe { out(is_shared, "is_shared") }?;
        // SAFETY: the header's rules on handles.
        place.set(i32::from(unsafe { handle(buffer) }?.values.is_shared()));
        Ok(())
    })
}

/// Waits until every push of the buffer is over, so that it may be written; the first failure of
/// those pushes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn windlass_settle_buffer(buffer: *const WindlassBuffer) -> WindlassStatus {
    guard(|| {
        // SAFETY: the header's rules on handles.
        Ok(unsafe { handle(buffer) }?.values.settle()?)
    })
}

/// Starts a push of rows by key out of a buffer: width values for each key, from number
/// `first_value` of the buffer on. They must not be written until the push is over.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn windlass_push_buffer(
    table: *const WindlassTable,
    keys: *const u64,
    key_count: usize,
    buffer: *const WindlassBuffer,
    first_value: usize,
    options: *const WindlassPushOptions,
    timestamp: *mut u64,
) -> WindlassStatus {
    guard(|| {
        // SAFETY: the header's rules on pointers.
        let rows = RowSelection::Keys(unsafe { keys_of(keys, key_count) }?);
        // SAFETY: the same rules.
        unsafe { push(table, rows, buffer, first_value, options, timestamp) }
    })
}

/// Starts a push of `row_count` rows of a dense table, from `first_row` on, out of a buffer.
/// Otherwise as windlass_push_buffer().
#[unsafe(no_mangle)]
pub unsafe extern "C" fn windlass_push_buffer_range(
    table: *const WindlassTable,
    first_row: u64,
    row_count: u64,
    buffer: *const WindlassBuffer,
    first_value: usize,
    options: *const WindlassPushOptions,
    timestamp: *mut u64,
) -> WindlassStatus {
    guard(|| {
        let rows = range(first_row, row_count)?;
        // SAFETY: the header's rules.
        unsafe { push(table, rows, buffer, first_value, options, timestamp) }
    })
}

fn into_handle(values: Registered) -> *mut WindlassBuffer {
    Box::into_raw(Box::new(WindlassBuffer { owner: Owner::current(), values }))
}

/// # Safety
/// As the header says of the pointers that [`windlass_push_buffer`] has too.
unsafe fn push(
    table: *const WindlassTable,
    rows: RowSelection<'_>,
    buffer: *const WindlassBuffer,
    first_value: usize,
    options: *const WindlassPushOptions,
    timestamp: *mut u64,
) -> Result<(), Failure> {
    // SAFETY: the caller's promise on handles.
    let table = unsafe { handle(table) }?;
    // SAFETY: as above.
    let buffer = unsafe { handle(buffer) }?;
    // SAFETY: the caller's promise on pointers.
    let options = unsafe { push_options(options) }?;
    let pushed = table.table.push_buffer(rows, &buffer.values, first_value, &options)?;
    // SAFETY: the caller's promise on pointers.
    unsafe { set_timestamp(timestamp, pushed) }
}
