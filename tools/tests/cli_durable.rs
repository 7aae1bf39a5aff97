//! A server with a data directory: what is acknowledged is there after kill -9, and `inspect` and
//! `scrub` can read it.

#![allow(missing_docs)]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use std::{
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use serde_json::json as value;
use support::{Server, fails, folder, json, run, stderr};

/// When each directory and file below one was last changed; a file that came and went changed its directory.
fn changed(at: &Path) -> Vec<(PathBuf, i64, i64)> {
    let own = std::fs::metadata(at).unwrap();
    let mut all = vec![(at.to_owned(), own.ctime(), own.ctime_nsec())];
    if own.is_dir() {
        let mut inner: Vec<PathBuf> =
            std::fs::read_dir(at).unwrap().map(|entry| entry.unwrap().path()).collect();
        inner.sort();
        inner.iter().for_each(|path| all.extend(changed(path)));
    }
    all
}

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

    let before = changed(&at.join("data"));
    let scrubbed = run(at, &["scrub", "data", "--json"]);
    assert!(scrubbed.status.success(), "{}", stderr(&scrubbed));
    let log = run(at, &["inspect", "log", "data", "--frames"]);
    assert!(log.status.success(), "{}", stderr(&log));
    assert!(String::from_utf8_lossy(&log.stdout).contains("lsn"));
    let listed = run(at, &["inspect", "checkpoints", "data"]);
    assert!(listed.status.success(), "{}", stderr(&listed));
    assert_eq!(changed(&at.join("data")), before, "who only reads changes nothing");

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

#[test]
fn checkpoints_have_dates_and_tables_in_memory_no_promise() {
    let folder = folder();
    let at = folder.path();
    let server = Server::start(at, &["--data-dir", "data"]);
    let connect = ["--connect", &server.address];
    let create = |name, durability| {
        let base = ["table", "create", name, "--rows", "9", "--durability", durability, "--json"];
        json(at, &[&base[..], &connect].concat());
    };
    create("kept", "sync");
    create("lost", "memory");
    let show = |name| {
        let shown = run(at, &[&["table", "show", name], &connect[..]].concat());
        String::from_utf8_lossy(&shown.stdout).into_owned()
    };
    assert!(!show("lost").contains("never"), "{}", show("lost"));
    json(at, &[&["push", "kept", "1=2", "--json"], &connect[..]].concat());
    json(at, &[&["checkpoint", "create", "--json"], &connect[..]].concat());
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
    let text = loop {
        let listed = run(at, &["inspect", "checkpoints", "data"]);
        let text = String::from_utf8_lossy(&listed.stdout).into_owned();
        if text.contains("UTC") {
            break text;
        }
        assert!(std::time::Instant::now() < deadline, "{text}");
        std::thread::sleep(std::time::Duration::from_millis(50));
    };
    assert!(text.contains("20") && !text.contains("1970"), "{text}");
    drop(server);
    let server = Server::start(at, &["--data-dir", "data"]);
    let shown = run(at, &["table", "show", "lost", "--connect", &server.address]);
    let text = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(text.contains("UTC"), "the rows went with the restart: {text}");
}

#[test]
fn a_directory_of_something_else_is_no_data_directory() {
    let folder = folder();
    let at = folder.path();
    std::fs::create_dir(at.join("thesis")).unwrap();
    std::fs::write(at.join("thesis/chapter-1.tex"), "Once upon a time").unwrap();
    for command in ["serve", "coordinator"] {
        let text = fails(at, 1, &[command, "--listen", "127.0.0.1:0", "--data-dir", "thesis"]);
        assert!(text.contains("thesis") && text.contains("empty"), "{text}");
    }
    let left = std::fs::read_dir(at.join("thesis")).unwrap().count();
    assert_eq!(left, 1, "nothing was put beside it");
}
