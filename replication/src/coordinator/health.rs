//! Who is dead: broken connections, silence, unanswered probes, and who has to go for the rest to hear
//! each other. Volatile: a new coordinator starts by believing everybody alive.

use std::collections::{BTreeMap, BTreeSet};

use windlass_wire::{Epoch, ServerId};

use super::{
    Cause, CoordinatorOptions, CoordinatorOutput, absence::Out, hearing::Hearing, verdict::Verdict,
};
use crate::membership::Membership;
use crate::time::Time;

#[derive(Clone, Debug, Default)]
pub(super) struct Health {
    servers: BTreeMap<ServerId, Pulse>,
    hearing: Hearing,
    /// The server in the process of this coordinator, which it hears whatever becomes of its network.
    local: Option<ServerId>,
    ticked_at: Option<Time>,
    /// Since when this coordinator has heard nobody, or badly most of those whom others hear well.
    deaf_since: Option<Time>,
    /// How often it wanted to resign since it last heard a server well.
    resigned: u32,
}

#[derive(Clone, Debug, Default)]
struct Pulse {
    /// When it was heard, or counts as heard.
    heard_at: Time,
    /// When it was heard indeed, by this coordinator.
    spoke_at: Option<Time>,
    suspected_at: Option<Time>,
    /// The newest map that it was sent because its own is old, and when.
    map_sent: Option<(Epoch, Time)>,
    disconnected_at: Option<Time>,
}

/// A server that must be failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Dead {
    pub(super) server: ServerId,
    pub(super) cause: Cause,
}

impl Dead {
    /// Its connection broke: its process is gone. Otherwise it was not heard, or not in time.
    pub(super) fn is_gone(&self) -> bool {
        self.cause == Cause::Gone
    }
}

/// What has to be done about servers in force.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Findings {
    pub(super) dead: Vec<Dead>,
    /// The first has to leave the chains that it shares with the second.
    pub(super) apart: Option<(ServerId, ServerId, Cause)>,
}

/// What one look at all servers gave.
#[derive(Debug, Default)]
struct Round {
    dead: Vec<Dead>,
    /// When any was heard last.
    newest: Time,
    /// Connections of some have broken so lately that they may come back.
    undecided: bool,
    first_gone: Option<Time>,
    /// Some that live have been silent for a while.
    in_doubt: bool,
    /// For how long the dead have been silent.
    silent_us: u64,
}

impl Round {
    /// Servers that die at one moment are failed in one map: each of them still holds everything. And of
    /// those that fall silent at one moment, one may be there after all.
    fn waits(&self, now: Time, options: &CoordinatorOptions) -> bool {
        let is_early = |first: Time| now.since(first) < 2 * options.disconnect_timeout_us;
        let is_patient = self.silent_us < options.heartbeat_timeout_us * 3 / 2
            && !self.dead.iter().any(|dead| dead.is_gone());
        self.undecided && self.first_gone.is_some_and(is_early)
            || self.in_doubt && is_patient && !self.dead.is_empty()
    }
}

/// A server that its peers hear may be silent for so many heartbeat timeouts: its chains go on, only the
/// next map has to reach it. Then it is failed, once those that stay are heard well.
const VOUCHED_TIMEOUTS: u64 = 4;

/// A leader that hears badly for this many heartbeat timeouts wants to resign.
const RESIGN_TIMEOUTS: u64 = 6;
/// It waits twice as long each next time, up to this many doublings.
const RESIGNED_MAX: u32 = 4;

impl Health {
    pub(super) fn all_heard(&self, now: Time, map: &Membership) -> Self {
        let pulse = Pulse { heard_at: now, ..Pulse::default() };
        let servers = map.servers.keys().map(|server| (*server, pulse.clone()));
        Self {
            servers: servers.collect(),
            local: self.local,
            resigned: self.resigned,
            ..Self::default()
        }
    }

    pub(super) fn lives_with(&mut self, server: ServerId) {
        self.local = Some(server);
    }

    pub(super) fn heard(&mut self, now: Time, server: ServerId, options: &CoordinatorOptions) {
        let pulse = self.servers.entry(server).or_default();
        pulse.heard_at = now;
        pulse.spoke_at = Some(now);
        pulse.suspected_at = None;
        pulse.disconnected_at = None;
        self.hearing.heard(now, server, options);
    }

    /// Whether a server whose map is old has to be sent the one of `epoch`. While it puts one in force it
    /// says so with every heartbeat, and needs no other.
    pub(super) fn wants_map(
        &mut self,
        now: Time,
        server: ServerId,
        epoch: Epoch,
        options: &CoordinatorOptions,
    ) -> bool {
        let pulse = self.servers.entry(server).or_default();
        let is_under_way = |(sent, at): &(Epoch, Time)| {
            *sent == epoch && now.since(*at) < options.heartbeat_timeout_us / 2
        };
        if pulse.map_sent.as_ref().is_some_and(is_under_way) {
            return false;
        }
        pulse.map_sent = Some((epoch, now));
        true
    }

    /// A new life: what was held against the old one no longer counts.
    pub(super) fn joined(&mut self, now: Time, server: ServerId) {
        let pulse = Pulse { heard_at: now, spoke_at: Some(now), ..Pulse::default() };
        self.servers.insert(server, pulse);
        self.hearing.forget(server);
    }

    pub(super) fn disconnected(&mut self, now: Time, server: ServerId) {
        self.hearing.disconnected(server);
        if let Some(pulse) = self.servers.get_mut(&server) {
            pulse.map_sent = None;
            pulse.disconnected_at.get_or_insert(now);
        }
    }

    pub(super) fn suspect(
        &mut self,
        now: Time,
        by: ServerId,
        server: ServerId,
        map: &Membership,
        outputs: &mut Vec<CoordinatorOutput>,
    ) {
        self.hearing.doubt(by, server);
        let pulse = self.servers.entry(server).or_default();
        if pulse.suspected_at.is_none() {
            pulse.suspected_at = Some(now);
            self.hearing.probe(now, server, outputs);
            // Whether they live has to be known before it can be failed.
            for peer in self.hearing.neighbours_of(server, map) {
                self.hearing.probe(now, peer, outputs);
            }
        }
    }

    /// Who is heard in time, by whom.
    pub(super) fn hearing(&mut self) -> &mut Hearing {
        &mut self.hearing
    }

    /// Whether a server was heard after a moment.
    pub(super) fn is_heard_since(&self, server: ServerId, since: Time) -> bool {
        let spoke_at = self.servers.get(&server).and_then(|pulse| pulse.spoke_at);
        spoke_at.is_some_and(|spoke_at| spoke_at > since)
    }

    /// Whether each server in force was heard less than `within_us` ago, by this coordinator.
    pub(super) fn hears_everybody(&self, now: Time, map: &Membership, within_us: u64) -> bool {
        map.servers.keys().filter(|id| map.is_in_force(**id)).all(|id| {
            let spoke_at = self.servers.get(id).and_then(|pulse| pulse.spoke_at);
            spoke_at.is_some_and(|at| now.since(at) < within_us)
        })
    }

    /// Whether this coordinator has for long heard nobody, or badly most of those whom others hear well.
    pub(super) fn wants_to_resign(&mut self, now: Time, options: &CoordinatorOptions) -> bool {
        let Some(since) = self.deaf_since else {
            if self.servers.values().any(|pulse| pulse.spoke_at.is_some()) {
                self.resigned = 0;
            }
            return false;
        };
        let long_us = (RESIGN_TIMEOUTS * options.heartbeat_timeout_us) << self.resigned;
        if now.since(since) < long_us {
            return false;
        }
        self.deaf_since = Some(now);
        self.resigned = (self.resigned + 1).min(RESIGNED_MAX);
        true
    }

    /// What is wrong with servers in force; `reached` when others than they are being heard.
    pub(super) fn look(
        &mut self,
        now: Time,
        map: &Membership,
        options: &CoordinatorOptions,
        reached: bool,
        out: &Out,
        outputs: &mut Vec<CoordinatorOutput>,
    ) -> Findings {
        let last = self.ticked_at.replace(now);
        if last.is_some_and(|last| now.since(last) > options.tick_gap_max_us) {
            self.begin_again(now);
            return Findings::default();
        }
        self.servers.retain(|server, _| map.servers.contains_key(server));
        self.hearing.note_neighbours(map);
        let excused = self.hearing.vouched_for(now, map, options);
        let round = self.round(now, map, options, &excused);
        // When nobody at all has been heard lately, it is this coordinator that is cut off. Half the
        // timeout, so that it sees this before the first server's silence is long enough.
        let everybody = map.servers.keys().filter(|id| map.is_in_force(**id)).count();
        let is_silent = now.since(round.newest) >= options.heartbeat_timeout_us / 2;
        let is_cut_off = everybody > 1 && is_silent && !reached;
        let is_deaf = is_cut_off || !excused.is_empty();
        self.deaf_since = is_deaf.then(|| self.deaf_since.unwrap_or(now));
        if is_cut_off || round.waits(now, options) {
            return Findings::default();
        }
        let mut findings = Findings { dead: round.dead, apart: None };
        if findings.dead.is_empty() && !round.undecided {
            match self.hearing.verdict(now, map, options, &excused, out, outputs) {
                Some((Verdict::Fail(server), view)) => {
                    findings.dead.push(Dead { server, cause: view.cause(None) });
                }
                Some((Verdict::Separate { server, from }, view)) => {
                    findings.apart = Some((server, from, view.cause(Some(from))));
                }
                None => {}
            }
        }
        findings
    }

    /// Looks at each server in force.
    fn round(
        &self,
        now: Time,
        map: &Membership,
        options: &CoordinatorOptions,
        excused: &BTreeSet<ServerId>,
    ) -> Round {
        let others =
            map.servers.keys().filter(|id| map.is_in_force(**id) && self.local != Some(**id));
        // Of two, one has to go on alone.
        let is_alone = others.count() < 2;
        let is_heard_well = |pulse: &Pulse| {
            let silent_us = now.since(pulse.heard_at);
            pulse.suspected_at.is_none() && silent_us < options.heartbeat_timeout_us / 4
        };
        let mut round = Round::default();
        for (&server, pulse) in self.servers.iter().filter(|(id, _)| map.is_in_force(**id)) {
            let silent_us = now.since(pulse.heard_at);
            let is_silent = silent_us >= options.heartbeat_timeout_us;
            let unanswered =
                pulse.suspected_at.is_some_and(|at| now.since(at) >= options.probe_timeout_us);
            // Whom its peers hear lacks nothing but this coordinator, for a while.
            let is_heard = || {
                self.hearing.is_vouched_for(now, server, options)
                    && (silent_us < VOUCHED_TIMEOUTS * options.heartbeat_timeout_us
                        || self.is_needed(server, map, is_heard_well)
                        || map.partitions.iter().any(|entry| entry.members == [server]))
            };
            let is_unheard = (is_silent || unanswered) && !excused.contains(&server) && !is_heard();
            let is_gone = pulse
                .disconnected_at
                .is_some_and(|at| now.since(at) >= options.disconnect_timeout_us);
            if is_alone || self.local != Some(server) {
                round.newest = round.newest.max(pulse.heard_at);
            }
            match pulse.disconnected_at {
                Some(at) if is_gone => {
                    round.first_gone = Some(round.first_gone.map_or(at, |first| first.min(at)));
                }
                other => round.undecided |= other.is_some(),
            }
            if is_unheard || is_gone {
                let cause = if is_gone { Cause::Gone } else { Cause::Silent(silent_us) };
                round.dead.push(Dead { server, cause });
                round.silent_us = round.silent_us.max(silent_us);
                // Those who stay may have died at the same moment.
                round.in_doubt |= pulse.suspected_at.is_some_and(|at| {
                    let answers = |other: &Pulse| other.spoke_at.is_some_and(|spoke| spoke > at);
                    self.is_needed(server, map, answers)
                });
            } else {
                round.in_doubt |= silent_us >= options.heartbeat_timeout_us / 4;
            }
        }
        round
    }

    /// Whether a partition has other members than this server, none of which is sure to live.
    fn is_needed(
        &self,
        server: ServerId,
        map: &Membership,
        is_sure: impl Fn(&Pulse) -> bool,
    ) -> bool {
        let is_in_doubt = |id: &ServerId| !self.servers.get(id).is_some_and(&is_sure);
        let mut its = map.partitions.iter().map(|entry| &entry.members);
        its.any(|members| {
            let others = || members.iter().filter(|id| **id != server);
            members.contains(&server) && others().next().is_some() && others().all(is_in_doubt)
        })
    }

    /// This coordinator stood still: silence until now says nothing.
    fn begin_again(&mut self, now: Time) {
        self.hearing.clear();
        self.deaf_since = None;
        for pulse in self.servers.values_mut() {
            pulse.heard_at = now;
            pulse.suspected_at = None;
            pulse.disconnected_at = pulse.disconnected_at.map(|_| now);
        }
    }
}

#[cfg(test)]
mod tests;
