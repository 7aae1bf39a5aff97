//! `windlass gen ctr`, `completions`, `--config` and wrong command lines, as a user runs them.

#![allow(missing_docs)]

mod support;

use std::fs;

use support::{fails, folder, json, run, stderr};

#[test]
fn the_same_seed_gives_the_same_files() {
    let folder = folder();
    let at = folder.path();
    let result = json(
        at,
        &[
            "gen",
            "ctr",
            "--out",
            "a.svm",
            "--examples",
            "3000",
            "--features",
            "5000",
            "--eval-out",
            "e.svm.gz",
            "--eval-examples",
            "500",
            "--model-out",
            "truth.txt",
            "--json",
        ],
    );
    assert_eq!(result["examples"], 3000);
    assert_eq!(result["eval"]["examples"], 500);
    assert!(result["auc_best"].as_f64().unwrap() > 0.6);
    json(
        at,
        &["gen", "ctr", "--out", "b.svm", "--examples", "3000", "--features", "5000", "--json"],
    );
    assert_eq!(fs::read(at.join("a.svm")).unwrap(), fs::read(at.join("b.svm")).unwrap());
    assert!(fs::read(at.join("e.svm.gz")).unwrap().starts_with(&[0x1f, 0x8b]));
    assert!(fs::read_to_string(at.join("truth.txt")).unwrap().starts_with("intercept "));
    assert!(at.join("truth.npy").exists());
}

#[test]
fn a_config_file_says_what_flags_say_and_flags_beat_it() {
    let folder = folder();
    let at = folder.path();
    fs::write(at.join("w.toml"), "json = true\n[gen.ctr]\nout = 'c.svm'\nexamples = 10\n").unwrap();
    assert_eq!(json(at, &["gen", "ctr", "--config", "w.toml"])["examples"], 10);
    assert_eq!(json(at, &["--config=w.toml", "gen", "ctr", "--examples", "20"])["examples"], 20);

    fs::write(at.join("w.toml"), "[gen.ctr]\nouch = 'c.svm'\n").unwrap();
    let text = fails(at, 2, &["gen", "ctr", "--config", "w.toml"]);
    assert!(text.contains("\"ouch\"") && text.contains("examples"), "{text}");
    let text = fails(at, 2, &["gen", "ctr", "--config", "missing.toml"]);
    assert!(text.contains("missing.toml"), "{text}");
}

#[test]
fn wrong_command_lines_say_what_is_wrong() {
    let folder = folder();
    let at = folder.path();
    let text = fails(at, 2, &["gen", "ctr"]);
    assert!(text.contains("--out"), "{text}");
    let text = fails(at, 2, &["gen", "ctr", "--out", "x.svm", "--exampels", "3"]);
    assert!(text.contains("--examples"), "{text}");
    let text = fails(at, 2, &["completion"]);
    assert!(text.contains("completions"), "{text}");
    let text = fails(at, 2, &["gen", "ctr", "--out", "x.svm", "--click-rate", "1.5"]);
    assert!(text.contains("--click-rate") && text.contains("below 1"), "{text}");
    let text = fails(at, 1, &["gen", "ctr", "--out", "no/such/folder/x.svm"]);
    assert!(text.contains("no/such/folder/x.svm") && text.contains("folder exists"), "{text}");
}

#[test]
fn completions_for_every_shell() {
    let folder = folder();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let output = run(folder.path(), &["completions", shell]);
        assert!(output.status.success(), "{}", stderr(&output));
        assert!(String::from_utf8_lossy(&output.stdout).contains("windlass"));
    }
}
