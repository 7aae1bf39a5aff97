//! Our verbs beside perftest's in one run: interleaved rounds, both sides pinned, medians.
//! Usage: `softroce-perf [ROUNDS]`, with the device in `WINDLASS_VERBS_DEVICE`. One line of JSON per
//! figure: ours, perftest's, their ratio (less is better for latencies, more for bandwidths).
#![forbid(unsafe_code)]

use std::{
    error::Error,
    process::{Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use windlass_softroce::{
    config, device,
    peer::{Connection, Peer},
    pin, report,
    side::region,
};
use windlass_transport::{
    Access, Batch, Completion, CompletionStatus, InlineBytes, MemoryRegion, Operation, SendRequest,
    Transport, WorkId,
    verbs::{VerbsConfig, VerbsTransport},
};

const LATENCY_SIZES: [u32; 4] = [8, 64, 512, 4096];
const BANDWIDTH_SIZES: [u32; 3] = [65_536, 1 << 20, 4 << 20];
/// Round trips of one latency figure.
const ROUND_TRIPS: u64 = 1000;
/// Bytes of one bandwidth figure.
const VOLUME: u64 = 24 << 20;
/// Requests in flight, as perftest has them for writes; reads wait for 16 in the device.
const DEPTH: u64 = 64;
const LEN: usize = 4 << 20;

fn main() -> Result<(), Box<dyn Error>> {
    let Some(device) = device() else { return Ok(()) };
    let rounds = std::env::args().nth(1).map_or(Ok(5), |text| text.parse())?;
    let mut bench = Bench::new(&device)?;
    for size in LATENCY_SIZES {
        let mut write = Figure::new("write_latency_us", size, "ib_write_lat");
        let mut read = Figure::new("read_latency_us", size, "ib_read_lat");
        // An acknowledged push is a write with its commit word there and a word back: two one-way
        // latencies, so half of it is compared.
        let mut push = Figure::new("push_half_us", size, "ib_write_lat");
        for _ in 0..rounds {
            let theirs = perftest(&device, "ib_write_lat", size, ROUND_TRIPS, 4)?;
            if size <= 64 {
                write.ours.push(bench.round_trip(size, false)? / 2.0);
                write.theirs.push(theirs);
            }
            push.ours.push(bench.round_trip(size, true)? / 2.0);
            push.theirs.push(theirs);
            read.ours.push(bench.read_latency(size)?);
            read.theirs.push(perftest(&device, "ib_read_lat", size, ROUND_TRIPS, 4)?);
        }
        write.report();
        push.report();
        read.report();
    }
    for size in BANDWIDTH_SIZES {
        let count = (VOLUME / u64::from(size)).max(5);
        let mut write = Figure::new("write_mib_per_s", size, "ib_write_bw");
        let mut read = Figure::new("read_mib_per_s", size, "ib_read_bw");
        for _ in 0..rounds {
            write.ours.push(bench.bandwidth(size, false)?);
            write.theirs.push(perftest(&device, "ib_write_bw", size, count, 3)?);
            read.ours.push(bench.bandwidth(size, true)?);
            read.theirs.push(perftest(&device, "ib_read_bw", size, count, 3)?);
        }
        write.report();
        read.report();
    }
    Ok(())
}

/// One figure of both, over all rounds.
struct Figure {
    name: &'static str,
    size: u32,
    peer: &'static str,
    ours: Vec<f64>,
    theirs: Vec<f64>,
}

impl Figure {
    fn new(name: &'static str, size: u32, peer: &'static str) -> Self {
        Self { name, size, peer, ours: Vec::new(), theirs: Vec::new() }
    }

    fn report(&self) {
        if self.ours.is_empty() {
            return;
        }
        let (ours, theirs) = (median(&self.ours), median(&self.theirs));
        report(&format!(
            "{{\"figure\":\"{}\",\"bytes\":{},\"ours\":{ours:.2},\"{}\":{theirs:.2},\"ratio\":{:.3},\"rounds\":{}}}",
            self.name,
            self.size,
            self.peer,
            ours / theirs,
            self.ours.len()
        ));
    }
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

struct Bench {
    transport: VerbsTransport,
    peer: Peer,
    to: Connection,
    local: MemoryRegion,
    answer: MemoryRegion,
}

impl Bench {
    fn new(device: &str) -> Result<Self, Box<dyn Error>> {
        pin(0)?;
        let program = std::env::current_exe()?.with_file_name("softroce-peer");
        let mut peer = Peer::start(&program.to_string_lossy(), device);
        peer.ask("pin 1");
        // A timer that other tests want short would repeat long writes that are merely queued.
        let patient = VerbsConfig { timeout: VerbsConfig::default().timeout, ..config(device) };
        let mut transport = VerbsTransport::open(patient)?;
        let local = region(&mut transport, LEN, Access::LOCAL);
        let answer = region(&mut transport, 4096, Access::READ_WRITE);
        let to = peer.connect(&mut transport)?;
        Ok(Self { transport, peer, to, local, answer })
    }

    /// Median time from a write to the answering word, in microseconds. With `commit`, the payload
    /// is followed by a commit word of its own, as pushes are.
    fn round_trip(&mut self, size: u32, commit: bool) -> Result<f64, Box<dyn Error>> {
        let answer = self.transport.share(self.to.queue_pair, &self.answer)?;
        self.answer.pages.store_u64(0, 0);
        let command = format!(
            "echo {} {} {} {ROUND_TRIPS}",
            self.to.peer_queue_pair, answer.key.0, answer.address
        );
        self.peer.ask(&command);
        let mut times = Vec::new();
        for number in 1..=ROUND_TRIPS {
            let began = Instant::now();
            let word = InlineBytes::word(number);
            let remote = self.to.mailbox.at(0);
            if commit {
                let local = self.local.slice(0, size).into();
                let payload = Operation::Write { local, remote: self.to.mailbox.at(64) };
                self.post(&[
                    (payload, false),
                    (Operation::WriteInline { bytes: word, remote }, number % 16 == 0),
                ])?;
            } else {
                let mut bytes = [0; 64];
                bytes[..8].copy_from_slice(&number.to_le_bytes());
                let bytes = InlineBytes::new(&bytes[..size as usize]);
                self.post(&[(Operation::WriteInline { bytes, remote }, number % 32 == 0)])?;
            }
            while self.answer.pages.load_u64(0) != number {
                std::hint::spin_loop();
            }
            times.push(began.elapsed().as_secs_f64() * 1e6);
            self.transport.poll(&mut [Completion::EMPTY; 8]);
        }
        self.peer.hear();
        Ok(median(&times))
    }

    /// Median time of a read, in microseconds.
    fn read_latency(&mut self, size: u32) -> Result<f64, Box<dyn Error>> {
        let mut times = Vec::new();
        for _ in 0..ROUND_TRIPS {
            let began = Instant::now();
            let local = self.local.slice(0, size).into();
            self.post(&[(Operation::Read { local, remote: self.to.parameters.at(0) }, true)])?;
            self.complete(1)?;
            times.push(began.elapsed().as_secs_f64() * 1e6);
        }
        Ok(median(&times))
    }

    /// MiB per second of many requests of this size.
    fn bandwidth(&mut self, size: u32, reads: bool) -> Result<f64, Box<dyn Error>> {
        let count = (VOLUME / u64::from(size)).max(5);
        let began = Instant::now();
        let (mut posted, mut completed) = (0, 0);
        while completed < count {
            while posted < count && posted - completed < DEPTH {
                let local = self.local.slice(0, size).into();
                let operation = if reads {
                    Operation::Read { local, remote: self.to.parameters.at(0) }
                } else {
                    Operation::Write { local, remote: self.to.mailbox.at(0) }
                };
                self.post(&[(operation, true)])?;
                posted += 1;
            }
            completed += self.poll()?;
        }
        let bytes = u32::try_from(count).map(f64::from)? * f64::from(size);
        Ok(bytes / f64::from(1 << 20) / began.elapsed().as_secs_f64())
    }

    fn post(&mut self, operations: &[(Operation, bool)]) -> Result<(), Box<dyn Error>> {
        let mut batch = Batch::with_capacity(operations.len());
        for (operation, signaled) in operations {
            let request = SendRequest {
                work_id: WorkId(1),
                signaled: *signaled,
                fenced: false,
                operation: *operation,
            };
            batch.push(request).map_err(|_| "the batch is full")?;
        }
        Ok(self.transport.post_send(self.to.queue_pair, &mut batch)?)
    }

    fn poll(&mut self) -> Result<u64, Box<dyn Error>> {
        let mut completions = [Completion::EMPTY; 16];
        let count = self.transport.poll(&mut completions);
        for completion in &completions[..count] {
            if completion.status != CompletionStatus::Success {
                return Err(format!("{completion:?}").into());
            }
        }
        Ok(count as u64)
    }

    fn complete(&mut self, count: u64) -> Result<(), Box<dyn Error>> {
        let mut completed = 0;
        while completed < count {
            completed += self.poll()?;
        }
        Ok(())
    }
}

/// Runs one of perftest's programs with both sides pinned; returns a column of its last line.
fn perftest(
    device: &str,
    program: &str,
    size: u32,
    count: u64,
    column: usize,
) -> Result<f64, Box<dyn Error>> {
    let command = |cpu: &str| {
        let mut command = Command::new("taskset");
        command
            .args(["-c", cpu, program, "-d", device, "-x", "1", "-F"])
            .args(["-s", &size.to_string(), "-n", &count.to_string()])
            .stdin(Stdio::null())
            .stderr(Stdio::null());
        command
    };
    let mut server = command("1").stdout(Stdio::null()).spawn()?;
    sleep(Duration::from_millis(700));
    let output = command("0").arg("localhost").output()?;
    server.wait()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text
        .lines()
        .rfind(|line| line.trim_start().starts_with(|first: char| first.is_ascii_digit()))
        .ok_or_else(|| format!("{program} printed no figures"))?;
    let field = line.split_whitespace().nth(column).ok_or("a column is missing")?;
    Ok(field.parse()?)
}
