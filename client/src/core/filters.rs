//! Pushes through filters: each message is encoded when it is sent. What has to be sent again goes as it was
//! decoded, so that every server adds the same values whatever became of the message before.

use windlass_wire::{
    FilterStack, RequestHeader, Status,
    filter::{BodyEncoder, ValueCoding, decode_body_keys, decode_body_values},
    request::{Coding, DECODED_LEN_MAX},
};

use super::{
    Core, RequestId, TableIndex, WRITTEN_PART_LEN_MAX,
    kept::KeptValues,
    link::{Answer, Held},
    push::{PartRows, Source, index},
    send::Route,
};
use crate::{
    config::PushOptions,
    error::{FilterRefusal, RequestError},
};

impl Core {
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
        let schema = &self.tables[table.0].entry.schema;
        options.filters.check(schema.dtype).map_err(FilterRefusal::Stack)?;
        if options.filters.needs_finite() && !is_finite() {
            return Err(FilterRefusal::NotFinite.into());
        }
        Ok(())
    }

    /// Sends rows of a push through filters, whose values are those of `source` from `from` on.
    #[expect(clippy::too_many_arguments, reason = "as of `send_part`, which calls it")]
    pub(super) fn send_filtered(
        &mut self,
        route: Route,
        table: TableIndex,
        rows: PartRows<'_>,
        source: Source<'_>,
        from: u64,
        request: RequestId,
        options: &PushOptions,
    ) -> Result<(), RequestError> {
        let mut header = self.push_header(table, rows, options);
        let keys = rows.keys();
        let mut encoder = std::mem::take(&mut self.encoder);
        let seed = self.session.0 ^ header.sequence.0.rotate_left(32);
        header.coding = match header.keys_len() + header.values_len() {
            0..=DECODED_LEN_MAX => {
                let len = header.values_len();
                self.encode(&mut encoder, keys, (source, from, len), seed, &options.filters)
            }
            _ => None,
        };
        let codes = header.coding.map_or_else(FilterStack::default, |coding| coding.filters);
        let keys = match header.coding {
            Some(_) => encoder.keys(),
            None => bytemuck::cast_slice(keys),
        };
        let (source, from) = match codes.codes_values() {
            true => (Source::Plain(encoder.values()), 0),
            false => (source, from),
        };
        let values = self.part_values((table, route.link), source, from, header.sent_values_len());
        let sent =
            values.and_then(|values| self.send_push(route, table, header, keys, values, request));
        self.encoder = encoder;
        sent
    }

    /// Encodes keys and values of one message; `None` when no filter makes them smaller.
    fn encode(
        &mut self,
        encoder: &mut BodyEncoder,
        keys: &[u64],
        (source, from, len): (Source<'_>, u64, u64),
        seed: u64,
        stack: &FilterStack,
    ) -> Option<Coding> {
        let mut used = FilterStack::default();
        let mut values_len = len;
        if stack.codes_values() {
            let encoded = match source {
                Source::Plain(bytes) => {
                    let bytes = &bytes[index(from)..index(from + len)];
                    let saved = &mut self.counters.saved;
                    encoder.encode_values(bytes, seed, stack, &mut used, saved)
                }
                Source::Registered { region, offset } => {
                    let bytes = self.copy_registered(region, offset + from, len);
                    let encoded = encoder.encode_values(
                        &bytes,
                        seed,
                        stack,
                        &mut used,
                        &mut self.counters.saved,
                    );
                    self.scratch.values = bytes;
                    encoded
                }
            };
            if let Err(error) = encoded {
                unreachable!("values were looked at before any were sent: {error}");
            }
            if used.codes_values() {
                values_len = encoder.values().len() as u64;
            }
        }
        let saved = &mut self.counters.saved;
        if let Err(error) = encoder.encode_keys(keys, stack, &mut used, saved) {
            unreachable!("keys were checked to ascend: {error}");
        }
        let length =
            |len: u64| u32::try_from(len).unwrap_or_else(|_| unreachable!("bounded before"));
        let keys_len = length(encoder.keys().len() as u64);
        let coding = Coding { filters: used, keys_len, values_len: length(values_len) };
        (!used.is_empty()).then_some(coding)
    }

    /// Has the keys and the answer of a pull by key go through filters, where they are smaller then: the keys are
    /// then those of `encoder`.
    pub(super) fn filter_pull(
        &mut self,
        header: &mut RequestHeader,
        keys: &[u64],
        stack: &FilterStack,
        encoder: &mut BodyEncoder,
    ) {
        let len = index(header.values_len());
        let mut used = FilterStack::default();
        if stack.values.encoded_len(len) < len {
            used.values = stack.values;
        }
        let saved = &mut self.counters.saved;
        if let Err(error) = encoder.encode_keys(keys, stack, &mut used, saved) {
            unreachable!("keys were checked to ascend: {error}");
        }
        if used.is_empty() {
            return;
        }
        let keys_len = u32::try_from(encoder.keys().len())
            .unwrap_or_else(|_| unreachable!("parts are bounded"));
        header.coding = Some(Coding { filters: used, keys_len, values_len: 0 });
    }

    /// Decodes rows that were answered through a filter.
    pub(super) fn decode_answer(&mut self, answer: &Answer) -> Status {
        let Answer { region, offset, coding, len } = *answer;
        if coding == ValueCoding::Plain {
            return Status::Done;
        }
        let len = len as usize;
        let mut coded = std::mem::take(&mut self.scratch.values);
        coded.resize(coding.encoded_len(len), 0);
        let pages = self.memory.pages(region);
        pages.read(offset, &mut coded);
        self.scratch.decoded.resize(len.div_ceil(8), 0);
        let rows = &mut bytemuck::cast_slice_mut(&mut self.scratch.decoded)[..len];
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
        self.counters.saved.add(coding, (len - coded.len()) as u64);
        self.scratch.values = coded;
        status
    }

    /// Keys and values of a message as a server decodes them, for its header without filters. Values that went by
    /// reference are given back.
    pub(super) fn decoded(
        &mut self,
        header: &mut RequestHeader,
        keys: &[u8],
        values: KeptValues,
    ) -> (Vec<u64>, KeptValues) {
        let Some(coding) = header.coding.take() else {
            return (keys.chunks_exact(8).map(bytemuck::pod_read_unaligned).collect(), values);
        };
        let plain_keys = decoded_keys(header, &coding, keys);
        if !coding.filters.codes_values() {
            return (plain_keys, values);
        }
        let bytes = match values {
            KeptValues::None => return (plain_keys, KeptValues::None),
            KeptValues::Inline(bytes) => bytes,
            KeptValues::At { region, offset, held } => {
                let mut bytes = vec![0; coding.values_len as usize];
                self.memory.pages(region).read(offset, &mut bytes);
                self.release(held);
                bytes
            }
        };
        let mut plain = vec![0_u64; index(header.values_len()).div_ceil(8)];
        let plain = &mut bytemuck::cast_slice_mut(&mut plain)[..index(header.values_len())];
        if let Err(error) = decode_body_values(&coding.filters, &bytes, plain, &mut Vec::new()) {
            unreachable!("this client has encoded them: {error}");
        }
        let is_long = plain.len() as u64 > WRITTEN_PART_LEN_MAX;
        let region = if is_long { self.region_with(plain) } else { None };
        let values = match region {
            Some(region) => KeptValues::At { region, offset: 0, held: Held::Region(region) },
            None => KeptValues::Inline(plain.to_vec()),
        };
        (plain_keys, values)
    }
}

/// The keys of a message that has a coding.
pub(super) fn decoded_keys(header: &RequestHeader, coding: &Coding, bytes: &[u8]) -> Vec<u64> {
    let mut keys = vec![0; index(header.keys_len()) / 8];
    if let Err(error) = decode_body_keys(&coding.filters, bytes, &mut keys, &mut Vec::new()) {
        unreachable!("this client has encoded them: {error}");
    }
    keys
}
