//! The program's processes that make up a cluster.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;

use super::program;

/// A coordinator and servers; dropping it ends them.
pub(crate) struct Cluster {
    program: PathBuf,
    folder: PathBuf,
    site: Box<dyn Fn(usize) -> Site>,
    coordinators: Vec<Process>,
    servers: BTreeMap<u64, Process>,
    /// Folders of servers that keep data, by number; `None` for a cluster in memory.
    folders: Option<BTreeMap<u64, String>>,
    /// Address of the coordinator that was killed.
    gone: String,
    /// More options of every server.
    options: &'static [&'static str],
    started: usize,
}

/// Where a process runs.
pub(crate) struct Site {
    /// What starts a program there, and its first arguments; empty: it is started as it is.
    pub(crate) launcher: Vec<String>,
    /// Address to listen on.
    pub(crate) listen: &'static str,
    /// Transports that servers offer there.
    pub(crate) transports: &'static str,
}

impl Site {
    /// This host.
    pub(crate) fn loopback() -> Self {
        Self { launcher: Vec::new(), listen: "127.0.0.1:0", transports: "shm,tcp" }
    }
}

struct Process {
    child: Child,
    address: String,
    server: u64,
}

/// Long for any machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// Asks until what is seen is as wanted.
pub(crate) fn eventually(what: &str, mut look: impl FnMut() -> (bool, Value)) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let (is_so, seen) = look();
        if is_so {
            return;
        }
        assert!(Instant::now() < deadline, "{what}: {seen}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

impl Cluster {
    /// Starts it with one coordinator on this host.
    pub(crate) fn start(folder: &Path, options: &[&str]) -> Self {
        Self::start_on(folder, Box::new(|_| Site::loopback()), options)
    }

    /// Starts it with one coordinator on host 0 of these.
    pub(crate) fn start_on(
        folder: &Path,
        site: Box<dyn Fn(usize) -> Site>,
        options: &[&str],
    ) -> Self {
        let program = program::copy_into(folder);
        let mut cluster = Self {
            program,
            folder: folder.to_owned(),
            site,
            coordinators: Vec::new(),
            servers: BTreeMap::new(),
            folders: None,
            gone: String::new(),
            options: &[],
            started: 0,
        };
        cluster.add_coordinator(options);
        cluster
    }

    /// From now on servers have folders of their own.
    pub(crate) fn keep_data(&mut self) {
        self.folders = Some(BTreeMap::new());
    }

    /// From now on servers are started with these, too.
    pub(crate) fn start_servers_with(&mut self, options: &'static [&'static str]) {
        self.options = options;
    }

    pub(crate) fn add_coordinator(&mut self, options: &[&str]) {
        self.add_coordinator_on(0, options);
    }

    pub(crate) fn add_coordinator_on(&mut self, host: usize, options: &[&str]) {
        let name = format!("coordinator-{}", self.coordinators.len());
        let site = (self.site)(host);
        let arguments = [&["coordinator", "--listen", site.listen][..], options].concat();
        self.coordinators.push(self.start_process(&site, &name, &arguments));
    }

    /// kill -9 of the only coordinator, and another one at its address with what it has stored.
    pub(crate) fn restart_coordinator(&mut self, options: &[&str]) {
        self.gone = self.coordinators[0].address.clone();
        self.kill_first_coordinator();
        self.start_coordinator_again(options);
    }

    /// kill -9 of the only coordinator and all servers.
    pub(crate) fn kill_first_coordinator_and_all(&mut self) {
        self.gone = self.coordinators[0].address.clone();
        self.kill_first_coordinator();
        self.kill_all();
    }

    /// Another coordinator at the address of the one that was killed, with what it has stored.
    pub(crate) fn start_coordinator_again(&mut self, options: &[&str]) {
        let address = self.gone.trim_start_matches("windlass://").to_owned();
        let arguments = [&["coordinator", "--listen", &address][..], options].concat();
        let site = (self.site)(0);
        self.coordinators.push(self.start_process(&site, "coordinator-again", &arguments));
    }

    /// kill -9 of the coordinator that was started first.
    pub(crate) fn kill_first_coordinator(&mut self) {
        let mut process = self.coordinators.remove(0);
        process.child.kill().unwrap();
        process.child.wait().unwrap();
    }

    fn coordinator_addresses(&self) -> String {
        let addresses = self.coordinators.iter().map(|one| one.address.as_str());
        addresses.collect::<Vec<_>>().join(",")
    }

    /// Starts another server; its number.
    pub(crate) fn add_server(&mut self) -> u64 {
        self.add_server_on(0, &[])
    }

    /// Starts another server on a host; its number.
    pub(crate) fn add_server_on(&mut self, host: usize, options: &[&str]) -> u64 {
        let name = format!("server-{}", self.started);
        self.started += 1;
        let number = self.start_server(&name, host, options);
        if let Some(folders) = &mut self.folders {
            folders.insert(number, name);
        }
        number
    }

    /// Starts a killed server again, with the folder it had.
    pub(crate) fn start_again(&mut self, number: u64) {
        let name = self.folders.as_ref().unwrap()[&number].clone();
        assert_eq!(self.start_server(&name, 0, &[]), number, "a server keeps its number");
    }

    fn start_server(&mut self, name: &str, host: usize, options: &[&str]) -> u64 {
        let address = self.coordinator_addresses();
        let site = (self.site)(host);
        let serve = ["serve", "--listen", site.listen, "--transports", site.transports];
        let rest = ["--memory", "256MiB", "--coordinator", address.as_str()];
        let data = ["--data-dir", name];
        let data = if self.folders.is_some() { &data[..] } else { &[] };
        let process = self.start_process(
            &site,
            name,
            &[&serve[..], &rest, data, self.options, options].concat(),
        );
        let number = process.server;
        self.servers.insert(number, process);
        number
    }

    fn start_process(&self, site: &Site, name: &str, arguments: &[&str]) -> Process {
        let mut command = match site.launcher.split_first() {
            None => Command::new(&self.program),
            Some((launcher, first)) => {
                let mut command = Command::new(launcher);
                command.args(first).arg(&self.program);
                command
            }
        };
        command.args(arguments);
        Process::start(command, &self.folder, name)
    }

    /// Where a server listens.
    pub(crate) fn address(&self, number: u64) -> &str {
        &self.servers[&number].address
    }

    /// Addresses of servers and coordinator, as clients take them.
    pub(crate) fn addresses(&self) -> String {
        let servers = self.servers.keys().map(|number| self.address(*number));
        let coordinators = self.coordinators.iter().map(|one| one.address.as_str());
        servers.chain(coordinators).collect::<Vec<_>>().join(",")
    }

    /// kill -9.
    pub(crate) fn kill(&mut self, number: u64) {
        let mut process = self.servers.remove(&number).unwrap();
        process.child.kill().unwrap();
        process.child.wait().unwrap();
    }

    /// kill -9 of all servers, as near to one moment as can be.
    pub(crate) fn kill_all(&mut self) {
        self.servers.values_mut().for_each(|server| server.child.kill().unwrap());
        let numbers: Vec<u64> = self.servers.keys().copied().collect();
        numbers.into_iter().for_each(|number| self.kill(number));
    }

    pub(crate) fn stop_for_a_while(&self, number: u64) {
        self.signal(number, "STOP");
    }

    pub(crate) fn go_on(&self, number: u64) {
        self.signal(number, "CONT");
    }

    pub(crate) fn stop_coordinator_for_a_while(&self) {
        signal(&self.coordinators[0], "STOP");
    }

    pub(crate) fn coordinator_goes_on(&self) {
        signal(&self.coordinators[0], "CONT");
    }

    fn signal(&self, number: u64, name: &str) {
        signal(&self.servers[&number], name);
    }

    pub(crate) fn map(&self) -> Value {
        self.run(&["cluster", "map"])
    }

    pub(crate) fn verify(&self) -> Value {
        self.run(&["verify", "--timeout", "60"])
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Value {
        let mut command = Command::new(&self.program);
        command.args(arguments).args(["--json", "--connect", &self.coordinator_addresses()]);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let output = program::start(&mut command).wait_with_output().unwrap();
        let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{arguments:?}: {stderr}{stdout}");
        serde_json::from_str(&stdout).unwrap()
    }
}

impl Process {
    fn start(mut command: Command, folder: &Path, name: &str) -> Self {
        let stderr = folder.join(format!("{name}.stderr"));
        command.args(["--json", "--stop-with-stdin"]);
        command.current_dir(folder).env_remove("WINDLASS_LOG");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(File::create(&stderr).unwrap());
        let mut child = program::start(&mut command);
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let text = || fs::read_to_string(&stderr).unwrap();
        let ready: Value = serde_json::from_str(&line)
            .unwrap_or_else(|error| panic!("{name}: {error}: {}", text()));
        let address = ready["address"].as_str().unwrap().to_owned();
        Self { child, address, server: ready["server"].as_u64().unwrap_or(u64::MAX) }
    }
}

/// What a failed test leaves of each process's messages.
const LINES_LEFT: usize = 40;

impl Drop for Cluster {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        for file in fs::read_dir(&self.folder).into_iter().flatten().flatten() {
            let path = file.path();
            if path.extension().is_some_and(|extension| extension == "stderr") {
                let text = fs::read_to_string(&path).unwrap_or_default();
                let lines: Vec<&str> = text.lines().collect();
                let last = lines[lines.len().saturating_sub(LINES_LEFT)..].join("\n");
                eprintln!("--- the end of {}:\n{last}", path.display());
            }
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already; that is then what was wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn signal(process: &Process, name: &str) {
    let id = process.child.id().to_string();
    let status = Command::new("kill").args([&format!("-{name}"), &id]).status().unwrap();
    assert!(status.success());
}
