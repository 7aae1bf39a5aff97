//! Threads that shards run on: one for each shard, or one for several, of one server or of several
//! servers in one process, where there are fewer cores than shards.

use std::{
    io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::JoinHandle,
};

use crossbeam::channel::{Receiver, RecvError, Sender, TryRecvError, unbounded};
use windlass_transport::Waker;

use crate::{
    limits::SHARDS_PER_THREAD_MAX,
    shard::{Reactor, Shard},
};

/// Steps that found something, between looks for newcomers.
const BUSY_STEPS_PER_LOOK: u32 = 64;

/// Makes a shard on the thread that is going to own it, or does something else there.
type Make = Box<dyn FnOnce() -> Option<Shard> + Send>;

/// A thread for shards to run on. Clones are the same thread, which ends after the last of them and
/// the last of its shards are gone.
#[derive(Clone, Debug)]
pub struct ShardThread(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    newcomers: Option<Sender<Make>>,
    /// Of the shard that came last, whose transport the thread also sleeps on.
    waker: Mutex<Option<Waker>>,
    /// Shards that it runs, or is to run.
    taken: AtomicUsize,
    has_panicked: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl ShardThread {
    /// Starts one, pinned to a core or left to the system. A core that cannot be had is worth a
    /// warning.
    ///
    /// # Errors
    /// When the system has no thread left.
    pub fn start(name: &str, core: Option<usize>) -> io::Result<Self> {
        let (newcomers, comers) = unbounded();
        let has_panicked = Arc::new(AtomicBool::new(false));
        let end = End(has_panicked.clone());
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            if let Some(core) = core {
                pin_to(core);
            }
            let _end = end;
            run(&comers);
        })?;
        Ok(Self(Arc::new(Inner {
            newcomers: Some(newcomers),
            waker: Mutex::default(),
            taken: AtomicUsize::new(0),
            has_panicked,
            thread: Some(thread),
        })))
    }

    /// Has the thread carry out something between turns of its shards, once they wake: they stand still
    /// meanwhile.
    pub fn carry_out(&self, work: impl FnOnce() + Send + 'static) {
        self.send(Box::new(|| {
            work();
            None
        }));
    }

    /// Whether it has ended by a panic, and its shards with it. What their clients ask of them ends with an
    /// error.
    #[must_use]
    pub fn has_panicked(&self) -> bool {
        self.0.has_panicked.load(Ordering::Acquire)
    }

    fn send(&self, make: Make) {
        if let Some(newcomers) = &self.0.newcomers {
            // A thread that has panicked drops it, and with it whatever the asker waits for.
            let _ = newcomers.send(make);
        }
        self.0.waker.lock().unwrap_or_else(PoisonError::into_inner).iter().for_each(Waker::wake);
    }

    /// Room for one more shard, if there is.
    pub(super) fn take_seat(&self) -> Option<Seat> {
        let more = |taken| (taken < SHARDS_PER_THREAD_MAX).then_some(taken + 1);
        let taken = self.0.taken.fetch_update(Ordering::AcqRel, Ordering::Acquire, more);
        taken.is_ok().then(|| Seat(self.clone()))
    }
}

/// A shard's place on its thread, free again when this is dropped.
#[derive(Debug)]
pub(super) struct Seat(ShardThread);

impl Seat {
    /// Has the thread make a shard and run it.
    pub(super) fn make(&self, make: impl FnOnce() -> Option<Shard> + Send + 'static) {
        self.0.send(Box::new(make));
    }

    /// Whether the thread has ended by a panic.
    pub(super) fn has_panicked(&self) -> bool {
        self.0.has_panicked()
    }

    /// How to wake the thread from now on.
    pub(super) fn set_waker(&self, waker: Waker) {
        *self.0.0.waker.lock().unwrap_or_else(PoisonError::into_inner) = Some(waker);
    }
}

/// Notes how the thread ends.
struct End(Arc<AtomicBool>);

impl Drop for End {
    fn drop(&mut self) {
        self.0.store(std::thread::panicking(), Ordering::Release);
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.0.taken.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.newcomers = None;
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("a shard panicked");
        }
    }
}

/// Runs the shards that come, until none is left and none can come.
fn run(comers: &Receiver<Make>) {
    let mut reactor = Reactor::default();
    loop {
        let comer = match reactor.is_empty() {
            true => comers.recv().map_err(|RecvError| TryRecvError::Disconnected),
            false => comers.try_recv(),
        };
        match comer {
            Ok(make) => make().into_iter().for_each(|shard| reactor.add(shard)),
            Err(TryRecvError::Disconnected) if reactor.is_empty() => return,
            Err(_) => {}
        }
        // Looking for newcomers takes as long as a look at a mailbox.
        for _ in 0..BUSY_STEPS_PER_LOOK {
            if !reactor.step() {
                break;
            }
        }
    }
}

/// Keeps this thread on one core. Failing to is worth a warning, not a refusal to serve.
fn pin_to(core: usize) {
    let mut set = rustix::thread::CpuSet::new();
    if core >= rustix::thread::CpuSet::MAX_CPU {
        tracing::warn!(core, "no such core");
        return;
    }
    set.set(core);
    if let Err(error) = rustix::thread::sched_setaffinity(None, &set) {
        tracing::warn!(core, %error, "cannot pin the shard to its core");
    }
}
