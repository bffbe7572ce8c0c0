//! Money: an exact decimal, read from the digits as they were written and never from a float.

use std::fmt;

use rust_decimal::Decimal;
use serde::de::{Deserialize, Deserializer};
use serde::ser::{Serialize, Serializer};
use serde_json::value::RawValue;

use crate::text::BrokenRule;

/// An amount above zero with at most two decimals, at most [`Amount::MAX`].
///
/// What counts is the value, not how it was written, because JSON libraries rewrite numbers: `99.990` is 99.99
/// and `1e2` is 100. `99.999` is refused, never rounded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Amount(Decimal);

const MAX_CENTS: i64 = 9_999_999_999;

impl Amount {
    /// The largest amount, 99 999 999.99.
    pub const MAX: Self = Self(Decimal::from_parts(1_410_065_407, 2, 0, false, 2));

    /// Reads a JSON number, or a JSON string that holds one.
    ///
    /// # Errors
    /// The broken rule.
    pub fn of_json(json: &RawValue) -> Result<Self, BrokenRule> {
        let text = json.get();
        if !text.starts_with('"') {
            return text.parse();
        }
        match serde_json::from_str::<String>(text) {
            Ok(inside) => inside.parse(),
            Err(_never) => Err(rule("must be a number or a decimal string")),
        }
    }

    /// An amount that a database has kept. It is not checked again.
    pub fn stored(mut number: Decimal) -> Self {
        number.rescale(2);
        Self(number)
    }

    /// The amount with exactly two decimals.
    pub fn decimal(self) -> Decimal {
        self.0
    }
}

fn rule(text: &str) -> BrokenRule {
    BrokenRule::new(text)
}

impl std::str::FromStr for Amount {
    type Err = BrokenRule;

    /// Reads a number in JSON's notation.
    fn from_str(text: &str) -> Result<Self, BrokenRule> {
        let number = Number::read(text).ok_or_else(|| rule("must be a number or a decimal string"))?;
        if number.negative || number.digits.is_empty() {
            return Err(rule("must be greater than 0"));
        }
        if number.exponent < -2 {
            return Err(rule("must have at most 2 decimals"));
        }
        let too_large = || rule("must be at most 99999999.99");
        // 12 digits of cents are too many; further ones need not be looked at.
        let zeros = usize::try_from(number.exponent + 2).ok().filter(|zeros| *zeros <= 12);
        let zeros = zeros.ok_or_else(too_large)?;
        let digits = format!("{}{}", number.digits, "0".repeat(zeros));
        let cents = digits.parse::<i64>().ok().filter(|cents| *cents <= MAX_CENTS);
        Ok(Self(Decimal::new(cents.ok_or_else(too_large)?, 2)))
    }
}

/// `digits` × 10^`exponent`, without zeros at either end of the digits.
struct Number {
    negative: bool,
    digits: String,
    exponent: i64,
}

impl Number {
    fn read(text: &str) -> Option<Self> {
        let (negative, unsigned) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let (mantissa, power) = match unsigned.split_once(['e', 'E']) {
            Some((mantissa, power)) => (mantissa, exponent(power)?),
            None => (unsigned, 0),
        };
        let (whole, fraction) = match mantissa.split_once('.') {
            Some((whole, fraction)) => (whole, Some(fraction)),
            None => (mantissa, None),
        };
        let leading_zero = whole.len() > 1 && whole.starts_with('0');
        if !all_digits(whole) || leading_zero || !fraction.is_none_or(all_digits) {
            return None;
        }
        let fraction = fraction.unwrap_or_default();
        let all = format!("{whole}{fraction}");
        let trimmed = all.trim_end_matches('0');
        let places = i64::try_from(all.len() - trimmed.len()).ok()? - i64::try_from(fraction.len()).ok()?;
        Some(Self {
            negative,
            digits: trimmed.trim_start_matches('0').to_owned(),
            exponent: power.saturating_add(places),
        })
    }
}

fn all_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

fn exponent(text: &str) -> Option<i64> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if !all_digits(digits) {
        return None;
    }
    // Beyond any amount either way; a text of that many digits is not an error of its own.
    let size = digits.parse().unwrap_or(i64::from(i32::MAX)).min(i64::from(i32::MAX));
    Some(if negative { -size } else { size })
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A JSON number with exactly two decimals.
impl Serialize for Amount {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let text = RawValue::from_string(self.to_string()).map_err(serde::ser::Error::custom)?;
        text.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Amount {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let json = Box::<RawValue>::deserialize(deserializer)?;
        Self::of_json(&json).map_err(|rule| serde::de::Error::custom(rule.of("totalAmount")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<String, String> {
        let raw: &RawValue = serde_json::from_str(json).map_err(|error| error.to_string())?;
        Amount::of_json(raw)
            .map(|amount| amount.to_string())
            .map_err(|rule| rule.to_string())
    }

    #[test]
    fn every_digit_counts() {
        let good = [
            ("99.99", "99.99"),
            ("0.01", "0.01"),
            ("100", "100.00"),
            ("19.9", "19.90"),
            ("99999999.99", "99999999.99"),
            ("12345678.91", "12345678.91"),
            (r#""99.99""#, "99.99"),
            (r#""99999999.99""#, "99999999.99"),
        ];
        for (json, amount) in good {
            assert_eq!(read(json).as_deref(), Ok(amount), "{json}");
        }
        assert_eq!(Amount::MAX.to_string(), "99999999.99");
        assert_eq!("99999999.99".parse(), Ok(Amount::MAX));
    }

    #[test]
    fn notation_does_not_count() {
        let same = [
            ("99.990", "99.99"),
            ("99.99000000000000000000000000000000000000000000", "99.99"),
            ("1e2", "100.00"),
            ("1E+2", "100.00"),
            ("9999e-2", "99.99"),
            ("0.00000001e8", "1.00"),
            ("100000000000000000000e-20", "1.00"),
            (r#""1e2""#, "100.00"),
        ];
        for (json, amount) in same {
            assert_eq!(read(json).as_deref(), Ok(amount), "{json}");
        }
    }

    #[test]
    fn nothing_is_rounded_to_fit() {
        let decimals = "must have at most 2 decimals";
        let large = "must be at most 99999999.99";
        let sign = "must be greater than 0";
        let kind = "must be a number or a decimal string";
        let bad = [
            ("99.999", decimals),
            ("99.99000000000000000000000000001", decimals),
            ("1e-3", decimals),
            ("1e-99999999999999999999", decimals),
            ("99999999.991", decimals),
            ("100000000", large),
            ("1e8", large),
            ("1e99999999999999999999", large),
            ("99999999999999999999999999999999", large),
            ("0", sign),
            ("-0", sign),
            ("0.00", sign),
            ("0e99", sign),
            ("-1", sign),
            ("-99.999", sign),
            ("null", kind),
            ("true", kind),
            ("[1]", kind),
            (r#"{"a":1}"#, kind),
            (r#""""#, kind),
            (r#"" 1""#, kind),
            (r#""+1""#, kind),
            (r#""1,00""#, kind),
            (r#"".5""#, kind),
            (r#""5.""#, kind),
            (r#""01""#, kind),
            (r#""1e""#, kind),
            (r#""NaN""#, kind),
            (r#""inf""#, kind),
            (r#""0x10""#, kind),
            (r#""\u0031a""#, kind),
        ];
        for (json, rule) in bad {
            assert_eq!(read(json), Err(rule.to_owned()), "{json}");
        }
    }

    #[test]
    fn is_written_as_a_number_with_its_digits() {
        let amount: Amount = "99999999.9".parse().expect("an amount");
        assert_eq!(serde_json::to_string(&amount).expect("JSON"), "99999999.90");
        assert_eq!(Amount::stored(amount.decimal().normalize()).to_string(), "99999999.90");
    }
}
