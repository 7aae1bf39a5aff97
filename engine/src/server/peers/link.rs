//! Linking with one peer: a control connection to it, over which each shard opens a mailbox at the
//! equal shard there. The links live as long as the connection.

use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, RecvTimeoutError};
use windlass_transport::{
    Endpoint,
    control::{ControlError, ControlStream, host_identity},
};
use windlass_wire::{
    Blob, SessionId, ShardId,
    control::{ClientReply, ClientRequest, PROTOCOL_VERSION, Peer, PeerRole, Provider},
};

use super::{Mandate, Tickets};
use crate::{
    limits::COMPLETION_SLOTS,
    shard::{ChainCommand, ShardHandle, chain},
};

/// Between two attempts: short at first, since a peer that is told of a new map later refuses links
/// until then.
const RETRY_DELAY_MIN: Duration = Duration::from_millis(2);
const RETRY_DELAY_MAX: Duration = Duration::from_millis(200);

/// How long a peer may take to accept, and to answer.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(500);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// Between two looks whether the peer's shard has answered.
const ANSWER_POLL_INTERVAL: Duration = Duration::from_millis(1);

/// What one peer's thread goes by.
pub(super) struct Linker {
    pub(super) own: Peer,
    pub(super) peer: Peer,
    pub(super) address: String,
    pub(super) token: String,
    pub(super) shards: Vec<ShardHandle>,
    pub(super) providers: Vec<Provider>,
    pub(super) tickets: Tickets,
    pub(super) mandate: Mandate,
    /// Shards whose link broke; closed when the peer is not wanted any more.
    pub(super) broken: Receiver<ShardId>,
}

/// A connection over which links are made.
struct Connected {
    stream: ControlStream,
    provider: Provider,
}

/// Why there is no link.
#[derive(Debug, thiserror::Error)]
enum LinkError {
    #[error(transparent)]
    Control(#[from] ControlError),
    #[error("the peer refuses: {text}")]
    Refused { text: String },
    #[error("the peer answers something else than was asked")]
    Unexpected,
    #[error("another life of the peer answers: wait for the map that names it")]
    OtherLife,
    #[error("the peer has {its} shards and this server {own}: start both with one --shards")]
    ShardCount { its: u16, own: usize },
    #[error("no provider is usable by both servers: {reasons}")]
    NoProvider { reasons: String },
    #[error("{text}")]
    Own { text: String },
}

impl Linker {
    /// Keeps the links up until the peer is not wanted any more.
    pub(super) fn run(&mut self) {
        let mut delay = RETRY_DELAY_MIN;
        loop {
            match self.connect() {
                Ok(mut connected) => {
                    delay = RETRY_DELAY_MIN;
                    tracing::debug!(
                        peer = self.peer.server.0,
                        provider = connected.provider.name(),
                        "linked"
                    );
                    if !self.tend(&mut connected) {
                        return;
                    }
                }
                Err(error) => {
                    let error = chain(&error);
                    tracing::debug!(peer = self.peer.server.0, error, "not linked yet");
                }
            }
            match self.broken.recv_timeout(delay) {
                Ok(_) | Err(RecvTimeoutError::Timeout) => delay = (delay * 2).min(RETRY_DELAY_MAX),
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// Makes links anew that break; whether the peer is still wanted when that does not work.
    fn tend(&self, connected: &mut Connected) -> bool {
        while let Ok(shard) = self.broken.recv() {
            if connected.stream.is_closed() || self.link(connected, shard).is_err() {
                return true;
            }
        }
        false
    }

    /// Connects to the peer and links all shards.
    fn connect(&self) -> Result<Connected, LinkError> {
        let mut stream = ControlStream::connect_within(&self.address, CONNECT_TIMEOUT)?;
        // Without a deadline a peer that stopped would only be noticed later.
        let _ = stream.set_read_timeout(Some(ANSWER_TIMEOUT));
        let ticket = self.tickets.at(self.peer.server);
        let hello = ClientRequest::Hello {
            version: PROTOCOL_VERSION,
            token: self.token.clone(),
            session: SessionId(windlass_transport::random::number()),
            incarnation: self.own.incarnation,
            rank: None,
            host: host_identity(),
            peer: Some(PeerRole::Links { peer: self.own, ticket }),
        };
        let ClientReply::Welcome { server, incarnation, shard_count, providers, .. } =
            ask(&mut stream, &hello)?
        else {
            return Err(LinkError::Unexpected);
        };
        if (Peer { server, incarnation }) != self.peer {
            return Err(LinkError::OtherLife);
        }
        if usize::from(shard_count) != self.shards.len() {
            let error = LinkError::ShardCount { its: shard_count, own: self.shards.len() };
            tracing::error!(peer = server.0, "{error}");
            return Err(error);
        }
        let mut reasons = Vec::new();
        let mut connected = Connected { stream, provider: Provider::Tcp {} };
        for provider in self.providers.iter().filter(|own| providers.contains(own)) {
            connected.provider = *provider;
            match self.link_all(&mut connected) {
                Ok(()) => return Ok(connected),
                // By no provider will it go better.
                Err(error @ (LinkError::Control(_) | LinkError::Refused { .. })) => {
                    return Err(error);
                }
                Err(error) => reasons.push(format!("{}: {}", provider.name(), chain(&error))),
            }
        }
        Err(LinkError::NoProvider { reasons: reasons.join("; ") })
    }

    fn link_all(&self, connected: &mut Connected) -> Result<(), LinkError> {
        self.shards.iter().try_for_each(|shard| self.link(connected, shard.id()))
    }

    /// Links one shard; a link that it has to the peer ends.
    fn link(&self, connected: &mut Connected, shard: ShardId) -> Result<(), LinkError> {
        let Connected { stream, provider } = connected;
        let (peer, provider) = (self.peer, *provider);
        let own = self.shards.get(usize::from(shard.0)).ok_or(LinkError::Unexpected)?;
        let failed = |text| LinkError::Own { text };
        let open = |answer| ChainCommand::LinkOpen { peer, provider, answer };
        let endpoint = self.mandate.ask(own, open).map_err(failed)?;
        let open = ClientRequest::OpenMailbox { shard, provider, endpoint: Blob(endpoint.0) };
        let ClientReply::Mailbox { endpoint } = ask(stream, &open)? else {
            return Err(LinkError::Unexpected);
        };
        let endpoint = Endpoint(endpoint.0);
        let deadline = Instant::now() + ANSWER_TIMEOUT;
        let reply = loop {
            let endpoint = endpoint.clone();
            let connect = |answer| ChainCommand::LinkConnect { peer, endpoint, answer };
            match self.mandate.ask(own, connect).map_err(failed)? {
                Some(reply) => break reply,
                None if Instant::now() >= deadline => {
                    return Err(failed("the peer's shard does not answer".to_owned()));
                }
                None => std::thread::sleep(ANSWER_POLL_INTERVAL),
            }
        };
        let attach =
            ClientRequest::AttachMailbox { shard, reply, completion_slots: COMPLETION_SLOTS };
        let ClientReply::Attached { mailbox, ring_len, .. } = ask(stream, &attach)? else {
            return Err(LinkError::Unexpected);
        };
        let attach = |answer| ChainCommand::LinkAttach { peer, mailbox, ring_len, answer };
        self.mandate.ask(own, attach).map_err(failed)
    }
}

fn ask(stream: &mut ControlStream, request: &ClientRequest) -> Result<ClientReply, LinkError> {
    match stream.ask(request)? {
        ClientReply::Refused { text, .. } => Err(LinkError::Refused { text }),
        reply => Ok(reply),
    }
}
