//! Rules of the house that a program can check; CONTRIBUTING.md gives their reasons.

#![allow(clippy::unwrap_used, missing_docs)]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use windlass_tidy::{
    code::{functions, implementations, is_justified, opens_unsafe, structures},
    tree::{self, files, root, sources},
};

/// A file may have this many lines.
const LINES_MAX: usize = 500;

/// Files that may be longer, each with the reason why splitting it would hurt.
const LONG_FILES: &[(&str, &str)] = &[
    ("transport/src/fabric.rs", "the trait and its words are read together; half of it is prose"),
    ("transport/src/verbs/device.rs", "what a device says of itself: one query, many fields"),
];

/// A function may have this many lines.
const FUNCTION_LINES_MAX: usize = 80;
/// A type may have this many fields.
const FIELDS_MAX: usize = 15;
/// This many files may hold more than a screen of a type's methods.
const IMPL_FILES_MAX: usize = 3;
const SCREEN_LINES: usize = 40;

/// Functions that may be longer, each with its reason.
const LONG_FUNCTIONS: &[(&str, &str)] = &[
    ("engine/src/persist/log_walk.rs:segment", "one segment from its first frame to its last"),
    (
        "client/embedded/tests/failover/control.rs:serve",
        "a scenario is read from its top to its end",
    ),
    (
        "client/embedded/tests/moves.rs:rounds_go_on_while_their_partitions_move",
        "a scenario is read from its top to its end",
    ),
    (
        "client/src/core/inline_push.rs:push_short",
        "the shortest way of a push; calls would cost it",
    ),
    ("engine/src/server/connection.rs:answer", "one arm for each kind of request"),
    ("engine/src/server/mod.rs:start", "starts the parts of a server in order"),
    (
        "engine/src/shard/clocks/table/tests.rs:the_published_minimum_is_that_of_a_clock_per_row",
        "a scenario is read from its top to its end",
    ),
    ("engine/src/shard/command.rs:carry_out", "one arm for each command"),
    ("engine/src/shard/drain.rs:admit", "one arm for each kind of request"),
    ("engine/src/shard/recover.rs:apply", "one arm for each kind of record"),
    (
        "tests/interop/tests/peers.rs:ours_writes_to_and_reads_from_a_queue_pair_of_the_ibverbs_crate",
        "a scenario is read from its top to its end",
    ),
    ("engine/src/update/tests/oracle.rs:$name", "one arm for each rule"),
    ("tests/src/hostile/cases.rs:one_case", "one arm for each hostile case"),
    (
        "tests/tests/kill_nine/main.rs:acknowledged_pushes_survive_kill_nine_exactly_once",
        "a scenario is read from its top to its end",
    ),
    ("tools/src/cli/demo.rs:run", "a command from its flags to its output"),
    ("tools/src/cli/drill.rs:run", "a command from its flags to its output"),
    (
        "transport/tests/shm_allocations.rs:a_steady_state_allocates_nothing",
        "a scenario is read from its top to its end",
    ),
];
/// Types that may have more fields, each with its reason.
const WIDE_TYPES: &[(&str, &str)] = &[
    (
        "transport/src/shm/queue_pair.rs:QueuePair",
        "still one object; to be taken apart into parts that own their state",
    ),
    ("transport/src/verbs/config.rs:VerbsConfig", "one field for each setting"),
    ("tools/src/cli/cluster/result.rs:StatusResult", "one JSON object, flat for who reads it"),
    ("client/c/src/c_abi/schema.rs:WindlassSchema", "C has no enumerations with fields"),
    (
        "engine/src/coordinator/machine.rs:Machine",
        "still one object; to be taken apart into parts that own their state",
    ),
    (
        "engine/src/persist/log.rs:Log",
        "still one object; to be taken apart into parts that own their state",
    ),
    ("engine/src/server/config.rs:ServerConfig", "one field for each setting"),
    ("tests/src/simulation/mod.rs:Report", "one field for each figure"),
    ("tests/src/simulation/world.rs:World", "a whole simulated cluster"),
    ("tools/src/bench/connections/mod.rs:ConnectionsResult", "one field for each figure"),
    ("tools/src/cli/bench.rs:Arguments", "one field for each flag"),
    ("tools/src/cli/serve.rs:Arguments", "one field for each flag"),
    ("tools/src/report/results.rs:BenchResult", "one field for each figure"),
    ("tools/src/train/run.rs:RunOptions", "one field for each flag"),
    (
        "transport/src/shm/instance.rs:Shm",
        "still one object; to be taken apart into parts that own their state",
    ),
    (
        "transport/src/tcp/connection.rs:Connection",
        "still one object; to be taken apart into parts that own their state",
    ),
    ("transport/src/verbs/abi.rs:ibv_device_attr", "libibverbs lays it out"),
    ("transport/src/verbs/abi.rs:ibv_port_attr", "libibverbs lays it out"),
    ("transport/src/verbs/abi.rs:ibv_qp_attr", "libibverbs lays it out"),
];
/// Types whose methods may stand in more files, each with its reason.
const SPREAD_TYPES: &[(&str, &str)] = &[
    ("engine:Log", "still one object; to be taken apart into parts that own their state"),
    ("engine:Machine", "still one object; to be taken apart into parts that own their state"),
    ("engine:UringStorage", "one file for each kind of operation"),
    ("replication:Replica", "one file for each role in a chain"),
    ("transport:Connection", "set-up, frames out, frames in, their execution"),
    ("transport:Shm", "set-up, data path, leaving"),
];

/// Where `unsafe` may stand, a file or a folder with all in it, and what for.
const UNSAFE_ALLOWED: &[(&str, &str)] = &[
    ("transport/wire/src/checksum.rs", "the processor's checksum instruction"),
    ("transport/src/clock.rs", "clocks and counters of the C library"),
    ("transport/src/memory.rs", "mapped pages that peers read and write"),
    ("transport/src/memory/populate.rs", "advice about private pages"),
    ("transport/src/memory/zeroed.rs", "private pages in huge ones"),
    ("transport/src/memory/copy_out.rs", "copies of what peers write, by words"),
    ("transport/src/shm/", "mapped segments of other processes"),
    ("transport/src/tcp/socket.rs", "receiving into pages without a copy"),
    ("transport/src/verbs/", "the C ABI of libibverbs"),
    ("engine/src/persist/memory.rs", "buffers that the kernel reads and writes"),
    ("engine/src/persist/uring/", "submission of such buffers"),
    ("engine/src/shard/aggregate.rs", "values that lie in mailboxes"),
    ("engine/src/shard/chain/apply.rs", "deltas that lie in records"),
    ("engine/src/shard/pull.rs", "rows copied to where clients read them"),
    ("engine/src/shard/push.rs", "values that lie in mailboxes"),
    ("engine/src/table/", "rows that clients read one-sidedly"),
    ("engine/src/update/accumulator.rs", "calls of the kernels"),
    ("engine/src/update/kernel.rs", "calls of the kernels"),
    ("engine/src/update/kernels/", "SIMD"),
    ("engine/src/update/tests/", "calls of the kernels"),
    ("client/src/core/view.rs", "rows in registered memory"),
    ("engine/src/shard/durable.rs", "deltas that lie in mailboxes and log records"),
    ("engine/src/shard/record/fill.rs", "values that lie in mailboxes, sums in log records"),
    ("engine/src/shard/record/write.rs", "sums that lie in log records"),
    ("engine/src/shard/recover.rs", "deltas that lie in log records"),
    ("client/src/fork.rs", "a handler that the C library calls in forked children"),
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
    "docs",
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
fn functions_fit_a_screen() {
    let mut found = Vec::new();
    for source in sources() {
        for function in functions(&source.text) {
            if function.lines > FUNCTION_LINES_MAX {
                found.push(format!("{}:{}", source.path, function.name));
            }
        }
    }
    report(&against("has more lines than a screen", &found, LONG_FUNCTIONS));
}

#[test]
fn types_have_few_fields() {
    let mut found = Vec::new();
    for source in sources() {
        for (structure, fields) in structures(&source.text) {
            if fields > FIELDS_MAX {
                found.push(format!("{}:{}", source.path, structure.name));
            }
        }
    }
    report(&against("has more fields than one noun needs", &found, WIDE_TYPES));
}

/// Imports do not show that a type is one object cut in pieces; where its methods stand does.
#[test]
fn types_are_not_spread_over_many_files() {
    let mut places: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for source in sources().iter().filter(|source| !source.is_test()) {
        let mut lines: BTreeMap<&str, usize> = BTreeMap::new();
        for implementation in implementations(&source.text) {
            *lines.entry(implementation.name).or_default() += implementation.lines;
        }
        let crate_path = source.path.split("/src/").next().unwrap_or_default();
        for (name, _) in lines.into_iter().filter(|(_, lines)| *lines > SCREEN_LINES) {
            places.entry(format!("{crate_path}:{name}")).or_default().insert(source.path.clone());
        }
    }
    let found: Vec<String> = places
        .into_iter()
        .filter(|(_, files)| files.len() > IMPL_FILES_MAX)
        .map(|(name, _)| name)
        .collect();
    report(&against("has methods in more than three files", &found, SPREAD_TYPES));
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
        for section in ["dependencies", "build-dependencies"] {
            let names = tree::keys(&manifest, section);
            for name in names.filter(|name| name.starts_with("windlass")) {
                if !allowed.contains(&name) {
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
    let workspace = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let members = tree::strings(&workspace, "default-members");
    assert!(members.contains(&"tools"), "{members:?}");
    let programs: Vec<&str> = members
        .into_iter()
        .filter(|member| {
            let folder = root().join(member);
            let manifest = fs::read_to_string(folder.join("Cargo.toml")).unwrap();
            manifest.contains("[[bin]]")
                || folder.join("src/main.rs").exists()
                || folder.join("src/bin").exists()
        })
        .collect();
    assert_eq!(programs, ["tools"]);
}

/// What breaks a rule and is not listed, and what is listed and breaks it no longer.
fn against(problem: &str, found: &[String], listed: &[(&str, &str)]) -> Vec<String> {
    let new = found
        .iter()
        .filter(|name| !listed.iter().any(|(listed, _)| listed == name))
        .map(|name| format!("{name} {problem}: split it, or list it with the reason"));
    let mended = listed
        .iter()
        .filter(|(name, _)| !found.iter().any(|found| found == name))
        .map(|(name, _)| format!("{name} is fine now: take it off the list"));
    new.chain(mended).collect()
}

fn report(problems: &[String]) {
    assert!(problems.is_empty(), "\n{}\n", problems.join("\n"));
}
