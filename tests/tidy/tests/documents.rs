//! What a program can check of the pages that a stranger reads.

#![allow(clippy::unwrap_used, missing_docs)]

use std::fs;

use windlass_tidy::tree::{files, root};

/// The architecture page is read in one sitting.
const ARCHITECTURE_LEN_MAX: usize = 12 << 10;
/// Its walk follows one push through this many files.
const WALK_FILES_MAX: usize = 15;

/// Folders of sources: a word that begins with one of them is a path.
const FOLDERS: &[&str] =
    &["benches/", "client/", "docs/", "engine/", "replication/", "tests/", "tools/", "transport/"];

/// The pages, from the root, with their texts.
fn pages() -> Vec<(String, String)> {
    let root = root();
    let mut paths: Vec<_> = files(&root, ".md");
    // Notes and the changelog tell of the past, and may name what is gone.
    paths.retain(|path| !path.starts_with(root.join("benches/notes")));
    paths.retain(|path| !path.ends_with("CHANGELOG.md"));
    paths
        .into_iter()
        .map(|path| {
            let name = path.strip_prefix(&root).unwrap().display().to_string();
            (name, fs::read_to_string(path).unwrap())
        })
        .collect()
}

/// The paths that a text names.
fn paths(text: &str) -> impl Iterator<Item = &str> {
    let is_part = |character: char| character.is_alphanumeric() || "_-./".contains(character);
    text.split(move |character| !is_part(character))
        .map(|word| word.trim_end_matches(['.', '/']))
        .filter(|word| FOLDERS.iter().any(|folder| word.starts_with(folder)))
}

/// The targets of a text's links within the tree.
fn links(text: &str) -> impl Iterator<Item = &str> {
    text.split("](")
        .skip(1)
        .filter_map(|rest| rest.split([')', '#']).next())
        .filter(|target| !target.is_empty() && !target.contains("://"))
}

#[test]
fn every_path_that_a_page_names_exists() {
    let mut problems = Vec::new();
    for (page, text) in pages() {
        let folder = root().join(&page).parent().unwrap().to_owned();
        let is_there = |path: &&str| root().join(path).exists() || folder.join(path).exists();
        for path in paths(&text).filter(|path| !is_there(path)) {
            problems.push(format!("{page} names {path}, which does not exist"));
        }
        for target in links(&text).filter(|target| !folder.join(target).exists()) {
            problems.push(format!("{page} links to {target}, which does not exist"));
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

#[test]
fn the_architecture_page_is_short_and_walks_through_few_files() {
    let text = fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    assert!(text.len() <= ARCHITECTURE_LEN_MAX, "ARCHITECTURE.md has {} bytes", text.len());
    let walk = text.split("\n## ").find(|section| section.starts_with("A walk")).unwrap();
    let count = paths(walk).count();
    assert!(count > 0 && count <= WALK_FILES_MAX, "the walk names {count} files");
}

#[test]
fn paths_and_links_are_found() {
    let text = "See `engine/src/lib.rs`. Or client/c/, [that](docs/x.md#y) and [web](https://a.b/c); and/or.";
    assert_eq!(paths(text).collect::<Vec<_>>(), ["engine/src/lib.rs", "client/c", "docs/x.md"]);
    assert_eq!(links(text).collect::<Vec<_>>(), ["docs/x.md"]);
}
