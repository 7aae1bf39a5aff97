//! What is gone from a data directory, or cannot be read, is told at the next start: nobody serves what is
//! left of acknowledged pushes as if it were all. Put back, everything is there again.

use std::{
    fs,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    time::Duration,
};

use windlass_client::{Element, PullOptions, PushOptions, TableSchema};

use crate::{connect, durable, process::Program};

const ROWS: u64 = 10;

/// Pushes to every row, one request each, and kills the server when its log has come to rest.
fn push_and_kill(program: &Program) {
    let process = program.start(&[]).unwrap();
    let client = connect(&process.address, 0).unwrap();
    let schema = durable(TableSchema::dense(i64::DTYPE, ROWS, 4));
    let table = client.create_table::<i64>("t", &schema).unwrap();
    for row in 0..ROWS {
        table.push(&[row], &[1; 4], &PushOptions::default()).unwrap().wait().unwrap();
    }
    std::thread::sleep(Duration::from_secs(1));
    drop(table);
    drop(client);
    process.kill();
}

/// The first value of every row, or why there is no server.
fn rows(program: &Program, extra: &[&str]) -> Result<Vec<i64>, String> {
    let process = program.start(extra)?;
    let client = connect(&process.address, 0).unwrap();
    let table = client.open_table::<i64>("t").unwrap();
    let rows = table.pull(0..ROWS, &PullOptions::default()).unwrap().wait().unwrap();
    drop(table);
    drop(client);
    process.kill();
    Ok(rows.chunks(4).map(|row| row[0]).collect())
}

/// Segments of the only shard, in the order in which they were begun.
fn segments(program: &Program) -> Vec<PathBuf> {
    let frames = program.run(&["inspect", "log", "data", "--frames"]);
    let mut begun: Vec<(u64, PathBuf)> = Vec::new();
    for frame in frames.iter().filter(|frame| frame["kind"] == "batch") {
        let path = program.data().join("shard-0").join(frame["place"]["file"].as_str().unwrap());
        if begun.iter().all(|(_, known)| *known != path) {
            begun.push((frame["place"]["position"].as_u64().unwrap(), path));
        }
    }
    begun.sort();
    begun.into_iter().map(|(_, path)| path).collect()
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

#[test]
fn a_shard_directory_that_is_gone_or_empty_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let program = Program::new(folder.path(), &["--partitions", "1"]);
    push_and_kill(&program);
    let (shard, aside) = (program.data().join("shard-0"), folder.path().join("aside"));
    copy(&shard, &aside);
    for is_there in [false, true] {
        fs::remove_dir_all(&shard).unwrap();
        if is_there {
            fs::create_dir(&shard).unwrap();
        }
        for _ in 0..2 {
            let refusal = rows(&program, &[]).unwrap_err();
            assert!(
                refusal.contains("shard-0") && refusal.contains("--accept-damage"),
                "{refusal}"
            );
        }
        fs::remove_dir_all(&shard).unwrap();
        let (is_sound, said) = program.scrub();
        assert!(!is_sound && said.contains("shard-0"), "{said}");
        copy(&aside, &shard);
        assert_eq!(rows(&program, &[]).unwrap(), [1; ROWS as usize]);
        assert!(program.scrub().0, "{}", program.scrub().1);
    }
    fs::remove_dir_all(&shard).unwrap();
    assert_eq!(rows(&program, &["--accept-damage"]).unwrap(), [0; ROWS as usize]);
    assert_eq!(rows(&program, &[]).unwrap(), [0; ROWS as usize], "accepted once and for all");
}

#[test]
fn a_log_that_lost_its_last_segment_is_refused_with_how_much() {
    let folder = tempfile::tempdir().unwrap();
    let program = Program::new(folder.path(), &["--partitions", "1"]);
    push_and_kill(&program);
    // Every life has a segment of its own.
    push_and_kill(&program);
    let twice = [2; ROWS as usize];
    let segments = segments(&program);
    assert_eq!(segments.len(), 2, "{segments:?}");
    let last = &segments[1];
    let bytes = fs::read(last).unwrap();
    for is_there in [false, true] {
        match is_there {
            true => fs::write(last, vec![0; bytes.len()]).unwrap(),
            false => fs::remove_file(last).unwrap(),
        }
        let refusal = rows(&program, &[]).unwrap_err();
        assert!(refusal.contains("bytes of what was acknowledged are missing"), "{refusal}");
        assert!(refusal.contains("--accept-damage"), "{refusal}");
        assert!(!program.scrub().0);
        fs::write(last, &bytes).unwrap();
        assert_eq!(rows(&program, &[]).unwrap(), twice);
    }
    fs::remove_file(last).unwrap();
    assert_eq!(rows(&program, &["--accept-damage"]).unwrap(), [1; ROWS as usize]);
}

/// The bit is in the only superblock: all that was pushed is there, or the server does not start.
#[test]
fn a_flipped_bit_in_the_first_superblock_loses_nothing_in_silence() {
    let folder = tempfile::tempdir().unwrap();
    let program = Program::new(folder.path(), &["--partitions", "1"]);
    push_and_kill(&program);
    let segment = segments(&program).remove(0);
    let file = fs::OpenOptions::new().read(true).write(true).open(&segment).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, 20).unwrap();
    file.write_all_at(&[byte[0] ^ 1], 20).unwrap();
    let name = segment.file_name().unwrap().to_str().unwrap().to_owned();
    let (is_sound, said) = program.scrub();
    assert!(!is_sound && said.contains(&name), "{said}");
    match rows(&program, &[]) {
        Ok(rows) => assert_eq!(rows, [1; ROWS as usize]),
        Err(refusal) => assert!(refusal.contains(&name), "{refusal}"),
    }
}

/// Files that a server keeps beside its shards.
#[test]
fn what_lies_beside_the_shards_is_scrubbed_and_its_loss_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let program = Program::new(folder.path(), &["--partitions", "1"]);
    push_and_kill(&program);
    for name in ["catalogue", "identity", "coordinator/map"] {
        let path = program.data().join(name);
        let bytes = fs::read(&path).unwrap();
        let mut damaged = bytes.clone();
        *damaged.last_mut().unwrap() ^= 1;
        fs::write(&path, damaged).unwrap();
        let (is_sound, said) = program.scrub();
        assert!(!is_sound && said.contains(name), "{name}: {said}");
        assert!(rows(&program, &[]).is_err(), "{name}");
        fs::write(&path, bytes).unwrap();
    }
    let catalogue = program.data().join("catalogue");
    let bytes = fs::read(&catalogue).unwrap();
    fs::remove_file(&catalogue).unwrap();
    let refusal = rows(&program, &[]).unwrap_err();
    assert!(refusal.contains("catalogue is missing"), "{refusal}");
    fs::write(&catalogue, bytes).unwrap();
    assert_eq!(rows(&program, &[]).unwrap(), [1; ROWS as usize]);
}
