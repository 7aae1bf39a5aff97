//! The simulated network: ordered links that delay, break and are cut. What is under way on a link
//! that breaks is lost.

use super::message::Message;
use super::options::Mode;
use super::schedule::HEAL_US;
use super::server::Process;
use super::world::{COORDINATOR, Event, Link, Node, World};

impl World {
    pub(super) fn client_base(&self) -> usize {
        self.servers.len()
    }

    pub(super) fn link(&mut self, from: Node, to: Node) -> &mut Link {
        &mut self.links[from * self.nodes + to]
    }

    /// The life of the link between two machines.
    pub(super) fn generation(&self, a: Node, b: Node) -> u32 {
        let (low, high) = (a.min(b), a.max(b));
        self.links[low * self.nodes + high].generation
    }

    /// Whether `from` can read the memory of `server` now.
    pub(super) fn is_reachable(&self, from: Node, server: usize) -> bool {
        let (low, high) = (from.min(server), from.max(server));
        let cut = self.links[low * self.nodes + high].cuts > 0;
        !cut && match self.servers[server].process {
            Process::Running | Process::Paused => true,
            Process::Down { visible } => visible,
        }
    }

    pub(super) fn latency(&mut self) -> u64 {
        if self.random.one_in(60) {
            return self.random.between(500, 8_000);
        }
        self.random.between(4, 40)
    }

    pub(super) fn send(&mut self, from: Node, to: Node, message: Message) {
        let latency = self.latency();
        if to == COORDINATOR || from == COORDINATOR {
            let other = if to == COORDINATOR { from } else { to };
            // The control connection: its link is that of the server with itself.
            if self.link(other, other).cuts > 0 {
                return;
            }
            let generation = self.link(other, other).generation;
            let at = self.control_arrival(other, to == COORDINATOR, latency);
            self.schedule_at(at, Event::Deliver { from, to, generation, message });
            return;
        }
        if self.links[from.min(to) * self.nodes + from.max(to)].cuts > 0 {
            return;
        }
        let generation = self.generation(from, to);
        let now = self.now;
        // What is sent while a connection stalls comes with what it waits for.
        let stall = match self.link(from, to).last_delivery > now + latency {
            true => 0,
            false => self.stall(from, to),
        };
        let link = self.link(from, to);
        let at = (link.last_delivery + 1).max(now + latency + stall);
        link.last_delivery = at;
        self.schedule_at(at, Event::Deliver { from, to, generation, message });
    }

    pub(super) fn deliver(&mut self, from: Node, to: Node, generation: u32, message: Message) {
        if to == COORDINATOR {
            if let Some(at) = self.read_after_stall() {
                self.schedule_at(at, Event::Deliver { from, to, generation, message });
                return;
            }
            if self.link(from, from).generation == generation {
                self.coordinator_message(from, message);
            }
            return;
        }
        let current = if from == COORDINATOR {
            self.link(to, to).generation
        } else {
            self.generation(from, to)
        };
        if current != generation {
            return;
        }
        if to < self.client_base() {
            self.server_message(to, from, message);
        } else {
            self.client_message(to - self.client_base(), from, message);
        }
    }

    /// Breaks the link between two machines: what is under way is lost.
    pub(super) fn break_link(&mut self, a: Node, b: Node) {
        let (low, high) = (a.min(b), a.max(b));
        self.link(low, high).generation += 1;
        if a == b {
            self.forget_control(a);
        } else if self.options.mode == Mode::Gray {
            self.link(a, b).last_delivery = 0;
            self.link(b, a).last_delivery = 0;
        }
    }

    pub(super) fn reconnect_soon(&mut self, a: usize, b: usize) {
        let delay = self.random.between(50, 2_000);
        let generation = self.generation(a, b);
        for (a, b) in [(a, b), (b, a)] {
            self.schedule(delay, Event::Connected { a, b, generation });
        }
    }

    /// All links of a server are made anew: it is another life.
    pub(super) fn renew_links(&mut self, server: usize) {
        self.break_link(server, server);
        for node in (0..self.nodes).filter(|&node| node != server) {
            self.break_link(server, node);
            if node < self.client_base() {
                self.reconnect_soon(server, node);
            }
        }
    }

    pub(super) fn cut(&mut self, a: Node, b: Node, us: u64) {
        let (low, high) = (a.min(b), a.max(b));
        self.break_link(a, b);
        self.link(low, high).cuts += 1;
        let us = us.min(HEAL_US.saturating_sub(self.now));
        self.schedule(us, Event::Mend { a, b });
        if a != b && high < self.client_base() && self.random.one_in(2) {
            self.report_failed(a, b);
        }
    }

    pub(super) fn report_failed(&mut self, a: usize, b: usize) {
        let generation = self.generation(a, b);
        self.schedule(1_000, Event::LinkFailed { server: a, peer: b, generation });
        self.schedule(1_000, Event::LinkFailed { server: b, peer: a, generation });
    }

    pub(super) fn mend(&mut self, a: Node, b: Node) {
        let (low, high) = (a.min(b), a.max(b));
        self.link(low, high).cuts -= 1;
        self.break_link(a, b);
        if a != b && high < self.client_base() {
            self.reconnect_soon(a, b);
        }
    }
}
