//! The store writer: the thread that writes the store and renews the lead. Blocking calls happen only here.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use crossbeam::channel::{Receiver, RecvTimeoutError, Sender};
use windlass_replication::{MapLimits, Membership};

use super::{
    event::Event,
    lead::Lead,
    store::{Catalogue, Item, Kept, Store, StoreError, Written, version_of},
};
use crate::shard::chain;

/// What the stepping thread wants done.
#[derive(Debug)]
pub(super) struct Job {
    /// The term it was decided in; void in any other.
    pub(super) term: u64,
    pub(super) task: Task,
}

/// See [`Job`].
#[derive(Debug)]
pub(super) enum Task {
    /// An item is replaced.
    Write { item: Item, expected: u64, bytes: Vec<u8> },
    /// Another coordinator leads, if one waits to.
    Resign,
}

/// A new cluster, should the store hold none.
#[derive(Clone, Debug)]
pub(super) struct Founding {
    pub(super) partitions: u32,
    pub(super) replicas: u8,
    /// How long it remembers idle sessions.
    pub(super) session_expiry_ms: u32,
    /// Tables that were there before the coordinator kept them.
    pub(super) catalogue: Catalogue,
}

/// The keeper's own state.
#[derive(Debug)]
pub(super) struct Keeper {
    pub(super) lead: Arc<Lead>,
    /// Counts the times this coordinator was elected.
    pub(super) term: u64,
    pub(super) store: Box<dyn Store>,
    pub(super) founding: Founding,
    pub(super) jobs: Receiver<Job>,
    pub(super) events: Sender<Event>,
    pub(super) stopping: Arc<AtomicBool>,
}

const CAMPAIGN_PATIENCE: Duration = Duration::from_millis(500);
const RENEW_INTERVAL: Duration = Duration::from_millis(500);
/// How long one that has resigned leaves the lead to others.
const RESIGNED_FOR: Duration = Duration::from_secs(3);
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
                    self.term += 1;
                    self.tell(Event::StoreTrouble(None));
                    self.tell(Event::Elected { term: self.term, kept: Box::new(kept) });
                    let has_resigned = self.lead();
                    self.lead.end();
                    self.tell(Event::Deposed);
                    if has_resigned {
                        self.store.resign();
                        self.rest(RESIGNED_FOR);
                    }
                }
                Err(error) => self.wait_out(&error, &mut delay),
            }
        }
        self.store.resign();
    }

    fn campaign(&mut self) -> Result<Option<Kept>, StoreError> {
        let Some(items) = self.store.campaign(CAMPAIGN_PATIENCE)? else { return Ok(None) };
        // The lease was granted at some moment of the campaign; that of a renewal is known.
        let sent = Instant::now();
        if !self.store.renew()? || !self.lead.begin(sent, self.store.lease()) {
            return Ok(None);
        }
        let mut items = items.into_iter();
        let map = match items.next().flatten() {
            Some(bytes) => Membership::decode(&bytes, MapLimits::default()).map_err(damaged)?,
            None => {
                let mut map = Membership::new(self.founding.partitions, self.founding.replicas);
                map.session_expiry_ms = self.founding.session_expiry_ms;
                map
            }
        };
        let catalogue = match items.next().flatten() {
            Some(bytes) => Catalogue::from_bytes(&bytes).map_err(damaged)?,
            None => {
                let mut first = self.founding.catalogue.clone();
                first.version = 1;
                first.cluster = windlass_transport::random::number();
                first.next_table = first.next_table.max(1);
                if self.store.write(Item::Catalogue, 0, &first.to_bytes())? == Written::Deposed {
                    return Ok(None);
                }
                first
            }
        };
        Ok(Some(Kept { map, catalogue }))
    }

    /// Does what is to be done, until another one leads; returns whether another one is to.
    fn lead(&mut self) -> bool {
        loop {
            match self.jobs.recv_timeout(RENEW_INTERVAL) {
                Ok(job) if job.term != self.term => {}
                Ok(Job { task: Task::Write { item, expected, bytes }, .. }) => {
                    if !self.write(item, expected, &bytes) {
                        return false;
                    }
                }
                Ok(Job { task: Task::Resign, .. }) => match self.store.has_standby() {
                    Ok(true) => return true,
                    Ok(false) => {}
                    Err(error) => self.tell(Event::StoreTrouble(Some(chain(&error)))),
                },
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return false,
            }
            if self.is_stopping() || !self.lead.holds(Instant::now()) {
                return false;
            }
            let sent = Instant::now();
            match self.store.renew() {
                Ok(true) if self.lead.extend(sent, self.store.lease()) => {}
                Ok(_) => return false,
                Err(error) => self.tell(Event::StoreTrouble(Some(chain(&error)))),
            }
        }
    }

    /// Writes one item, for as long as this coordinator leads; returns whether this coordinator leads still.
    fn write(&mut self, item: Item, expected: u64, bytes: &[u8]) -> bool {
        let mut delay = RETRY_DELAY_MIN;
        while !self.is_stopping() && self.lead.holds(Instant::now()) {
            match self.store.write(item, expected, bytes) {
                Ok(Written::Done) => {
                    let version = version_of(bytes);
                    if delay > RETRY_DELAY_MIN {
                        self.tell(Event::StoreTrouble(None));
                    }
                    self.tell(Event::Stored { item, version });
                    return true;
                }
                Ok(Written::Deposed) => return false,
                Err(error) => self.wait_out(&error, &mut delay),
            }
        }
        false
    }

    /// Campaigns no more for a while.
    fn rest(&self, time: Duration) {
        let until = Instant::now() + time;
        while !self.is_stopping() && Instant::now() < until {
            std::thread::sleep(RETRY_DELAY_MIN);
        }
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

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use crossbeam::channel::unbounded;

    use super::*;

    /// A store that a test cuts off. It notes what is written.
    #[derive(Clone, Debug, Default)]
    struct TestStore {
        is_cut_off: Arc<AtomicBool>,
        written: Arc<Mutex<Vec<u64>>>,
        has_standby: Arc<AtomicBool>,
        resigned: Arc<AtomicBool>,
    }

    const LEASE: Duration = Duration::from_millis(300);
    const PATIENCE: Duration = Duration::from_secs(20);

    impl TestStore {
        fn answer<T>(&self, value: T) -> Result<T, StoreError> {
            match self.is_cut_off.load(Ordering::SeqCst) {
                true => Err(StoreError::NoEndpoint),
                false => Ok(value),
            }
        }
    }

    impl Store for TestStore {
        fn name(&self) -> &'static str {
            "test"
        }

        fn campaign(&mut self, _: Duration) -> Result<Option<Vec<Option<Vec<u8>>>>, StoreError> {
            self.answer(Some(vec![None, None]))
        }

        fn write(&mut self, _: Item, _: u64, bytes: &[u8]) -> Result<Written, StoreError> {
            self.answer(())?;
            self.written.lock().unwrap().push(version_of(bytes));
            Ok(Written::Done)
        }

        fn lease(&self) -> Option<Duration> {
            Some(LEASE)
        }

        fn renew(&mut self) -> Result<bool, StoreError> {
            self.answer(true)
        }

        fn has_standby(&mut self) -> Result<bool, StoreError> {
            self.answer(self.has_standby.load(Ordering::SeqCst))
        }

        fn resign(&mut self) {
            self.resigned.store(true, Ordering::SeqCst);
        }
    }

    fn keeper(store: TestStore) -> (Keeper, Sender<Job>, Receiver<Event>) {
        let ((to_do, jobs), (events, happened)) = (unbounded(), unbounded());
        let founding = Founding {
            partitions: 1,
            replicas: 1,
            session_expiry_ms: 1,
            catalogue: Catalogue::default(),
        };
        let stopping = Arc::new(AtomicBool::new(false));
        let lead = Arc::new(Lead::new());
        (
            Keeper { lead, term: 0, store: Box::new(store), founding, jobs, events, stopping },
            to_do,
            happened,
        )
    }

    /// The next event that is one of a term.
    fn next_of_term(events: &Receiver<Event>) -> Event {
        loop {
            match events.recv_timeout(PATIENCE).unwrap() {
                Event::StoreTrouble(_) => {}
                event => return event,
            }
        }
    }

    fn job(term: u64, version: u64) -> Job {
        let bytes = version.to_le_bytes().to_vec();
        Job { term, task: Task::Write { item: Item::Map, expected: 0, bytes } }
    }

    #[test]
    fn a_leader_resigns_only_where_another_one_waits() {
        let store = TestStore::default();
        let (keeper, jobs, events) = keeper(store.clone());
        let (stopping, lead) = (keeper.stopping.clone(), keeper.lead.clone());
        let thread = std::thread::spawn(move || keeper.run());
        assert!(matches!(next_of_term(&events), Event::Elected { term: 1, .. }));
        let resign = |term| Job { term, task: Task::Resign };
        jobs.send(resign(1)).unwrap();
        jobs.send(job(1, 7)).unwrap();
        let is_done = |event: &Event| matches!(event, Event::Stored { version: 7, .. });
        assert!(is_done(&next_of_term(&events)), "nobody else could lead");
        store.has_standby.store(true, Ordering::SeqCst);
        jobs.send(resign(0)).unwrap();
        jobs.send(job(1, 7)).unwrap();
        assert!(is_done(&next_of_term(&events)), "that was another term's");
        jobs.send(resign(1)).unwrap();
        assert!(matches!(next_of_term(&events), Event::Deposed));
        assert!(!lead.holds(Instant::now()));
        assert!(matches!(next_of_term(&events), Event::Elected { term: 2, .. }), "in the end");
        assert!(store.resigned.load(Ordering::SeqCst));
        stopping.store(true, Ordering::SeqCst);
        drop(jobs);
        thread.join().unwrap();
    }

    #[test]
    fn a_leader_cut_off_from_its_store_steps_down_and_is_elected_anew() {
        for is_writing in [false, true] {
            let store = TestStore::default();
            let (keeper, jobs, events) = keeper(store.clone());
            let (stopping, lead) = (keeper.stopping.clone(), keeper.lead.clone());
            let thread = std::thread::spawn(move || keeper.run());
            assert!(matches!(next_of_term(&events), Event::Elected { term: 1, .. }));
            store.is_cut_off.store(true, Ordering::SeqCst);
            if is_writing {
                jobs.send(job(1, 7)).unwrap();
            }
            assert!(matches!(next_of_term(&events), Event::Deposed));
            assert!(!lead.holds(Instant::now()));
            // What was decided in the term that has ended is never written.
            jobs.send(job(1, 8)).unwrap();
            store.is_cut_off.store(false, Ordering::SeqCst);
            assert!(matches!(next_of_term(&events), Event::Elected { term: 2, .. }));
            jobs.send(job(2, 9)).unwrap();
            let is_done = |event: &Event| matches!(event, Event::Stored { version: 9, .. });
            assert!(is_done(&next_of_term(&events)));
            stopping.store(true, Ordering::SeqCst);
            drop(jobs);
            thread.join().unwrap();
            // The first is the catalogue of the new cluster, the second that of the second term.
            assert_eq!(*store.written.lock().unwrap(), [1, 1, 9]);
        }
    }
}
