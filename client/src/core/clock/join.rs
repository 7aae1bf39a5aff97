//! Joining a table's clock at a shard, and again wherever a link was made anew.

use windlass_wire::{
    WorkerClock,
    control::{ClientReply, ClientRequest, RefusalKind},
};

use crate::{
    core::{
        Core, TableIndex,
        connect::chain,
        requests::NOBODY,
        send::{Message, Values},
    },
    error::TableError,
};

impl Core {
    /// Joins a table's clock at one shard; returns the clock this worker has there.
    pub(super) fn join_at(
        &mut self,
        table: TableIndex,
        at: usize,
    ) -> Result<WorkerClock, TableError> {
        let id = self.tables[table].entry.id;
        let link = &self.links.all[at];
        let request = ClientRequest::JoinClock { table: id, shard: link.shard };
        let at_server = link.server;
        if link.failed {
            return Err(TableError::OutOfReach { server: at_server });
        }
        self.links.make_link(&mut self.cluster, &mut self.session, at).map_err(
            |error| match error {
                _ if self.links.all[at].failed => TableError::OutOfReach { server: at_server },
                error => TableError::Link { source: Box::new(error) },
            },
        )?;
        let link = &self.links.all[at];
        let asked = self.cluster.servers[link.server_at].ask(&request, None);
        if asked.is_err() {
            self.check_servers();
        }
        let place = match asked? {
            ClientReply::ClockJoined { place } => place,
            ClientReply::Refused { status: RefusalKind::NoMailbox {}, .. } => {
                self.links.fail_forgotten(at);
                return Err(TableError::OutOfReach { server: at_server });
            }
            ClientReply::Refused { status, text } => {
                return Err(TableError::Refused { kind: status, text });
            }
            _ => return Err(TableError::Unexpected),
        };
        let line = self.links.line_at(at, &place).ok_or(TableError::Unexpected)?;
        if let Some(clock) = &mut self.tables[table].clock {
            if clock.lines.len() <= at {
                clock.lines.resize(at + 1, None);
            }
            clock.lines[at] = Some(line);
            self.clocks.gains_seen += 1;
        }
        Ok(place.clock)
    }

    /// Joins every table's clock where a link was made anew: its shard may know less of this worker.
    pub(in crate::core) fn rejoin_clocks(&mut self) {
        for table in self.tables.indices() {
            if self.tables[table].dropped || self.tables[table].clock.is_none() {
                continue;
            }
            for link in 0..self.links.all.len() {
                if self.links.all[link].is_open()
                    && self.tables.line(table, link).is_none()
                    && let Err(error) = self.rejoin(table, link)
                {
                    if let TableError::Interrupted = error {
                        return self.session.watching.ended_another();
                    }
                    tracing::debug!(error = chain(&error), "a clock is not joined");
                }
            }
        }
    }

    pub(super) fn rejoin(&mut self, table: TableIndex, link: usize) -> Result<(), TableError> {
        let known = self.join_at(table, link)?;
        if let Some(clock) = &mut self.tables[table].clock
            && self.session.options.rank.is_some()
            && known < self.clocks.own
        {
            clock.owes = true;
        }
        Ok(())
    }

    /// Tells shards that knew less of this worker where it is. What it pushed before has been sent.
    /// Returns whether all of them are told.
    pub(in crate::core) fn settle_clocks(&mut self) -> bool {
        let mut settled = true;
        for table in self.tables.indices() {
            let owes = self.tables[table].clock.as_ref().is_some_and(|clock| clock.owes);
            if !owes || self.tables[table].dropped {
                continue;
            }
            let told = !self.retries.holds_back(&self.tables, table)
                && (0..self.links.all.len()).all(|link| {
                    if self.tables.line(table, link).is_none() {
                        return true;
                    }
                    let header =
                        self.session.clock_header(&self.tables, &self.clocks, &self.cluster, table);
                    let (keys, values, reply) = (&[][..], Values::None, None);
                    let message =
                        Message { request: NOBODY, header, list: &[], keys, values, reply };
                    self.links.write_now(
                        &mut self.cluster,
                        &mut self.session,
                        &mut self.pending.memory,
                        link,
                        &message,
                    )
                });
            if let Some(clock) = &mut self.tables[table].clock {
                clock.owes = !told;
            }
            settled &= told;
        }
        settled
    }
}
