//! The completion ring: how a receiver tells a sender, by eight-byte one-sided writes, which of its
//! messages are done. Completions come in any order.

use windlass_wire::{CompletionWord, Status};

use super::{Pages, RING_AT, SLEEP_EPOCH_AT, Sender, WAKE_IMMEDIATE};
use crate::fabric::{INLINE_LEN_MAX, InlineBytes, Operation, RemoteAddress, RemoteRegion, WorkId};

/// Collects completions of one sender's messages and writes them to its reply region.
#[derive(Debug)]
pub struct CompletionWriter {
    reply: RemoteRegion,
    slots: u32,
    words: Vec<CompletionWord>,
    posted_count: usize,
    sleep_epoch_answered: u64,
    unanswered: bool,
}

const WORDS_PER_WRITE: usize = INLINE_LEN_MAX / 8;

impl CompletionWriter {
    /// A writer to a fresh reply region.
    #[must_use]
    pub fn new(reply: RemoteRegion, slots: u32) -> Self {
        assert!(slots.is_power_of_two(), "{slots} completion slots");
        Self {
            reply,
            slots,
            words: Vec::with_capacity(slots as usize),
            posted_count: 0,
            sleep_epoch_answered: 0,
            unanswered: false,
        }
    }

    /// How many more completions can be held. A message may only be taken on while this is more than
    /// what was taken on before and is not completed: with less the sender has broken its credits.
    #[must_use]
    #[inline]
    pub fn room(&self) -> usize {
        self.slots as usize - (self.words.len() - self.posted_count)
    }

    /// Completes a message. Panics without room.
    #[inline]
    pub fn complete(&mut self, number: u32, status: Status, detail: u32) {
        assert!(self.room() > 0, "a sender has at most as many messages as slots");
        if self.words.len() == self.words.capacity() {
            // What was posted while the rest found no room in the send queue makes way.
            self.words.drain(..self.posted_count);
            self.posted_count = 0;
        }
        self.words.push(CompletionWord { number, status, detail });
    }

    /// Whether completions wait to be posted.
    #[must_use]
    #[inline]
    pub fn is_pending(&self) -> bool {
        !self.words.is_empty()
    }

    /// Pushes the collected completions to the sender, as many as it has room for; runs of
    /// neighbouring slots go in one write. `peer_sleep_epoch` is what the mailbox says now: the
    /// last write carries an immediate when the peer fell asleep since the last such.
    pub fn post(&mut self, peer_sleep_epoch: u64, sender: &mut Sender) {
        while self.posted_count < self.words.len() && sender.room() > 1 {
            let words = &self.words[self.posted_count..];
            let slot = words[0].number & (self.slots - 1);
            let run = words
                .iter()
                .take(WORDS_PER_WRITE.min((self.slots - slot) as usize))
                .zip(words[0].number..)
                .take_while(|(word, number)| word.number == *number)
                .count();
            let mut bytes = [0_u8; INLINE_LEN_MAX];
            for (chunk, word) in bytes.chunks_exact_mut(8).zip(&words[..run]) {
                chunk.copy_from_slice(&word.encode().to_le_bytes());
            }
            let bytes = InlineBytes::new(&bytes[..run * 8]);
            let remote = self.reply.at(RING_AT + u64::from(slot) * 8);
            self.posted_count += run;
            let last = self.posted_count == self.words.len();
            self.unanswered = true;
            sender.push(if last && peer_sleep_epoch != self.sleep_epoch_answered {
                self.sleep_epoch_answered = peer_sleep_epoch;
                self.unanswered = false;
                Operation::WriteWithImmediate { bytes, remote, immediate: WAKE_IMMEDIATE }
            } else {
                Operation::WriteInline { bytes, remote }
            });
        }
        if self.posted_count == self.words.len() {
            self.words.clear();
            self.posted_count = 0;
        }
    }

    /// The completion that waits, when it is the only one and its reader need not be woken: the word
    /// and where it goes. It counts as posted: the caller writes it at once.
    #[inline]
    pub fn take_only(&mut self, peer_sleep_epoch: u64) -> Option<(u64, RemoteAddress)> {
        let is_only = self.words.len() == 1 && self.posted_count == 0;
        if !is_only || peer_sleep_epoch != self.sleep_epoch_answered {
            return None;
        }
        let word = self.words.pop()?;
        self.unanswered = true;
        let slot = word.number & (self.slots - 1);
        Some((word.encode(), self.reply.at(RING_AT + u64::from(slot) * 8)))
    }

    /// Tells the digest of the rows that a message pulled, where writes show in any order. Panics without
    /// room in the sender.
    pub fn tell_rows(&self, number: u32, digest: u32, sender: &mut Sender) {
        let remote = self.reply.at(digest_at(self.slots, number));
        let word = u64::from(digest) | u64::from(number) << 32;
        sender.push(Operation::WriteInline { bytes: InlineBytes::word(word), remote });
    }

    /// Wakes a peer that fell asleep after completions were posted without an immediate.
    #[inline]
    pub fn wake_if_asleep(&mut self, peer_sleep_epoch: u64, sender: &mut Sender) {
        if peer_sleep_epoch == self.sleep_epoch_answered || !self.unanswered || sender.room() < 2 {
            return;
        }
        self.sleep_epoch_answered = peer_sleep_epoch;
        self.unanswered = false;
        sender.push(Operation::WriteWithImmediate {
            bytes: InlineBytes::new(&[]),
            remote: self.reply.at(0),
            immediate: WAKE_IMMEDIATE,
        });
    }

    /// Tells the peer that this side is about to sleep; completes with `work_id` once the peer can
    /// know. `epoch` differs from every earlier one. Panics without room in the sender.
    pub fn tell_sleep(&mut self, epoch: u64, work_id: WorkId, sender: &mut Sender) {
        let remote = self.reply.at(SLEEP_EPOCH_AT);
        let bytes = InlineBytes::word(epoch);
        sender.push_signaled(work_id, Operation::WriteInline { bytes, remote });
    }
}

/// Where the digest of a message's rows is.
fn digest_at(slots: u32, number: u32) -> u64 {
    RING_AT + u64::from(slots) * 8 + u64::from(number & (slots - 1)) * 8
}

/// Reads the completion ring in one's own reply region.
#[derive(Debug)]
pub struct CompletionReader {
    pages: Pages,
    slots: u32,
}

impl CompletionReader {
    /// Reads the ring in `pages`, which are fresh.
    #[must_use]
    pub fn new(pages: Pages, slots: u32) -> Self {
        assert!(slots.is_power_of_two(), "{slots} completion slots");
        assert!(pages.contains(RING_AT, u64::from(slots) * 8), "the region is too short");
        Self { pages, slots }
    }

    /// Whether message `number` has ended.
    #[inline]
    #[must_use]
    pub fn is_complete(&self, number: u32) -> bool {
        let slot = number & (self.slots - 1);
        let word = self.pages.load_u64(RING_AT + u64::from(slot) * 8);
        CompletionWord::number_of(word) == number
    }

    /// How message `number` ended, once it has. A status that this version does not know counts as
    /// [`Status::Malformed`].
    #[must_use]
    #[inline]
    pub fn completion_of(&self, number: u32) -> Option<CompletionWord> {
        let slot = number & (self.slots - 1);
        let word = self.pages.load_u64(RING_AT + u64::from(slot) * 8);
        if CompletionWord::number_of(word) != number {
            return None;
        }
        let unknown = CompletionWord { number, status: Status::Malformed, detail: 0 };
        Some(CompletionWord::decode(word).unwrap_or(unknown))
    }

    /// The digest of the rows that a message pulled, once it is there.
    #[must_use]
    pub fn rows_digest(&self, number: u32) -> Option<u32> {
        let word = self.pages.load_u64(digest_at(self.slots, number));
        #[expect(clippy::cast_possible_truncation, reason = "the low half")]
        (word >> 32 == u64::from(number)).then_some(word as u32)
    }

    /// The server's sleep epoch.
    #[must_use]
    #[inline]
    pub fn sleep_epoch(&self) -> u64 {
        self.pages.load_u64(SLEEP_EPOCH_AT)
    }
}
