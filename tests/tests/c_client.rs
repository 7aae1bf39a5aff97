//! The C ABI as C and C++ programs use it: compiled, linked and run against real servers, and under
//! the tools that see their mistakes with memory.

#![allow(clippy::unwrap_used, missing_docs)]

mod native;

use std::{ffi::OsStr, path::PathBuf, process::Command};

use native::{PROVIDERS, installed, library, not_run, path, server, small_server, succeed, target};

#[test]
fn hello_c_learns() {
    if !installed("gcc", "client/examples/hello.c") {
        return;
    }
    let lines = std::fs::read_to_string(path("client/examples/hello.c")).unwrap().lines().count();
    assert!(lines < 100, "hello.c has {lines} lines");
    let program = compile("hello", "client/examples/hello.c", "gcc", &["-std=c99"]);
    for provider in PROVIDERS {
        let server = server(provider);
        let printed = succeed(with_library(
            Command::new(&program).arg(server.advertised()).arg(provider.name()),
        ));
        let losses: Vec<f64> = printed
            .lines()
            .map(|line| line.split("loss ").nth(1).unwrap().parse().unwrap())
            .collect();
        assert_eq!(losses.len(), 8, "{printed}");
        assert!(losses.is_sorted_by(|before, after| before > after), "{losses:?}");
        // What the true model itself has on this data, within noise: 0.21.
        assert!(losses[7] < 0.23, "{losses:?}");
    }
}

#[test]
fn hello_c_links_statically() {
    if !installed("gcc", "linking with libwindlass.a") {
        return;
    }
    let program = output("hello-static");
    succeed(
        Command::new("gcc")
            .args(["-std=c99", "-O1", "-I"])
            .arg(path("client/include"))
            .arg(path("client/examples/hello.c"))
            .arg(library().join("libwindlass.a"))
            .args(["-lm", "-lpthread", "-ldl", "-o"])
            .arg(&program),
    );
    let server = server(PROVIDERS[0]);
    let printed = succeed(Command::new(&program).arg(server.advertised()));
    assert!(printed.contains("epoch 7 loss 0.2"), "{printed}");
}

#[test]
fn every_function_does_what_the_header_says_in_c99() {
    if installed("gcc", "the ABI from C99") {
        let program = compile("abi-c99", "client/c/tests/abi.c", "gcc", &["-std=c99"]);
        on_each_provider(&[program.as_os_str()]);
    }
}

#[test]
fn every_function_does_what_the_header_says_in_cpp11() {
    if installed("g++", "the ABI from C++11") {
        let flags = ["-x", "c++", "-std=c++11"];
        let program = compile("abi-cpp11", "client/c/tests/abi.c", "g++", &flags);
        on_each_provider(&[program.as_os_str()]);
    }
}

#[test]
fn a_forked_child_is_told_and_the_parent_goes_on() {
    if installed("gcc", "a client on both sides of a fork in C") {
        let program = compile("fork", "client/c/tests/fork.c", "gcc", &["-std=c99"]);
        on_each_provider(&[program.as_os_str()]);
    }
}

#[test]
fn the_rows_of_a_push_that_were_not_applied_are_named() {
    if installed("gcc", "a push that is refused in part, in C") {
        let program = compile("refused", "client/c/tests/refused.c", "gcc", &["-std=c99"]);
        for provider in PROVIDERS {
            let server = small_server(provider);
            let mut run = Command::new(&program);
            succeed(with_library(run.arg(server.advertised()).arg(provider.name())));
        }
    }
}

#[test]
fn address_sanitizer_finds_nothing() {
    let what = "the ABI under AddressSanitizer";
    if !installed("gcc", what) {
        return;
    }
    let empty = output("empty.c");
    std::fs::write(&empty, "int main(void) { return 0; }\n").unwrap();
    let sanitize = ["-fsanitize=address,undefined", "-fno-omit-frame-pointer"];
    let probe = Command::new("gcc")
        .args(sanitize)
        .arg(&empty)
        .arg("-o")
        .arg(output("empty"))
        .output()
        .unwrap();
    if !probe.status.success() {
        return not_run(what, "gcc has no sanitizer library");
    }
    let flags = [&["-std=c99"][..], &sanitize].concat();
    let program = compile("abi-asan", "client/c/tests/abi.c", "gcc", &flags);
    // Its shadow memory collides with mappings that the kernel places at random now and then.
    let fixed = ["setarch", "--addr-no-randomize"].map(OsStr::new);
    let fixed = if installed("setarch", "fixed addresses under AddressSanitizer") {
        &fixed[..]
    } else {
        &[]
    };
    on_each_provider(&[fixed, &[program.as_os_str()]].concat());
}

#[test]
fn valgrind_finds_nothing() {
    let what = "the ABI under valgrind";
    if !installed("valgrind", what) || !installed("gcc", what) {
        return;
    }
    let program = compile("abi-valgrind", "client/c/tests/abi.c", "gcc", &["-std=c99"]);
    let valgrind = [
        "valgrind",
        "--quiet",
        "--error-exitcode=9",
        "--leak-check=full",
        "--errors-for-leak-kinds=definite",
    ];
    let mut command: Vec<&OsStr> = valgrind.iter().map(OsStr::new).collect();
    command.push(program.as_os_str());
    on_each_provider(&command);
}

/// A library that exports more could take the place of functions of the program that loads it.
#[test]
fn only_windlass_functions_are_exported() {
    if !installed("nm", "the list of exported symbols") {
        return;
    }
    let symbols = succeed(
        Command::new("nm").args(["-D", "--defined-only"]).arg(library().join("libwindlass.so")),
    );
    let names: Vec<&str> = symbols.lines().filter_map(|line| line.split(' ').nth(2)).collect();
    assert!(names.len() >= 40, "{symbols}");
    let strangers: Vec<&&str> =
        names.iter().filter(|name| !name.starts_with("windlass_")).collect();
    assert!(strangers.is_empty(), "{strangers:?}");

    let header = std::fs::read_to_string(path("client/include/windlass.h")).unwrap();
    for name in names {
        assert!(header.contains(&format!("{name}(")), "{name} is exported but not in the header");
    }
    let needed = succeed(Command::new("readelf").arg("-d").arg(library().join("libwindlass.so")));
    assert!(!needed.contains("libibverbs"), "a machine without libibverbs could not load it");
}

/// Runs a program with the arguments ADDRESS PROVIDER against a server of each provider.
fn on_each_provider(command: &[&OsStr]) {
    for provider in PROVIDERS {
        let server = server(provider);
        let mut run = Command::new(command[0]);
        run.args(&command[1..]).arg(server.advertised()).arg(provider.name());
        succeed(with_library(&mut run));
    }
}

fn compile(name: &str, source: &str, compiler: &str, flags: &[&str]) -> PathBuf {
    let program = output(name);
    succeed(
        Command::new(compiler)
            .args(flags)
            .args(["-D_POSIX_C_SOURCE=200809L", "-g", "-O1", "-Wall", "-Wextra", "-Werror", "-I"])
            .arg(path("client/include"))
            .arg(path(source))
            .arg("-L")
            .arg(library())
            .args(["-lwindlass", "-lm", "-pthread", "-o"])
            .arg(&program),
    );
    program
}

fn output(name: &str) -> PathBuf {
    let folder = target().join("tmp/c_client");
    std::fs::create_dir_all(&folder).unwrap();
    folder.join(name)
}

fn with_library(command: &mut Command) -> &mut Command {
    command.env("LD_LIBRARY_PATH", library())
}
