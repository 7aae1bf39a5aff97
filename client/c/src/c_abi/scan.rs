//! Scans of sparse tables.

use std::{
    cell::RefCell,
    ffi::{CString, c_char, c_void},
    ptr::null,
};

use windlass_client::{ScanColumns, ScanCursor, ScanOptions};

use super::{
    arguments::{Handle, SizedStruct, fill, handle, optional_text, out, sized, take},
    options::pull_from,
    status::WindlassStatus,
    table::WindlassTable,
};
use crate::{
    erased::ErasedScan,
    failure::Failure,
    guard::{Owner, c_text, guard},
};

/// Keys and values of each row.
pub const WINDLASS_SCAN_VALUES: u32 = 0;
/// Keys only.
pub const WINDLASS_SCAN_KEYS: u32 = 1;
/// Keys, values and the optimiser's state.
pub const WINDLASS_SCAN_STATE: u32 = 2;

/// Options of a scan. NULL for the defaults.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct WindlassScanOptions {
    /// sizeof(windlass_scan_options).
    pub size: usize,
    /// What is wanted of each row: WINDLASS_SCAN_*; 0 for keys and values.
    pub columns: u32,
    /// Most rows of a batch; 0 for as many as make up about 512 KiB.
    pub rows_max: u32,
    /// Which replicas are read: WINDLASS_PULL_FROM_*; 0 for the tail.
    pub from: u32,
    /// Zero.
    pub reserved: u32,
}

/// Rows of a scan. The pointers are valid until the scan's next call.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct WindlassScanBatch {
    /// sizeof(windlass_scan_batch).
    pub size: usize,
    /// How many; 0 at the scan's end and nowhere else.
    pub row_count: usize,
    /// The key of each.
    pub keys: *const u64,
    /// Width values of each, of the table's dtype; NULL unless they were asked for.
    pub values: *const c_void,
    /// state_len bytes of each; NULL unless they were asked for. First state_planes times width values, double of
    /// tables of double, else float; then, if row_word is not 0, the row's word. Rows
    /// that are not a multiple of a value's size long leave those behind them misaligned.
    pub state: *const c_void,
    /// Bytes of a row's state.
    pub state_len: usize,
    /// State values for each value.
    pub state_planes: u32,
    /// What the rule keeps of a whole row: 0 for nothing, 1 for how often it was updated, a uint32_t, 2 for a number,
    /// a float.
    pub row_word: u32,
}

impl Default for WindlassScanBatch {
    fn default() -> Self {
        Self {
            size: 0,
            row_count: 0,
            keys: null(),
            values: null(),
            state: null(),
            state_len: 0,
            state_planes: 0,
            row_word: 0,
        }
    }
}

const _: () = assert!(size_of::<WindlassScanOptions>() == 24);
const _: () = assert!(size_of::<WindlassScanBatch>() == 56);

// SAFETY: `repr(C)`, begins with `size`, has no padding (24 bytes are the sum of the fields), and holds
// integers only.
unsafe impl SizedStruct for WindlassScanOptions {
    const NAME: &'static str = "windlass_scan_options";
}

// SAFETY: as above, with 56 bytes, and pointers that are only written.
unsafe impl SizedStruct for WindlassScanBatch {
    const NAME: &'static str = "windlass_scan_batch";
}

/// A scan under way. Belongs to its client's thread.
pub struct WindlassScan {
    owner: Owner,
    scan: RefCell<Box<dyn ErasedScan>>,
    cursor: RefCell<CString>,
}

impl Handle for WindlassScan {
    const NAME: &'static str = "scan";

    fn owner(&self) -> Owner {
        self.owner
    }
}

impl std::fmt::Debug for WindlassScan {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("WindlassScan").field("cursor", &self.cursor).finish_non_exhaustive()
    }
}

/// Begins to scan a sparse table, or goes on behind `cursor`, a text of windlass_scan_cursor(); NULL to
/// begin. Every row that is there all the time comes exactly once, any other at most once, whatever is pushed
/// meanwhile and whichever servers fail.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn windlass_begin_scan(
    table: *const WindlassTable,
    cursor: *const c_char,
    options: *const WindlassScanOptions,
    scan: *mut *mut WindlassScan,
) -> WindlassStatus {
    guard(|| {
        // SAFETY: the header's rules on pointers.
        let place = unsafe { out(scan, "scan") }?;
        // SAFETY: the header's rules on handles.
        let table = unsafe { handle(table) }?;
        // SAFETY: the header's rules on pointers.
        let given = unsafe { sized(options) }?;
        // SAFETY: as above.
        let cursor = unsafe { optional_text(cursor, "cursor") }?;
        let cursor = cursor.map(str::parse::<ScanCursor>).transpose();
        let cursor = cursor.map_err(|error| Failure::argument(error.to_string()))?;
        let scan = RefCell::new(table.table.scan(cursor, &scan_options(&given)?)?);
        let begun = WindlassScan { owner: Owner::current(), scan, cursor: RefCell::default() };
        place.set(Box::into_raw(Box::new(begun)));
        Ok(())
    })
}

/// The next rows. Set batch->size first. batch->row_count is 0 at the end. After a failure the same rows come
/// next.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn windlass_next_rows(
    scan: *const WindlassScan,
    batch: *mut WindlassScanBatch,
) -> WindlassStatus {
    guard(|| {
        // SAFETY: the header's rules on handles.
        let mut scan = unsafe { handle(scan) }?.scan.borrow_mut();
        let mut fields = WindlassScanBatch::default();
        if scan.next()? {
            fields = scan.batch();
        }
        // SAFETY: the header's rules on pointers.
        unsafe { fill(batch, &fields) }
    })
}

/// How far a scan has come: a text with which another process can go on behind the rows of the last batch.
/// Valid until the scan's next call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn windlass_scan_cursor(
    scan: *const WindlassScan,
    cursor: *mut *const c_char,
) -> WindlassStatus {
    guard(|| {
        // SAFETY: the header's rules on pointers.
        let place = unsafe { out(cursor, "cursor") }?;
        // SAFETY: the header's rules on handles.
        let scan = unsafe { handle(scan) }?;
        let mut text = scan.cursor.borrow_mut();
        *text = c_text(&scan.scan.borrow().cursor().to_string());
        place.set(text.as_ptr());
        Ok(())
    })
}

/// Closes a scan; NULL is allowed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn windlass_close_scan(scan: *mut WindlassScan) -> WindlassStatus {
    guard(|| {
        // SAFETY: the header's rules on handles.
        drop(unsafe { take(scan) }?);
        Ok(())
    })
}

fn scan_options(given: &WindlassScanOptions) -> Result<ScanOptions, Failure> {
    let columns = match given.columns {
        WINDLASS_SCAN_VALUES => ScanColumns::Values,
        WINDLASS_SCAN_KEYS => ScanColumns::Keys,
        WINDLASS_SCAN_STATE => ScanColumns::State,
        other => {
            let text = format!("{other} is no WINDLASS_SCAN_*: use 0, 1 or 2");
            return Err(Failure::argument(text));
        }
    };
    Ok(ScanOptions { columns, rows_max: given.rows_max, from: pull_from(given.from)? })
}
