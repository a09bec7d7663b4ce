//! The rules of the house that no compiler checks: which crate may know which, and how long files may get.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

/// The arrows of the design: each crate and the crates of ours that it may depend on, in any way.
///
/// A crate that is not listed is not allowed. `e2e` runs everything, so it alone may use all others.
const ARROWS: [(&str, &[&str]); 10] = [
    ("tensile-core", &[]),
    ("tensile-runtime", &["tensile-core"]),
    ("tensile-placement", &["tensile-core"]),
    ("tensile-kubelet-api", &["tensile-core", "tensile-runtime"]),
    (
        "tensile-virtual-node",
        &["tensile-core", "tensile-runtime", "tensile-kubelet-api"],
    ),
    ("tensile-webhook", &["tensile-core", "tensile-runtime"]),
    (
        "tensile-world",
        &["tensile-core", "tensile-runtime", "tensile-placement"],
    ),
    (
        "tensile-descheduler",
        &[
            "tensile-core",
            "tensile-runtime",
            "tensile-placement",
            "tensile-world",
        ],
    ),
    (
        "tensile-scheduler-extender",
        &[
            "tensile-core",
            "tensile-runtime",
            "tensile-placement",
            "tensile-world",
        ],
    ),
    (
        "tensile-cli",
        &[
            "tensile-core",
            "tensile-runtime",
            "tensile-placement",
            "tensile-world",
        ],
    ),
];

/// The crate that may use all others.
const EVERYTHING: &str = "e2e";

/// Crates without I/O, and what would bring it in, at any depth.
const PURE: [&str; 2] = ["tensile-core", "tensile-placement"];
const IMPURE: [&str; 4] = ["tokio", "kube", "k8s-openapi", "hyper"];

/// Longest file in lines, tests aside.
const MAX_FILE: usize = 600;
/// Longest `main.rs` in lines.
const MAX_MAIN: usize = 30;

/// An edge between two crates of this workspace.
#[derive(Debug, PartialEq, Eq)]
struct Edge {
    from: String,
    to: String,
}

fn root() -> &'static Path {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().expect("e2e lies in the workspace")
}

fn cargo(args: &[&str]) -> String {
    let output = Command::new(env!("CARGO"))
        .args(args)
        .current_dir(root())
        .output()
        .expect("cargo runs");
    assert!(
        output.status.success(),
        "cargo {args:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).expect("cargo prints UTF-8")
}

fn metadata() -> Value {
    let text = cargo(&["metadata", "--no-deps", "--format-version", "1"]);
    serde_json::from_str(&text).expect("cargo prints JSON")
}

fn names(list: &Value) -> Vec<&str> {
    let objects = list.as_array().expect("a list").iter();
    objects
        .map(|object| object["name"].as_str().expect("a name"))
        .collect()
}

/// Every dependency between members of the workspace: normal, for tests and for builds.
fn edges(metadata: &Value) -> Vec<Edge> {
    let packages = metadata["packages"].as_array().expect("a list of packages");
    let members = names(&metadata["packages"]);
    let edge = |from: &Value, to: &str| Edge {
        from: from["name"].as_str().unwrap_or_default().to_owned(),
        to: to.to_owned(),
    };
    packages
        .iter()
        .flat_map(|package| {
            let within = names(&package["dependencies"])
                .into_iter()
                .filter(|to| members.contains(to));
            within.map(move |to| edge(package, to))
        })
        .collect()
}

fn is_allowed(edge: &Edge) -> bool {
    let targets = ARROWS.iter().find(|(from, _)| *from == edge.from);
    edge.from == EVERYTHING || targets.is_some_and(|(_, targets)| targets.contains(&edge.to.as_str()))
}

/// All Rust files below the crates' folders.
fn source_files() -> Vec<PathBuf> {
    let mut folders = vec![root().join("crates"), root().join(EVERYTHING)];
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a readable folder") {
            let path = entry.expect("a readable entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    files
}

fn is_test_file(path: &Path) -> bool {
    let below_root = path.strip_prefix(root()).unwrap_or(path);
    let in_folder = below_root.iter().any(|part| part == "tests" || part == "benches");
    in_folder || path.file_name().is_some_and(|name| name == "tests.rs")
}

/// Lines of a file without the items that are compiled for tests only.
///
/// Relies on rustfmt: such an item starts at the first column and ends with a line that ends in `;`, or with a
/// closing brace in the first column.
fn lines_without_tests(source: &str) -> usize {
    let mut lines = source.lines();
    let mut count = 0;
    while let Some(line) = lines.next() {
        if line.starts_with("#[cfg(test)]") {
            let _item = lines.find(|line| line.ends_with(';') && !line.starts_with(' ') || *line == "}");
        } else {
            count += 1;
        }
    }
    count
}

/// The files longer than `limit`, as `path: lines`.
fn too_long(files: &[PathBuf], limit: usize) -> Vec<String> {
    let lines = |path: &PathBuf| lines_without_tests(&fs::read_to_string(path).expect("a readable file"));
    files
        .iter()
        .map(|path| (path, lines(path)))
        .filter(|(_, lines)| *lines > limit)
        .map(|(path, lines)| format!("{}: {lines}", path.display()))
        .collect()
}

#[test]
fn crates_know_only_the_crates_that_the_design_lets_them_know() {
    let metadata = metadata();
    let forbidden: Vec<_> = edges(&metadata)
        .into_iter()
        .filter(|edge| !is_allowed(edge))
        .collect();
    assert!(forbidden.is_empty(), "forbidden arrows: {forbidden:#?}");
    let unknown: Vec<_> = names(&metadata["packages"])
        .into_iter()
        .filter(|name| *name != EVERYTHING && !ARROWS.iter().any(|(known, _)| known == name))
        .collect();
    assert!(
        unknown.is_empty(),
        "crates without a place in ARROWS: {unknown:?}"
    );
}

#[test]
fn a_back_arrow_an_arrow_across_and_one_of_an_unknown_crate_are_forbidden() {
    let edge = |from: &str, to: &str| Edge {
        from: from.to_owned(),
        to: to.to_owned(),
    };
    for (from, to) in [
        ("tensile-core", "tensile-runtime"),
        ("tensile-webhook", "tensile-virtual-node"),
        ("tensile-runtime", "tensile-placement"),
        ("tensile-virtual-node", "e2e"),
        ("tensile-new", "tensile-core"),
    ] {
        assert!(!is_allowed(&edge(from, to)), "{from} -> {to}");
    }
    let found = edges(&metadata());
    assert!(
        found.contains(&edge("tensile-virtual-node", "tensile-kubelet-api")),
        "{found:?}"
    );
}

#[test]
fn pure_crates_bring_in_no_runtime_and_no_client() {
    for package in PURE {
        let tree = cargo(&[
            "tree",
            "--package",
            package,
            "--edges",
            "normal,build",
            "--prefix",
            "none",
        ]);
        assert!(
            tree.contains("serde_json v"),
            "{package} has another tree than thought:\n{tree}"
        );
        let impure: Vec<_> = tree
            .lines()
            .filter(|line| line.split(' ').next().is_some_and(|name| IMPURE.contains(&name)))
            .collect();
        assert!(impure.is_empty(), "{package} is not pure: {impure:?}");
    }
}

#[test]
fn no_file_is_longer_than_a_reader_can_hold() {
    let files: Vec<_> = source_files()
        .into_iter()
        .filter(|path| !is_test_file(path))
        .collect();
    let (mains, others): (Vec<_>, Vec<_>) = files
        .into_iter()
        .partition(|path| path.file_name().is_some_and(|name| name == "main.rs"));
    assert!(!mains.is_empty() && !others.is_empty(), "no files found");
    let (long, long_mains) = (too_long(&others, MAX_FILE), too_long(&mains, MAX_MAIN));
    assert!(long.is_empty(), "over {MAX_FILE} lines without tests: {long:#?}");
    assert!(long_mains.is_empty(), "over {MAX_MAIN} lines: {long_mains:#?}");
}

#[test]
fn lines_of_tests_do_not_count() {
    let source = "//! Doc.\n\nfn one() {}\n\n#[cfg(test)]\nmod testing;\n\nfn two() {\n    three();\n}\n\n\
                  #[cfg(test)]\nmod tests {\n    use super::*;\n\n    fn four() {\n    }\n}\n";
    assert_eq!(lines_without_tests(source), 9);
    assert!(is_test_file(&root().join("crates/core/src/stash/tests.rs")));
    assert!(is_test_file(&root().join("crates/core/src/status/tests/rows.rs")));
    assert!(!is_test_file(&root().join("crates/core/src/stash/mod.rs")));
}
