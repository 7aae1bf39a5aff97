//! Programs that may not run for ever: each is the leader of a process group, and the whole
//! group is killed when the deadline passes.

use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// Why a helper program did not do its work.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BoundedError {
    /// It could not be started.
    #[error("cannot start `{program}`; is it installed?")]
    Start {
        /// The program with its arguments.
        program: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// It ran out of time and was killed.
    #[error("`{program}` did not end in time and was stopped; --timeout SECONDS gives it longer")]
    Overrun {
        /// The program with its arguments.
        program: String,
    },
    /// It ended with a status that is not 0.
    #[error("`{program}` failed ({status}):\n{output}")]
    Failed {
        /// The program with its arguments.
        program: String,
        /// How it ended.
        status: ExitStatus,
        /// The end of what it printed.
        output: String,
    },
}

/// Runs to the end with inherited output; calls `tick` about 20 times a second meanwhile.
///
/// # Errors
/// When it cannot be started or overruns; a bad exit status is returned, not an error.
pub(crate) fn run(
    command: &mut Command,
    deadline: Instant,
    mut tick: impl FnMut(),
) -> Result<ExitStatus, BoundedError> {
    let program = display(command);
    let mut child = command
        .stdin(Stdio::null())
        .process_group(0)
        .spawn()
        .map_err(|source| BoundedError::Start { program: program.clone(), source })?;
    loop {
        if let Ok(Some(status)) = child.try_wait() {
            tick();
            return Ok(status);
        }
        if Instant::now() >= deadline {
            kill_group(&mut child);
            tick();
            return Err(BoundedError::Overrun { program });
        }
        tick();
        std::thread::sleep(POLL_INTERVAL);
    }
}

/// Runs quietly and returns what it printed on standard output.
///
/// # Errors
/// When it cannot be started, overruns, or ends with a status that is not 0.
pub(crate) fn output(command: &mut Command, deadline: Instant) -> Result<String, BoundedError> {
    let program = display(command);
    let start = |source| BoundedError::Start { program: program.clone(), source };
    // A file, not a pipe: nobody has to drain it, so a chatty program cannot block.
    let path = std::env::temp_dir().join(format!(
        "windlass-softroce-{}-{:x}",
        std::process::id(),
        Instant::now().elapsed().subsec_nanos() as usize ^ std::ptr::from_ref(command) as usize,
    ));
    let errors_path = path.with_extension("err");
    let out = std::fs::File::create(&path).map_err(start)?;
    let errors = std::fs::File::create(&errors_path).map_err(start)?;
    let status = run(command.stdout(out).stderr(errors), deadline, || {});
    let printed = std::fs::read(&path).unwrap_or_default();
    let complaints = std::fs::read(&errors_path).unwrap_or_default();
    let _ = std::fs::remove_file(&path);
    let _ = std::fs::remove_file(&errors_path);
    let printed = String::from_utf8_lossy(&printed).into_owned();
    let status = status?;
    if status.success() {
        return Ok(printed);
    }
    let complaints = String::from_utf8_lossy(&complaints);
    let text = format!("{printed}{complaints}");
    let from = text.char_indices().rev().nth(2000).map_or(0, |(at, _)| at);
    Err(BoundedError::Failed { program, status, output: text[from..].to_owned() })
}

/// The status a shell would report: the exit code, or 128 + the signal.
pub(crate) fn shell_status(status: ExitStatus) -> i32 {
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}

fn kill_group(child: &mut Child) {
    // The group is ours alone: `process_group(0)` made the child its leader.
    let _ = Command::new("kill")
        .args(["-KILL", "--", &format!("-{}", child.id())])
        .stderr(Stdio::null())
        .status();
    let _ = child.kill();
    let _ = child.wait();
}

fn display(command: &Command) -> String {
    let mut text = command.get_program().to_string_lossy().into_owned();
    for argument in command.get_args() {
        text.push(' ');
        text.push_str(&argument.to_string_lossy());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_overrun_kills_the_children_too() {
        let deadline = Instant::now() + Duration::from_millis(200);
        let overrun =
            run(Command::new("sh").args(["-c", "sleep 600 & sleep 600"]), deadline, || {});
        assert!(matches!(overrun, Err(BoundedError::Overrun { .. })), "{overrun:?}");
    }

    #[test]
    fn a_failure_carries_what_was_printed() {
        let deadline = Instant::now() + Duration::from_secs(20);
        let failed =
            output(Command::new("sh").args(["-c", "echo one; echo two >&2; exit 3"]), deadline);
        let text = failed.unwrap_err().to_string();
        assert!(text.contains("one\ntwo"), "{text}");
    }
}
