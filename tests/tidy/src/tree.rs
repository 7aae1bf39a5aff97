//! The files of the work tree, and the few words of its manifests that rules ask for.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// A Rust file.
#[derive(Debug)]
pub struct Source {
    /// From the root, with forward slashes.
    pub path: String,
    /// Its contents.
    pub text: String,
}

impl Source {
    /// Whether the file holds tests only.
    #[must_use]
    pub fn is_test(&self) -> bool {
        self.path.split('/').any(|part| part.ends_with("tests") || part.ends_with("tests.rs"))
    }
}

/// The root of the tree that the test runs in. Read at run time: a binary in a copied `target` folder
/// would otherwise check the tree in which it was compiled.
///
/// # Panics
/// If cargo did not start the program.
#[must_use]
pub fn root() -> PathBuf {
    let manifest = std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR");
    Path::new(&manifest).ancestors().nth(2).expect("this crate is two folders deep").to_owned()
}

/// Every Rust file of the tree.
///
/// # Panics
/// If a file cannot be read.
#[must_use]
pub fn sources() -> Vec<Source> {
    let root = root();
    files(&root, ".rs")
        .into_iter()
        .map(|path| Source {
            text: fs::read_to_string(&path).expect("sources are readable"),
            path: path.strip_prefix(&root).expect("below the root").display().to_string(),
        })
        .collect()
}

/// Files below `folder` whose names end with `suffix`, sorted. Skips what was built, hidden folders and
/// fixtures.
///
/// # Panics
/// If a folder cannot be read.
#[must_use]
pub fn files(folder: &Path, suffix: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("folders are readable") {
            let entry = entry.expect("folders are readable");
            let name = entry.file_name().to_string_lossy().into_owned();
            let is_skipped = name == "target" || name.starts_with('.') || name == "fixtures";
            if entry.path().is_dir() && !entry.path().is_symlink() {
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

/// The keys of one section of a manifest, such as `dependencies`.
pub fn keys<'text>(manifest: &'text str, section: &str) -> impl Iterator<Item = &'text str> {
    let head = format!("[{section}]");
    manifest
        .lines()
        .skip_while(move |line| line.trim() != head)
        .skip(1)
        .take_while(|line| !line.starts_with('['))
        .filter_map(|line| line.split(['=', '.', ' ']).next())
        .filter(|key| !key.is_empty() && !key.starts_with('#'))
}

/// The strings of an array that stands on several lines: `key = [`, a string a line, `]`.
#[must_use]
pub fn strings<'text>(manifest: &'text str, key: &str) -> Vec<&'text str> {
    let head = format!("{key} = [");
    manifest
        .lines()
        .skip_while(|line| *line != head)
        .skip(1)
        .take_while(|line| *line != "]")
        .filter_map(|line| line.split('"').nth(1))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MANIFEST: &str = "members = [\n    \"a\",\n    \"b/c\",\n]\n\n[dependencies]\n# why\nx = \"1\"\n\
                            windlass-wire.workspace = true\n\n[lints]\ny = 1\n";

    #[test]
    fn a_section_ends_where_the_next_begins() {
        let found: Vec<&str> = keys(MANIFEST, "dependencies").collect();
        assert_eq!(found, ["x", "windlass-wire"]);
        assert_eq!(keys(MANIFEST, "build-dependencies").count(), 0);
    }

    #[test]
    fn arrays_give_their_strings() {
        assert_eq!(strings(MANIFEST, "members"), ["a", "b/c"]);
        assert_eq!(strings(MANIFEST, "default-members"), [""; 0]);
    }
}
