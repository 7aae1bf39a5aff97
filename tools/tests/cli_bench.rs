//! `windlass bench`, tiny, so that it cannot rot: the keys of its results, and every shape of
//! operation.

#![allow(missing_docs)]

mod support;

use support::{fails, folder, json, run, stderr};

const KEYS: [&str; 16] = [
    "op",
    "transport",
    "rows",
    "width",
    "dtype",
    "window",
    "clients",
    "p50_us",
    "p99_us",
    "p999_us",
    "rows_per_s",
    "bytes_per_s",
    "limit_name",
    "limit",
    "ratio",
    "cores",
];

#[test]
fn results_have_the_documented_keys() {
    let folder = folder();
    let at = folder.path();
    for operation in ["push", "pull", "push-pull"] {
        for transport in ["shm", "tcp"] {
            for shape in [
                &["--rows", "1"][..],
                &["--rows", "500", "--width", "128", "--keys", "--neighbours", "--window", "4"],
                &["--rows", "200", "--width", "16", "--keys", "--table-rows", "3000"],
                &["--rows", "200", "--width", "16", "--sparse", "--table-rows", "3000"],
                &["--rows", "100000", "--window", "2", "--dtype", "f16"],
            ] {
                let common =
                    ["--rounds", "2", "--slice-ms", "20", "--json", "--transport", transport];
                let arguments = [&["bench", operation][..], &common, shape].concat();
                let result = json(at, &arguments);
                let object = result.as_object().unwrap();
                assert_eq!(object.len(), KEYS.len(), "{arguments:?}");
                for key in KEYS {
                    assert!(object.contains_key(key), "{key}");
                }
                assert_eq!(result["op"], operation);
                assert_eq!(result["transport"], transport);
                let is_bare = result["limit_name"] == "bare positions";
                let is_drawn = shape.contains(&"--table-rows") && operation != "push-pull";
                assert_eq!(is_bare, is_drawn && transport == "shm", "{arguments:?}");
                for key in ["p50_us", "rows_per_s", "bytes_per_s", "limit", "ratio"] {
                    assert!(result[key].as_f64().unwrap() > 0.0, "{key} {arguments:?}");
                }
            }
        }
    }
}

#[test]
fn several_clients_pull_at_once() {
    let folder = folder();
    let common = ["bench", "pull", "--clients", "3", "--rounds", "2", "--slice-ms", "20", "--json"];
    for transport in ["shm", "tcp"] {
        let arguments = [&common[..], &["--transport", transport]].concat();
        let result = json(folder.path(), &arguments);
        assert_eq!(result["clients"], 3);
        assert!(result["rows_per_s"].as_f64().unwrap() > 0.0, "{result}");
    }
}

#[test]
fn draws_on_the_terminal_and_into_a_file() {
    let folder = folder();
    let at = folder.path();
    let output = run(
        at,
        &["bench", "push", "--rounds", "2", "--slice-ms", "20", "--plot", "--svg", "b.svg"],
    );
    assert!(output.status.success(), "{}", stderr(&output));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("p99.9") && text.contains("Latency of push"), "{text}");
    assert!(std::fs::read_to_string(at.join("b.svg")).unwrap().starts_with("<svg"));
}

#[test]
fn wrong_shapes_are_explained() {
    let folder = folder();
    let at = folder.path();
    let text = fails(at, 2, &["bench", "pull", "--distribution", "zipf:1.05"]);
    assert!(text.contains("--keys"), "{text}");
    let text = fails(at, 2, &["bench", "pull", "--sparse", "--distribution", "zipf:-1"]);
    assert!(text.contains("zipf:1.05"), "{text}");
    let text = fails(at, 2, &["bench", "push", "--rows", "10", "--table-rows", "5"]);
    assert!(text.contains("--table-rows"), "{text}");
    let text = fails(at, 2, &["bench", "push", "--from", "any", "--connect", "127.0.0.1:1"]);
    assert!(text.contains("first of the chain"), "{text}");
    let text = fails(at, 2, &["bench", "shove"]);
    assert!(text.contains("push-pull"), "{text}");
    let text = fails(at, 2, &["bench", "push", "--transport", "pigeon"]);
    assert!(text.contains("verbs, shm or tcp"), "{text}");
}

#[test]
fn a_server_that_runs_is_measured_with_its_own_directory() {
    let folder = folder();
    let at = folder.path();
    let short = ["bench", "push", "--rounds", "1", "--slice-ms", "20", "--durability", "sync"];
    let text = fails(at, 2, &short);
    assert!(text.contains("--data-dir"), "{text}");
    let server = support::Server::start(at, &["--data-dir", "data"]);
    let connected = [&short[..], &["--connect", &server.address, "--json"]].concat();
    assert!(json(at, &connected)["rows_per_s"].as_f64().unwrap() > 0.0);
}

#[test]
fn idle_clients_are_counted_from_outside() {
    let folder = folder();
    let at = folder.path();
    for transport in ["shm", "tcp"] {
        let words = "bench connections --clients 5 --processes 2 --shards 3 --slice-ms 100 --kills 2 --json --transport";
        let arguments: Vec<_> = words.split(' ').chain([transport]).collect();
        let result = json(at, &arguments);
        let number =
            |key: &str| result[key].as_f64().unwrap_or_else(|| panic!("{key} in {result}"));
        assert_eq!(result["transport"], transport);
        assert_eq!((number("clients"), number("shards")), (5.0, 3.0));
        // Each has a control connection, and a link to the shard that it has pushed to: a socket, and over shm what
        // wakes it. The working client has links to all shards.
        let each = |key: &str| (number(key) - number(&format!("{key}_alone"))) / 5.0;
        let descriptors = each("server_fds");
        assert!((2.0..=3.0).contains(&descriptors), "{descriptors} descriptors: {result}");
        assert!((number("queue_pairs") - 8.0).abs() < 0.5, "{result}");
        let memory = each("server_pinned_bytes");
        assert!((4096.0..=65_536.0).contains(&memory), "{memory} bytes: {result}");
        for key in [
            "connect_s",
            "leave_s",
            "client_pinned_bytes",
            "active_p50_us",
            "alone_p50_us",
            "active_one_shard_p50_us",
            "alone_one_shard_p50_us",
        ] {
            assert!(number(key) > 0.0, "{key} in {result}");
        }
        let kills = &result["kills"];
        assert_eq!((&kills["rounds"], &kills["clients"]), (&2.into(), &3.into()));
        // The dead leave nothing behind.
        assert_eq!(kills["server_fds_before"], kills["server_fds_after"], "{kills}");
        let bytes = |key: &str| kills[key].as_u64().unwrap_or_else(|| panic!("{key} in {kills}"));
        let (before, after) =
            (bytes("server_pinned_bytes_before"), bytes("server_pinned_bytes_after"));
        assert!(after <= before + before / 50, "{kills}");
        for key in ["longest_push_us", "undisturbed_longest_push_us", "forgotten_s"] {
            assert!(kills[key].as_f64().is_some_and(|number| number > 0.0), "{key} in {kills}");
        }
    }
    let text = fails(at, 2, &["bench", "connections", "--clients", "0"]);
    assert!(text.contains("--clients"), "{text}");
    let text = fails(at, 2, &["bench", "connections", "--rows", "3"]);
    assert!(text.contains("--rows"), "{text}");
    let text = fails(at, 2, &["bench"]);
    assert!(text.contains("OPERATION"), "{text}");
}
