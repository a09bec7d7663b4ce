//! The grammar and arithmetic of Kubernetes' resource quantities.
//!
//! A [`Quantity`] is an exact number of nano-units: no floating point anywhere. It reads everything that
//! Go's `resource.ParseQuantity` reads (`100m`, `.5`, `1.`, `1E` (exa), `1e3`, `1536Mi`), rounds up at the
//! nano, and prints the canonical form in the family that it was written in.

use std::cmp::Ordering;
use std::fmt;
use std::ops::{Add, AddAssign, Sub, SubAssign};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Nano-units in one unit.
const NANOS: i128 = 1_000_000_000;
/// Nano-units in one thousandth of a unit.
const NANOS_PER_MILLI: i128 = 1_000_000;
/// Decimal digits below one unit that are kept.
const NANO_DIGITS: i64 = 9;
/// Binary quantities are capped at 2^63-1 units, as in Go.
const BINARY_LIMIT: i128 = i64::MAX as i128 * NANOS;
/// Decimal quantities have no cap in Go. Here they stop at 10^29 units, so that nano-units fit into `i128`.
const DECIMAL_LIMIT: i128 = 10i128.pow(38);
/// Suffixes of the decimal family with their powers of ten. Above exa there is none.
const DECIMAL_SUFFIXES: [(&str, i32); 10] = [
    ("n", -9),
    ("u", -6),
    ("m", -3),
    ("", 0),
    ("k", 3),
    ("M", 6),
    ("G", 9),
    ("T", 12),
    ("P", 15),
    ("E", 18),
];
/// Suffixes of the binary family: the n-th stands for 1024^(n+1).
const BINARY_SUFFIXES: [&str; 6] = ["Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];

/// The family of suffixes that a quantity is written in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// `n u m k M G T P E`.
    #[default]
    DecimalSi,
    /// `Ki Mi Gi Ti Pi Ei`.
    BinarySi,
    /// `e3`, `E-3`.
    DecimalExponent,
}

/// A number of units, exact to the nano-unit. Two quantities are equal when their amounts are, whatever
/// their families.
#[derive(Clone, Copy, Debug, Default)]
pub struct Quantity {
    nanos: i128,
    format: Format,
}

/// Why a text is not a quantity.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QuantityError {
    /// There is no number at the start.
    #[error("quantity {0:?}: expected a decimal number, such as 1, .5 or -2.5, before the suffix")]
    Number(String),
    /// What follows the number is neither a suffix nor an exponent.
    #[error(
        "quantity {0:?}: expected one of n u m k M G T P E Ki Mi Gi Ti Pi Ei, or an exponent such as e3, after the number"
    )]
    Suffix(String),
}

/// The parts of a quantity's text.
struct Parts<'a> {
    negative: bool,
    integer: &'a str,
    fraction: &'a str,
}

/// What the suffix multiplies with.
enum Scale {
    /// A power of ten.
    Ten(i64),
    /// A power of two, at most 60.
    Two(u32),
}

// === impl Quantity ===

impl Quantity {
    /// No units at all.
    pub const ZERO: Self = Self {
        nanos: 0,
        format: Format::DecimalSi,
    };

    /// `units` whole units, printed in the family `format`.
    #[must_use]
    pub fn from_units(units: i64, format: Format) -> Self {
        Self {
            nanos: i128::from(units) * NANOS,
            format,
        }
    }

    /// `milli` thousandths of a unit, as CPU time is counted.
    #[must_use]
    pub fn from_milli(milli: i64) -> Self {
        Self {
            nanos: i128::from(milli) * NANOS_PER_MILLI,
            format: Format::DecimalSi,
        }
    }

    /// The amount in nano-units.
    #[must_use]
    pub fn nanos(self) -> i128 {
        self.nanos
    }

    /// The family that the quantity prints in.
    #[must_use]
    pub fn format(self) -> Format {
        self.format
    }

    /// Whole units, rounded away from zero, limited to what `i64` holds.
    #[must_use]
    pub fn value(self) -> i64 {
        saturate(divide_away_from_zero(self.nanos, NANOS))
    }

    /// Thousandths of a unit, rounded away from zero, limited to what `i64` holds.
    #[must_use]
    pub fn milli(self) -> i64 {
        saturate(divide_away_from_zero(self.nanos, NANOS_PER_MILLI))
    }

    /// Whether the amount is zero.
    #[must_use]
    pub fn is_zero(self) -> bool {
        self.nanos == 0
    }

    /// The sum, in the family of `self` unless that is zero, as Go's `Add` does it.
    fn plus(self, nanos: i128, format: Format) -> Self {
        let format = if self.is_zero() { format } else { self.format };
        Self {
            nanos: self
                .nanos
                .saturating_add(nanos)
                .clamp(-DECIMAL_LIMIT, DECIMAL_LIMIT),
            format,
        }
    }

    /// Whether the binary family can show this amount without loss and sensibly.
    fn shows_as_binary(self) -> bool {
        self.format == Format::BinarySi && self.nanos.abs() >= 1024 * NANOS && self.nanos % NANOS == 0
    }
}

impl FromStr for Quantity {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, QuantityError> {
        let (parts, suffix) = Parts::split(text)?;
        let (scale, format) = parse_suffix(suffix).ok_or_else(|| QuantityError::Suffix(text.to_owned()))?;
        let (amount, format) = match scale {
            Scale::Ten(exponent) => (parts.times_power_of_ten(exponent), format),
            Scale::Two(exponent) => match parts.times_power_of_two(exponent) {
                // Less than one unit has no binary form.
                small if small > 0 && small < NANOS => (small, Format::DecimalSi),
                amount => (amount.min(BINARY_LIMIT), format),
            },
        };
        Ok(Self {
            nanos: if parts.negative { -amount } else { amount },
            format,
        })
    }
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_zero() {
            return f.write_str("0");
        }
        if self.shows_as_binary() {
            let (mantissa, power) = strip_factor(self.nanos / NANOS, 1024, BINARY_SUFFIXES.len());
            let suffix = if power == 0 {
                ""
            } else {
                BINARY_SUFFIXES[power - 1]
            };
            return write!(f, "{mantissa}{suffix}");
        }
        if self.format == Format::DecimalExponent {
            let (mantissa, power) = strip_factor(self.nanos, 1000, usize::MAX);
            let exponent = 3 * i64::try_from(power).unwrap_or(i64::MAX) - NANO_DIGITS;
            return if exponent == 0 {
                write!(f, "{mantissa}")
            } else {
                write!(f, "{mantissa}e{exponent}")
            };
        }
        let (mantissa, power) = strip_factor(self.nanos, 1000, DECIMAL_SUFFIXES.len() - 1);
        write!(f, "{mantissa}{}", DECIMAL_SUFFIXES[power].0)
    }
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.nanos == other.nanos
    }
}

impl Eq for Quantity {}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> Ordering {
        self.nanos.cmp(&other.nanos)
    }
}

impl Add for Quantity {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        self.plus(other.nanos, other.format)
    }
}

impl Sub for Quantity {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        self.plus(-other.nanos, other.format)
    }
}

impl AddAssign for Quantity {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl SubAssign for Quantity {
    fn sub_assign(&mut self, other: Self) {
        *self = *self - other;
    }
}

impl Serialize for Quantity {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Quantity {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(QuantityVisitor)
    }
}

/// API servers write strings, people also write bare numbers.
struct QuantityVisitor;

impl de::Visitor<'_> for QuantityVisitor {
    type Value = Quantity;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a quantity, such as \"100m\" or 2")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Quantity, E> {
        text.parse().map_err(E::custom)
    }

    fn visit_i64<E: de::Error>(self, units: i64) -> Result<Quantity, E> {
        Ok(Quantity::from_units(units, Format::DecimalSi))
    }

    fn visit_u64<E: de::Error>(self, units: u64) -> Result<Quantity, E> {
        self.visit_str(&units.to_string())
    }

    fn visit_f64<E: de::Error>(self, number: f64) -> Result<Quantity, E> {
        self.visit_str(&number.to_string())
    }
}

// === impl Parts ===

impl<'a> Parts<'a> {
    /// The number in front, and the text after it.
    fn split(text: &'a str) -> Result<(Self, &'a str), QuantityError> {
        let (negative, unsigned) = match text.as_bytes().first() {
            Some(b'-') => (true, &text[1..]),
            Some(b'+') => (false, &text[1..]),
            _ => (false, text),
        };
        let (integer, rest) = split_digits(unsigned);
        let (fraction, suffix) = rest.strip_prefix('.').map_or(("", rest), split_digits);
        if integer.is_empty() && fraction.is_empty() {
            return Err(QuantityError::Number(text.to_owned()));
        }
        Ok((
            Self {
                negative,
                integer,
                fraction,
            },
            suffix,
        ))
    }

    fn digits(text: &str) -> impl DoubleEndedIterator<Item = i128> + '_ {
        text.bytes().map(|digit| i128::from(digit - b'0'))
    }

    /// Nano-units of number × 10^exponent: the decimal point moves, and what stands right of it rounds up.
    fn times_power_of_ten(&self, exponent: i64) -> i128 {
        let length = |text: &str| i64::try_from(text.len()).unwrap_or(i64::MAX);
        let point = length(self.integer)
            .saturating_add(exponent)
            .saturating_add(NANO_DIGITS);
        let mut nanos = 0;
        let mut position = 0;
        let mut rest = false;
        for digit in Self::digits(self.integer).chain(Self::digits(self.fraction)) {
            if position < point {
                nanos = append_digit(nanos, digit);
            } else {
                rest |= digit != 0;
            }
            position += 1;
        }
        while position < point && nanos != 0 && nanos < DECIMAL_LIMIT {
            nanos = append_digit(nanos, 0);
            position += 1;
        }
        (nanos + i128::from(rest)).min(DECIMAL_LIMIT)
    }

    /// Nano-units of number × 2^exponent, rounded up. The fraction is divided digit by digit from its end:
    /// flooring at each step gives the same as flooring once, and nothing overflows.
    fn times_power_of_two(&self, exponent: u32) -> i128 {
        let factor = NANOS << exponent;
        let whole = Self::digits(self.integer)
            .fold(0, append_digit)
            .saturating_mul(factor);
        let (part, rest) = Self::digits(self.fraction)
            .rev()
            .fold((0, false), |(part, rest), digit| {
                let sum = part + digit * factor;
                (sum / 10, rest || sum % 10 != 0)
            });
        whole.saturating_add(part + i128::from(rest))
    }
}

/// `number` with one more decimal digit, held at the limit.
fn append_digit(number: i128, digit: i128) -> i128 {
    number.saturating_mul(10).saturating_add(digit).min(DECIMAL_LIMIT)
}

/// The leading digits of `text`, and the rest.
fn split_digits(text: &str) -> (&str, &str) {
    let end = text
        .bytes()
        .position(|byte| !byte.is_ascii_digit())
        .unwrap_or(text.len());
    text.split_at(end)
}

fn parse_suffix(suffix: &str) -> Option<(Scale, Format)> {
    if let Some((_, power)) = DECIMAL_SUFFIXES.iter().find(|(name, _)| *name == suffix) {
        return Some((Scale::Ten(i64::from(*power)), Format::DecimalSi));
    }
    if let Some(index) = BINARY_SUFFIXES.iter().position(|name| *name == suffix) {
        return Some((
            Scale::Two(10 * (u32::try_from(index).ok()? + 1)),
            Format::BinarySi,
        ));
    }
    let exponent = suffix.strip_prefix(['e', 'E'])?.parse().ok()?;
    Some((Scale::Ten(exponent), Format::DecimalExponent))
}

/// Divides `number` by `factor` while that is exact, at most `limit` times; says how often it did.
fn strip_factor(mut number: i128, factor: i128, limit: usize) -> (i128, usize) {
    let mut power = 0;
    while power < limit && number % factor == 0 {
        number /= factor;
        power += 1;
    }
    (number, power)
}

fn divide_away_from_zero(number: i128, divisor: i128) -> i128 {
    let rounding = if number % divisor == 0 { 0 } else { number.signum() };
    number / divisor + rounding
}

fn saturate(number: i128) -> i64 {
    i64::try_from(number).unwrap_or(if number < 0 { i64::MIN } else { i64::MAX })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn mk(text: &str) -> Quantity {
        text.parse().unwrap()
    }

    #[test]
    fn prints_what_it_reads_in_canonical_form() {
        // Expected values are Go's CanonicalizeBytes (its String returns some inputs as they were written).
        for (text, canonical) in [
            ("0", "0"),
            ("-0", "0"),
            ("0Ki", "0"),
            ("1", "1"),
            ("+1", "1"),
            ("-1", "-1"),
            ("007", "7"),
            (".5", "500m"),
            ("0.5", "500m"),
            ("1.", "1"),
            ("1.G", "1G"),
            ("1.5", "1500m"),
            ("100m", "100m"),
            ("1000m", "1"),
            ("1500m", "1500m"),
            ("1000", "1k"),
            ("1000k", "1M"),
            ("1E", "1E"),
            ("1E3", "1e3"),
            ("1e3", "1e3"),
            ("1.5e3", "1500"),
            ("12e6", "12e6"),
            ("1e+2", "100"),
            ("1e-3", "1e-3"),
            ("1024", "1024"),
            ("1Ki", "1Ki"),
            ("1024Ki", "1Mi"),
            ("1536Mi", "1536Mi"),
            ("1.5Gi", "1536Mi"),
            ("0.5Ki", "512"),
            ("1000Ki", "1000Ki"),
            ("0.0001Ki", "102400u"),
            ("1.1Ki", "1126400m"),
            ("-1.5Gi", "-1536Mi"),
            ("9223372036854775807", "9223372036854775807"),
            ("123456789012345678n", "123456789012345678n"),
            ("8Ei", "9223372036854775807"),
            ("100Ei", "9223372036854775807"),
            ("-100Ei", "-9223372036854775807"),
            ("10E", "10E"),
            ("1u", "1u"),
            ("1000n", "1u"),
            ("0.1n", "1n"),
            ("1.00000000001", "1000000001n"),
            ("-0.1n", "-1n"),
            ("1e-400", "1e-9"),
            ("0.000000000000000000000000000000000000000001Ki", "1n"),
            (
                "1.0000000000000000000000000000000000000000001Ki",
                "1024000000001n",
            ),
        ] {
            assert_eq!(mk(text).to_string(), canonical, "{text}");
        }
    }

    #[test]
    fn refuses_what_is_no_quantity() {
        for text in ["", "-", "+", ".", "-.", "m", "Ki", "e3", " 1", "--1"] {
            assert_eq!(
                text.parse::<Quantity>(),
                Err(QuantityError::Number(text.to_owned())),
                "{text:?}"
            );
        }
        for text in [
            "1 ", "1i", "1mi", "1e", "1e-", "1K", "1.1.M", "1+1.0M", "1ki", "1e3k", "1ke3", "1e3.5", "1,5",
        ] {
            assert_eq!(
                text.parse::<Quantity>(),
                Err(QuantityError::Suffix(text.to_owned())),
                "{text:?}"
            );
        }
    }

    #[test]
    fn rounds_away_from_zero_to_whole_units_and_thousandths() {
        for (text, value, milli) in [
            ("1", 1, 1000),
            ("100m", 1, 100),
            ("1n", 1, 1),
            ("1001m", 2, 1001),
            ("1000001u", 2, 1001),
            ("-1500m", -2, -1500),
            ("2Ki", 2048, 2_048_000),
            ("1e28", i64::MAX, i64::MAX),
            ("-1e28", i64::MIN, i64::MIN),
            ("1e400", i64::MAX, i64::MAX),
        ] {
            assert_eq!((mk(text).value(), mk(text).milli()), (value, milli), "{text}");
        }
    }

    #[test]
    fn sums_keep_the_family_of_the_first_unless_it_is_zero() {
        for (left, right, sum) in [
            ("1Ki", "1024", "2Ki"),
            ("1024", "1Ki", "2048"),
            ("0", "2Ki", "2Ki"),
            ("1Ki", "1m", "1024001m"),
        ] {
            assert_eq!((mk(left) + mk(right)).to_string(), sum, "{left} + {right}");
        }
        assert_eq!((mk("2Gi") - mk("512Mi")).to_string(), "1536Mi");
        assert_eq!((mk("1e29") + mk("1e29")), mk("1e29"), "sums stop at the limit");
    }

    #[test]
    fn json_may_hold_a_string_or_a_number() {
        for (json, text) in [
            ("\"100m\"", "100m"),
            ("2", "2"),
            ("-2", "-2"),
            ("0.5", "500m"),
            ("18446744073709551615", "18446744073709551615"),
        ] {
            assert_eq!(serde_json::from_str::<Quantity>(json).unwrap().to_string(), text);
        }
        assert_eq!(serde_json::to_string(&mk("1024Mi")).unwrap(), "\"1Gi\"");
        let error = serde_json::from_str::<Quantity>("\"1x\"")
            .unwrap_err()
            .to_string();
        assert!(error.contains("quantity \"1x\": expected one of"), "{error}");
    }

    fn any_quantity_text() -> impl Strategy<Value = String> {
        let suffix = proptest::sample::select(vec![
            "", "n", "u", "m", "k", "M", "G", "T", "P", "E", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei", "e0", "e5",
            "E-4", "e+2", "e-12",
        ]);
        ("[+-]?", "[0-9]{1,12}", "(\\.[0-9]{0,12})?", suffix)
            .prop_map(|(sign, integer, fraction, suffix)| format!("{sign}{integer}{fraction}{suffix}"))
    }

    proptest! {
        #[test]
        fn the_canonical_form_means_the_same_and_stays_the_same(text in any_quantity_text()) {
            let quantity = mk(&text);
            let canonical = quantity.to_string();
            prop_assert_eq!(mk(&canonical), quantity);
            prop_assert!(!canonical.contains('.'), "{}", canonical);
            prop_assert_eq!(mk(&canonical).to_string(), canonical);
        }

        #[test]
        fn order_is_the_order_of_the_numbers(a in any::<i64>(), b in any::<i64>(), shift in 0usize..4) {
            // The same number with its point moved and the suffix that makes up for it.
            let text = |n: i64| format!("{n}{}", ["", "e-3", "m", "k"][shift]);
            prop_assert_eq!(mk(&text(a)).cmp(&mk(&text(b))), a.cmp(&b));
        }

        #[test]
        fn subtracting_undoes_adding_below_the_limit(a in any_quantity_text(), b in any_quantity_text()) {
            let (a, b) = (mk(&a), mk(&b));
            // The sum of the two largest is beyond an i128.
            prop_assume!(a.nanos().abs().saturating_add(b.nanos().abs()) < DECIMAL_LIMIT);
            prop_assert_eq!(a + b - b, a);
        }

        #[test]
        fn rounded_values_never_promise_less(text in any_quantity_text()) {
            let quantity = mk(&text);
            prop_assume!(quantity.nanos().abs() < BINARY_LIMIT / 1000);
            let units = i128::from(quantity.value()) * NANOS;
            prop_assert!(units.abs() >= quantity.nanos().abs() && (units - quantity.nanos()).abs() < NANOS);
            let milli = i128::from(quantity.milli()) * NANOS_PER_MILLI;
            prop_assert!(milli.abs() >= quantity.nanos().abs() && (milli - quantity.nanos()).abs() < NANOS_PER_MILLI);
        }
    }
}
