//! Half-failures of a network: loss, deafness, delay, of one host or one link, in one direction or both.
//! Connections deliver in order and send again what was lost, after ever longer times; corruption is
//! found by checksums, and so is loss.

use std::collections::BTreeMap;

use windlass_replication::{
    Change,
    coordinator::{CoordinatorInput, CoordinatorOptions},
};
use windlass_wire::ServerId;

use super::options::{Mode, Mutation};
use super::random::Random;
use super::schedule::{FaultKind, HEAL_US};
use super::server::Server;
use super::world::{COORDINATOR, Event, Node, World};

/// After which time something lost is sent again at first; each next time takes twice as long.
const RETRY_US: u64 = 10_000;
const RETRIES_MAX: u32 = 5;
/// What is sent while nothing comes back is this late at least: no more than a window is under way.
const WINDOW_US: u64 = 25_000;

/// Whose messages a host loses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Those with everybody.
    All,
    /// Those with other servers.
    Servers,
    /// Those with one server.
    One(usize),
    /// Those with the coordinator.
    Coordinator,
}

/// What becomes of messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// So many of a thousand are lost, and sent again.
    Loss(u64),
    /// None comes through until it is over.
    Deaf,
    /// Each takes so much longer.
    Delay(u64),
}

/// One half-failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gray {
    /// The host whose network it is; `None` is the coordinator's.
    pub host: Option<usize>,
    /// With whom.
    pub reach: Reach,
    /// Whether what it is sent is concerned.
    pub inbound: bool,
    /// Whether what it sends is concerned.
    pub outbound: bool,
    /// What happens.
    pub trouble: Trouble,
    /// For how long.
    pub us: u64,
    /// The host dies at the end, and its process starts again, with nothing, so much later.
    pub dies: Option<u64>,
}

/// Those in force, and what the rule that believed accusers has heard.
#[derive(Debug, Default)]
pub(super) struct Grays {
    active: Vec<(Gray, u64)>,
    /// When the last message of a control connection arrives: to and from the coordinator.
    control: Vec<[u64; 2]>,
    /// When no server may begin to fail, because the coordinator's network does.
    coordinator_until: u64,
    accused: BTreeMap<(ServerId, ServerId), (u64, u64)>,
}

impl Grays {
    pub(super) fn coordinator_until(&self) -> u64 {
        self.coordinator_until
    }
}

pub(super) fn any(random: &mut Random, servers: usize) -> FaultKind {
    let host = random.index(servers);
    let other = (host + 1 + random.index(servers - 1)) % servers;
    let reach = match random.below(10) {
        0..=4 => Reach::All,
        5..=6 => Reach::Servers,
        7..=8 => Reach::One(other),
        _ => Reach::Coordinator,
    };
    let trouble = match random.below(10) {
        0..=5 => Trouble::Loss(random.between(50, 600)),
        6..=8 => Trouble::Deaf,
        _ => Trouble::Delay(random.between(500, 20_000)),
    };
    let direction = random.below(4);
    let host = (!random.one_in(8)).then_some(host);
    FaultKind::Gray(Gray {
        host,
        reach: if host.is_some() { reach } else { Reach::All },
        inbound: direction != 1,
        outbound: direction == 1 || direction == 2,
        trouble,
        us: random.between(20_000, 250_000),
        dies: random.one_in(2).then(|| random.between(2_000, 100_000)),
    })
}

/// The coordinator hears nobody, and nobody hears it.
pub(super) fn deaf_coordinator(random: &mut Random) -> FaultKind {
    FaultKind::Gray(Gray {
        host: None,
        reach: Reach::All,
        inbound: true,
        outbound: true,
        trouble: Trouble::Deaf,
        us: random.between(40_000, 250_000),
        dies: None,
    })
}

impl Gray {
    /// The servers' hosts that do not hear, or are not heard.
    fn hosts(self) -> impl Iterator<Item = usize> {
        let other = match self.reach {
            Reach::One(other) => Some(other),
            _ => None,
        };
        self.host.into_iter().chain(other)
    }

    fn concerns(&self, from: Node, to: Node, servers: usize) -> bool {
        let host = self.host.unwrap_or(COORDINATOR);
        let reaches = |other: Node| match self.reach {
            Reach::All => true,
            Reach::Servers => other < servers,
            Reach::One(one) => other == one,
            Reach::Coordinator => other == COORDINATOR,
        };
        // Without acknowledgements nothing goes on for long in the other direction either.
        let is_deaf = self.trouble == Trouble::Deaf;
        to == host && reaches(from) && (self.inbound || is_deaf)
            || from == host && reaches(to) && (self.outbound || is_deaf)
    }
}

impl World {
    pub(super) fn begin_gray(&mut self, gray: Gray) {
        let us = gray.us.min(HEAL_US.saturating_sub(self.now));
        if gray.host.is_some() {
            // Of two sick ones nobody could tell who is.
            if !self.grays.active.is_empty() || !gray.hosts().all(|host| self.may_fail(host)) {
                return;
            }
            gray.hosts().for_each(|host| self.unfit(host, us));
        } else {
            let is_fit = |server: &Server| server.unfit_until <= self.now;
            if !self.grays.active.is_empty() || !self.servers.iter().all(is_fit) {
                return;
            }
            self.grays.coordinator_until = self.now + us + 60_000;
        }
        // Between two nobody can say which of them is ill, unless the coordinator sees it.
        let is_known = match gray.reach {
            Reach::All | Reach::Coordinator => true,
            Reach::Servers => self.in_force_count() > 2,
            Reach::One(_) => false,
        };
        let gray = Gray { dies: gray.dies.filter(|_| is_known && gray.host.is_some()), us, ..gray };
        if self.options.trace {
            eprintln!("{:>7} BEGUN {gray:?}", self.now);
        }
        self.grays.active.push((gray, self.now + us));
        self.schedule(us, Event::GrayOver { gray });
    }

    pub(super) fn end_gray(&mut self, gray: Gray) {
        let now = self.now;
        self.grays.active.retain(|(_, until)| *until > now);
        let Some(host) = gray.host else {
            // What was sent meanwhile and is sent again still holds up what comes after it.
            let last = self.grays.control.iter().flatten().copied().max().unwrap_or(0);
            self.grays.coordinator_until = self.grays.coordinator_until.max(last + 60_000);
            return;
        };
        // The same holds for what is under way to a server, and from it.
        for host in gray.hosts() {
            let last = self.last_arrival(host);
            self.unfit(host, last.saturating_sub(now));
        }
        // Nor if others fail beside it.
        let began = now - gray.us;
        let mut others = self.servers.iter().enumerate().filter(|(server, _)| *server != host);
        let is_only = others.all(|(_, server)| server.unfit_until <= began);
        if let Some(restart_us) = gray.dies.filter(|_| is_only) {
            self.crash(host, false, false, restart_us);
        }
    }

    /// When the last message arrives that is under way to a server, or from it.
    fn last_arrival(&mut self, server: Node) -> u64 {
        let mut last = self.grays.control.get(server).map_or(0, |ends| ends[0].max(ends[1]));
        for node in (0..self.nodes).filter(|node| *node != server) {
            last = last.max(self.link(server, node).last_delivery);
            last = last.max(self.link(node, server).last_delivery);
        }
        last
    }

    fn in_force_count(&self) -> usize {
        self.store.servers.keys().filter(|id| self.store.is_in_force(**id)).count()
    }

    /// By how much later a message arrives that is sent now.
    pub(super) fn stall(&mut self, from: Node, to: Node) -> u64 {
        let (now, servers) = (self.now, self.client_base());
        let mut stall = 0;
        for at in 0..self.grays.active.len() {
            let (gray, until) = self.grays.active[at];
            if !gray.concerns(from, to, servers) {
                continue;
            }
            let is_heard =
                if to == gray.host.unwrap_or(COORDINATOR) { gray.inbound } else { gray.outbound };
            match gray.trouble {
                Trouble::Deaf if is_heard => stall += until.saturating_sub(now) + RETRY_US,
                Trouble::Deaf => stall += until.saturating_sub(now).min(WINDOW_US),
                Trouble::Delay(us) => stall += us + self.random.below(us),
                Trouble::Loss(permille) => {
                    for retry in 0..RETRIES_MAX {
                        if self.random.below(1_000) >= permille {
                            break;
                        }
                        stall += RETRY_US << retry;
                    }
                }
            }
        }
        stall
    }

    /// When a message over a control connection arrives: in order, in gray weather.
    pub(super) fn control_arrival(&mut self, server: Node, is_up: bool, latency: u64) -> u64 {
        let now = self.now;
        if !matches!(self.options.mode, Mode::Gray | Mode::Workers) {
            return now + latency;
        }
        let ends = if is_up { (server, COORDINATOR) } else { (COORDINATOR, server) };
        self.grays.control.resize(self.nodes, [0; 2]);
        let last = self.grays.control[server][usize::from(is_up)];
        // What is sent while the connection stalls comes with what it waits for.
        let stall = if last > now + latency { 0 } else { self.stall(ends.0, ends.1) };
        let at = (last + 1).max(now + latency + stall);
        self.grays.control[server][usize::from(is_up)] = at;
        at
    }

    /// A new connection begins with nothing under way.
    pub(super) fn forget_control(&mut self, server: Node) {
        if let Some(control) = self.grays.control.get_mut(server) {
            *control = [0; 2];
        }
    }

    pub(super) fn believes_accusers(&self) -> bool {
        self.options.mutation == Some(Mutation::BelieveAccusers)
    }

    /// The rule that was: an accusation that lasts is believed, whoever makes it.
    pub(super) fn accuse(&mut self, by: ServerId, accused: ServerId) {
        let now = self.now;
        self.grays.accused.entry((accused, by)).or_insert((now, now)).1 = now;
    }

    /// See [`World::accuse`].
    pub(super) fn believe(&mut self, coordinator: usize) {
        let (now, long) = (self.now, self.coordinator_options().late_max_us);
        let store = &self.store;
        let in_force = |id: &ServerId| store.is_in_force(*id);
        self.grays.accused.retain(|(accused, by), (_, last)| {
            in_force(accused) && in_force(by) && now - *last < long
        });
        let lasts = |(first, _): &(u64, u64)| now - first >= long;
        let found = self.grays.accused.iter().find(|(_, times)| lasts(times));
        if let Some(&(server, _)) = found.map(|(key, _)| key) {
            self.grays.accused.retain(|(accused, _), _| *accused != server);
            let fail = Change::Fail { server };
            self.coordinate(coordinator, CoordinatorInput::Operator(fail));
        }
    }

    pub(super) fn coordinator_options(&self) -> CoordinatorOptions {
        super::coordinators::coordinator_options(self.servers.len())
    }
}
