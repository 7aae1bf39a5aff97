//! Which server has to go for the rest to hear each other, by who hears whom and nothing else: a pure
//! rule. What counts is the pair, not who accuses: a host that hears or is heard badly shows as one
//! server with trouble with many, whoever tells it. The fewest servers go, one at a time.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use windlass_wire::ServerId;

use super::{Cause, options::late_min_us};
use crate::time::Time;

/// What is known of the servers in force, their times in microseconds.
#[derive(Clone, Debug, Default)]
pub(super) struct View {
    /// By how much the first hears the second late, as it says: not what a scheduler costs, too.
    pub(super) late: BTreeMap<(ServerId, ServerId), u64>,
    /// By how much each server hears others late, or others it, in troubles that are too little to count, or over.
    pub(super) slight: BTreeMap<ServerId, u64>,
    /// When the trouble of two with each other began, the lesser number first.
    pub(super) began_at: BTreeMap<(ServerId, ServerId), Time>,
    /// How late servers are for the coordinator, where it does not hear badly itself.
    pub(super) late_here: BTreeMap<ServerId, u64>,
    /// Servers that the coordinator does not hear in time, for whatever reason.
    pub(super) unreached: BTreeSet<ServerId>,
    /// Times each server was failed before.
    pub(super) absences: BTreeMap<ServerId, u32>,
    /// Of each two that share a chain, the lesser number first. Trouble between others harms nobody, and
    /// says who is ill.
    pub(super) together: BTreeSet<(ServerId, ServerId)>,
    /// Of each two that are separated because of the link between them, which says nothing about
    /// their trouble with others, the lesser number first.
    pub(super) apart: BTreeSet<(ServerId, ServerId)>,
    /// The servers that hold a whole copy of one partition.
    pub(super) chains: BTreeSet<Vec<ServerId>>,
}

/// What has to be done for the rest to hear each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// A server is ill.
    Fail(ServerId),
    /// Two have trouble with each other and with nobody else: the link is ill, and one leaves the chains that
    /// it shares with the other.
    Separate {
        /// Who leaves.
        server: ServerId,
        /// The other.
        from: ServerId,
    },
}

/// Sets of up to this many servers are compared. If more have to go, the one with the most trouble goes first.
const FEW: usize = 6;

/// The rest must hear each other so much better than it hears who is to go.
const CLEARLY: u64 = 4;

/// What speaks against one server, the weightiest first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Evidence {
    /// Servers with which it has trouble, and the coordinator.
    pairs: usize,
    /// Servers that it was separated from.
    apart: usize,
    /// Servers with which it has trouble since chains broke: what began before has another cause.
    pairs_since: usize,
    /// All trouble it has with them.
    late_us: u64,
    /// Nothing is lost with one that holds nothing.
    holds_nothing: bool,
    /// Where two have trouble with each other only, one that was failed before goes again.
    absences: u32,
    /// Otherwise the one with more trouble that is too little to count, or over.
    slight_us: u64,
    /// Otherwise the one that hears fewer of those with whom it shares chains well: what stays may be the only
    /// copy, which is safer at a host that others vouch for.
    well: Reverse<usize>,
    /// Otherwise the one that complains.
    complains_us: u64,
    server: ServerId,
}

impl Evidence {
    /// What shows that one server is ill rather than another.
    fn weight(&self) -> (usize, usize, usize, u64, bool) {
        (self.pairs, self.apart, self.pairs_since, self.late_us, self.holds_nothing)
    }
}

impl View {
    /// What the log says of it.
    pub(super) fn cause(self, from: Option<ServerId>) -> Cause {
        let peers = self.late.into_iter().map(|((by, of), late_us)| (by, of, late_us)).collect();
        Cause::Late { from, peers, here: self.late_here.into_iter().collect() }
    }

    /// What has to be done first, if anything has to.
    pub(super) fn verdict(&self, late_max_us: u64) -> Option<Verdict> {
        let pairs = self.pairs(2 * late_max_us);
        self.of_chains(&pairs, late_max_us).or_else(|| self.bad_link(&pairs, late_max_us))
    }

    /// What has to be done for those who share chains to hear each other.
    fn of_chains(
        &self,
        pairs: &BTreeMap<(ServerId, ServerId), u64>,
        late_max_us: u64,
    ) -> Option<Verdict> {
        let is_broken = |(pair, late_us): &(&(ServerId, ServerId), &u64)| {
            **late_us >= late_max_us && self.together.contains(pair)
        };
        let broken = pairs.iter().filter(is_broken);
        let broken: Vec<(ServerId, ServerId)> = broken.map(|(pair, _)| *pair).collect();
        let sets = smallest_sets(&broken);
        let of_any: BTreeSet<ServerId> = sets.iter().flatten().copied().collect();
        let began_at = |pair: &(ServerId, ServerId)| self.began_at.get(pair).copied();
        let broke_at = broken.iter().filter_map(began_at).min().unwrap_or_default();
        // Hosts notice one trouble at moments that differ.
        let since = Time(broke_at.0.saturating_sub(late_min_us(late_max_us)));
        let mut sick: Vec<Evidence> =
            of_any.into_iter().map(|server| self.evidence(server, pairs, since)).collect();
        sick.sort_unstable_by(|a, b| b.cmp(a));
        // Nobody goes in the place of one that must not.
        let weight = sick.first()?.weight();
        sick.retain(|one| one.weight() == weight);
        let link_of = |one: &Evidence| {
            let link = broken.iter().copied().find(|pair| touches(pair, one.server))?;
            self.is_alone(link, pairs).then_some(if link.0 == one.server { link.1 } else { link.0 })
        };
        let may_go = |one: &&Evidence| link_of(one).is_some() || self.may_go(one.server);
        let found = sick.iter().find(may_go)?;
        let goes = found.server;
        let set = sets.iter().find(|set| set.contains(&goes))?;
        let its = pairs.iter().filter(|(pair, _)| touches(pair, goes));
        let worst_us = its.map(|(_, late_us)| *late_us).max().unwrap_or(0);
        let is_known = sick.len() == 1 || sets.iter().all(|set| set.contains(&goes));
        let enough_us = match is_known && is_apart(set, &broken, pairs, worst_us) {
            true => late_max_us,
            // Nothing says which of two it is, or everybody is late, as on machines that are busy:
            // perhaps it is over soon, or something will say.
            false => 2 * late_max_us,
        };
        let verdict = match link_of(found) {
            Some(from) => Verdict::Separate { server: goes, from },
            None => Verdict::Fail(goes),
        };
        (worst_us >= enough_us).then_some(verdict)
    }

    /// Two that share no chain, and had better not.
    fn bad_link(
        &self,
        pairs: &BTreeMap<(ServerId, ServerId), u64>,
        late_max_us: u64,
    ) -> Option<Verdict> {
        let is_bad = |(pair, late_us): &(&(ServerId, ServerId), &u64)| {
            let is_late = **late_us >= 2 * late_max_us;
            is_late && !self.together.contains(pair) && self.is_alone(**pair, pairs)
        };
        let (&(server, from), _) = pairs.iter().find(is_bad)?;
        Some(Verdict::Separate { server, from })
    }

    /// Whether two have trouble with each other only.
    fn is_alone(
        &self,
        (a, b): (ServerId, ServerId),
        pairs: &BTreeMap<(ServerId, ServerId), u64>,
    ) -> bool {
        let has_one = |server| self.evidence(server, pairs, Time(0)).pairs == 1;
        has_one(a) && has_one(b)
    }

    /// How late the two of a pair hear each other, whoever says so; more than `most_us` says no more.
    fn pairs(&self, most_us: u64) -> BTreeMap<(ServerId, ServerId), u64> {
        let mut pairs = BTreeMap::new();
        for (&(by, of), &late_us) in &self.late {
            let pair = pairs.entry((by.min(of), by.max(of))).or_default();
            *pair = late_us.min(most_us).max(*pair);
        }
        pairs
    }

    fn evidence(
        &self,
        server: ServerId,
        pairs: &BTreeMap<(ServerId, ServerId), u64>,
        since: Time,
    ) -> Evidence {
        let its = || pairs.iter().filter(|(pair, _)| touches(pair, server));
        let is_new = |pair| self.began_at.get(pair).is_none_or(|began_at| *began_at >= since);
        let late_here = self.late_here.get(&server).copied();
        let is_well =
            |pair: &&(ServerId, ServerId)| touches(pair, server) && !pairs.contains_key(*pair);
        let complaints = self.late.iter().filter(|((by, _), _)| *by == server);
        Evidence {
            pairs: its().count() + usize::from(late_here.is_some()),
            apart: self.apart.iter().filter(|pair| touches(pair, server)).count(),
            pairs_since: its().filter(|(pair, _)| is_new(pair)).count(),
            late_us: its().map(|(_, late_us)| late_us).sum::<u64>() + late_here.unwrap_or(0),
            holds_nothing: !self.chains.iter().any(|chain| chain.contains(&server)),
            absences: self.absences.get(&server).copied().unwrap_or(0),
            slight_us: self.slight.get(&server).copied().unwrap_or(0),
            well: Reverse(self.together.iter().filter(is_well).count()),
            complains_us: complaints.map(|(_, late_us)| late_us).sum(),
            server,
        }
    }

    /// Whether every partition has another copy, and more speaks against the server than one other
    /// that complains of it.
    fn may_go(&self, server: ServerId) -> bool {
        let accusers = self.late.keys().filter(|(_, of)| *of == server).count();
        let complains = self.late.keys().any(|(by, _)| *by == server);
        let is_one_voice = accusers < 2 && !complains && !self.unreached.contains(&server);
        !is_one_voice && !self.chains.iter().any(|chain| chain[..] == [server])
    }
}

fn touches((a, b): &(ServerId, ServerId), server: ServerId) -> bool {
    *a == server || *b == server
}

/// Whether a set of servers is the lesser part of those with trouble, and the rest hear each other well.
fn is_apart(
    set: &BTreeSet<ServerId>,
    broken: &[(ServerId, ServerId)],
    pairs: &BTreeMap<(ServerId, ServerId), u64>,
    worst_us: u64,
) -> bool {
    let troubled: BTreeSet<ServerId> = broken.iter().flat_map(|(a, b)| [*a, *b]).collect();
    let rest = pairs.iter().filter(|((a, b), _)| !set.contains(a) && !set.contains(b));
    let rest_us = rest.map(|(_, late_us)| *late_us).max().unwrap_or(0);
    2 * set.len() <= troubled.len() && rest_us * CLEARLY <= worst_us
}

/// The sets of fewest servers that leave no broken pair; where they are large, the one of all that are
/// in a pair.
fn smallest_sets(broken: &[(ServerId, ServerId)]) -> Vec<BTreeSet<ServerId>> {
    let mut found = BTreeSet::new();
    let mut size = 0;
    while found.is_empty() && size <= FEW {
        add_sets(broken, size, &mut BTreeSet::new(), &mut found);
        size += 1;
    }
    if found.is_empty() {
        found.insert(broken.iter().flat_map(|(a, b)| [*a, *b]).collect());
    }
    found.into_iter().collect()
}

/// Adds those of at most so many servers more that contain `set`.
fn add_sets(
    broken: &[(ServerId, ServerId)],
    more: usize,
    set: &mut BTreeSet<ServerId>,
    found: &mut BTreeSet<BTreeSet<ServerId>>,
) {
    let open = broken.iter().find(|(a, b)| !set.contains(a) && !set.contains(b));
    let Some(&(a, b)) = open else {
        found.insert(set.clone());
        return;
    };
    if more > 0 {
        for server in [a, b] {
            set.insert(server);
            add_sets(broken, more - 1, set, found);
            set.remove(&server);
        }
    }
}

#[cfg(test)]
mod tests;
