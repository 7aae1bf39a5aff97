//! A queue pair's outgoing requests: batches them, asks for a completion now and then so that the
//! send queue empties, and posts again what was refused for lack of room.

use crate::{
    batch::Batch,
    error::PostError,
    fabric::{
        InlineBytes, LocalSlice, Operation, QueuePairId, RemoteAddress, SendRequest, Transport,
        WorkId,
    },
};

/// Requests of one queue pair on their way to its send queue.
#[derive(Debug)]
pub struct Sender {
    queue_pair: QueuePairId,
    batch: Batch<SendRequest>,
    signal_every: u32,
    unsignaled_count: u32,
}

/// Requests a sender holds while the queue is full.
const BATCH_CAPACITY: usize = 256;

impl Sender {
    /// For a queue pair with room for `outstanding_max` requests.
    #[must_use]
    pub fn new(queue_pair: QueuePairId, outstanding_max: u32) -> Self {
        assert!(outstanding_max >= 4, "a send queue of {outstanding_max} is too short");
        Self {
            queue_pair,
            batch: Batch::with_capacity(BATCH_CAPACITY),
            signal_every: (outstanding_max / 4).min(64),
            unsignaled_count: 0,
        }
    }

    /// The queue pair.
    #[must_use]
    #[inline]
    pub fn queue_pair(&self) -> QueuePairId {
        self.queue_pair
    }

    /// How many more requests it can hold.
    #[must_use]
    #[inline]
    pub fn room(&self) -> usize {
        self.batch.room()
    }

    /// Whether nothing waits to be posted.
    #[must_use]
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.batch.is_empty()
    }

    /// Work ids of requests that were not posted yet and whose completion somebody waits for.
    pub fn unposted(&self) -> impl Iterator<Item = WorkId> + '_ {
        let requests = self.batch.as_slice().iter();
        requests.map(|request| request.work_id).filter(|work_id| *work_id != WorkId(0))
    }

    /// Adds a request whose success nobody waits for. Panics without room.
    #[inline]
    pub fn push(&mut self, operation: Operation) {
        self.unsignaled_count += 1;
        let signaled = self.unsignaled_count >= self.signal_every;
        self.push_request(SendRequest { work_id: WorkId(0), signaled, fenced: false, operation });
    }

    /// Adds a request that completes with `work_id`, which must not be zero. Panics without room.
    pub fn push_signaled(&mut self, work_id: WorkId, operation: Operation) {
        assert_ne!(work_id, WorkId(0), "work id 0 is for requests nobody waits for");
        self.push_request(SendRequest { work_id, signaled: true, fenced: false, operation });
    }

    /// Adds a read into one slice that completes with a work id, if it has one, and begins only when
    /// those before it have completed, if it is fenced. Panics without room.
    pub fn push_read(
        &mut self,
        (local, remote): (LocalSlice, RemoteAddress),
        fenced: bool,
        work_id: Option<WorkId>,
    ) {
        let operation = Operation::Read { local: local.into(), remote };
        self.unsignaled_count += 1;
        let signaled = work_id.is_some() || self.unsignaled_count >= self.signal_every;
        let work_id = work_id.unwrap_or_default();
        self.push_request(SendRequest { work_id, signaled, fenced, operation });
    }

    /// Writes bytes at once where the transport can, or else as [`Sender::push`] does, behind what it
    /// holds. Panics without room.
    ///
    /// # Errors
    /// When the queue pair has failed.
    #[inline]
    pub fn write(
        &mut self,
        transport: &mut dyn Transport,
        bytes: &[u8],
        remote: RemoteAddress,
    ) -> Result<(), PostError> {
        if self.write_now(transport, bytes, remote)? {
            return Ok(());
        }
        self.push(Operation::WriteInline { bytes: InlineBytes::new(bytes), remote });
        Ok(())
    }

    /// Writes bytes at once where the transport can and nothing it holds is before them; false when
    /// nothing was done.
    ///
    /// # Errors
    /// When the queue pair has failed.
    #[inline]
    pub fn write_now(
        &self,
        transport: &mut dyn Transport,
        bytes: &[u8],
        remote: RemoteAddress,
    ) -> Result<bool, PostError> {
        Ok(self.batch.is_empty() && transport.write_now(self.queue_pair, bytes, remote)?)
    }

    /// Writes a message at once where the transport can and nothing it holds is before it; false when
    /// nothing was done. See [`Transport::write_message_now`].
    ///
    /// # Errors
    /// When the queue pair has failed.
    #[inline]
    pub fn write_message_now(
        &self,
        transport: &mut dyn Transport,
        word: u64,
        parts: &[&[u8]],
        remote: RemoteAddress,
    ) -> Result<bool, PostError> {
        let id = self.queue_pair;
        Ok(self.batch.is_empty() && transport.write_message_now(id, word, parts, remote)?)
    }

    /// Posts what it holds; what does not fit the send queue now stays for the next time.
    ///
    /// # Errors
    /// When the queue pair has failed or the next request can never be posted.
    #[inline]
    pub fn flush(&mut self, transport: &mut dyn Transport) -> Result<(), PostError> {
        if self.batch.is_empty() {
            return Ok(());
        }
        match transport.post_send(self.queue_pair, &mut self.batch) {
            Err(PostError::QueueFull | PostError::NotConnected) => Ok(()),
            result => result,
        }
    }

    #[cfg(test)]
    pub(super) fn take_for_test<E>(
        &mut self,
        post: impl FnOnce(&mut Batch<SendRequest>) -> Result<(), E>,
    ) {
        assert!(post(&mut self.batch).is_ok());
    }

    #[inline]
    fn push_request(&mut self, request: SendRequest) {
        if request.signaled {
            self.unsignaled_count = 0;
        }
        let pushed = self.batch.push(request);
        assert!(pushed.is_ok(), "callers ask for room first");
    }
}
