//! `windlass doctor` and `windlass fabric`, as a user runs them on any host.

#![allow(missing_docs)]

mod support;

use support::{folder, json, run, stderr};

#[test]
fn doctor_has_a_verdict_and_a_remedy_for_each_transport() {
    let folder = folder();
    let result = json(folder.path(), &["doctor", "--json"]);
    let preflights = result["preflights"].as_array().unwrap();
    assert_eq!(preflights.len(), 3);
    for finding in preflights.iter().flat_map(|preflight| preflight["findings"].as_array().unwrap())
    {
        assert_eq!(finding["verdict"] == "good", finding["remedy"].is_null(), "{finding}");
    }
    let storage = &result["storage"];
    for finding in storage["findings"].as_array().unwrap() {
        assert!(finding["remedy"].is_string(), "{finding}");
    }
    assert!(storage["provider"].is_string() && storage["durable_by"].is_string(), "{storage}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "doctor leaves nothing");
    let output = run(folder.path(), &["doctor"]);
    assert!(output.status.success(), "{}", stderr(&output));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("between hosts"), "{text}");
    assert!(text.contains("storage in") && text.contains("O_DIRECT"), "{text}");
}

#[test]
fn fabric_explains_what_it_cannot_do() {
    let folder = folder();
    let check = run(folder.path(), &["fabric", "check"]);
    if !check.status.success() {
        assert!(String::from_utf8_lossy(&check.stdout).contains("remedy:"));
    }
    let down = run(folder.path(), &["fabric", "down", "no_such_device"]);
    assert_eq!(down.status.code(), Some(1));
    assert!(stderr(&down).contains("no_such_device"), "{}", stderr(&down));
}
