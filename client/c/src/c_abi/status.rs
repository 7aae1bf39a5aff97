//! Statuses, the text of the last failure, versions.

use std::ffi::c_char;

use crate::guard::{last_error, last_refused};

/// Version of the ABI the header describes. It goes up when a program compiled against an older
/// header would not work any more; functions, fields at the end of structs and statuses may be
/// added without.
pub const WINDLASS_ABI_VERSION: u32 = 1;

/// How a call ended. The numbers never change their meaning.
#[repr(i32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WindlassStatus {
    /// Done.
    Ok = 0,
    /// A NULL, misaligned or meaningless argument; windlass_last_error() names it.
    InvalidArgument = 1,
    /// The handle belongs to another thread.
    WrongThread = 2,
    /// A bug in windlass. The handle may still be closed.
    Internal = 3,
    /// No memory here, or none left at a server.
    NoMemory = 4,
    /// The handle was made by another process, which this one was forked from: connect again here.
    /// It may be closed, which the other process does not notice.
    WrongProcess = 5,
    /// No server answers at the address, or not as a windlass server would.
    ConnectFailed = 10,
    /// No transport works between here and a server; the text gives the reason for each.
    NoTransport = 11,
    /// The server refused: a wrong token, a version, a schema that is not valid.
    Refused = 12,
    /// The server is gone, or went while it was asked. Requests without an answer may have been
    /// applied: connect again.
    ServerGone = 13,
    /// No answer within the client's timeout. The request goes on; of a push that could not be sent as a
    /// whole within it, the part that was.
    Timeout = 14,
    /// No live server has the rows, for as long as the client tried. Parts of the request may have
    /// been applied.
    Unavailable = 15,
    /// A server came back without the table's rows, which nothing kept: open the table again to go
    /// on with what is there.
    RowsLost = 16,
    /// The push had no answer for so long that servers may have applied it and forgotten that: it is
    /// unknown whether it was applied, and it is not sent again.
    SessionExpired = 17,
    /// The goes_on of windlass_options ended the wait. What was asked for goes on.
    Interrupted = 18,
    /// There is no such table.
    UnknownTable = 20,
    /// A table of that name has another schema.
    TableExists = 21,
    /// The table holds another dtype.
    WrongDtype = 22,
    /// The schema is not valid.
    InvalidSchema = 23,
    /// The number of values is not rows times width.
    WrongLength = 30,
    /// A row is past the table's end.
    OutOfRange = 33,
    /// A range was asked of a sparse table.
    RangeOfSparse = 34,
    /// A value is NaN or infinite, and the table refuses such. Nothing was applied.
    NotFinite = 35,
    /// The timestamp names no request that is still known.
    UnknownTimestamp = 36,
    /// The values need more of the staging area than one request may take: raise staging_len, or ask for
    /// fewer rows at once.
    TooLarge = 37,
    /// The request could not be prepared, for example because memory could not be registered.
    SetupFailed = 38,
}

impl WindlassStatus {
    fn text(number: i32) -> &'static std::ffi::CStr {
        match number {
            0 => c"ok",
            1 => c"invalid argument",
            2 => c"wrong thread",
            3 => c"internal error",
            4 => c"no memory",
            5 => c"wrong process",
            10 => c"connect failed",
            11 => c"no transport",
            12 => c"refused",
            13 => c"server gone",
            14 => c"timeout",
            15 => c"unavailable",
            16 => c"rows lost",
            17 => c"session expired",
            18 => c"interrupted",
            20 => c"unknown table",
            21 => c"table exists",
            22 => c"wrong dtype",
            23 => c"invalid schema",
            30 => c"wrong length",
            33 => c"out of range",
            34 => c"range of a sparse table",
            35 => c"not finite",
            36 => c"unknown timestamp",
            37 => c"too large",
            38 => c"setup failed",
            _ => c"unknown status",
        }
    }
}

/// What the last call on this thread that failed says: a sentence with the names, rows and bounds
/// that matter. Empty when none has failed. Valid until the next call on this thread; never NULL.
#[unsafe(no_mangle)]
pub extern "C" fn windlass_last_error() -> *const c_char {
    last_error()
}

/// Rows that follow each other, or keys: the first and the last.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WindlassRows {
    /// The first.
    pub first: u64,
    /// The last, which is the first where it is one.
    pub last: u64,
}

/// Which rows or keys of a push were not applied, ascending, after a call on this thread has failed that
/// pushed or waited for it: all others of it were. Returns how many runs of them there are, and stores as
/// many as `capacity` says in `rows`, which may be NULL for 0. 0 where the last call that failed was refused
/// as a whole, or failed in another way: then its status says what holds. Valid as windlass_last_error() is.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn windlass_last_refused(rows: *mut WindlassRows, capacity: usize) -> usize {
    let refused = last_refused();
    if rows.is_null() {
        return refused.len();
    }
    for (index, range) in refused.iter().take(capacity).enumerate() {
        let run = WindlassRows { first: *range.start(), last: *range.end() };
        // SAFETY: the header's rules: there is room for `capacity` of them, and index is less.
        unsafe { rows.add(index).write(run) };
    }
    refused.len()
}

/// A few words for a status, the same for each of its number. Valid for ever; never NULL.
#[unsafe(no_mangle)]
pub extern "C" fn windlass_status_text(status: i32) -> *const c_char {
    WindlassStatus::text(status).as_ptr()
}

/// The library's WINDLASS_ABI_VERSION: compare it with the header's when you load at run time.
#[unsafe(no_mangle)]
pub extern "C" fn windlass_abi_version() -> u32 {
    WINDLASS_ABI_VERSION
}

/// The library's version, such as "0.1.0". Valid for ever; never NULL.
#[unsafe(no_mangle)]
pub extern "C" fn windlass_version() -> *const c_char {
    const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), "\0");
    VERSION.as_ptr().cast()
}
