//! Who hears whom in time: servers each other, as they report, and servers this coordinator, as their
//! answers and heartbeats show. A host that hears or is heard badly shows as one server with trouble with
//! many, whoever tells it; so what counts is the pair, not who accuses. The server with the most trouble
//! is failed, one at a time, until the rest hear each other.

use std::collections::{BTreeMap, BTreeSet};

use windlass_wire::{Epoch, ServerId};

use super::{CoordinatorOptions, CoordinatorOutput, absence::Absences};
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
    heard_at: Option<Time>,
    beats: Lateness,
    probed_at: Option<Time>,
    is_answered: bool,
    answers: Lateness,
}

/// What speaks against one server, the weightiest first.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Evidence {
    /// Servers with which it has trouble.
    pairs: usize,
    /// All trouble it has, with the coordinator too.
    late_us: u64,
    /// Nothing is lost with one that holds nothing.
    holds_nothing: bool,
    /// Where two have trouble with each other only, the one that complains goes.
    complains_us: u64,
    /// One that was failed before goes again.
    absences: u32,
    /// Its worst pair: without one that cannot stay, nobody goes.
    worst_us: u64,
    server: ServerId,
}

impl Evidence {
    /// What shows that one server is ill rather than another.
    fn weight(&self) -> (usize, u64, bool) {
        (self.pairs, self.late_us, self.holds_nothing)
    }
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
        &mut self,
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
        self.note_neighbours(map);
        let is_heard = |ear: &Ear| {
            let heard_at = ear.heard_at.unwrap_or_default();
            now.since(heard_at) < options.heartbeat_timeout_us / 2
        };
        let vouches = |by: &ServerId, id: &ServerId| {
            self.servers.get(by).is_some_and(|ear| is_heard(ear) && !ear.late.contains_key(id))
        };
        let neighbours = &self.neighbours.1;
        let vouched: BTreeSet<ServerId> = { badly.into_iter() }
            .filter(|id| {
                neighbours.get(id).is_some_and(|peers| peers.iter().any(|by| vouches(by, id)))
            })
            .collect();
        if vouched.len() < 2 || 2 * vouched.len() < count { BTreeSet::new() } else { vouched }
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
        let mut pairs: BTreeMap<(ServerId, ServerId), u64> = BTreeMap::new();
        for (&by, ear) in self.servers.iter().filter(|(id, _)| map.is_in_force(**id)) {
            for (&other, &late_us) in ear.late.iter().filter(|(id, _)| map.is_in_force(**id)) {
                let pair = pairs.entry((by.min(other), by.max(other))).or_default();
                // One pair alone may have to be twice as late.
                *pair = late_us.min(2 * options.late_max_us).max(*pair);
            }
        }
        let mut evidence: BTreeMap<ServerId, Evidence> = BTreeMap::new();
        for ((a, b), late_us) in pairs {
            for server in [a, b] {
                let evidence = evidence
                    .entry(server)
                    .or_insert_with(|| self.evidence(now, server, map, options, excused, absences));
                evidence.pairs += 1;
                evidence.late_us += late_us;
                evidence.worst_us = evidence.worst_us.max(late_us);
            }
        }
        let mut sick: Vec<Evidence> =
            evidence.into_values().filter(|one| one.worst_us >= options.late_max_us).collect();
        sick.sort_unstable_by(|a, b| b.cmp(a));
        // Nobody goes in the place of one that must not.
        let weight = sick.first()?.weight();
        sick.retain(|one| one.weight() == weight);
        // Where nothing says which of several it is, perhaps something will.
        let enough = options.late_max_us * if sick.len() > 1 { 2 } else { 1 };
        let mut sick = sick.iter().filter(|one| one.late_us >= enough);
        sick.find(|one| self.may_go(now, one, map, options)).map(|one| one.server)
    }

    /// What speaks against a server besides its trouble with others.
    fn evidence(
        &self,
        now: Time,
        server: ServerId,
        map: &ClusterMap,
        options: &CoordinatorOptions,
        excused: &BTreeSet<ServerId>,
        absences: &Absences,
    ) -> Evidence {
        let ear = self.servers.get(&server);
        let late_us = ear.map_or(0, |ear| ear.late_us(now, options)).min(options.late_max_us);
        let counts = late_us >= options.late_min_us() && !excused.contains(&server);
        Evidence {
            pairs: 0,
            late_us: if counts { late_us } else { 0 },
            holds_nothing: !map.partitions.iter().any(|entry| entry.members.contains(&server)),
            complains_us: ear.map_or(0, |ear| ear.late.values().sum()),
            absences: absences.times(server),
            worst_us: 0,
            server,
        }
    }

    /// Whether every partition has another copy without it; and, where only one server has trouble with
    /// it, not one copy only, held by that one, which complains while the other answers the coordinator
    /// and has no complaint.
    fn may_go(
        &self,
        now: Time,
        evidence: &Evidence,
        map: &ClusterMap,
        options: &CoordinatorOptions,
    ) -> bool {
        let server = evidence.server;
        let complains = |by: ServerId, of: ServerId| {
            self.servers.get(&by).is_some_and(|ear| ear.late.contains_key(&of))
        };
        let ear = self.servers.get(&server);
        let is_reached = ear.is_none_or(|ear| ear.late_us(now, options) < options.late_min_us());
        let is_one_voice = |by| {
            evidence.pairs == 1 && is_reached && complains(by, server) && !complains(server, by)
        };
        map.partitions.iter().filter(|entry| entry.members.contains(&server)).all(|entry| {
            let mut others = entry.members.iter().copied().filter(|id| *id != server);
            match (others.next(), others.next()) {
                (None, _) => false,
                (Some(only), None) => !is_one_voice(only),
                _ => true,
            }
        })
    }

    fn note_neighbours(&mut self, map: &ClusterMap) {
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
