//! Who is dead: silence, unanswered probes, lasting accusations. Volatile: a new coordinator starts
//! by believing everybody alive.

use std::collections::BTreeMap;

use windlass_wire::ServerId;

use super::{CoordinatorOptions, CoordinatorOutput};
use crate::membership::ClusterMap;
use crate::time::Time;

#[derive(Clone, Debug, Default)]
pub(super) struct Health {
    servers: BTreeMap<ServerId, Pulse>,
    ticked_at: Option<Time>,
}

#[derive(Clone, Debug, Default)]
struct Pulse {
    /// When it was heard, or counts as heard.
    heard_at: Time,
    /// When it was heard indeed, by this coordinator.
    spoke_at: Option<Time>,
    probed_at: Option<Time>,
    disconnected_at: Option<Time>,
    /// Per accuser: when it began and when it last repeated it.
    accused: BTreeMap<ServerId, (Time, Time)>,
}

impl Health {
    pub(super) fn all_heard(now: Time, map: &ClusterMap) -> Self {
        let pulse = Pulse { heard_at: now, ..Pulse::default() };
        let servers = map.servers.keys().map(|server| (*server, pulse.clone()));
        Self { servers: servers.collect(), ticked_at: None }
    }

    pub(super) fn heard(&mut self, now: Time, server: ServerId) {
        let pulse = self.servers.entry(server).or_default();
        pulse.heard_at = now;
        pulse.spoke_at = Some(now);
        pulse.probed_at = None;
        pulse.disconnected_at = None;
    }

    /// A new life: what was held against the old one no longer counts.
    pub(super) fn joined(&mut self, now: Time, server: ServerId) {
        let pulse = Pulse { heard_at: now, spoke_at: Some(now), ..Pulse::default() };
        self.servers.insert(server, pulse);
    }

    pub(super) fn disconnected(&mut self, now: Time, server: ServerId) {
        if let Some(pulse) = self.servers.get_mut(&server) {
            pulse.disconnected_at.get_or_insert(now);
        }
    }

    pub(super) fn suspect(
        &mut self,
        now: Time,
        by: ServerId,
        server: ServerId,
        outputs: &mut Vec<CoordinatorOutput>,
    ) {
        let pulse = self.servers.entry(server).or_default();
        pulse.accused.entry(by).or_insert((now, now)).1 = now;
        if pulse.probed_at.is_none() {
            pulse.probed_at = Some(now);
            outputs.push(CoordinatorOutput::Probe { server });
        }
    }

    /// Whether a server was heard after a moment.
    pub(super) fn is_heard_since(&self, server: ServerId, since: Time) -> bool {
        let spoke_at = self.servers.get(&server).and_then(|pulse| pulse.spoke_at);
        spoke_at.is_some_and(|spoke_at| spoke_at > since)
    }

    /// Whether each server in force was heard less than `within_us` ago, by this coordinator.
    pub(super) fn hears_everybody(&self, now: Time, map: &ClusterMap, within_us: u64) -> bool {
        map.servers.keys().filter(|id| map.is_in_force(**id)).all(|id| {
            let spoke_at = self.servers.get(id).and_then(|pulse| pulse.spoke_at);
            spoke_at.is_some_and(|at| now.since(at) < within_us)
        })
    }

    /// Servers in force that must be failed now; `reached` when others than they are being heard.
    pub(super) fn dead(
        &mut self,
        now: Time,
        map: &ClusterMap,
        options: &CoordinatorOptions,
        reached: bool,
    ) -> Vec<ServerId> {
        let last = self.ticked_at.replace(now);
        if last.is_some_and(|last| now.since(last) > options.tick_gap_max_us) {
            for pulse in self.servers.values_mut() {
                pulse.heard_at = now;
                pulse.probed_at = None;
                pulse.disconnected_at = pulse.disconnected_at.map(|_| now);
                pulse.accused.clear();
            }
            return Vec::new();
        }
        self.servers.retain(|server, _| map.servers.contains_key(server));
        let in_force = |id: &ServerId| map.is_in_force(*id);
        let mut dead = Vec::new();
        let mut newest = Time(0);
        let (mut undecided, mut first_gone) = (false, None::<Time>);
        for (&id, pulse) in self.servers.iter_mut().filter(|(id, _)| in_force(id)) {
            pulse
                .accused
                .retain(|by, (_, last)| in_force(by) && now.since(*last) < options.accuse_gap_us);
            let is_silent = now.since(pulse.heard_at) >= options.heartbeat_timeout_us;
            let unanswered =
                pulse.probed_at.is_some_and(|at| now.since(at) >= options.probe_timeout_us);
            let gone = pulse
                .disconnected_at
                .is_some_and(|at| now.since(at) >= options.disconnect_timeout_us);
            let accused = pulse
                .accused
                .values()
                .any(|(first, _)| now.since(*first) >= options.accuse_timeout_us);
            newest = newest.max(pulse.heard_at);
            match pulse.disconnected_at {
                Some(at) if gone => first_gone = Some(first_gone.map_or(at, |first| first.min(at))),
                other => undecided |= other.is_some(),
            }
            if is_silent || unanswered || gone || (accused && dead.is_empty()) {
                dead.push(id);
            }
        }
        // When nobody at all has been heard lately, it is this coordinator that is cut off. Half the
        // timeout, so that it sees this before the first server's silence is long enough.
        let everybody = map.servers.keys().filter(|id| in_force(id)).count();
        let is_cut_off = now.since(newest) >= options.heartbeat_timeout_us / 2;
        if everybody > 1 && is_cut_off && !reached {
            return Vec::new();
        }
        // Servers that die at one moment are failed in one map: each of them still holds everything.
        let waits = |first: Time| now.since(first) < 2 * options.disconnect_timeout_us;
        if undecided && first_gone.is_some_and(waits) {
            return Vec::new();
        }
        dead
    }
}
