//! Carrying out pulls that go through the server: rows are gathered into staging memory and written
//! one-sided to where the client wants them, then completed on the same queue pair.
#![allow(unsafe_code)]

use windlass_transport::{
    InlineBytes, Operation, RemoteAddress, fabric::INLINE_LEN_MAX as INLINE_BYTES_MAX,
};
use windlass_wire::{RequestKind, RowRange, Rows, Status};

use super::{
    clocks,
    fetch::{Outstanding, remote_of},
    port::{BESIDE_ROWS, Port},
    scan,
    tables::{ShardTable, TableRows, Tables},
    work::Work,
};
use crate::{limits::KEYS_FETCHED_AHEAD, table::SparsePartition};

/// What came of a pull.
enum Pulled {
    Done,
    /// No room for it now.
    Later,
    /// The request's filter cannot encode a value of the rows.
    NotFinite,
}

/// Carries out every pull of the turn.
pub(super) fn pull_all(port: &mut Port, tables: &mut Tables) {
    for at in 0..port.turn.works.len() {
        let work = &port.turn.works[at];
        if work.closed || !work.header.kind.pulls() {
            continue;
        }
        let work = *work;
        if tables.clocks.is_used() && clocks::must_wait(port, tables, &work) {
            clocks::park_pull(port, tables, at);
            continue;
        }
        let session = port.sessions[work.session].as_ref();
        let session = session.expect("no session ends while its requests are carried out");
        // Where writes show in any order, the completion waits until the rows are in place. Their digest alone
        // would fit before they come where the same bytes were before, and they would then land on what the
        // client uses the place for next.
        let placing = (!session.route.writes_in_order).then(|| port.begin_wait(at));
        // Room comes back when the client takes what was sent: others are not to wait for it.
        match pull_one(port, tables, &work, placing) {
            Pulled::Done => {}
            Pulled::Later => {
                port.crowd_pull(at);
                continue;
            }
            Pulled::NotFinite => {
                port.close(at, Status::NotFinite, 0);
                continue;
            }
        }
        port.statistics.pulls += 1;
        port.statistics.rows_pulled += u64::from(work.header.row_count);
        port.statistics.bytes_pulled += work.header.values_len();
        port.close(at, Status::Done, work.waited_us);
    }
}

/// Writes the rows of a pull; their placing is one of what the message waits for, if it waits.
fn pull_one(port: &mut Port, tables: &mut Tables, work: &Work, placing: Option<u32>) -> Pulled {
    let table = tables.by_id.get_mut(&work.header.table);
    let table = table.expect("a request that was checked has its table");
    let session = port.sessions[work.session].as_mut();
    let session = session.expect("no session ends while its requests are carried out");
    let mailbox = session.mailbox.as_mut().expect("a session sends requests by its mailbox");
    let place = work.header.reply.expect("a pull that was decoded says where its rows go");
    let transport = port.transports[session.route.transport].as_mut();
    let len = work.header.values_len();
    if len == 0 || session.failed {
        return Pulled::Done;
    }
    let piece_len = u64::from(transport.capabilities().message_len_max);
    if (mailbox.sender.room() as u64) < len.div_ceil(piece_len) + BESIDE_ROWS {
        session.failed |= mailbox.sender.flush(transport).is_err();
        return Pulled::Later;
    }
    let keys = &port.turn.keys[work.keys.0..work.keys.1];
    let remote = remote_of(place);
    if len <= INLINE_BYTES_MAX as u64 && placing.is_none() {
        let mut bytes = [0_u64; INLINE_BYTES_MAX / 8];
        // SAFETY: the array has room for `len` bytes.
        let len = unsafe { fill(table, work, keys, bytes.as_mut_ptr().cast()) };
        #[expect(clippy::cast_possible_truncation, reason = "at most INLINE_BYTES_MAX")]
        let answer = &bytemuck::cast_slice(&bytes)[..len as usize];
        let Some(answer) = port.turn.coded.answer(&work.header, answer) else {
            return Pulled::NotFinite;
        };
        let bytes = InlineBytes::new(answer);
        mailbox.sender.push(Operation::WriteInline { bytes, remote });
        return Pulled::Done;
    }
    let Some(chunk) = port.staging.allocate(session.life, len) else { return Pulled::Later };
    // SAFETY: the chunk has room for `len` bytes.
    let mut len = unsafe { fill(table, work, keys, port.staging.pointer(chunk)) };
    if work.header.coding.is_some() {
        let Some(coded_len) = port.turn.coded.answer_in(&work.header, &port.staging, chunk) else {
            port.staging.release(chunk);
            return Pulled::NotFinite;
        };
        len = coded_len;
    }
    if !session.route.writes_in_order {
        let digest = port.staging.digest(work.number, chunk, len);
        mailbox.completions.tell_rows(work.number, digest, &mut mailbox.sender);
    }
    if let Some(wait) = placing {
        port.waits.add(wait);
    }
    let work_id = port.staging.start(Outstanding::Reply { chunk, placing });
    let piece_count = len.div_ceil(piece_len);
    for piece in 0..piece_count {
        let from = piece * piece_len;
        #[expect(clippy::cast_possible_truncation, reason = "at most message_len_max")]
        let piece_len = piece_len.min(len - from) as u32;
        let local = port.staging.slice(session.route.transport, chunk, from, piece_len).into();
        let remote = RemoteAddress { address: remote.address.wrapping_add(from), ..remote };
        let operation = Operation::Write { local, remote };
        if piece + 1 == piece_count {
            mailbox.sender.push_signaled(work_id, operation);
        } else {
            mailbox.sender.push(operation);
        }
    }
    session.failed |= mailbox.sender.flush(transport).is_err();
    Pulled::Done
}

/// Puts what a pull or a scan is answered with into `into`; how many bytes that is.
///
/// # Safety
/// `into` has room for `header.values_len()` bytes, outside the table's memory.
unsafe fn fill(table: &mut ShardTable, work: &Work, keys: &[u64], into: *mut u8) -> u64 {
    if work.header.kind == RequestKind::Scan {
        let answer = scan::answer(table, &work.header);
        // SAFETY: it is asserted to be no longer than the header says, for which the caller promises room.
        unsafe { std::ptr::copy_nonoverlapping(answer.as_ptr(), into, answer.len()) };
        return answer.len() as u64;
    }
    // SAFETY: the caller's promise.
    unsafe { gather(table, work, keys, into) };
    work.header.values_len()
}

/// Copies the rows of a pull one after the other into `into`.
///
/// # Safety
/// `into` has room for `header.values_len()` bytes, outside the table's memory.
unsafe fn gather(table: &mut ShardTable, work: &Work, keys: &[u64], into: *mut u8) {
    let row_len = work.header.width as usize * work.header.dtype.size();
    let ShardTable { rows: held, slots, layout, .. } = table;
    match (held, work.header.rows) {
        (TableRows::Dense(partitions), rows) => {
            let mut at = 0;
            let count = work.header.row_count as usize;
            while at < count {
                let first = match rows {
                    Rows::Range { first } => first + at as u64,
                    Rows::Keys => keys[at],
                    Rows::Partition { .. } => {
                        unreachable!("of scans only, which are answered apart")
                    }
                };
                let slot = slots.find(layout.partition_of(first));
                let (dense, _) = &partitions[slot.expect("rows that were checked are here")];
                let last = dense.rows().end;
                let run = match rows {
                    Rows::Range { .. } => count - at,
                    _ => neighbours(&keys[at..], last),
                };
                let end = last.min(first + run as u64);
                let to = into.wrapping_add(at * row_len);
                // SAFETY: rows `at` and following of the pull, for which the caller promises room.
                unsafe { dense.copy_out(RowRange::new(first, end), to) };
                #[expect(clippy::cast_possible_truncation, reason = "at most ROWS_MAX")]
                let copied = (end - first) as usize;
                at += copied;
            }
        }
        (TableRows::Sparse(partitions), _) => {
            let partition_of = |key| slots.find(layout.partition_of(key));
            // SAFETY: the caller's promise.
            unsafe { gather_sparse(partitions, partition_of, keys, into) };
        }
    }
}

/// How many keys from the first on are rows beside each other, before `end`.
fn neighbours(keys: &[u64], end: u64) -> usize {
    let pairs = keys.windows(2);
    1 + pairs.take_while(|pair| pair[1] == pair[0] + 1 && pair[1] < end).count()
}

/// Copies rows of a sparse table by key; of keys without one what it would begin with. What is looked at next is on its way into
/// the caches meanwhile: the index's slots of the keys behind the next `AHEAD`, and the rows of those.
///
/// # Safety
/// `into` has room for a row of each key, outside the table's memory.
unsafe fn gather_sparse(
    partitions: &mut [SparsePartition],
    partition_of: impl Fn(u64) -> Option<usize>,
    keys: &[u64],
    into: *mut u8,
) {
    const AHEAD: usize = KEYS_FETCHED_AHEAD;
    let Some(first) = partitions.first() else { return };
    let (row_len, begins_with_zeros) = (first.values_len(), first.begins_with_zeros());
    let mut of = [None; AHEAD];
    let mut rows = [None; AHEAD];
    // Each step does the last thing for one key, the second for one behind it, the first for a third.
    for step in 0..keys.len() + 2 * AHEAD {
        let place = step % AHEAD;
        if let Some(at) = step.checked_sub(2 * AHEAD) {
            let into = into.wrapping_add(at * row_len);
            match rows[place] {
                // SAFETY: the row's values lie whole in its slab; the caller promises room for row `at`.
                Some(row) => unsafe { std::ptr::copy_nonoverlapping(row, into, row_len) },
                // SAFETY: as above.
                None if begins_with_zeros => unsafe { std::ptr::write_bytes(into, 0, row_len) },
                None => {
                    // All partitions of a table begin their rows alike.
                    let first = partitions[0].first_values_of(keys[at]).as_ptr();
                    // SAFETY: the first values are those of a row; the caller promises room for row `at`.
                    unsafe { std::ptr::copy_nonoverlapping(first, into, row_len) };
                }
            }
        }
        if let Some(at) = step.checked_sub(AHEAD)
            && let Some(key) = keys.get(at)
        {
            let partition = of[place].map(|at: usize| &partitions[at]);
            rows[place] = partition.and_then(|partition| partition.fetch_values_of(*key));
        }
        if let Some(key) = keys.get(step) {
            of[place] = partition_of(*key);
            if let Some(at) = of[place] {
                partitions[at].settle(*key);
                partitions[at].fetch_slot(*key);
            }
        }
    }
}
