//! Servers that were failed for what was not heard of them, or by them. Each comes back later than the
//! time before, so that a host that hears badly now and then does not move its copies to and fro; one
//! that has behaved for long begins anew. Volatile: a new coordinator knows nothing of it.

use std::collections::BTreeMap;

use windlass_wire::ServerId;

use super::CoordinatorOptions;
use crate::membership::{Change, ClusterMap};
use crate::time::Time;

#[derive(Clone, Debug, Default)]
pub(super) struct Absences {
    servers: BTreeMap<ServerId, Absence>,
}

#[derive(Clone, Debug, Default)]
struct Absence {
    /// How often it was failed since it last behaved for long.
    times: u32,
    until: Time,
    /// Its join, which waits until then.
    join: Option<Change>,
}

impl Absences {
    pub(super) fn clear(&mut self) {
        self.servers.clear();
    }

    /// A server is failed for what was not heard.
    pub(super) fn begin(&mut self, now: Time, server: ServerId, options: &CoordinatorOptions) {
        let absence = self.servers.entry(server).or_default();
        if now.since(absence.until) >= options.absence_forgotten_us {
            absence.times = 0;
        }
        let doubled = options.absence_min_us.saturating_mul(1 << absence.times.min(31));
        absence.times += 1;
        absence.until = now.after(doubled.min(options.absence_max_us));
        absence.join = None;
    }

    /// How often a server was failed since it last behaved for long.
    pub(super) fn times(&self, server: ServerId) -> u32 {
        self.servers.get(&server).map_or(0, |absence| absence.times)
    }

    /// Whether a server that is out has to wait; its join then waits here. One that partitions wait for
    /// never does.
    pub(super) fn hold(
        &mut self,
        now: Time,
        server: ServerId,
        map: &ClusterMap,
        join: &Change,
    ) -> bool {
        let absence = self.servers.get_mut(&server).filter(|absence| now < absence.until);
        let Some(absence) = absence.filter(|_| !map.is_in_force(server)) else { return false };
        let mut held = map.partitions.iter().filter(|entry| entry.members.contains(&server));
        let is_waited_for = held.any(|entry| map.is_waiting(entry));
        absence.join = (!is_waited_for).then(|| join.clone());
        !is_waited_for
    }

    /// The connection by which a server asked to join is gone.
    pub(super) fn disconnected(&mut self, server: ServerId) {
        if let Some(absence) = self.servers.get_mut(&server) {
            absence.join = None;
        }
    }

    /// The join of a server that has waited for long enough.
    pub(super) fn over(&mut self, now: Time) -> Option<Change> {
        let mut over = self.servers.values_mut().filter(|absence| now >= absence.until);
        over.find_map(|absence| absence.join.take())
    }

    pub(super) fn keep_known(&mut self, map: &ClusterMap) {
        self.servers.retain(|server, _| map.servers.contains_key(server));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_absence_is_longer_up_to_a_bound_until_the_server_has_behaved() {
        let options = CoordinatorOptions {
            absence_min_us: 10,
            absence_max_us: 35,
            absence_forgotten_us: 100,
            ..CoordinatorOptions::default()
        };
        let (mut absences, mut now, map) =
            (Absences::default(), Time(1_000), ClusterMap::new(1, 1));
        let join = Change::Undrain { server: ServerId(1) };
        let out_for = |absences: &mut Absences, now: Time| {
            absences.begin(now, ServerId(1), &options);
            let is_held = |at: &u64| absences.hold(now.after(*at), ServerId(1), &map, &join);
            (0..1_000).take_while(is_held).count()
        };
        for expected in [10, 20, 35, 35] {
            assert_eq!(out_for(&mut absences, now), expected);
            now = now.after(50);
        }
        assert_eq!(out_for(&mut absences, now.after(200)), 10, "it has behaved for long");
    }
}
