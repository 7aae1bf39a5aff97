//! Reports to the coordinator how late this server hears its peers and the coordinator itself.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use windlass_wire::coordination::{LatePeer, Report};

use crate::shard::SharedLeases;

/// See the module.
#[derive(Debug)]
pub(super) struct Hearing {
    leases: Arc<SharedLeases>,
    /// The number of the newest ping that has come.
    ping: AtomicU64,
    /// Whether the coordinator knows less than there is to tell.
    has_news: AtomicBool,
}

impl Hearing {
    pub(super) fn new(leases: Arc<SharedLeases>) -> Self {
        Self { leases, ping: AtomicU64::new(0), has_news: AtomicBool::new(false) }
    }

    /// A ping has come that wants to be known.
    pub(super) fn pinged(&self, number: u64) {
        self.ping.store(number, Ordering::Release);
        self.tell_again();
    }

    /// What was told may be lost.
    pub(super) fn tell_again(&self) {
        self.has_news.store(true, Ordering::Release);
    }

    /// What goes before the next heartbeat. When nobody is late any more this is told once.
    pub(super) fn report(&self) -> Option<Report> {
        let late = self.leases.late_peers();
        let is_news = self.has_news.swap(!late.is_empty(), Ordering::AcqRel);
        if late.is_empty() && !is_news {
            return None;
        }
        let peer = |(server, late_us): (_, u64)| LatePeer {
            server,
            late_ms: u32::try_from(late_us / 1_000).unwrap_or(u32::MAX),
        };
        let late = late.into_iter().map(peer).collect();
        Some(Report::Hearing { ping: self.ping.load(Ordering::Acquire), late })
    }
}
