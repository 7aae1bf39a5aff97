//! Pushes through filters. Each message is encoded when it is sent. A retry sends the decoded values, so that
//! every server adds the same values whatever became of the first message.

use windlass_wire::{
    FilterStack, RequestHeader, Status,
    filter::{BodyEncoder, SavedBytes, decode_body_keys, decode_body_values},
    request::CodedKeys,
};

use super::{
    Counters, Links, Memory, Pending, Scratch, TableIndex, Tables, WRITTEN_PART_LEN_MAX,
    link::{Answer, Held, Link},
    message::index,
    retry_queue::KeptValues,
};
use crate::{
    config::PushOptions,
    error::{FilterRefusal, RequestError},
};

impl Links {
    /// Encodes the keys of one message by a link.
    pub(super) fn encode_keys(
        &mut self,
        counters: &mut Counters,
        encoder: &mut BodyEncoder,
        link: usize,
        keys: &[u64],
        stack: &FilterStack,
        used: &mut FilterStack,
    ) -> CodedKeys {
        let place = match self.all.get_mut(link) {
            Some(link) if stack.key_cache => link.key_lists.place(keys),
            _ => None,
        };
        let saved = &mut counters.saved;
        if let Some(kept @ CodedKeys::Kept { .. }) = place {
            encoder.send_no_keys();
            saved.key_cache += keys.len() as u64 * 8;
            return kept;
        }
        if let Err(error) = encoder.encode_keys(keys, stack, used, saved) {
            unreachable!("keys were checked to ascend: {error}");
        }
        let len = u32::try_from(encoder.keys().len())
            .unwrap_or_else(|_| unreachable!("parts are bounded"));
        match place {
            Some(CodedKeys::Keep { at, .. }) => CodedKeys::Keep { len, at },
            _ => CodedKeys::Sent { len },
        }
    }
}

impl Pending {
    /// Values of a message as a server decodes them, for its header without filters. Those that went by
    /// reference are given back.
    pub(super) fn decoded_values(
        &mut self,
        links: &mut Links,
        header: &mut RequestHeader,
        values: KeptValues,
    ) -> KeptValues {
        let coding = header.coding.take();
        let Some(coding) = coding.filter(|coding| coding.filters.codes_values()) else {
            return values;
        };
        let bytes = match values {
            KeptValues::None => return KeptValues::None,
            KeptValues::Inline(bytes) => bytes,
            KeptValues::At { region, offset, held } => {
                let mut bytes = vec![0; coding.values_len as usize];
                self.memory.pages(region).read(offset, &mut bytes);
                self.release(links, held);
                bytes
            }
        };
        let mut plain = vec![0_u64; index(header.values_len()).div_ceil(8)];
        let plain = &mut bytemuck::cast_slice_mut(&mut plain)[..index(header.values_len())];
        if let Err(error) = decode_body_values(&coding.filters, &bytes, plain, &mut Vec::new()) {
            unreachable!("this client has encoded them: {error}");
        }
        let is_long = plain.len() as u64 > WRITTEN_PART_LEN_MAX;
        let region = if is_long { self.memory.region_with(plain) } else { None };
        match region {
            Some(region) => KeptValues::At { region, offset: 0, held: Held::Region(region) },
            None => KeptValues::Inline(plain.to_vec()),
        }
    }
}

impl Tables {
    /// Checks that a push to a table can go through its filters.
    pub(crate) fn check_filters(
        &self,
        table: TableIndex,
        options: &PushOptions,
        is_finite: impl FnOnce() -> bool,
    ) -> Result<(), RequestError> {
        if options.filters.is_empty() {
            return Ok(());
        }
        let schema = &self[table].entry.schema;
        options.filters.check(schema.dtype).map_err(FilterRefusal::Stack)?;
        if options.filters.needs_finite() && !is_finite() {
            return Err(FilterRefusal::NotFinite.into());
        }
        Ok(())
    }
}

impl Memory {
    /// Decodes rows that were answered through a filter.
    pub(super) fn decode_answer(
        &self,
        scratch: &mut Scratch,
        saved: &mut SavedBytes,
        answer: &Answer,
    ) -> Status {
        let Answer { region, offset, coding, len } = *answer;
        let len = len as usize;
        let mut coded = std::mem::take(&mut scratch.values);
        coded.resize(coding.encoded_len(len), 0);
        let pages = self.pages(region);
        pages.read(offset, &mut coded);
        scratch.decoded.resize(len.div_ceil(8), 0);
        let rows = &mut bytemuck::cast_slice_mut(&mut scratch.decoded)[..len];
        let status = match coding.decode(&coded, rows) {
            Ok(()) => {
                pages.write(offset, rows);
                Status::Done
            }
            Err(error) => {
                tracing::warn!(%error, "rows of a pull cannot be decoded");
                Status::Malformed
            }
        };
        saved.add(coding, (len - coded.len()) as u64);
        scratch.values = coded;
        status
    }
}

/// Whether a message says anything by its coding.
pub(super) fn is_coded(used: &FilterStack, keys: CodedKeys) -> bool {
    !used.is_empty() || !matches!(keys, CodedKeys::Sent { .. })
}

/// The keys of a message in flight, which sent these bytes for them.
pub(super) fn keys_of(link: &Link, number: u32, header: &RequestHeader, bytes: &[u8]) -> Vec<u64> {
    let Some(coding) = header.coding else {
        return bytes.chunks_exact(8).map(bytemuck::pod_read_unaligned).collect();
    };
    if let CodedKeys::Kept { .. } = coding.keys {
        return link.key_lists.named_by(number);
    }
    let mut keys = vec![0; index(header.keys_len()) / 8];
    if let Err(error) = decode_body_keys(&coding.filters, bytes, &mut keys, &mut Vec::new()) {
        unreachable!("this client has encoded them: {error}");
    }
    keys
}
