//! Writes messages into mailboxes, or queues them while their server is out of reach.

use windlass_transport::error::chain;
use windlass_wire::ServerId;

use super::{
    Core,
    link::Held,
    message::{Message, Route, Values},
    retry_queue::{Kept, KeptValues},
    wait::Patience,
    write::Unsealed,
};
use crate::error::RequestError;

/// What came of writing a kept message.
#[derive(Debug)]
pub(super) enum Written {
    Done,
    /// Its server is out of reach.
    Nowhere(Kept),
    /// The mailbox is full.
    Full(Kept),
}

/// Writes one message into its link's mailbox, waiting for room, and counts it as a part of its
/// request.
pub(super) fn send(
    core: &mut Core,
    route: Route,
    message: &Message<'_>,
) -> Result<(), RequestError> {
    if !core.links.takes(&core.cluster, &core.recovery, route) {
        return put_off(core, route, message);
    }
    match core.links.make_link(&mut core.cluster, &mut core.session, route.link) {
        Ok(()) => {}
        Err(error) if core.links.all[route.link].state.failed => {
            tracing::debug!(error = chain(&error), "a link is not made");
            return put_off(core, route, message);
        }
        Err(error) => {
            core.pending.release(&mut core.links, message.held());
            return Err(RequestError::Setup { text: chain(&error) });
        }
    }
    let inline = match message.values {
        Values::Inline(bytes) => bytes,
        Values::None | Values::At { .. } | Values::Lent { .. } => &[],
    };
    let bytes = match core.links.seal(&mut core.pending.memory, route.link, message, inline) {
        Ok(bytes) => bytes,
        Err(Unsealed::LinkFailed) => return put_off(core, route, message),
        Err(Unsealed::Setup(error)) => {
            core.pending.release(&mut core.links, message.held());
            return Err(error);
        }
    };
    let mut patience = None;
    let lent_len = match message.values {
        Values::Lent { local, .. } => local.len as usize,
        _ => 0,
    };
    let len = message.keys.len() + inline.len() + lent_len;
    while !core.rounds.leaves_room(&core.links, route.link, &message.header, len)
        || core.links.write(route.link, &bytes, message, inline).is_err()
    {
        if patience.is_none() {
            patience = Some(Patience::new(core.pending.time_left(&core.session, message.request)));
        }
        let waited = match core.rounds.round_fills(&core.links, route.link, &message.header, len) {
            true => Err(RequestError::RoundFull),
            false => core.wait_a_little(&mut patience),
        };
        if let Err(error) = waited {
            core.pending.release(&mut core.links, message.held());
            return Err(core.rounds.blame_round(&core.pending.requests, error));
        }
        if !core.links.takes(&core.cluster, &core.recovery, route) {
            return put_off(core, route, message);
        }
    }
    if let Some(request) = core.pending.requests.find_mut(message.request) {
        request.parts_left += 1;
    }
    core.links.push_out(route.link);
    Ok(())
}

/// Keeps a message that cannot be sent now.
#[cold]
pub(super) fn put_off(
    core: &mut Core,
    route: Route,
    message: &Message<'_>,
) -> Result<(), RequestError> {
    if core.session.options.retry_for.is_zero() {
        core.pending.release(&mut core.links, message.held());
        let server = core.links.all.get(route.link).map_or(ServerId(0), |link| link.server);
        return Err(RequestError::ServerGone { server });
    }
    if let Some(request) = core.pending.requests.find_mut(message.request) {
        request.parts_left += 1;
    }
    let values = match message.values {
        Values::None => KeptValues::None,
        Values::Inline(bytes) => KeptValues::Inline(bytes.to_vec()),
        Values::At { region, offset, held } => KeptValues::At { region, offset, held },
        Values::Lent { region, offset, .. } => {
            KeptValues::At { region, offset, held: Held::Nothing }
        }
    };
    let (request, mut header, reply) = (message.request, message.header, message.reply);
    let values = core.pending.decoded_values(&mut core.links, &mut header, values);
    let keys = message.list.to_vec();
    core.retries.keep(
        &mut core.pending,
        &mut core.recovery,
        Kept { request, header, keys, values, reply },
    );
    Ok(())
}
