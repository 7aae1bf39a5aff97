//! `windlass checkpoint restore`: what one cluster kept, served by another with other servers and
//! shards, with values, optimiser state and schemas.

#![allow(missing_docs)]

mod support;

use std::{path::Path, thread};

use serde_json::Value;
use support::{Server, fails, folder, json};

const ROWS: u64 = 300;

/// Keys spread over all partitions, and what was pushed to each.
fn row(key: u64) -> String {
    format!("{key}={}.5", key % 7)
}

fn create_and_push(at: &Path, connect: &str) {
    let create = |name: &str, more: &[&str]| {
        let base = ["table", "create", name, "--connect", connect, "--json"];
        json(at, &[&base[..], more].concat());
    };
    let adagrad = ["--rule", "adagrad:lr=0.5"];
    create("dense", &[&adagrad[..], &["--rows", "300", "--durability", "sync"]].concat());
    create("sparse", &[&adagrad[..], &["--durability", "sync"]].concat());
    create("slow", &["--rows", "300", "--durability", "interval:1"]);
    create("memory", &["--rows", "300"]);
    push(at, connect);
    json(at, &["checkpoint", "create", "--connect", connect, "--json"]);
    // Some of it is in the log behind the checkpoint, wherever that ends.
    push(at, connect);
}

fn push(at: &Path, connect: &str) {
    let rows: Vec<String> = (0..ROWS).map(row).collect();
    for table in ["dense", "sparse", "slow", "memory"] {
        let mut arguments = vec!["push", table];
        arguments.extend(rows.iter().map(String::as_str));
        arguments.extend(["--connect", connect, "--json"]);
        json(at, &arguments);
    }
}

fn pull(at: &Path, connect: &str, table: &str) -> Value {
    let keys: Vec<String> = (0..ROWS).map(|key| key.to_string()).collect();
    let mut arguments = vec!["pull", table];
    arguments.extend(keys.iter().map(String::as_str));
    arguments.extend(["--connect", connect, "--json"]);
    json(at, &arguments)["rows"].clone()
}

/// All tables but the one in memory, once after what was restored and once after more pushes, which
/// show the optimiser state.
fn expect(at: &Path, connect: &str, before: &[Value; 3]) -> [Value; 3] {
    assert_eq!(pull_all(at, connect), *before, "restored");
    let memory = pull(at, connect, "memory");
    assert!(
        memory.as_array().expect("the test's own doing").iter().all(|row| row["values"][0] == 0.0),
        "{memory}"
    );
    push(at, connect);
    pull_all(at, connect)
}

fn pull_all(at: &Path, connect: &str) -> [Value; 3] {
    ["dense", "sparse", "slow"].map(|table| pull(at, connect, table))
}

/// A cluster of two servers, the first with its coordinator.
fn two(at: &Path, first: &[&str], second: &[&str]) -> [Server; 2] {
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .expect("the test's own doing")
        .local_addr()
        .expect("the test's own doing");
    let address = port.to_string();
    thread::scope(|scope| {
        let joining = scope.spawn(|| {
            // Its coordinator may not listen yet; it tries for a while.
            Server::start(at, &[second, &["--coordinator", &address]].concat())
        });
        let founding = Server::start_at(at, &address, &[first, &["--servers", "2"]].concat());
        [founding, joining.join().expect("the test's own doing")]
    })
}

fn terminate(servers: impl IntoIterator<Item = Server>) {
    for mut server in servers {
        assert_eq!(server.terminate(), Some(0));
    }
}

fn restore(at: &Path, arguments: &[&str]) -> Value {
    json(at, &[&["checkpoint", "restore", "--json"], arguments].concat())
}

#[test]
fn one_server_becomes_two_and_two_become_one_with_other_shards() {
    let folder = folder();
    let at = folder.path();
    let server = Server::start(at, &["--data-dir", "one", "--shards", "2", "--partitions", "16"]);
    create_and_push(at, &server.address);
    settle(at, &server.address);
    let before = pull_all(at, &server.address);
    let text = fails(at, 1, &["checkpoint", "restore", "one", "--into", "new"]);
    assert!(text.contains("stop it"), "{text}");
    drop(server);

    // What more pushes make of it, without any restoring: the oracle.
    copy(&at.join("one"), &at.join("same"));
    let same = Server::start(at, &["--data-dir", "same"]);
    let after = expect(at, &same.address, &before);
    drop(same);

    let restored = restore(at, &["one", "--into", "left", "--into", "right"]);
    assert_eq!(restored["partitions"], 16);
    assert_eq!(restored["tables"].as_array().unwrap().len(), 3);
    assert_eq!(restored["empty_tables"][0], "memory");
    let left = ["--data-dir", "left", "--shards", "3"];
    let right = ["--data-dir", "right", "--shards", "3"];
    let servers = two(at, &left, &right);
    assert_eq!(expect(at, &servers[0].address, &before), after);
    terminate(servers);

    let text = fails(at, 1, &["checkpoint", "restore", "left", "--into", "half"]);
    assert!(text.contains("--accept-missing"), "{text}");
    restore(at, &["left", "right", "--into", "whole"]);
    let text = fails(at, 1, &["checkpoint", "restore", "left", "right", "--into", "whole"]);
    assert!(text.contains("exists"), "{text}");
    let whole = Server::start(at, &["--data-dir", "whole", "--shards", "2"]);
    let last = expect(at, &whole.address, &after);
    settle(at, &whole.address);
    drop(whole);
    // It goes on in its own files from now on.
    let whole = Server::start(at, &["--data-dir", "whole"]);
    assert_eq!(pull_all(at, &whole.address), last);
    let listed = json(at, &["table", "list", "--connect", &whole.address, "--json"]);
    assert_eq!(listed.as_array().unwrap().len(), 4);
}

#[test]
fn a_coordinator_of_its_own_begins_with_the_restored_tables() {
    let folder = folder();
    let at = folder.path();
    let mut server = Server::start(at, &["--data-dir", "old", "--partitions", "32"]);
    create_and_push(at, &server.address);
    let before = pull_all(at, &server.address);
    assert_eq!(server.terminate(), Some(0));
    restore(at, &["old", "--into", "new"]);
    let coordinator = Server::coordinator(at, "127.0.0.1:0", &["--restored", "new"]);
    let address = coordinator.address.strip_prefix("windlass://").unwrap().to_owned();
    let server = Server::start(at, &["--data-dir", "new", "--coordinator", &address]);
    expect(at, &server.address, &before);
    drop(server);

    let text = fails(at, 1, &["coordinator", "--listen", "127.0.0.1:0", "--restored", "none"]);
    assert!(text.contains("checkpoint restore"), "{text}");
    restore(at, &["old", "--into", "chains"]);
    let replicas = ["--data-dir", "chains", "--replicas", "2", "--listen", "127.0.0.1:0"];
    let text = fails(at, 1, &[&["serve"], &replicas[..]].concat());
    assert!(text.contains("--replicas 1"), "{text}");
}

/// Waits until pushes to the interval table are on disk: later ones are recorded behind them, in every
/// partition.
fn settle(at: &Path, connect: &str) {
    let rows: Vec<String> = (0..ROWS).map(|key| format!("{key}=0")).collect();
    let mut arguments = vec!["push", "slow", "--sync", "--connect", connect, "--json"];
    arguments.extend(rows.iter().map(String::as_str));
    json(at, &arguments);
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir(to).expect("the test's own doing");
    for entry in std::fs::read_dir(from).expect("the test's own doing") {
        let entry = entry.expect("the test's own doing");
        let into = to.join(entry.file_name());
        if entry.file_type().expect("the test's own doing").is_dir() {
            copy(&entry.path(), &into);
        } else {
            std::fs::copy(entry.path(), into).expect("the test's own doing");
        }
    }
}

/// A server that waits for the others of its cluster is stopped as at any other time.
#[test]
fn a_server_that_waits_for_the_first_map_stops_when_it_is_asked_to() {
    use std::{
        process::Command,
        time::{Duration, Instant},
    };
    let folder = folder();
    let at = folder.path();
    let mut server = Server::start(at, &["--data-dir", "old", "--partitions", "16"]);
    create_and_push(at, &server.address);
    assert_eq!(server.terminate(), Some(0));
    restore(at, &["old", "--into", "left", "--into", "right"]);
    let options = ["--restored", "left", "--servers", "2"];
    let coordinator = Server::coordinator(at, "127.0.0.1:0", &options);
    let address = coordinator.address.strip_prefix("windlass://").unwrap();
    let serve = ["serve", "--listen", "127.0.0.1:0", "--coordinator", address];
    let mut waiting =
        support::windlass(at, &[&serve[..], &["--data-dir", "left"]].concat()).spawn().unwrap();
    // It has joined once it has its number, and waits for the other one.
    let deadline = Instant::now() + Duration::from_secs(30);
    while !at.join("left/identity").exists() {
        assert!(Instant::now() < deadline, "it does not join");
        thread::sleep(Duration::from_millis(20));
    }
    thread::sleep(Duration::from_millis(500));
    assert!(waiting.try_wait().unwrap().is_none(), "it does not wait");
    let asked = Command::new("kill").arg(waiting.id().to_string()).status().unwrap();
    assert!(asked.success());
    let deadline = Instant::now() + Duration::from_secs(10);
    let status = loop {
        if let Some(status) = waiting.try_wait().unwrap() {
            break status;
        }
        if Instant::now() > deadline {
            waiting.kill().unwrap();
            panic!("it goes on waiting");
        }
        thread::sleep(Duration::from_millis(20));
    };
    assert_eq!(status.code(), Some(0));
}
