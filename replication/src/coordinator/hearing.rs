//! Who hears whom in time: servers each other, as they report, and servers this coordinator, as their
//! answers and heartbeats show. `verdict` says who has to go.

use std::collections::{BTreeMap, BTreeSet};

use windlass_wire::{Epoch, ServerId};

use super::{
    CoordinatorOptions, CoordinatorOutput,
    absence::Out,
    trouble::Trouble,
    verdict::{Verdict, View},
};
use crate::lateness::Lateness;
use crate::membership::{Membership, PartitionEntry};
use crate::time::Time;

#[derive(Clone, Debug, Default)]
pub(super) struct Hearing {
    servers: BTreeMap<ServerId, Ear>,
    /// Who hears whom by the map of an epoch.
    neighbours: (Epoch, BTreeMap<ServerId, BTreeSet<ServerId>>),
    /// What has to be done, if those that stay answer, and since when.
    verdict: Option<(Verdict, Time)>,
}

/// What is known of one server.
#[derive(Clone, Debug, Default)]
struct Ear {
    /// Peers it hears late, as it last reported.
    late: BTreeMap<ServerId, Trouble>,
    /// All that it last reported, in microseconds: what is little, or over, is no evidence by itself.
    reported: Vec<(ServerId, u64)>,
    /// Whom it suspects since then.
    doubts: BTreeSet<ServerId>,
    heard_at: Option<Time>,
    beats: Lateness,
    probed_at: Option<Time>,
    is_answered: bool,
    /// When the newest probe was sent that it has answered.
    answered: Option<Time>,
    answers: Lateness,
    /// How late it is for this coordinator.
    here: Option<Trouble>,
}

impl Hearing {
    /// A server begins a life, or this coordinator stood still: what was heard before does not count.
    pub(super) fn forget(&mut self, server: ServerId) {
        self.servers.remove(&server);
        for ear in self.servers.values_mut() {
            ear.late.remove(&server);
            ear.reported.retain(|(of, _)| *of != server);
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
        ear.reported = late.to_vec();
        let counted = late.iter().copied().filter(|(_, us)| *us >= options.late_min_us());
        let before = std::mem::take(&mut ear.late);
        // A report may have been on its way for long, and a new leader has sent no probe before.
        let is_own = ear.probed_at == Some(probe) || ear.answered == Some(probe);
        let after = if is_own { probe } else { Time(0) };
        ear.late = counted
            .map(|(peer, us)| {
                let known = before.get(&peer).map(|known| known.next(us, after, options));
                (peer, known.unwrap_or_else(|| Trouble::new(now, us, after)))
            })
            .collect();
        if !ear.is_answered && ear.probed_at == Some(probe) {
            ear.is_answered = true;
            ear.answered = Some(probe);
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
        map: &Membership,
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
        map: &Membership,
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

    /// Whether a server that listens to it, and is heard, hears it in time.
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

    /// What has to be done for the rest to hear each other, if anything. A server goes once others that
    /// have what it has have answered since that was clear: they may just have died.
    pub(super) fn verdict(
        &mut self,
        now: Time,
        map: &Membership,
        options: &CoordinatorOptions,
        excused: &BTreeSet<ServerId>,
        out: &Out,
        outputs: &mut Vec<CoordinatorOutput>,
    ) -> Option<(Verdict, View)> {
        let judged = self.judge(now, map, options, excused, out);
        let since = |verdict| match self.verdict {
            Some((before, since)) if before == verdict => since,
            _ => now,
        };
        self.verdict = judged.as_ref().map(|(verdict, _)| (*verdict, since(*verdict)));
        let (verdict, since) = self.verdict?;
        let (server, from) = match verdict {
            Verdict::Fail(server) => (server, None),
            Verdict::Separate { server, from } => (server, Some(from)),
        };
        let leaves = |entry: &&PartitionEntry| {
            let members = &entry.members;
            members.contains(&server) && from.is_none_or(|from| members.contains(&from))
        };
        let mut is_certain = true;
        for entry in map.partitions.iter().filter(leaves) {
            let others = || entry.members.iter().copied().filter(|id| *id != server);
            let answers = |id| {
                let answered = self.servers.get(&id).and_then(|ear| ear.answered);
                answered.is_some_and(|at| at >= since)
            };
            if others().any(answers) {
                continue;
            }
            is_certain = false;
            for other in others() {
                let ear = self.servers.entry(other).or_default();
                if ear.probed_at.is_none() || ear.is_answered {
                    self.probe(now, other, outputs);
                }
            }
        }
        judged.filter(|_| is_certain)
    }

    /// `excused` are those that the coordinator may hear badly.
    fn judge(
        &mut self,
        now: Time,
        map: &Membership,
        options: &CoordinatorOptions,
        excused: &BTreeSet<ServerId>,
        out: &Out,
    ) -> Option<(Verdict, View)> {
        for ear in self.servers.values_mut() {
            ear.note_lateness(now, options);
        }
        let is_broken =
            |late: &&Trouble| late.lasts(now, options) && late.late_us() >= options.late_max_us;
        let troubles = self.servers.values().flat_map(|ear| ear.late.values());
        // What was over before is another matter.
        let since = troubles.filter(is_broken).map(Trouble::began_at).min()?;
        let mut view = View::default();
        for entry in &map.partitions {
            view.chains.insert(entry.members.clone());
            let pairs = entry.involved().flat_map(|a| entry.involved().map(move |b| (a, b)));
            view.together.extend(pairs.filter(|(a, b)| a < b));
        }
        let is_apart = |pair: &(ServerId, ServerId)| !view.together.contains(pair);
        view.apart = out.pairs.all_out().filter(is_apart).collect();
        // Of one that this coordinator has never heard nobody knows whether it lives: its silence decides,
        // not what the only one that lives says of it.
        let is_heard =
            |id: &ServerId| self.servers.get(id).is_some_and(|ear| ear.heard_at.is_some());
        let counts = |id: &ServerId| map.is_in_force(*id) && is_heard(id);
        let is_late =
            |late: &Trouble| late.grew_since(since) && late.late_us() >= options.late_min_us();
        for (&by, ear) in self.servers.iter().filter(|(id, _)| counts(id)) {
            let is_known = |of: ServerId| view.apart.contains(&(by.min(of), by.max(of)));
            let late = ear.late.iter();
            let late = late.filter(|(id, late)| counts(id) && is_late(late) && !is_known(**id));
            for (&of, late) in late {
                view.late.insert((by, of), late.late_us());
                let began_at = view.began_at.entry((by.min(of), by.max(of)));
                let began_at = began_at.or_insert(late.began_at());
                *began_at = late.began_at().min(*began_at);
            }
            let is_slight = |of: &ServerId| counts(of) && !view.late.contains_key(&(by, *of));
            for &(of, us) in ear.reported.iter().filter(|(of, _)| is_slight(of)) {
                *view.slight.entry(by).or_default() += us;
                *view.slight.entry(of).or_default() += us;
            }
            view.absences.insert(by, out.servers.times(by));
            if let Some(here) = ear.here.filter(is_late) {
                view.unreached.insert(by);
                if !excused.contains(&by) {
                    view.late_here.insert(by, here.late_us().min(options.late_max_us));
                }
            }
        }
        Some((view.verdict(options.late_max_us)?, view))
    }

    /// Whether two have trouble with each other, and it goes on.
    pub(super) fn is_bad_link(
        &self,
        now: Time,
        (a, b): (ServerId, ServerId),
        options: &CoordinatorOptions,
    ) -> bool {
        let late = |by, of| self.servers.get(by).and_then(|ear: &Ear| ear.late.get(of));
        [late(&a, &b), late(&b, &a)].into_iter().flatten().any(|late| late.lasts(now, options))
    }

    /// Whether a server has trouble that goes on: with this coordinator, or with others that have no more of it.
    pub(super) fn is_ill(&self, now: Time, server: ServerId, options: &CoordinatorOptions) -> bool {
        let troubled = |id: ServerId| {
            let others = self.servers.keys().filter(move |other| **other != id);
            others.copied().filter(move |other| self.is_bad_link(now, (id, *other), options))
        };
        let here = self.servers.get(&server).and_then(|ear| ear.here);
        let count = troubled(server).count();
        here.is_some_and(|here| here.lasts(now, options))
            || troubled(server).any(|other| troubled(other).count() <= count)
    }

    /// Who hears a server by a map.
    pub(super) fn neighbours_of(
        &mut self,
        server: ServerId,
        map: &Membership,
    ) -> BTreeSet<ServerId> {
        self.note_neighbours(map);
        self.neighbours.1.get(&server).cloned().unwrap_or_default()
    }

    /// Looks up who hears whom.
    pub(super) fn note_neighbours(&mut self, map: &Membership) {
        let (epoch, neighbours) = &mut self.neighbours;
        if *epoch == map.epoch {
            return;
        }
        (*epoch, *neighbours) = (map.epoch, map.peers());
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

    fn note_lateness(&mut self, now: Time, options: &CoordinatorOptions) {
        let us = self.late_us(now, options);
        let here = self.here.map(|here| here.next(us, now, options));
        let here = here.unwrap_or_else(|| Trouble::new(now, us, now));
        self.here = Some(here).filter(|_| us >= options.late_min_us());
    }
}

#[cfg(test)]
mod tests;
