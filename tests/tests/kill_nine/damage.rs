//! A byte flipped in the middle of a log is refused by name; writes cut off at its end are not.

use std::{
    fs::OpenOptions,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use serde_json::Value;
use windlass_client::{Element, PullOptions, PushOptions, TableSchema};

use crate::{connect, durable, process::Program};

const PUSHES: u64 = 40;

#[test]
fn a_flipped_byte_is_refused_by_name_and_a_torn_tail_is_cut_off() {
    let folder = tempfile::tempdir().unwrap();
    let program = Program::new(folder.path(), &["--partitions", "1"]);
    let process = program.start(&[]).unwrap();
    let client = connect(&process.address, 0).unwrap();
    let schema = durable(TableSchema::dense(i64::DTYPE, PUSHES, 40));
    let table = client.create_table::<i64>("t", &schema).unwrap();
    for row in 0..PUSHES {
        table.push(&[row], &[1; 40], &PushOptions::default()).unwrap().wait().unwrap();
    }
    drop(table);
    drop(client);
    process.kill();

    let records = records(&program);
    assert_eq!(records.len() as u64, PUSHES);
    let (file, middle) = place(&program, &records[20]);
    flip(&file, middle);
    let refusal = program.start(&[]).err().expect("damage is refused");
    let offset = records[20]["place"]["offset"].as_u64().unwrap();
    let lsn = records[20]["lsn"].as_u64().unwrap();
    let name = file.file_name().unwrap().to_str().unwrap();
    for part in [name, &format!("offset {offset}"), &format!("LSN {lsn}"), "--accept-damage"] {
        assert!(refusal.contains(part), "{part} is missing: {refusal}");
    }

    // Nothing was changed by refusing: with the byte as it was, all is well.
    flip(&file, middle);
    assert_eq!(rows(&program, &[]), [1; PUSHES as usize]);

    // A write that the power cut in two, behind everything that was acknowledged.
    let end = self::records(&program).last().map(|last| last_byte(last) + 1).unwrap();
    let (file, _) = place(&program, &records[20]);
    let torn = [0xab; 700];
    let end = end.next_multiple_of(4096);
    OpenOptions::new().write(true).open(&file).unwrap().write_all_at(&torn, end).unwrap();
    assert_eq!(rows(&program, &[]), [1; PUSHES as usize]);

    flip(&file, middle);
    assert!(program.start(&[]).is_err(), "damage is refused until it is accepted");
    let mut expected = [1; PUSHES as usize];
    expected[20] = 0;
    assert_eq!(rows(&program, &["--accept-damage"]), expected, "one push is lost, no more");
}

/// The records of the log, as `inspect` prints them.
fn records(program: &Program) -> Vec<Value> {
    let lines = program.run(&["inspect", "log", "data", "--frames"]);
    lines.into_iter().filter(|frame| frame["kind"] == "rows").collect()
}

/// The file of a record and a byte in the middle of its values.
fn place(program: &Program, record: &Value) -> (PathBuf, u64) {
    let file = record["place"]["file"].as_str().unwrap();
    let half = record["delta_bytes"].as_u64().unwrap() / 2;
    (program.data().join("shard-0").join(file), last_byte(record) - half)
}

fn last_byte(record: &Value) -> u64 {
    record["place"]["offset"].as_u64().unwrap() + record["bytes"].as_u64().unwrap() - 1
}

fn flip(file: &Path, offset: u64) {
    let file = OpenOptions::new().read(true).write(true).open(file).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).unwrap();
    file.write_all_at(&[byte[0] ^ 0x10], offset).unwrap();
}

/// The first value of every row, of a server that is killed then.
fn rows(program: &Program, extra: &[&str]) -> Vec<i64> {
    let process = program.start(extra).unwrap();
    let client = connect(&process.address, 0).unwrap();
    let table = client.open_table::<i64>("t").unwrap();
    let rows = table.pull(0..PUSHES, &PullOptions::default()).unwrap().wait().unwrap();
    drop(table);
    drop(client);
    process.kill();
    rows.chunks(40).map(|row| row[0]).collect()
}
