//! `windlass train sparse-lr` and `windlass demo`, with real server and worker processes.

#![allow(missing_docs, clippy::unwrap_used)]

mod support;

use std::{fs, path::Path};

use serde_json::Value;
use support::{Server, fails, folder, json, run, stderr};

const REFERENCE: &str = include_str!("fixtures/sklearn_reference.json");

/// Generates the data of the reference.
fn generate(at: &Path, reference: &Value) {
    let mut arguments =
        vec!["gen", "ctr", "--json", "--out", "train.svm", "--eval-out", "eval.svm"];
    arguments.extend(reference["generate"].as_str().unwrap().split(' '));
    json(at, &arguments);
}

#[test]
fn agrees_with_scikit_learn() {
    let folder = folder();
    let at = folder.path();
    let reference: Value = serde_json::from_str(REFERENCE).unwrap();
    generate(at, &reference);
    let l2 = reference["l2"].to_string();
    for (servers, workers) in [("1", "1"), ("2", "2")] {
        let result = json(
            at,
            &[
                "train",
                "sparse-lr",
                "--data",
                "train.svm",
                "--eval",
                "eval.svm",
                "--servers",
                servers,
                "--workers",
                workers,
                "--l1",
                "0",
                "--l2",
                &l2,
                "--epochs",
                "5",
                "--alpha",
                "0.3",
                "--batch",
                "256",
                "--json",
            ],
        );
        assert_eq!(result["examples"], 100_000);
        assert_eq!(result["skipped_lines"], 0);
        assert!(result["bytes_pushed"].as_u64().unwrap() > 0);
        assert!(result["bytes_pulled"].as_u64().unwrap() > 0);
        assert!(result["examples_per_s"].as_f64().unwrap() > 0.0);
        let close = |key: &str, expected: &str| {
            let (value, expected) =
                (result[key].as_f64().unwrap(), reference[expected].as_f64().unwrap());
            assert!((value / expected - 1.0).abs() < 0.01, "{key}: {value} {expected}");
        };
        close("logloss", "eval_logloss");
        close("auc", "eval_auc");
    }
}

#[test]
fn one_synchronous_worker_is_reproducible_to_the_bit() {
    let folder = folder();
    let at = folder.path();
    json(at, &["gen", "ctr", "--out", "d.svm.gz", "--examples", "5000", "--hashed-ids", "--json"]);
    let train = |out: &str, servers: &str, seed: &str| {
        json(
            at,
            &[
                "train",
                "sparse-lr",
                "--data",
                "d.svm.gz",
                "--workers",
                "1",
                "--servers",
                servers,
                "--synchronous",
                "--seed",
                seed,
                "--epochs",
                "2",
                "--model-out",
                out,
                "--json",
            ],
        )
    };
    let first = train("a.txt", "1", "1");
    assert!(first["nonzero"].as_u64().unwrap() > 100);
    train("b.txt", "1", "1");
    train("c.txt", "2", "1");
    train("d.txt", "1", "2");
    let read = |name: &str| fs::read(at.join(name)).unwrap();
    assert_eq!(read("a.txt"), read("b.txt"));
    assert_eq!(read("a.npy"), read("b.npy"));
    assert_eq!(read("a.txt"), read("c.txt"), "the number of servers does not matter");
    assert_ne!(read("a.txt"), read("d.txt"));
}

#[test]
fn kkt_holds_back_most_rows_and_hardly_moves_the_objective() {
    let folder = folder();
    let at = folder.path();
    json(at, &["gen", "ctr", "--out", "d.svm", "--json"]);
    let train = |filters: &str| {
        let mut command = vec!["train", "sparse-lr", "--data", "d.svm", "--synchronous", "--json"];
        command.extend(["--l1", "16", "--epochs", "4", "--batch", "4096", "--filters", filters]);
        json(at, &command)
    };
    let (plain, filtered) = (train(""), train("key-cache,delta-keys,fixed:2,kkt"));
    let number = |result: &Value, key: &str| result[key].as_f64().unwrap();
    let objectives = (number(&plain, "objective"), number(&filtered, "objective"));
    assert!(objectives.0 > number(&plain, "logloss"), "penalties count: {plain}");
    assert!(objectives.1 / objectives.0 < 1.001, "{objectives:?}");
    let saved = &filtered["bytes_saved"];
    let share = number(saved, "kkt") / number(&plain, "bytes_pushed");
    assert!(share > 0.9, "kkt held {share} of the rows");
    // A worker sends what it pushes, and for each row that it pulls a key; servers answer with four bytes a row.
    let rows = number(&plain, "bytes_pulled") / 12.0;
    let all: f64 = saved.as_object().unwrap().values().map(|bytes| bytes.as_f64().unwrap()).sum();
    let sent =
        number(&filtered, "bytes_pushed") + number(&filtered, "bytes_pulled") - all - rows * 2.0;
    assert!(rows * 20.0 / sent > 6.0, "workers sent {sent} bytes of {}", rows * 20.0);
}

#[test]
fn workers_wait_for_a_straggler_as_their_table_says() {
    let folder = folder();
    let at = folder.path();
    json(at, &["gen", "ctr", "--out", "d.svm", "--examples", "4000", "--json"]);
    let idle = |consistency: &str, stays: &str| -> Vec<f64> {
        let result = json(
            at,
            &[
                "train",
                "sparse-lr",
                "--data",
                "d.svm",
                "--workers",
                "2",
                "--batch",
                "100",
                "--straggler",
                "10",
                "--straggler-batches",
                stays,
                "--consistency",
                consistency,
                "--json",
            ],
        );
        assert_eq!(result["examples"], 4000);
        assert_eq!(result["consistency"], consistency);
        result["idle"].as_array().unwrap().iter().map(|idle| idle.as_f64().unwrap()).collect()
    };
    // Each has 20 batches. Who is slow for all of them waits less than the other.
    let [one, other] = idle("sequential", "20")[..] else { panic!("one of each worker") };
    assert!(one.max(other) > 0.0 && one != other, "{one} {other}");
    // Slow in turn, both wait.
    assert!(idle("sequential", "1").iter().all(|&idle| idle > 0.0));
    // Nobody is ever so far ahead.
    assert_eq!(idle("bounded:1000", "1"), [0.0, 0.0]);
    assert_eq!(idle("eventual", "1"), [0.0, 0.0]);
    let text = fails(at, 2, &["train", "sparse-lr", "--data", "d.svm", "--consistency", "bounded"]);
    assert!(text.contains("bounded:N"), "{text}");
}

#[test]
fn malformed_lines_are_named_counted_and_fatal_only_if_strict() {
    let folder = folder();
    let at = folder.path();
    json(at, &["gen", "ctr", "--out", "d.svm", "--examples", "2000", "--json"]);
    let mut text = fs::read_to_string(at.join("d.svm")).unwrap();
    text.push_str("1 5:x\nclick 3:1\n");
    fs::write(at.join("d.svm"), text).unwrap();
    let arguments = ["train", "sparse-lr", "--data", "d.svm", "--workers", "2", "--epochs", "2"];
    let output = run(at, &[&arguments[..], &["--json"]].concat());
    assert!(output.status.success(), "{}", stderr(&output));
    let result: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(result["skipped_lines"], 2);
    assert!(stderr(&output).contains("d.svm:2001:"), "{}", stderr(&output));
    let text = fails(at, 4, &[&arguments[..], &["--strict"]].concat());
    assert!(text.contains("d.svm:200"), "{text}");
}

#[test]
fn trains_on_servers_that_are_there_and_says_when_none_are() {
    let folder = folder();
    let at = folder.path();
    json(at, &["gen", "ctr", "--out", "d.svm", "--examples", "2000", "--json"]);
    let server = Server::start(at, &[]);
    let arguments = ["train", "sparse-lr", "--data", "d.svm", "--json", "--connect"];
    let first = json(at, &[&arguments[..], &[&server.address]].concat());
    let second = json(at, &[&arguments[..], &[&server.address]].concat());
    let loss = |result: &Value| result["logloss"].as_f64().unwrap();
    assert!(loss(&second) < loss(&first), "the table is trained further");
    let text = fails(at, 3, &[&arguments[..], &["127.0.0.1:1"]].concat());
    assert!(text.contains("127.0.0.1:1"), "{text}");
}

#[test]
fn wrong_arguments_are_explained() {
    let folder = folder();
    let at = folder.path();
    let text = fails(at, 1, &["train", "sparse-lr", "--data", "none.svm"]);
    assert!(text.contains("none.svm"), "{text}");
    let text = fails(at, 2, &["train", "sparse-lr", "--data", "d", "--l1", "-1"]);
    assert!(text.contains("from 0"), "{text}");
    let text =
        fails(at, 2, &["train", "sparse-lr", "--data", "d", "--servers", "2", "--connect", "x"]);
    assert!(text.contains("--connect"), "{text}");
}

#[test]
fn the_demo_goes_on_over_a_killed_server_and_loses_nothing() {
    let folder = folder();
    let text = fails(folder.path(), 2, &["demo", "--servers", "2", "--replicas", "3"]);
    assert!(text.contains("--replicas"), "{text}");
    let result = json(folder.path(), &["demo", "--examples", "20000", "--json"]);
    assert_eq!(result["lost"], 0);
    assert_eq!(result["doubled"], 0);
    assert!(result["acknowledged"].as_u64().unwrap() > 100);
    assert!(result["recovery_ms"].as_f64().unwrap() > 0.0, "a server was killed on the way");
    assert_eq!(result["replicas_equal"], true);
    let (auc, best) = (result["auc"].as_f64().unwrap(), result["auc_best"].as_f64().unwrap());
    assert!(auc > 0.6 && auc < best + 0.01, "{auc} {best}");
}
