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
pub(crate) type Rights = BTreeSet<String>;

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

/// How far the audit logs have come, in bytes.
#[derive(Default)]
pub(crate) struct Mark([usize; 3]);

/// No request since the mark was refused for want of a right. While a release is removed its roles go before its pods, so
/// this is asked before.
pub(crate) fn are_enough(ground: &Ground, mark: &Mark) -> Result<()> {
    let refused = asked(ground, mark)?.refused;
    ensure!(refused.is_empty(), "not allowed: {refused:#?}");
    Ok(())
}

/// Every right that was granted has been used, or the docs say why it is there.
pub(crate) fn are_not_more(ground: &Ground, granted: &Rights) -> Result<()> {
    let used = asked(ground, &Mark::default())?.used;
    ensure!(used.len() > 50, "the audit logs know little: {used:#?}");
    let explained = explained(&fs::read_to_string(PAGE)?);
    let superfluous: Vec<_> = granted
        .difference(&used)
        .filter(|right| !explained.contains(*right))
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

/// What all accounts asked for since the mark.
fn asked(ground: &Ground, mark: &Mark) -> Result<Asked> {
    let [upper, a, b] = mark.0;
    let mut asked = Asked::of(&ground.upper, upper, |account| account.strip_prefix('-'))?;
    // The test's own account may not do everything that doctor would like to try.
    asked.refused.retain(|right| !right.starts_with("test: "));
    for (cluster, mark) in ground.lower.iter().zip([a, b]) {
        let below = Asked::of(cluster, mark, |account| account.is_empty().then_some(LOWER))?;
        asked.used.extend(below.used);
        asked.refused.extend(below.refused);
    }
    Ok(asked)
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

// === impl Mark ===

impl Mark {
    pub(crate) fn now(ground: &Ground) -> Result<Self> {
        let [a, b] = &ground.lower;
        let length =
            |cluster: &Cluster| Ok::<_, anyhow::Error>(fs::read_to_string(cluster.audit_log())?.len());
        Ok(Self([length(&ground.upper)?, length(a)?, length(b)?]))
    }
}

// === impl Asked ===

impl Asked {
    /// Reads a cluster's audit log from a byte on; `who` names an account by what follows the release's name, if it counts.
    fn of(cluster: &Cluster, from: usize, who: impl Fn(&str) -> Option<&str>) -> Result<Self> {
        let mut asked = Self::default();
        let log = fs::read_to_string(cluster.audit_log())?;
        for line in log.get(from..).unwrap_or_default().lines() {
            // The first and the last line may be half ones.
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
