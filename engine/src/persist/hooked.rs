//! A storage that asks before it carries anything out.

use std::{collections::VecDeque, fmt, io, os::fd::BorrowedFd, path::Path, time::Duration};

use windlass_transport::Pages;

use crate::persist::storage::{
    Completion, Listed, Operation, Provider, RegionId, Storage, StorageError, StorageReport, Token,
    open,
};

/// What is to become of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    CarryOut,
    /// Not now: asked again at each poll, in order.
    Hold,
    Fail(io::ErrorKind),
}

/// Plain storage of a directory behind a hook.
pub(crate) struct Hooked<H> {
    inner: Box<dyn Storage>,
    hook: H,
    held: VecDeque<(Token, Operation)>,
    failed: Vec<Completion>,
}

impl<H: Fn(&Operation) -> Verdict> Hooked<H> {
    pub(crate) fn open(directory: &Path, hook: H) -> Box<Self> {
        let inner = open(directory, Provider::Buffered).unwrap();
        Box::new(Self { inner, hook, held: VecDeque::new(), failed: Vec::new() })
    }
}

impl<H> fmt::Debug for Hooked<H> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Hooked").field("held", &self.held).finish_non_exhaustive()
    }
}

impl<H: Fn(&Operation) -> Verdict> Storage for Hooked<H> {
    fn report(&self) -> &StorageReport {
        self.inner.report()
    }

    fn register(&mut self, pages: Pages) -> Result<RegionId, StorageError> {
        self.inner.register(pages)
    }

    fn list(&mut self) -> Result<Vec<Listed>, StorageError> {
        self.inner.list()
    }

    fn submit(&mut self, token: Token, operation: Operation) -> Result<(), Operation> {
        match (self.hook)(&operation) {
            Verdict::CarryOut => return self.inner.submit(token, operation),
            Verdict::Hold => self.held.push_back((token, operation)),
            Verdict::Fail(kind) => {
                let name = match &operation {
                    Operation::Open { name, .. } => name.clone(),
                    _ => "a file".to_owned(),
                };
                let error = StorageError { operation: operation.name(), name, source: kind.into() };
                self.failed.push(Completion { token, result: Err(error) });
            }
        }
        Ok(())
    }

    fn poll(&mut self, completions: &mut Vec<Completion>) {
        while self.held.front().is_some_and(|(_, held)| (self.hook)(held) != Verdict::Hold)
            && let Some((token, operation)) = self.held.pop_front()
        {
            assert!(self.inner.submit(token, operation).is_ok(), "few writes are under way");
        }
        completions.append(&mut self.failed);
        self.inner.poll(completions);
    }

    fn wait(&mut self, timeout: Duration) {
        if self.failed.is_empty() {
            self.inner.wait(timeout);
        }
    }

    fn wait_descriptor(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}
