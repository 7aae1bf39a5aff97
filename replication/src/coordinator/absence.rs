//! Servers that were failed for what was not heard of them, or by them. Each gets copies again later than
//! the time before, so that a host that hears badly now and then does not move them to and fro; one that
//! has behaved for long begins anew. Volatile: a new coordinator knows nothing of it.

use std::collections::BTreeMap;

use windlass_wire::ServerId;

use super::CoordinatorOptions;
use crate::membership::ClusterMap;
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
    is_over: bool,
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
        absence.is_over = false;
    }

    /// How often a server was failed since it last behaved for long.
    pub(super) fn times(&self, server: ServerId) -> u32 {
        self.servers.get(&server).map_or(0, |absence| absence.times)
    }

    /// Whether a server gets no copies yet, even if it is back.
    pub(super) fn is_out(&self, server: ServerId) -> bool {
        self.servers.get(&server).is_some_and(|absence| !absence.is_over)
    }

    /// Ends what has lasted for long enough; returns whether there was any.
    pub(super) fn end(&mut self, now: Time) -> bool {
        let mut any = false;
        for absence in self.servers.values_mut().filter(|absence| now >= absence.until) {
            any |= !std::mem::replace(&mut absence.is_over, true);
        }
        any
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
        let (mut absences, mut now) = (Absences::default(), Time(1_000));
        let out_for = |absences: &mut Absences, now: Time| {
            absences.begin(now, ServerId(1), &options);
            assert!(absences.is_out(ServerId(1)) && !absences.is_out(ServerId(2)));
            let us = (0..1_000).take_while(|at| !absences.end(now.after(*at))).count();
            assert!(!absences.is_out(ServerId(1)) && !absences.end(now.after(1_000)));
            us
        };
        for expected in [10, 20, 35, 35] {
            assert_eq!(out_for(&mut absences, now), expected);
            now = now.after(50);
        }
        assert_eq!(out_for(&mut absences, now.after(200)), 10, "it has behaved for long");
    }
}
