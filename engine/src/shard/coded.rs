//! Filtered message bodies: copied out of their mailbox, then decoded into the turn.

use windlass_transport::chunks::Chunk;
use windlass_wire::{
    FilterError, FilterStack, RequestHeader,
    filter::{decode_body_keys, decode_body_values},
    request::{CodedKeys, Coding},
};

use super::staging::Staging;

/// Lists of keys that a client has its shard keep, and names then.
#[derive(Debug)]
pub(super) struct KeptKeys {
    keys: Vec<u64>,
    /// Most keys that may be kept.
    count_max: u32,
}

impl KeptKeys {
    /// An empty list with room for this many keys.
    pub(super) fn new(count_max: u32) -> Self {
        Self { keys: Vec::new(), count_max }
    }

    /// Keeps a list from index `at` on; false when it may not.
    fn keep(&mut self, at: u32, keys: &[u64]) -> bool {
        let (from, end) = (at as usize, at as usize + keys.len());
        if end > self.count_max as usize {
            return false;
        }
        if end > self.keys.len() {
            self.keys.resize(end, 0);
        }
        self.keys[from..end].copy_from_slice(keys);
        true
    }

    /// The list of `count` keys from index `at` on, if it has this checksum.
    fn list(&self, at: u32, count: u32, checksum: u32) -> Option<&[u64]> {
        let list = self.keys.get(at as usize..at as usize + count as usize)?;
        (CodedKeys::checksum(list) == checksum).then_some(list)
    }
}

/// Why a body cannot be decoded.
#[derive(Debug, thiserror::Error)]
pub(super) enum CodedError {
    /// A filter refuses it.
    #[error(transparent)]
    Filter(#[from] FilterError),
    /// A message wants to keep more keys than the shard allows.
    #[error("more keys are to be kept than may be")]
    TooMany,
    /// The keys that were kept are others.
    #[error("the keys that were kept are others")]
    Unknown,
}

/// Buffers for bodies as they came, for what is between two filters, and for answers.
#[derive(Debug, Default)]
pub(super) struct Coded {
    body: Vec<u8>,
    scratch: Vec<u8>,
    answer: Vec<u8>,
}

impl Coded {
    /// Bytes that a push's values take in a turn once they are decoded.
    pub(super) fn values_len(header: &RequestHeader) -> u64 {
        let is_coded = header.kind.pushes() && header.coding.is_some();
        if is_coded { header.values_len() } else { 0 }
    }

    /// Decoded length of a filtered request's keys and values; 0 without filters.
    pub(super) fn decoded_len(header: &RequestHeader) -> u64 {
        header.coding.map_or(0, |_| header.keys_len() + Self::values_len(header))
    }

    /// Room for a body of `len` bytes.
    pub(super) fn room(&mut self, len: usize) -> &mut [u8] {
        self.body.resize(len, 0);
        &mut self.body
    }

    /// Finds the keys of a request: in the body's first bytes, or among those that were kept.
    pub(super) fn keys(
        &mut self,
        coding: &Coding,
        kept: &mut KeptKeys,
        keys: &mut [u64],
    ) -> Result<(), CodedError> {
        let count = u32::try_from(keys.len()).map_err(|_| CodedError::TooMany)?;
        if let CodedKeys::Kept { at, checksum } = coding.keys {
            keys.copy_from_slice(kept.list(at, count, checksum).ok_or(CodedError::Unknown)?);
            return Ok(());
        }
        let bytes = &self.body[..coding.keys.sent_len() as usize];
        decode_body_keys(&coding.filters, bytes, keys, &mut self.scratch)?;
        match coding.keys {
            CodedKeys::Keep { at, .. } if !kept.keep(at, keys) => Err(CodedError::TooMany),
            _ => Ok(()),
        }
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

    /// Encodes a pull's rows in place in staging memory, and returns their encoded length.
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
