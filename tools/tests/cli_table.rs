//! `windlass serve`, `table`, `push` and `pull`, as a user runs them.

#![allow(missing_docs)]

mod support;

use serde_json::json as value;
use support::{Server, fails, folder, json, run, stderr};

/// Arguments that are for a server, with JSON for an answer.
fn connected<'a>(arguments: &[&'a str], server: &'a Server) -> Vec<&'a str> {
    [arguments, &["--connect", &server.address, "--json"]].concat()
}

#[test]
fn rows_of_every_dtype_go_there_and_back() {
    let folder = folder();
    let at = folder.path();
    let server = Server::start(at, &[]);
    let connect = server.address.as_str();
    for dtype in ["f32", "f64", "f16", "bf16", "i8", "i32", "i64", "u64"] {
        let create =
            ["table", "create", dtype, "--rows", "100", "--width", "2", "--dtype", dtype, "--json"];
        let table = json(at, &[&create[..], &["--connect", connect]].concat());
        assert_eq!(table["kind"], "dense");
        assert_eq!(table["rule"], "add");
        let pushed = json(at, &["push", dtype, "7=3,4", "99=1,2", "--connect", connect, "--json"]);
        assert_eq!(pushed["rows"], 2);
        let pulled = json(at, &["pull", dtype, "7", "8", "99", "--connect", connect, "--json"]);
        let rows: Vec<(u64, f64, f64)> = pulled["rows"]
            .as_array()
            .unwrap()
            .iter()
            .map(|row| {
                let number = |index: usize| row["values"][index].as_f64().unwrap();
                (row["key"].as_u64().unwrap(), number(0), number(1))
            })
            .collect();
        assert_eq!(rows, [(7, 3.0, 4.0), (8, 0.0, 0.0), (99, 1.0, 2.0)], "{dtype}");
    }
    let tables = json(at, &["table", "list", "--connect", connect, "--json"]);
    assert_eq!(tables.as_array().unwrap().len(), 8);
}

#[test]
fn a_table_says_what_its_rows_begin_with_and_take() {
    let folder = folder();
    let at = folder.path();
    let server = Server::start(at, &[]);
    let call = |arguments: &[&str]| json(at, &connected(arguments, &server));
    let refuse = |code, arguments: &[&str]| fails(at, code, &connected(arguments, &server));
    let first = ["table", "create", "begun", "--width", "2", "--initializer", "uniform:-2,-1"];
    assert_eq!(call(&first)["initializer"], "uniform:-2,-1,seed=0");
    let begun = call(&["pull", "begun", "7"])["rows"][0]["values"][0].as_f64().unwrap();
    assert!((-2.0..=-1.0).contains(&begun), "{begun}");
    let shown = call(&["table", "show", "begun"]);
    assert_eq!((&shown["row_count"], &shown["memory_bytes"]), (&0.into(), &0.into()), "{shown}");
    call(&["push", "begun", "7=1,1", "8=1,1"]);
    let shown = call(&["table", "show", "begun"]);
    assert_eq!(shown["row_count"], 2, "{shown}");
    assert!(shown["memory_bytes"].as_u64().unwrap() > 2 * 8, "{shown}");
    let load = shown["index_load"].as_f64().unwrap();
    assert!(load > 0.0 && load < 1.0, "{shown}");
    let old = ["table", "create", "old", "--expiry", "rows:50,age:7d"];
    assert_eq!(call(&old)["expiry"], "age:7d,rows:50");
    assert_eq!(call(&["table", "show", "begun"])["expiry"], "never");
    let text = refuse(2, &["table", "create", "wrong", "--expiry", "7d"]);
    assert!(text.contains("use never, age:TIME, rows:COUNT"), "{text}");
    let dense = ["table", "create", "wrong", "--rows", "9", "--expiry", "age:1d"];
    assert!(refuse(2, &dense).contains("do not expire"), "{}", refuse(2, &dense));
    let text = refuse(2, &["table", "create", "wrong", "--initializer", "ones"]);
    assert!(text.contains("no initializer"), "{text}");
    let dense = ["table", "create", "wrong", "--rows", "9", "--initializer", "constant:1"];
    assert!(refuse(2, &dense).contains("dense"), "{}", refuse(2, &dense));
}

#[test]
fn a_sparse_table_takes_any_key_and_a_dropped_one_is_gone() {
    let folder = folder();
    let at = folder.path();
    let server = Server::start(at, &[]);
    let call = |arguments: &[&str]| json(at, &connected(arguments, &server));
    let refuse = |code, arguments: &[&str]| fails(at, code, &connected(arguments, &server));
    call(&["table", "create", "e", "--rule", "sgd:lr=0.5"]);
    // The same again is no error; another schema is.
    call(&["table", "create", "e", "--rule", "sgd:lr=0.5"]);
    let text = refuse(1, &["table", "create", "e", "--rule", "add"]);
    assert!(text.contains("another schema"), "{text}");
    call(&["push", "e", "18446744073709551000=2"]);
    let pulled = call(&["pull", "e", "18446744073709551000"]);
    assert_eq!(pulled["rows"][0]["values"], value!([-1.0]));
    assert_eq!(call(&["table", "show", "e"])["kind"], "sparse");

    call(&["table", "create", "bounded", "--consistency", "bounded:4"]);
    let changed = call(&["table", "set", "bounded", "--consistency", "sequential"]);
    assert_eq!(changed["consistency"], "sequential");
    assert_eq!(call(&["table", "show", "bounded"])["consistency"], "sequential");
    refuse(1, &["table", "set", "e", "--consistency", "bounded:1"]);
    call(&["table", "drop", "bounded"]);

    let changed = call(&["table", "set", "e", "learning_rate=0.25", "wd=0.5"]);
    assert_eq!(changed["rule"], "sgd:lr=0.25,momentum=0,wd=0.5,nesterov=false");
    assert_eq!(call(&["table", "show", "e"])["rule"], changed["rule"]);
    call(&["table", "set", "e", "wd=0"]);
    call(&["push", "e", "9=2"]);
    assert_eq!(call(&["pull", "e", "9"])["rows"][0]["values"], value!([-0.5]));
    for (parameter, told) in [
        ("speed=3", "lr, momentum, wd, nesterov"),
        ("lr=0", "1e-30 to 1e30"),
        ("lr=fast", "a number"),
        ("lr", "key=value"),
        ("momentum=0.5", "state"),
    ] {
        let text = refuse(1, &["table", "set", "e", parameter]);
        assert!(text.contains(told), "{text}");
    }
    assert_eq!(call(&["table", "show", "e"])["rule"], "sgd:lr=0.25,momentum=0,wd=0,nesterov=false");
    refuse(1, &["table", "set", "nothing", "lr=1"]);
    refuse(2, &["table", "set", "e"]);

    let rounds = ["table", "create", "rounds", "--aggregation", "rounds:2:fold"];
    assert_eq!(call(&rounds)["aggregation"], "rounds:2:fold");
    assert_eq!(call(&["table", "show", "rounds"])["aggregation"], "rounds:2:fold");
    let text = refuse(1, &["push", "rounds", "1=1"]);
    assert!(text.contains("rank"), "{text}");
    call(&["table", "drop", "rounds"]);
    let text = refuse(2, &["table", "create", "x", "--aggregation", "rounds:0"]);
    assert!(text.contains("rounds:M with M workers from 1"), "{text}");
    let kept = ["table", "create", "x", "--aggregation", "rounds", "--durability", "sync"];
    let text = refuse(1, &kept);
    assert!(text.contains("use durability memory"), "{text}");

    let text = refuse(1, &["pull", "nothing", "1"]);
    assert!(text.contains("\"nothing\"") && text.contains("there are e"), "{text}");
    let text = refuse(2, &["push", "e", "1=2,3"]);
    assert!(text.contains("1 wide"), "{text}");
    let text = refuse(2, &["push", "e", "1=2", "1=3"]);
    assert!(text.contains("twice"), "{text}");
    let text = refuse(2, &["table", "create", "x", "--rule", "sgd:speed=3"]);
    assert!(text.contains("lr, momentum"), "{text}");

    call(&["table", "drop", "e"]);
    assert_eq!(call(&["table", "list"]), value!([]));
    refuse(1, &["table", "drop", "e"]);
}

#[test]
fn a_sparse_table_is_scanned_part_by_part() {
    let folder = folder();
    let at = folder.path();
    let server = Server::start(at, &[]);
    let connect = server.address.as_str();
    let call = |arguments: &[&str]| json(at, &connected(arguments, &server));
    call(&["table", "create", "e", "--width", "2"]);
    let empty = call(&["table", "scan", "e"]);
    assert_eq!(empty, value!({"table": "e", "rows": [], "cursor": null}));
    let pushed: Vec<String> = (1..=20).map(|key| format!("{key}={key},-{key}")).collect();
    let pushed: Vec<&str> = pushed.iter().map(String::as_str).collect();
    call(&[&["push", "e", "18446744073709551615=7,8"][..], &pushed].concat());
    let (mut keys, mut cursor) = (Vec::new(), None::<String>);
    loop {
        let mut arguments = vec!["table", "scan", "e", "--limit", "6"];
        arguments.extend(cursor.iter().flat_map(|text| ["--cursor", text]));
        let scanned = call(&arguments);
        for row in scanned["rows"].as_array().unwrap() {
            let key = row["key"].as_u64().unwrap();
            #[expect(clippy::cast_precision_loss, reason = "small")]
            let expected = if key == u64::MAX { [7.0, 8.0] } else { [key as f64, -(key as f64)] };
            assert_eq!(row["values"], value!(expected));
            keys.push(key);
        }
        cursor = scanned["cursor"].as_str().map(str::to_owned);
        if cursor.is_none() {
            break;
        }
    }
    keys.sort_unstable();
    assert_eq!(keys, (1..=20).chain([u64::MAX]).collect::<Vec<u64>>());
    let only = call(&["table", "scan", "e", "--keys"]);
    assert_eq!(only["rows"].as_array().unwrap().len(), 21);
    assert!(only["rows"][0].get("values").is_none());
    let text = run(at, &["table", "scan", "e", "--limit", "5", "--connect", connect]);
    let text = String::from_utf8(text.stdout).unwrap();
    assert!(text.contains("--cursor "), "{text}");
    call(&["table", "create", "other"]);
    let cursor = call(&["table", "scan", "e", "--limit", "1"])["cursor"].clone();
    let cursor = ["table", "scan", "other", "--cursor", cursor.as_str().unwrap()];
    let refused = fails(at, 1, &[&cursor[..], &["--connect", connect]].concat());
    assert!(refused.contains("\"other\"") && refused.contains("new scan"), "{refused}");
    let text = fails(at, 2, &["table", "scan", "e", "--cursor", "x", "--connect", connect]);
    assert!(text.contains("is not a cursor"), "{text}");
}

#[test]
fn a_server_that_is_not_there_or_asks_for_a_token_says_so() {
    let folder = folder();
    let at = folder.path();
    let text = fails(at, 3, &["table", "list", "--connect", "127.0.0.1:1"]);
    assert!(text.contains("127.0.0.1:1") && text.contains("windlass serve"), "{text}");

    std::fs::write(at.join("token"), "secret\n").unwrap();
    let server = Server::start(at, &["--token-file", "token"]);
    let connect = server.address.as_str();
    let text = fails(at, 1, &["table", "list", "--connect", connect]);
    assert!(text.contains("token"), "{text}");
    let listed =
        json(at, &["table", "list", "--connect", connect, "--token-file", "token", "--json"]);
    assert_eq!(listed, value!([]));
    let text = fails(at, 2, &["table", "list", "--connect", connect, "--token-file", "none"]);
    assert!(text.contains("--token-file"), "{text}");
}

#[test]
fn serve_is_closed_to_other_machines_unless_told() {
    let folder = folder();
    let at = folder.path();
    let text = fails(at, 2, &["serve", "--listen", "0.0.0.0:0", "--advertise", "127.0.0.1:1"]);
    assert!(text.contains("--token-file") && text.contains("--insecure"), "{text}");
    let text = fails(at, 2, &["serve", "--partitions", "3"]);
    assert!(text.contains("power of two"), "{text}");
    let server = Server::start(at, &[]);
    let taken = server.address.trim_start_matches("windlass://");
    let text = fails(at, 1, &["serve", "--listen", taken]);
    assert!(text.contains(taken), "{text}");
}

#[test]
fn dense_tables_become_files_that_numpy_reads() {
    let folder = folder();
    let at = folder.path();
    let server = Server::start(at, &[]);
    let connect = ["--connect", server.address.as_str(), "--json"];
    let create = ["table", "create", "w", "--rows", "1000", "--width", "3", "--dtype", "i32"];
    json(at, &[&create[..], &connect].concat());
    json(at, &[&["push", "w", "0=1,2,3", "999=7,8,9"][..], &connect].concat());
    json(at, &[&["export", "w", "--out", "w.npy"][..], &connect].concat());
    let bytes = std::fs::read(at.join("w.npy")).unwrap();
    let values = &bytes[bytes.len() - 12_000..];
    let value =
        |index: usize| i32::from_le_bytes(values[4 * index..4 * index + 4].try_into().unwrap());
    assert_eq!([value(0), value(1), value(2), value(3)], [1, 2, 3, 0]);
    assert_eq!([value(2997), value(2998), value(2999)], [7, 8, 9]);
    assert!(bytes.starts_with(b"\x93NUMPY"));
    let out = json(at, &[&["export", "w", "--out", "w.safetensors"][..], &connect].concat());
    assert_eq!(out["bytes"], 12_000);
    let text = fails(at, 2, &[&["export", "w", "--out", "w.xyz"][..], &connect].concat());
    assert!(text.contains(".safetensors"), "{text}");
}

#[test]
fn sigterm_ends_a_server_well() {
    let folder = folder();
    let mut server = Server::start(folder.path(), &[]);
    assert_eq!(server.terminate(), Some(0));
}

#[test]
fn a_command_on_its_own_says_what_there_is() {
    let folder = folder();
    let output = run(folder.path(), &["table"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("create"), "{}", stderr(&output));
}
