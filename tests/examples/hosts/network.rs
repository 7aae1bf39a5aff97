//! Hosts as network namespaces: each has an address of its own and a cable to one switch, which is a
//! bridge in a namespace of its own. The machine's own network is not touched.

use std::{path::Path, process::Command};

use crate::Failure;

/// Host of the coordinator, of the three servers, of the clients, and of workers that are to vanish.
pub(crate) const COORDINATOR: usize = 0;
pub(crate) const CLIENTS: usize = 4;
pub(crate) const WORKERS: usize = 5;
pub(crate) const ADDRESSES: [&str; 6] =
    ["10.77.0.10", "10.77.0.1", "10.77.0.2", "10.77.0.3", "10.77.0.20", "10.77.0.30"];

const NAMES: [&str; 6] = ["coordinator", "one", "two", "three", "clients", "workers"];
const SWITCH: &str = "switch";
const BRIDGE: &str = "bridge";
const DEVICE: &str = "eth0";
const NAME_BEGINS: &str = "windlass-";
const RUN_FOLDER: &str = "/run/netns";
/// A station that does not exist: what is sent there is lost without a word.
const NOBODY: &str = "02:00:00:00:00:01";

/// The hosts of one run, named after its process.
#[derive(Clone, Debug)]
pub(crate) struct Network {
    prefix: String,
}

/// A network that is taken down when this is dropped, with every process that is left in it.
pub(crate) struct Built(pub(crate) Network);

impl Built {
    /// Builds it, after what was left by runs that were killed.
    pub(crate) fn build() -> Result<Self, Failure> {
        remove_left()?;
        let network = Network { prefix: format!("{NAME_BEGINS}{}", std::process::id()) };
        let built = Self(network.clone());
        let switch = network.name(SWITCH);
        ip(&["netns", "add", &switch])?;
        ip(&["-n", &switch, "link", "add", BRIDGE, "type", "bridge"])?;
        ip(&["-n", &switch, "link", "set", BRIDGE, "up"])?;
        for (name, address) in NAMES.into_iter().zip(ADDRESSES) {
            let host = network.name(name);
            ip(&["netns", "add", &host])?;
            let pair = ["link", "add", name, "type", "veth", "peer", "name", DEVICE];
            ip(&[&["-n", &switch][..], &pair, &["netns", &host]].concat())?;
            ip(&["-n", &switch, "link", "set", name, "master", BRIDGE, "up"])?;
            ip(&["-n", &host, "addr", "add", &format!("{address}/24"), "dev", DEVICE])?;
            ip(&["-n", &host, "link", "set", "lo", "up"])?;
            ip(&["-n", &host, "link", "set", DEVICE, "up"])?;
        }
        Ok(built)
    }
}

impl Drop for Built {
    fn drop(&mut self) {
        for name in NAMES.into_iter().chain([SWITCH]) {
            remove(&self.0.name(name));
        }
    }
}

impl Network {
    /// One that was built by another process.
    pub(crate) fn named(prefix: &str) -> Self {
        Self { prefix: prefix.to_owned() }
    }

    pub(crate) fn prefix(&self) -> &str {
        &self.prefix
    }

    /// What starts a program on a host.
    pub(crate) fn launcher(&self, host: usize) -> Vec<String> {
        let words = ["ip", "netns", "exec"].map(str::to_owned);
        words.into_iter().chain([self.name(NAMES[host])]).collect()
    }

    /// The only process on a host.
    pub(crate) fn process(&self, host: usize) -> Result<u32, Failure> {
        let listed =
            Command::new("ip").args(["netns", "pids", &self.name(NAMES[host])]).output()?;
        let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
        listed
            .trim()
            .parse()
            .map_err(|_| Failure(format!("more or less than one process: {listed}")))
    }

    /// Pulls the cable of a host out, or puts it back.
    pub(crate) fn set_link(&self, host: usize, is_up: bool) -> Result<(), Failure> {
        let state = if is_up { "up" } else { "down" };
        ip(&["-n", &self.name(SWITCH), "link", "set", NAMES[host], state])
    }

    /// Cuts a host off from the coordinator and the other servers, in both directions; clients still
    /// reach it. Or lets it back.
    pub(crate) fn set_cut_off(&self, host: usize, is_cut_off: bool) -> Result<(), Failure> {
        for other in (COORDINATOR..CLIENTS).filter(|other| *other != host) {
            for (at, to) in [(host, other), (other, host)] {
                let name = self.name(NAMES[at]);
                let neighbour = ["-n", &name, "neigh"];
                let rest: &[&str] = if is_cut_off {
                    &["replace", ADDRESSES[to], "lladdr", NOBODY, "dev", DEVICE, "nud", "permanent"]
                } else {
                    &["del", ADDRESSES[to], "dev", DEVICE]
                };
                ip(&[&neighbour[..], rest].concat())?;
            }
        }
        Ok(())
    }

    /// Makes a host's link slow, in what it sends; how, or why this kernel cannot.
    pub(crate) fn slow_down(&self, host: usize) -> Result<&'static str, String> {
        let name = self.name(NAMES[host]);
        let add = ["-n", &name, "qdisc", "add", "dev", DEVICE, "root"];
        let netem = ["netem", "delay", "5ms", "1ms", "loss", "0.5%"];
        let bucket = ["tbf", "rate", "20mbit", "burst", "16kb", "latency", "40ms"];
        if run("tc", &[&add[..], &netem].concat()).is_ok() {
            return Ok("netem: 5 ms later, 0.5% lost");
        }
        match run("tc", &[&add[..], &bucket].concat()) {
            Ok(()) => Ok("tbf: 20 Mbit/s, at most 40 ms queued, the rest lost"),
            Err(Failure(reason)) => Err(reason),
        }
    }

    /// As fast as before.
    pub(crate) fn speed_up(&self, host: usize) -> Result<(), Failure> {
        run("tc", &["-n", &self.name(NAMES[host]), "qdisc", "del", "dev", DEVICE, "root"])
    }

    /// Has a host lose so many percent of what it is sent, by everybody or by one other host.
    pub(crate) fn lose(
        &self,
        host: usize,
        percent: u32,
        from: Option<usize>,
    ) -> Result<(), Failure> {
        let probability = format!("{:.2}", f64::from(percent) / 100.0);
        let source = from.map(|from| ["-s", ADDRESSES[from]]);
        let statistic = ["-m", "statistic", "--mode", "random", "--probability", &probability];
        let rule: Vec<&str> = ["-A", "INPUT", "-i", DEVICE]
            .into_iter()
            .chain(source.into_iter().flatten())
            .chain(statistic)
            .chain(["-j", "DROP"])
            .collect();
        self.filter(host, &rule)
    }

    /// It loses nothing any more.
    pub(crate) fn hear_again(&self, host: usize) -> Result<(), Failure> {
        self.filter(host, &["-F", "INPUT"])
    }

    fn filter(&self, host: usize, rule: &[&str]) -> Result<(), Failure> {
        let name = self.name(NAMES[host]);
        ip(&[&["netns", "exec", &name, "iptables", "-w"][..], rule].concat())
    }

    fn name(&self, host: &str) -> String {
        format!("{}-{host}", self.prefix)
    }
}

/// Removes the namespaces of runs whose process is gone.
fn remove_left() -> Result<(), Failure> {
    let Ok(entries) = std::fs::read_dir(RUN_FOLDER) else { return Ok(()) };
    for entry in entries {
        let name = entry?.file_name().to_string_lossy().into_owned();
        let process = name.strip_prefix(NAME_BEGINS).and_then(|rest| rest.split('-').next());
        if process.is_some_and(|id| !Path::new("/proc").join(id).exists()) {
            remove(&name);
        }
    }
    Ok(())
}

/// Removes a namespace and ends what still runs in it; there may be none.
fn remove(name: &str) {
    let listed = Command::new("ip").args(["netns", "pids", name]).output();
    let pids = listed.map(|output| output.stdout).unwrap_or_default();
    for pid in String::from_utf8_lossy(&pids).split_whitespace() {
        let _ = run("kill", &["-9", pid]);
    }
    let _ = run("ip", &["netns", "del", name]);
}

fn ip(arguments: &[&str]) -> Result<(), Failure> {
    run("ip", arguments)
}

fn run(program: &str, arguments: &[&str]) -> Result<(), Failure> {
    let output = Command::new(program).args(arguments).output()?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(Failure(format!("{program} {}: {text}", arguments.join(" "))))
}
