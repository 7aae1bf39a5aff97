//! Disconnecting without waiting for the peer or the device. The queue pair stops serving its peer and sends a leave
//! notice. A thread of the instance destroys it once the notice has arrived, or after a bounded time.

use std::{
    collections::{HashMap, VecDeque},
    sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    thread::JoinHandle,
    time::Instant,
};

use super::{
    send_ring::SendRing,
    slot::{Bounce, Slot, Stage},
};
use crate::{
    error::OpenError,
    fabric::{QueuePairId, Waker},
};

/// The queue pairs of an instance that are on their way out.
#[derive(Debug)]
pub(super) struct Departures {
    leaving: HashMap<u32, Leaving>,
    reaper: Reaper<Remains>,
}

/// What is to be done once a queue pair has been destroyed. Its memory may be in use until then.
#[derive(Debug)]
pub(super) struct Leaving {
    pub(super) id: QueuePairId,
    /// Requests that were pending.
    pub(super) ring: SendRing,
    /// Where it has reserved room for completions, and how much.
    pub(super) completion_queue: usize,
    pub(super) completions_max: u32,
    /// Number of the request that carries its farewell, while that is waited for.
    farewell: Option<u32>,
}

/// What the device may use until it is dropped: the queue pair, then the memory of its requests.
#[derive(Debug)]
struct Remains {
    _stage: Stage,
    _bounce: Option<Bounce>,
}

impl Departures {
    /// Starts the thread. The waker is used whenever a queue pair has been destroyed.
    pub(super) fn new(waker: Waker) -> Result<Self, OpenError> {
        let reaper = Reaper::start(waker).map_err(|source| OpenError::System {
            provider: "verbs",
            step: "starting the thread that destroys queue pairs",
            source,
        })?;
        Ok(Self { leaving: HashMap::new(), reaper })
    }

    /// Has a queue pair destroyed: now, or when the request that carries its farewell has completed,
    /// at the latest at `deadline`.
    pub(super) fn add(&mut self, slot: Slot, farewell: Option<u32>, deadline: Instant) {
        let leaving = Leaving {
            id: slot.id,
            ring: slot.ring,
            completion_queue: slot.completion_queue,
            completions_max: slot.completions_max,
            farewell,
        };
        let remains = Remains { _stage: slot.stage, _bounce: slot.bounce };
        self.leaving.insert(leaving.id.0, leaving);
        self.reaper.end(slot.id.0, remains, farewell.map(|_| deadline));
    }

    /// Takes note of the completion of a request.
    pub(super) fn note(&mut self, queue_pair: u32, number: u32, succeeded: bool) {
        let Some(leaving) = self.leaving.get_mut(&queue_pair) else { return };
        // Behind a failure nothing is sent.
        if leaving.farewell.is_some_and(|farewell| farewell == number || !succeeded) {
            leaving.farewell = None;
            self.reaper.hurry(queue_pair);
        }
    }

    /// Whether there are any.
    pub(super) fn are_under_way(&self) -> bool {
        !self.leaving.is_empty()
    }

    /// Whether a farewell is waited for.
    pub(super) fn are_heard_out(&self) -> bool {
        self.leaving.values().all(|leaving| leaving.farewell.is_none())
    }

    /// One that has been destroyed.
    pub(super) fn take_destroyed(&mut self) -> Option<Leaving> {
        self.leaving.remove(&self.reaper.ended()?)
    }
}

/// A thread that drops things in time.
#[derive(Debug)]
struct Reaper<T> {
    /// Gone once the thread is to end.
    orders: Option<Sender<Order<T>>>,
    ended: Receiver<u32>,
    thread: Option<JoinHandle<()>>,
}

enum Order<T> {
    /// To drop this at its time, or now.
    End { number: u32, remains: T, deadline: Option<Instant> },
    /// To drop that of this number now.
    Hurry(u32),
}

impl<T: Send + 'static> Reaper<T> {
    fn start(waker: Waker) -> std::io::Result<Self> {
        let (orders, received) = channel();
        let (report, ended) = channel();
        let thread =
            std::thread::Builder::new().name("windlass-leave".to_owned()).spawn(move || {
                let drop_one = |number: u32, remains: T| {
                    drop(remains);
                    // Nobody listens any more when the instance ends.
                    let _ = report.send(number);
                    waker.wake();
                };
                reap(&received, drop_one);
            })?;
        Ok(Self { orders: Some(orders), ended, thread: Some(thread) })
    }

    fn end(&self, number: u32, remains: T, deadline: Option<Instant>) {
        self.order(Order::End { number, remains, deadline });
    }

    fn hurry(&self, number: u32) {
        self.order(Order::Hurry(number));
    }

    fn order(&self, order: Order<T>) {
        let sent = self.orders.as_ref().map(|orders| orders.send(order));
        assert!(matches!(sent, Some(Ok(()))), "the thread lives as long as its instance");
    }

    /// Number of one that has been dropped.
    fn ended(&self) -> Option<u32> {
        self.ended.try_recv().ok()
    }
}

impl<T> Drop for Reaper<T> {
    fn drop(&mut self) {
        self.orders = None;
        if let Some(thread) = self.thread.take() {
            // A panic of its own has been reported by the thread.
            let _ = thread.join();
        }
    }
}

/// Carries orders out until there are no more to come, and then what is left of them.
fn reap<T>(orders: &Receiver<Order<T>>, drop_one: impl Fn(u32, T)) {
    let mut waiting: VecDeque<(Instant, u32, T)> = VecDeque::new();
    loop {
        let order = match waiting.front() {
            None => orders.recv().map_err(RecvTimeoutError::from),
            Some((deadline, ..)) => {
                orders.recv_timeout(deadline.saturating_duration_since(Instant::now()))
            }
        };
        match order {
            Ok(Order::End { number, remains, deadline: None }) => drop_one(number, remains),
            Ok(Order::End { number, remains, deadline: Some(deadline) }) => {
                // All are given the same time, so that the first is due first.
                waiting.push_back((deadline, number, remains));
            }
            Ok(Order::Hurry(wanted)) => {
                let found = waiting.iter().position(|(_, number, _)| *number == wanted);
                // Its time may have been over before.
                if let Some((_, number, remains)) = found.and_then(|at| waiting.remove(at)) {
                    drop_one(number, remains);
                }
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
        while waiting.front().is_some_and(|(deadline, ..)| *deadline <= Instant::now())
            && let Some((_, number, remains)) = waiting.pop_front()
        {
            drop_one(number, remains);
        }
    }
    for (_, number, remains) in waiting {
        drop_one(number, remains);
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{Arc, Barrier, mpsc},
        time::Duration,
    };

    use super::*;

    /// Something that is destroyed once it may be, and tells so.
    struct Slow(Option<Arc<Barrier>>, mpsc::Sender<Instant>);

    impl Drop for Slow {
        fn drop(&mut self) {
            if let Some(gate) = &self.0 {
                gate.wait();
            }
            let _ = self.1.send(Instant::now());
        }
    }

    fn reaper() -> (Reaper<Slow>, mpsc::Receiver<()>) {
        let (woken, wakes) = mpsc::channel();
        let woken = std::sync::Mutex::new(woken);
        let waker = Waker::new(move || {
            let _ = woken.lock().unwrap().send(());
        });
        (Reaper::start(waker).unwrap(), wakes)
    }

    const AGES: Duration = Duration::from_secs(3600);
    const PATIENCE: Duration = Duration::from_secs(20);

    #[test]
    fn nobody_waits_for_a_queue_pair_that_takes_long_to_destroy() {
        let (reaper, wakes) = reaper();
        let (dropped, drops) = mpsc::channel();
        let gate = Arc::new(Barrier::new(2));
        for number in 0..10 {
            reaper.end(number, Slow(Some(gate.clone()), dropped.clone()), None);
        }
        assert_eq!(reaper.ended(), None, "not before it is");
        for number in 0..10 {
            gate.wait();
            wakes.recv_timeout(PATIENCE).unwrap();
            assert_eq!(reaper.ended(), Some(number));
        }
        assert_eq!(drops.try_iter().count(), 10);
    }

    #[test]
    fn a_farewell_has_its_time_and_no_more() {
        let (reaper, wakes) = reaper();
        let (dropped, drops) = mpsc::channel();
        let deadline = Instant::now() + Duration::from_millis(100);
        reaper.end(1, Slow(None, dropped.clone()), Some(deadline));
        reaper.end(2, Slow(None, dropped.clone()), Some(Instant::now() + AGES));
        wakes.recv_timeout(PATIENCE).unwrap();
        assert_eq!(reaper.ended(), Some(1), "in its time");
        assert!(drops.recv().unwrap() >= deadline, "but not before it");
        reaper.hurry(2);
        wakes.recv_timeout(PATIENCE).unwrap();
        assert_eq!(reaper.ended(), Some(2), "once it has arrived");
        reaper.hurry(2);
        reaper.end(3, Slow(None, dropped), None);
        wakes.recv_timeout(PATIENCE).unwrap();
        assert_eq!(reaper.ended(), Some(3), "one that has gone hurries nobody");
    }

    #[test]
    fn all_are_destroyed_before_their_instance_is() {
        let (reaper, _wakes) = reaper();
        let (dropped, drops) = mpsc::channel();
        for number in 0..3 {
            let slow = Slow(None, dropped.clone());
            reaper.end(number, slow, Some(Instant::now() + AGES));
        }
        drop(reaper);
        assert_eq!(drops.try_iter().count(), 3);
    }
}
