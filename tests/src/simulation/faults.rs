//! What the schedule does to the world, within what the guarantees allow.

use std::collections::VecDeque;

use windlass_replication::coordinator::{Coordinator, CoordinatorInput};
use windlass_replication::{Change, Membership};
use windlass_wire::coordination::Kept;

use super::options::Mutation;
use super::schedule::FaultKind;
use super::server::{Process, place};
use super::world::{Event, World};

impl World {
    pub(super) fn fault(&mut self, kind: FaultKind) {
        if self.options.trace {
            eprintln!("{:>7} FAULT {kind:?}", self.now);
        }
        match kind {
            FaultKind::Crash { server, kept, visible, restart_us } => {
                if self.may_be_hit(server, kept) {
                    self.crash(server, kept, visible, restart_us);
                }
            }
            FaultKind::Pause { server, us } => {
                if self.may_fail(server) && self.servers[server].is_running() {
                    self.servers[server].process = Process::Paused;
                    self.unfit(server, us);
                    self.schedule(us, Event::Resume { server });
                }
            }
            FaultKind::Isolate { server, us, clients } => {
                if self.may_be_hit(server, true) {
                    self.unfit(server, us);
                    let until = if clients { self.nodes } else { self.client_base() };
                    for node in 0..until {
                        self.cut(server, node, us);
                    }
                }
            }
            FaultKind::LoseControl { server, us } => {
                if self.may_be_hit(server, true) {
                    self.unfit(server, us);
                    self.cut(server, server, us);
                }
            }
            FaultKind::Cut { a, b, us } => {
                if self.may_fail(a) && self.may_fail(b) {
                    self.unfit(a, us);
                    self.unfit(b, us);
                    self.cut(a, b, us);
                }
            }
            FaultKind::Reconnect { a, b } => {
                self.break_link(a, b);
                self.reconnect_soon(a, b);
            }
            FaultKind::ClientReconnect { client, server } => {
                if client < self.clients.len() {
                    self.break_link(server, self.client_base() + client);
                }
            }
            FaultKind::Takeover { both, us } => {
                let Some(old) = self.leader else { return };
                self.hand_over(old, both, us);
            }
            FaultKind::Apart { server, restart_us, us } => {
                self.part_chains(server, restart_us, us);
            }
            FaultKind::Replace { server, restart_us, others_us } => {
                self.replace(server, restart_us, others_us);
            }
            FaultKind::Freeze { server, us, deaf_us } => self.freeze(server, us, deaf_us),
            FaultKind::StallCoordinator { us } => self.stall_coordinator(us),
            FaultKind::CutStore { us } => self.cut_store(us),
            FaultKind::Gray(gray) => self.begin_gray(gray),
            FaultKind::Drain { server } => {
                self.operate(Change::Drain { server: self.servers[server].id });
            }
            FaultKind::Undrain { server } => {
                self.operate(Change::Undrain { server: self.servers[server].id });
            }
            FaultKind::PowerLoss { restart_us } => {
                let fit = self.servers.iter().all(|server| server.is_running() && server.joined);
                if (self.sync || self.is_mixed()) && fit {
                    self.power_lost_at = Some(self.now);
                    for server in 0..self.servers.len() {
                        self.crash(server, true, false, restart_us + server as u64 * 300);
                    }
                }
            }
        }
    }

    fn operate(&mut self, change: Change) {
        if let Some(leader) = self.leader {
            self.coordinate(leader, CoordinatorInput::Operator(change));
        }
    }

    pub(super) fn crash(&mut self, server: usize, kept: bool, visible: bool, restart_us: u64) {
        if matches!(self.servers[server].process, Process::Down { .. }) {
            return;
        }
        // What it came back with nothing, and was not taken in with, its disk does not hold either.
        let has_disk =
            self.servers[server].joined || self.servers[server].kept != (Kept::Nothing {});
        let kept = kept && (has_disk || !self.is_mixed());
        self.servers[server].process = Process::Down { visible };
        self.unfit(server, restart_us);
        self.note_end(server, kept);
        self.break_link(server, server);
        for node in (0..self.nodes).filter(|&node| node != server) {
            if !(visible && node >= self.client_base()) {
                self.break_link(server, node);
            }
            if node < self.client_base() && !self.random.one_in(4) {
                self.report_failed(server, node);
            }
        }
        self.schedule(restart_us, Event::Restart { server, kept });
    }

    pub(super) fn resume(&mut self, server: usize) {
        if self.servers[server].process != Process::Paused {
            return;
        }
        self.servers[server].process = Process::Running;
        self.servers[server].frozen_at = None;
        let inbox: VecDeque<Event> = std::mem::take(&mut self.servers[server].inbox);
        for event in inbox {
            self.schedule(1, event);
        }
    }

    /// A machine stands still, and its clock with it; for a while more it hears nobody but clients.
    fn freeze(&mut self, server: usize, us: u64, deaf_us: u64) {
        if !self.may_fail(server) || !self.servers[server].is_running() {
            return;
        }
        self.servers[server].process = Process::Paused;
        self.servers[server].frozen_at = Some(self.now);
        self.unfit(server, us + deaf_us);
        for node in 0..self.client_base() {
            self.cut(server, node, us + deaf_us);
        }
        self.schedule(us, Event::Thaw { server, us });
    }

    /// A machine goes on, and its clock from where it stood.
    pub(super) fn thaw(&mut self, server: usize, us: u64) {
        // Another fault may have ended that standstill, and begun another.
        if self.servers[server].frozen_at != self.now.checked_sub(us) {
            return;
        }
        self.servers[server].clock_behind_us += us;
        let now = self.local(server);
        if self.options.mutation != Some(Mutation::TrustFrozenClock) {
            self.servers[server].leases.forget_held(now);
        }
        self.resume(server);
    }

    pub(super) fn unfit(&mut self, server: usize, us: u64) {
        let until = self.now + us + 60_000;
        self.servers[server].unfit_until = self.servers[server].unfit_until.max(until);
    }

    /// Whether the guarantees allow `server` to fail now: every partition it is a member of, in the
    /// stored map and in any draft, has another full member that is well.
    pub(super) fn may_fail(&self, server: usize) -> bool {
        let id = self.servers[server].id;
        let drafts = self.coordinators.iter().filter_map(Coordinator::draft);
        let mut maps = drafts.chain([&self.store]);
        let well = |map: &Membership, other: usize| {
            let other = &self.servers[other];
            other.is_running()
                && other.unfit_until <= self.now
                && other.joined
                && map.admits(other.id, other.life)
        };
        // A coordinator that hears badly may take some for dead that are not.
        let is_judged_well = self.now >= self.grays.coordinator_until();
        is_judged_well
            && maps.all(|map| {
                map.partitions.iter().filter(|entry| entry.members.contains(&id)).all(|entry| {
                    let mut others = entry.members.iter().filter(|&&other| other != id);
                    others.any(|&other| well(map, place(other)))
                })
            })
    }
}
