//! From what C passes to what Rust uses: texts, slices, handles, structs that may be older or newer
//! than this library, places for results.

use std::{
    ffi::{CStr, c_char},
    marker::PhantomData,
    ptr::NonNull,
};

use windlass_client::WrongProcess;

use crate::{c_abi::status::WindlassStatus, failure::Failure, guard::Owner};

/// Most bytes of a struct from C: more is a size that was never set.
const STRUCT_LEN_MAX: usize = 4096;

/// Something C holds by pointer.
pub(super) trait Handle {
    /// What it is called in errors.
    const NAME: &'static str;

    /// Who made it. Never changes.
    fn owner(&self) -> Owner;
}

/// A struct that begins with its own size, as the caller's header has it.
///
/// # Safety
/// The type is `repr(C)`, its first field is a `usize`, it has no padding, and every bit pattern is
/// a value of it.
pub(super) unsafe trait SizedStruct: Copy + Default {
    /// What it is called in errors.
    const NAME: &'static str;
}

/// A handle to use.
///
/// # Safety
/// `handle` is NULL or a handle of this type that is not closed.
pub(super) unsafe fn handle<'a, H: Handle>(handle: *const H) -> Result<&'a H, Failure> {
    // SAFETY: not NULL once `as_ref` has looked, then made by `into_handle` and not closed, as the
    // caller promises. On a wrong thread only `owner` is read, which nobody writes.
    let handle = unsafe { handle.as_ref() }.ok_or_else(|| Failure::null(H::NAME))?;
    if !handle.owner().is_this_process() {
        return Err(WrongProcess.into());
    }
    check_thread(handle)?;
    Ok(handle)
}

/// A handle to close, in a forked child too: nothing but this process's memory is touched there. NULL is
/// none.
///
/// # Safety
/// As [`handle`], and `handle` is not used again once this has succeeded.
pub(super) unsafe fn take<H: Handle>(handle: *mut H) -> Result<Option<Box<H>>, Failure> {
    if handle.is_null() {
        return Ok(None);
    }
    // SAFETY: as in `handle`.
    check_thread(unsafe { &*handle })?;
    // SAFETY: made by `into_handle`, so by `Box::into_raw`, and given up by the caller.
    Ok(Some(unsafe { Box::from_raw(handle) }))
}

fn check_thread<H: Handle>(handle: &H) -> Result<(), Failure> {
    if handle.owner().is_this_thread() {
        Ok(())
    } else {
        let text = format!(
            "this {} was made by another thread: use it there, or connect once per thread",
            H::NAME
        );
        Err(Failure::new(WindlassStatus::WrongThread, text))
    }
}

/// Where a result goes, once there is one.
pub(super) struct Out<'a, T> {
    place: NonNull<T>,
    lifetime: PhantomData<&'a mut T>,
}

/// A place for a result.
///
/// # Safety
/// `place` is NULL or writable.
pub(super) unsafe fn out<'a, T>(place: *mut T, name: &str) -> Result<Out<'a, T>, Failure> {
    let place = NonNull::new(place).ok_or_else(|| Failure::null(name))?;
    if !place.is_aligned() {
        return Err(Failure::argument(format!("{name} is misaligned")));
    }
    Ok(Out { place, lifetime: PhantomData })
}

impl<T> Out<'_, T> {
    /// Stores the result.
    pub(super) fn set(self, value: T) {
        // SAFETY: not NULL and aligned, as `out` checked, and writable, as its caller promised. The
        // old value is C's and is not dropped.
        unsafe { self.place.write(value) }
    }
}

/// Stores a timestamp where the caller wants one.
///
/// # Safety
/// `place` is NULL or writable.
pub(super) unsafe fn set_timestamp(
    place: *mut u64,
    timestamp: windlass_client::Timestamp,
) -> Result<(), Failure> {
    if !place.is_null() {
        // SAFETY: the caller's promise is the same.
        unsafe { out(place, "timestamp") }?.set(timestamp.0);
    }
    Ok(())
}

/// A text.
///
/// # Safety
/// `text` is NULL or ends with NUL.
pub(super) unsafe fn text<'a>(text: *const c_char, name: &str) -> Result<&'a str, Failure> {
    // SAFETY: the caller's promise is the same.
    unsafe { optional_text(text, name) }?.ok_or_else(|| Failure::null(name))
}

/// A text, or `None` for NULL.
///
/// # Safety
/// `text` is NULL or ends with NUL.
pub(super) unsafe fn optional_text<'a>(
    text: *const c_char,
    name: &str,
) -> Result<Option<&'a str>, Failure> {
    if text.is_null() {
        return Ok(None);
    }
    // SAFETY: not NULL, and ends with NUL as the caller promises; C does not change it during the
    // call.
    let text = unsafe { CStr::from_ptr(text) };
    text.to_str().map(Some).map_err(|_| Failure::argument(format!("{name} is not UTF-8")))
}

/// Keys.
///
/// # Safety
/// `keys` is NULL or has `count` keys, which nobody writes during the call.
pub(super) unsafe fn keys<'a>(keys: *const u64, count: usize) -> Result<&'a [u64], Failure> {
    if count == 0 {
        return Ok(&[]);
    }
    if keys.is_null() {
        return Err(Failure::null("keys"));
    }
    check_len(count, 8, "keys")?;
    if !keys.is_aligned() {
        return Err(Failure::argument("keys must be aligned to 8 bytes"));
    }
    // SAFETY: not NULL and aligned, of a length that fits memory, as checked; readable and left
    // alone during the call, as the caller promises.
    Ok(unsafe { std::slice::from_raw_parts(keys, count) })
}

/// Places of keys to write.
///
/// # Safety
/// `keys` is NULL or has room for `count` keys, which nobody else touches during the call.
pub(super) unsafe fn keys_mut<'a>(keys: *mut u64, count: usize) -> Result<&'a mut [u64], Failure> {
    if count == 0 {
        return Ok(&mut []);
    }
    if keys.is_null() {
        return Err(Failure::null("keys"));
    }
    check_len(count, 8, "keys")?;
    if !keys.is_aligned() {
        return Err(Failure::argument("keys must be aligned to 8 bytes"));
    }
    // SAFETY: not NULL and aligned, of a length that fits memory, as checked; writable and this call's
    // alone, as the caller promises. Memory from C is never undefined to Rust, as in `values_mut`.
    Ok(unsafe { std::slice::from_raw_parts_mut(keys, count) })
}

/// Values to read, as bytes.
///
/// # Safety
/// `values` is NULL or has `count` values of `size` bytes, which nobody writes during the call.
pub(super) unsafe fn values<'a>(
    values: *const std::ffi::c_void,
    count: usize,
    size: usize,
) -> Result<&'a [u8], Failure> {
    if count == 0 {
        return Ok(&[]);
    }
    if values.is_null() {
        return Err(Failure::null("values"));
    }
    let len = check_len(count, size, "values")?;
    // SAFETY: not NULL, bytes need no alignment, of a length that fits memory, as checked; readable
    // and left alone during the call, as the caller promises.
    Ok(unsafe { std::slice::from_raw_parts(values.cast(), len) })
}

/// Values to write, as bytes.
///
/// # Safety
/// `values` is NULL or has `count` initialised values of `size` bytes, which nobody else touches
/// during the call.
pub(super) unsafe fn values_mut<'a>(
    values: *mut std::ffi::c_void,
    count: usize,
    size: usize,
) -> Result<&'a mut [u8], Failure> {
    if count == 0 {
        return Ok(&mut []);
    }
    if values.is_null() {
        return Err(Failure::null("values"));
    }
    let len = check_len(count, size, "values")?;
    // SAFETY: not NULL, bytes need no alignment, of a length that fits memory, as checked; writable
    // and this call's alone, as the caller promises. Memory from C is never undefined to Rust: it
    // comes from code the compiler does not see.
    Ok(unsafe { std::slice::from_raw_parts_mut(values.cast(), len) })
}

/// Bytes of `count` elements, which have to fit an address space.
pub(super) fn check_len(count: usize, size: usize, name: &str) -> Result<usize, Failure> {
    count
        .checked_mul(size)
        .filter(|len| isize::try_from(*len).is_ok())
        .ok_or_else(|| Failure::argument(format!("{count} {name} are more than memory can hold")))
}

/// A struct of the caller's. NULL, and fields an older header did not have, are defaults; fields
/// that only a newer header has must be zero.
///
/// # Safety
/// `given` is NULL or points to a `usize` that says how many bytes from there on are readable.
pub(super) unsafe fn sized<S: SizedStruct>(given: *const S) -> Result<S, Failure> {
    let mut fields = S::default();
    if given.is_null() {
        return Ok(fields);
    }
    // SAFETY: the caller's promise is the same.
    let size = unsafe { size_of_given(given) }?;
    let known = size.min(size_of::<S>());
    // SAFETY: `size` bytes are readable and `known` is no more; `fields` has that many bytes, any
    // of which are valid by the trait's promise; a local cannot overlap what C passed.
    unsafe {
        std::ptr::copy_nonoverlapping(
            given.cast::<u8>(),
            std::ptr::from_mut(&mut fields).cast::<u8>(),
            known,
        );
    }
    // SAFETY: as above: `size` bytes are readable, the known ones are not looked at again.
    let newer = unsafe { std::slice::from_raw_parts(given.cast::<u8>().add(known), size - known) };
    if newer.iter().any(|byte| *byte != 0) {
        let text = format!(
            "{} sets fields that this library, version {}, does not know",
            S::NAME,
            env!("CARGO_PKG_VERSION")
        );
        return Err(Failure::argument(text));
    }
    Ok(fields)
}

/// Fills a struct of the caller's: what its header knows of `fields`, but its size.
///
/// # Safety
/// `place` is NULL or points to a `usize` that says how many bytes from there on are writable.
pub(super) unsafe fn fill<S: SizedStruct>(place: *mut S, fields: &S) -> Result<(), Failure> {
    if place.is_null() {
        return Err(Failure::null(S::NAME));
    }
    // SAFETY: the caller's promise is the same.
    let size = unsafe { size_of_given(place.cast_const()) }?;
    let known = size.min(size_of::<S>()) - size_of::<usize>();
    let from = std::ptr::from_ref(fields).cast::<u8>().wrapping_add(size_of::<usize>());
    let to = place.cast::<u8>().wrapping_add(size_of::<usize>());
    // SAFETY: both have `known` bytes behind their first field: `fields` by its type, `place` by
    // the caller's promise; the trait promises that none is padding; C's struct is not a Rust
    // reference, so they do not overlap.
    unsafe { std::ptr::copy_nonoverlapping(from, to, known) };
    Ok(())
}

/// # Safety
/// `given` points to a readable `usize`.
unsafe fn size_of_given<S: SizedStruct>(given: *const S) -> Result<usize, Failure> {
    if !given.is_aligned() {
        return Err(Failure::argument(format!("{} is misaligned", S::NAME)));
    }
    // SAFETY: readable, as the caller promises, and aligned.
    let size = unsafe { given.cast::<usize>().read() };
    if (size_of::<usize>()..=STRUCT_LEN_MAX).contains(&size) {
        Ok(size)
    } else {
        let text = format!("{}.size is {size}: set it to sizeof({})", S::NAME, S::NAME);
        Err(Failure::argument(text))
    }
}
