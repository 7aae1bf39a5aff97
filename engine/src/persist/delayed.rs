//! A storage that delays durable writes, to show how a server behaves on a slow disk.

use std::{
    collections::VecDeque,
    os::fd::BorrowedFd,
    time::{Duration, Instant},
};

use windlass_transport::memory::Pages;

use super::storage::{
    Completion, Listed, Operation, RegionId, Storage, StorageError, StorageReport, Token,
};

/// Holds each durable write back for a time before the storage below gets it.
#[derive(Debug)]
pub struct DelayedStorage {
    inner: Box<dyn Storage>,
    delay: Duration,
    /// Until when, in order of submission.
    held: VecDeque<(Instant, Token, Operation)>,
    report: StorageReport,
}

impl DelayedStorage {
    /// Over another storage.
    #[must_use]
    pub fn new(inner: Box<dyn Storage>, delay: Duration) -> Self {
        let mut report = inner.report().clone();
        report.fallbacks.push(format!("durable writes are delayed by {delay:?}, as asked for"));
        Self { inner, delay, held: VecDeque::new(), report }
    }
}

impl Storage for DelayedStorage {
    fn report(&self) -> &StorageReport {
        &self.report
    }

    fn register(&mut self, pages: Pages) -> Result<RegionId, StorageError> {
        self.inner.register(pages)
    }

    fn list(&mut self) -> Result<Vec<Listed>, StorageError> {
        self.inner.list()
    }

    fn submit(&mut self, token: Token, operation: Operation) -> Result<(), Operation> {
        if matches!(operation, Operation::Write { durable: true, .. }) {
            self.held.push_back((Instant::now() + self.delay, token, operation));
            return Ok(());
        }
        self.inner.submit(token, operation)
    }

    fn set_in_place(&mut self, may: bool) {
        self.inner.set_in_place(may);
    }

    fn begin(&mut self) -> Duration {
        self.inner.begin()
    }

    fn poll(&mut self, completions: &mut Vec<Completion>) {
        let now = Instant::now();
        while self.held.front().is_some_and(|(due, ..)| *due <= now)
            && let Some((due, token, operation)) = self.held.pop_front()
        {
            if let Err(operation) = self.inner.submit(token, operation) {
                self.held.push_front((due, token, operation));
                break;
            }
        }
        self.inner.poll(completions);
    }

    fn wait(&mut self, timeout: Duration) {
        let due = self.held.front().map(|(due, ..)| due.saturating_duration_since(Instant::now()));
        self.inner.wait(due.map_or(timeout, |due| due.min(timeout)));
    }

    /// None: nothing becomes readable when a delay is over.
    fn wait_descriptor(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::persist::{
        memory::Window,
        storage::{Buffer, Outcome, Provider, open, open_file},
    };

    const DELAY: Duration = Duration::from_millis(60);

    #[test]
    fn durable_writes_are_late_and_others_are_not() {
        let folder = tempfile::tempdir().unwrap();
        let mut storage = open(folder.path(), Provider::Delayed(DELAY)).unwrap();
        let reason = storage.report().fallbacks.last().unwrap().clone();
        assert_eq!(reason, "durable writes are delayed by 60ms, as asked for");
        assert!(storage.wait_descriptor().is_none(), "nothing becomes readable with time");
        let window = Window::allocate(4096).unwrap();
        let region = storage.register(window.pages().clone()).unwrap();
        let file = open_file(storage.as_mut(), "file", true).unwrap();
        let buffer = Buffer { region, start: 0, length: 4096 };
        let mut completions = Vec::new();
        let begun = Instant::now();
        for (number, durable) in [(1, true), (2, false)] {
            let write = Operation::Write { file, offset: 0, buffer, durable };
            storage.submit(Token(number), write).unwrap();
        }
        while completions.is_empty() {
            storage.poll(&mut completions);
            storage.wait(Duration::from_millis(1));
        }
        assert_eq!(completions[0].token, Token(2));
        while completions.len() < 2 {
            // It sleeps no longer than the delay, whatever it is told, and not for nothing.
            storage.wait(Duration::from_secs(60));
            storage.poll(&mut completions);
        }
        assert!(begun.elapsed() >= DELAY, "{:?}", begun.elapsed());
        assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
        assert_eq!(*completions[1].result.as_ref().unwrap(), Outcome::Transferred(4096));
        // With nothing held back it sleeps as long as it is told.
        let begun = Instant::now();
        storage.wait(Duration::from_millis(20));
        assert!(begun.elapsed() >= Duration::from_millis(15), "{:?}", begun.elapsed());
        assert_eq!(storage.list().unwrap().len(), 1);
    }
}
