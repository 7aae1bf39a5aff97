//! Disks that fill up and disks that fail, for real: a small tmpfs, and a file system on a loop
//! device that suddenly ends before all of its data, which its users see as EIO. Pushes stop with a reason, reads go
//! on, and a restart with space has everything acknowledged. Mounting needs root.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::Command,
};

use windlass_client::{Client, Element, PullOptions, PushOptions, Table, TableSchema};

use crate::{connect, durable, process::Program};

const ROWS: u64 = 4096;
const WIDTH: u32 = 128;

/// What is mounted, unmounted at the end, last first.
#[derive(Default)]
struct Mounts {
    mounted: Vec<PathBuf>,
    loops: Vec<String>,
}

impl Mounts {
    fn mount(&mut self, arguments: &[&str], at: &Path) {
        fs::create_dir_all(at).unwrap();
        command("mount", arguments, at);
        self.mounted.push(at.to_owned());
    }
}

impl Drop for Mounts {
    fn drop(&mut self) {
        for (at, path) in self.mounted.iter().enumerate().rev() {
            // Best effort: the folder is a temporary one.
            // io_uring lets go of files a little after its process is gone.
            let _ = Command::new("umount").arg("--lazy").arg(path).status();
            if at == self.mounted.len() - 1 {
                for device in &self.loops {
                    let _ = Command::new("losetup").args(["-d", device]).status();
                }
            }
        }
    }
}

fn command(program: &str, arguments: &[&str], last: &Path) -> String {
    let output = Command::new(program).args(arguments).arg(last).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {stderr}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
#[ignore = "mounts file systems: run as root with --include-ignored"]
fn a_full_disk_stops_acknowledging_and_a_restart_with_space_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let program = Program::new(folder.path(), &["--partitions", "1"]);
    let mut mounts = Mounts::default();
    mounts.mount(&["-t", "tmpfs", "-o", "size=400m", "none"], &program.data());
    let ballast = program.data().join("ballast");
    let fill = || {
        let mut file = fs::File::create(&ballast).unwrap();
        while file.write_all(&[1; 64 << 10]).is_ok() {}
    };
    let counted = push_until_refused(&program, "the disk is full", fill);
    fs::remove_file(&ballast).unwrap();
    goes_on(&program, counted);
}

#[test]
#[ignore = "mounts file systems: run as root with --include-ignored"]
fn a_failing_disk_stops_acknowledging_and_a_restart_on_a_sound_one_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let program = Program::new(folder.path(), &["--partitions", "1"]);
    let image = folder.path().join("image");
    fs::File::create(&image).unwrap().set_len(1 << 30).unwrap();
    // Without a journal, which would make the whole file system read-only.
    command("mkfs.ext4", &["-q", "-O", "^has_journal"], &image);
    let device = command("losetup", &["-f", "--show"], &image).trim().to_owned();
    let mut mounts = Mounts::default();
    mounts.loops.push(device.clone());
    mounts.mount(&[&device], &program.data());
    let counted = push_until_refused(&program, "Input/output error", || limit(&device, 4096));
    limit(&device, 0);
    command("umount", &["--lazy"], &program.data());
    // What failed writes have left of the file system itself.
    let _ = Command::new("e2fsck").args(["-fy", &device]).output();
    command("mount", &[&device], &program.data());
    goes_on(&program, counted);
}

/// From now on a loop device ends after so many bytes, for everybody who uses it: reads and writes
/// behind them fail. 0 lifts the limit.
fn limit(device: &str, bytes: u64) {
    // LOOP_GET_STATUS64 and LOOP_SET_STATUS64, with `lo_sizelimit` at byte 32.
    const SCRIPT: &str = "
import fcntl, struct, sys
device = open(sys.argv[1], 'rb')
status = bytearray(232)
fcntl.ioctl(device, 0x4C05, status)
status[32:40] = struct.pack('<Q', int(sys.argv[2]))
fcntl.ioctl(device, 0x4C04, bytes(status))
";
    command("python3", &["-c", SCRIPT, device], Path::new(&bytes.to_string()));
}

fn table(client: &Client) -> Table<f32> {
    let schema = durable(TableSchema::dense(f32::DTYPE, ROWS, WIDTH));
    client.create_table::<f32>("t", &schema).unwrap()
}

fn push(table: &Table<f32>) -> Result<(), windlass_client::RequestError> {
    let ones = vec![1.0; usize::try_from(ROWS).unwrap() * WIDTH as usize];
    table.push(0..ROWS, &ones, &PushOptions::default())?.wait()
}

/// Pushes that each half holds: the client sends a long push as two requests.
fn count(table: &Table<f32>) -> [f32; 2] {
    let rows = table.pull(0..ROWS, &PullOptions::default()).unwrap().wait().unwrap();
    let mut halves = rows.chunks(rows.len() / 2);
    [(); 2].map(|()| {
        let half = halves.next().unwrap();
        assert!(half.iter().all(|value| *value == half[0]), "part of a request");
        half[0]
    })
}

/// Pushes until it is refused; how many were acknowledged. Reads have to go on.
fn push_until_refused(program: &Program, reason: &str, fail: impl Fn()) -> f32 {
    let process = program.start(&[]).unwrap();
    let client = connect(&process.address, 0).unwrap();
    let table = table(&client);
    let mut acknowledged = 0.0;
    let refusal = loop {
        match push(&table) {
            Ok(()) => acknowledged += 1.0,
            Err(refusal) => break refusal,
        }
        if acknowledged == 20.0 {
            fail();
        }
        assert!(acknowledged < 1e4, "the disk never failed");
    };
    assert!(refusal.to_string().contains("failed write to disk"), "{refusal}");
    assert!(push(&table).is_err(), "nothing is acknowledged any more");
    assert!(count(&table).iter().all(|count| *count >= acknowledged));
    let server = client.map().servers[0].id;
    let statistics = client.server_statistics(server).unwrap();
    assert!(statistics.contains("\"logs_stopped\":1"), "{statistics}");
    drop(table);
    drop(client);
    let said = process.said();
    assert!(said.contains("the log is poisoned") && said.contains(reason), "{said}");
    process.kill();
    eprintln!("{acknowledged} pushes were acknowledged before \"{reason}\"");
    acknowledged
}

/// Starts again: everything acknowledged is there, once, and pushes are taken.
fn goes_on(program: &Program, acknowledged: f32) {
    let process = program.start(&[]).unwrap();
    let client = connect(&process.address, 0).unwrap();
    let table = table(&client);
    let found = count(&table);
    for found in found {
        let expected = acknowledged..=acknowledged + 2.0;
        assert!(expected.contains(&found), "{found} of {acknowledged}");
    }
    push(&table).unwrap();
    assert_eq!(count(&table), found.map(|count| count + 1.0));
    drop(table);
    drop(client);
    process.kill();
}
