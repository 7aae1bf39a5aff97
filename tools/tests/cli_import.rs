//! `windlass import` and `windlass export` are each other's inverse, also through numpy.

#![allow(missing_docs)]

mod support;

use std::{fs, path::Path, process::Command};

use support::{Server, fails, folder, json};

/// A .npy file of f32 rows, as numpy writes it.
fn npy(rows: usize, width: usize, values: &[f32]) -> Vec<u8> {
    let text = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({rows}, {width}), }}");
    let padded = format!("{text:width$}\n", width = 128 - 10 - 1);
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend(u16::try_from(padded.len()).expect("a short header").to_le_bytes());
    bytes.extend(padded.as_bytes());
    values.iter().for_each(|value| bytes.extend(value.to_le_bytes()));
    bytes
}

fn import(at: &Path, connect: &str, arguments: &[&str]) -> serde_json::Value {
    json(at, &[&["import", "--json", "--connect", connect], arguments].concat())
}

fn export(at: &Path, connect: &str, tables: &[&str], out: &str) {
    json(at, &[&["export", "--json", "--connect", connect, "--out", out], tables].concat());
}

#[test]
fn what_is_imported_is_exported_and_the_other_way_round() {
    let folder = folder();
    let at = folder.path();
    let options = ["--data-dir", "data", "--shards", "2", "--partitions", "8"];
    let server = Server::start(at, &options);
    let connect = server.address.clone();
    let values: Vec<f32> = (0_u16..3000).map(|at| f32::from(at) * 0.25 - 17.0).collect();
    fs::write(at.join("weights.npy"), npy(1000, 3, &values)).unwrap();

    let adagrad = ["weights.npy", "--rule", "adagrad:lr=0.1", "--durability", "sync"];
    let imported = import(at, &connect, &adagrad);
    assert_eq!(imported["tables"][0]["name"], "weights");
    assert_eq!(imported["tables"][0]["created"], true);
    assert_eq!(imported["bytes"], 12_000);
    export(at, &connect, &["weights"], "again.npy");
    assert_eq!(
        fs::read(at.join("again.npy")).unwrap()[128..],
        fs::read(at.join("weights.npy")).unwrap()[128..]
    );

    // Pushes change rows by the table's rule, and another import sets them back.
    json(at, &["push", "weights", "0=1,1,1", "999=2,2,2", "--connect", &connect, "--json"]);
    let imported = import(at, &connect, &["weights.npy"]);
    assert_eq!(imported["tables"][0]["created"], false);
    export(at, &connect, &["weights"], "third.npy");
    assert_eq!(fs::read(at.join("third.npy")).unwrap(), fs::read(at.join("again.npy")).unwrap());
    drop(server);

    // Imported rows are on disk when the command says so.
    let server = Server::start(at, &options);
    let connect = server.address.clone();
    let other = ["weights.npy", "--table", "other", "--durability", "interval:50"];
    import(at, &connect, &other);
    import(at, &connect, &["weights.npy", "--table", "third", "--rule", "assign"]);
    export(at, &connect, &["weights", "other", "third"], "all.safetensors");
    for table in ["weights", "other"] {
        json(at, &["table", "drop", table, "--connect", &connect, "--json"]);
    }
    let imported =
        import(at, &connect, &["all.safetensors", "--table", "other", "--table", "weights"]);
    assert_eq!(imported["tables"].as_array().unwrap().len(), 2);
    export(at, &connect, &["other"], "other.npy");
    assert_eq!(fs::read(at.join("other.npy")).unwrap(), fs::read(at.join("again.npy")).unwrap());
}

#[test]
fn what_does_not_fit_is_refused_in_a_sentence() {
    let folder = folder();
    let at = folder.path();
    let server = Server::start(at, &[]);
    let connect = server.address.clone();
    let refused = |code: i32, arguments: &[&str]| {
        fails(at, code, &[&["import", "--connect", &connect], arguments].concat())
    };
    fs::write(at.join("w.npy"), npy(10, 2, &[1.0; 20])).unwrap();
    fs::write(at.join("short.npy"), npy(10, 2, &[1.0; 19])).unwrap();
    fs::write(at.join("w.txt"), "1 2 3").unwrap();
    json(at, &["table", "create", "taken", "--rows", "11", "--connect", &connect, "--json"]);
    json(at, &["table", "create", "keys", "--width", "2", "--connect", &connect, "--json"]);
    assert!(refused(1, &["none.npy"]).contains("cannot read"));
    assert!(refused(2, &["w.txt"]).contains(".safetensors"));
    assert!(refused(1, &["w.npy", "--table", "taken"]).contains("11 x 1 of f32"));
    assert!(refused(1, &["w.npy", "--table", "keys"]).contains("sparse"));
    assert!(refused(1, &["short.npy"]).contains("cut short"));
    assert!(
        refused(1, &["w.npy", "--table", "d", "--durability", "sync"]).contains("data directory")
    );
    let mut header = br#"{"a":{"dtype":"F32","shape":[2,1],"data_offsets":[0,8]}}"#.to_vec();
    let mut tensors = (header.len() as u64).to_le_bytes().to_vec();
    tensors.append(&mut header);
    tensors.extend([0; 8]);
    fs::write(at.join("w.safetensors"), tensors).unwrap();
    assert!(refused(1, &["w.safetensors", "--table", "b"]).contains("no tensor \"b\""));
    import(at, &connect, &["w.safetensors"]);
}

const SCRIPT: &str = "
import numpy
made = numpy.arange(700, dtype=numpy.float64).reshape(100, 7) / 3
numpy.save('made.npy', made)
numpy.save('line.npy', numpy.arange(50, dtype=numpy.int64))
";

const CHECK: &str = "
import numpy
made = numpy.load('made.npy')
assert (numpy.load('back.npy') == made).all()
line = numpy.load('line_back.npy')
assert line.dtype == numpy.int64 and (line[:, 0] == numpy.arange(50)).all()
";

/// The interpreter named by `WINDLASS_TEST_PYTHON`, else that of the Python package's tests, else
/// `python3`: the first that has numpy.
fn python() -> Option<String> {
    let named = std::env::var("WINDLASS_TEST_PYTHON").ok();
    let kept = format!("{}/python/bin/python", env!("CARGO_TARGET_TMPDIR"));
    named.into_iter().chain([kept, "python3".to_owned()]).find(|python| {
        let has_numpy = Command::new(python).args(["-c", "import numpy"]).output();
        has_numpy.is_ok_and(|output| output.status.success())
    })
}

#[test]
fn tables_round_trip_with_numpy() {
    let folder = folder();
    let at = folder.path();
    let Some(python) = python() else {
        println!("SKIPPED: python3 has no numpy; set WINDLASS_TEST_PYTHON to one that has");
        return;
    };
    let run = |script: &str| {
        let output = Command::new(&python).args(["-c", script]).current_dir(at).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    run(SCRIPT);
    let server = Server::start(at, &[]);
    import(at, &server.address, &["made.npy", "--rule", "adam:lr=0.1"]);
    import(at, &server.address, &["line.npy"]);
    export(at, &server.address, &["made"], "back.npy");
    export(at, &server.address, &["line"], "line_back.npy");
    run(CHECK);
}

/// A file that is cut short is noticed at its end, when a table has most of its rows.
#[test]
fn a_failed_import_leaves_no_table_and_can_be_tried_again() {
    let folder = folder();
    let at = folder.path();
    for options in [&["--memory", "256MiB"][..], &["--together", "--replicas", "2"]] {
        let server = Server::start(at, options);
        let connect = server.address.clone();
        let values = vec![1.5; 400_000];
        fs::write(at.join("w.npy"), npy(100_000, 4, &values[..399_999])).unwrap();
        let text = fails(at, 1, &["import", "w.npy", "--connect", &connect]);
        assert!(text.contains("cut short"), "{text}");
        let listed = json(at, &["table", "list", "--connect", &connect, "--json"]);
        assert_eq!(listed, serde_json::json!([]), "{options:?}");
        fs::write(at.join("w.npy"), npy(100_000, 4, &values)).unwrap();
        assert_eq!(import(at, &connect, &["w.npy"])["tables"][0]["created"], true);
        // One that was there before stays, with what it has got.
        fs::write(at.join("w.npy"), npy(100_000, 4, &values[..399_999])).unwrap();
        fails(at, 1, &["import", "w.npy", "--connect", &connect]);
        let listed = json(at, &["table", "list", "--connect", &connect, "--json"]);
        assert_eq!(listed.as_array().unwrap().len(), 1, "{options:?}");
    }
}
