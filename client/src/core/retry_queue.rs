//! The retry queue: messages whose server is gone, or refused them for an old map.
//!
//! A push stays with the client until it is acknowledged: in flight, its bytes are in the mailbox's
//! mirror and its values in the memory they were pushed from; otherwise it is here.

use std::{collections::VecDeque, time::Duration};

use windlass_wire::{Place, RequestHeader, RequestKind, RowRange, Rows, Sequence};

use super::{
    Cluster, Links, Memory, Pending, Recovery, RegionId, RequestId, Session, TableIndex, Tables,
    age::{ClockLeads, coarse_ms},
    filters::keys_of,
    link::{Held, InFlight},
    message::{Replica, index},
    requests::{Failure, NOBODY, Reply},
};

/// A message to be sent again.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) request: RequestId,
    /// Epoch and places are filled in when it is sent.
    pub(super) header: RequestHeader,
    /// Empty for a range.
    pub(super) keys: Vec<u64>,
    pub(super) values: KeptValues,
    /// Region and offset that pulled rows are written to.
    pub(super) reply: Option<(RegionId, u64)>,
}

/// Messages to be sent again.
#[derive(Debug)]
pub(super) struct RetryQueue {
    pub(super) queue: VecDeque<Kept>,
    /// Memory they take, in bytes.
    pub(super) len: usize,
    /// How far other clocks were ahead of that of requests when nothing was last left to be sent again.
    pub(super) clock_leads: ClockLeads,
}

impl RetryQueue {
    pub(super) fn new() -> Self {
        Self { queue: VecDeque::new(), len: 0, clock_leads: ClockLeads::now() }
    }
}

/// The values of a kept push.
#[derive(Debug)]
pub(super) enum KeptValues {
    None,
    Inline(Vec<u8>),
    At { region: RegionId, offset: u64, held: Held },
}

impl Kept {
    pub(super) fn sequence(&self) -> Sequence {
        self.header.sequence
    }

    /// Memory it holds here, in bytes.
    pub(super) fn len(&self) -> usize {
        let values = match &self.values {
            KeptValues::Inline(bytes) => bytes.len(),
            KeptValues::None | KeptValues::At { .. } => 0,
        };
        size_of::<Self>() + self.keys.len() * 8 + values
    }

    fn row_len(&self) -> usize {
        self.header.width as usize * self.header.dtype.size()
    }

    /// The first row, to name a partition by.
    pub(super) fn first_row(&self) -> u64 {
        match self.header.rows {
            Rows::Range { first } => first,
            Rows::Keys => self.keys.first().copied().unwrap_or(0),
            // Its partition is named instead.
            Rows::Partition { .. } => 0,
        }
    }
}

impl RetryQueue {
    /// Takes a message that its server did not carry out, or that has no answer, out of the mailbox
    /// of its link. False when its bytes make no sense, which is a bug.
    pub(super) fn keep_in_flight(
        &mut self,
        links: &mut Links,
        pending: &mut Pending,
        recovery: &mut Recovery,
        link_at: usize,
        in_flight: InFlight,
    ) {
        let mut bytes = Vec::new();
        let link = &links.all[link_at];
        let found = link.mailbox.writer.read_back(in_flight.number, &mut bytes);
        let decoded = RequestHeader::decode(&bytes, bytes.len() as u64);
        let Some(mut header) = decoded.ok().filter(|_| found) else {
            unreachable!("the mirror holds every message in flight as it was written");
        };
        let body = &bytes[header.len()..];
        let (keys, inline) = body.split_at(index(header.sent_keys_len()));
        let region_of = |place: Place| match link.shared.region_of(place) {
            Some(found) => found,
            None => unreachable!("messages name regions that were shared with their link"),
        };
        let values = match (header.values, in_flight.held) {
            (Some(place), held) => {
                let (region, offset) = region_of(place);
                KeptValues::At { region, offset, held }
            }
            (None, Held::Lent { region, offset }) => {
                KeptValues::At { region, offset, held: Held::Nothing }
            }
            (None, _) if inline.is_empty() => KeptValues::None,
            (None, _) => KeptValues::Inline(inline.to_vec()),
        };
        if header.kind == RequestKind::Idle {
            // It comes again by itself.
            return;
        }
        let reply = header.reply.map(region_of);
        let server = link.server;
        if reply.is_some() && pending.memory.is_unquiet(&mut links.transports) {
            // Its server may go on writing where another one's answer would go.
            pending.release(links, in_flight.held);
            return pending.end_part(in_flight.request, Some(Failure::Gone { server }));
        }
        let keys = keys_of(&links.all[link_at], in_flight.number, &header, keys);
        let values = pending.decoded_values(links, &mut header, values);
        self.keep(
            pending,
            recovery,
            Kept { request: in_flight.request, header, keys, values, reply },
        );
    }

    /// Keeps a message until it can be sent.
    pub(super) fn keep(&mut self, pending: &mut Pending, recovery: &mut Recovery, kept: Kept) {
        if let Some(request) = pending.requests.find_mut(kept.request) {
            request.kept_since.get_or_insert_with(std::time::Instant::now);
        }
        self.len += kept.len();
        self.queue.push_back(kept);
        recovery.start_trouble();
    }

    /// Gives up on messages whose requests were tried for too long.
    pub(super) fn expire_kept(
        &mut self,
        pending: &mut Pending,
        links: &mut Links,
        session: &Session,
        tables: &Tables,
    ) {
        let patience = session.options.retry_for;
        let requests = &pending.requests;
        let is_over = |kept: &Kept| {
            let since = requests.find(kept.request).and_then(|request| request.kept_since);
            kept.request != NOBODY && since.is_none_or(|since| since.elapsed() >= patience)
        };
        if !self.queue.iter().any(is_over) {
            return;
        }
        let (over, left) = std::mem::take(&mut self.queue).into_iter().partition(is_over);
        self.queue = left;
        let over: std::collections::VecDeque<Kept> = over;
        for kept in over {
            let partition = tables.partition_of_kept(&kept);
            self.drop_kept(pending, links, kept, Failure::Unavailable { partition });
        }
    }

    /// Called while the queue is empty: time that clocks stood still until now concerns no push.
    pub(super) fn settle_ages(&mut self) {
        self.clock_leads = ClockLeads::now();
    }

    /// Gives up pushes that servers may have applied and forgotten.
    pub(super) fn give_up_old(
        &mut self,
        cluster: &Cluster,
        pending: &mut Pending,
        links: &mut Links,
    ) {
        let expiry = u64::from(cluster.map.session_expiry_ms);
        if expiry == 0 || self.queue.is_empty() {
            return;
        }
        let stood_still = ClockLeads::now().stood_still_ms(self.clock_leads);
        let now = coarse_ms();
        let requests = &pending.requests;
        let is_over = |kept: &Kept| {
            let begun = requests.find(kept.request).map(|request| request.begun_ms);
            let age = begun.map_or(0, |begun| now.saturating_sub(begun) + stood_still);
            kept.header.kind.pushes() && age >= expiry / 2
        };
        if !self.queue.iter().any(is_over) {
            return;
        }
        let (over, left) = std::mem::take(&mut self.queue).into_iter().partition(is_over);
        self.queue = left;
        let over: std::collections::VecDeque<Kept> = over;
        let expiry = Duration::from_millis(expiry);
        for kept in over {
            self.drop_kept(pending, links, kept, Failure::Expired { expiry });
        }
    }

    /// Whether pushes to a table wait to be sent again: a clock that overtook them would promise
    /// what is not there.
    pub(super) fn holds_back(&self, tables: &Tables, table: TableIndex) -> bool {
        let id = tables[table].entry.id;
        self.queue.iter().any(|kept| kept.header.kind.pushes() && kept.header.table == id)
    }

    /// Ends a kept message.
    pub(super) fn drop_kept(
        &mut self,
        pending: &mut Pending,
        links: &mut Links,
        kept: Kept,
        failure: Failure,
    ) {
        self.len = self.len.saturating_sub(kept.len());
        if let KeptValues::At { held, .. } = kept.values {
            pending.release(links, held);
        }
        pending.end_part(kept.request, Some(failure));
    }

    /// Splits a message by where its rows lie now. Each piece goes to one link; pieces of pushes
    /// have the sequence of the whole, which is right because no two of them share a partition.
    pub(super) fn split(
        &mut self,
        cluster: &Cluster,
        tables: &Tables,
        pending: &mut Pending,
        links: &mut Links,
        kept: Kept,
    ) -> Vec<(usize, Kept)> {
        let Some(table) = tables.table_of(&kept) else {
            // Forgotten here; any server knows as much.
            return vec![(0, kept)];
        };
        let layout = tables[table].layout;
        let routes = cluster.routes(match kept.header.kind.pushes() {
            true => Replica::Head,
            false if kept.header.strong => Replica::Strong,
            false => Replica::Tail,
        });
        let link_of = |row: u64| routes.link_of(layout.partition_of(row));
        let mut pieces: Vec<(usize, Piece)> = Vec::new();
        match kept.header.rows {
            Rows::Partition { partition, .. } => return vec![(routes.link_of(partition), kept)],
            Rows::Range { first } => {
                let end = first + u64::from(kept.header.row_count);
                let mut row = first;
                while row < end {
                    let link = link_of(row);
                    let to = layout.rows_of(layout.partition_of(row)).end.min(end);
                    match pieces.last_mut() {
                        Some((last, Piece::Range(range))) if *last == link => range.end = to,
                        _ => pieces.push((link, Piece::Range(RowRange::new(row, to)))),
                    }
                    row = to;
                }
            }
            Rows::Keys => {
                for (at, key) in kept.keys.iter().enumerate() {
                    let link = link_of(*key);
                    match pieces.iter_mut().find(|(of, _)| *of == link) {
                        Some((_, Piece::Rows(rows))) => rows.push(at),
                        _ => pieces.push((link, Piece::Rows(vec![at]))),
                    }
                }
            }
        }
        match pieces.len() {
            0 => vec![(0, kept)],
            1 => vec![(pieces[0].0, kept)],
            _ => self.cut(pending, links, kept, &pieces),
        }
    }

    fn cut(
        &mut self,
        pending: &mut Pending,
        links: &mut Links,
        kept: Kept,
        pieces: &[(usize, Piece)],
    ) -> Vec<(usize, Kept)> {
        self.len = self.len.saturating_sub(kept.len());
        if let Some(request) = pending.requests.find_mut(kept.request) {
            request.parts_left += u32::try_from(pieces.len() - 1).unwrap_or(0);
        }
        if let Some((region, offset)) = kept.reply {
            pending.reorder_reply(&kept, region, offset, pieces);
        }
        let row_len = kept.row_len();
        let first = kept.first_row();
        let mut cut = Vec::with_capacity(pieces.len());
        let mut before = 0;
        for (link, piece) in pieces {
            let mut header = kept.header;
            let (rows, keys) = match piece {
                Piece::Range(range) => {
                    header.rows = Rows::Range { first: range.start };
                    let from = index(range.start - first);
                    ((from..from + index(range.count())).collect(), Vec::new())
                }
                Piece::Rows(rows) => {
                    (rows.clone(), rows.iter().map(|row| kept.keys[*row]).collect())
                }
            };
            header.row_count = super::message::count_of(rows.len() as u64);
            let values = pending.memory.values_of(&kept, &rows, row_len);
            let reply = kept.reply.map(|(region, offset)| (region, offset + before));
            before += (rows.len() * row_len) as u64;
            let piece = Kept { request: kept.request, header, keys, values, reply };
            self.len += piece.len();
            cut.push((*link, piece));
        }
        if let KeptValues::At { held, .. } = kept.values {
            pending.release(links, held);
        }
        cut
    }
}

impl Pending {
    /// Gives memory of a message back.
    pub(super) fn release(&mut self, links: &mut Links, held: Held) {
        match held {
            Held::Nothing | Held::Lent { .. } | Held::Answer(_) => {}
            Held::Chunk(chunk) => self.memory.release(chunk),
            Held::Region(region) => self.remove_region(links, region),
        }
    }

    /// Rows of a pull that is cut come in the order of its pieces.
    fn reorder_reply(
        &mut self,
        kept: &Kept,
        region: RegionId,
        offset: u64,
        pieces: &[(usize, Piece)],
    ) {
        let row_len = kept.row_len() as u64;
        debug_assert!(self.memory.staging().is_ok_and(|staging| staging == region));
        let Some(request) = self.requests.find_mut(kept.request) else { return };
        let Reply::Staged { chunk, row_count, positions } = &mut request.reply else { return };
        let from = index((offset - chunk.offset) / row_len);
        if positions.is_empty() {
            positions.extend(0..*row_count);
        }
        let before: Vec<u32> = positions[from..from + kept.keys.len()].to_vec();
        let order = pieces.iter().flat_map(|(_, piece)| match piece {
            Piece::Rows(rows) => rows.as_slice(),
            Piece::Range(_) => &[],
        });
        for (to, row) in positions[from..].iter_mut().zip(order) {
            *to = before[*row];
        }
    }
}

impl Memory {
    /// The values of some rows of a message, in memory of their own unless the user's is as good.
    fn values_of(&mut self, kept: &Kept, rows: &[usize], row_len: usize) -> KeptValues {
        let mut gathered = vec![0; rows.len() * row_len];
        match &kept.values {
            KeptValues::None => return KeptValues::None,
            KeptValues::Inline(bytes) => {
                for (to, row) in gathered.chunks_exact_mut(row_len).zip(rows) {
                    to.copy_from_slice(&bytes[row * row_len..][..row_len]);
                }
                return KeptValues::Inline(gathered);
            }
            KeptValues::At { region, offset, held } => {
                let contiguous = rows.windows(2).all(|pair| pair[1] == pair[0] + 1);
                if contiguous && *held == Held::Nothing {
                    let from = (rows.first().copied().unwrap_or(0) * row_len) as u64;
                    let (region, offset, held) = (*region, offset + from, *held);
                    return KeptValues::At { region, offset, held };
                }
                let pages = self.pages(*region);
                for (to, row) in gathered.chunks_exact_mut(row_len).zip(rows) {
                    pages.read(offset + (row * row_len) as u64, to);
                }
            }
        }
        match self.region_with(&gathered) {
            Some(region) => KeptValues::At { region, offset: 0, held: Held::Region(region) },
            // Without memory they go in the message, as far as it has room.
            None => KeptValues::Inline(gathered),
        }
    }
}

impl Tables {
    /// The table of a message.
    pub(super) fn table_of(&self, kept: &Kept) -> Option<TableIndex> {
        let id = kept.header.table;
        self.iter().position(|table| table.entry.id == id).map(TableIndex)
    }

    fn partition_of_kept(&self, kept: &Kept) -> windlass_wire::PartitionId {
        if let Rows::Partition { partition, .. } = kept.header.rows {
            return partition;
        }
        let table = self.table_of(kept);
        table.map_or_else(Default::default, |table| {
            self[table].layout.partition_of(kept.first_row())
        })
    }
}

/// Rows of a message that one link leads to.
#[derive(Debug)]
enum Piece {
    Range(RowRange),
    /// Indices of its keys.
    Rows(Vec<usize>),
}
