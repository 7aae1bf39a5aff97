//! The channels by which other threads reach the coordinator.

use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicU64, Ordering},
};

use crossbeam::channel::{Receiver, Sender, bounded};
use windlass_replication::membership::ADDRESS_BYTES_MAX;
use windlass_transport::control::{ControlError, ControlStream};
use windlass_wire::{
    ServerId, ServerSecret,
    control::{ClientReply, ClientRequest, RefusalKind, encode_frame},
    coordination::{Kept, Order, Report},
};

use super::event::Event;
use crate::{
    limits::{ORDERS_QUEUED_MAX, SERVER_NUMBER_MAX},
    refusal::{Refusal, invalid},
    shard::chain,
};

/// Where the answer to a request goes.
pub(super) type Answer = Sender<Result<ClientReply, Refusal>>;

/// What a server says of itself when it joins: [`ClientRequest::Join`].
#[derive(Clone, Debug)]
pub(crate) struct Joining {
    /// The number it had.
    pub(crate) server: Option<ServerId>,
    /// The cluster it had it in, or zero.
    pub(crate) cluster: u64,
    /// Where its control port listens.
    pub(crate) address: String,
    /// Its shards.
    pub(crate) shard_count: u16,
    /// Its life.
    pub(crate) incarnation: windlass_wire::Incarnation,
    /// What it holds of what it acknowledged.
    pub(crate) kept: Kept,
    /// What it proves its number by.
    pub(crate) secret: ServerSecret,
}

impl Joining {
    /// Whether any server can be so.
    pub(super) fn check(&self) -> Result<(), Refusal> {
        if self.server.is_some_and(|server| server.0 > SERVER_NUMBER_MAX) {
            return Err(invalid("no cluster has given so high a number to a server"));
        }
        if self.address.len() > ADDRESS_BYTES_MAX || self.shard_count == 0 {
            return Err(invalid("the address is too long, or there are no shards"));
        }
        Ok(())
    }

    /// What a request to join says. Panics when it is another request.
    pub(crate) fn from_request(request: ClientRequest) -> Self {
        let ClientRequest::Join {
            server,
            cluster,
            address,
            shard_count,
            incarnation,
            kept,
            secret,
        } = request
        else {
            panic!("the caller looked at the request: {request:?}");
        };
        Self { server, cluster, address, shard_count, incarnation, kept, secret }
    }

    pub(crate) fn into_request(self) -> ClientRequest {
        let Self { server, cluster, address, shard_count, incarnation, kept, secret } = self;
        ClientRequest::Join { server, cluster, address, shard_count, incarnation, kept, secret }
    }
}

/// What goes to a server over its connection, in order.
#[derive(Clone, Debug)]
pub(crate) enum Downward {
    /// The answer to its join.
    Reply(Box<ClientReply>),
    /// What it is to do. Shared, since most orders go to everybody.
    Order(Arc<SharedOrder>),
}

/// An order, encoded when first sent over a connection.
#[derive(Debug)]
pub(crate) struct SharedOrder {
    pub(crate) order: Order,
    frame: OnceLock<Vec<u8>>,
}

impl SharedOrder {
    pub(super) fn new(order: Order) -> Arc<Self> {
        Arc::new(Self { order, frame: OnceLock::new() })
    }

    fn frame(&self) -> &[u8] {
        self.frame.get_or_init(|| encode_frame(&self.order))
    }
}

/// A handle to the coordinator of this process.
#[derive(Clone, Debug)]
pub(crate) struct Desk {
    events: Sender<Event>,
    next_connection: Arc<AtomicU64>,
}

impl Desk {
    pub(super) fn new(events: Sender<Event>) -> Self {
        Self { events, next_connection: Arc::new(AtomicU64::new(1)) }
    }

    /// Asks, and waits for the answer.
    pub(crate) fn ask(&self, request: ClientRequest) -> Result<ClientReply, Refusal> {
        let (answer, receiver) = bounded(1);
        let stopped = || {
            Refusal::new(RefusalKind::NoCoordinator {}, "the coordinator has stopped".to_owned())
        };
        self.events.send(Event::Ask { request, answer }).map_err(|_| stopped())?;
        receiver.recv().unwrap_or_else(|_| Err(stopped()))
    }

    /// Opens the connection of the server in this process.
    pub(crate) fn connect(&self, joining: Joining) -> (u64, Receiver<Downward>) {
        self.join(joining, true)
    }

    fn join(&self, joining: Joining, is_local: bool) -> (u64, Receiver<Downward>) {
        let connection = self.next_connection.fetch_add(1, Ordering::Relaxed);
        let (downward, receiver) = bounded(ORDERS_QUEUED_MAX);
        // A stopped coordinator drops the sender, which the receiver sees.
        let _ = self.events.send(Event::Joining { connection, joining, is_local, downward });
        (connection, receiver)
    }

    /// Passes on what a server reports.
    pub(crate) fn report(&self, connection: u64, report: Report) {
        let _ = self.events.send(Event::Report { connection, report });
    }

    /// Tells that a server's connection is gone.
    pub(crate) fn close(&self, connection: u64) {
        let _ = self.events.send(Event::Closed { connection });
    }

    /// Ends the coordinator.
    pub(crate) fn stop(&self) {
        let _ = self.events.send(Event::Stop);
    }

    /// Serves a connection by which a server joins, until it ends.
    pub(crate) fn serve(
        &self,
        mut stream: ControlStream,
        joining: Joining,
    ) -> Result<(), ControlError> {
        // A member is heard by its heartbeats.
        let patient = stream.set_read_timeout(None);
        debug_assert!(patient.is_ok(), "the socket is open");
        let (connection, downward) = self.join(joining, false);
        let Ok(writing) = stream.try_clone() else { return Ok(()) };
        let writer = std::thread::Builder::new()
            .name("windlass-orders".to_owned())
            .stack_size(WRITER_STACK_LEN)
            .spawn(move || write(writing, &downward));
        let received = if writer.is_ok() { self.read(&mut stream, connection) } else { Ok(()) };
        self.close(connection);
        stream.shutdown();
        received
    }

    fn read(&self, stream: &mut ControlStream, connection: u64) -> Result<(), ControlError> {
        while let Some(report) = stream.receive::<Report>()? {
            self.report(connection, report);
        }
        Ok(())
    }
}

const WRITER_STACK_LEN: usize = 256 << 10;

/// Sends what the stepping thread wants sent, until it closes the connection or the peer does.
fn write(mut stream: ControlStream, downward: &Receiver<Downward>) {
    for next in downward {
        let sent = match next {
            Downward::Reply(reply) => stream.send(&*reply),
            Downward::Order(order) => stream.send_frame(order.frame()),
        };
        if let Err(error) = sent {
            tracing::debug!(peer = stream.peer(), error = chain(&error), "a server is gone");
            break;
        }
    }
    // The reader sees it, and the stepping thread hears of it.
    stream.shutdown();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_behind_which_there_is_none_is_refused() {
        let joining = |number| Joining {
            server: Some(ServerId(number)),
            cluster: 1,
            address: "127.0.0.1:7700".to_owned(),
            shard_count: 1,
            incarnation: windlass_wire::Incarnation(1),
            kept: Kept::Whole {},
            secret: ServerSecret([7; 16]),
        };
        joining(SERVER_NUMBER_MAX).check().unwrap();
        for number in [SERVER_NUMBER_MAX + 1, u32::MAX] {
            joining(number).check().unwrap_err();
        }
    }
}
