//! Values in registered memory: pushed without a copy on the way.
#![allow(unsafe_code)]

use std::{
    cell::RefCell,
    fmt,
    marker::PhantomData,
    ops::{Deref, DerefMut},
    rc::Rc,
};

use windlass_transport::{Pages, error::AllocateError, memory::PagesOptions};

use crate::{
    core::{Core, RegionId},
    element::Element,
};

/// `len` values in memory that is registered once and can be pushed from, again and again, without
/// being copied by the client. While a push of them is under way they belong to it, and come back
/// from its `wait`.
pub struct Rows<T> {
    core: Rc<RefCell<Core>>,
    region: RegionId,
    pages: Pages,
    len: usize,
    element: PhantomData<T>,
}

impl<T: Element> Rows<T> {
    pub(crate) fn allocate(core: &Rc<RefCell<Core>>, len: usize) -> Result<Self, AllocateError> {
        let bytes = len.saturating_mul(size_of::<T>()).max(1);
        let pages = Pages::allocate(bytes, PagesOptions::default())?;
        let region = core.borrow_mut().add_region(pages.clone());
        Ok(Self { core: core.clone(), region, pages, len, element: PhantomData })
    }

    pub(crate) fn region(&self) -> RegionId {
        self.region
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
        self.core.borrow_mut().remove_region(self.region);
    }
}

impl<T> fmt::Debug for Rows<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Rows").field("len", &self.len).finish_non_exhaustive()
    }
}
