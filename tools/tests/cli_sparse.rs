//! Sparse tables leave the system and come back, with keys, values and state, onto other servers.

#![allow(missing_docs, clippy::unwrap_used)]

mod support;

use std::{collections::BTreeMap, fs, path::Path};

use serde_json::{Value, json as object};
use support::{Server, fails, folder, json};

/// A safetensors file of these tensors: name, type, shape, data.
fn tensors(tensors: &[(&str, &str, &[u64], Vec<u8>)]) -> Vec<u8> {
    let (mut header, mut data) = (serde_json::Map::new(), Vec::<u8>::new());
    for (name, dtype, shape, bytes) in tensors {
        let from = data.len();
        data.extend(bytes);
        let entry = object!({"dtype": dtype, "shape": shape, "data_offsets": [from, data.len()]});
        header.insert((*name).to_owned(), entry);
    }
    let text = Value::Object(header).to_string();
    let mut file = (text.len() as u64).to_le_bytes().to_vec();
    file.extend(text.bytes());
    file.extend(data);
    file
}

fn keys(keys: &[u64]) -> Vec<u8> {
    keys.iter().flat_map(|key| key.to_le_bytes()).collect()
}

fn floats(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// Every row that a scan prints.
fn rows(at: &Path, connect: &str, table: &str) -> BTreeMap<u64, Value> {
    let scan = ["table", "scan", table, "--limit", "1000000", "--connect", connect, "--json"];
    let scanned = json(at, &scan);
    let rows = scanned["rows"].as_array().unwrap().iter();
    rows.map(|row| (row["key"].as_u64().unwrap(), row["values"].clone())).collect()
}

fn tables(at: &Path, connect: &str) -> usize {
    let listed = json(at, &["table", "list", "--connect", connect, "--json"]);
    listed.as_array().unwrap().len()
}

/// Tables, and rules of every kind of state: of each value, counts of steps, of whole rows, none.
const RULES: [(&str, &str); 4] = [
    ("ada", "adagrad:lr=0.1"),
    ("adam", "adam:lr=0.1"),
    ("row", "row-adagrad:lr=0.1"),
    ("sum", "add"),
];

#[test]
fn a_sparse_table_goes_from_one_cluster_to_another_with_its_state() {
    let folder = folder();
    let at = folder.path();
    let server = Server::start(at, &["--shards", "2", "--partitions", "8"]);
    let connect = server.address.as_str();
    for (table, rule) in RULES {
        let create = ["table", "create", table, "--width", "2", "--rule", rule];
        json(at, &[&create[..], &["--connect", connect, "--json"]].concat());
        let max = format!("{}=1,-1", u64::MAX);
        let push = ["push", table, "0=1,2", "7=0.5,0.25", "123456789012=3,4", &max];
        json(at, &[&push[..], &["--connect", connect, "--json"]].concat());
    }
    json(at, &["table", "create", "empty", "--width", "2", "--connect", connect, "--json"]);
    json(at, &["table", "create", "dense", "--rows", "9", "--connect", connect, "--json"]);
    let all = ["ada", "adam", "row", "sum", "empty", "dense"];
    for (out, state) in [("all.safetensors", true), ("pieces", true), ("bare.safetensors", false)] {
        let state = if state { &["--state"][..] } else { &[] };
        let out = ["export", "--out", out, "--piece", "64B", "--connect", connect, "--json"];
        let exported = json(at, &[&out[..], state, &all[..]].concat());
        assert_eq!(exported["tables"], 6);
    }
    assert!(fs::read_dir(at.join("pieces")).unwrap().count() > 6, "more pieces than tables");
    let text = fails(at, 1, &["export", "sum", "--out", "pieces", "--connect", connect]);
    assert!(text.contains("name a new folder"), "{text}");
    let text = fails(at, 1, &["export", "sum", "--out", "sum.npy", "--connect", connect]);
    assert!(text.contains("keys and values"), "{text}");

    let push = |connect: &str, table| {
        json(at, &["push", table, "7=0.5,0.5", "8=1,1", "--connect", connect, "--json"]);
    };
    let before = all[..5].iter().map(|table| rows(at, connect, table)).collect::<Vec<_>>();
    all[..4].iter().for_each(|table| push(connect, table));
    let after = all[..5].iter().map(|table| rows(at, connect, table)).collect::<Vec<_>>();
    for options in [
        &["--shards", "1", "--partitions", "16"][..],
        &["--together", "--replicas", "2", "--partitions", "4"],
        &["--together", "--replicas", "3", "--transports", "tcp"],
    ] {
        for file in ["all.safetensors", "pieces", "bare.safetensors"] {
            let other = Server::start(at, options);
            let to = ["--connect", &other.address, "--json"];
            for (table, rule) in RULES {
                let import = ["import", file, "--table", table, "--rule", rule];
                let imported = json(at, &[&import[..], &to].concat());
                assert_eq!(imported["tables"][0]["rows"], 4, "{options:?} {file}");
            }
            let rest = ["import", file, "--table", "empty", "--table", "dense"];
            assert_eq!(json(at, &[&rest[..], &to].concat())["tables"].as_array().unwrap().len(), 2);
            for (table, before) in all.iter().zip(&before) {
                assert_eq!(rows(at, &other.address, table), *before, "{options:?} {file} {table}");
            }
            all[..4].iter().for_each(|table| push(&other.address, table));
            for (table, after) in all.iter().zip(&after) {
                let has_state = file != "bare.safetensors" || *table == "sum" || *table == "empty";
                let same = rows(at, &other.address, table) == *after;
                assert_eq!(
                    same, has_state,
                    "pushes go on from the state: {options:?} {file} {table}"
                );
            }
            if options.contains(&"--together") {
                json(at, &[&["verify"][..], &to].concat());
            }
        }
    }
}

#[test]
fn a_folder_of_pieces_is_imported_as_a_whole_or_not_at_all() {
    let folder = folder();
    let at = folder.path();
    let server = Server::start(at, &["--partitions", "8"]);
    let connect = server.address.as_str();
    let numbers: Vec<u64> =
        (0..40_000_u64).map(|at| at.wrapping_mul(0x9e37_79b9_7f4a_7c15)).collect();
    let values: Vec<f32> = (0..80_000).map(|at| at as f32).collect();
    let file = tensors(&[
        ("t.keys", "I64", &[40_000], keys(&numbers)),
        ("t.values", "F32", &[40_000, 2], floats(&values)),
    ]);
    fs::write(at.join("t.safetensors"), file).unwrap();
    let import = |path: &str| json(at, &["import", path, "--connect", connect, "--json"]);
    import("t.safetensors");
    let expected = rows(at, connect, "t");
    assert_eq!(expected.len(), 40_000);
    let export = ["export", "t", "--out", "t", "--piece", "100kB", "--key-type", "i64"];
    json(at, &[&export[..], &["--connect", connect, "--json"]].concat());
    json(at, &["table", "drop", "t", "--connect", connect, "--json"]);
    assert_eq!(import("t")["tables"][0]["rows"], 40_000);
    assert_eq!(rows(at, connect, "t"), expected);
    json(at, &["table", "drop", "t", "--connect", connect, "--json"]);
    let mut pieces: Vec<_> =
        fs::read_dir(at.join("t")).unwrap().map(|entry| entry.unwrap().path()).collect();
    pieces.sort();
    assert!(pieces.len() >= 4, "{pieces:?}");
    // The same rows twice, one piece cut, one missing.
    fs::copy(&pieces[1], at.join("t/again.safetensors")).unwrap();
    let refused = || fails(at, 1, &["import", "t", "--connect", connect]);
    assert!(refused().contains("comes twice"));
    fs::remove_file(at.join("t/again.safetensors")).unwrap();
    let bytes = fs::read(&pieces[2]).unwrap();
    fs::write(&pieces[2], &bytes[..bytes.len() - 1]).unwrap();
    assert!(refused().contains("cut short"));
    fs::remove_file(&pieces[2]).unwrap();
    assert!(refused().contains("pieces: export again"));
    assert_eq!(tables(at, connect), 0);
}

#[test]
fn bad_columns_are_refused_before_a_table_is_made() {
    let folder = folder();
    let at = folder.path();
    let server = Server::start(at, &[]);
    let connect = server.address.as_str();
    let good = || ("t.values", "F32", &[2_u64, 1][..], floats(&[1.0, 2.0]));
    let two = || ("t.keys", "U64", &[2_u64][..], keys(&[3, 4]));
    let state = |width: u64| {
        (
            "t.state",
            "F32",
            if width == 2 { &[2, 2][..] } else { &[2, 1] },
            vec![0; if width == 2 { 16 } else { 8 }],
        )
    };
    let refused = |file: Vec<u8>, more: &[&str]| {
        fs::write(at.join("t.safetensors"), file).unwrap();
        let import = ["import", "t.safetensors", "--connect", connect];
        let text = fails(at, 1, &[&import[..], more].concat());
        assert_eq!(tables(at, connect), 0, "{text}");
        text
    };
    let twice = ("t.keys", "U64", &[2_u64][..], keys(&[3, 3]));
    assert!(refused(tensors(&[twice, good()]), &[]).contains("key 3 of table t comes twice"));
    let three = ("t.keys", "U64", &[3_u64][..], keys(&[3, 4, 5]));
    assert!(refused(tensors(&[three, good()]), &[]).contains("2 rows for 3 keys"));
    let halves = ("t.keys", "F32", &[2_u64][..], floats(&[3.0, 4.0]));
    assert!(refused(tensors(&[halves, good()]), &[]).contains("keys are of u64 or i64"));
    let whole = tensors(&[two(), good()]);
    assert!(refused(whole[..whole.len() - 1].to_vec(), &[]).contains("cut short"));
    assert!(refused(whole[..20].to_vec(), &[]).contains("cut short"));
    let of_add = refused(tensors(&[two(), good(), state(1)]), &[]);
    assert!(of_add.contains("t.state") && of_add.contains("rule add"), "{of_add}");
    let adam = ["--rule", "adam:lr=0.1"];
    assert!(refused(tensors(&[two(), good(), state(2)]), &adam).contains("t.steps"));
    assert!(refused(tensors(&[two(), good()]), &["--table", "u"]).contains("no tensor \"u\""));
    // What was there keeps what it has.
    let there = ["--connect", connect, "--json"];
    json(at, &[&["table", "create", "t", "--width", "2"][..], &there].concat());
    json(at, &[&["push", "t", "3=5,6"][..], &there].concat());
    fs::write(at.join("t.safetensors"), whole).unwrap();
    let text = fails(at, 1, &["import", "t.safetensors", "--connect", connect]);
    assert!(text.contains("t.values f32 x 1") && text.contains("t.values f32 x 2"), "{text}");
    assert_eq!(rows(at, connect, "t"), BTreeMap::from([(3, object!([5.0, 6.0]))]));
}

#[test]
fn rows_are_removed_by_key_and_by_norm() {
    let folder = folder();
    let at = folder.path();
    let server = Server::start(at, &["--shards", "2", "--partitions", "8"]);
    let connect = ["--connect", server.address.as_str()];
    let run = |words: &[&str]| json(at, &[words, &connect, &["--json"]].concat());
    run(&["table", "create", "t", "--width", "2"]);
    run(&["table", "create", "dense", "--rows", "4"]);
    let max = u64::MAX.to_string();
    run(&["push", "t", "0=1,2", "7=0.3,-0.4", &format!("{max}=1,-1"), "9=5,5"]);
    assert_eq!(run(&["table", "remove", "t", "0", "8", &max]), object!({"table": "t", "rows": 2}));
    assert_eq!(
        run(&["table", "remove", "t", "--below", "0.6"]),
        object!({"table": "t", "rows": 1})
    );
    assert_eq!(rows(at, connect[1], "t"), BTreeMap::from([(9, object!([5.0, 5.0]))]));
    let fails = |code, words: &[&str]| fails(at, code, &[words, &connect].concat());
    let text = fails(1, &["table", "remove", "dense", "1"]);
    assert!(text.contains("rows of dense tables are not removed"), "{text}");
    let text = fails(1, &["table", "remove", "none", "1"]);
    assert!(text.contains("there are t, dense"), "{text}");
    for usage in [&["table", "remove", "t"][..], &["table", "remove", "t", "1", "--below", "2"]] {
        fails(2, usage);
    }
    assert!(fails(1, &["table", "remove", "t", "--below", "nan"]).contains("a number"));
}
