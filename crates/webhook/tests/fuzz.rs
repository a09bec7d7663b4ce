//! Fuzzing of review and stash decoding: mutated bytes in, never a panic, and never a patch that does not apply.
//!
//! Runs for two seconds in an ordinary test run. Longer, from another start:
//! `TENSILE_FUZZ_SECONDS=3600 TENSILE_FUZZ_SEED=7 cargo test -p tensile-webhook --release --test fuzz`.
//! A failing input is printed in full.

mod support;

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::random::Random;
use support::{Known, mk_pod, mk_review, mk_rules};
use tensile_core::labels::Labels;
use tensile_core::names;
use tensile_core::stash::{Constraints, Stash, lower_constraints, split};
use tensile_webhook::memo::Memo;
use tensile_webhook::mutate::{Namespace, Outcome, mutate};
use tensile_webhook::review::Review;

/// What mutations insert: JSON's own tokens, words that decisions look for, and numbers at limits.
const TOKENS: [&str; 30] = [
    "{",
    "}",
    "[",
    "]",
    ",",
    ":",
    "\"",
    "null",
    "true",
    "-1",
    "1e999",
    "9223372036854775808",
    "\\u0000",
    "\\ud800",
    "{}",
    "[]",
    "\"\"",
    "\"In\"",
    "\"Exists\"",
    "\"Gt\"",
    "\"clusterID\"",
    "\"metadata.name\"",
    "\"matchFields\"",
    "\"kubernetes.io/hostname\"",
    "\"nodeSelectorTerms\"",
    "\"topologyKey\"",
    "\"operator\"",
    "\"tolerationSeconds\"",
    "\"clusterSelector\"",
    "\"values\"",
];

/// Runs `target` on mutations of `corpus` until the time is over.
fn fuzz(corpus: &[Vec<u8>], target: impl Fn(&[u8]) -> bool) {
    let number = |name: &str, default: u64| {
        std::env::var(name)
            .ok()
            .and_then(|text| text.parse().ok())
            .unwrap_or(default)
    };
    let mut random = Random(number("TENSILE_FUZZ_SEED", 1));
    let end = Instant::now() + Duration::from_secs(number("TENSILE_FUZZ_SECONDS", 2));
    let (mut runs, mut understood) = (0_u64, 0_u64);
    while Instant::now() < end {
        let mut input = random.pick(corpus).clone();
        for _ in 0..random.below(6) {
            mutate_bytes(&mut input, corpus, &mut random);
        }
        match catch_unwind(AssertUnwindSafe(|| target(&input))) {
            Ok(read) => understood += u64::from(read),
            Err(panic) => {
                eprintln!("input: {}\nas bytes: {input:?}", String::from_utf8_lossy(&input));
                resume_unwind(panic);
            }
        }
        runs += 1;
    }
    println!("{runs} inputs, {understood} of them understood");
    assert!(
        understood > runs / 20 && understood < runs,
        "{understood} of {runs}: the mutations are too tame or too wild"
    );
}

fn mutate_bytes(input: &mut Vec<u8>, corpus: &[Vec<u8>], random: &mut Random) {
    let at = random.below(input.len() + 1);
    let end = (at + random.below(40)).min(input.len());
    match random.below(7) {
        0 => {
            if let Some(byte) = input.get_mut(at) {
                *byte ^= 1 << random.below(8);
            }
        }
        1 => drop(input.drain(at..end)),
        2 => drop(input.splice(at..at, input[at..end].to_vec())),
        3 => input.truncate(at),
        4 => {
            // A value that begins here becomes another one: what is left often stays JSON.
            let stop = input[at..]
                .iter()
                .position(|byte| b",}]".contains(byte))
                .map_or(at, |found| at + found);
            let start = input[..at]
                .iter()
                .rposition(|byte| b":[,".contains(byte))
                .map_or(at, |found| found + 1);
            input.splice(start..stop, random.pick(&TOKENS).bytes());
        }
        5 => drop(input.splice(at..at, random.pick(&TOKENS).bytes())),
        _ => {
            let other = random.pick(corpus);
            let from = random.below(other.len() + 1);
            let to = (from + random.below(200)).min(other.len());
            input.splice(at..end, other[from..to].iter().copied());
        }
    }
}

fn mk_specs() -> impl Iterator<Item = Value> {
    let apart = json!([{"topologyKey": names::HOSTNAME, "labelSelector": {"matchLabels": {"a": "b"}}}]);
    let wish = json!([{"weight": 1, "podAffinityTerm": apart[0]}]);
    let hosts = json!({
        "affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": apart,
            "preferredDuringSchedulingIgnoredDuringExecution": wish}},
        "topologySpreadConstraints": apart,
    });
    (0..40).map(|seed| Random(seed).spec()).chain([hosts])
}

#[test]
fn no_review_makes_it_panic_and_each_patch_applies_once() {
    let corpus: Vec<Vec<u8>> = mk_specs()
        .zip(0..)
        .map(|(spec, index)| {
            let mut pod = mk_pod(&spec);
            pod["metadata"]["annotations"] = match index % 3 {
                0 => Value::Null,
                1 => json!({names::WHEN_UNREACHABLE: "stay", names::AVOIDED_NODES: "v,w"}),
                _ => json!({names::CLUSTER_SELECTOR: Random(index).spec().to_string()}),
            };
            mk_review(&pod).to_string().into_bytes()
        })
        .collect();
    let namespace = Namespace {
        virtual_pods: true,
        when_unreachable: Some("stay".to_owned()),
    };
    let known = Known {
        namespace,
        avoided: vec!["v".to_owned()],
    };
    let proper = proper_keys(&corpus);
    let memo = Memo::new(mk_rules());
    fuzz(&corpus, |body| admit(body, &known, &memo, &proper));
}

/// The keys of the corpus, each by its lower case.
fn proper_keys(corpus: &[Vec<u8>]) -> HashMap<String, String> {
    fn collect(value: &Value, into: &mut HashMap<String, String>) {
        match value {
            Value::Object(map) => map.iter().for_each(|(key, value)| {
                into.insert(key.to_lowercase(), key.clone());
                collect(value, into);
            }),
            Value::Array(items) => items.iter().for_each(|item| collect(item, into)),
            _ => {}
        }
    }
    let mut keys = HashMap::new();
    for body in corpus {
        collect(&serde_json::from_slice(body).unwrap(), &mut keys);
    }
    keys
}

/// Whether a key differs from a proper one by its case alone. An API server drops such before it asks; in a stash
/// they count, as they did for tensile-kube.
fn has_odd_case(value: &Value, proper: &HashMap<String, String>) -> bool {
    match value {
        Value::Object(map) => map.iter().any(|(key, value)| {
            proper
                .get(&key.to_lowercase())
                .is_some_and(|proper| proper != key)
                || has_odd_case(value, proper)
        }),
        Value::Array(items) => items.iter().any(|item| has_odd_case(item, proper)),
        _ => false,
    }
}

/// Returns whether the body was a review that led to a patch.
fn admit(body: &[u8], known: &Known, memo: &Memo, proper: &HashMap<String, String>) -> bool {
    let rules = mk_rules();
    let Ok(review) = Review::parse(body) else {
        return false;
    };
    let Ok(request) = review.request() else {
        return false;
    };
    let (outcome, answer) = mutate(request, &rules, known);
    let remembered = memo.decide(request, known).unwrap();
    let encoded = answer.clone().encode().unwrap();
    let [remembered_body, body_anew] =
        [&remembered.answer, &encoded].map(|answer| review.answer(answer).unwrap());
    assert_eq!(
        (remembered.outcome, remembered_body),
        (outcome, body_anew.clone())
    );
    serde_json::from_slice::<Value>(&body_anew).unwrap();
    if outcome != Outcome::Patched {
        return false;
    }
    // Members that we pass over may be broken in ways that only a full decoder minds.
    let Ok(mut body) = serde_json::from_slice::<Value>(body) else {
        return false;
    };
    let odd = has_odd_case(&body["request"]["object"]["spec"], proper);
    json_patch::patch(&mut body["request"]["object"], &answer.patch).unwrap();
    if odd {
        return true;
    }
    lower_constraints(
        &body["request"]["object"],
        &Labels::default(),
        &rules.ignored_keys,
    )
    .unwrap();
    let pod = &body["request"]["object"];
    let text = pod["metadata"]["annotations"][names::CLUSTER_SELECTOR]
        .as_str()
        .unwrap();
    let read = Stash::decode(text).unwrap().unwrap().encode();
    let [text, read] = [text, &read].map(|text| serde_json::from_str::<Value>(text).unwrap());
    if text != read {
        // A hand-written annotation with empty members or keys in another case: read, but not ours to rewrite.
        return true;
    }
    let patched = body.to_string();
    let review = Review::parse(patched.as_bytes()).unwrap();
    let (outcome, again) = mutate(review.request().unwrap(), &rules, known);
    assert_eq!(
        (outcome, again.patch),
        (Outcome::Unchanged, Vec::new()),
        "twice is once: {patched}"
    );
    true
}

#[test]
fn no_annotation_makes_it_panic_and_what_is_read_is_kept() {
    let mut corpus: Vec<Vec<u8>> = mk_specs().map(|spec| spec.to_string().into_bytes()).collect();
    corpus.push(b"null".to_vec());
    corpus.push(br#"{"NODESELECTOR": {"a": "b"}, "future": [1]}"#.to_vec());
    let pods: Vec<Constraints> = mk_specs().map(|spec| Constraints::of_spec(&spec)).collect();
    let ignored = mk_rules().ignored_keys;
    fuzz(&corpus, |bytes| {
        let Ok(text) = std::str::from_utf8(bytes) else {
            return false;
        };
        let Ok(Some(stash)) = Stash::decode(text) else {
            return false;
        };
        assert_eq!(
            Stash::decode(&stash.encode()).unwrap().as_ref(),
            Some(&stash),
            "read as written"
        );
        let pod = &pods[bytes.len() % pods.len()];
        if let Ok(done) = split(pod.clone(), Some(stash), &ignored, |_| false) {
            let again = split(done.upper.clone(), Some(done.stash.clone()), &ignored, |_| false).unwrap();
            assert_eq!(again, done, "twice is once");
        }
        true
    });
}
