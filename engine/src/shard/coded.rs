//! Bodies that went through filters: copied out of their mailbox as they came, then decoded into the turn.

use windlass_transport::chunks::Chunk;
use windlass_wire::{
    FilterError, FilterStack, RequestHeader,
    filter::{decode_body_keys, decode_body_values},
};

use super::staging::Staging;

/// Buffers for bodies as they came, for what is between two filters, and for answers.
#[derive(Debug, Default)]
pub(super) struct Coded {
    body: Vec<u8>,
    scratch: Vec<u8>,
    answer: Vec<u8>,
}

impl Coded {
    /// Bytes that a request's keys and values take in a turn once they are decoded, beside those that its
    /// message has.
    pub(super) fn decoded_len(header: &RequestHeader) -> u64 {
        let values = if header.kind.pushes() { header.values_len() } else { 0 };
        header.coding.map_or(0, |_| header.keys_len() + values)
    }

    /// Room for a body of `len` bytes.
    pub(super) fn room(&mut self, len: usize) -> &mut [u8] {
        self.body.resize(len, 0);
        &mut self.body
    }

    /// Decodes the body's first bytes, which are keys.
    pub(super) fn keys(
        &mut self,
        filters: &FilterStack,
        len: usize,
        keys: &mut [u64],
    ) -> Result<(), FilterError> {
        decode_body_keys(filters, &self.body[..len], keys, &mut self.scratch)
    }

    /// Decodes the body from `at` on, which is values.
    pub(super) fn values(
        &mut self,
        filters: &FilterStack,
        at: usize,
        values: &mut [u8],
    ) -> Result<(), FilterError> {
        decode_body_values(filters, &self.body[at..], values, &mut self.scratch)
    }

    /// Rows as a pull asks for them; `None` when its filter cannot write one of their values.
    pub(super) fn answer<'a>(
        &'a mut self,
        header: &RequestHeader,
        rows: &'a [u8],
    ) -> Option<&'a [u8]> {
        let Some(coding) = header.coding else { return Some(rows) };
        self.answer.clear();
        let seed = header.sequence.0 ^ header.epoch.0.rotate_left(32);
        coding.filters.values.encode(rows, seed, &mut self.answer).ok()?;
        Some(&self.answer)
    }

    /// The same for rows that a pull has in staging memory, in place: how many bytes they take then.
    pub(super) fn answer_in(
        &mut self,
        header: &RequestHeader,
        staging: &Staging,
        chunk: Chunk,
    ) -> Option<u64> {
        let mut rows = std::mem::take(&mut self.body);
        rows.resize(usize::try_from(header.values_len()).ok()?, 0);
        staging.read(chunk, &mut rows);
        let answer = self.answer(header, &rows);
        let len = answer.map(|answer| {
            staging.write(chunk, answer);
            answer.len() as u64
        });
        self.body = rows;
        len
    }
}
