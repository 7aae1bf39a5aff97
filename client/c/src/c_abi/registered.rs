//! Values in memory that servers read themselves: the memory of a buffer, and the pushes that may
//! still be reading it.

use std::{any::Any, cell::RefCell, collections::VecDeque, ptr::NonNull};

use windlass_client::{
    Client, DataType, Element, PushOptions, RequestError, RowSelection, Rows, Table, Timestamp,
};

use crate::{
    erased::{typed, with_element},
    failure::Failure,
};

/// Requests of one client under way at most: a request this much older than another is over.
const REQUESTS_MAX: u64 = 1024;

/// The values of a buffer.
pub(crate) struct Registered {
    client: Client,
    dtype: DataType,
    address: NonNull<u8>,
    /// Number of values.
    len: usize,
    /// `Rows` of the dtype, unless pushes have to copy.
    rows: Option<Box<dyn Any>>,
    pending: RefCell<VecDeque<Timestamp>>,
}

impl Registered {
    /// Zeroed values in memory of windlass.
    pub(crate) fn allocate(client: &Client, dtype: DataType, len: usize) -> Result<Self, Failure> {
        let (address, rows) = with_element!(dtype, T => {
            let rows = client.allocate::<T>(len).map_err(|error| Failure::no_memory(&error))?;
            (NonNull::new(rows.as_ptr().cast()), Box::new(rows) as Box<dyn Any>)
        });
        let address = address.ok_or_else(|| Failure::null("memory"))?;
        Ok(Self {
            client: client.clone(),
            dtype,
            address,
            len,
            rows: Some(rows),
            pending: RefCell::default(),
        })
    }

    /// Values in memory of the caller.
    ///
    /// # Safety
    /// `address` is readable and writable for `len` values until this is dropped, and nobody writes
    /// them while a push of them is under way or a call that reads them runs.
    pub(crate) unsafe fn borrow(
        client: &Client,
        dtype: DataType,
        address: NonNull<u8>,
        len: usize,
    ) -> Result<Self, Failure> {
        if !address.addr().get().is_multiple_of(dtype.size()) {
            let text = format!("values of {dtype} must be aligned to {} bytes", dtype.size());
            return Err(Failure::argument(text));
        }
        let rows = if client.shares_foreign_memory() {
            Some(with_element!(dtype, T => {
                // SAFETY: aligned, as just checked, and there until `self` is dropped, which is after
                // `settle`, as the caller promises; `Rows` makes references only for the length of a call.
                let rows = unsafe { Rows::<T>::borrow(client, address.cast(), len) }?;
                Box::new(rows) as Box<dyn Any>
            }))
        } else {
            None
        };
        let client = client.clone();
        Ok(Self { client, dtype, address, len, rows, pending: RefCell::default() })
    }

    pub(crate) fn dtype(&self) -> DataType {
        self.dtype
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn address(&self) -> *mut u8 {
        self.address.as_ptr()
    }

    /// Whether servers read the values from where they are.
    pub(crate) fn is_shared(&self) -> bool {
        self.rows.is_some()
    }

    /// Starts a push of the values from number `first` on, as many as the rows have.
    pub(crate) fn push<T: Element>(
        &self,
        table: &Table<T>,
        rows: RowSelection<'_>,
        first: usize,
        options: &PushOptions,
    ) -> Result<Timestamp, Failure> {
        let wanted = usize::try_from(rows.count()).unwrap_or(usize::MAX);
        let wanted = wanted.saturating_mul(table.width());
        if first.checked_add(wanted).is_none_or(|end| end > self.len) {
            let text = format!(
                "the push needs {wanted} values from number {first} on, the buffer has {}",
                self.len
            );
            return Err(Failure::new(crate::c_abi::status::WindlassStatus::WrongLength, text));
        }
        match &self.rows {
            Some(registered) => {
                let Some(registered) = registered.downcast_ref::<Rows<T>>() else {
                    unreachable!("the dtype is the table's, and the rows are of the dtype")
                };
                // SAFETY: C's promise for buffers: nobody writes the values until the push is over.
                let pushed = unsafe { table.push_shared(rows, registered, first, options) };
                // What was sent of a push that failed is under way.
                if let Some(sent) = pushed.as_ref().ok().copied().or_else(|| registered.unsettled())
                {
                    self.remember(sent);
                }
                Ok(pushed?)
            }
            None => {
                let from = first * size_of::<T>();
                let bytes = self.len * size_of::<T>();
                // SAFETY: the memory has `len` values, and nobody writes them during the call, as
                // was promised to `borrow`.
                let all = unsafe { std::slice::from_raw_parts(self.address.as_ptr(), bytes) };
                let values = typed::<T>(&all[from..][..wanted * size_of::<T>()])?;
                // Copied: nobody reads the buffer now, but the push may fail, and `settle` tells.
                let sent = table.push(rows, values, options)?.timestamp();
                self.remember(sent);
                Ok(sent)
            }
        }
    }

    /// Waits until every push of the values is over, whether servers read them or they were copied; the
    /// first failure of one.
    ///
    /// Those that are out of time stay on the list.
    pub(crate) fn settle(&self) -> Result<(), RequestError> {
        let mut pending = self.pending.borrow_mut();
        let mut outcome = Ok(());
        while let Some(timestamp) = pending.front() {
            let ended = self.client.wait(*timestamp);
            if ended.as_ref().is_err_and(RequestError::leaves_request) {
                return ended;
            }
            pending.pop_front();
            outcome = outcome.and(ended);
        }
        outcome
    }

    fn remember(&self, pushed: Timestamp) {
        let mut pending = self.pending.borrow_mut();
        while pending.front().is_some_and(|first| first.0 + REQUESTS_MAX <= pushed.0) {
            pending.pop_front();
        }
        pending.push_back(pushed);
    }
}

impl std::fmt::Debug for Registered {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Registered")
            .field("dtype", &self.dtype)
            .field("len", &self.len)
            .field("shared", &self.is_shared())
            .finish_non_exhaustive()
    }
}
