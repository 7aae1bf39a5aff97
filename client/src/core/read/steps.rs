//! The steps of a read: it is posted, completes, and is posted again until its rows are whole or its server
//! is gone.

use windlass_transport::{QueuePairId, WorkId, chunks::Chunk};
use windlass_wire::RowRange;

use super::{MET_MAX, Phase, Read, head_at, remote_of, span_len, staged::copy_read};
use crate::core::{
    Links, Pending,
    message::index,
    requests::{Failure, RequestId},
    tables::{TableIndex, Tables},
    trouble::Recovery,
};

impl Pending {
    /// Posts a read, if the send queue has room. True also when the read is over already.
    pub(super) fn post_read(
        &mut self,
        links: &mut Links,
        tables: &mut Tables,
        recovery: &mut Recovery,
        at: usize,
    ) -> bool {
        let Some(read) = &self.reads.reads[at] else { return true };
        if read.phase == Phase::Done {
            return true;
        }
        let (link_at, link) = (read.span.place.link, &links.all[read.span.place.link]);
        if link.state.failed || link.queue_pair != read.queue_pair {
            let server = link.server;
            let mut ended = Some(at);
            while let Some(at) = ended {
                ended = self.reads.reads[at].and_then(|read| read.joined);
                self.finish_read(tables, recovery, at, Some(Failure::Gone { server }));
            }
            return true;
        }
        let work_id = WorkId(at as u64 + 1);
        if matches!(read.phase, Phase::Before | Phase::Rows | Phase::After) {
            let read = *read;
            let last = if self.reads.may_fence(&read) { Phase::After } else { read.phase };
            let is_posted = self.post_guarded(links, &read, last, work_id);
            if is_posted {
                self.reads.set_phase(at, last);
            }
            return is_posted;
        }
        if link.mailbox.sender.room() < 2 {
            return false;
        }
        let (to, len, remote) = match read.again {
            None => {
                let (to, len) = self.reads.extent(read);
                (to, len, read.remote())
            }
            Some((first, last)) => {
                let skipped = head_at(&read.span.place, first);
                let Chunk { offset, len } = read.chunk;
                let to = Chunk { offset: offset + skipped, len: len - skipped };
                let remote = remote_of(&read.span.place, read.span.block + first, 0);
                (to, span_len(&read.span.place, last + 1 - first), remote)
            }
        };
        let Some(local) = self.memory.staged(link.transport, to, len) else {
            unreachable!("reads start once the staging area is registered")
        };
        let ends = Some(work_id);
        links.all[link_at].mailbox.sender.push_read((local, remote), false, ends);
        self.count_reads(1, len);
        links.flush(link_at);
        true
    }

    /// Posts a read's next step, now or when its link has room.
    fn go_on(
        &mut self,
        links: &mut Links,
        tables: &mut Tables,
        recovery: &mut Recovery,
        at: usize,
    ) {
        if !self.post_read(links, tables, recovery, at) {
            self.reads.postponed.push_back(at);
        }
    }

    /// Posts what waited for room.
    pub(in crate::core) fn post_postponed(
        &mut self,
        links: &mut Links,
        tables: &mut Tables,
        recovery: &mut Recovery,
    ) {
        // One that fails takes those of its link out.
        while let Some(at) = self.reads.postponed.pop_front() {
            if !self.post_read(links, tables, recovery, at) {
                return self.reads.postponed.push_front(at);
            }
        }
    }

    /// A read has completed, and those joined to it.
    pub(in crate::core) fn end_read(
        &mut self,
        links: &mut Links,
        tables: &mut Tables,
        recovery: &mut Recovery,
        queue_pair: QueuePairId,
        work_id: WorkId,
        succeeded: bool,
    ) {
        let first = index(work_id.0 - 1);
        if let Some(Some(read)) = self.reads.reads.get(first)
            && let (Phase::Before | Phase::Rows, true) = (read.phase, succeeded)
            && read.queue_pair == queue_pair
        {
            let next = if read.phase == Phase::Before { Phase::Rows } else { Phase::After };
            self.reads.set_phase(first, next);
            return self.go_on(links, tables, recovery, first);
        }
        let mut ended = Some(first);
        while let Some(at) = ended {
            let Some(Some(read)) = self.reads.reads.get_mut(at) else { return };
            if read.phase == Phase::Done || read.queue_pair != queue_pair {
                return;
            }
            ended = read.joined.take();
            self.end_one_read(links, tables, recovery, at, succeeded);
        }
    }

    fn end_one_read(
        &mut self,
        links: &mut Links,
        tables: &mut Tables,
        recovery: &mut Recovery,
        at: usize,
        succeeded: bool,
    ) {
        let Some(read) = &self.reads.reads[at] else { return };
        if !succeeded {
            let server = links.all[read.span.place.link].server;
            return self.finish_read(tables, recovery, at, Some(Failure::Gone { server }));
        }
        let is_whole = match read.phase {
            Phase::Values => return self.finish_read(tables, recovery, at, None),
            Phase::After => self.reads.agrees(&self.memory, read),
            _ if read.relaxed => !self.memory.is_fenced(read),
            _ => self.memory.is_whole(read),
        };
        if is_whole {
            self.reads.saw_current(tables, at);
            return self.finish_read(tables, recovery, at, None);
        }
        let mut read = *read;
        self.counters.reads_retried += 1;
        let is_fenced = match read.phase {
            Phase::After => self.reads.ends_fenced(&self.memory, &read),
            _ => self.memory.is_fenced(&read),
        };
        if is_fenced {
            let server = links.all[read.span.place.link].server;
            return self.finish_read(tables, recovery, at, Some(Failure::NotCurrent { server }));
        }
        read.met += 1;
        if read.phase == Phase::After {
            self.reads.turn_versions(&self.memory, &read);
            read.phase = Phase::Rows;
        } else {
            read.again = self.memory.changed(&read);
        }
        self.reads.reads[at] = Some(read);
        let request = self.requests.find_mut(read.request);
        let asks = request.is_some_and(|request| {
            request.asks_servers |= read.met >= MET_MAX;
            request.asks_servers
        });
        if asks {
            return self.finish_read(tables, recovery, at, None);
        }
        self.go_on(links, tables, recovery, at);
    }

    fn finish_read(
        &mut self,
        tables: &mut Tables,
        recovery: &mut Recovery,
        at: usize,
        failure: Option<Failure>,
    ) {
        let Some(read) = &mut self.reads.reads[at] else { return };
        read.phase = Phase::Done;
        let (id, table, versions) = (read.request, read.span.table, read.versions.take());
        self.reads.release_versions(&mut self.memory, versions);
        self.reads.postponed.retain(|other| *other != at);
        match failure {
            Some(Failure::Gone { .. } | Failure::NotCurrent { .. }) if recovery.retries() => {
                // Whoever claims the rows reads them again elsewhere.
                tables[table].places.clear();
                if let Some(request) = self.requests.find_mut(id) {
                    request.reads_again = true;
                }
                self.end_part(id, None);
                if let Some(Failure::Gone { .. }) = failure {
                    recovery.start_trouble();
                }
            }
            _ => self.end_part(id, failure),
        }
    }

    /// Copies the rows of a request's finished reads into `into`, and gives their blocks back.
    pub(in crate::core) fn copy_done(
        &mut self,
        tables: &Tables,
        request: RequestId,
        table: TableIndex,
        rows: RowRange,
        into: &mut [u8],
    ) {
        let state = &tables[table];
        let (row_len, layout) = (state.row_len, state.layout);
        let memory = &mut self.memory;
        let is_done = |read: &Read| read.request == request && read.phase == Phase::Done;
        self.reads.take(is_done, |read| {
            let part = layout.rows_of(read.span.partition);
            copy_read(read, memory.staging_pages(), part, rows, row_len, into);
            memory.release(read.chunk);
        });
    }

    /// Every read under way on a link fails.
    pub(in crate::core) fn fail_reads(
        &mut self,
        links: &Links,
        tables: &mut Tables,
        recovery: &mut Recovery,
        link: usize,
    ) {
        let server = links.all[link].server;
        for at in 0..self.reads.reads.len() {
            let lost = self.reads.reads[at]
                .is_some_and(|read| read.span.place.link == link && read.phase != Phase::Done);
            if lost {
                self.finish_read(tables, recovery, at, Some(Failure::Gone { server }));
            }
        }
    }
}
