//! Secrets in, changes and problems out.

use std::collections::HashSet;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};

use super::config::tests::mk_kubeconfig;
use super::index::News;
use super::*;
use crate::key::Key;
use crate::watch::Change as WatchChange;

/// A Secret `name` for the cluster `id`; `created` orders them.
fn mk_secret(name: &str, id: &str, created: u32, extra: &Value) -> Secret {
    let data = |text: &str| BASE64.encode(text);
    let mut secret = json!({
        "metadata": {
            "namespace": "system", "name": name, "uid": format!("uid-{name}"),
            "creationTimestamp": format!("2026-01-01T00:00:{created:02}Z"),
            "labels": {"tensile.dev/cluster": id},
        },
        "data": {"kubeconfig": data(&mk_kubeconfig(&format!("https://{id}"), "token: t"))},
    });
    let mut extra = extra.clone();
    if let Some(map) = extra.get_mut("data").and_then(Value::as_object_mut) {
        for value in map.values_mut() {
            *value = json!(data(value.as_str().unwrap()));
        }
    }
    json_patch::merge(&mut secret, &extra);
    serde_json::from_value(secret).unwrap()
}

fn mk_index(secrets: impl IntoIterator<Item = Secret>) -> (Index, Vec<String>) {
    let mut index = Index::default();
    let mut live = HashSet::new();
    for secret in secrets {
        live.insert(Key::of(&secret));
        assert!(index.change(WatchChange::Apply(secret)).changes.is_empty());
    }
    let news = index.change(WatchChange::Reset(live));
    let said = said(&news);
    (index, said)
}

fn said(news: &News) -> Vec<String> {
    let changes = news.changes.iter().map(|change| match change {
        Change::Apply(config) => format!("apply {} {}", config.id, config.nodes[0].name),
        Change::Credentials(config) => format!("credentials {}", config.id),
        Change::Leave(config) => format!("leave {} abandon={}", config.id, config.abandon),
        Change::Remove(id) => format!("remove {id}"),
        Change::Synced => "synced".to_owned(),
    });
    let problems = news.problems.iter().map(|problem| {
        let message = problem.message.as_deref().unwrap_or("none");
        format!("problem {}: {message}", problem.secret.key.name)
    });
    changes.chain(problems).collect()
}

fn apply(index: &mut Index, secret: Secret) -> Vec<String> {
    said(&index.change(WatchChange::Apply(secret)))
}

#[test]
fn only_a_cluster_that_changed_is_told_of() {
    let (mut index, start) = mk_index([
        mk_secret("a", "a", 1, &json!({})),
        mk_secret("b", "b", 2, &json!({})),
    ]);
    assert_eq!(start, ["apply a a", "apply b b", "synced"]);
    let labels = json!({"metadata": {"labels": {"x": "y"}, "resourceVersion": "9"}});
    assert!(apply(&mut index, mk_secret("a", "a", 1, &labels)).is_empty());
    let rotated = json!({"data": {"kubeconfig": mk_kubeconfig("https://a", "token: other")}});
    assert_eq!(
        apply(&mut index, mk_secret("a", "a", 1, &rotated)),
        ["credentials a"]
    );
    let moved = json!({"data": {"kubeconfig": mk_kubeconfig("https://elsewhere", "token: t")}});
    assert_eq!(apply(&mut index, mk_secret("b", "b", 2, &moved)), ["apply b b"]);
    let gone = index.change(WatchChange::Delete(mk_secret("a", "a", 1, &json!({}))));
    assert_eq!(said(&gone), ["remove a"]);
}

#[test]
fn nonsense_is_told_once_and_disturbs_nobody_not_even_its_own_cluster() {
    let (mut index, _) = mk_index([
        mk_secret("a", "a", 1, &json!({})),
        mk_secret("b", "b", 2, &json!({})),
    ]);
    let mut told = json!({"data": {"nodes.yaml": "nodes: 3"}});
    let said = apply(&mut index, mk_secret("a", "a", 1, &told));
    assert_eq!(said.len(), 1);
    assert!(said[0].starts_with("problem a: key nodes.yaml: "), "{said:?}");
    let text = said[0].trim_start_matches("problem a: ");
    told["metadata"] = json!({"annotations": {"tensile.dev/problem": text}});
    assert!(apply(&mut index, mk_secret("a", "a", 1, &told)).is_empty());
    told["data"] = json!({});
    assert_eq!(
        apply(&mut index, mk_secret("a", "a", 1, &told)),
        ["problem a: none"]
    );
}

#[test]
fn an_id_belongs_to_the_secret_that_runs_or_else_to_the_older_one() {
    let (mut index, start) = mk_index([
        mk_secret("a2", "a", 2, &json!({})),
        mk_secret("a1", "a", 3, &json!({})),
    ]);
    assert_eq!(
        start,
        [
            "apply a a",
            "synced",
            "problem a1: label tensile.dev/cluster: \"a\" is the cluster of Secret system/a2 already; choose another id",
        ]
    );
    let older = apply(&mut index, mk_secret("a0", "a", 1, &json!({})));
    assert!(
        older.len() == 1 && older[0].starts_with("problem a0: "),
        "{older:?}"
    );
    let gone = index.change(WatchChange::Delete(mk_secret("a2", "a", 2, &json!({}))));
    let said = said(&gone);
    assert_eq!(said[..2], ["remove a", "apply a a"]);
    assert!(said[2].starts_with("problem a0: none"), "{said:?}");
}

#[test]
fn a_node_belongs_to_one_cluster() {
    let nodes = json!({"data": {"nodes.yaml": "nodes: [{name: shared}]"}});
    let (mut index, start) = mk_index([mk_secret("a", "a", 1, &nodes), mk_secret("b", "b", 2, &nodes)]);
    assert_eq!(start[..2], ["apply a shared", "synced"]);
    assert!(
        start[2].contains("virtual node \"shared\" belongs to cluster \"a\" already"),
        "{start:?}"
    );
    assert_eq!(
        apply(&mut index, mk_secret("a", "a", 1, &json!({}))),
        ["apply a a", "apply b shared", "problem b: none"]
    );
}

#[test]
fn a_cluster_leaves_when_its_secret_is_being_deleted_and_is_gone_with_it() {
    let (mut index, _) = mk_index([mk_secret("a", "a", 1, &json!({}))]);
    let mut leaving = json!({"metadata": {"deletionTimestamp": "2026-01-02T00:00:00Z"}});
    assert_eq!(
        apply(&mut index, mk_secret("a", "a", 1, &leaving)),
        ["leave a abandon=false"]
    );
    assert!(apply(&mut index, mk_secret("a", "a", 1, &leaving)).is_empty());
    leaving["metadata"]["annotations"] = json!({"tensile.dev/abandon": "true"});
    leaving["data"] = json!({"nodes.yaml": "nonsense"});
    let said = apply(&mut index, mk_secret("a", "a", 1, &leaving));
    assert_eq!(said[0], "leave a abandon=true");
    let (_, start) = mk_index([mk_secret(
        "b",
        "b",
        1,
        &json!({"metadata": {"deletionTimestamp": "2026-01-02T00:00:00Z"}}),
    )]);
    assert_eq!(start, ["apply b b", "leave b abandon=false", "synced"]);
}

#[test]
fn a_relist_removes_what_is_gone() {
    let (mut index, _) = mk_index([
        mk_secret("a", "a", 1, &json!({})),
        mk_secret("b", "b", 2, &json!({})),
    ]);
    let news = index.change(WatchChange::Reset(HashSet::from([Key::new("system", "b")])));
    assert_eq!(said(&news), ["remove a"]);
}
