//! Handling of exhausted file descriptors: new connections wait, and the log goes on.
//!
//! A process raises its soft limit at its start. One that keeps data holds some descriptors in reserve, so that
//! its log can still open files when connections have taken all others. A listener without a free descriptor pauses;
//! otherwise it would spin, because its socket stays readable.

use std::{
    fs::File,
    io,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use rustix::{
    io::Errno,
    process::{Resource, Rlimit, getrlimit, setrlimit},
};

/// Descriptors held in reserve.
const RESERVED: usize = 32;

/// How long a listener is left alone after it could not be accepted from.
pub const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

#[derive(Debug)]
struct Reserve {
    held: Vec<File>,
    wanted: usize,
}

static RESERVE: Mutex<Reserve> = Mutex::new(Reserve { held: Vec::new(), wanted: 0 });

/// Raises this process's soft limit of open descriptors to the hard one. For programs, at their
/// start: a library does not know whether its process may have so many.
pub fn raise_limit() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if limit.current == limit.maximum {
        return;
    }
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::debug!(%error, "the limit of open files stays as it is");
    }
}

/// How many descriptors this process may have open.
#[must_use]
pub fn limit() -> usize {
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    usize::try_from(limit).unwrap_or(usize::MAX)
}

/// To how many that can be raised, without more rights.
#[must_use]
pub fn limit_hard() -> usize {
    let limit = getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX);
    usize::try_from(limit).unwrap_or(usize::MAX)
}

/// Whether an operation failed because the process or the system has no descriptor left.
#[must_use]
pub fn are_exhausted(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw_os_error);
    matches!(errno, Some(Errno::MFILE | Errno::NFILE))
}

/// Whether a listener has to be left alone for a while: it stays readable though nothing can be accepted from it.
#[must_use]
pub fn stop_accepting(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw_os_error);
    are_exhausted(error) || matches!(errno, Some(Errno::NOMEM | Errno::NOBUFS))
}

/// Holds descriptors in reserve from now on, for [`with_reserve`].
pub fn hold_reserve() {
    let mut reserve = lock();
    reserve.wanted = RESERVED;
    reserve.refill();
}

/// Takes back what was given from the reserve, as far as there are descriptors again.
pub fn refill_reserve() {
    lock().refill();
}

/// Gives one descriptor of the reserve back to the process, for an operation that found none left.
/// Returns whether there was one.
pub fn give_from_reserve() -> bool {
    let mut reserve = lock();
    let given = reserve.held.pop().is_some();
    if given && reserve.held.len() + 1 == reserve.wanted {
        tracing::warn!(
            "no file descriptor is left: files of the log come from a reserve now; raise `ulimit -n`"
        );
    }
    given
}

/// Opens a file, with a descriptor of the reserve if no other is left.
///
/// # Errors
/// Those of `open`, once the reserve is empty as well.
pub fn with_reserve<T>(mut open: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match open() {
            Err(error) if are_exhausted(&error) && give_from_reserve() => {}
            result => return result,
        }
    }
}

impl Reserve {
    fn refill(&mut self) {
        while self.held.len() < self.wanted {
            // The next refill goes on.
            let Ok(file) = File::open("/dev/null") else { return };
            self.held.push(file);
        }
    }
}

fn lock() -> MutexGuard<'static, Reserve> {
    // Whole values in any case.
    RESERVE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// For tests of what happens without descriptors: they run where nobody else misses any.
#[cfg(test)]
pub(crate) mod scarce {
    use std::{fs::File, process::Command};

    use super::{Resource, Rlimit, setrlimit};

    /// Tells a test that it has a process of its own.
    const ALONE: &str = "WINDLASS_TEST_ALONE";

    /// Few, and more than a test and its harness need.
    const DESCRIPTORS: u64 = 100;

    /// Runs a test, which is named by its whole path, in a process of its own that may have few descriptors.
    pub(crate) fn in_a_process_of_its_own(test: &str, run: impl FnOnce()) {
        if std::env::var_os(ALONE).is_some() {
            let limit = Rlimit { current: Some(DESCRIPTORS), maximum: Some(DESCRIPTORS) };
            setrlimit(Resource::Nofile, limit).unwrap();
            return run();
        }
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", test, "--nocapture"]).env(ALONE, "1");
        let output = command.output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(text.contains("1 passed"), "{text}{}", String::from_utf8_lossy(&output.stderr));
    }

    /// Takes all descriptors but so many; dropping them gives them back.
    pub(crate) fn take_all_but(left: usize) -> Vec<File> {
        let mut taken: Vec<File> = std::iter::from_fn(|| File::open("/dev/null").ok()).collect();
        taken.truncate(taken.len() - left);
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_is_left_alone_when_the_system_lacks_anything() {
        for lacking in [Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::NOBUFS] {
            assert!(stop_accepting(&lacking.into()), "{lacking}");
        }
        for passing in [Errno::WOULDBLOCK, Errno::CONNABORTED, Errno::INTR] {
            assert!(!stop_accepting(&passing.into()), "{passing}");
        }
        assert!(!are_exhausted(&Errno::NOMEM.into()), "a reserve of descriptors does not help");
    }

    /// The only test that holds the reserve, which the process has once.
    #[test]
    fn the_reserve_is_given_one_by_one_and_taken_back() {
        assert!(!give_from_reserve());
        hold_reserve();
        let mut tries = 0;
        let opened = with_reserve(|| {
            tries += 1;
            if tries <= 3 { Err(Errno::MFILE.into()) } else { Ok(tries) }
        });
        assert_eq!((opened.unwrap(), lock().held.len()), (4, RESERVED - 3));
        refill_reserve();
        assert_eq!(lock().held.len(), RESERVED);
        let always = with_reserve::<()>(|| Err(Errno::MFILE.into()));
        assert!(are_exhausted(&always.unwrap_err()));
        assert!(lock().held.is_empty());
        let other = with_reserve::<()>(|| Err(Errno::NOENT.into()));
        assert!(!are_exhausted(&other.unwrap_err()));
        lock().wanted = 0;
    }
}
