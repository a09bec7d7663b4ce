//! The Prometheus text format, as far as kubelets use it: one line at a time, nothing copied that need not be.

use std::borrow::Cow;

/// Names and values of labels.
type Labels<'a> = Vec<(&'a str, Cow<'a, str>)>;

/// One sample.
#[derive(Debug, PartialEq)]
pub(super) struct Sample<'a> {
    /// Name of the series.
    pub(super) name: &'a str,
    /// Its labels, in the order they came.
    pub(super) labels: Labels<'a>,
    /// The value as it was written.
    pub(super) value: &'a str,
    /// When it was taken, in milliseconds since 1970, if the line says so.
    pub(super) time_ms: Option<i64>,
}

// === impl Sample ===

impl<'a> Sample<'a> {
    /// Reads a line. `None` for comments, empty lines, and what is none of this format.
    pub(super) fn parse(line: &'a str) -> Option<Self> {
        let end = line.find(['{', ' ', '\t'])?;
        let (name, rest) = line.split_at(end);
        if name.is_empty() || name.starts_with('#') {
            return None;
        }
        let (labels, rest) = match rest.strip_prefix('{') {
            Some(rest) => parse_labels(rest)?,
            None => (Vec::new(), rest),
        };
        let mut words = rest.split_ascii_whitespace();
        let value = words.next()?;
        let time_ms = words.next().map(str::parse).transpose().ok()?;
        Some(Self {
            name,
            labels,
            value,
            time_ms,
        })
    }

    /// The value of a label; empty without it, which means the same.
    pub(super) fn label(&self, name: &str) -> &str {
        let found = self.labels.iter().find(|(key, _)| *key == name);
        found.map_or("", |(_, value)| value)
    }

    /// The value as a number that is neither negative nor endless.
    pub(super) fn number(&self) -> Option<f64> {
        let number: f64 = self.value.parse().ok()?;
        (number.is_finite() && number >= 0.0).then_some(number)
    }
}

/// Labels up to the closing brace, and what follows it.
fn parse_labels(mut rest: &str) -> Option<(Labels<'_>, &str)> {
    let mut labels = Vec::new();
    loop {
        rest = rest.trim_start_matches([',', ' ']);
        if let Some(rest) = rest.strip_prefix('}') {
            return Some((labels, rest));
        }
        let (name, quoted) = rest.split_once("=\"")?;
        let end = end_of_value(quoted)?;
        labels.push((name.trim(), unescape(&quoted[..end])));
        rest = &quoted[end + 1..];
    }
}

/// Where the closing quote is.
fn end_of_value(text: &str) -> Option<usize> {
    let mut escaped = false;
    text.bytes().position(|byte| {
        let ends = byte == b'"' && !escaped;
        escaped = byte == b'\\' && !escaped;
        ends
    })
}

fn unescape(text: &str) -> Cow<'_, str> {
    if !text.contains('\\') {
        return Cow::Borrowed(text);
    }
    let mut plain = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(char) = chars.next() {
        match (char, chars.as_str().chars().next()) {
            ('\\', Some('n')) => plain.push('\n'),
            ('\\', Some(next)) => plain.push(next),
            _ => {
                plain.push(char);
                continue;
            }
        }
        chars.next();
    }
    Cow::Owned(plain)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn samples_are_read_with_and_without_labels_and_times() {
        let cases = [
            ("up 1", Some(("up", "1", None))),
            ("up 1 1732000000123", Some(("up", "1", Some(1_732_000_000_123)))),
            ("up{} 1.5e+09", Some(("up", "1.5e+09", None))),
            (r#"up{a="x"} 1"#, Some(("up", "1", None))),
            (r#"up{a="x",b="}",} 1 5"#, Some(("up", "1", Some(5)))),
            ("# TYPE up gauge", None),
            ("", None),
            ("up", None),
            (r#"up{a="x 1"#, None),
            ("up{a=x} 1", None),
            ("up 1 soon", None),
        ];
        for (line, wanted) in cases {
            let got = Sample::parse(line).map(|sample| (sample.name, sample.value, sample.time_ms));
            assert_eq!(got, wanted, "{line}");
        }
    }

    #[test]
    fn label_values_lose_their_escapes() {
        let sample = Sample::parse(r#"up{a="q\"b\\s\nl",b=""} 1"#).unwrap();
        assert_eq!(sample.label("a"), "q\"b\\s\nl");
        assert_eq!((sample.label("b"), sample.label("c")), ("", ""));
    }

    #[test]
    fn only_amounts_are_numbers() {
        for (value, wanted) in [
            ("1e3", Some(1000.0)),
            ("0", Some(0.0)),
            ("-1", None),
            ("NaN", None),
            ("+Inf", None),
            ("x", None),
        ] {
            let line = format!("up {value}");
            assert_eq!(Sample::parse(&line).unwrap().number(), wanted, "{value}");
        }
    }

    proptest! {
        #[test]
        fn no_line_panics(line in r#"[a-z]{0,4}[{]?([a-z]{0,3}(="?)[\\"a-z}]{0,6}"?,?){0,3}[}]? .{0,8}"#) {
            let _ = Sample::parse(&line);
        }
    }
}
