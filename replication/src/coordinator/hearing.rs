//! Who hears whom in time: servers each other, as they report, and servers this coordinator, as their
//! answers and heartbeats show. `verdict` says who has to go.

use std::collections::{BTreeMap, BTreeSet};

use windlass_wire::{Epoch, ServerId};

use super::{CoordinatorOptions, CoordinatorOutput, absence::Absences, verdict::View};
use crate::lateness::Lateness;
use crate::membership::ClusterMap;
use crate::time::Time;

#[derive(Clone, Debug, Default)]
pub(super) struct Hearing {
    servers: BTreeMap<ServerId, Ear>,
    /// Who shares chains with whom by the map of an epoch.
    neighbours: (Epoch, BTreeMap<ServerId, BTreeSet<ServerId>>),
}

/// What is known of one server.
#[derive(Clone, Debug, Default)]
struct Ear {
    /// Peers it hears late, and by how much, as it last reported.
    late: BTreeMap<ServerId, u64>,
    /// Whom it suspects since then.
    doubts: BTreeSet<ServerId>,
    heard_at: Option<Time>,
    beats: Lateness,
    probed_at: Option<Time>,
    is_answered: bool,
    answers: Lateness,
}

impl Hearing {
    /// A server begins a life, or this coordinator stood still: what was heard before does not count.
    pub(super) fn forget(&mut self, server: ServerId) {
        self.servers.remove(&server);
        for ear in self.servers.values_mut() {
            ear.late.remove(&server);
        }
    }

    pub(super) fn clear(&mut self) {
        self.servers.clear();
    }

    /// A server was heard.
    pub(super) fn heard(&mut self, now: Time, server: ServerId, options: &CoordinatorOptions) {
        let ear = self.servers.entry(server).or_default();
        let before = ear.heard_at.replace(now).unwrap_or(now);
        ear.beats.add(now, now.since(before), options.beats());
    }

    /// A server says whom it hears late, and which probe it has got.
    pub(super) fn reported(
        &mut self,
        now: Time,
        server: ServerId,
        probe: Time,
        late: &[(ServerId, u64)],
        options: &CoordinatorOptions,
    ) {
        let ear = self.servers.entry(server).or_default();
        ear.doubts.clear();
        ear.late = late.iter().copied().filter(|(_, us)| *us >= options.late_min_us()).collect();
        if !ear.is_answered && ear.probed_at == Some(probe) {
            ear.is_answered = true;
            ear.answers.add(now, now.since(probe), options.answers);
        }
    }

    /// Probes a server. One that has not answered is asked the same again.
    pub(super) fn probe(
        &mut self,
        now: Time,
        server: ServerId,
        outputs: &mut Vec<CoordinatorOutput>,
    ) {
        let ear = self.servers.entry(server).or_default();
        let waiting = ear.probed_at.filter(|_| !ear.is_answered);
        let sent_at = waiting.unwrap_or(now);
        (ear.probed_at, ear.is_answered) = (Some(sent_at), false);
        outputs.push(CoordinatorOutput::Probe { server, sent_at });
    }

    /// Its connection is gone, and with it what was sent by it.
    pub(super) fn disconnected(&mut self, server: ServerId) {
        if let Some(ear) = self.servers.get_mut(&server) {
            ear.probed_at = None;
        }
    }

    /// Probes those that have trouble with others.
    pub(super) fn probe_doubtful(
        &mut self,
        now: Time,
        map: &ClusterMap,
        options: &CoordinatorOptions,
        outputs: &mut Vec<CoordinatorOutput>,
    ) {
        self.servers.retain(|server, _| map.servers.contains_key(server));
        let ears = self.servers.iter().filter(|(_, ear)| !ear.late.is_empty());
        let doubtful: BTreeSet<ServerId> =
            ears.flat_map(|(&id, ear)| ear.late.keys().copied().chain([id])).collect();
        for server in doubtful.into_iter().filter(|id| map.is_in_force(*id)) {
            let ear =
                self.servers.get(&server).and_then(|ear| Some((ear.probed_at?, ear.is_answered)));
            let is_due =
                |(at, is_answered)| is_answered && now.since(at) >= options.probe_interval_us;
            if ear.is_none_or(is_due) {
                self.probe(now, server, outputs);
            }
        }
    }

    /// Servers that this coordinator hears badly and their peers hear well, if they are many: it is the
    /// one with a bad network, and says nothing about them.
    pub(super) fn vouched_for(
        &self,
        now: Time,
        map: &ClusterMap,
        options: &CoordinatorOptions,
    ) -> BTreeSet<ServerId> {
        let in_force = self.servers.iter().filter(|(id, _)| map.is_in_force(**id));
        let badly: Vec<ServerId> = { in_force }
            .filter(|(_, ear)| ear.late_us(now, options) >= options.late_min_us())
            .map(|(id, _)| *id)
            .collect();
        let count = map.servers.keys().filter(|id| map.is_in_force(**id)).count();
        if badly.len() < 2 || 2 * badly.len() < count {
            return BTreeSet::new();
        }
        let is_vouched_for = |id: &ServerId| self.is_vouched_for(now, *id, options);
        let vouched: BTreeSet<ServerId> = badly.into_iter().filter(is_vouched_for).collect();
        if vouched.len() < 2 || 2 * vouched.len() < count { BTreeSet::new() } else { vouched }
    }

    /// Whether a server that shares chains with it, and is heard, hears it in time.
    pub(super) fn is_vouched_for(
        &self,
        now: Time,
        server: ServerId,
        options: &CoordinatorOptions,
    ) -> bool {
        let is_recent = |at| now.since(at) < options.heartbeat_timeout_us / 2;
        let is_heard = |ear: &Ear| ear.heard_at.is_some_and(is_recent);
        let hears = |ear: &Ear| !ear.late.contains_key(&server) && !ear.doubts.contains(&server);
        let vouches = |by| self.servers.get(by).is_some_and(|ear| is_heard(ear) && hears(ear));
        self.neighbours.1.get(&server).is_some_and(|peers| peers.iter().any(vouches))
    }

    /// A server suspects another: until it says what it hears, it does not vouch for it.
    pub(super) fn doubt(&mut self, by: ServerId, server: ServerId) {
        self.servers.entry(by).or_default().doubts.insert(server);
    }

    /// The server that has to go for the rest to hear each other, if there is one; `excused` are those
    /// that the coordinator may hear badly.
    pub(super) fn sick(
        &self,
        now: Time,
        map: &ClusterMap,
        options: &CoordinatorOptions,
        excused: &BTreeSet<ServerId>,
        absences: &Absences,
    ) -> Option<ServerId> {
        let is_broken =
            |ear: &Ear| ear.late.values().any(|late_us| *late_us >= options.late_max_us);
        if !self.servers.values().any(is_broken) {
            return None;
        }
        let mut view = View::default();
        // Of one that this coordinator has never heard nobody knows whether it lives: its silence decides,
        // not what the only one that lives says of it.
        let is_heard =
            |id: &ServerId| self.servers.get(id).is_some_and(|ear| ear.heard_at.is_some());
        let counts = |id: &ServerId| map.is_in_force(*id) && is_heard(id);
        for (&by, ear) in self.servers.iter().filter(|(id, _)| counts(id)) {
            let late = ear.late.iter().filter(|(id, _)| counts(id));
            view.late.extend(late.map(|(&of, &late_us)| ((by, of), late_us)));
            view.absences.insert(by, absences.times(by));
            let late_us = ear.late_us(now, options);
            if late_us >= options.late_min_us() {
                view.unreached.insert(by);
                if !excused.contains(&by) {
                    view.late_here.insert(by, late_us.min(options.late_max_us));
                }
            }
        }
        let chains = map.partitions.iter().map(|entry| entry.members.clone());
        view.chains = chains.collect();
        view.who_goes(options.late_max_us)
    }

    /// Looks up who shares chains with whom.
    pub(super) fn note_neighbours(&mut self, map: &ClusterMap) {
        let (epoch, neighbours) = &mut self.neighbours;
        if *epoch == map.epoch {
            return;
        }
        *epoch = map.epoch;
        neighbours.clear();
        for entry in &map.partitions {
            for &member in &entry.members {
                let others = entry.members.iter().copied().filter(|id| *id != member);
                neighbours.entry(member).or_default().extend(others);
            }
        }
    }
}

impl Ear {
    /// How late the coordinator has heard it lately: heartbeats that come by themselves, and answers,
    /// which show whether it hears the coordinator.
    fn late_us(&self, now: Time, options: &CoordinatorOptions) -> u64 {
        let waited = |since: Option<Time>| since.map_or(0, |since| now.since(since));
        let probed_at = self.probed_at.filter(|_| !self.is_answered);
        let answers = self.answers.total(now, waited(probed_at), options.answers);
        answers.max(self.beats.total(now, waited(self.heard_at), options.beats()))
    }
}

#[cfg(test)]
mod tests;
