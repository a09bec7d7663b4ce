//! Quantities against the truth: what a real API server makes of them.
//!
//! It rounds resource lists up to thousandths. What that leaves as it is, and fits its fast path, comes back as
//! it was written; everything else comes back in canonical form.

use anyhow::{Context, Result};
use e2e::{Cluster, ClusterSpec, TestResult, support};
use k8s_openapi::api::core::v1::ResourceQuota;
use kube::Api;
use serde_json::{Map, Value, json};
use tensile_core::quantity::{Format, Quantity};

const CASES: usize = 1000;
/// One thousandth.
const NANOS_PER_MILLI: i128 = 1_000_000;
/// Knuth's MMIX generator: the cases differ from each other and are the same in every run.
const MULTIPLIER: u64 = 6_364_136_223_846_793_005;
const INCREMENT: u64 = 1_442_695_040_888_963_407;
const SUFFIXES: [&str; 17] = [
    "", "n", "u", "m", "k", "M", "G", "T", "P", "E", "Ki", "Mi", "Gi", "Ti", "Pi", "e3", "E-2",
];

/// Figures of a quota that need not be whole numbers.
const FIGURES: [&str; 9] = [
    "cpu",
    "memory",
    "ephemeral-storage",
    "requests.cpu",
    "requests.memory",
    "requests.ephemeral-storage",
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
];

/// How many of [`SUFFIXES`] make nothing larger.
const SMALL_SUFFIXES: usize = 4;

struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(MULTIPLIER).wrapping_add(INCREMENT);
        (self.0 >> 33) % bound
    }

    /// A number of up to `digits` digits; short ones are as likely as long ones.
    fn digits(&mut self, digits: u64) -> String {
        let length = self.below(digits) + 1;
        (0..length)
            .map(|_| char::from(b'0' + u8::try_from(self.below(10)).unwrap_or(0)))
            .collect()
    }

    fn quantity(&mut self) -> String {
        let sign = if self.below(4) == 0 { "+" } else { "" };
        let (number, suffixes) = match self.below(4) {
            0 => (format!("{}.", self.digits(6)), SUFFIXES.len()),
            1 => (format!(".{}", self.digits(12)), SUFFIXES.len()),
            2 => (format!("{}.{}", self.digits(6), self.digits(12)), SUFFIXES.len()),
            // With larger suffixes it would be beyond 2^63, where both sides only cap.
            _ => (self.digits(18), SMALL_SUFFIXES),
        };
        let suffix = SUFFIXES[usize::try_from(self.below(suffixes as u64)).unwrap_or(0)];
        format!("{sign}{number}{suffix}")
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_random_quantities_are_printed_as_the_api_server_prints_them() -> TestResult {
    let cluster = Cluster::start(
        ClusterSpec::new("quantity")
            .without_scheduler()
            .without_controller_manager(),
    )
    .await?;
    let quotas: Api<ResourceQuota> = Api::namespaced(cluster.client().await?, "default");
    let mut random = Random(36);
    let given: Vec<String> = (0..CASES).map(|_| random.quantity()).collect();
    let (mut wrong, mut canonical) = (Vec::new(), 0);
    for texts in given.chunks(FIGURES.len()) {
        for (text, theirs) in texts.iter().zip(answered(&quotas, texts).await?) {
            canonical += usize::from(*text != theirs);
            if !agree(text, &theirs)? {
                wrong.push(format!(
                    "{text}: the API server says {theirs}, we say {:?}",
                    text.parse::<Quantity>()
                ));
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "{} of {CASES} differ:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
    assert!(
        canonical > CASES / 4,
        "only {canonical} of {CASES} came back in another form: too few to tell"
    );
    Ok(())
}

/// Whether `theirs` is what we would have made of `given`: the same value, in the form that we print.
fn agree(given: &str, theirs: &str) -> Result<bool> {
    let (ours, parsed): (Quantity, Quantity) = (given.parse()?, theirs.parse()?);
    let rounded = ours.nanos() + (-ours.nanos()).rem_euclid(NANOS_PER_MILLI);
    if ours.nanos() == rounded {
        return Ok(theirs == given || theirs == ours.to_string());
    }
    // A binary fraction is printed in decimal, and without a suffix the family cannot be told.
    let same_family = parsed.format() == ours.format()
        || ours.format() == Format::BinarySi
        || theirs.bytes().all(|byte| byte.is_ascii_digit());
    Ok(parsed.nanos() == rounded && parsed.to_string() == theirs && same_family)
}

/// What the API server makes of `texts`, one figure of a quota each.
async fn answered(quotas: &Api<ResourceQuota>, texts: &[String]) -> Result<Vec<String>> {
    let hard: Map<String, Value> = FIGURES
        .iter()
        .zip(texts)
        .map(|(figure, text)| ((*figure).to_owned(), json!(text)))
        .collect();
    let quota = serde_json::from_value(json!({"metadata": {"name": "q"}, "spec": {"hard": hard}}))?;
    let answer = support::dry_run(quotas, &quota).await?;
    let answered = answer
        .spec
        .and_then(|spec| spec.hard)
        .context("the answer has no figures")?;
    let figures = FIGURES.iter().take(texts.len());
    figures
        .map(|figure| Ok(answered.get(*figure).context("a figure is missing")?.0.clone()))
        .collect()
}
