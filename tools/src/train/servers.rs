//! Servers on this host for the length of a run.

use std::path::PathBuf;

use serde::Deserialize;

use crate::{
    process::{Process, ProcessError},
    verbs_flags::VerbsFlags,
};

/// Server processes that form one cluster; dropping them stops them.
#[derive(Debug)]
pub struct Servers {
    processes: Vec<Process>,
    address: String,
}

/// How to start them.
#[derive(Clone, Debug)]
pub struct ServerOptions {
    /// How many processes, from 1.
    pub count: u32,
    /// Shards of each.
    pub shards: u16,
    /// Names of the transports they offer; all if empty.
    pub transports: Vec<String>,
    /// Bytes of rows and state that each may hold.
    pub memory_bytes: u64,
    /// Microseconds that an idle shard spins.
    pub spin_us: Option<u32>,
    /// Core of the first shard; left to the system if not named.
    pub core: Option<usize>,
    /// Data directory of the only server, for tables that are kept on disk.
    pub data: Option<PathBuf>,
    /// Settings of the verbs transport.
    pub verbs: VerbsFlags,
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self {
            count: 1,
            shards: 1,
            transports: Vec::new(),
            memory_bytes: 4 << 30,
            spin_us: None,
            core: None,
            data: None,
            verbs: VerbsFlags::default(),
        }
    }
}

/// The part of a server's first line that matters here.
#[derive(Deserialize)]
struct Ready {
    address: String,
}

impl Servers {
    /// Starts them on loopback and waits until all are ready.
    pub fn start(options: &ServerOptions) -> Result<Self, ProcessError> {
        let mut servers = Self { processes: Vec::new(), address: String::new() };
        for number in 0..options.count {
            let mut arguments: Vec<String> =
                ["serve", "--json", "--stop-with-stdin", "--listen", "127.0.0.1:0"]
                    .map(str::to_owned)
                    .into();
            arguments.extend(["--shards".to_owned(), options.shards.to_string()]);
            arguments.extend(["--memory".to_owned(), options.memory_bytes.to_string()]);
            if !options.transports.is_empty() {
                arguments.extend(["--transports".to_owned(), options.transports.join(",")]);
            }
            if let Some(spin_us) = options.spin_us {
                arguments.extend(["--spin-us".to_owned(), spin_us.to_string()]);
            }
            if let Some(core) = options.core {
                arguments.extend(["--cores".to_owned(), core.to_string()]);
            }
            if let Some(data) = &options.data {
                arguments.extend(["--data-dir".to_owned(), data.display().to_string()]);
            }
            arguments.extend(options.verbs.words());
            if number == 0 {
                arguments.extend(["--servers".to_owned(), options.count.to_string()]);
            } else {
                arguments.extend(["--coordinator".to_owned(), servers.address.clone()]);
            }
            let mut process = Process::start(&format!("server {number}"), &arguments)?;
            let ready: Ready = process.expect_line()?;
            if number == 0 {
                servers.address = ready.address;
            }
            servers.processes.push(process);
        }
        Ok(servers)
    }

    /// Where clients connect.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }
}
