//! Greeting a server: who is there, and by which providers it can be reached.

use std::time::Duration;

use windlass_transport::{
    Transport, control::host_identity, error::chain, late_run::open_shm, shm::ShmOptions,
    spin::Spin, tcp::Tcp, verbs::VerbsTransport,
};
use windlass_wire::{
    Incarnation, ServerId,
    control::{ClientReply, ClientRequest, PROTOCOL_VERSION, Provider},
};

use super::{Links, Session, control::Control};
use crate::error::ConnectError;

/// How long a client that tries again waits for a host that it dials: the system repeats what was lost after a
/// second only, and by then others may have the rows.
const REDIALS_AFTER: Duration = Duration::from_millis(500);

/// What a server says of itself.
pub(super) struct Welcome {
    pub(super) server: ServerId,
    /// The server's incarnation, and that with which its process began.
    pub(super) life: (Incarnation, Incarnation),
    pub(super) shard_count: u16,
    pub(super) providers: Vec<Provider>,
    pub(super) notes: Vec<String>,
}

impl Session {
    /// Greets whoever is at an address. `limit` bounds that, and all that is asked of it until the
    /// connection has another limit.
    pub(super) fn greet(
        &self,
        address: &str,
        limit: Duration,
    ) -> Result<(Control, Welcome), ConnectError> {
        let mut control = Control::connect(address, limit, self.options.watch.clone())?;
        let hello = ClientRequest::Hello {
            version: PROTOCOL_VERSION,
            token: self.options.token.clone().unwrap_or_default(),
            session: self.id,
            incarnation: self.incarnation,
            rank: self.options.rank,
            host: host_identity(),
            peer: None,
        };
        match ask(&mut control, &hello)? {
            ClientReply::Welcome {
                server,
                started,
                shard_count,
                providers,
                notes,
                incarnation,
                ..
            } => {
                let life = (incarnation, started);
                Ok((control, Welcome { server, life, shard_count, providers, notes }))
            }
            _ => Err(ConnectError::Unexpected { address: address.to_owned() }),
        }
    }
}

impl Links {
    /// The best provider that both sides have, and the client's transport of it.
    pub(super) fn choose_provider(
        &mut self,
        session: &Session,
        offered: &[Provider],
        control: &Control,
        notes: &mut Vec<String>,
    ) -> Result<(Provider, usize), ConnectError> {
        for provider in session.options.providers.clone() {
            if !offered.contains(&provider) {
                notes.push(format!("{}: the server does not offer it", provider.name()));
                continue;
            }
            match self.transport_of(session, provider, control) {
                Ok(transport) => return Ok((provider, transport)),
                Err(error) => notes.push(chain(&error)),
            }
        }
        let (address, reasons) = (control.peer().to_owned(), notes.join("; "));
        Err(ConnectError::NoProvider { address, reasons })
    }

    /// The client's transport of a provider, opened at its first use.
    fn transport_of(
        &mut self,
        session: &Session,
        provider: Provider,
        control: &Control,
    ) -> Result<usize, ConnectError> {
        let found = self
            .transports
            .iter()
            .position(|transport| transport.capabilities().provider == provider.name());
        if let Some(found) = found {
            return Ok(found);
        }
        let transport: Box<dyn Transport> = match provider {
            Provider::Verbs {} => Box::new(VerbsTransport::open(session.options.verbs.clone())?),
            Provider::Shm {} => open_shm(ShmOptions::default())?,
            Provider::Tcp {} => {
                let mut options = session.options.tcp;
                if let Ok(local) = control.local_address() {
                    options.bind.set_ip(local.ip());
                }
                if !session.options.retry_for.is_zero() {
                    options.dial_timeout = options.dial_timeout.min(REDIALS_AFTER);
                }
                Box::new(Tcp::open(options)?)
            }
        };
        self.transports.push(transport);
        self.spin = Spin::over(&self.transports);
        Ok(self.transports.len() - 1)
    }
}

/// Asks; a refusal is an error.
pub(super) fn ask(
    control: &mut Control,
    request: &ClientRequest,
) -> Result<ClientReply, ConnectError> {
    match control.ask(request)? {
        ClientReply::Refused { status, text } => {
            Err(ConnectError::Refused { address: control.peer().to_owned(), kind: status, text })
        }
        reply => Ok(reply),
    }
}
