//! The virtual machine: choosing its accelerator, booting it, following its output, and
//! getting the command's exit status out of it.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::bounded::{self, BoundedError};
use super::host::Host;
use super::{Options, SoftroceError, Topology, quote};

/// A probe boot under KVM takes about 5 s; a broken KVM hangs for ever.
const PROBE_TIMEOUT: Duration = Duration::from_secs(40);
/// Takes ERMS and FSRM from the guest's processor, so that its kernel copies in words. With them it
/// uses byte string instructions, which emulation carries out byte by byte: slowly, and so that an
/// aligned word can be seen half placed, which no network card does.
const CLEAR_ERMS: &str = "clearcpuid=297,580";
/// The emulated processor, without what emulation carries out worse than it does without: byte string
/// instructions byte by byte for programs too, and CRC32 bit by bit (27 us for 4 KiB beside 6 us by
/// tables, and 0.4 us on a processor).
const EMULATED_CPU: &str = "--qemu-opts=-cpu max,-erms,-fsrm,-sse4.2";
const GUEST_SETUP: &str = include_str!("guest.sh");

/// How the machine's instructions are executed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Accel {
    /// By the processor.
    Kvm,
    /// By software emulation: slow, but works everywhere.
    Tcg,
}

impl Accel {
    pub(super) fn parse(name: &str) -> Option<Self> {
        match name {
            "kvm" => Some(Self::Kvm),
            "tcg" => Some(Self::Tcg),
            _ => None,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
        }
    }
}

/// KVM if a probe boot with it works; the verdict is kept until the host reboots.
///
/// # Errors
/// When the cache folder cannot be used.
pub(super) fn choose_accel(host: &Host, deadline: Instant) -> Result<Accel, SoftroceError> {
    if File::options().read(true).write(true).open("/dev/kvm").is_err() {
        return Ok(Accel::Tcg);
    }
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let verdict = host.cache.join("accelerator");
    if let Ok(kept) = fs::read_to_string(&verdict)
        && let Some((name, of_boot)) = kept.split_once(' ')
        && of_boot == boot
        && let Some(accel) = Accel::parse(name)
    {
        return Ok(accel);
    }
    eprintln!("softroce: trying whether /dev/kvm works");
    let mut probe = boot_command(host, Accel::Kvm, "512M");
    probe.args(["--", "true"]).stdout(Stdio::null()).stderr(Stdio::null());
    let until = deadline.min(Instant::now() + PROBE_TIMEOUT);
    let accel = match bounded::run(&mut probe, until, || {}) {
        Ok(status) if status.success() => Accel::Kvm,
        Ok(_) | Err(BoundedError::Overrun { .. }) => Accel::Tcg,
        Err(error) => return Err(error.into()),
    };
    fs::write(&verdict, format!("{} {boot}", accel.name()))
        .map_err(SoftroceError::file(&verdict))?;
    Ok(accel)
}

/// Boots the machine, runs the command in it and returns its exit status.
///
/// # Errors
/// When the machine cannot be started, overruns, or dies without a status.
pub(super) fn run(
    host: &Host,
    accel: Accel,
    topology: Topology,
    options: &Options,
    deadline: Instant,
) -> Result<i32, SoftroceError> {
    let began = Instant::now();
    let run = RunFolder::create(host)?;
    run.write("setup.sh", GUEST_SETUP)?;
    let words: Vec<String> = options.command.iter().map(|word| quote(word)).collect();
    let here = std::env::current_dir().map_err(SoftroceError::file("."))?;
    run.write(
        "command.sh",
        &format!("cd {}\n{}\n", quote(&here.to_string_lossy()), words.join(" ")),
    )?;
    let script = format!(
        "bash {} {} {}",
        quote(&run.path.join("setup.sh").to_string_lossy()),
        quote(&run.path.to_string_lossy()),
        topology.name(),
    );

    eprintln!("softroce: booting {} under {}", host.kernel.display(), accel.name());
    let console = run.path.join("console");
    let console_out = File::create(&console).map_err(SoftroceError::file(&console))?;
    let console_errors = console_out.try_clone().map_err(SoftroceError::file(&console))?;
    let mut follower = Follower::new(run.path.join("output"));
    let outcome = bounded::run(
        boot_command(host, accel, &options.memory)
            .arg("--rwdir")
            .arg(host.shared())
            .args(["--", &script])
            .stdout(console_out)
            .stderr(console_errors),
        deadline,
        || follower.advance(),
    );
    let status = fs::read_to_string(run.path.join("status"))
        .ok()
        .and_then(|text| text.trim().parse::<i32>().ok());
    eprintln!("softroce: {:.0} s in the virtual machine", began.elapsed().as_secs_f64());
    if let Some(status) = status {
        // The machine may still hang while it shuts down: the command's work is done.
        if status == 0 {
            let _ = fs::remove_dir_all(&run.path);
        } else {
            eprintln!(
                "softroce: the command ended with status {status}; see {}",
                run.path.display()
            );
        }
        return Ok(status);
    }
    let mut text = Vec::new();
    if let Ok(mut file) = File::open(&console) {
        let _ = file.read_to_end(&mut text);
    }
    eprintln!("{}", String::from_utf8_lossy(&text));
    outcome?;
    Err(SoftroceError::GuestDied { console })
}

fn boot_command(host: &Host, accel: Accel, memory: &str) -> Command {
    let mut command = host.vng();
    if accel == Accel::Tcg {
        command.args(["--disable-kvm", EMULATED_CPU]);
    }
    command
        .args(["--force-9p", "--disable-microvm"])
        .args(["--memory", memory, "--cpus", "2"])
        // Without these the emulated clock is ten times dearer to read.
        .args(["-a", "tsc=reliable", "-a", "clocksource=tsc"])
        .args(["-a", CLEAR_ERMS])
        .arg("--run")
        .arg(&host.kernel)
        .args(["--user", "root"]);
    command
}

/// A folder of this run, seen writable by the machine.
#[derive(Debug)]
struct RunFolder {
    path: PathBuf,
}

impl RunFolder {
    fn create(host: &Host) -> Result<Self, SoftroceError> {
        let path = host.shared().join(std::process::id().to_string());
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).map_err(SoftroceError::file(&path))?;
        Ok(Self { path })
    }

    fn write(&self, name: &str, text: &str) -> Result<(), SoftroceError> {
        let path = self.path.join(name);
        fs::write(&path, text).map_err(SoftroceError::file(&path))
    }
}

/// Copies what the guest writes into a file to our standard output, as it comes.
#[derive(Debug)]
struct Follower {
    path: PathBuf,
    file: Option<File>,
}

impl Follower {
    fn new(path: PathBuf) -> Self {
        Self { path, file: None }
    }

    fn advance(&mut self) {
        if self.file.is_none() {
            self.file = open(&self.path);
        }
        if let Some(file) = &mut self.file {
            let mut text = Vec::new();
            if file.read_to_end(&mut text).is_ok() && !text.is_empty() {
                let _ = std::io::stdout().write_all(&text);
                let _ = std::io::stdout().flush();
            }
        }
    }
}

fn open(path: &Path) -> Option<File> {
    File::open(path).ok()
}
