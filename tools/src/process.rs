//! Child processes of this program: servers and workers of `demo`, `train` and `bench` on this host.
//!
//! A child is told what to do on its command line or as JSON on its stdin, and answers with a line of
//! JSON at a time on its stdout. Its stdin stays open while its parent lives: where it ends, the child
//! winds up and goes. So no child outlives its parent, however that one ended.

use std::{
    io::{self, BufRead, BufReader, Write},
    process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use serde::{Serialize, de::DeserializeOwned};

/// How long a child may take to wind up before it is killed.
const WIND_UP_TIME_MAX: Duration = Duration::from_secs(5);
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// A child process; dropping it ends it.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: Option<BufReader<ChildStdout>>,
}

/// Why a child is of no use.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// It was not started.
    #[error("cannot start {name}: check the limits on processes (`ulimit -u`) and memory")]
    Start {
        /// What it is.
        name: String,
        /// The system's reason.
        source: io::Error,
    },
    /// It ended before it said what was expected.
    #[error("{name} ended early ({status}); its messages are above")]
    Ended {
        /// What it is.
        name: String,
        /// Its exit status, or that it is not known.
        status: String,
    },
    /// It said something that is not understood.
    #[error("{name} said something unexpected: {line:?}")]
    Line {
        /// What it is.
        name: String,
        /// What it said.
        line: String,
        /// Why that is not understood.
        source: serde_json::Error,
    },
}

impl Process {
    /// Starts this program with other arguments. `name` is for messages.
    pub fn start(name: &str, arguments: &[String]) -> Result<Self, ProcessError> {
        let failed = |source| ProcessError::Start { name: name.to_owned(), source };
        // The running image, not its path: the file may have been replaced by a newer build.
        let mut child = Command::new("/proc/self/exe")
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(failed)?;
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take().map(BufReader::new));
        Ok(Self { name: name.to_owned(), child, stdin, stdout })
    }

    /// Writes one line of JSON to its stdin.
    pub fn tell(&mut self, message: &impl Serialize) -> Result<(), ProcessError> {
        let written = match &mut self.stdin {
            Some(stdin) => serde_json::to_vec(message)
                .map_err(io::Error::from)
                .and_then(|mut line| {
                    line.push(b'\n');
                    stdin.write_all(&line)
                })
                .and_then(|()| stdin.flush()),
            None => Err(io::ErrorKind::BrokenPipe.into()),
        };
        written.map_err(|_| self.ended())
    }

    /// Waits for its next line and reads it as JSON; `None` when it ended well.
    pub fn hear<M: DeserializeOwned>(&mut self) -> Result<Option<M>, ProcessError> {
        let mut line = String::new();
        let read = self.stdout.as_mut().map_or(Ok(0), |stdout| stdout.read_line(&mut line));
        if !matches!(read, Ok(1..)) {
            return match self.wait() {
                Ok(status) if status.success() => Ok(None),
                _ => Err(self.ended()),
            };
        }
        serde_json::from_str(&line).map(Some).map_err(|source| ProcessError::Line {
            name: self.name.clone(),
            line: line.trim_end().chars().take(200).collect(),
            source,
        })
    }

    /// Like [`Self::hear`] where the end is not expected.
    pub fn expect_line<M: DeserializeOwned>(&mut self) -> Result<M, ProcessError> {
        match self.hear()? {
            Some(message) => Ok(message),
            None => Err(self.ended()),
        }
    }

    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it is called in messages.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Has it killed, and does not wait until it is gone.
    pub fn send_kill(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
    }

    /// Kills it at once, as a test of what is left does.
    pub fn kill(&mut self) {
        self.send_kill();
        let _ = self.child.wait();
    }

    /// Closes its stdin and waits until it has wound up.
    fn wait(&mut self) -> io::Result<ExitStatus> {
        self.stdin = None;
        let deadline = Instant::now() + WIND_UP_TIME_MAX;
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            thread::sleep(POLL_INTERVAL);
        }
        self.child.kill()?;
        self.child.wait()
    }

    fn ended(&mut self) -> ProcessError {
        let status =
            self.wait().map_or_else(|error| error.to_string(), |status| status.to_string());
        ProcessError::Ended { name: self.name.clone(), status }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Nothing is left to do about one that cannot be waited for.
        let _ = self.wait();
    }
}

/// In a child: returns when the parent has closed its end of our stdin, or is gone.
pub fn wait_for_parent_to_go() {
    // An error says the same as the end.
    let _ = io::copy(&mut io::stdin().lock(), &mut io::sink());
}
