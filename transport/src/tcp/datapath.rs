//! Posting and polling: no allocation, no logging, one system call for a batch of posts.

use std::time::{Duration, Instant};

use crate::{
    batch::Batch,
    error::PostError,
    fabric::{Completion, Operation, QueuePairId, QueuePairState, ScatterList, SendRequest},
};

use super::{
    Tcp,
    backwards::{PIECES, backwards},
    connection::{Connection, Phase},
    late::Late,
    limits::{DIRECT_CONNECTIONS_MAX, MESSAGE_LEN_MAX, POLLS_PER_CHECK, RECEIVES_MAX},
    region::Regions,
    wait::{Interest, Source},
};

/// Polls between two looks at the listener while a peer is expected.
const POLLS_PER_LOOK: u32 = 16;

/// Time between two checks of what may have gone silent.
pub(super) const CHECK_INTERVAL: Duration = Duration::from_millis(100);

impl Tcp {
    pub(super) fn post(
        &mut self,
        queue_pair: QueuePairId,
        requests: &mut Batch<SendRequest>,
    ) -> Result<(), PostError> {
        let connection =
            self.connections.find_mut(queue_pair.0).ok_or(PostError::QueuePairError)?;
        match connection.state() {
            QueuePairState::Ready => {}
            QueuePairState::Connecting => return Err(PostError::NotConnected),
            QueuePairState::Error => return Err(PostError::QueuePairError),
        }
        let mut taken_count = 0;
        let mut refusal = Ok(());
        if !(self.options.writes_in_order && connection.peer_promises.writes_in_order) {
            let seed = self.late_seed ^ u64::from(queue_pair.0);
            connection.late.get_or_insert_with(|| Box::new(Late::new(seed)));
        }
        let each_max = if self.options.reads_in_order { 1 } else { PIECES as usize };
        for request in requests.as_slice() {
            if connection.room() < each_max {
                refusal = Err(PostError::QueueFull);
                break;
            }
            if let Err(reason) = validate(&request.operation, &self.shared.regions) {
                refusal = Err(PostError::Invalid { reason });
                break;
            }
            taken_count += 1;
            if self.options.reads_in_order {
                connection.take(*request);
            } else {
                backwards(request, |piece| connection.take(piece));
            }
        }
        requests.take_front(taken_count);
        if taken_count > 0 {
            connection.acknowledgement.request_follows();
            connection.send(&mut self.shared);
            rest_not(connection, &mut self.lists.restless);
            if !is_settled(connection) {
                self.heat(queue_pair);
            }
        }
        refusal
    }

    pub(super) fn post_receives(
        &mut self,
        queue_pair: QueuePairId,
        count: u32,
    ) -> Result<(), PostError> {
        let connection =
            self.connections.find_mut(queue_pair.0).ok_or(PostError::QueuePairError)?;
        if connection.state() == QueuePairState::Error {
            return Err(PostError::QueuePairError);
        }
        if count > RECEIVES_MAX - connection.receives {
            return Err(PostError::QueueFull);
        }
        connection.receives += count;
        if connection.stalled_since.is_some() {
            connection.has_more = true;
            self.heat(queue_pair);
        }
        Ok(())
    }

    /// Has `queue_pair` tried by the next poll.
    pub(super) fn heat(&mut self, queue_pair: QueuePairId) {
        if let Some(connection) = self.connections.find_mut(queue_pair.0)
            && !connection.is_hot
        {
            connection.is_hot = true;
            self.lists.hot.push(queue_pair);
        }
    }

    pub(super) fn advance(&mut self) {
        self.polls = self.polls.wrapping_add(1);
        let is_direct = self.queue_pair_count <= DIRECT_CONNECTIONS_MAX;
        let period = if self.expected_count > 0 || !self.strangers.is_empty() {
            POLLS_PER_LOOK
        } else {
            POLLS_PER_CHECK
        };
        if !is_direct || self.polls.is_multiple_of(period) {
            self.look();
        }
        if self.polls.is_multiple_of(POLLS_PER_CHECK) {
            self.check();
        }
        let mut index = 0;
        while index < self.lists.hot.len() {
            let id = self.lists.hot[index];
            let Some(connection) = self.connections.find_mut(id.0) else {
                self.lists.hot.swap_remove(index);
                continue;
            };
            let may_receive =
                std::mem::take(&mut connection.is_readable) || connection.has_more || is_direct;
            let executed = connection.executed;
            connection.turn(may_receive, &mut self.shared);
            if connection.executed != executed && !connection.is_named {
                connection.is_named = true;
                self.lists.writers.push(id);
            }
            if connection.socket.is_none() || (!is_direct && is_settled(connection)) {
                connection.is_hot = false;
                rest_not(connection, &mut self.lists.restless);
                self.lists.hot.swap_remove(index);
            } else {
                index += 1;
            }
        }
    }

    pub(super) fn hand_out(&mut self, completions: &mut [Completion]) -> usize {
        let count = completions.len().min(self.shared.ready.len());
        for (completion, ready) in completions.iter_mut().zip(self.shared.ready.drain(..count)) {
            *completion = ready;
        }
        count
    }

    /// Sends what waits to be sent, and has the wait point watch for the rest. Returns whether
    /// there is nothing to poll.
    pub(super) fn prepare_sleep(&mut self) -> bool {
        let mut is_quiet = !std::mem::take(&mut self.connected);
        let mut is_watched = !self.strangers.is_empty() || self.accepts_again_at.is_some();
        for id in &self.lists.hot {
            if let Some(connection) = self.connections.find_mut(id.0) {
                rest_not(connection, &mut self.lists.restless);
            }
        }
        // From the last on: those that rest leave the list.
        for index in (0..self.lists.restless.len()).rev() {
            let Some(connection) = self.connections.find_mut(self.lists.restless[index].0) else {
                self.lists.restless.swap_remove(index);
                continue;
            };
            if connection.socket.is_none() || connection.phase == Phase::Pending {
                connection.is_restless = false;
                self.lists.restless.swap_remove(index);
                continue;
            }
            if let Phase::Dialling { .. } = connection.phase {
                // It is watched for the answer already.
                is_watched = true;
                continue;
            }
            if connection.acknowledgement.wanted {
                connection.emit_acknowledgement();
            }
            connection.send(&mut self.shared);
            let Some(socket) = &connection.socket else {
                is_quiet = false;
                continue;
            };
            let interest = Interest {
                receive: connection.stalled_since.is_none(),
                send: !connection.outbox.is_empty(),
            };
            if interest != connection.interest {
                let source = Source::Connection(connection.id);
                // A descriptor that is registered can be changed.
                let _ = self.wait_point.change(socket, source, interest);
                connection.interest = interest;
            }
            is_quiet &= !connection.has_more && !connection.holds_back();
            is_watched |= connection.is_pending();
            if !connection.is_pending() && is_settled(connection) {
                connection.is_restless = false;
                self.lists.restless.swap_remove(index);
            }
        }
        is_quiet &= self.shared.ready.is_empty();
        // Without a timer nothing would end the sleep in time: stay awake.
        is_quiet && (!is_watched || self.wait_point.set_timer(CHECK_INTERVAL).is_ok())
    }

    /// Finds out what ended the sleep.
    pub(super) fn finish_sleep(&mut self) {
        self.look();
        self.check();
    }

    /// Asks the kernel what is ready, and sees to those who dialled.
    fn look(&mut self) {
        let (mut dialled, mut introduced) = (false, false);
        let (connections, lists) = (&mut self.connections, &mut self.lists);
        self.wait_point.look(|source| match source {
            Source::Listener => dialled = true,
            Source::Stranger => introduced = true,
            Source::Connection(id) => {
                let Some(connection) = connections.find_mut(id.0) else { return };
                if connection.phase == Phase::Pending {
                    // It is watched for nothing: only an end is reported.
                    connection.socket = None;
                    return;
                }
                if let Phase::Dialling { .. } = connection.phase {
                    lists.answered.push(id);
                    return;
                }
                connection.is_readable = true;
                if !connection.is_hot {
                    connection.is_hot = true;
                    lists.hot.push(id);
                }
            }
            Source::Waker | Source::Timer => {}
        });
        self.see_to_answered();
        if dialled {
            self.accept();
        } else if introduced {
            self.meet_strangers();
        }
    }

    /// Ends what has been silent for too long; looks at most every [`CHECK_INTERVAL`].
    fn check(&mut self) {
        let now = Instant::now();
        if now - self.checked_at < CHECK_INTERVAL {
            return;
        }
        self.checked_at = now;
        self.drop_late_strangers(now);
        self.accept_again(now);
        for connection in self.connections.values_mut().filter(|one| one.is_pending()) {
            let was_expected = connection.is_expected();
            connection.check(now, &mut self.shared);
            if was_expected && !connection.is_expected() {
                self.expected_count -= 1;
                self.connected = true;
            }
        }
    }
}

/// Has the next sleep see to a connection: what it is watched for, or what has to go out, may have changed.
pub(super) fn rest_not(connection: &mut Connection, restless: &mut Vec<QueuePairId>) {
    if !connection.is_restless {
        connection.is_restless = true;
        restless.push(connection.id);
    }
}

/// Whether a poll has nothing to do for it unless something comes.
fn is_settled(connection: &Connection) -> bool {
    connection.outbox.is_empty()
        && connection.answers.is_empty()
        && !connection.has_unsent()
        && !connection.acknowledgement.wanted
        && !connection.has_more
}

fn validate(operation: &Operation, regions: &Regions) -> Result<(), &'static str> {
    match operation {
        Operation::Write { local, .. } | Operation::Read { local, .. } => {
            if local.len() > u64::from(MESSAGE_LEN_MAX) {
                return Err("it has more bytes than message_len_max");
            }
            validate_list(local, regions)
        }
        Operation::WriteInline { .. } | Operation::WriteWithImmediate { .. } => Ok(()),
        Operation::FetchAdd { local, .. } | Operation::CompareSwap { local, .. } => {
            if local.len != 8 {
                return Err("the old value of an atomic takes eight bytes");
            }
            validate_list(&(*local).into(), regions)
        }
    }
}

fn validate_list(list: &ScatterList, regions: &Regions) -> Result<(), &'static str> {
    if regions.contains(list) { Ok(()) } else { Err("a local slice leaves its region") }
}
