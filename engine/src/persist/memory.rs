//! Pinned memory of one owner, and the copies that stand in for a device. The only file of persistence,
//! besides `uring`, with unsafe code.
#![allow(unsafe_code)]

use std::{fs::File, io, os::unix::fs::FileExt};

use windlass_transport::memory::{Lock, Pages, PagesOptions};

/// Pinned memory that one owner writes, while devices and peers at most read parts of it that the
/// owner leaves alone. A device writes it on behalf of the owner alone, who does not look at those
/// bytes meanwhile.
#[derive(Debug)]
pub struct Window {
    pages: Pages,
    length: usize,
}

impl Window {
    /// Fresh zeroed memory, not locked: it is pinned where and when a device uses it.
    ///
    /// # Errors
    /// When the system has no memory.
    pub fn allocate(length: usize) -> io::Result<Self> {
        let options = PagesOptions { lock: Lock::Never, ..PagesOptions::default() };
        let pages = Pages::allocate(length, options).map_err(io::Error::other)?;
        Ok(Self { pages, length })
    }

    /// The pages it lies in, from their first byte on, for registration.
    #[must_use]
    pub fn pages(&self) -> &Pages {
        &self.pages
    }

    /// Its length in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether it has no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Some of its bytes. Panics when they are not all inside.
    #[must_use]
    pub fn bytes(&self, start: usize, length: usize) -> &[u8] {
        let pointer = self.pointer(start, length);
        // SAFETY: `pointer` checked the bounds; the pages were made for this window, and nobody else
        // writes these bytes while this reference, which borrows the window, lives.
        unsafe { std::slice::from_raw_parts(pointer.cast_const(), length) }
    }

    /// Some of its bytes, to write. Panics when they are not all inside. Bytes that a device is
    /// reading must not be among them.
    #[must_use]
    pub fn bytes_mut(&mut self, start: usize, length: usize) -> &mut [u8] {
        let pointer = self.pointer(start, length);
        // SAFETY: as in `bytes`, and the window is borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(pointer, length) }
    }

    fn pointer(&self, start: usize, length: usize) -> *mut u8 {
        assert!(
            start.checked_add(length).is_some_and(|end| end <= self.length),
            "{start}+{length} leaves a window of {} bytes",
            self.length
        );
        self.pages.pointer(start as u64, length)
    }
}

/// Writes bytes of some pages to a file, as a device would: nobody writes them meanwhile.
pub(crate) fn write_at(
    file: &File,
    offset: u64,
    pages: &Pages,
    start: u64,
    length: usize,
) -> io::Result<usize> {
    let pointer = pages.pointer(start, length);
    // SAFETY: in bounds, as `pointer` checked; the storage's contract says that nobody writes the
    // bytes between submission and completion, and this runs between them.
    let bytes = unsafe { std::slice::from_raw_parts(pointer.cast_const(), length) };
    let mut written = 0;
    while written < length {
        match file.write_at(&bytes[written..], offset + written as u64) {
            Ok(0) => break,
            Ok(count) => written += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(written)
}

/// Reads from a file into some pages, as a device would: nobody looks at them meanwhile.
pub(crate) fn read_at(
    file: &File,
    offset: u64,
    pages: &Pages,
    start: u64,
    length: usize,
) -> io::Result<usize> {
    let pointer = pages.pointer(start, length);
    // SAFETY: in bounds, as `pointer` checked; the storage's contract says that nobody touches the
    // bytes between submission and completion, and this runs between them.
    let bytes = unsafe { std::slice::from_raw_parts_mut(pointer, length) };
    let mut count = 0;
    while count < length {
        match file.read_at(&mut bytes[count..], offset + count as u64) {
            Ok(0) => break,
            Ok(more) => count += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_are_zeroed_and_bounded() {
        let mut window = Window::allocate(10_000).unwrap();
        assert!(window.bytes(0, 10_000).iter().all(|&byte| byte == 0));
        window.bytes_mut(64, 3).copy_from_slice(b"abc");
        assert_eq!(window.bytes(63, 5), b"\0abc\0");
    }

    #[test]
    #[should_panic(expected = "leaves a window")]
    fn past_the_end_panics() {
        let window = Window::allocate(4096).unwrap();
        let _ = window.bytes(4000, 97);
    }
}
