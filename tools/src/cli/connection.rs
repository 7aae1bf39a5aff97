//! The flags by which a command finds its servers.

use std::path::PathBuf;

use windlass_wire::control::Provider;

use super::{ExitStatus, Failure, token};
use crate::{train::message::Connection, verbs_flags::VerbsFlags};

/// Where `windlass serve` listens if it is told nothing.
pub(crate) const ADDRESS_DEFAULT: &str = "windlass://127.0.0.1:7700";

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Connection")]
pub(crate) struct ConnectionArguments {
    /// Any server of the cluster
    #[arg(long, value_name = "ADDRESS", default_value = ADDRESS_DEFAULT)]
    pub(crate) connect: String,
    #[command(flatten)]
    pub(crate) by: Means,
}

/// How to connect, wherever to.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Connection")]
pub(crate) struct Means {
    /// The file with the token that the servers ask for
    #[arg(long, value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,
    /// Use this transport or none: verbs, shm or tcp [default: the first of them that works]
    #[arg(long, value_name = "NAME", value_parser = provider)]
    pub(crate) transport: Option<Provider>,
    #[command(flatten)]
    pub(crate) verbs: VerbsFlags,
}

impl ConnectionArguments {
    pub(crate) fn connection(&self) -> Result<Connection, Failure> {
        self.by.connection(&self.connect)
    }
}

impl Means {
    pub(crate) fn connection(&self, address: &str) -> Result<Connection, Failure> {
        self.verbs.config().map_err(|error| Failure::new(ExitStatus::Usage, error))?;
        Ok(Connection {
            address: address.to_owned(),
            transport: self.transport.map(|provider| provider.name().to_owned()),
            token: self.token_file.as_deref().map(token::read).transpose()?,
            verbs: self.verbs.clone(),
        })
    }
}

/// Reads a transport's name.
pub(crate) fn provider(text: &str) -> Result<Provider, String> {
    Provider::ALL
        .into_iter()
        .find(|provider| provider.name() == text)
        .ok_or_else(|| format!("{text:?} is no transport: use verbs, shm or tcp"))
}
