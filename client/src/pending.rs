//! Handles of requests in flight.

use std::{fmt, marker::PhantomData};

use windlass_wire::Timestamp;

use crate::{
    config::PullOptions,
    core::{Core, RequestId, TableIndex, claim, pull_keys_into},
    element::Element,
    error::RequestError,
    order::Order,
    rows::Rows,
    shared::SharedCore,
};

/// A push under way. Dropping it forgets the answer, not the push.
#[must_use = "a push may fail: wait for it, or keep its timestamp"]
pub struct PendingPush<T: Element> {
    core: SharedCore,
    id: RequestId,
    /// Registered values that belong to the push until it is done.
    rows: Option<Rows<T>>,
}

impl<T: Element> PendingPush<T> {
    pub(crate) fn new(core: &SharedCore, id: RequestId, rows: Option<Rows<T>>) -> Self {
        Self { core: core.clone(), id, rows }
    }

    /// The timestamp that later requests name to run after this one.
    #[must_use]
    pub fn timestamp(&self) -> Timestamp {
        Timestamp(self.id)
    }

    /// Waits until the push is applied and acknowledged.
    ///
    /// # Errors
    /// Why it was not.
    pub fn wait(self) -> Result<(), RequestError> {
        self.core.enter()?.wait_for(self.id)
    }

    /// Waits, and gives registered rows back with the outcome; `None` when the push had none.
    pub fn wait_rows(mut self) -> (Option<Rows<T>>, Result<(), RequestError>) {
        let outcome = match self.core.enter() {
            Ok(mut core) => core.wait_for(self.id),
            Err(error) => return (None, Err(error.into())),
        };
        // Those that are still being read stay with the push.
        let is_over = !outcome.as_ref().is_err_and(RequestError::leaves_request);
        (self.rows.take_if(|_| is_over), outcome)
    }
}

impl<T: Element> Drop for PendingPush<T> {
    fn drop(&mut self) {
        // Registered rows must outlive the requests that read them.
        if let (Some(rows), Ok(mut core)) = (&self.rows, self.core.enter()) {
            let _ = core.wait_for(self.id);
            core.pending.keep_until_done(self.id, rows.region());
        }
    }
}

impl<T: Element> fmt::Debug for PendingPush<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("PendingPush").field("timestamp", &self.id).finish_non_exhaustive()
    }
}

/// A pull under way. Dropping it forgets the rows.
#[must_use = "the rows come from waiting for them"]
pub struct PendingPull<T: Element> {
    core: SharedCore,
    id: RequestId,
    table: TableIndex,
    value_count: usize,
    /// What more there is to do for its keys, if anything: in a box, because for few there is.
    detour: Option<Box<Detour>>,
    /// The push that came before, whose failure is this one's.
    pushed: Option<RequestId>,
    claimed: bool,
    element: PhantomData<T>,
}

impl<T: Element> PendingPull<T> {
    pub(crate) fn new(
        core: &SharedCore,
        id: RequestId,
        table: TableIndex,
        value_count: usize,
    ) -> Self {
        Self {
            core: core.clone(),
            id,
            table,
            value_count,
            detour: None,
            pushed: None,
            claimed: false,
            element: PhantomData,
        }
    }

    /// The pull of keys for which more is to be done.
    pub(crate) fn by(mut self, detour: Option<Detour>) -> Self {
        self.detour = detour.map(Box::new);
        self
    }

    /// The pull of a push that came before.
    pub(crate) fn after(mut self, pushed: RequestId) -> Self {
        self.pushed = Some(pushed);
        self
    }

    /// The timestamp that later requests name to run after this one.
    #[must_use]
    pub fn timestamp(&self) -> Timestamp {
        Timestamp(self.id)
    }

    /// Waits for the rows: width values of the first key or row, then of the next.
    ///
    /// # Errors
    /// Why there are none.
    pub fn wait(self) -> Result<Vec<T>, RequestError> {
        let mut values = vec![T::default(); self.value_count];
        self.wait_into(&mut values)?;
        Ok(values)
    }

    /// Waits for the rows and copies them into `into`, which has to be exactly as long.
    ///
    /// # Errors
    /// Why there are none; `into` may hold some of them then.
    pub fn wait_into(mut self, into: &mut [T]) -> Result<(), RequestError> {
        let mut core = self.core.enter()?;
        core.tables.check_length(self.table, self.value_count, into.len())?;
        if let Some(pushed) = self.pushed {
            core.wait_for(pushed)?;
        }
        self.claimed = true;
        let Some(detour) = &self.detour else {
            return claim(&mut core, self.table, self.id, bytemuck::cast_slice_mut(into));
        };
        let width = core.tables[self.table].entry.schema.width as usize;
        let Some(order) = &detour.order else {
            return detour.claim(&mut core, self.table, self.id, width, into);
        };
        let mut rows = vec![T::default(); order.keys().len() * width];
        detour.claim(&mut core, self.table, self.id, width, &mut rows)?;
        order.expand(&rows, width, into);
        Ok(())
    }
}

/// What a pull does besides waiting for its request.
#[derive(Debug)]
pub(crate) struct Detour {
    /// How the keys were sorted, if they had to be.
    pub(crate) order: Option<Order>,
    /// The last of the sorted keys, for which there is no room in one request.
    pub(crate) rest: Vec<u64>,
    pub(crate) options: PullOptions,
}

impl Detour {
    /// Waits for the request's rows, then pulls those of the other keys.
    fn claim<T: Element>(
        &self,
        core: &mut Core,
        table: TableIndex,
        id: RequestId,
        width: usize,
        rows: &mut [T],
    ) -> Result<(), RequestError> {
        let (first, rest) = rows.split_at_mut(rows.len() - self.rest.len() * width);
        claim(core, table, id, bytemuck::cast_slice_mut(first))?;
        if self.rest.is_empty() {
            return Ok(());
        }
        // What the request came after is over.
        let options = PullOptions { after: None, ..self.options };
        let rest = bytemuck::cast_slice_mut(rest);
        let is_sorted = pull_keys_into(core, table, &self.rest, &options, rest)?;
        assert!(is_sorted, "the keys are sorted");
        Ok(())
    }
}

impl<T: Element> Drop for PendingPull<T> {
    fn drop(&mut self) {
        if let (false, Ok(mut core)) = (self.claimed, self.core.enter()) {
            core.pending.forget(self.id);
        }
    }
}

impl<T: Element> fmt::Debug for PendingPull<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("PendingPull").field("timestamp", &self.id).finish_non_exhaustive()
    }
}
