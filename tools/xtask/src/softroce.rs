//! `cargo xtask softroce [-- CMD]`: runs a command where an RDMA device exists.
//! A device of this host is used if there is one or if `rdma_rxe` can make one; otherwise a
//! virtual machine boots a distribution kernel that has the driver. The machine sees this
//! host's files, so binaries built here run there unchanged.

pub(crate) mod bounded;
mod direct;
mod host;
mod suite;
mod vm;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use bounded::BoundedError;

/// Wall-clock bound of everything but the compilation of the suite.
const TIMEOUT_DEFAULT: Duration = Duration::from_secs(590);

const USAGE: &str = "\
usage: cargo xtask softroce [OPTIONS] [-- CMD [ARG...]]

Runs CMD where an RDMA device exists; without CMD, the whole verbs suite.

  --where host|vm     force this host's device or the virtual machine (default: host if it can)
  --accel kvm|tcg     force the virtual machine's accelerator (default: kvm if a probe boot works)
  --topology lo|pair  one device on the loopback interface, or two devices with a real link
                      between them for faults (default: lo for CMD and on this host, else pair)
  --memory SIZE       memory of the virtual machine (default: 4G)
  --timeout SECONDS   bound on everything but compilation (default: 590)

CMD finds these in its environment: WINDLASS_VERBS_DEVICE, the device to use (and with
`--topology pair` WINDLASS_VERBS_PEER_DEVICE, WINDLASS_VERBS_LINK and WINDLASS_VERBS_PEER_LINK), and
WINDLASS_REQUIRE_VERBS=1, which turns a test that would skip for want of a device into a failure
(with `--topology pair` also WINDLASS_REQUIRE_LINK=1, the same for want of a link).";

/// Why the command could not be run; a command that ran and failed is not an error.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SoftroceError {
    /// The command line was not understood.
    #[error("{0}\n\n{USAGE}")]
    Usage(String),
    /// A helper program failed or overran its time.
    #[error(transparent)]
    Program(#[from] BoundedError),
    /// A file of the cache folder could not be read or written.
    #[error("cannot use {}; check that the target folder is writable", path.display())]
    File {
        /// The file or folder in question.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// No distribution kernel with the driver is on offer.
    #[error(
        "no kernel package with rdma_rxe was found by apt-cache; run `apt-get update`, \
         or run on a machine whose kernel has the module"
    )]
    NoKernel,
    /// The caller insisted on a device of this host.
    #[error("this host has no active RDMA device and cannot make one: {0}")]
    NoHostDevice(String),
    /// The machine came up but did not report the command's exit status.
    #[error(
        "the virtual machine ended without reporting a status; its console is printed above \
         and kept in {}",
        console.display()
    )]
    GuestDied {
        /// File with the console's text.
        console: PathBuf,
    },
}

impl SoftroceError {
    fn file(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { path, source }
    }
}

/// Where the command is to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Any,
    Host,
    Vm,
}

/// Which devices are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Topology {
    Loopback,
    Pair,
}

impl Topology {
    const fn name(self) -> &'static str {
        match self {
            Self::Loopback => "lo",
            Self::Pair => "pair",
        }
    }
}

#[derive(Debug, Clone)]
struct Options {
    place: Place,
    accel: Option<vm::Accel>,
    topology: Option<Topology>,
    memory: String,
    timeout: Duration,
    command: Vec<String>,
}

impl Options {
    fn parse(args: &[String]) -> Result<Self, SoftroceError> {
        let mut options = Self {
            place: Place::Any,
            accel: None,
            topology: None,
            memory: "4G".into(),
            timeout: TIMEOUT_DEFAULT,
            command: Vec::new(),
        };
        let mut rest = args.iter();
        while let Some(flag) = rest.next() {
            if flag == "--" {
                options.command = rest.cloned().collect();
                break;
            }
            // Whoever parsed before us may have taken the separator away.
            if !flag.starts_with('-') {
                options.command = std::iter::once(flag).chain(rest).cloned().collect();
                break;
            }
            if flag == "--help" || flag == "-h" {
                return Err(SoftroceError::Usage("help".into()));
            }
            let value =
                rest.next().ok_or_else(|| SoftroceError::Usage(format!("{flag} needs a value")))?;
            let bad = || SoftroceError::Usage(format!("{flag} does not take {value}"));
            match flag.as_str() {
                "--where" => {
                    options.place = match value.as_str() {
                        "host" => Place::Host,
                        "vm" => Place::Vm,
                        _ => return Err(bad()),
                    };
                }
                "--accel" => {
                    options.accel = Some(vm::Accel::parse(value).ok_or_else(bad)?);
                }
                "--topology" => {
                    options.topology = match value.as_str() {
                        "lo" => Some(Topology::Loopback),
                        "pair" => Some(Topology::Pair),
                        _ => return Err(bad()),
                    };
                }
                "--memory" => options.memory.clone_from(value),
                "--timeout" => {
                    options.timeout = Duration::from_secs(value.parse().map_err(|_| bad())?);
                }
                _ => return Err(SoftroceError::Usage(format!("unknown option {flag}"))),
            }
        }
        Ok(options)
    }
}

/// Runs the command line after `cargo xtask softroce` and returns the command's exit status.
///
/// # Errors
/// When the command could not be run at all; its own failure is a status that is not 0.
pub(crate) fn run(args: &[String]) -> Result<i32, SoftroceError> {
    let mut options = Options::parse(args)?;
    let mut vm_topology = options.topology.unwrap_or(Topology::Loopback);
    if options.command.is_empty() {
        options.command = suite::build()?;
        vm_topology = options.topology.unwrap_or(Topology::Pair);
    }
    let deadline = Instant::now() + options.timeout;

    if options.place != Place::Vm {
        match direct::devices(options.topology.unwrap_or(Topology::Loopback), deadline) {
            Ok(devices) => return direct::run(&devices, &options.command, deadline),
            Err(reason) if options.place == Place::Host => {
                return Err(SoftroceError::NoHostDevice(reason));
            }
            Err(reason) => eprintln!("softroce: using a virtual machine ({reason})"),
        }
    }
    let host = host::prepare(deadline)?;
    let accel = match options.accel {
        Some(accel) => accel,
        None => vm::choose_accel(&host, deadline)?,
    };
    vm::run(&host, accel, vm_topology, &options, deadline)
}

/// Quotes one word for a POSIX shell.
fn quote(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn options_before_the_separator_command_after_it() {
        let options =
            Options::parse(&words("--where vm --topology pair -- ib_write_lat -s 8")).unwrap();
        assert_eq!(options.place, Place::Vm);
        assert_eq!(options.topology, Some(Topology::Pair));
        assert_eq!(options.command, words("ib_write_lat -s 8"));
    }

    #[test]
    fn a_command_may_begin_without_the_separator() {
        let options = Options::parse(&words("--timeout 9 rdma link")).unwrap();
        assert_eq!(options.command, words("rdma link"));
    }

    #[test]
    fn an_unknown_option_is_refused() {
        let refused = Options::parse(&words("--gpu 3"));
        assert!(matches!(refused, Err(SoftroceError::Usage(_))), "{refused:?}");
    }

    #[test]
    fn quoting_survives_quotes() {
        assert_eq!(quote("it's"), r"'it'\''s'");
    }
}
