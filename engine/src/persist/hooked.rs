//! A storage that asks before it carries anything out.

use std::{
    collections::VecDeque,
    fmt, io,
    os::fd::BorrowedFd,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

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
    /// Fails with an error of the system.
    Errno(i32),
    /// The storage has no room for it.
    Refuse,
}

/// What a storage was told besides operations.
#[derive(Debug, Default)]
pub(crate) struct Notes {
    /// Operations that somebody waits for.
    pub(crate) awaited: AtomicU32,
    /// Whether it may block its caller.
    pub(crate) may_block: AtomicBool,
}

/// Plain storage of a directory behind a hook.
pub(crate) struct Hooked<H> {
    inner: Box<dyn Storage>,
    hook: H,
    held: VecDeque<(Token, Operation)>,
    failed: Vec<Completion>,
    pub(crate) notes: Arc<Notes>,
}

impl<H: Fn(&Operation) -> Verdict> Hooked<H> {
    pub(crate) fn open(directory: &Path, hook: H) -> Box<Self> {
        let inner = open(directory, Provider::Buffered).unwrap();
        let (held, failed) = (VecDeque::new(), Vec::new());
        Box::new(Self { inner, hook, held, failed, notes: Arc::default() })
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
        let source = match (self.hook)(&operation) {
            Verdict::CarryOut => return self.inner.submit(token, operation),
            Verdict::Refuse => return Err(operation),
            Verdict::Hold => {
                self.held.push_back((token, operation));
                return Ok(());
            }
            Verdict::Fail(kind) => kind.into(),
            Verdict::Errno(code) => io::Error::from_raw_os_error(code),
        };
        let name = match &operation {
            Operation::Open { name, .. } => name.clone(),
            _ => "a file".to_owned(),
        };
        let error = StorageError { operation: operation.name(), name, source };
        self.failed.push(Completion { token, result: Err(error) });
        Ok(())
    }

    fn submit_awaited(&mut self, token: Token, operation: Operation) -> Result<(), Operation> {
        self.notes.awaited.fetch_add(1, Ordering::Relaxed);
        self.submit(token, operation)
    }

    fn set_in_place(&mut self, may: bool) {
        self.notes.may_block.store(may, Ordering::Relaxed);
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
