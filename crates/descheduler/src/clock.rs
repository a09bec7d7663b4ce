//! Times as the API writes them, and the time that it is.

pub use tensile_runtime::clock::now;

/// A time of the API, such as `2026-01-02T03:04:05Z`, in seconds since the Unix epoch. Times before it are none.
#[must_use]
pub fn seconds(time: &str) -> Option<u64> {
    let time: jiff::Timestamp = time.parse().ok()?;
    u64::try_from(time.as_second()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_the_api_are_read() {
        assert_eq!(seconds("1970-01-01T00:01:00Z"), Some(60));
        assert_eq!(seconds("1970-01-01T00:01:00.500000Z"), Some(60));
        assert_eq!(seconds("1969-01-01T00:00:00Z"), None);
        assert_eq!(seconds("yesterday"), None);
    }
}
