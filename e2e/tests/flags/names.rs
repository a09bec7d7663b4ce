//! The operations page names every metric, alert and event reason, and none that does not exist.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
const PAGE: &str = "docs/operations.md";
const ALERTS: &str = "charts/tensile/templates/monitoring/alerts.yaml";
/// What stands before the literal of a reason.
const BEFORE_REASONS: [&str; 4] = ["=> ", "reason: ", "true, ", "false, "];
/// Constants that hold reasons have one of these words in their names.
const REASON_CONSTANTS: [&str; 4] = ["REASON", "UNREACHABLE", "PROBLEM", "NAME"];
/// Literals in such places that are no reasons: kinds, operators, Kubernetes' own, labels of a metric.
const NO_REASONS: [&str; 9] = [
    "ConfigMap",
    "EndpointSlice",
    "PersistentVolumeClaim",
    "DoesNotExist",
    "NotIn",
    "ContainerStatusUnknown",
    "FitsNowhere",
    "MovedBefore",
    "NoRoom",
];
/// These metrics have a name that the code puts together: this and a literal.
const PREFIXES: [&str; 2] = ["tensile_kubelet_", "tensile_server_"];

/// Paths of the Rust files of all components.
fn sources(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut files = Vec::new();
    for path in entries {
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        if path.is_dir() && name != "tests" && name != "benches" {
            files.extend(sources(&path));
        } else if name.ends_with(".rs") && !name.contains("test") {
            files.push(path);
        }
    }
    files
}

/// String literals that are single words, each with what stands before it on its line; tests are left out.
fn literals() -> Vec<(String, String)> {
    let mut found = Vec::new();
    for file in sources(&Path::new(ROOT).join("crates")) {
        let text = fs::read_to_string(file).unwrap();
        let code = text.split("#[cfg(test)]").next().unwrap_or_default();
        for line in code.lines().filter(|line| !line.trim_start().starts_with("//")) {
            let mut before = String::new();
            for (index, part) in line.split('"').enumerate() {
                let is_word = |part: &str| part.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
                if index % 2 == 1 && is_word(part) {
                    found.push((before.clone(), part.to_owned()));
                }
                before = part.to_owned();
            }
        }
    }
    found
}

/// Two words or more, written together: `ForeignNamesake`.
fn is_camel_case(text: &str) -> bool {
    let humps = text.chars().filter(char::is_ascii_uppercase).count();
    humps > 1 && humps < text.len() && text.starts_with(|c: char| c.is_ascii_uppercase())
}

fn is_reason(before: &str, literal: &str) -> bool {
    let is_constant = before.contains("const ")
        && before.ends_with("&str = ")
        && REASON_CONSTANTS.iter().any(|word| before.contains(word));
    let is_there = BEFORE_REASONS.iter().any(|prefix| before.ends_with(prefix));
    (is_constant || is_there) && is_camel_case(literal) && !NO_REASONS.contains(&literal)
}

/// The words in backquotes of the first column of a section's table; labels in braces are left out.
fn documented(heading: &str) -> BTreeSet<String> {
    let page = fs::read_to_string(Path::new(ROOT).join(PAGE)).unwrap();
    let section = page.split(&format!("\n## {heading}\n")).nth(1).unwrap();
    let section = section.split("\n## ").next().unwrap_or_default();
    let cells = section
        .lines()
        .filter_map(|line| line.strip_prefix("| ")?.split(" | ").next());
    let words = cells.flat_map(|cell| cell.split('`').skip(1).step_by(2));
    words
        .map(|word| word.split('{').next().unwrap_or_default().to_owned())
        .collect()
}

#[test]
fn every_metric_is_documented() {
    let literals: BTreeSet<String> = literals().into_iter().map(|(_, literal)| literal).collect();
    let documented = documented("Metrics");
    let is_metric = |name: &&String| {
        let of_its_own = !PREFIXES.iter().any(|prefix| name == prefix);
        name.starts_with("tensile_") && of_its_own
    };
    let missing: Vec<_> = literals
        .iter()
        .filter(is_metric)
        .filter(|name| !documented.contains(*name))
        .collect();
    assert!(missing.is_empty(), "{PAGE} does not name {missing:?}");
    let exists = |name: &String| {
        let rest = PREFIXES.iter().find_map(|prefix| name.strip_prefix(prefix));
        literals.contains(name) || rest.is_some_and(|rest| literals.contains(rest))
    };
    let gone: Vec<_> = documented.iter().filter(|name| !exists(name)).collect();
    assert!(
        gone.is_empty() && documented.len() > 20,
        "{PAGE} names {gone:?}, which do not exist"
    );
}

#[test]
fn every_alert_is_documented() {
    let alerts = fs::read_to_string(Path::new(ROOT).join(ALERTS)).unwrap();
    let alerts = alerts
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- alert: "));
    assert_eq!(documented("Alerts"), alerts.map(str::to_owned).collect());
}

#[test]
fn every_event_reason_is_documented() {
    let reasons: BTreeSet<String> = literals()
        .into_iter()
        .filter(|(before, literal)| is_reason(before, literal))
        .map(|(_, literal)| literal)
        .collect();
    assert!(reasons.len() > 10, "{reasons:?}");
    let documented = documented("Event reasons");
    let missing: Vec<_> = reasons.difference(&documented).collect();
    assert!(
        missing.is_empty(),
        "{PAGE} does not say what to do about {missing:?}"
    );
    let all: BTreeSet<String> = literals().into_iter().map(|(_, literal)| literal).collect();
    let gone: Vec<_> = documented.difference(&all).collect();
    assert!(gone.is_empty(), "{PAGE} names {gone:?}, which do not exist");
}
