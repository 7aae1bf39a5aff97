//! The state that a client shares with its tables and requests.

use std::{
    cell::{Ref, RefCell, RefMut},
    rc::Rc,
};

use crate::{
    core::Core,
    fork::{Process, WrongProcess},
};

/// The core of a client, for the process that connected it.
#[derive(Clone, Debug)]
pub(crate) struct SharedCore {
    process: Process,
    core: Rc<RefCell<Core>>,
}

impl SharedCore {
    pub(crate) fn new(core: Core) -> Self {
        Self { process: Process::current(), core: Rc::new(RefCell::new(core)) }
    }

    /// To use the connection. Every operation begins here.
    #[inline]
    pub(crate) fn enter(&self) -> Result<RefMut<'_, Core>, WrongProcess> {
        if self.process.is_current() { Ok(self.core.borrow_mut()) } else { Err(WrongProcess) }
    }

    /// To look at what is known; a forked child knows what was known when it was forked.
    #[inline]
    pub(crate) fn look(&self) -> Ref<'_, Core> {
        self.core.borrow()
    }

    /// Whether both are of one client.
    pub(crate) fn is(&self, other: &Self) -> bool {
        Rc::ptr_eq(&self.core, &other.core)
    }
}
