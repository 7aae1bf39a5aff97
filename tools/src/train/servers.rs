//! Servers on this host for the length of a run.

use std::path::PathBuf;

use serde::Deserialize;
use windlass_wire::ServerId;

use crate::{
    process::{Process, ProcessError},
    verbs_flags::VerbsFlags,
};

/// Server processes that form one cluster, with a coordinator of their own where there are replicas;
/// dropping them stops them.
#[derive(Debug)]
pub struct Servers {
    options: ServerOptions,
    // Before the coordinator, which they would miss.
    members: Vec<Member>,
    coordinator: Option<Coordinator>,
    address: String,
    started: u32,
    /// Folders of servers that were killed: the next ones go on in them.
    vacant: Vec<PathBuf>,
}

/// How to start them.
#[derive(Clone, Debug)]
pub struct ServerOptions {
    /// How many processes, from 1.
    pub count: u32,
    /// Copies of each partition, from 1 to `count`.
    pub replicas: u8,
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
    /// Data directory of the only server, for tables that are kept on disk; where there are replicas,
    /// each server has a folder in it.
    pub data: Option<PathBuf>,
    /// Settings of the verbs transport.
    pub verbs: VerbsFlags,
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self {
            count: 1,
            replicas: 1,
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

#[derive(Debug)]
struct Member {
    process: Process,
    id: ServerId,
    data: Option<PathBuf>,
}

#[derive(Debug)]
struct Coordinator {
    _process: Process,
    address: String,
}

/// The part of a server's first line that matters here.
#[derive(Deserialize)]
struct Ready {
    address: String,
    #[serde(default)]
    server: u32,
}

impl Servers {
    /// Starts them on loopback and waits until all are ready.
    ///
    /// # Errors
    /// When a process does not start or ends.
    pub fn start(options: &ServerOptions) -> Result<Self, ProcessError> {
        let mut servers = Self {
            options: options.clone(),
            members: Vec::new(),
            coordinator: None,
            address: String::new(),
            started: 0,
            vacant: Vec::new(),
        };
        if options.replicas > 1 {
            let mut process = Process::start("coordinator", &coordinator_words(options))?;
            let Ready { address, .. } = process.expect_line()?;
            servers.coordinator = Some(Coordinator { _process: process, address });
            servers.start_chained()?;
        } else {
            servers.start_unchained()?;
        }
        Ok(servers)
    }

    /// Addresses for clients: each is tried until one answers.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The coordinator's address, where there is one of its own.
    #[must_use]
    pub fn coordinator(&self) -> Option<&str> {
        self.coordinator.as_ref().map(|coordinator| coordinator.address.as_str())
    }

    /// The servers that run.
    #[must_use]
    pub fn ids(&self) -> Vec<ServerId> {
        self.members.iter().map(|member| member.id).collect()
    }

    /// Their process ids.
    #[must_use]
    pub fn process_ids(&self) -> Vec<u32> {
        self.members.iter().map(|member| member.process.id()).collect()
    }

    /// Kills a server at once, without a word to anybody. Returns whether there was one.
    pub fn kill(&mut self, server: ServerId) -> bool {
        let Some(at) = self.members.iter().position(|member| member.id == server) else {
            return false;
        };
        let Member { mut process, data, .. } = self.members.swap_remove(at);
        process.kill();
        self.vacant.extend(data);
        true
    }

    /// Starts one more server, which joins the others, and waits until it is ready. One that was killed
    /// and has a folder comes back in it.
    ///
    /// # Errors
    /// When the process does not start or ends.
    pub fn add(&mut self) -> Result<ServerId, ProcessError> {
        let (process, data) = self.spawn()?;
        self.await_ready(process, data)
    }

    /// The first server founds the cluster; the others join it.
    fn start_unchained(&mut self) -> Result<(), ProcessError> {
        for _ in 0..self.options.count {
            self.add()?;
        }
        Ok(())
    }

    /// A cluster with replicas is ready when all have joined.
    fn start_chained(&mut self) -> Result<(), ProcessError> {
        let processes: Result<Vec<_>, _> = (0..self.options.count).map(|_| self.spawn()).collect();
        for (process, data) in processes? {
            self.await_ready(process, data)?;
        }
        Ok(())
    }

    fn spawn(&mut self) -> Result<(Process, Option<PathBuf>), ProcessError> {
        let mut words = server_words(&self.options);
        let data = self.options.data.as_ref().map(|data| match self.options.replicas {
            1 => data.clone(),
            _ => self.vacant.pop().unwrap_or_else(|| data.join(format!("server-{}", self.started))),
        });
        if let Some(data) = &data {
            words.extend(["--data-dir".to_owned(), data.display().to_string()]);
        }
        match &self.coordinator {
            Some(Coordinator { address, .. }) => {
                words.extend(["--coordinator".to_owned(), address.clone()]);
            }
            None if self.started == 0 => {
                words.extend(["--servers".to_owned(), self.options.count.to_string()]);
            }
            None => words.extend(["--coordinator".to_owned(), self.address.clone()]),
        }
        let name = format!("server {}", self.started);
        self.started += 1;
        Ok((Process::start(&name, &words)?, data))
    }

    fn await_ready(
        &mut self,
        mut process: Process,
        data: Option<PathBuf>,
    ) -> Result<ServerId, ProcessError> {
        let Ready { address, server } = process.expect_line()?;
        if self.coordinator.is_some() {
            // Any of them may be the one that goes.
            let separator = if self.address.is_empty() { "" } else { "," };
            self.address = format!("{}{separator}{address}", self.address);
        } else if self.address.is_empty() {
            self.address = address;
        }
        self.members.push(Member { process, id: ServerId(server), data });
        Ok(ServerId(server))
    }
}

fn coordinator_words(options: &ServerOptions) -> Vec<String> {
    let mut words: Vec<String> =
        ["coordinator", "--json", "--stop-with-stdin", "--listen", "127.0.0.1:0"]
            .map(str::to_owned)
            .into();
    words.extend(["--replicas".to_owned(), options.replicas.to_string()]);
    words.extend(["--servers".to_owned(), options.count.to_string()]);
    words
}

fn server_words(options: &ServerOptions) -> Vec<String> {
    let mut words: Vec<String> =
        ["serve", "--json", "--stop-with-stdin", "--listen", "127.0.0.1:0"]
            .map(str::to_owned)
            .into();
    words.extend(["--shards".to_owned(), options.shards.to_string()]);
    words.extend(["--memory".to_owned(), options.memory_bytes.to_string()]);
    if !options.transports.is_empty() {
        words.extend(["--transports".to_owned(), options.transports.join(",")]);
    }
    if let Some(spin_us) = options.spin_us {
        words.extend(["--spin-us".to_owned(), spin_us.to_string()]);
    }
    if let Some(core) = options.core {
        words.extend(["--cores".to_owned(), core.to_string()]);
    }
    words.extend(options.verbs.words());
    words
}
