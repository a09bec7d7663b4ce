//! Whether the chart's roles are enough and not more: what they grant against what the audit logs saw asked.

use std::collections::BTreeSet;
use std::fs;

use anyhow::{Result, ensure};
use e2e::Cluster;
use serde_json::Value;

use crate::ground::Ground;

/// The page whose table says why rights are granted that this test does not see used.
const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/security.md");
/// Heading of that table.
const HEADING: &str = "## Rights that the live test does not use";
const ACCOUNT: &str = "system:serviceaccount:tensile-system:tensile";
/// Whoever works below.
const LOWER: &str = "lower";

/// Who may or did do what: `virtual-node: patch pods/status`.
type Rights = BTreeSet<String>;

/// What the service accounts of a cluster asked for.
#[derive(Default)]
struct Asked {
    used: Rights,
    refused: Rights,
}

/// All rights that the release's roles and the roles of the lower clusters grant now.
pub(crate) async fn granted(ground: &Ground) -> Result<Rights> {
    let own = ["get", "clusterroles,roles", "-A", "-o", "json", "-l"];
    let of_release = "app.kubernetes.io/instance=tensile";
    let list: Value = serde_json::from_str(&ground.kubectl(&[&own[..], &[of_release]].concat()).await?)?;
    let roles = list["items"].as_array().into_iter().flatten();
    let mut rights: Rights = roles
        .flat_map(|role| {
            let labels = &role["metadata"]["labels"];
            of_role(
                labels["app.kubernetes.io/component"].as_str().unwrap_or_default(),
                role,
            )
        })
        .collect();
    let below = ["get", "clusterrole", "tensile-lower", "-o", "json"];
    let below = ground.lower[0].kubectl(&below).await?.ok()?;
    rights.extend(of_role(LOWER, &serde_json::from_str(&below)?));
    Ok(rights)
}

/// Compares all audit logs with what was granted and with what the docs say of the rest.
pub(crate) fn check(ground: &Ground, granted: &Rights) -> Result<()> {
    let mut asked = Asked::of(&ground.upper, |account| {
        // The test's own account may not do everything that doctor would like to try.
        account.strip_prefix('-').filter(|name| *name != "test")
    })?;
    for cluster in &ground.lower {
        let below = Asked::of(cluster, |account| account.is_empty().then_some(LOWER))?;
        asked.used.extend(below.used);
        asked.refused.extend(below.refused);
    }
    ensure!(
        asked.used.len() > 50,
        "the audit logs know little: {:#?}",
        asked.used
    );
    ensure!(asked.refused.is_empty(), "not allowed: {:#?}", asked.refused);
    let explained = explained(&fs::read_to_string(PAGE)?);
    let unused: Vec<&String> = granted
        .difference(&asked.used)
        .filter(|right| !is_test(right))
        .collect();
    let superfluous: Vec<_> = unused
        .iter()
        .filter(|right| !explained.contains(**right))
        .collect();
    ensure!(
        superfluous.is_empty(),
        "granted, not used, and not explained in docs/security.md: {superfluous:#?}"
    );
    let stale: Vec<_> = explained.difference(granted).collect();
    ensure!(
        stale.is_empty(),
        "explained in docs/security.md, but not granted: {stale:#?}"
    );
    Ok(())
}

fn is_test(right: &str) -> bool {
    right.starts_with("test: ")
}

fn of_role(who: &str, role: &Value) -> Vec<String> {
    let words = |rule: &Value, member: &str| -> Vec<String> {
        let words = rule[member].as_array().into_iter().flatten();
        words.filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let mut rights = Vec::new();
    for rule in role["rules"].as_array().into_iter().flatten() {
        for group in words(rule, "apiGroups") {
            for resource in words(rule, "resources") {
                let verbs = words(rule, "verbs");
                rights.extend(verbs.iter().map(|verb| right(who, verb, &resource, &group)));
            }
        }
    }
    rights
}

fn right(who: &str, verb: &str, resource: &str, group: &str) -> String {
    match group {
        "" => format!("{who}: {verb} {resource}"),
        group => format!("{who}: {verb} {resource} ({group})"),
    }
}

/// The rows of the table under [`HEADING`]: who, and one or several rights in backquotes.
fn explained(page: &str) -> Rights {
    let section = page.split(HEADING).nth(1).unwrap_or_default();
    let section = section.split("\n## ").next().unwrap_or_default();
    let rows = section.lines().filter_map(|line| line.strip_prefix("| "));
    rows.flat_map(|row| {
        let mut cells = row.split(" | ");
        let who = cells.next().unwrap_or_default().trim().to_owned();
        let rights = cells.next().unwrap_or_default().split('`').skip(1).step_by(2);
        rights
            .map(move |right| format!("{who}: {right}"))
            .collect::<Vec<_>>()
    })
    .collect()
}

// === impl Asked ===

impl Asked {
    /// Reads a cluster's audit log; `who` names an account by what follows the release's name, if it counts.
    fn of(cluster: &Cluster, who: impl Fn(&str) -> Option<&str>) -> Result<Self> {
        let mut asked = Self::default();
        for line in fs::read_to_string(cluster.audit_log())?.lines() {
            // The last line may still be written.
            let Ok(event) = serde_json::from_str::<Value>(line) else {
                continue;
            };
            let account = event["user"]["username"]
                .as_str()
                .and_then(|name| name.strip_prefix(ACCOUNT));
            if let Some(who) = account.and_then(&who) {
                asked.add(who, &event);
            }
        }
        Ok(asked)
    }

    fn add(&mut self, who: &str, event: &Value) {
        let object = &event["objectRef"];
        let text = |member: &str| object[member].as_str().unwrap_or_default();
        let resource = match text("subresource") {
            "" => text("resource").to_owned(),
            subresource => format!("{}/{subresource}", text("resource")),
        };
        let verb = event["verb"].as_str().unwrap_or_default();
        let right = right(who, verb, &resource, text("apiGroup"));
        if event["responseStatus"]["code"] == 403 {
            self.refused.insert(right);
            return;
        }
        if verb == "watch" {
            // API servers before 1.34 do not stream the list that a watch begins with.
            self.used.insert(right.replace(": watch ", ": list "));
        }
        self.used.insert(right);
    }
}

#[test]
fn the_table_is_read_by_who_and_right() {
    let page = format!(
        "{HEADING}\n\n| who | right | why |\n|---|---|---|\n| lower | `get a`, `list b (g)` | x |\n\n## Next\n| lower | `no` |\n"
    );
    let expected = ["lower: get a", "lower: list b (g)"].map(str::to_owned);
    assert_eq!(explained(&page), expected.into());
}

#[test]
fn a_role_is_every_combination_of_its_words() {
    let role =
        serde_json::json!({"rules": [{"apiGroups": ["g"], "resources": ["a", "b/c"], "verbs": ["get"]}]});
    assert_eq!(of_role("x", &role), ["x: get a (g)", "x: get b/c (g)"]);
}
