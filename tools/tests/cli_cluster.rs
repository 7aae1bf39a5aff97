//! `windlass coordinator`, servers that join it, and `windlass cluster`, as a user runs them.

#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::time::{Duration, Instant};

use serde_json::Value;
use support::{Server, fails, folder, json};

/// Asks until what is seen is as wanted; fails after a while that is long for any machine.
fn eventually(what: &str, mut look: impl FnMut() -> (bool, Value)) {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let (is_so, seen) = look();
        if is_so {
            return;
        }
        assert!(Instant::now() < deadline, "{what}: {seen}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The first value of a row that was pulled.
fn value(pulled: &Value, row: usize) -> f64 {
    pulled["rows"][row]["values"][0].as_f64().unwrap()
}

#[test]
fn a_whole_cluster_in_one_process_keeps_its_rows() {
    let folder = folder();
    let at = folder.path();
    let options = ["--together", "--replicas", "3", "--data-dir", "data", "--shards", "2"];
    let mut server = Server::start(at, &options);
    let call = |server: &Server, arguments: &[&str]| {
        json(at, &[arguments, &["--connect", server.address.as_str(), "--json"]].concat())
    };
    let whole = |server: &Server| {
        eventually("all partitions have three replicas", || {
            let status = call(server, &["cluster", "status"]);
            let count = status["servers"].as_array().unwrap().len();
            (count == 3 && status["short_partitions"] == 0, status)
        });
    };
    whole(&server);
    call(&server, &["table", "create", "t", "--durability", "sync"]);
    call(&server, &["push", "t", "1=1", "2=2"]);
    assert_eq!(call(&server, &["verify"])["divergent"].as_array().unwrap().len(), 0);
    assert_eq!(server.terminate(), Some(0));
    let server = Server::start(at, &options);
    whole(&server);
    let pulled = call(&server, &["pull", "t", "1", "2"]);
    assert_eq!((value(&pulled, 0), value(&pulled, 1)), (1.0, 2.0));
    let text = fails(at, 2, &["serve", "--together", "--coordinator", &server.address]);
    assert!(text.contains("--coordinator"), "{text}");
    let text = fails(at, 2, &["serve", "--together", "--servers", "6", "--shards", "3"]);
    assert!(text.contains("18 shards"), "{text}");
}

#[test]
fn a_server_for_development_has_its_coordinator_and_stays_on_this_machine() {
    let folder = folder();
    let at = folder.path();
    let server = Server::start(at, &["--dev", "--data-dir", "data"]);
    let status = json(at, &["cluster", "status", "--connect", &server.address, "--json"]);
    assert_eq!((&status["store"], &status["lost_partitions"]), (&"file".into(), &0.into()));
    let text = fails(at, 2, &["serve", "--dev", "--coordinator", &server.address]);
    assert!(text.contains("--coordinator"), "{text}");
    let text = fails(at, 2, &["serve", "--dev", "--listen", "0.0.0.0:0"]);
    assert!(text.contains("others can reach 0.0.0.0:0"), "{text}");
}

#[test]
fn servers_join_a_coordinator_and_serve_while_it_is_gone() {
    let folder = folder();
    let at = folder.path();
    let options = ["--data-dir", "coordinator", "--servers", "2"];
    let mut coordinator = Server::coordinator(at, "127.0.0.1:0", &options);
    let address = coordinator.address.clone();
    let join = ["--coordinator", address.as_str()];
    // The first is ready before there are others.
    let first = Server::start(at, &join);
    let unready = json(at, &["cluster", "status", "--connect", &address, "--json"]);
    assert_eq!(unready["servers"].as_array().unwrap().len(), 1);
    let second = Server::start(at, &join);
    let connect = ["--connect", second.address.as_str(), "--json"];
    let call = |arguments: &[&str]| json(at, &[arguments, &connect[..]].concat());
    eventually("both have partitions", || {
        let map = call(&["cluster", "map"]);
        let chains = map["chains"].as_array().unwrap();
        (chains.iter().all(|chain| chain["servers"].as_array().unwrap().len() == 1), map)
    });
    let status = call(&["cluster", "status"]);
    assert_eq!((&status["leads"], &status["store"]), (&true.into(), &"file".into()));
    assert_eq!((&status["partitions"], &status["short_partitions"]), (&64.into(), &0.into()));
    let heads: Vec<u64> = { status["servers"].as_array().unwrap().iter() }
        .map(|server| server["heads"].as_u64().unwrap())
        .collect();
    assert_eq!(heads.iter().sum::<u64>(), 64);
    assert!(heads.iter().all(|heads| *heads > 0), "{heads:?}");
    // Tables are made through any server, and are at all of them.
    call(&["table", "create", "t"]);
    let tables = json(at, &["table", "list", "--connect", &first.address, "--json"]);
    assert_eq!(tables[0]["name"], "t");
    call(&["push", "t", "1=1", "2=2", "3=3", "4=4"]);
    let text = fails(at, 1, &["cluster", "fail", "9", "--connect", &address]);
    assert!(text.contains("server 9"), "{text}");

    // Without its coordinator the cluster serves, and changes wait.
    assert_eq!(coordinator.terminate(), Some(0));
    call(&["push", "t", "1=1"]);
    let pulled = call(&["pull", "t", "1", "4"]);
    assert_eq!((value(&pulled, 0), value(&pulled, 1)), (2.0, 4.0));
    let text = fails(at, 3, &["cluster", "status", "--connect", &address]);
    assert!(text.contains("windlass coordinator"), "{text}");

    // It goes on from its directory, and finds its servers.
    let listen = address.trim_start_matches("windlass://");
    let _coordinator = Server::coordinator(at, listen, &options);
    eventually("both servers are back", || {
        let status = json(at, &["cluster", "status", "--connect", &address, "--json"]);
        let servers = status["servers"].as_array().unwrap();
        (servers.iter().all(|server| server["connected"] == true), status)
    });
    call(&["table", "create", "u"]);
    let tables = call(&["table", "list"]);
    assert_eq!(tables.as_array().unwrap().len(), 2);
    call(&["table", "drop", "t"]);
}

#[test]
fn a_server_that_returns_keeps_its_number_and_its_rows() {
    let folder = folder();
    let at = folder.path();
    let coordinator = Server::coordinator(at, "127.0.0.1:0", &[]);
    let serve = ["--coordinator", coordinator.address.as_str(), "--data-dir", "data"];
    let mut server = Server::start(at, &serve);
    let with = |address: &str, arguments: &[&str]| {
        json(at, &[arguments, &["--connect", address, "--json"]].concat())
    };
    with(&server.address, &["table", "create", "t", "--durability", "sync"]);
    with(&server.address, &["push", "t", "5=5"]);
    assert_eq!(server.terminate(), Some(0));
    let server = Server::start(at, &serve);
    let pulled = with(&server.address, &["pull", "t", "5"]);
    assert_eq!(value(&pulled, 0).to_string(), "5");
    let map = with(&coordinator.address, &["cluster", "map"]);
    assert_eq!(map["servers"].as_array().unwrap().len(), 1);
    // Another one that has no disk has no place where tables are kept on disk.
    let text =
        fails(at, 1, &["serve", "--listen", "127.0.0.1:0", "--coordinator", &coordinator.address]);
    assert!(text.contains("no data directory: start it with one"), "{text}");
}

#[test]
fn a_cluster_with_replicas_takes_tables_with_clocks_and_changes_them() {
    let folder = folder();
    let at = folder.path();
    let coordinator = Server::coordinator(at, "127.0.0.1:0", &["--replicas", "2"]);
    let join = ["--coordinator", coordinator.address.as_str()];
    let [server, _second] = [(); 2].map(|()| Server::start(at, &join));
    eventually("both have all partitions", || {
        let map = json(at, &["cluster", "map", "--connect", &server.address, "--json"]);
        let chains = map["chains"].as_array().unwrap();
        let is_whole = |chain: &Value| chain["servers"].as_array().unwrap().len() == 2;
        (!chains.is_empty() && chains.iter().all(is_whole), map)
    });
    let consistency = |words: &[&str]| {
        let connect = ["--connect", server.address.as_str(), "--json"];
        json(at, &[words, &connect[..]].concat())["consistency"].as_str().unwrap().to_owned()
    };
    let create = ["table", "create", "t", "--consistency", "bounded:2"];
    assert_eq!(consistency(&create), "bounded:2");
    assert_eq!(consistency(&["table", "set", "t", "--consistency", "sequential"]), "sequential");
    assert_eq!(consistency(&["table", "show", "t"]), "sequential");

    let call = |words: &[&str]| {
        let connect = ["--connect", server.address.as_str(), "--json"];
        json(at, &[words, &connect[..]].concat())
    };
    assert_eq!(call(&["table", "create", "read"])["replicas"], 2);
    assert_eq!(call(&["table", "show", "read"])["replicas"], 2);
    call(&["push", "read", "1=2", "9=4"]);
    for replica in ["tail", "any", "strong"] {
        let pulled = call(&["pull", "read", "1", "9", "--from", replica]);
        assert_eq!((value(&pulled, 0), value(&pulled, 1)), (2.0, 4.0), "{replica}");
    }
}

#[test]
fn a_cluster_of_one_copy_changes_its_servers() {
    let folder = folder();
    let at = folder.path();
    let coordinator = Server::coordinator(at, "127.0.0.1:0", &[]);
    let address = coordinator.address.as_str();
    let cluster = |words: &[&str]| {
        json(at, &[&["cluster"], words, &["--connect", address, "--json"]].concat())
    };
    let serve = |data| Server::start(at, &["--coordinator", address, "--data-dir", data]);
    let mut first = serve("first");
    let call = |server: &Server, words: &[&str]| {
        json(at, &[words, &["--connect", &server.address, "--json"]].concat())
    };
    call(&first, &["table", "create", "t", "--durability", "sync"]);
    call(&first, &["push", "t", "1=1", "2=2", "3=3", "4=4"]);
    let mut second = serve("second");
    cluster(&["join", "1"]);
    let status = cluster(&["status"]);
    let heads = |server: usize| status["servers"][server]["heads"].as_u64().unwrap();
    assert!(heads(0) + heads(1) == 64 && heads(0).abs_diff(heads(1)) < 7, "{status}");
    call(&second, &["push", "t", "1=1"]);
    cluster(&["leave", "0"]);
    first.terminate();
    // All of it went to the other one, and is on its disk.
    let rows = |server: &Server| {
        let pulled = call(server, &["pull", "t", "1", "2", "3", "4"]);
        (0..4).map(|row| value(&pulled, row)).collect::<Vec<_>>()
    };
    assert_eq!(rows(&second), [2.0, 2.0, 3.0, 4.0]);
    assert_eq!(second.terminate(), Some(0));
    let second = serve("second");
    assert_eq!(rows(&second), [2.0, 2.0, 3.0, 4.0]);
    // Who left may come back, with what the others have made of its rows meanwhile.
    call(&second, &["push", "t", "3=1"]);
    let first = serve("first");
    cluster(&["join", "0"]);
    assert_eq!(rows(&first), [2.0, 2.0, 4.0, 4.0]);
    // Both directories have had rows of the same partitions: which are newer, no file says.
    drop((first, second));
    let both = ["checkpoint", "restore", "first", "second", "--into", "both"];
    let text = fails(at, 1, &both);
    assert!(text.contains("up to 2 directories"), "{text}");
}

#[test]
fn one_copy_of_each_partition_is_no_difference() {
    let folder = folder();
    let at = folder.path();
    let server = Server::start(at, &[]);
    let result = json(at, &["verify", "--connect", &server.address, "--json"]);
    assert_eq!((&result["replicas"], &result["divergent"]), (&0.into(), &serde_json::json!([])));
    let output = support::run(at, &["verify", "--connect", &server.address]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && text.contains("one copy"), "{text}");
}
