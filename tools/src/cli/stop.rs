//! Stops a serving process: on a signal, on request, or on a panic.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use signal_hook::consts::{SIGINT, SIGTERM};

use super::Failure;

/// Time between checks whether the process was asked to stop.
pub(super) const STOP_POLL_INTERVAL: Duration = Duration::from_millis(100);

/// Whether to stop.
#[derive(Clone, Debug, Default)]
pub(super) struct Stop {
    is_requested: Arc<AtomicBool>,
}

impl Stop {
    pub(super) fn request(&self) {
        self.is_requested.store(true, Ordering::Relaxed);
    }

    /// Set once it is requested.
    pub(super) fn flag(&self) -> Arc<AtomicBool> {
        self.is_requested.clone()
    }

    pub(super) fn is_requested(&self) -> bool {
        self.is_requested.load(Ordering::Relaxed)
    }
}

/// Takes SIGTERM and SIGINT as wishes to stop; asked a second time, the process stops at once. As it does
/// by a panic of any thread, with the cause as its last line.
pub(super) fn on_signals() -> Result<Stop, Failure> {
    end_by_panic();
    let stop = Stop::default();
    let signalled = Arc::new(AtomicBool::new(false));
    for signal in [SIGTERM, SIGINT] {
        signal_hook::flag::register_conditional_shutdown(signal, 130, signalled.clone())
            .and_then(|_| signal_hook::flag::register(signal, signalled.clone()))
            .and_then(|_| signal_hook::flag::register(signal, stop.is_requested.clone()))
            .map_err(Failure::failed)?;
    }
    Ok(stop)
}

/// A server without one of its threads would look alive to its cluster and its supervisor, and serve
/// nobody: others go on only when the process is gone. It ends before anything is unwound: nothing of what
/// is half done is seen by anybody.
fn end_by_panic() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        let cause = panic.payload();
        let text = cause.downcast_ref::<&str>().copied();
        let text = text.or_else(|| cause.downcast_ref::<String>().map(String::as_str));
        let text = text.unwrap_or("no text").replace('\n', " ");
        let place = panic.location().map(|place| format!(" at {place}")).unwrap_or_default();
        let thread = std::thread::current();
        let name = thread.name().unwrap_or("without a name");
        eprintln!("windlass ends, thread {name} panicked{place}: {text}");
        std::process::abort();
    }));
}

#[cfg(test)]
mod tests {
    use std::{os::unix::process::ExitStatusExt, process::Command, thread, time::Duration};

    use super::*;

    const CHILD: &str = "WINDLASS_TEST_PANICS";
    const TEST: &str =
        "cli::stop::tests::a_panic_of_any_thread_ends_the_process_with_its_cause_last";

    #[test]
    fn a_panic_of_any_thread_ends_the_process_with_its_cause_last() {
        if std::env::var_os(CHILD).is_some() {
            on_signals().unwrap();
            let shard = thread::Builder::new().name("windlass-shard-0".to_owned());
            let shard = shard.spawn(|| panic!("seven is not\n{}", 8)).unwrap();
            // Nobody looks after it, as long as the process lives.
            thread::sleep(Duration::from_secs(60));
            assert!(shard.join().is_ok(), "unreachable");
            return;
        }
        let program = std::env::current_exe().unwrap();
        let mut child = Command::new(program);
        child.args(["--exact", TEST, "--nocapture"]).env(CHILD, "1");
        let output = child.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.signal(), Some(signal_hook::consts::SIGABRT), "{said}");
        let last = said.lines().last().unwrap_or_default();
        assert!(last.starts_with("windlass ends, thread windlass-shard-0 panicked at "), "{said}");
        assert!(last.ends_with(": seven is not 8"), "{said}");
    }
}
