//! The Python package: its own tests, run by pytest in an environment made for them, against servers
//! in this process.

#![allow(clippy::unwrap_used, missing_docs)]

mod native;

use std::{fs::File, path::PathBuf, process::Command};

use native::{
    PROVIDERS, installed, library, not_run, path, run, server, small_server, succeed, target,
};

#[test]
fn the_package_passes_its_tests() {
    let Some(python) = environment() else { return };
    let servers: Vec<_> = PROVIDERS.into_iter().map(server).collect();
    let mut pytest = Command::new(python);
    pytest
        .args(["-m", "pytest", "-q", "--tb=short", "-p", "no:cacheprovider", "-rs"])
        .arg(path("client/python/tests"))
        .env("PYTHONPATH", path("client/python"))
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("RUST_BACKTRACE", "0")
        .env("WINDLASS_LIBRARY", library().join("libwindlass.so"));
    for (provider, server) in PROVIDERS.into_iter().zip(&servers) {
        let name = format!("WINDLASS_TEST_{}", provider.name().to_uppercase());
        pytest.env(name, server.advertised());
    }
    let small = small_server(PROVIDERS[0]);
    pytest.env("WINDLASS_TEST_SMALL", small.advertised());
    println!("{}", succeed(&mut pytest));
}

#[test]
fn the_example_of_the_readme_runs() {
    let Some(python) = environment() else { return };
    let readme = std::fs::read_to_string(path("client/python/README.md")).unwrap();
    let example = readme.split("```python\n").nth(1).unwrap().split("```").next().unwrap();
    assert!(example.lines().count() <= 15, "{example}");
    let server = server(PROVIDERS[0]);
    let example = example.replace("127.0.0.1:7700", server.advertised());
    let mut run = Command::new(python);
    run.args(["-W", "error", "-c", &example])
        .env("PYTHONPATH", path("client/python"))
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("WINDLASS_LIBRARY", library().join("libwindlass.so"));
    assert!(succeed(&mut run).contains("loss"));
}

#[test]
fn the_versions_agree() {
    let version = std::fs::read_to_string(path("client/python/windlass/_version.py")).unwrap();
    assert!(version.contains(&format!("\"{}\"", env!("CARGO_PKG_VERSION"))), "{version}");
}

/// The Python of an environment with numpy and pytest, made once and kept.
fn environment() -> Option<PathBuf> {
    let what = "the tests of the Python package";
    if !installed("python3", what) {
        return None;
    }
    let folder = target().join("tmp/python");
    // Each test may be a process of its own.
    let being_made = File::create(target().join("tmp/python.lock")).unwrap();
    being_made.lock().unwrap();
    let python = folder.join("bin/python");
    let packages = ["-c", "import numpy, pytest"];
    if python.exists() && run(Command::new(&python).args(packages)).status.success() {
        return Some(python);
    }
    let made = run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&folder));
    if !made.status.success() {
        not_run(what, "python3 -m venv does not work here (on Debian: install python3-venv)");
        return None;
    }
    let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check"];
    let installed = run(Command::new(&python).args(pip).args(["numpy", "pytest", "ml_dtypes"]));
    if !installed.status.success() {
        let reason = String::from_utf8_lossy(&installed.stderr).into_owned();
        not_run(what, &format!("numpy and pytest cannot be installed: {}", reason.trim()));
        return None;
    }
    Some(python)
}
