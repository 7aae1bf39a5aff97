//! The part of a push that one message carries, plain or through filters.

use windlass_wire::{
    FilterStack, RequestHeader,
    filter::BodyEncoder,
    request::{Coding, DECODED_LEN_MAX},
};

use super::{
    Core,
    filters::is_coded,
    link::Held,
    message::{Message, PartRows, Route, Source, Values, index},
    requests::RequestId,
    send::send,
    tables::TableIndex,
};
use crate::{config::PushOptions, error::RequestError};

/// What of a push goes in one message: rows by a route, whose values are those of `source` from `from` on.
#[derive(Clone, Copy)]
pub(super) struct Part<'a> {
    pub(super) route: Route,
    pub(super) table: TableIndex,
    pub(super) rows: PartRows<'a>,
    pub(super) source: Source<'a>,
    pub(super) from: u64,
    pub(super) request: RequestId,
    pub(super) options: &'a PushOptions,
}

/// The values that one message carries.
#[derive(Clone, Copy)]
struct PartValues<'a> {
    source: Source<'a>,
    from: u64,
    len: u64,
}

/// The keys of one message: as numbers, and as the bytes that are sent for them.
#[derive(Clone, Copy)]
struct PartKeys<'a> {
    list: &'a [u64],
    sent: &'a [u8],
}

/// Sends what goes in one message.
pub(super) fn send_part(core: &mut Core, part: &Part<'_>) -> Result<(), RequestError> {
    let Part { route, table, rows, source, from, request, options } = *part;
    if !options.filters.is_empty() {
        return send_filtered(core, part);
    }
    let header =
        core.session.push_header(&core.tables, &core.clocks, &core.cluster, table, rows, options);
    let part = PartValues { source, from, len: header.values_len() };
    let values = part_values(core, table, route.link, part)?;
    let keys = PartKeys { list: rows.keys(), sent: bytemuck::cast_slice(rows.keys()) };
    send_push(core, route, table, header, keys, values, request)
}

/// Chooses how the values of one message travel, and copies them if they are to be staged.
fn part_values<'a>(
    core: &mut Core,
    table: TableIndex,
    link: usize,
    PartValues { source, from, len }: PartValues<'a>,
) -> Result<Values<'a>, RequestError> {
    let large = len > core.tables.inline_len_max(&core.links, table, link);
    match source {
        Source::Plain(bytes) if !large => {
            Ok(Values::Inline(&bytes[index(from)..index(from + len)]))
        }
        Source::Plain(bytes) => {
            let region = core.pending.memory.staging_region()?;
            let chunk = core.allocate_chunk(len)?;
            let bytes = &bytes[index(from)..index(from + len)];
            core.pending.memory.staging_pages().write(chunk.offset, bytes);
            Ok(Values::At { region, offset: chunk.offset, held: Held::Chunk(chunk) })
        }
        Source::Registered { region, offset } => {
            Ok(Values::At { region, offset: offset + from, held: Held::Nothing })
        }
    }
}

fn send_push(
    core: &mut Core,
    route: Route,
    table: TableIndex,
    header: RequestHeader,
    PartKeys { list, sent: keys }: PartKeys<'_>,
    values: Values<'_>,
    request: RequestId,
) -> Result<(), RequestError> {
    let len = header.sent_values_len();
    let message = Message { request, header, list, keys, values, reply: None };
    match values {
        Values::At { region, offset, held: Held::Nothing }
            if len <= core.tables.inline_len_max(&core.links, table, route.link) =>
        {
            if let Some(local) =
                core.links.lend(&mut core.pending.memory, route.link, region, offset, len)
            {
                let values = Values::Lent { region, offset, local };
                return send(core, route, &Message { values, ..message });
            }
            let bytes = core.pending.memory.copy_registered(&mut core.scratch, region, offset, len);
            let sent = send(core, route, &Message { values: Values::Inline(&bytes), ..message });
            core.scratch.values = bytes;
            sent
        }
        _ => send(core, route, &message),
    }
}

/// Sends a part of a push through its filters.
fn send_filtered(core: &mut Core, part: &Part<'_>) -> Result<(), RequestError> {
    let Part { route, table, rows, source, from, request, options } = *part;
    let mut header =
        core.session.push_header(&core.tables, &core.clocks, &core.cluster, table, rows, options);
    let keys = rows.keys();
    let mut encoder = std::mem::take(&mut core.scratch.encoder);
    let seed = core.session.id.0 ^ header.sequence.0.rotate_left(32);
    header.coding = match header.keys_len() + header.values_len() {
        0..=DECODED_LEN_MAX => {
            let values = PartValues { source, from, len: header.values_len() };
            encode(core, &mut encoder, route, keys, values, seed, &options.filters)
        }
        _ => None,
    };
    let codes = header.coding.map_or_else(FilterStack::default, |coding| coding.filters);
    let sent = match header.coding {
        Some(_) => encoder.keys(),
        None => bytemuck::cast_slice(keys),
    };
    let keys = PartKeys { list: keys, sent };
    let (source, from) = match codes.codes_values() {
        true => (Source::Plain(encoder.values()), 0),
        false => (source, from),
    };
    let part = PartValues { source, from, len: header.sent_values_len() };
    let sent = part_values(core, table, route.link, part)
        .and_then(|values| send_push(core, route, table, header, keys, values, request));
    core.scratch.encoder = encoder;
    sent
}

/// Encodes keys and values of one message; `None` when no filter makes them smaller.
fn encode(
    core: &mut Core,
    encoder: &mut BodyEncoder,
    route: Route,
    keys: &[u64],
    PartValues { source, from, len }: PartValues<'_>,
    seed: u64,
    stack: &FilterStack,
) -> Option<Coding> {
    let mut used = FilterStack::default();
    let mut values_len = len;
    if stack.codes_values() {
        let encoded = match source {
            Source::Plain(bytes) => {
                let bytes = &bytes[index(from)..index(from + len)];
                let saved = &mut core.pending.counters.saved;
                encoder.encode_values(bytes, seed, stack, &mut used, saved)
            }
            Source::Registered { region, offset } => {
                let bytes = core.pending.memory.copy_registered(
                    &mut core.scratch,
                    region,
                    offset + from,
                    len,
                );
                let encoded = encoder.encode_values(
                    &bytes,
                    seed,
                    stack,
                    &mut used,
                    &mut core.pending.counters.saved,
                );
                core.scratch.values = bytes;
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
    let keys = core.links.encode_keys(
        &mut core.pending.counters,
        encoder,
        route.link,
        keys,
        stack,
        &mut used,
    );
    let values_len = u32::try_from(values_len).unwrap_or_else(|_| unreachable!("bounded before"));
    is_coded(&used, keys).then_some(Coding { filters: used, keys, values_len })
}
