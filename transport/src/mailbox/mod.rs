//! The mailbox: a ring of bytes in the receiver's memory that exactly one peer writes one-sided,
//! and the completion ring that goes the other way.
//!
//! ```text
//! mailbox region, in the receiver's memory
//!   0 ..   8  sleep epoch of the sender: differs from the last one answered when the sender
//!             sleeps and wants its next completion by write with immediate
//!   8 ..  64  zero
//!  64 ..      ring of `ring_len` bytes, a multiple of 64
//!
//! message in the ring, at a multiple of 8
//!   0 ..   8  commit word: length in the low half, message number in the high half
//!   8 .. 8+n  payload, padded to a multiple of 8
//!  then       the next commit word, written as zero together with this payload
//!
//! reply region, in the sender's memory
//!   0 ..   8  sleep epoch of the receiver: differs from the last one answered when the
//!             receiver sleeps and wants the next commit word by write with immediate
//!   8 ..  64  zero
//!  64 ..      completion ring: word of message `number` in slot `number % slots`
//!  ..  ..      digest ring, as long: where writes show in any order
//! ```
//!
//! The payload is written before its commit word on one queue pair, so who sees the word sees the
//! payload. Because every payload clears the commit word behind it, nothing left from an earlier
//! lap can be taken for a message; offset 0 always holds a commit word and is told by its number.
//! A length of [`WRAP`] says that the next message is at offset 0.
//!
//! Where a request costs more than a few bytes ([`Capabilities::prefers_one_write`]), and in messages
//! so short that they go inline ([`MailboxWriter::lay`]), commit word and payload travel in one write: bit 31 of the length says so, and the next commit word is then
//! not zero but this message's number with length 0. The message is there when both words are; and
//! because no device has to place the bytes of one write in order, the receiver also keeps looking
//! while the checksum in the payload does not match, before it calls the message malformed. Longer
//! payloads need none: their word is written behind them.
//!
//! Where the writes of a queue pair may show in any order ([`Promises::writes_in_order`]), no write may touch
//! what another does, and nothing but a message's own bytes says that it is there: it is one write of commit
//! word, payload, and a word with its number and the payload's digest; its reader clears what it has taken
//! before it says so, and thus finds zeros wherever the next commit word will be. Likewise a second ring
//! behind that of the completions has the digests of pulled rows, a word of number and digest in the slot of the
//! message that asked for them.
//!
//! [`Promises::writes_in_order`]: crate::fabric::Promises::writes_in_order
//! [`Capabilities::prefers_one_write`]: crate::fabric::Capabilities::prefers_one_write

mod completions;
mod landing;
mod reader;
mod sender;
mod writer;

pub use completions::{CompletionReader, CompletionWriter};
pub use landing::digest_of;
use landing::lay_whole;
pub use reader::{MailboxError, MailboxReader, Message};
pub use sender::Sender;
pub use writer::{Laid, MailboxFull, MailboxWriter};

// Named by what is here, so that the model checker can give it other memory.
use crate::memory::Pages;

/// Offset of the ring in a mailbox region, and of the completion ring in a reply region.
pub const RING_AT: u64 = 64;

/// Length of what comes before.
const LINE_LEN: usize = 64;

const _: () = assert!(RING_AT == LINE_LEN as u64);

/// Offset of the sleep epoch in both regions.
pub const SLEEP_EPOCH_AT: u64 = 0;

/// Length in a commit word that sends the reader back to the ring's start.
pub const WRAP: u32 = u32::MAX;

/// Bytes at the ring's start that a writer stays in while little is in flight: they stay in the
/// caches of both sides.
const HOT_LEN: u64 = 16 << 10;

/// The bit of a commit word's length that says that word and payload came in one write.
const ONE_WRITE: u32 = 1 << 31;

/// Longest payload that comes in one write: its receiver may look at it many times, and for longer
/// ones a second request does not matter.
pub const ONE_WRITE_LEN_MAX: u64 = 8 << 10;

/// Slices that one request gathers to write bytes that are lent, see [`MailboxWriter::write_lent`].
pub const LENT_PIECES: usize = 3;

/// Smallest ring.
pub const RING_LEN_MIN: u32 = 4096;

/// Largest ring.
pub const RING_LEN_MAX: u32 = 256 << 20;

const _: () = assert!(RING_LEN_MAX < ONE_WRITE, "no length has the bit");

/// Most slots of a completion ring, and so most requests of one mailbox in flight.
pub const COMPLETION_SLOTS_MAX: u32 = 4096;

/// The immediate of a write that only wakes.
pub const WAKE_IMMEDIATE: u32 = 1;

#[inline]
fn commit_word(number: u32, len: u32) -> u64 {
    u64::from(len) | u64::from(number) << 32
}

/// Bytes a payload takes in the ring, commit word included.
#[inline]
fn footprint(len: u64) -> u64 {
    8 + len.next_multiple_of(8)
}

/// Bytes that a message takes more where its digest says that it is there.
#[inline]
const fn digest_len(any_order: bool) -> u64 {
    if any_order { 8 } else { 0 }
}

/// Length of a mailbox region for a ring of so many bytes.
#[must_use]
pub const fn mailbox_len(ring_len: u32) -> usize {
    LINE_LEN + ring_len as usize
}

/// Length of a reply region with so many completion slots.
#[must_use]
pub const fn reply_len(slots: u32) -> usize {
    LINE_LEN + 2 * slots as usize * 8
}

#[cfg(all(test, loom))]
mod loom_tests;
#[cfg(test)]
mod tests;
