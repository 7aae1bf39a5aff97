//! Writes carried out without a request around them.
#![allow(unsafe_code)]

use std::sync::atomic::{AtomicU64, Ordering, fence};

use super::{Shm, datapath::Fault, queue_pair::QueuePair};
use crate::{
    error::PostError,
    fabric::{QueuePairId, QueuePairState, RemoteAddress},
};

impl Shm {
    /// As one unsignaled inline write, without a request around it. Left to `post_requests` is
    /// whatever may fail.
    #[inline]
    pub(super) fn write_at_once(
        &mut self,
        id: QueuePairId,
        bytes: &[u8],
        remote: RemoteAddress,
    ) -> Result<bool, PostError> {
        self.write_by(id, remote, |queue_pair| queue_pair.write_bytes(bytes, remote))
    }

    /// As two such writes: what is behind the word, and the word.
    pub(super) fn write_message_at_once(
        &mut self,
        id: QueuePairId,
        word: u64,
        parts: &[&[u8]],
        remote: RemoteAddress,
    ) -> Result<bool, PostError> {
        self.write_by(id, remote, |queue_pair| queue_pair.write_message(word, parts, remote))
    }

    #[inline]
    fn write_by(
        &mut self,
        id: QueuePairId,
        remote: RemoteAddress,
        write: impl FnOnce(&mut QueuePair) -> Result<(), Fault>,
    ) -> Result<bool, PostError> {
        let queue_pair = self.queue_pairs.find_mut(id.0).ok_or(PostError::QueuePairError)?;
        if queue_pair.state != QueuePairState::Ready || queue_pair.import(remote.key.0).is_none() {
            return Ok(false);
        }
        let Some(link) = &mut queue_pair.link else { return Ok(false) };
        let is_open = link.begin_request(self.post_fence);
        let written = is_open && write(queue_pair).is_ok();
        if let Some(link) = &mut queue_pair.link {
            link.end_request();
        }
        Ok(written)
    }
}

impl QueuePair {
    #[inline]
    fn write_message(
        &mut self,
        word: u64,
        parts: &[&[u8]],
        remote: RemoteAddress,
    ) -> Result<(), Fault> {
        let len = parts.iter().map(|part| part.len()).sum::<usize>();
        let total = len.next_multiple_of(8) + 16;
        let to = self.resolve(remote, total as u64, |access| access.remote_write)?;
        if !to.cast::<u64>().is_aligned() {
            return Err(Fault::Invalid("a message begins with an aligned word"));
        }
        self.wrote = true;
        fence(Ordering::Release);
        // SAFETY: `resolve` gives a pointer to `total` bytes of a live mapping that is writable: the word,
        // the parts, whose lengths add up to `len`, and what is left of `total`. The parts are slices, so
        // they lie in no shared mapping. The word is aligned, and shared as an atomic only.
        unsafe {
            let mut at = to.add(8);
            for part in parts {
                std::ptr::copy_nonoverlapping(part.as_ptr(), at, part.len());
                at = at.add(part.len());
            }
            std::ptr::write_bytes(at, 0, total - 8 - len);
            AtomicU64::from_ptr(to.cast()).store(word.to_le(), Ordering::Release);
        }
        Ok(())
    }
}
