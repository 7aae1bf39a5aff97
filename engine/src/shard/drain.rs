//! Takes messages out of mailboxes. Every byte is copied out before it is checked.

use std::time::Instant;

use windlass_transport::mailbox::Message;
use windlass_wire::{RequestHeader, RequestKind, Status};

use super::{
    burst, chain,
    chain::Chain,
    coded::Coded,
    disk::Disk,
    fetch,
    fetch::remote_of,
    held_back,
    port::Port,
    tables::{ShardTable, Tables},
    work::{Values, Work},
};
use crate::limits::{
    DOUBT_MAX, FETCHES_MAX, INLINE_LEN_MAX, SESSION_MESSAGES_PER_TURN, TURN_REFERENCED_BYTES_MAX,
};

/// Messages up to this length are copied out of their mailbox as one.
const SHORT_LEN: usize = 128;

/// What came of looking at one message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Admitted {
    /// It is part of this turn, or parked, or refused.
    Taken,
    /// It stays in its mailbox until a later turn.
    Left,
}

/// Takes what the turn has room for, from every session in turn.
pub(super) fn drain_mailboxes(
    port: &mut Port,
    tables: &mut Tables,
    chain: &mut Chain,
    disk: &mut Disk,
) {
    if chain::is_chain_full(chain, disk) {
        return;
    }
    let count = port.sessions.watched().len();
    // Whoever came last when the turn was full comes first now.
    let turn = usize::try_from(port.statistics.busy_turns).unwrap_or(0);
    let first = turn.checked_rem(count).unwrap_or(0);
    for at in (first..count).chain(0..first) {
        drain_session(port, tables, chain, disk, port.sessions.watched()[at], 0);
    }
    burst::take_burst(port, tables, chain, disk);
    held_back::note_held_back(port, disk);
    port.statistics.busy_turns += u64::from(!port.turn.is_empty());
}

/// Takes messages of one session, of which `taken_before` are part of the turn already.
pub(super) fn drain_session(
    port: &mut Port,
    tables: &mut Tables,
    chain: &mut Chain,
    disk: &mut Disk,
    slot: usize,
    taken_before: usize,
) {
    let works_before = port.turn.works.len();
    if port.sessions[slot].as_ref().is_some_and(|session| !session.parked.is_empty()) {
        fetch::take_parked(port, tables, chain, disk, slot);
    }
    // Those that are parked and deferred owe one completion each.
    let parked = port.sessions[slot].iter().flat_map(|session| &session.parked);
    let both = parked.filter(|parked| parked.wait.is_some()).count();
    for _ in 0..SESSION_MESSAGES_PER_TURN {
        let Some(session) = &mut port.sessions[slot] else { return };
        let Some(mailbox) = &mut session.mailbox else { return };
        if session.failed || session.owner.peer.is_some() {
            return;
        }
        let message = match mailbox.reader.peek() {
            Ok(None) => return,
            Ok(Some(message)) => message,
            Err(error) => {
                tracing::warn!(session = session.owner.id.0, %error, "session ended: bad mailbox");
                session.failed = true;
                port.statistics.sessions_failed += 1;
                return;
            }
        };
        if !port.turn.has_room(u64::from(message.len)) {
            return;
        }
        let waiting = tables.clocks.waiting_count(slot) + session.deferred_count;
        let taken = taken_before + port.turn.works.len() - works_before;
        let owed = session.parked.len() - both + waiting + taken;
        if mailbox.completions.room() <= owed {
            tracing::warn!(
                session = session.owner.id.0,
                "session ended: more requests than credits"
            );
            session.failed = true;
            port.statistics.sessions_failed += 1;
            return;
        }
        session.watch.active = true;
        session.watch.silent_sweeps = 0;
        if admit(port, tables, chain, disk, slot, message, works_before) == Admitted::Left {
            return;
        }
        if let Some(mailbox) =
            port.sessions[slot].as_mut().and_then(|session| session.mailbox.as_mut())
        {
            mailbox.reader.advance(&message);
        }
    }
}

/// Decodes one message into the turn.
fn admit(
    port: &mut Port,
    tables: &mut Tables,
    chain: &mut Chain,
    disk: &mut Disk,
    slot: usize,
    message: Message,
    works_before: usize,
) -> Admitted {
    let session = port.sessions[slot].as_mut().expect("its mailbox has just been looked at");
    let mailbox = session.mailbox.as_ref().expect("it has just been looked at");
    let pages = mailbox.reader.pages();
    let message_len = u64::from(message.len);
    if message_len > RequestHeader::LEN_MAX as u64 + INLINE_LEN_MAX {
        return port.refuse(slot, &message, Status::Malformed);
    }
    // Of a short message everything at once, by one copy.
    let is_short = message.len as usize <= SHORT_LEN;
    let mut copied = [0_u8; SHORT_LEN];
    let copied =
        &mut copied[..if is_short { message.len as usize } else { RequestHeader::LEN_MAX }];
    pages.read(message.offset, copied);
    let Ok(mut header) = RequestHeader::decode(copied, message_len) else {
        return port.refuse(slot, &message, Status::Malformed);
    };
    if !port.turn.has_room(message_len + Coded::decoded_len(&header))
        || !port
            .turn
            .has_time(&header, |table| tables.by_id.get(&table).is_none_or(ShardTable::is_dense))
    {
        return Admitted::Left;
    }

    // A session's pushes come before its pulls within a turn, so that a pull sees them.
    let writes = header.kind.pushes() || header.kind == RequestKind::AdvanceClock;
    let last = port.turn.works[works_before..].last();
    if writes && last.is_some_and(|work| work.header.kind.pulls()) {
        return Admitted::Left;
    }
    // What waits for its values keeps what comes later waiting, except later fetches.
    let parked_count = session.parked.len();
    let fetches = header.values.is_some();
    if parked_count > 0 && (!fetches || parked_count >= FETCHES_MAX) {
        return Admitted::Left;
    }
    if fetches && port.turn.referenced >= TURN_REFERENCED_BYTES_MAX {
        return Admitted::Left;
    }

    if let Some(durable) = &mut disk.durable
        && !durable.admits(&header, tables.by_id.get(&header.table), chain)
    {
        return Admitted::Left;
    }

    let (encoded, mut body) = copied.split_at(header.len());
    let mut digest = RequestHeader::digest(encoded);
    let mut body_at = message.offset + header.len() as u64;
    let mut take = |into: &mut [u8], is_checked: bool| {
        if is_short {
            let (part, rest) = body.split_at(into.len());
            into.copy_from_slice(part);
            body = rest;
        } else {
            pages.read(body_at, into);
            body_at += into.len() as u64;
        }
        if is_checked {
            digest = digest.append(into);
        }
    };
    let (keys_at, values_before) = (port.turn.keys.len(), port.turn.values_mark());
    let inline_len = header.inline_values_len();
    let mut values = Values::None;
    if header.coding.is_some() {
        let (keys_len, values_len) = (header.sent_keys_len(), inline_len);
        #[expect(clippy::cast_possible_truncation, reason = "at most INLINE_LEN_MAX")]
        let room = port.turn.coded.room((keys_len + values_len) as usize);
        #[expect(clippy::cast_possible_truncation, reason = "at most INLINE_LEN_MAX")]
        let (keys, values) = room.split_at_mut(keys_len as usize);
        take(keys, true);
        take(values, RequestHeader::checks_values(values_len));
    } else if header.keys_len() > 0 {
        port.turn.keys.resize(keys_at + header.row_count as usize, 0);
        take(bytemuck::cast_slice_mut(&mut port.turn.keys[keys_at..]), true);
    }
    if header.coding.is_none() && inline_len > 0 {
        #[expect(clippy::cast_possible_truncation, reason = "at most INLINE_LEN_MAX")]
        let (at, room) = port.turn.reserve_values(inline_len as usize);
        take(room, RequestHeader::checks_values(inline_len));
        values = Values::Inline(at);
    }
    if digest.finish() != RequestHeader::sealed(encoded) {
        port.turn.keys.truncate(keys_at);
        port.turn.give_values_back(values_before);
        return port.refuse(slot, &message, Status::Checksum);
    }
    if let Some(coding) = header.coding {
        let mailbox = session.mailbox.as_mut().expect("the message came by it");
        match port.turn.decode(&mut header, &coding, &mut mailbox.kept_keys) {
            Ok(decoded) => values = decoded,
            Err(error) => {
                tracing::debug!(session = session.owner.id.0, %error, "a body cannot be decoded");
                port.turn.keys.truncate(keys_at);
                port.turn.give_values_back(values_before);
                return port.refuse(slot, &message, Status::Malformed);
            }
        }
    }
    session.doubted_since = None;
    if let Some(place) = header.values {
        let len = header.sent_values_len();
        // What is checked must not change before it is applied: the client may write it at any time.
        let table = tables.by_id.get(&header.table);
        let is_checked = table.is_some_and(|table| table.scan.is_some());
        let is_read_in_place = !is_checked && header.coding.is_none();
        let view = if parked_count == 0 && is_read_in_place {
            port.transports[session.route.transport].view(
                session.route.queue_pair,
                remote_of(place),
                len,
            )
        } else {
            None
        };
        match view {
            Some(view) => values = Values::Peer(view.pointer),
            // The client has shared more memory than it may.
            None if port.transports[session.route.transport]
                .has_refused(session.route.queue_pair, remote_of(place).key) =>
            {
                port.turn.keys.truncate(keys_at);
                port.complete(slot, message.number, Status::Unreachable, 0);
                return Admitted::Taken;
            }
            None => {
                let Some(chunk) = port.staging.allocate(session.life, len) else {
                    port.turn.keys.truncate(keys_at);
                    return Admitted::Left;
                };
                if !port.fetch(slot, message.number, &header, keys_at, chunk) {
                    port.staging.release(chunk);
                    port.turn.keys.truncate(keys_at);
                    return Admitted::Left;
                }
                port.statistics.by_reference += 1;
                return Admitted::Taken;
            }
        }
        port.turn.referenced += len;
        port.statistics.by_reference += 1;
    }
    port.turn.works.push(Work {
        session: slot,
        number: message.number,
        header,
        keys: (keys_at, port.turn.keys.len()),
        values,
        closed: false,
        durable_at: None,
        waited_us: 0,
        wait: None,
        pushed: false,
    });
    Admitted::Taken
}

impl Port {
    /// Completes a message that makes no sense. One that came in one write is looked at again for a
    /// while first: some of it may still be on its way.
    fn refuse(&mut self, slot: usize, message: &Message, status: Status) -> Admitted {
        if let Some(session) = &mut self.sessions[slot] {
            if message.one_write
                && session.doubted_since.get_or_insert_with(Instant::now).elapsed() < DOUBT_MAX
            {
                return Admitted::Left;
            }
            session.doubted_since = None;
        }
        self.complete(slot, message.number, status, 0);
        Admitted::Taken
    }
}
