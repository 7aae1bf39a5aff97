//! The event loop: the thread that steps the coordinator's state machines with time and inputs and carries out their
//! outputs. It blocks only on its events.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use crossbeam::channel::{Receiver, RecvTimeoutError, Sender};
use windlass_replication::{
    Change, Coordinator, CoordinatorInput, CoordinatorOutput, Time, Workers,
};
use windlass_wire::{
    ClusterMap, Epoch, PartitionId, ServerId,
    control::{ClientReply, RefusalKind},
    coordination::{Instruction, Kept as Held, Report},
};

use super::{
    CoordinatorConfig,
    ask::Waiting,
    convert::{late_micros, wire_map},
    desk::{Downward, Joining},
    event::Event,
    keeper::{Job, Task},
    lead::Lead,
    members::{Members, shared},
    operator::Operations,
    status,
    store::{Catalogue, Item, Kept},
    tables::Tables,
};
use crate::{
    complaints::Complaints,
    refusal::{Refusal, refused},
};

#[cfg(test)]
mod tests;

/// All that the stepping thread owns.
#[derive(Debug)]
pub(super) struct Machine {
    pub(super) config: CoordinatorConfig,
    pub(super) store_name: &'static str,
    pub(super) store_error: Option<String>,
    pub(super) coordinator: Coordinator,
    pub(super) map: Arc<ClusterMap>,
    pub(super) catalogue: Catalogue,
    /// Version of the catalogue that is safe.
    pub(super) catalogue_stored: u64,
    pub(super) members: Members,
    /// Joins that wait for the number they were given to be safe.
    pub(super) numbered: Vec<(u64, u64, Joining)>,
    pub(super) tables: Tables,
    pub(super) workers: Workers,
    pub(super) operations: Operations,
    pub(super) false_claims: Complaints,
    /// By server, as a life that is over may be told so again and again.
    fences: BTreeMap<ServerId, Complaints>,
    pub(super) waiting: Waiting,
    lead: Arc<Lead>,
    /// The term it leads in, or led last.
    term: u64,
    jobs: Sender<Job>,
    events: Receiver<Event>,
    outputs: Vec<CoordinatorOutput>,
    started: Instant,
    beaten: Instant,
    /// Somebody may be dead: look often.
    alert_until: Time,
}

/// Duration and interval of its checks while a server may be dead.
const ALERT: Duration = Duration::from_secs(1);
const ALERT_TICK: Duration = Duration::from_millis(4);

/// Longest silence towards a server. A server that hears nothing for longer looks for another coordinator.
const BEAT_INTERVAL: Duration = Duration::from_secs(1);

impl Machine {
    pub(super) fn new(
        config: CoordinatorConfig,
        store_name: &'static str,
        lead: Arc<Lead>,
        jobs: Sender<Job>,
        events: Receiver<Event>,
    ) -> Self {
        let coordinator = Coordinator::new(config.options());
        let timings = config.worker_timings();
        Self {
            config,
            store_name,
            store_error: None,
            coordinator,
            map: Arc::default(),
            catalogue: Catalogue::default(),
            catalogue_stored: 0,
            members: Members::default(),
            numbered: Vec::new(),
            tables: Tables::default(),
            workers: Workers::new(timings),
            operations: Operations::default(),
            false_claims: Complaints::default(),
            fences: BTreeMap::new(),
            waiting: Waiting::default(),
            lead,
            term: 0,
            jobs,
            events,
            outputs: Vec::new(),
            started: Instant::now(),
            beaten: Instant::now(),
            alert_until: Time(0),
        }
    }

    /// Runs until told to stop.
    pub(super) fn run(mut self) {
        let mut next_tick = Instant::now();
        loop {
            let wait = next_tick.saturating_duration_since(Instant::now());
            let event = self.events.recv_timeout(wait);
            if self.lead.lapse(Instant::now()) {
                tracing::error!(
                    store = self.store_name,
                    "the store has not answered for a lease's time: this coordinator stops leading"
                );
                self.deposed();
            }
            match event {
                Ok(Event::Stop) | Err(RecvTimeoutError::Disconnected) => return,
                Ok(event) => self.take(event),
                Err(RecvTimeoutError::Timeout) => {}
            }
            let is_alert = self.now() < self.alert_until;
            let tick = if is_alert { ALERT_TICK } else { self.config.tick() };
            next_tick = next_tick.min(Instant::now() + tick);
            if Instant::now() >= next_tick {
                self.tick();
                next_tick = Instant::now() + tick;
            }
        }
    }

    pub(super) fn now(&self) -> Time {
        Time(u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX))
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::Elected { term, kept } => self.elected(term, *kept),
            Event::Deposed => self.deposed(),
            Event::Stored { item: Item::Map, version } => {
                self.step(CoordinatorInput::Stored { epoch: Epoch(version) });
            }
            Event::Stored { item: Item::Catalogue, version } => {
                self.catalogue_stored = version;
                self.number_joins();
                self.tables_stored();
            }
            Event::StoreTrouble(error) => self.store_error = error,
            Event::Joining { connection, joining, is_local, downward } => {
                self.joining(connection, joining, is_local, downward);
            }
            Event::Report { connection, report } => self.report(connection, report),
            Event::Closed { connection } => self.closed(connection),
            Event::Ask { request, answer } => self.asked(request, answer),
            Event::Stop => {}
        }
    }

    fn tick(&mut self) {
        self.step(CoordinatorInput::Tick);
        if self.coordinator.leads() {
            self.retire_workers();
        }
        if self.beaten.elapsed() >= BEAT_INTERVAL {
            self.beaten = Instant::now();
            self.members.beat();
        }
        self.give_up_waiting();
    }

    fn elected(&mut self, term: u64, kept: Kept) {
        self.term = term;
        tracing::info!(store = self.store_name, epoch = kept.map.epoch.0, "this coordinator leads");
        self.store_error = None;
        self.catalogue_stored = kept.catalogue.version;
        self.catalogue = kept.catalogue;
        self.restore_workers();
        self.map = Arc::new(wire_map(&kept.map));
        self.step(CoordinatorInput::Elected { map: kept.map });
        self.settle_waiting();
    }

    fn deposed(&mut self) {
        if self.coordinator.leads() {
            tracing::warn!("this coordinator no longer leads");
        }
        self.step(CoordinatorInput::Deposed);
        self.members.clear();
        self.numbered.clear();
        self.operations.abandon();
        self.tables.abandon();
    }

    /// Gives an input to the machine and carries out what it wants.
    pub(super) fn step(&mut self, input: CoordinatorInput) {
        let now = self.now();
        let mut outputs = std::mem::take(&mut self.outputs);
        self.coordinator.step(now, input, &mut outputs);
        for output in outputs.drain(..) {
            self.output(output);
        }
        self.outputs = outputs;
    }

    fn output(&mut self, output: CoordinatorOutput) {
        match output {
            CoordinatorOutput::Store { expected } => {
                let Some(draft) = self.coordinator.draft() else { return };
                let mut bytes = Vec::new();
                draft.encode(&mut bytes);
                self.store(Item::Map, expected.0, bytes);
            }
            CoordinatorOutput::Publish { epoch } => self.publish(epoch),
            CoordinatorOutput::Fence { server, incarnation } => self.fence(server, incarnation),
            CoordinatorOutput::Probe { server, sent_at } => {
                self.be_alert();
                if let Some(connection) = self.members.connection_of(server) {
                    self.members.order(connection, &shared(sent_at.0, Instruction::Ping {}));
                }
            }
            CoordinatorOutput::SendMap { to } => {
                if let Some(connection) = self.members.connection_of(to) {
                    self.admit(connection);
                    self.introduce(connection);
                    self.send_map(connection);
                }
            }
            CoordinatorOutput::Refuse { change, error } => {
                if let Change::Join { server, incarnation, .. } = &change {
                    self.fence(*server, *incarnation);
                }
                self.operations.refuse(&change, &error);
            }
            CoordinatorOutput::Outdated { server, epoch } => self.outdated(server, epoch),
            CoordinatorOutput::Removes { server, cause } => {
                tracing::warn!(%server, %cause, "a server is removed");
            }
            CoordinatorOutput::Resign => {
                tracing::warn!("this coordinator hears its servers badly: another may lead");
                let _ = self.jobs.send(Job { term: self.term, task: Task::Resign });
            }
        }
    }

    /// The store holds an older map than a server acts by: it was restored from a backup, or is a copy.
    fn outdated(&mut self, server: ServerId, epoch: Epoch) {
        let held = self.map.epoch.0;
        let text = format!(
            "the store holds map {held}, and server {server} acts by map {}: the store is an old copy. \
             Restore the newest one and start the coordinator again",
            epoch.0
        );
        tracing::error!(text, "this coordinator stops leading");
        self.deposed();
        self.store_error = Some(text);
    }

    /// Has the keeper write an item.
    pub(super) fn store(&self, item: Item, expected: u64, bytes: Vec<u8>) {
        // The keeper ends after this thread.
        let _ =
            self.jobs.send(Job { term: self.term, task: Task::Write { item, expected, bytes } });
    }

    /// Has the keeper write the catalogue; returns its new version.
    pub(super) fn store_catalogue(&mut self) -> u64 {
        let expected = self.catalogue.version;
        self.catalogue.version += 1;
        self.store(Item::Catalogue, expected, self.catalogue.to_bytes());
        self.catalogue.version
    }

    fn publish(&mut self, epoch: Epoch) {
        let was_founded = self.is_founded();
        self.map = Arc::new(wire_map(self.coordinator.map()));
        tracing::info!(epoch = epoch.0, "a new map");
        if !was_founded && self.is_founded() {
            status::note_idle_shards(&self.map);
        }
        let order = shared(0, Instruction::InstallMap { map: self.map.as_ref().clone() });
        let connections: Vec<u64> = self.members.iter().map(|(at, _)| at).collect();
        for connection in connections {
            let Some(member) = self.members.get(connection) else { continue };
            let (server, is_joined) = (member.server, member.is_joined);
            if self.coordinator.map().admits(server, member.incarnation) {
                self.admit(connection);
                self.introduce(connection);
                self.members.order(connection, &order);
            } else if is_joined && !self.coordinator.map().servers.contains_key(&server) {
                self.members.tell(connection, Instruction::Leave {});
            }
        }
        self.operations.published(epoch);
        self.settle_waiting();
    }

    fn send_map(&mut self, connection: u64) {
        self.members.tell(connection, Instruction::InstallMap { map: self.map.as_ref().clone() });
    }

    /// Tells a server that it is in, with the tables and workers there are, unless it was told.
    fn admit(&mut self, connection: u64) {
        let Some(member) = self.members.get(connection) else { return };
        if member.is_joined {
            return;
        }
        let server = member.server;
        tracing::info!(%server, incarnation = member.incarnation.0, "a server has joined");
        let reply = self.joined(server);
        self.members.welcome(connection, reply);
        let tables = Instruction::SetTables {
            partitions: self.map.partition_count(),
            next_table: self.catalogue.next_table,
            tables: self.catalogue.tables.clone(),
        };
        self.members.tell(connection, tables);
        self.tables_joined(connection);
        let workers = self.worker_entries();
        self.members.tell(connection, Instruction::SetWorkers { workers });
    }

    fn joined(&self, server: ServerId) -> ClientReply {
        let heartbeat_ms = self.config.heartbeat_interval.as_millis();
        ClientReply::Joined {
            server,
            cluster: self.catalogue.cluster,
            heartbeat_ms: u32::try_from(heartbeat_ms).unwrap_or(u32::MAX),
        }
    }

    /// Tells a life of a server that it is over.
    fn fence(&mut self, server: ServerId, incarnation: windlass_wire::Incarnation) {
        let Some(connection) = self.members.connection_of(server) else { return };
        let Some(member) = self.members.get(connection) else { return };
        if member.incarnation != incarnation {
            return;
        }
        if let Some(count) = self.fences.entry(server).or_default().due(Instant::now()) {
            tracing::warn!(%server, incarnation = incarnation.0, count, "a server's life is fenced");
        }
        if !member.is_joined {
            let reply = self.joined(server);
            self.members.welcome(connection, reply);
        }
        let entry = self.coordinator.map().servers.get(&server);
        let known = entry.map_or(incarnation, |entry| entry.incarnation.max(incarnation));
        self.members.fence(connection, Instruction::Fence { incarnation, known });
    }

    fn joining(
        &mut self,
        connection: u64,
        joining: Joining,
        is_local: bool,
        downward: Sender<Downward>,
    ) {
        let allowed = self.may_join(&joining).and_then(|()| self.may_claim(&joining));
        if let Err(refusal) = allowed {
            Members::refuse(&downward, refused(refusal));
            return;
        }
        let server = joining.server.unwrap_or_else(|| {
            let map = self.coordinator.map();
            let unused = map.servers.keys().last().map_or(0, |last| last.0 + 1);
            let server = ServerId(self.catalogue.next_server.max(unused));
            self.catalogue.next_server = server.0 + 1;
            server
        });
        self.members.insert(connection, server, joining.incarnation, is_local, downward);
        if is_local {
            self.coordinator.lives_with(server);
        }
        if joining.server.is_none() {
            // The number must never be given to another, whatever becomes of this coordinator.
            self.enrol(server, &joining);
            let version = self.store_catalogue();
            self.numbered.push((version, connection, joining));
        } else {
            self.join(server, joining);
        }
    }

    fn join(&mut self, server: ServerId, joining: Joining) {
        let Joining { address, shard_count: shards, incarnation, kept, .. } = joining;
        // Of one copy, what a returning server has is all there is.
        let kept = if self.coordinator.map().replicas > 1 { kept } else { Held::Whole {} };
        self.step(CoordinatorInput::Join { server, incarnation, address, shards, kept });
    }

    fn number_joins(&mut self) {
        for (version, connection, joining) in std::mem::take(&mut self.numbered) {
            if version > self.catalogue_stored {
                self.numbered.push((version, connection, joining));
            } else if let Some(server) = self.members.get(connection).map(|member| member.server) {
                self.join(server, joining);
            }
        }
    }

    fn report(&mut self, connection: u64, report: Report) {
        let Some(member) = self.members.get_mut(connection) else { return };
        member.heard_at = Instant::now();
        let (server, incarnation) = (member.server, member.incarnation);
        let input = match report {
            Report::Heartbeat { map_epoch, workers } => {
                self.hear_workers(&workers);
                CoordinatorInput::Heartbeat { server, incarnation, map_epoch }
            }
            Report::Answer { number, refusal } => {
                self.table_answered(connection, number, refusal);
                return;
            }
            Report::Hearing { ping, late } => {
                let (probe, late) = (Time(ping), late_micros(&late));
                CoordinatorInput::Hearing { server, incarnation, probe, late }
            }
            Report::Suspect { server: suspect } => {
                CoordinatorInput::Suspect { by: server, incarnation, server: suspect }
            }
            Report::CaughtUp { partition, epoch } => {
                CoordinatorInput::CaughtUp { server, incarnation, partition, epoch }
            }
            Report::Synchronised { partition, epoch } => {
                CoordinatorInput::Synchronised { server, incarnation, partition, epoch }
            }
            Report::Rejected { partition, epoch, server: rejected } => CoordinatorInput::Rejected {
                by: server,
                incarnation,
                partition,
                epoch,
                server: rejected,
            },
            Report::CannotHold { partition, epoch } => {
                tracing::error!(%server, %partition, "a server cannot hold a partition: another one is to");
                CoordinatorInput::CannotHold { server, incarnation, partition, epoch }
            }
            Report::DiskFailed {} => {
                // The last replica goes on answering pulls.
                let map = self.coordinator.map();
                let others = |id: &PartitionId| {
                    let entry = map.partition(*id);
                    entry.is_some_and(|entry| entry.members != [server])
                };
                if map.admits(server, incarnation) && map.held_by(server).any(|id| others(&id)) {
                    tracing::error!(%server, "a server's disk refuses writes: its chains go on without it");
                    self.step(CoordinatorInput::Operator(Change::Fail { server }));
                }
                return;
            }
            Report::WantMap {} => {
                self.send_map(connection);
                return;
            }
            Report::Emptied { tables } => {
                self.note_emptied(server, &tables);
                return;
            }
        };
        self.step(input);
    }

    fn closed(&mut self, connection: u64) {
        let Some(member) = self.members.remove(connection) else { return };
        self.be_alert();
        self.numbered.retain(|(_, waiting, _)| *waiting != connection);
        self.tables_closed(connection);
        self.step(CoordinatorInput::Disconnected { server: member.server });
    }

    fn be_alert(&mut self) {
        self.alert_until = self.now().after(u64::try_from(ALERT.as_micros()).unwrap_or(0));
    }

    /// Whether chains have been created.
    pub(super) fn is_founded(&self) -> bool {
        self.map.is_founded()
    }
}

/// Refusal of a standby.
pub(super) fn not_leading() -> Refusal {
    let text = "this coordinator does not lead: ask another one, or wait until one is elected";
    Refusal::new(RefusalKind::NoCoordinator {}, text.to_owned())
}
