//! Series of several kubelets as one text, with other names for the pods: what `/metrics/cadvisor` is made of.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::exposition::Sample;
use crate::render::resource::escape;

/// Families by name: their comments, and the samples of all texts.
#[derive(Debug, Default)]
pub struct Merged {
    families: BTreeMap<String, Family>,
}

#[derive(Debug, Default)]
struct Family {
    comments: String,
    samples: String,
}

// === impl Merged ===

impl Merged {
    /// Adds the samples of `text` that belong to a pod for which `rename` (by namespace and name) has other names.
    /// What belongs to no pod, such as the machine, is left out.
    pub fn add(&mut self, text: &str, rename: impl Fn(&str, &str) -> Option<(String, String)>) {
        let (mut family, mut comments) = ("", String::new());
        for line in text.lines() {
            if let Some(name) = commented(line) {
                if name != family {
                    (family, comments) = (name, String::new());
                }
                comments.push_str(line);
                comments.push('\n');
                continue;
            }
            let Some(sample) = Sample::parse(line) else {
                continue;
            };
            let Some(names) = rename(sample.label("namespace"), sample.label("pod")) else {
                continue;
            };
            let known = sample.name.starts_with(family) && !family.is_empty();
            let name = if known { family } else { sample.name };
            let entry = self.families.entry(name.to_owned()).or_default();
            if known && entry.comments.is_empty() {
                entry.comments.clone_from(&comments);
            }
            write(&mut entry.samples, &sample, &names);
        }
    }

    /// The text of all families.
    #[must_use]
    pub fn into_text(self) -> String {
        let families = self.families.into_values();
        families
            .flat_map(|family| [family.comments, family.samples])
            .collect()
    }
}

/// The family that a comment is about.
fn commented(line: &str) -> Option<&str> {
    let about = line
        .strip_prefix("# HELP ")
        .or_else(|| line.strip_prefix("# TYPE "))?;
    about.split(' ').next()
}

/// Writing to a String cannot fail.
fn write(text: &mut String, sample: &Sample<'_>, (namespace, pod): &(String, String)) {
    let labels: Vec<_> = sample
        .labels
        .iter()
        .map(|(name, value)| match *name {
            "namespace" => format!("{name}=\"{}\"", escape(namespace)),
            "pod" => format!("{name}=\"{}\"", escape(pod)),
            _ => format!("{name}=\"{}\"", escape(value)),
        })
        .collect();
    let _ = write!(text, "{}{{{}}} {}", sample.name, labels.join(","), sample.value);
    let _ = match sample.time_ms {
        Some(time) => writeln!(text, " {time}"),
        None => writeln!(text),
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = r#"# HELP b Bytes.
# TYPE b gauge
b{container="c",namespace="lower",pod="p"} 1 5
b{container="c",namespace="lower",pod="other"} 2
# HELP machine Machine.
# TYPE machine gauge
machine 1
# TYPE a histogram
a_bucket{le="1",namespace="lower",pod="p",x="q\"q"} 3
a_sum{namespace="lower",pod="p"} 4
"#;

    fn rename(namespace: &str, pod: &str) -> Option<(String, String)> {
        (namespace == "lower" && pod == "p").then(|| ("upper".to_owned(), "q".to_owned()))
    }

    #[test]
    fn families_stay_together_and_pods_get_their_other_names() {
        let mut merged = Merged::default();
        merged.add(ONE, rename);
        merged.add("b{namespace=\"lower\",pod=\"p\"} 7\nb{id=\"/\"} 8\n", rename);
        merged.add(
            "# TYPE b gauge\nb{namespace=\"lower\",pod=\"p\",y=\"z\"} 9\n",
            rename,
        );
        assert_eq!(
            merged.into_text(),
            r#"# TYPE a histogram
a_bucket{le="1",namespace="upper",pod="q",x="q\"q"} 3
a_sum{namespace="upper",pod="q"} 4
# HELP b Bytes.
# TYPE b gauge
b{container="c",namespace="upper",pod="q"} 1 5
b{namespace="upper",pod="q"} 7
b{namespace="upper",pod="q",y="z"} 9
"#
        );
    }

    #[test]
    fn without_our_pods_there_is_no_text() {
        let mut merged = Merged::default();
        merged.add(ONE, |_, _| None);
        assert_eq!(merged.into_text(), "");
    }
}
