//! Short pushes, whose latency matters most: one message to one link that fits an inline write. It is laid
//! out in place and written at once. Every unusual case takes the general path.

use std::sync::atomic::{Ordering, fence};

use windlass_transport::fabric::INLINE_LEN_MAX;
use windlass_wire::{RequestHeader, RequestKind, RowRange, Rows};

use super::{
    Core, RequestId, TableIndex,
    link::{Held, InFlight},
    message::{PartRows, Source, count_of, index},
};
use crate::config::PushOptions;

/// Longest body of a short message: between its header and the words around it there is so much.
const BODY_LEN_MAX: u64 = (INLINE_LEN_MAX - RequestHeader::LEN_MIN - 16) as u64;

/// Pushes rows, which the caller has checked, by a short message. `None` when that is not
/// possible, in which case nothing was sent.
#[inline]
pub(super) fn push_short(
    core: &mut Core,
    table: TableIndex,
    rows: PartRows<'_>,
    values: Source<'_>,
    options: &PushOptions,
) -> Option<RequestId> {
    let state = &core.tables[table];
    let (first, last, keys) = match rows {
        PartRows::Range(RowRange { start, end }) => (start, end.checked_sub(1)?, &[][..]),
        PartRows::Keys(keys) => (*keys.first()?, *keys.last()?, keys),
    };
    let row_count = if keys.is_empty() { last + 1 - first } else { keys.len() as u64 };
    if row_count == 0 || row_count > BODY_LEN_MAX || state.row_len > BODY_LEN_MAX {
        return None;
    }
    let (keys_len, values_len) = (keys.len() * 8, row_count * state.row_len);
    if keys_len as u64 + values_len > BODY_LEN_MAX
        || options.after.is_some()
        || !options.filters.is_empty()
    {
        return None;
    }
    let link_at = match core.cluster.heads.sole {
        Some(link) => link,
        None => {
            let partition = state.layout.partition_of(first);
            // Keys of a sparse table lie anywhere, rows of a dense one in order.
            let is_one_place =
                keys.len() == 1 || keys.is_empty() && last < state.layout.rows_of(partition).end;
            if !is_one_place {
                return None;
            }
            core.cluster.heads.link_of(partition)
        }
    };
    let link = core.links.all.get(link_at)?;
    let is_plain = link.is_open() && !link.is_asleep() && link.mailbox.sender.room() > 3;
    if !is_plain
        || core.recovery.in_trouble()
        || core.recovery.settling
        || !core.pending.requests.next_is_free()
    {
        return None;
    }

    let mut header = core.session.header(
        &core.tables,
        &core.clocks,
        &core.cluster,
        RequestKind::Push,
        table,
        options,
    );
    header.row_count = count_of(row_count);
    if keys.is_empty() {
        header.rows = Rows::Range { first };
    }
    let link = &mut core.links.all[link_at];
    header.resumes = link.state.order.resumes();
    let memory = &core.pending.memory;
    let laid = link.mailbox.writer.lay(
        RequestHeader::LEN_MIN + keys_len + index(values_len),
        |bytes| {
            let Some((encoded, body)) = bytes.split_first_chunk_mut() else { return };
            header.encode_into(encoded);
            let (for_keys, for_values) = body.split_at_mut(keys_len);
            for_keys.copy_from_slice(bytemuck::cast_slice(keys));
            match values {
                Source::Plain(values) => for_values.copy_from_slice(values),
                Source::Registered { region, offset } => {
                    memory.pages(region).read(offset, for_values);
                }
            }
            RequestHeader::seal(encoded, for_keys, for_values);
        },
    )?;
    let request = core.pending.requests.start(false);
    if let Some(request) = core.pending.requests.find_mut(request) {
        request.parts_left = 1;
    }
    link.in_flight.push_back(InFlight { number: laid.number, request, held: Held::Nothing });
    link.state.order.sent();
    let transport = core.links.transports[link.transport].as_mut();
    let place = link.mailbox.writer.place_of(&laid);
    let written = link.mailbox.sender.write(transport, laid.as_slice(), place);
    let is_posted = written.is_ok() && link.mailbox.sender.is_empty();
    core.pending.count_push(values_len);
    if is_posted {
        // As in `push_out`: it tells, then looks; this side writes, then looks.
        fence(Ordering::SeqCst);
        if core.links.all[link_at].is_asleep() {
            core.links.push_out(link_at);
        }
    } else if written.is_ok() {
        core.links.push_out(link_at);
    } else {
        core.links.lose(link_at);
    }
    Some(request)
}
