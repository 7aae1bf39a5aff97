//! What perftest measures on the RDMA device of this host: `ib_write_lat` and its kin, between two
//! processes of them, with the message size of the bench.

use std::{
    io::{self, Read},
    net::{Ipv4Addr, TcpListener},
    process::{Child, Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use windlass_transport::fabric_admin::{self, GidKind};

use super::pin::Pinned;

/// One of perftest's programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PerftestProgram {
    /// One-way latency of writes, twice: there, and the acknowledgement back.
    WriteLatency,
    /// Latency of reads.
    ReadLatency,
    /// Bandwidth of writes.
    WriteBandwidth,
    /// Bandwidth of reads.
    ReadBandwidth,
}

const LATENCY_ITERATIONS: u32 = 1000;
const BANDWIDTH_BYTES: usize = 32 << 20;
const TIME_MAX: Duration = Duration::from_secs(30);
const CONNECT_ATTEMPTS: u32 = 20;
const CONNECT_INTERVAL: Duration = Duration::from_millis(100);

/// A program with its arguments.
#[derive(Clone, Debug)]
pub(super) struct Perftest {
    program: PerftestProgram,
    arguments: Vec<String>,
}

impl PerftestProgram {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::WriteLatency => "ib_write_lat",
            Self::ReadLatency => "ib_read_lat",
            Self::WriteBandwidth => "ib_write_bw",
            Self::ReadBandwidth => "ib_read_bw",
        }
    }

    pub(super) fn is_latency(self) -> bool {
        matches!(self, Self::WriteLatency | Self::ReadLatency)
    }
}

impl Perftest {
    /// Whether perftest is installed.
    pub(super) fn is_installed() -> bool {
        Command::new(PerftestProgram::WriteLatency.name())
            .arg("--version")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok()
    }

    pub(super) fn new(program: PerftestProgram, bytes: usize) -> Self {
        let iterations = if program.is_latency() {
            LATENCY_ITERATIONS
        } else {
            u32::try_from(BANDWIDTH_BYTES / bytes.max(1)).unwrap_or(u32::MAX).clamp(16, 5000)
        };
        let mut arguments = vec![
            "-F".to_owned(),
            "-s".into(),
            bytes.to_string(),
            "-n".into(),
            iterations.to_string(),
        ];
        if let Some((device, gid)) = device() {
            arguments.extend(["-d".to_owned(), device]);
            if let Some(gid) = gid {
                arguments.extend(["-x".to_owned(), gid.to_string()]);
            }
        }
        Self { program, arguments }
    }

    /// Microseconds, or bytes per second.
    pub(super) fn run(&self) -> io::Result<f64> {
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port().to_string();
        let start = |extra: &[&str]| {
            Command::new(self.program.name())
                .args(&self.arguments)
                .args(["-p", &port])
                .args(extra)
                .stdin(Stdio::null())
                .stdout(Stdio::piped())
                .stderr(Stdio::null())
                .spawn()
        };
        // Children inherit this thread's core: without a core of its own the server would share it.
        let mut server = {
            let _elsewhere = last_core().and_then(|core| Pinned::to(core).ok());
            start(&[])?
        };
        let mut last = io::Error::other("perftest did not connect");
        for _ in 0..CONNECT_ATTEMPTS {
            thread::sleep(CONNECT_INTERVAL);
            let output = finish(start(&["127.0.0.1"])?)?;
            if output.status.success() {
                // It has served its one client.
                finish(server)?;
                return self.parse(&String::from_utf8_lossy(&output.stdout));
            }
            last =
                io::Error::other(format!("{} ended with {}", self.program.name(), output.status));
        }
        server.kill()?;
        server.wait()?;
        Err(last)
    }

    /// The row of results is the last line that begins with the size; columns are, for latency,
    /// size, iterations, least, most, typical; for bandwidth, size, iterations, peak, mean in MiB/s.
    fn parse(&self, output: &str) -> io::Result<f64> {
        let row = output.lines().rev().find_map(|line| {
            let numbers: Option<Vec<f64>> =
                line.split_whitespace().map(|word| word.parse().ok()).collect();
            numbers.filter(|numbers| numbers.len() >= 4)
        });
        let row = row.ok_or_else(|| io::Error::other("perftest printed no row of results"))?;
        Ok(match self.program {
            PerftestProgram::WriteLatency => 2.0 * row.get(4).copied().unwrap_or(0.0),
            PerftestProgram::ReadLatency => row.get(4).copied().unwrap_or(0.0),
            PerftestProgram::WriteBandwidth | PerftestProgram::ReadBandwidth => {
                row[3] * 1_048_576.0
            }
        })
    }
}

/// The highest core that is online, from a list such as `0-3,6`.
fn last_core() -> Option<usize> {
    let online = std::fs::read_to_string("/sys/devices/system/cpu/online").ok()?;
    online.trim().rsplit([',', '-']).next()?.parse().ok()
}

/// The device that Windlass would use, and the index of its IPv4-mapped RoCE v2 address.
fn device() -> Option<(String, Option<u8>)> {
    let wanted = std::env::var("WINDLASS_VERBS_DEVICE").ok();
    let device = fabric_admin::list().ok()?.into_iter().find(|device| {
        wanted.as_ref().is_none_or(|name| *name == device.name)
            && device.ports.iter().any(|port| port.active)
    })?;
    let port = device.ports.iter().find(|port| port.active)?;
    let gid = port
        .gids
        .iter()
        .find(|gid| gid.kind == GidKind::RoceV2 && gid.gid.to_ipv4_mapped().is_some())
        .map(|gid| gid.index);
    Some((device.name, gid))
}

/// Waits for a program, but not for ever.
fn finish(mut child: Child) -> io::Result<Output> {
    let deadline = Instant::now() + TIME_MAX;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if Instant::now() >= deadline {
            child.kill()?;
            child.wait()?;
            return Err(io::ErrorKind::TimedOut.into());
        }
        thread::sleep(Duration::from_millis(20));
    };
    let mut stdout = Vec::new();
    if let Some(mut out) = child.stdout.take() {
        out.read_to_end(&mut stdout)?;
    }
    Ok(Output { status, stdout, stderr: Vec::new() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_results_are_found() {
        let latency = "\
 #bytes #iterations    t_min[usec]    t_max[usec]  t_typical[usec]    t_avg[usec]
 8       1000          15.20          62.19        16.15     	       17.12       	1.02   		27.31   		62.19
---------------------------------------------------------------------------------------";
        let bandwidth = "\
 #bytes     #iterations    BW peak[MB/sec]    BW average[MB/sec]   MsgRate[Mpps]
 65536      300              40.00              38.00		   0.000610
";
        let parse = |program, text| Perftest { program, arguments: vec![] }.parse(text);
        assert_eq!(parse(PerftestProgram::WriteLatency, latency).unwrap(), 32.3);
        assert_eq!(parse(PerftestProgram::ReadLatency, latency).unwrap(), 16.15);
        assert_eq!(parse(PerftestProgram::ReadBandwidth, bandwidth).unwrap(), 38.0 * 1_048_576.0);
        assert!(parse(PerftestProgram::ReadLatency, "nothing").is_err());
    }
}
