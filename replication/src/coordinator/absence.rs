//! Back-off for servers that were failed because they were not heard or did not hear, and for separated pairs. Each
//! waits longer than the last time before it gets copies, or common chains, again. So a host that hears badly now and
//! then does not move copies to and fro. What was the matter has to be over for the shortest absence before it ends.
//! Long good behaviour resets the back-off. Volatile: a new coordinator knows nothing of it.

use std::collections::BTreeMap;

use windlass_wire::ServerId;

use super::CoordinatorOptions;
use crate::membership::Membership;
use crate::time::Time;

#[derive(Clone, Debug)]
pub(super) struct Absences<Who> {
    by_who: BTreeMap<Who, Absence>,
}

impl<Who> Default for Absences<Who> {
    fn default() -> Self {
        Self { by_who: BTreeMap::new() }
    }
}

#[derive(Clone, Debug, Default)]
struct Absence {
    /// Times it was failed since its last long period of good behaviour.
    times: u32,
    began_at: Time,
    until: Time,
    is_over: bool,
}

impl<Who: Copy + Ord> Absences<Who> {
    pub(super) fn clear(&mut self) {
        self.by_who.clear();
    }

    /// One is failed for what was not heard.
    pub(super) fn begin(&mut self, now: Time, who: Who, options: &CoordinatorOptions) {
        let absence = self.by_who.entry(who).or_default();
        if now.since(absence.until) >= options.absence_forgotten_us {
            absence.times = 0;
        }
        // One that is still out has copies of nothing: nothing was moved for it in vain.
        if absence.is_over || absence.times == 0 {
            absence.times += 1;
        }
        let doubled = options.absence_min_us.saturating_mul(1 << (absence.times - 1).min(31));
        absence.began_at = now;
        absence.until = now.after(doubled.min(options.absence_max_us));
        absence.is_over = false;
    }

    /// Times one of them was failed since their last long period of good behaviour.
    pub(super) fn times(&self, who: Who) -> u32 {
        self.by_who.get(&who).map_or(0, |absence| absence.times)
    }

    pub(super) fn all_out(&self) -> impl Iterator<Item = Who> + '_ {
        self.by_who.iter().filter(|(_, absence)| !absence.is_over).map(|(who, _)| *who)
    }

    /// Whether one gets no copies yet, even if it is back.
    pub(super) fn is_out(&self, who: Who) -> bool {
        self.by_who.get(&who).is_some_and(|absence| !absence.is_over)
    }

    /// What is not over yet lasts on, for at most so long since it began.
    pub(super) fn extend(
        &mut self,
        now: Time,
        goes_on: impl Fn(Who) -> bool,
        most_us: u64,
        options: &CoordinatorOptions,
    ) {
        let absent =
            self.by_who.iter_mut().filter(|(who, absence)| !absence.is_over && goes_on(**who));
        for (_, absence) in absent {
            let until = now.after(options.absence_min_us).min(absence.began_at.after(most_us));
            absence.until = absence.until.max(until);
        }
    }

    /// Ends what has lasted for long enough; returns whether there was any.
    pub(super) fn end(&mut self, now: Time) -> bool {
        let mut any = false;
        for absence in self.by_who.values_mut().filter(|absence| now >= absence.until) {
            any |= !std::mem::replace(&mut absence.is_over, true);
        }
        any
    }

    pub(super) fn retain(&mut self, is_known: impl Fn(&Who) -> bool) {
        self.by_who.retain(|who, _| is_known(who));
    }
}

/// Who gets no copies for a while.
#[derive(Clone, Debug, Default)]
pub(super) struct Out {
    pub(super) servers: Absences<ServerId>,
    /// Pairs that share no chain, the lesser number first.
    pub(super) pairs: Absences<(ServerId, ServerId)>,
}

impl Out {
    pub(super) fn clear(&mut self) {
        self.servers.clear();
        self.pairs.clear();
    }

    /// Whether a server may join a chain of these members.
    pub(super) fn may_join(&self, server: ServerId, members: &[ServerId]) -> bool {
        let is_apart = |id: &ServerId| self.pairs.is_out((server.min(*id), server.max(*id)));
        !self.servers.is_out(server) && !members.iter().any(is_apart)
    }

    /// Ends what has lasted for long enough; returns whether there was any.
    pub(super) fn end(&mut self, now: Time) -> bool {
        self.servers.end(now) | self.pairs.end(now)
    }

    pub(super) fn keep_known(&mut self, map: &Membership) {
        let is_known = |id: &ServerId| map.servers.contains_key(id);
        self.servers.retain(is_known);
        self.pairs.retain(|(a, b)| is_known(a) && is_known(b));
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
        let out_for = |absences: &mut Absences<ServerId>, now: Time| {
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

    #[test]
    fn one_that_is_failed_while_it_is_out_begins_the_same_absence_again() {
        let options = CoordinatorOptions { absence_min_us: 10, ..CoordinatorOptions::default() };
        let mut absences = Absences::default();
        for at in [1_000, 1_005, 1_012] {
            absences.begin(Time(at), ServerId(1), &options);
        }
        assert_eq!(absences.times(ServerId(1)), 1);
        assert!(!absences.end(Time(1_021)), "it was failed at 1,012");
        assert!(absences.end(Time(1_022)));
        absences.begin(Time(1_030), ServerId(1), &options);
        assert!(
            !absences.end(Time(1_049)) && absences.end(Time(1_050)),
            "after it got copies again"
        );
    }
}
