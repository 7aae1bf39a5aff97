//! The committed header is what the sources say, and compiles as C99 and as C++11.
//!
//! `cargo xtask header` writes it anew.

#![allow(clippy::unwrap_used, missing_docs)]

use std::{fs, path::PathBuf, process::Command};

/// Files of `src/c_abi`, in the order of the header.
const SOURCES: [&str; 11] = [
    "status",
    "options",
    "schema",
    "client",
    "table",
    "push",
    "pull",
    "buffer",
    "prepared",
    "scan",
    "sparsifier",
];

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn header_path() -> PathBuf {
    folder().join("../include/windlass.h")
}

fn generated() -> String {
    let config = cbindgen::Config::from_file(folder().join("cbindgen.toml")).unwrap();
    let mut builder = cbindgen::Builder::new().with_config(config);
    for source in SOURCES {
        builder = builder.with_src(folder().join(format!("src/c_abi/{source}.rs")));
    }
    let mut bytes = Vec::new();
    builder.generate().unwrap().write(&mut bytes);
    String::from_utf8(bytes).unwrap()
}

#[test]
fn the_committed_header_is_in_step() {
    let expected = generated();
    if std::env::var_os("WINDLASS_WRITE_HEADER").is_some() {
        fs::write(header_path(), &expected).unwrap();
    }
    let committed = fs::read_to_string(header_path()).unwrap_or_default();
    assert!(
        committed == expected,
        "client/include/windlass.h is not what the sources say: run `cargo xtask header` \
         and commit it"
    );
}

#[test]
fn every_function_of_the_sources_is_in_the_header() {
    let header = generated();
    let mut count = 0;
    for source in SOURCES {
        let text = fs::read_to_string(folder().join(format!("src/c_abi/{source}.rs"))).unwrap();
        for line in text.lines().filter(|line| line.contains("extern \"C\" fn windlass_")) {
            let name = line.split("fn ").nth(1).unwrap().split('(').next().unwrap();
            assert!(header.contains(&format!("{name}(")), "{name} is not in the header");
            count += 1;
        }
    }
    assert!(count >= 40, "only {count} functions were found");
}

#[test]
fn the_header_compiles_as_c99_and_cpp11() {
    let source = std::env::temp_dir().join(format!("windlass-header-{}.c", std::process::id()));
    fs::write(&source, "#include \"windlass.h\"\nint main(void) { return 0; }\n").unwrap();
    for (compiler, language, standard) in
        [("gcc", "c", "-std=c99"), ("gcc", "c", "-std=c17"), ("g++", "c++", "-std=c++11")]
    {
        let output = Command::new(compiler)
            .args([standard, "-Wall", "-Wextra", "-Werror", "-pedantic", "-fsyntax-only"])
            .arg("-I")
            .arg(folder().join("../include"))
            .args(["-x", language])
            .arg(&source)
            .output();
        match output {
            Ok(output) => assert!(
                output.status.success(),
                "{compiler} {standard}: {}",
                String::from_utf8_lossy(&output.stderr)
            ),
            Err(error) => {
                assert!(std::env::var_os("CI").is_none(), "{compiler} does not run: {error}");
                eprintln!("NOT RUN: {compiler} {standard}: {error}");
            }
        }
    }
    fs::remove_file(source).unwrap();
}
