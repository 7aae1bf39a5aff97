//! Values in registered memory, which are pushed without a copy.
#![allow(unsafe_code)]

use std::{
    fmt,
    marker::PhantomData,
    ops::{Deref, DerefMut},
    ptr::NonNull,
};

use windlass_transport::{Pages, error::AllocateError, memory::PagesOptions};
use windlass_wire::Timestamp;

use crate::{
    client::Client,
    config::PushOptions,
    core::{RegionId, Source},
    element::Element,
    error::RequestError,
    fork::WrongProcess,
    shared::SharedCore,
    table::{RowSelection, Table},
};

/// `len` values in memory that is registered once. The client pushes from there many times without a copy. During a
/// push the values belong to it; its `wait_rows` returns them.
pub struct Rows<T> {
    core: SharedCore,
    region: RegionId,
    pages: Pages,
    len: usize,
    element: PhantomData<T>,
}

impl<T: Element> Rows<T> {
    pub(crate) fn allocate(core: &SharedCore, len: usize) -> Result<Self, AllocateError> {
        let bytes = len.saturating_mul(size_of::<T>()).max(1);
        let mut entered = core.enter().map_err(|error| AllocateError::System {
            step: "allocating rows",
            len: bytes,
            source: std::io::Error::other(error),
        })?;
        let pages = Pages::allocate(bytes, PagesOptions::default())?;
        let region = entered.pending.memory.add_region(pages.clone());
        drop(entered);
        Ok(Self { core: core.clone(), region, pages, len, element: PhantomData })
    }

    /// `len` values in memory that the caller owns. Servers can read it only where
    /// [`Client::shares_foreign_memory`] says so: elsewhere pushes of it fail.
    ///
    /// # Safety
    /// `address` must be aligned, and mapped readable and writable for `len` values until the rows
    /// are dropped and no push of them is under way. No reference to the values may live while one made from the rows does.
    /// # Errors
    /// In a forked child of the process that connected.
    pub unsafe fn borrow(
        client: &Client,
        address: NonNull<T>,
        len: usize,
    ) -> Result<Self, WrongProcess> {
        assert!(address.is_aligned(), "borrowed rows are misaligned");
        let core = client.core().clone();
        // SAFETY: the caller promises that the memory stays; an empty slice has its address.
        let pages = unsafe { Pages::borrow(address.cast(), len.saturating_mul(size_of::<T>())) };
        let region = core.enter()?.pending.memory.add_region(pages.clone());
        Ok(Self { core, region, pages, len, element: PhantomData })
    }

    /// A push of the values that could not be sent as a whole, whose error was returned, and whose parts
    /// servers may still read.
    #[must_use]
    pub fn unsettled(&self) -> Option<Timestamp> {
        self.core.look().pending.reader_of(self.region).map(Timestamp)
    }

    /// Where the values are.
    #[must_use]
    pub fn as_ptr(&self) -> *mut T {
        self.pages.as_ptr().cast()
    }

    pub(crate) fn region(&self) -> RegionId {
        self.region
    }
}

impl<T: Element> Table<T> {
    /// Starts a push of registered values, from number `first` on, that stay with the caller: many
    /// pushes may read them at once.
    ///
    /// # Errors
    /// As [`Table::push`], and when the values belong to another client.
    ///
    /// # Safety
    /// Until the push is over, nobody may write the values. Where it fails to start, that is until what
    /// [`Rows::unsettled`] names is.
    pub unsafe fn push_shared<'a>(
        &self,
        rows: impl Into<RowSelection<'a>>,
        values: &Rows<T>,
        first: usize,
        options: &PushOptions,
    ) -> Result<Timestamp, RequestError> {
        if !self.core().is(&values.core) {
            let text = "the values belong to another client".to_owned();
            return Err(RequestError::Setup { text });
        }
        let rows = rows.into();
        let wanted = usize::try_from(rows.count()).unwrap_or(usize::MAX);
        let rest = values.get(first..).unwrap_or_default();
        let part = &rest[..rest.len().min(wanted.saturating_mul(self.width()))];
        let offset = first as u64 * size_of::<T>() as u64;
        let source = Source::Registered { region: values.region(), offset };
        self.start_push(&rows, None, part, source, options).map(Timestamp)
    }
}

impl<T: Element> Deref for Rows<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: the pages are mapped as long as `self`, page-aligned, zeroed at first and at
        // least `len` values long; every bit pattern is a value. Servers are only ever given
        // requests that read them, and only while a pending push owns these rows, so nobody writes
        // them while a reference exists.
        unsafe { std::slice::from_raw_parts(self.pages.as_ptr().cast(), self.len) }
    }
}

impl<T: Element> DerefMut for Rows<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as above; the mapping is this process's own and `self` is borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.pages.as_ptr().cast(), self.len) }
    }
}

impl<T> Drop for Rows<T> {
    fn drop(&mut self) {
        if let Ok(mut core) = self.core.enter() {
            let core = &mut *core;
            core.pending.remove_region(&mut core.links, self.region);
        }
    }
}

impl<T> fmt::Debug for Rows<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Rows").field("len", &self.len).finish_non_exhaustive()
    }
}
