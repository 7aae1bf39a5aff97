//! The thread that writes the store and keeps the lead: what may block is done here.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use crossbeam::channel::{Receiver, RecvTimeoutError, Sender};
use windlass_replication::{ClusterMap, MapLimits};

use super::{
    event::Event,
    store::{Catalogue, Item, Kept, Store, StoreError, Written, version_of},
};
use crate::shard::{chain, fresh_number};

/// One write.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) item: Item,
    pub(super) expected: u64,
    pub(super) bytes: Vec<u8>,
}

/// A new cluster, should the store hold none.
#[derive(Clone, Debug)]
pub(super) struct Founding {
    pub(super) partitions: u32,
    pub(super) replicas: u8,
    /// Whether partitions move, if there is one copy of each.
    pub(super) movable: bool,
    /// How long it remembers idle sessions.
    pub(super) session_expiry_ms: u32,
    /// Tables that were there before the coordinator kept them.
    pub(super) catalogue: Catalogue,
}

/// The keeper's own state.
#[derive(Debug)]
pub(super) struct Keeper {
    pub(super) store: Box<dyn Store>,
    pub(super) founding: Founding,
    pub(super) jobs: Receiver<Job>,
    pub(super) events: Sender<Event>,
    pub(super) stopping: Arc<AtomicBool>,
}

const CAMPAIGN_PATIENCE: Duration = Duration::from_millis(500);
const RENEW_INTERVAL: Duration = Duration::from_millis(500);
const RETRY_DELAY_MIN: Duration = Duration::from_millis(20);
const RETRY_DELAY_MAX: Duration = Duration::from_millis(500);

impl Keeper {
    /// Campaigns and leads by turns, until told to stop.
    pub(super) fn run(mut self) {
        let mut delay = RETRY_DELAY_MIN;
        while !self.is_stopping() {
            match self.campaign() {
                Ok(None) => delay = RETRY_DELAY_MIN,
                Ok(Some(kept)) => {
                    delay = RETRY_DELAY_MIN;
                    self.tell(Event::StoreTrouble(None));
                    self.tell(Event::Elected(Box::new(kept)));
                    self.lead();
                    self.tell(Event::Deposed);
                }
                Err(error) => self.wait_out(&error, &mut delay),
            }
        }
        self.store.resign();
    }

    fn campaign(&mut self) -> Result<Option<Kept>, StoreError> {
        let Some(items) = self.store.campaign(CAMPAIGN_PATIENCE)? else { return Ok(None) };
        // What was to be written in an earlier term is void.
        while self.jobs.try_recv().is_ok() {}
        let mut items = items.into_iter();
        let map = match items.next().flatten() {
            Some(bytes) => ClusterMap::decode(&bytes, MapLimits::default()).map_err(damaged)?,
            None => {
                let mut map = ClusterMap::new(self.founding.partitions, self.founding.replicas);
                map.chained |= self.founding.movable;
                map.session_expiry_ms = self.founding.session_expiry_ms;
                map
            }
        };
        let catalogue = match items.next().flatten() {
            Some(bytes) => Catalogue::from_bytes(&bytes).map_err(damaged)?,
            None => {
                let mut first = self.founding.catalogue.clone();
                first.version = 1;
                first.cluster = fresh_number();
                first.next_table = first.next_table.max(1);
                if self.store.write(Item::Catalogue, 0, &first.to_bytes())? == Written::Deposed {
                    return Ok(None);
                }
                first
            }
        };
        Ok(Some(Kept { map, catalogue }))
    }

    /// Writes what is to be written, until another one leads.
    fn lead(&mut self) {
        loop {
            match self.jobs.recv_timeout(RENEW_INTERVAL) {
                Ok(job) => {
                    if !self.write(&job) {
                        return;
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            if self.is_stopping() {
                return;
            }
            match self.store.renew() {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => self.tell(Event::StoreTrouble(Some(chain(&error)))),
            }
        }
    }

    /// Writes one item, for as long as that takes; returns whether this coordinator leads still.
    fn write(&mut self, job: &Job) -> bool {
        let mut delay = RETRY_DELAY_MIN;
        while !self.is_stopping() {
            match self.store.write(job.item, job.expected, &job.bytes) {
                Ok(Written::Done) => {
                    let version = version_of(&job.bytes);
                    if delay > RETRY_DELAY_MIN {
                        self.tell(Event::StoreTrouble(None));
                    }
                    self.tell(Event::Stored { item: job.item, version });
                    return true;
                }
                Ok(Written::Deposed) => return false,
                Err(error) => self.wait_out(&error, &mut delay),
            }
        }
        false
    }

    fn wait_out(&self, error: &StoreError, delay: &mut Duration) {
        let text = chain(error);
        tracing::warn!(error = text, "the coordinator's store");
        self.tell(Event::StoreTrouble(Some(text)));
        std::thread::sleep(*delay);
        *delay = (*delay * 2).min(RETRY_DELAY_MAX);
    }

    fn tell(&self, event: Event) {
        // Nobody listens when the process ends.
        let _ = self.events.send(event);
    }

    fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }
}

fn damaged(error: impl std::error::Error) -> StoreError {
    StoreError::Damaged { what: format!("what the coordinator's store holds ({error})") }
}
