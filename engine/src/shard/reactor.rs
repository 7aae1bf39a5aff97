//! The event loop of a thread's shards, usually one. It runs their turns, serves messages between turns, and
//! sleeps on one wait point when no shard has had work for a while.

use std::{
    sync::atomic::{Ordering, fence},
    time::{Duration, Instant},
};

use windlass_transport::{
    Transport,
    spin::{Idle, LOOKS_PER_PAUSE, Spin},
    wait,
};

use super::{Shard, durable::Durable, wait::Errand};
use crate::limits::SLEEP_MS_MAX;

/// Idle turns before a thread sleeps on a write that is under way: the kernel's worker that ends the
/// write may need this very core.
const TURNS_PER_WRITE: u32 = 4;

/// Idle turns between looks at the clock.
const TURNS_PER_CLOCK: u32 = 16;

/// Looks at mailboxes between turns, all sessions of a shard together: a look takes a small part of what
/// a turn takes, so messages are found sooner.
const LOOKS_PER_TURN: usize = 32;

/// Polls between turns for a thread of several shards. A message that arrives during turns waits for the
/// turns of all shards, so they poll for longer.
const LOOKS_PER_ROUND: usize = 64;

/// Times messages are carried out between turns: commands and the clock wait for the next one.
const ERRANDS_PER_TURN: usize = 64;

/// The loop of one thread: polls its shards, never in vain for long.
#[derive(Debug, Default)]
pub struct Reactor {
    shards: Vec<Shard>,
    spin: Spin,
    idle_since: Option<Instant>,
    idle_turns: u32,
    /// The shard to be looked at first.
    next: usize,
}

impl Reactor {
    /// The loop of one shard.
    #[must_use]
    pub fn of(shard: Shard) -> Self {
        let mut reactor = Self::default();
        reactor.add(shard);
        reactor
    }

    /// One more shard: at most [`crate::limits::SHARDS_PER_THREAD_MAX`] in all.
    pub fn add(&mut self, shard: Shard) {
        self.spin.add(&shard.port.transports);
        self.shards.push(shard);
    }

    /// One turn of each shard and whatever messages come meanwhile, and what there is to do when none
    /// found anything, such as sleeping. Returns whether one did. Those told to stop are gone afterwards.
    pub fn step(&mut self) -> bool {
        let worked = self.turn() | self.run_errands();
        if worked {
            self.found();
        } else {
            self.idle();
        }
        // It may have been told in a last turn before sleeping.
        self.dismiss();
        worked
    }

    /// Whether it has no shard any more.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.shards.is_empty()
    }

    /// Turns until each shard has been told to stop.
    pub fn run(mut self) {
        while !self.is_empty() {
            self.step();
        }
    }

    /// Lets those go that have been told to stop.
    fn dismiss(&mut self) {
        for mut shard in self.shards.extract_if(.., |shard| shard.stopped) {
            let answer = shard.stop_answer.take();
            drop(shard);
            if let Some(answer) = answer {
                let _ = answer.send(Ok(()));
            }
        }
    }

    /// Whether any found something to do.
    fn turn(&mut self) -> bool {
        let mut worked = false;
        for shard in &mut self.shards {
            worked |= shard.turn();
        }
        worked
    }

    /// Carries out messages where they are, each after a look at memory, until none comes for a moment.
    /// Shards of a chain that share a thread hand a push on without turns of those it does not concern.
    fn run_errands(&mut self) -> bool {
        let Some(count) = self.shards.iter().map(Shard::visible_mailboxes).sum::<Option<usize>>()
        else {
            std::hint::spin_loop();
            return false;
        };
        // Who shares its core hands it on at once.
        let looks = match (self.spin.is_shared(), self.shards.len()) {
            (true, _) => usize::from(count > 0),
            (false, 1) => LOOKS_PER_TURN.checked_div(count).unwrap_or(0),
            (false, shards) => (LOOKS_PER_ROUND * shards.pow(2)).checked_div(count).unwrap_or(0),
        };
        let (mut errands, mut fruitless) = (0, 0);
        while errands < ERRANDS_PER_TURN && fruitless < looks {
            let Some((at, errand)) = self.find_errand() else {
                fruitless += 1;
                if fruitless % LOOKS_PER_PAUSE == 0 {
                    std::hint::spin_loop();
                }
                continue;
            };
            self.next = at + 1;
            let shard = &mut self.shards[at];
            // What stays in its mailbox waits for something else than a look.
            if !shard.run_errand(errand) {
                break;
            }
            (errands, fruitless) = (errands + 1, 0);
            // What was written has to be on its way to the disk at once.
            if shard.disk.durable.is_some() {
                break;
            }
        }
        if looks == 0 {
            std::hint::spin_loop();
        }
        errands > 0
    }

    /// A shard with a message, in turns.
    #[inline]
    fn find_errand(&self) -> Option<(usize, Errand)> {
        let count = self.shards.len();
        let mut at = self.next;
        for _ in 0..count {
            at = if at < count { at } else { 0 };
            if let Some(errand) = self.shards[at].looks_ready() {
                return Some((at, errand));
            }
            at += 1;
        }
        None
    }

    fn found(&mut self) {
        self.idle_since = None;
        self.idle_turns = 0;
        self.spin.found();
    }

    /// Spins, or sleeps when the spinning has lasted long enough.
    fn idle(&mut self) {
        self.idle_turns = self.idle_turns.wrapping_add(1);
        if self.shards.iter().any(Shard::is_writing) {
            if self.idle_turns >= TURNS_PER_WRITE {
                self.sleep();
            }
            return;
        }
        if self.spin.idle() == Idle::Crowded {
            return self.sleep();
        }
        if !self.idle_turns.is_multiple_of(TURNS_PER_CLOCK) {
            return;
        }
        let now = Instant::now();
        let since = *self.idle_since.get_or_insert(now);
        let budget = self.shards.iter().map(|shard| shard.port.options.spin_us).max().unwrap_or(0);
        let budget = Duration::from_micros(u64::from(budget));
        if self.spin.is_over(now.duration_since(since), budget) {
            self.sleep();
        }
    }

    /// Tells active clients that wake-ups are needed from now on, looks once more, and sleeps.
    fn sleep(&mut self) {
        self.shards.iter_mut().for_each(Shard::tell_sleep);
        // A message may have been written by a client that had not been told yet. Once the telling
        // has completed, later ones know.
        while self.shards.iter().any(|shard| shard.port.tells_in_flight > 0) {
            if self.turn() {
                return;
            }
        }
        // The look must not be older than what was told: clients tell, then look, the other way round.
        fence(Ordering::SeqCst);
        if self.turn() {
            return;
        }
        let deadline = self.shards.iter().filter_map(Shard::deadline).min();
        let longest = Duration::from_millis(SLEEP_MS_MAX);
        let longest = deadline.map_or(longest, |deadline| deadline.min(longest));
        let slept_at = Instant::now();
        self.wait(longest);
        let overslept = slept_at.elapsed() >= longest && deadline.is_none();
        self.spin.found();
        let mut caught = false;
        for shard in &mut self.shards {
            caught |= shard.end_sleep(overslept);
        }
        if caught {
            self.found();
        } else if !overslept {
            self.idle_since = None;
        }
        // Who slept for as long as there is has nothing to spin for: it looks once, and sleeps again.
    }

    /// Sleeps until a transport or disk of one of the shards has something, or the timeout ends.
    fn wait(&mut self, timeout: Duration) {
        let mut quiet = true;
        for transport in self.transports() {
            quiet &= transport.arm();
        }
        if quiet {
            let descriptors = self.shards.iter().flat_map(|shard| {
                let transports = shard.port.transports.iter().map(|one| one.wait_descriptor());
                transports.chain(shard.disk.durable.as_deref().and_then(Durable::wait_descriptor))
            });
            wait::sleep_on(descriptors, timeout);
        }
        self.transports().for_each(|transport| transport.disarm());
    }

    fn transports(&mut self) -> impl Iterator<Item = &mut Box<dyn Transport>> {
        self.shards.iter_mut().flat_map(|shard| &mut shard.port.transports)
    }
}
