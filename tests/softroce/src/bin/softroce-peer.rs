//! The passive peer of the SoftRoCE tests. Usage: `softroce-peer DEVICE`, then commands:
//!
//! - `connect ENDPOINT`: connects a queue pair and answers `connected ENDPOINT ID` and, each as key,
//!   address and length, the mailbox (may be written) and the parameters (may be read);
//! - `state ID`, `disconnect ID`, `receive ID COUNT`; `quiet`: whether all that was disconnected is gone;
//! - `immediates`: how many came, and the last; `word OFFSET`: the mailbox's word there;
//! - `parameter OFFSET WORD`: stores a parameter; `pin CPU`: keeps this thread on one processor;
//! - `echo ID KEY ADDRESS COUNT`: spins on the mailbox's first word and writes each of the numbers
//!   1 to COUNT back to that address as it comes.
#![forbid(unsafe_code)]

use std::{
    error::Error,
    io::BufRead as _,
    sync::mpsc::{Receiver, channel},
    time::Duration,
};

use windlass_softroce::{open, peer, pin, report, side};
use windlass_transport::{
    Access, Batch, Completion, Endpoint, InlineBytes, MemoryRegion, Opcode, Operation, QueuePairId,
    RemoteAddress, RemoteKey, RemoteRegion, Role, SendRequest, Transport, Waker, WorkId,
    verbs::VerbsTransport,
};

const REGION_LEN: usize = 4 << 20;

fn main() -> Result<(), Box<dyn Error>> {
    let device = std::env::args().nth(1).ok_or("usage: softroce-peer DEVICE")?;
    let mut transport = open(&device)?;
    let commands = read_commands(transport.waker());
    let mailbox = side::region(&mut transport, REGION_LEN, Access::ALL);
    let parameters = side::region(&mut transport, REGION_LEN, Access::READ);
    let mut peer = PeerProcess { transport, mailbox, parameters, immediates: 0, last: 0 };
    loop {
        match commands.try_recv() {
            Ok(command) => {
                let answer = peer.obey(&command).unwrap_or_else(|error| format!("error {error}"));
                report(&answer);
            }
            Err(std::sync::mpsc::TryRecvError::Disconnected) => return Ok(()),
            Err(std::sync::mpsc::TryRecvError::Empty) => peer.progress(),
        }
    }
}

struct PeerProcess {
    transport: VerbsTransport,
    mailbox: MemoryRegion,
    parameters: MemoryRegion,
    immediates: u64,
    last: u32,
}

impl PeerProcess {
    fn progress(&mut self) {
        let mut completions = [Completion::EMPTY; 16];
        let count = self.transport.poll(&mut completions);
        for completion in &completions[..count] {
            if completion.opcode == Opcode::ReceiveImmediate {
                self.immediates += 1;
                self.last = completion.immediate;
            }
        }
        if count == 0 {
            self.transport.wait(Duration::from_secs(1));
        }
    }

    fn obey(&mut self, command: &str) -> Result<String, Box<dyn Error>> {
        let words: Vec<&str> = command.split_whitespace().collect();
        let id = |index: usize| -> Result<QueuePairId, Box<dyn Error>> {
            Ok(QueuePairId(words.get(index).ok_or("a number is missing")?.parse()?))
        };
        match *words.first().ok_or("an empty command")? {
            "connect" => {
                let bytes = words.get(1).copied().and_then(peer::from_hex);
                self.connect(&Endpoint(bytes.ok_or("no endpoint")?))
            }
            "state" => Ok(format!("{:?}", self.transport.state(id(1)?))),
            "disconnect" => {
                self.transport.disconnect(id(1)?);
                Ok("done".into())
            }
            "quiet" => Ok(self.transport.is_quiet().to_string()),
            "fail" => {
                self.transport.force_error(id(1)?);
                Ok("done".into())
            }
            "receive" => {
                let count = words.get(2).ok_or("a count is missing")?.parse()?;
                self.transport.post_receive(id(1)?, count)?;
                Ok("done".into())
            }
            "immediates" => Ok(format!("{} {}", self.immediates, self.last)),
            "word" => {
                let offset = words.get(1).ok_or("an offset is missing")?.parse()?;
                Ok(self.mailbox.pages.load_u64(offset).to_string())
            }
            "parameter" => {
                let offset = words.get(1).ok_or("an offset is missing")?.parse()?;
                let word = words.get(2).ok_or("a word is missing")?.parse()?;
                self.parameters.pages.store_u64(offset, word);
                Ok("done".into())
            }
            "pin" => {
                pin(words.get(1).ok_or("a processor is missing")?.parse()?)?;
                Ok("done".into())
            }
            "echo" => {
                let number = |index: usize| -> Result<u64, Box<dyn Error>> {
                    Ok(words.get(index).ok_or("a number is missing")?.parse()?)
                };
                let key = RemoteKey(u32::try_from(number(2)?)?);
                let remote = RemoteAddress { key, address: number(3)? };
                self.echo(id(1)?, remote, number(4)?)
            }
            other => Err(format!("unknown command {other}").into()),
        }
    }

    fn echo(
        &mut self,
        queue_pair: QueuePairId,
        remote: RemoteAddress,
        count: u64,
    ) -> Result<String, Box<dyn Error>> {
        self.mailbox.pages.store_u64(0, 0);
        // Answered at once: the other side waits for it before it begins.
        report("ready");
        let mut batch = Batch::with_capacity(1);
        let mut completions = [Completion::EMPTY; 8];
        for number in 1..=count {
            while self.mailbox.pages.load_u64(0) != number {
                std::hint::spin_loop();
            }
            let bytes = InlineBytes::word(number);
            let operation = Operation::WriteInline { bytes, remote };
            let signaled = number % 32 == 0;
            let request =
                SendRequest { work_id: WorkId(number), signaled, fenced: false, operation };
            batch.push(request).map_err(|_| "the batch is full")?;
            self.transport.post_send(queue_pair, &mut batch)?;
            if signaled {
                self.transport.poll(&mut completions);
            }
        }
        while self.transport.poll(&mut completions) > 0 {}
        Ok("done".into())
    }

    fn connect(&mut self, remote: &Endpoint) -> Result<String, Box<dyn Error>> {
        let pending = self.transport.create_queue_pair()?;
        let endpoint = peer::to_hex(&pending.endpoint().0);
        let queue_pair = self.transport.connect(pending, Role::Passive, remote)?;
        let mailbox = self.transport.share(queue_pair, &self.mailbox)?;
        let parameters = self.transport.share(queue_pair, &self.parameters)?;
        let show =
            |region: RemoteRegion| format!("{} {} {}", region.key.0, region.address, region.len);
        Ok(format!("connected {endpoint} {} {} {}", queue_pair.0, show(mailbox), show(parameters)))
    }
}

/// Commands come from a thread of their own, which wakes the transport's thread.
fn read_commands(waker: Waker) -> Receiver<String> {
    let (sender, commands) = channel();
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                break;
            }
            waker.wake();
        }
        drop(sender);
        waker.wake();
    });
    commands
}
