//! Asks the webhook about pods as the API server does, and applies what it answers.

// Each test binary uses a part of this.
#![allow(dead_code)]

pub(crate) mod random;

use std::collections::BTreeSet;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tensile_core::names;
use tensile_webhook::mutate::{Namespace, Outcome, Rules, Surroundings, mutate};
use tensile_webhook::review::Review;
use tensile_webhook::tolerations::WhenUnreachable;

/// What the webhook knows, given by the test.
#[derive(Clone, Debug, Default)]
pub(crate) struct Known {
    pub(crate) namespace: Namespace,
    /// Avoided by every owner.
    pub(crate) avoided: Vec<String>,
}

impl Surroundings for Known {
    fn namespace(&self, _: &str) -> Namespace {
        self.namespace.clone()
    }
    fn any_avoided(&self) -> bool {
        !self.avoided.is_empty()
    }

    fn avoided(&self, _: &str) -> Vec<String> {
        self.avoided.clone()
    }
}

/// An answer with the pod as it is after it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Admitted {
    pub(crate) outcome: Outcome,
    pub(crate) pod: Value,
    pub(crate) patch: Vec<Value>,
    pub(crate) warnings: Vec<String>,
    pub(crate) denial: Option<String>,
}

pub(crate) fn mk_rules() -> Rules {
    Rules {
        ignored_keys: BTreeSet::from([names::CLUSTER_ID.to_owned()]),
        when_unreachable: WhenUnreachable::Evict,
        system_namespace: names::SYSTEM_NAMESPACE.to_owned(),
        scheduler_name: None,
    }
}

/// A pod that takes part, owned by a ReplicaSet.
pub(crate) fn mk_pod(spec: &Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "generateName": "web-", "labels": {"app": "web", names::VIRTUAL_POD: "true"},
            "ownerReferences": [
                {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web", "uid": "owner", "controller": true}],
        },
        "spec": spec,
    })
}

pub(crate) fn mk_review(pod: &Value) -> Value {
    json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {
        "uid": "7f0b2891-916f-4ed6-b7cd-27bff1815a8c",
        "kind": {"group": "", "version": "v1", "kind": "Pod"},
        "resource": {"group": "", "version": "v1", "resource": "pods"},
        "namespace": "default", "operation": "CREATE", "object": pod}})
}

/// Asks about a pod.
pub(crate) fn admit(pod: &Value, rules: &Rules, known: &Known) -> Admitted {
    admit_review(&mk_review(pod), rules, known)
}

/// Asks, encodes and decodes the answer, and applies its patch.
pub(crate) fn admit_review(review: &Value, rules: &Rules, known: &Known) -> Admitted {
    let body = serde_json::to_vec(review).unwrap();
    let parsed = Review::parse(&body).unwrap();
    let (outcome, answer) = mutate(parsed.request().unwrap(), rules, known);
    let answer: Value = serde_json::from_slice(&parsed.answer(&answer.encode().unwrap()).unwrap()).unwrap();
    let response = &answer["response"];
    let patch = response["patch"]
        .as_str()
        .map_or_else(Vec::new, |text| STANDARD.decode(text).unwrap());
    let patch: json_patch::Patch = if patch.is_empty() {
        json_patch::Patch::default()
    } else {
        serde_json::from_slice(&patch).unwrap()
    };
    let mut pod = review["request"]["object"].clone();
    json_patch::patch(&mut pod, &patch).unwrap();
    let patch = patch
        .0
        .iter()
        .map(|operation| serde_json::to_value(operation).unwrap())
        .collect();
    let warnings = serde_json::from_value(response["warnings"].clone()).unwrap_or_default();
    let denial = response["status"]["message"].as_str().map(str::to_owned);
    assert_eq!(response["allowed"], denial.is_none());
    Admitted {
        outcome,
        pod,
        patch,
        warnings,
        denial,
    }
}

/// The stash that a pod carries.
pub(crate) fn stash_of(pod: &Value) -> Value {
    let text = pod["metadata"]["annotations"][names::CLUSTER_SELECTOR]
        .as_str()
        .expect("a stash");
    serde_json::from_str(text).expect("JSON")
}
