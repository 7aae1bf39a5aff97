//! A server with a data directory: what is acknowledged is there after kill -9, and `inspect` and
//! `scrub` can read it.

#![allow(missing_docs)]

mod support;

use serde_json::json as value;
use support::{Server, fails, folder, json, run, stderr};

#[test]
fn synced_pushes_survive_kill_and_can_be_inspected() {
    let folder = folder();
    let at = folder.path();
    let server = Server::start(at, &["--data-dir", "data"]);
    let connect = server.address.clone();
    let create =
        ["table", "create", "w", "--rows", "100", "--durability", "sync", "--connect", &connect];
    assert_eq!(json(at, &[&create[..], &["--json"]].concat())["durability"], "sync");
    json(at, &["push", "w", "3=1.5", "99=2", "--connect", &connect, "--json"]);
    // Dropping kills it, without notice.
    drop(server);

    let scrubbed = run(at, &["scrub", "data", "--json"]);
    assert!(scrubbed.status.success(), "{}", stderr(&scrubbed));
    let log = run(at, &["inspect", "log", "data", "--frames"]);
    assert!(log.status.success(), "{}", stderr(&log));
    assert!(String::from_utf8_lossy(&log.stdout).contains("lsn"));
    let listed = run(at, &["inspect", "checkpoints", "data"]);
    assert!(listed.status.success(), "{}", stderr(&listed));

    let server = Server::start(at, &["--data-dir", "data"]);
    let pulled = json(at, &["pull", "w", "3", "4", "99", "--connect", &server.address, "--json"]);
    let values: Vec<_> =
        pulled["rows"].as_array().unwrap().iter().map(|row| &row["values"]).collect();
    assert_eq!(values, [&value!([1.5]), &value!([0.0]), &value!([2.0])]);
}

#[test]
fn a_dropped_table_stays_dropped_when_its_server_cannot_store_that() {
    let folder = folder();
    let at = folder.path();
    let server = Server::start(at, &["--data-dir", "data"]);
    let connect = server.address.clone();
    let create = ["table", "create", "w", "--rows", "9", "--durability", "sync"];
    json(at, &[&create[..], &["--connect", &connect, "--json"]].concat());
    json(at, &["push", "w", "3=1.5", "--connect", &connect, "--json"]);
    // The catalogue is written beside and renamed, which this is in the way of, for root as well.
    let in_the_way = at.join("data/catalogue.new");
    std::fs::create_dir(&in_the_way).unwrap();
    json(at, &["table", "drop", "w", "--connect", &connect, "--json"]);
    let list = |connect: &str| json(at, &["table", "list", "--connect", connect, "--json"]);
    assert_eq!(list(&connect), value!([]));
    // A table that cannot be stored is refused.
    fails(at, 1, &[&create[..], &["--connect", &connect]].concat());
    assert_eq!(list(&connect), value!([]));
    drop(server);

    std::fs::remove_dir(&in_the_way).unwrap();
    let server = Server::start(at, &["--data-dir", "data"]);
    let connect = server.address.clone();
    assert_eq!(list(&connect), value!([]));
    json(at, &[&create[..], &["--connect", &connect, "--json"]].concat());
    let pulled = json(at, &["pull", "w", "3", "--connect", &connect, "--json"]);
    assert_eq!(pulled["rows"][0]["values"], value!([0.0]));
}

#[test]
fn durable_tables_need_a_data_directory_and_inspection_one_that_exists() {
    let folder = folder();
    let at = folder.path();
    let server = Server::start(at, &[]);
    let create = ["table", "create", "w", "--durability", "sync", "--connect", &server.address];
    fails(at, 1, &create);
    let text = fails(at, 2, &["table", "create", "w", "--durability", "maybe"]);
    assert!(text.contains("interval:MS"), "{text}");
    let text = fails(at, 2, &["scrub", "nowhere"]);
    assert!(text.contains("--data-dir"), "{text}");
    assert!(!at.join("nowhere").exists());
    let text = fails(at, 2, &["inspect", "log", "."]);
    assert!(text.contains("--data-dir"), "{text}");
}
