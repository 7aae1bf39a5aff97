//! Rules of the house that a program can check; CONTRIBUTING.md gives their reasons.

#![allow(clippy::unwrap_used, missing_docs)]

use std::{
    fs,
    path::{Path, PathBuf},
};

/// A file may have this many lines.
const LINES_MAX: usize = 500;

/// Files that may be longer, each with the reason why splitting it would hurt.
const LONG_FILES: &[(&str, &str)] = &[
    ("transport/src/fabric.rs", "the trait and its words are read together; half of it is prose"),
    ("transport/src/verbs/device.rs", "what a device says of itself: one query, many fields"),
];

/// Where `unsafe` may stand, a file or a folder with all in it, and what for.
const UNSAFE_ALLOWED: &[(&str, &str)] = &[
    ("transport/wire/src/checksum.rs", "the processor's checksum instruction"),
    ("transport/src/memory.rs", "mapped pages that peers read and write"),
    ("transport/src/memory/copy_out.rs", "copies of what peers write, by words"),
    ("transport/src/shm/", "mapped segments of other processes"),
    ("transport/src/tcp/socket.rs", "receiving into pages without a copy"),
    ("transport/src/verbs/", "the C ABI of libibverbs"),
    ("engine/src/persist/memory.rs", "buffers that the kernel reads and writes"),
    ("engine/src/persist/uring/", "submission of such buffers"),
    ("engine/src/shard/aggregate.rs", "values that lie in mailboxes"),
    ("engine/src/shard/chain/apply.rs", "deltas that lie in records"),
    ("engine/src/shard/chain/build.rs", "values that lie in mailboxes"),
    ("engine/src/shard/pull.rs", "rows copied to where clients read them"),
    ("engine/src/shard/push.rs", "values that lie in mailboxes"),
    ("engine/src/table/", "rows that clients read one-sidedly"),
    ("engine/src/update/accumulator.rs", "calls of the kernels"),
    ("engine/src/update/kernel.rs", "calls of the kernels"),
    ("engine/src/update/kernels/", "SIMD"),
    ("engine/src/update/tests/", "calls of the kernels"),
    ("client/src/core/view.rs", "rows in registered memory"),
    ("engine/src/shard/durable.rs", "deltas that lie in mailboxes and log records"),
    ("engine/src/shard/record/write.rs", "values that lie in mailboxes, sums in log records"),
    ("engine/src/shard/recover.rs", "deltas that lie in log records"),
    ("client/src/rows.rs", "rows in registered memory"),
    ("client/c/src/", "the C ABI"),
    ("client/python/", "numpy's buffers"),
    ("transport/examples/", "measurements over raw segments"),
    ("transport/tests/", "allocators that count, and misuse on purpose"),
    ("engine/tests/", "allocators that count"),
    ("client/tests/", "allocators that count"),
    ("benches/", "calls of the kernels"),
    ("tests/interop/", "other bindings of libibverbs"),
    ("tests/tests/", "allocators that count"),
];

/// What each crate may depend on among the others. The arrows of ARCHITECTURE.md.
const LAYERS: &[(&str, &[&str])] = &[
    ("transport/wire", &[]),
    ("transport", &["windlass-wire"]),
    ("replication", &["windlass-wire"]),
    ("engine", &["windlass-wire", "windlass-transport", "windlass-replication"]),
    ("client", &["windlass-wire", "windlass-transport"]),
];

const TOP_LEVEL: &[&str] = &[
    ".cargo",
    ".ci",
    ".git",
    ".github",
    ".gitignore",
    "ARCHITECTURE.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE-APACHE",
    "LICENSE-MIT",
    "README.md",
    "benches",
    "client",
    "clippy.toml",
    "deny.toml",
    "engine",
    "replication",
    "rustfmt.toml",
    "target",
    "tests",
    "tools",
    "transport",
];

/// Assembled, so that this file does not hold them.
const FORBIDDEN: &[&str] = &[
    concat!("to", "do!("),
    concat!("unimple", "mented!("),
    concat!("db", "g!("),
    concat!("FIX", "ME"),
    concat!("XX", "X:"),
    concat!("allow(dead", "_code)"),
];

struct Source {
    /// From the root, with forward slashes.
    path: String,
    text: String,
}

#[test]
fn files_are_short() {
    let mut long = Vec::new();
    for source in sources() {
        let count = source.text.lines().count();
        let is_named = LONG_FILES.iter().any(|(path, _)| *path == source.path);
        if count > LINES_MAX && !is_named {
            long.push(format!("{} has {count} lines: split it by noun or event", source.path));
        }
        if count <= LINES_MAX && is_named {
            long.push(format!("{} is short now: take it off the list", source.path));
        }
    }
    report(&long);
}

#[test]
fn unsafe_stands_in_few_files_and_proves_itself() {
    let mut problems = Vec::new();
    for source in sources() {
        let is_allowed = UNSAFE_ALLOWED.iter().any(|(place, _)| {
            source.path == *place || place.ends_with('/') && source.path.starts_with(place)
        });
        let lines: Vec<&str> = source.text.lines().collect();
        // Where one proof holds for all blocks of a file, it stands at the head.
        let has_proof = source.text.contains("//! SAFETY of every block");
        for (index, line) in lines.iter().enumerate() {
            if !opens_unsafe(line) {
                continue;
            }
            let place = format!("{}:{}", source.path, index + 1);
            if !is_allowed {
                problems.push(format!("{place}: unsafe outside the files that may have it"));
            } else if !has_proof && !is_justified(&lines, index) {
                problems.push(format!("{place}: no SAFETY comment above that proves it"));
            }
        }
    }
    report(&problems);
}

#[test]
fn nothing_is_left_unfinished() {
    let mut problems = Vec::new();
    for source in sources() {
        for (index, line) in source.text.lines().enumerate() {
            for word in FORBIDDEN.iter().filter(|word| line.contains(**word)) {
                problems.push(format!("{}:{}: {word}", source.path, index + 1));
            }
        }
    }
    report(&problems);
}

#[test]
fn arrows_go_one_way() {
    let mut problems = Vec::new();
    for (folder, allowed) in LAYERS {
        let manifest = fs::read_to_string(root().join(folder).join("Cargo.toml")).unwrap();
        let manifest: toml::Table = manifest.parse().unwrap();
        for section in ["dependencies", "build-dependencies"] {
            let Some(toml::Value::Table(names)) = manifest.get(section) else { continue };
            for name in names.keys().filter(|name| name.starts_with("windlass")) {
                if !allowed.contains(&name.as_str()) {
                    problems.push(format!("{folder} must not depend on {name}"));
                }
            }
        }
    }
    report(&problems);
}

/// Time and IO come into these crates as arguments.
#[test]
fn the_pure_core_is_pure() {
    let mut problems = Vec::new();
    for source in sources() {
        let is_pure = source.path.starts_with("replication/src/")
            || source.path.starts_with("transport/wire/src/");
        if !is_pure {
            continue;
        }
        for (index, line) in source.text.lines().enumerate() {
            let is_comment = line.trim_start().starts_with("//");
            for word in
                ["std::fs", "std::net", "std::thread", "Instant::now", "SystemTime", "std::env"]
            {
                if line.contains(word) && !is_comment {
                    problems.push(format!("{}:{}: {word}", source.path, index + 1));
                }
            }
        }
    }
    report(&problems);
}

#[test]
fn the_top_level_is_fixed() {
    let mut problems = Vec::new();
    for entry in fs::read_dir(root()).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if !TOP_LEVEL.contains(&name.as_str()) {
            problems.push(format!("{name} does not belong at the top level"));
        }
    }
    report(&problems);
}

#[test]
fn every_limit_is_documented() {
    let mut problems = Vec::new();
    for source in sources() {
        if !source.path.ends_with("/limits.rs") {
            continue;
        }
        let lines: Vec<&str> = source.text.lines().collect();
        for (index, line) in lines.iter().enumerate() {
            let code = line
                .trim_start()
                .trim_start_matches("pub(crate) ")
                .trim_start_matches("pub(super) ");
            let code = code.trim_start_matches("pub ");
            let is_limit = code.strip_prefix("const ").is_some_and(|rest| !rest.starts_with('_'));
            if is_limit && (index == 0 || !lines[index - 1].trim_start().starts_with("///")) {
                problems.push(format!("{}:{}: {code} says nothing", source.path, index + 1));
            }
        }
    }
    report(&problems);
}

#[test]
fn versions_and_licences_come_from_the_workspace() {
    let mut problems = Vec::new();
    for path in files(&root(), "Cargo.toml") {
        let text = fs::read_to_string(&path).unwrap();
        let is_member = text.contains("[package]") && !text.contains("[workspace]");
        for key in ["version.workspace", "license.workspace", "edition.workspace"] {
            if is_member && !text.contains(key) {
                problems.push(format!("{} lacks {key} = true", path.display()));
            }
        }
    }
    report(&problems);
}

/// `cargo run -- demo` has to know which program is meant.
#[test]
fn cargo_run_has_one_program_to_run() {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let arguments = ["metadata", "--no-deps", "--offline", "--format-version", "1"];
    let output =
        std::process::Command::new(cargo).args(arguments).current_dir(root()).output().unwrap();
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let defaults = metadata["workspace_default_members"].as_array().unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    let programs: Vec<&str> = packages
        .iter()
        .filter(|package| defaults.contains(&package["id"]))
        .flat_map(|package| package["targets"].as_array().unwrap())
        .filter(|target| target["kind"][0] == "bin")
        .map(|target| target["name"].as_str().unwrap())
        .collect();
    assert_eq!(programs, ["windlass"]);
}

fn report(problems: &[String]) {
    assert!(problems.is_empty(), "\n{}\n", problems.join("\n"));
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn sources() -> Vec<Source> {
    files(&root(), ".rs")
        .into_iter()
        .map(|path| Source {
            text: fs::read_to_string(&path).unwrap(),
            path: path.strip_prefix(root()).unwrap().to_str().unwrap().replace('\\', "/"),
        })
        .collect()
}

fn files(folder: &Path, suffix: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            // Nothing that was built, and no environment that a test made for itself.
            let is_skipped = name == "target" || name.starts_with('.') || name == "fixtures";
            if entry.file_type().unwrap().is_dir() {
                if !is_skipped {
                    folders.push(entry.path());
                }
            } else if name.ends_with(suffix) {
                found.push(entry.path());
            }
        }
    }
    found.sort();
    found
}

/// Whether a line of code begins an unsafe block or implementation. Function types and
/// declarations (`unsafe fn`) are the compiler's business: it asks for a `# Safety` section.
fn opens_unsafe(line: &str) -> bool {
    let code = line.split("//").next().unwrap_or_default();
    let mut rest = code;
    while let Some(start) = rest.find("unsafe") {
        let before = rest[..start].chars().next_back();
        let after = &rest[start + "unsafe".len()..];
        let is_word = !before
            .is_some_and(|character| character.is_alphanumeric() || "_\"".contains(character));
        let next = after.trim_start();
        if is_word
            && (next.starts_with('{')
                || next.starts_with("impl")
                || next.starts_with("extern") && !next.contains(" fn"))
        {
            return true;
        }
        rest = after;
    }
    false
}

/// Whether a SAFETY comment belongs to the line: on it, or in the comment above the statement it is
/// part of.
fn is_justified(lines: &[&str], index: usize) -> bool {
    const STATEMENT_LINES_MAX: usize = 6;
    if lines[index].contains("SAFETY") {
        return true;
    }
    let mut code_lines = 0;
    for line in lines[..index].iter().rev() {
        let line = line.trim_start();
        if line.contains("SAFETY") {
            return true;
        }
        if !line.starts_with("//") && !line.starts_with("#[") {
            code_lines += 1;
            if code_lines > STATEMENT_LINES_MAX {
                return false;
            }
        }
    }
    false
}
