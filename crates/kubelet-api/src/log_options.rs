//! `v1.PodLogOptions` as query parameters: decoded and checked as a kubelet does, then written for `pods/log`. Pure.

use form_urlencoded::{Serializer, parse};
use jiff::Timestamp;

/// Why log options are refused. The texts and the two statuses (400, 422) are a kubelet's.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum LogOptionsError {
    /// A value is not of its type.
    #[error(r#"{{"message": "Unable to decode query."}}"#)]
    Undecodable,
    /// Values that are out of range or exclude each other.
    #[error(r#"{{"message": "Invalid request."}}"#)]
    Invalid,
}

/// Which lines of a container's log are wanted.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct LogOptions {
    follow: bool,
    previous: bool,
    timestamps: bool,
    since_seconds: Option<i64>,
    /// Kept as text: the other API server reads the same format.
    since_time: Option<String>,
    tail_lines: Option<i64>,
    limit_bytes: Option<i64>,
}

// === impl LogOptions ===

impl LogOptions {
    /// Decodes a query. Of a repeated parameter the first counts; unknown ones are ignored. `stream` is too: its
    /// feature gate (PodLogsQuerySplitStreams) is off by default.
    pub(crate) fn of(query: &str) -> Result<Self, LogOptionsError> {
        let mut options = Self {
            follow: flag(query, "follow"),
            previous: flag(query, "previous"),
            timestamps: flag(query, "timestamps"),
            since_seconds: number(query, "sinceSeconds")?,
            since_time: time(query)?,
            tail_lines: None,
            limit_bytes: number(query, "limitBytes")?,
        };
        // The old `tail` wins over `tailLines`; `all` means no limit.
        options.tail_lines = match value(query, "tail").filter(|tail| !tail.is_empty()) {
            Some(tail) if tail == "all" => None,
            Some(_) => number(query, "tail")?,
            None => number(query, "tailLines")?,
        };
        options.validated()
    }

    fn validated(self) -> Result<Self, LogOptionsError> {
        let valid = self.tail_lines.is_none_or(|lines| lines >= 0)
            && self.limit_bytes.is_none_or(|bytes| bytes >= 1)
            && self.since_seconds.is_none_or(|seconds| seconds >= 1)
            && !(self.since_seconds.is_some() && self.since_time.is_some());
        valid.then_some(self).ok_or(LogOptionsError::Invalid)
    }

    /// The query of `pods/log` for `container`.
    pub(crate) fn to_query(&self, container: &str) -> String {
        let mut query = Serializer::new(String::new());
        query.append_pair("container", container);
        for (name, set) in [
            ("follow", self.follow),
            ("previous", self.previous),
            ("timestamps", self.timestamps),
        ] {
            if set {
                query.append_pair(name, "true");
            }
        }
        for (name, number) in [
            ("sinceSeconds", self.since_seconds),
            ("tailLines", self.tail_lines),
            ("limitBytes", self.limit_bytes),
        ] {
            if let Some(number) = number {
                query.append_pair(name, &number.to_string());
            }
        }
        if let Some(time) = &self.since_time {
            query.append_pair("sinceTime", time);
        }
        query.finish()
    }
}

fn value(query: &str, name: &str) -> Option<String> {
    parse(query.as_bytes())
        .find(|(key, _)| key == name)
        .map(|(_, value)| value.into_owned())
}

/// Kubernetes' query booleans: absent, `false` in any case, and `0` are false; all else, also nothing, is true.
fn flag(query: &str, name: &str) -> bool {
    value(query, name).is_some_and(|value| !value.eq_ignore_ascii_case("false") && value != "0")
}

fn number(query: &str, name: &str) -> Result<Option<i64>, LogOptionsError> {
    value(query, name)
        .map(|value| value.parse().map_err(|_| LogOptionsError::Undecodable))
        .transpose()
}

/// `sinceTime`, which may be empty or `null` for none.
fn time(query: &str) -> Result<Option<String>, LogOptionsError> {
    let given = value(query, "sinceTime").filter(|time| !time.is_empty() && time != "null");
    match given {
        Some(time) if time.parse::<Timestamp>().is_err() => Err(LogOptionsError::Undecodable),
        given => Ok(given),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn options_are_decoded_and_checked_as_a_kubelet_does() {
        use LogOptionsError::{Invalid, Undecodable};
        let cases = [
            ("", Ok("container=c")),
            (
                "follow=true&previous=true&timestamps=true",
                Ok("container=c&follow=true&previous=true&timestamps=true"),
            ),
            ("follow=false&previous=0&timestamps=FALSE", Ok("container=c")),
            (
                "follow&previous=1&timestamps=yes",
                Ok("container=c&follow=true&previous=true&timestamps=true"),
            ),
            ("follow=false&follow=true", Ok("container=c")),
            (
                "sinceSeconds=1&tailLines=0&limitBytes=1",
                Ok("container=c&sinceSeconds=1&tailLines=0&limitBytes=1"),
            ),
            ("sinceSeconds=0", Err(Invalid)),
            ("sinceSeconds=x", Err(Undecodable)),
            ("tailLines=-1", Err(Invalid)),
            ("tailLines=", Err(Undecodable)),
            ("tailLines=1.5", Err(Undecodable)),
            ("tailLines=9223372036854775808", Err(Undecodable)),
            ("limitBytes=0", Err(Invalid)),
            ("tail=5&tailLines=7", Ok("container=c&tailLines=5")),
            ("tail=all&tailLines=7", Ok("container=c")),
            ("tail=&tailLines=7", Ok("container=c&tailLines=7")),
            ("tail=x", Err(Undecodable)),
            (
                "sinceTime=2026-11-23T18%3A00%3A00Z",
                Ok("container=c&sinceTime=2026-11-23T18%3A00%3A00Z"),
            ),
            (
                "sinceTime=2026-11-23T18:00:00.5%2B01:00",
                Ok("container=c&sinceTime=2026-11-23T18%3A00%3A00.5%2B01%3A00"),
            ),
            ("sinceTime=", Ok("container=c")),
            ("sinceTime=null", Ok("container=c")),
            ("sinceTime=yesterday", Err(Undecodable)),
            ("sinceTime=2026-11-23T18%3A00%3A00Z&sinceSeconds=5", Err(Invalid)),
            (
                "container=other&insecureSkipTLSVerifyBackend=true&stream=Stdout",
                Ok("container=c"),
            ),
        ];
        for (query, wanted) in cases {
            let got = LogOptions::of(query).map(|options| options.to_query("c"));
            assert_eq!(got, wanted.map(str::to_owned), "{query}");
        }
    }

    proptest! {
        #[test]
        fn what_was_written_reads_back_the_same(
            (follow, previous, timestamps) in any::<(bool, bool, bool)>(),
            since_seconds in prop::option::of(1..i64::MAX),
            tail_lines in prop::option::of(0..i64::MAX),
            limit_bytes in prop::option::of(1..i64::MAX),
        ) {
            let options = LogOptions {
                follow, previous, timestamps, since_seconds, since_time: None, tail_lines, limit_bytes,
            };
            prop_assert_eq!(LogOptions::of(&options.to_query("c d&e")), Ok(options));
        }

        #[test]
        fn no_query_panics(query in "((follow|tail|tailLines|sinceTime|limitBytes)=.{0,8}&?){0,4}") {
            let _ = LogOptions::of(&query);
        }
    }
}
