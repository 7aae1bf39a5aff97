//! A passive peer in a process of its own, commanded by lines on its standard input.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc::{Receiver, channel},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use windlass_transport::{
    Endpoint, QueuePairId, RemoteKey, RemoteRegion, Role, Transport, error::ConnectError,
};

/// How long a peer may take to answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// A peer process. Killed when dropped.
#[derive(Debug)]
pub struct Peer {
    child: Child,
    input: ChildStdin,
    answers: Receiver<String>,
}

/// A connection to a peer, with what it shares.
#[derive(Clone, Copy, Debug)]
pub struct Connection {
    /// Our queue pair.
    pub queue_pair: QueuePairId,
    /// The number of the peer's.
    pub peer_queue_pair: u32,
    /// Memory that we may read and write.
    pub mailbox: RemoteRegion,
    /// Memory that we may read.
    pub parameters: RemoteRegion,
}

impl Peer {
    /// Starts the peer program on a device.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn start(program: &str, device: &str) -> Self {
        let mut child = Command::new(program)
            .arg(device)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the peer program starts");
        let input = child.stdin.take().expect("a pipe was asked for");
        let output = child.stdout.take().expect("a pipe was asked for");
        let (sender, answers) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Self { child, input, answers }
    }

    /// Gives a command and returns the words of the answer.
    ///
    /// # Panics
    /// When the peer does not answer.
    pub fn ask(&mut self, command: &str) -> Vec<String> {
        writeln!(self.input, "{command}").expect("the peer reads commands");
        self.input.flush().expect("the peer reads commands");
        let answer = self.answers.recv_timeout(PATIENCE).expect("the peer answers");
        answer.split_whitespace().map(str::to_owned).collect()
    }

    /// Connects a queue pair to the peer.
    ///
    /// # Errors
    /// Those of [`Transport::connect`].
    ///
    /// # Panics
    /// When the peer's answer makes no sense.
    pub fn connect(&mut self, transport: &mut impl Transport) -> Result<Connection, ConnectError> {
        let pending = transport.create_queue_pair()?;
        let answer = self.ask(&format!("connect {}", to_hex(&pending.endpoint().0)));
        assert_eq!(answer[0], "connected", "{answer:?}");
        let number = |index: usize| answer[index].parse::<u64>().expect("a number");
        let region = |index: usize| RemoteRegion {
            key: RemoteKey(u32::try_from(number(index)).expect("a key")),
            address: number(index + 1),
            len: number(index + 2),
        };
        let (mailbox, parameters) = (region(3), region(6));
        let remote = Endpoint(from_hex(&answer[1]).expect("an endpoint"));
        let peer_queue_pair = u32::try_from(number(2)).expect("a queue pair");
        let queue_pair = transport.connect(pending, Role::Active, &remote)?;
        Ok(Connection { queue_pair, peer_queue_pair, mailbox, parameters })
    }

    /// Waits for one more line of the peer and returns its words.
    ///
    /// # Panics
    /// When none comes.
    pub fn hear(&mut self) -> Vec<String> {
        let answer = self.answers.recv_timeout(PATIENCE).expect("the peer says something");
        answer.split_whitespace().map(str::to_owned).collect()
    }

    /// The state of the peer's side, as its `Debug` shows it.
    pub fn state_of(&mut self, peer_queue_pair: u32) -> String {
        self.ask(&format!("state {peer_queue_pair}")).remove(0)
    }

    /// Waits until its queue pair is in this state: it sees what we did when it polls next.
    ///
    /// # Panics
    /// When it never is.
    pub fn await_state(&mut self, peer_queue_pair: u32, state: &str) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let found = self.state_of(peer_queue_pair);
            if found == state {
                return;
            }
            assert!(Instant::now() < deadline, "the peer's queue pair stays {found}, not {state}");
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Stops the process: its threads get no processor until [`Peer::resume`].
    pub fn stop(&self) {
        self.signal(Signal::STOP);
    }

    /// Ends a stop.
    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    /// Kills the process, which then has no chance to say farewell.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal).expect("the peer is alive");
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Bytes as hexadecimal digits.
#[must_use]
pub fn to_hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The bytes of hexadecimal digits.
#[must_use]
pub fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes();
    if !digits.len().is_multiple_of(2) {
        return None;
    }
    digits
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hexadecimal_there_and_back() {
        let bytes = [0, 0x5a, 0xff];
        assert_eq!(from_hex(&to_hex(&bytes)).as_deref(), Some(&bytes[..]));
        assert_eq!(from_hex("5"), None);
        assert_eq!(from_hex("zz"), None);
    }
}
