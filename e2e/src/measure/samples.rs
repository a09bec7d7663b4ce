//! Durations and what is said of many of them.

use std::time::Duration;

/// Measured values in the order of their size.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Samples(Vec<f64>);

// === impl Samples ===

impl Samples {
    /// Milliseconds of durations.
    pub fn millis(durations: impl IntoIterator<Item = Duration>) -> Self {
        durations
            .into_iter()
            .map(|duration| duration.as_secs_f64() * 1000.0)
            .collect()
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The smallest value that at least `percent` of 100 values do not exceed; 0 when there are none.
    #[must_use]
    pub fn percentile(&self, percent: usize) -> f64 {
        let rank = (self.0.len() * percent).div_ceil(100).max(1);
        self.0.get(rank - 1).copied().unwrap_or_default()
    }

    /// The middle value.
    #[must_use]
    pub fn median(&self) -> f64 {
        self.percentile(50)
    }
}

impl FromIterator<f64> for Samples {
    fn from_iter<I: IntoIterator<Item = f64>>(values: I) -> Self {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        Self(values)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_measured_values() {
        let samples: Samples = (1..=100).rev().map(f64::from).collect();
        let cases = [(1, 1.0), (50, 50.0), (99, 99.0), (100, 100.0)];
        for (percent, expected) in cases {
            assert_eq!(samples.percentile(percent), expected, "p{percent}");
        }
        assert_eq!(Samples::from_iter([3.0, 1.0, 2.0]).median(), 2.0);
        assert_eq!(Samples::default().percentile(99), 0.0);
    }
}
