//! Recovery after a lost server or a new map: learn the map, settle what was sent under the old one, connect,
//! and resend in order what was not acknowledged.
//!
//! Duplicate suppression keeps the highest sequence of a session and partition. So nothing new is
//! sent to a partition before everything older is answered, or its link is gone and it is sent
//! again first.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use windlass_wire::{ClusterMap, Epoch, RequestKind, map::ServerState};

use super::{
    Cluster, Core, Links,
    backoff::{Backoff, ask_after},
    clock::{rejoin_clocks, settle_clocks},
    connect::chain,
    message::{Message, Values},
    reach::reach_servers,
    retry_queue::{Kept, KeptValues},
    send::Written,
    trouble::Phase,
};

/// How long answers to what was sent under the old map are waited for, before links are cut.
const SETTLE_MAX: Duration = Duration::from_secs(5);

impl Core {
    /// One step out of trouble. Blocks only to ask others, for bounded times.
    pub(super) fn recover(&mut self) {
        self.settle_lost();
        // While a step runs there is no trouble: what it meets starts the next one.
        let Some(mut trouble) = self.recovery.trouble.take() else { return };
        if trouble.is_over() {
            self.recovery.trouble = Some(trouble);
            return;
        }
        let now = Instant::now();
        if let Phase::Learn = trouble.phase {
            self.retries.expire_kept(
                &mut self.pending,
                &mut self.links,
                &self.session,
                &self.tables,
            );
            if trouble.backoff.is_due(now) {
                let learned = self.session.learn_map(
                    &self.cluster,
                    &self.links,
                    trouble.attempts,
                    trouble.backoff.limit(),
                );
                trouble.attempts += 1;
                let random = self.recovery.random();
                trouble.backoff.fail(Instant::now(), random);
                if let Some(map) = learned {
                    self.recovery.settling = true;
                    trouble.phase = Phase::Settle { map, since: now, asked: 0 };
                }
            }
        }
        if let Phase::Settle { map, since, asked } = &mut trouble.phase {
            if now.duration_since(*since) >= ask_after(*asked) {
                *asked += 1;
                let learned = self.session.learn_map(
                    &self.cluster,
                    &self.links,
                    *asked as usize,
                    Backoff::new(now).limit(),
                );
                if let Some(newer) = learned.filter(|learned| learned.epoch > map.epoch) {
                    *map = newer;
                }
            }
            let is_settled = self.is_settled(map, *since);
            self.settle_lost();
            if is_settled {
                let map = std::mem::take(map);
                trouble.phase = Phase::Resend;
                self.install(map, now);
            }
        }
        let is_whole = matches!(trouble.phase, Phase::Resend) && self.resend() && {
            self.settle_lost();
            self.recovery.settling = false;
            trouble.phase = Phase::Learn;
            settle_clocks(self)
                && self.retries.queue.is_empty()
                && self.cluster.is_reached(&self.links)
        };
        self.settle_lost();
        let worse = self.recovery.trouble.take().is_some();
        if is_whole && !worse {
            trouble.over = Some(Instant::now());
            self.retries.settle_ages();
        } else if worse && !matches!(trouble.phase, Phase::Settle { .. }) {
            trouble.phase = Phase::Learn;
            self.recovery.settling = false;
        }
        self.recovery.trouble = Some(trouble);
    }

    /// Looks for a newer map: a server is silent, and others may know why.
    pub(super) fn suspect(&mut self, attempt: u32) {
        if self.session.options.retry_for.is_zero() {
            return;
        }
        let Some(map) = self.newer_map(attempt) else { return };
        self.recovery.start_trouble();
        if let Some(trouble) = &mut self.recovery.trouble {
            self.recovery.settling = true;
            trouble.phase = Phase::Settle { map, since: Instant::now(), asked: 0 };
        }
    }

    /// Suspects a server whose memory is read directly. This also serves clients that do not retry: once the
    /// server was replaced, what it left in memory is stale.
    pub(super) fn suspect_read(&mut self, at: usize, attempt: u32) {
        if !self.session.options.retry_for.is_zero() {
            self.suspect(attempt);
        } else if self.newer_map(attempt).is_some_and(|map| self.cluster.is_replaced(at, &map)) {
            self.cluster.servers[at].links().for_each(|link| self.links.lose(link));
        }
    }

    fn newer_map(&mut self, attempt: u32) -> Option<ClusterMap> {
        if self.recovery.in_trouble() {
            return None;
        }
        let limit = Backoff::new(Instant::now()).limit();
        self.session
            .learn_map(&self.cluster, &self.links, attempt as usize, limit)
            .filter(|map| map.epoch > self.cluster.map.epoch)
    }

    /// Whether everything in flight that the new map concerns is answered, or its link is gone.
    fn is_settled(&mut self, map: &ClusterMap, since: Instant) -> bool {
        let patience_is_over = since.elapsed() >= SETTLE_MAX;
        let changes = map.epoch != self.cluster.map.epoch;
        let mut settled = true;
        for at in 0..self.links.all.len() {
            let link = &self.links.all[at];
            if link.state.failed || link.in_flight.is_empty() {
                continue;
            }
            let concerned = changes || link.state.order.is_refused();
            if self.cluster.is_replaced(link.server_at, map) || (concerned && patience_is_over) {
                self.links.lose(at);
            } else {
                settled &= !concerned;
            }
        }
        settled
    }

    fn install(&mut self, map: ClusterMap, now: Instant) {
        let (before, epoch) = (self.cluster.map.epoch, map.epoch);
        self.cluster.map = map;
        let all = reach_servers(self, now);
        for link in &mut self.links.all {
            link.state.order.settled();
        }
        self.cluster.route_partitions(&self.session, &self.links, &mut self.scratch);
        for table in self.tables.iter_mut() {
            table.places.clear();
        }
        self.tables.look_again();
        rejoin_clocks(self);
        if epoch > before && before > Epoch(0) {
            tracing::info!(epoch = epoch.0, all, "the cluster map changed");
        }
    }

    /// Sends what was kept, in the order of its sequences; what has nowhere to go stays. False when
    /// a mailbox is full: the rest goes later, and nothing new before.
    fn resend(&mut self) -> bool {
        self.retries.give_up_old(&self.cluster, &mut self.pending, &mut self.links);
        let mut waiting = std::mem::take(&mut self.retries.queue);
        waiting.make_contiguous().sort_by_key(Kept::sequence);
        let mut left = VecDeque::new();
        let mut all = true;
        'messages: while let Some(kept) = waiting.pop_front() {
            let table = kept.header.table;
            let is_behind =
                |other: &Kept| other.header.kind.pushes() && other.header.table == table;
            if kept.header.kind == RequestKind::AdvanceClock && left.iter().any(is_behind) {
                left.push_back(kept);
                continue;
            }
            let mut pieces = self
                .retries
                .split(&self.cluster, &self.tables, &mut self.pending, &mut self.links, kept)
                .into_iter();
            while let Some((link, piece)) = pieces.next() {
                match self.write_kept(link, piece) {
                    Written::Done => {}
                    Written::Nowhere(piece) => left.push_back(piece),
                    Written::Full(piece) => {
                        for (_, piece) in pieces.rev() {
                            waiting.push_front(piece);
                        }
                        waiting.push_front(piece);
                        all = false;
                        break 'messages;
                    }
                }
            }
        }
        left.append(&mut waiting);
        // What failed meanwhile was kept anew.
        left.append(&mut self.retries.queue);
        self.retries.queue = left;
        all
    }

    /// Writes a kept message, which counts as a part already.
    fn write_again(&mut self, link: usize, kept: Kept) -> Written {
        if !self.links.all.get(link).is_some_and(super::link::Link::is_open) {
            return Written::Nowhere(kept);
        }
        if let Err(error) = self.links.make_link(&mut self.cluster, &mut self.session, link) {
            tracing::debug!(error = chain(&error), "a link is not made");
            return Written::Nowhere(kept);
        }
        let (values, inline) = match &kept.values {
            KeptValues::None => (Values::None, &[][..]),
            KeptValues::Inline(bytes) => (Values::Inline(bytes), bytes.as_slice()),
            KeptValues::At { region, offset, held } => {
                (Values::At { region: *region, offset: *offset, held: *held }, &[][..])
            }
        };
        let mut header = kept.header;
        header.epoch = self.cluster.map.epoch;
        let message = Message {
            request: kept.request,
            header,
            list: &kept.keys,
            keys: bytemuck::cast_slice(&kept.keys),
            values,
            reply: kept.reply,
        };
        let Ok(bytes) = self.links.seal(&mut self.pending.memory, link, &message, inline) else {
            return Written::Nowhere(kept);
        };
        if self.links.write(link, &bytes, &message, inline).is_err() {
            return Written::Full(kept);
        }
        self.retries.len = self.retries.len.saturating_sub(kept.len());
        self.pending.counters.resent += 1;
        self.links.push_out(link);
        Written::Done
    }

    /// Writes a kept message to a link. Clocks go to every link that is open: any may have become
    /// the head of rows.
    fn write_kept(&mut self, link: usize, kept: Kept) -> Written {
        if kept.header.kind != RequestKind::AdvanceClock {
            return self.write_again(link, kept);
        }
        let open: Vec<usize> =
            (0..self.links.all.len()).filter(|at| self.links.all[*at].is_open()).collect();
        let Some((last, others)) = open.split_last() else { return Written::Nowhere(kept) };
        for link in others {
            let copy = Kept {
                request: kept.request,
                header: kept.header,
                keys: Vec::new(),
                values: super::retry_queue::KeptValues::None,
                reply: None,
            };
            if let Written::Done = self.write_again(*link, copy)
                && let Some(request) = self.pending.requests.find_mut(kept.request)
            {
                request.parts_left += 1;
            }
        }
        self.write_again(*last, kept)
    }
}

impl Cluster {
    /// Whether a map has another life of a server than the one reached, or none.
    fn is_replaced(&self, at: usize, map: &ClusterMap) -> bool {
        let server = &self.servers[at];
        let entry = map.server(server.id).filter(|entry| entry.state != ServerState::Down);
        entry.is_none_or(|entry| {
            let before = self.map.server(server.id).map(|entry| entry.incarnation);
            entry.incarnation != server.incarnation && before != Some(entry.incarnation)
        })
    }

    /// Whether every server of the map is reached and every partition has a head.
    fn is_reached(&self, links: &Links) -> bool {
        let in_force = self.map.servers.iter().filter(|entry| entry.state != ServerState::Down);
        let mut servers = in_force.map(|entry| self.servers.iter().find(|s| s.id == entry.id));
        servers.all(|server| {
            server.is_some_and(|server| !server.links().any(|link| links.all[link].state.failed))
        }) && self.map.chains.iter().all(|chain| !chain.servers.is_empty())
    }
}
