//! What surrounds every call: panics stop here, failures leave their text behind, and handles are
//! known to belong to one thread.

use std::{
    any::Any,
    cell::RefCell,
    ffi::{CStr, CString, c_char},
    ops::RangeInclusive,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::atomic::{AtomicU64, Ordering},
};

use windlass_client::Process;

use crate::{c_abi::status::WindlassStatus, failure::Failure};

/// Who made a handle: a process, and a thread by a number that is never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Owner {
    process: Process,
    thread: u64,
}

static NEXT_THREAD: AtomicU64 = AtomicU64::new(1);

thread_local! {
    static THREAD: u64 = NEXT_THREAD.fetch_add(1, Ordering::Relaxed);
    static LAST_ERROR: RefCell<CString> = RefCell::default();
    static LAST_REFUSED: RefCell<Vec<RangeInclusive<u64>>> = RefCell::default();
}

impl Owner {
    /// The calling thread.
    pub(crate) fn current() -> Self {
        Self { process: Process::current(), thread: THREAD.with(|number| *number) }
    }

    /// Whether this is the calling thread, or the one that a forked child has of it.
    pub(crate) fn is_this_thread(self) -> bool {
        self.thread == THREAD.with(|number| *number)
    }

    /// Whether this is the calling process, not one it was forked from.
    pub(crate) fn is_this_process(self) -> bool {
        self.process.is_current()
    }
}

/// Runs a call. Nothing unwinds out of it: C could not stand that.
pub(crate) fn guard(call: impl FnOnce() -> Result<(), Failure>) -> WindlassStatus {
    // After a panic the client's own cells are unlocked by unwinding, so it is no worse to use than
    // after an error.
    let outcome = catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(|panic| {
        let failure = Failure::new(WindlassStatus::Internal, text_of(panic.as_ref()));
        // Its destructor could panic again.
        std::mem::forget(panic);
        Err(failure)
    });
    match outcome {
        Ok(()) => WindlassStatus::Ok,
        Err(failure) => {
            remember(failure.text);
            let _ = LAST_REFUSED.try_with(|last| last.replace(failure.refused));
            failure.status
        }
    }
}

/// The text of the last failure on this thread. It stays where it is until the next failure there.
pub(crate) fn last_error() -> *const c_char {
    // While a thread ends its text may be gone already.
    LAST_ERROR.try_with(|text| text.borrow().as_ptr()).unwrap_or(c"".as_ptr())
}

/// The rows that the last failure on this thread says were not applied.
pub(crate) fn last_refused() -> Vec<RangeInclusive<u64>> {
    LAST_REFUSED.try_with(|rows| rows.borrow().clone()).unwrap_or_default()
}

fn remember(text: String) {
    let text = CString::new(text).unwrap_or_else(|error| {
        let mut bytes = error.into_vec();
        bytes.retain(|byte| *byte != 0);
        CString::new(bytes).unwrap_or_default()
    });
    let _ = LAST_ERROR.try_with(|last| last.replace(text));
}

fn text_of(panic: &(dyn Any + Send)) -> String {
    let text = panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no text");
    format!("a bug in windlass: {text}")
}

/// A text for C; what comes after a NUL is cut.
pub(crate) fn c_text(text: &str) -> CString {
    let until = text.split('\0').next().unwrap_or_default();
    CString::new(until).unwrap_or_else(|_| CStr::to_owned(c""))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text() -> String {
        LAST_ERROR.with(|text| text.borrow().to_str().unwrap().to_owned())
    }

    #[test]
    fn a_panic_is_a_status_and_a_text() {
        let status = guard(|| panic!("seven is not {}", 8));
        assert_eq!(status, WindlassStatus::Internal);
        assert_eq!(text(), "a bug in windlass: seven is not 8");
        assert_eq!(guard(|| Ok(())), WindlassStatus::Ok);
        assert_eq!(text(), "a bug in windlass: seven is not 8");
        assert_eq!(guard(|| Err(Failure::null("client\0"))), WindlassStatus::InvalidArgument);
        assert_eq!(text(), "client is NULL");
    }

    #[test]
    fn threads_have_numbers_of_their_own() {
        let mine = Owner::current();
        assert!(mine.is_this_thread() && mine.is_this_process());
        let other = std::thread::spawn(Owner::current).join().unwrap();
        assert!(!other.is_this_thread() && other.is_this_process());
    }
}
