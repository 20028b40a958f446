//! Value types the records share: a point in time and an amount of money. Both are plain integers on the wire and readable in JSON.

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Microseconds since 1970-01-01 UTC. In JSON it is RFC 3339 text; an integer (microseconds) is read too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// Milliseconds since the epoch, rounded down.
    pub fn millis(self) -> i64 {
        self.0.div_euclid(1000)
    }

    /// The same instant from milliseconds.
    pub fn from_millis(ms: i64) -> Self {
        Self(ms.saturating_mul(1000))
    }

    /// This instant plus milliseconds (negative goes back).
    pub fn plus_ms(self, ms: i64) -> Self {
        Self(self.0.saturating_add(ms.saturating_mul(1000)))
    }

    /// Microseconds from `earlier` to this instant; negative when it is later.
    pub fn micros_since(self, earlier: Timestamp) -> i64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match DateTime::<Utc>::from_timestamp_micros(self.0) {
            Some(at) => f.write_str(&at.to_rfc3339_opts(SecondsFormat::Micros, true)),
            None => write!(f, "{}us", self.0),
        }
    }
}

impl FromStr for Timestamp {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        DateTime::parse_from_rfc3339(text)
            .map(|at| Self(at.timestamp_micros()))
            .map_err(|e| format!("`{text}` is not an RFC 3339 time such as 2026-01-31T12:00:00Z ({e})"))
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        if s.is_human_readable() {
            s.collect_str(self)
        } else {
            s.serialize_i64(self.0)
        }
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct V;
        impl de::Visitor<'_> for V {
            type Value = Timestamp;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an RFC 3339 time or microseconds since the epoch")
            }
            fn visit_i64<E: de::Error>(self, v: i64) -> Result<Timestamp, E> {
                Ok(Timestamp(v))
            }
            fn visit_u64<E: de::Error>(self, v: u64) -> Result<Timestamp, E> {
                i64::try_from(v).map(Timestamp).map_err(de::Error::custom)
            }
            fn visit_str<E: de::Error>(self, v: &str) -> Result<Timestamp, E> {
                v.parse().map_err(de::Error::custom)
            }
        }
        if d.is_human_readable() {
            d.deserialize_any(V)
        } else {
            d.deserialize_i64(V)
        }
    }
}

/// US dollars in millionths: an Avro decimal(18, 6). Never a float. In JSON it is text such as `"1.250000"`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Usd(pub i64);

impl Usd {
    /// Largest magnitude an Avro decimal of precision 18 holds, in millionths.
    pub const MICROS_MAX: i64 = 999_999_999_999_999_999;

    /// The sum, held within [`Usd::MICROS_MAX`].
    #[must_use]
    pub fn plus(self, other: Usd) -> Usd {
        Usd(self
            .0
            .saturating_add(other.0)
            .clamp(-Self::MICROS_MAX, Self::MICROS_MAX))
    }
}

impl fmt::Display for Usd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.0 < 0 { "-" } else { "" };
        let abs = self.0.unsigned_abs();
        write!(f, "{sign}{}.{:06}", abs / 1_000_000, abs % 1_000_000)
    }
}

impl FromStr for Usd {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = || format!("`{text}` is not an amount in US dollars such as 12.50 (at most six decimals)");
        let (negative, digits) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
        let all_digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
        if whole.is_empty() || fraction.len() > 6 || !all_digits(whole) || !all_digits(fraction) {
            return Err(bad());
        }
        let micros: i64 = format!("{whole}{fraction:0<6}").parse().map_err(|_| bad())?;
        if micros > Self::MICROS_MAX {
            return Err(bad());
        }
        Ok(Self(if negative { -micros } else { micros }))
    }
}

impl Serialize for Usd {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        if s.is_human_readable() {
            s.collect_str(self)
        } else {
            s.serialize_bytes(&self.0.to_be_bytes())
        }
    }
}

impl<'de> Deserialize<'de> for Usd {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct V;
        impl de::Visitor<'_> for V {
            type Value = Usd;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an amount in US dollars as text, such as \"12.50\"")
            }
            fn visit_str<E: de::Error>(self, v: &str) -> Result<Usd, E> {
                v.parse().map_err(de::Error::custom)
            }
            fn visit_i64<E: de::Error>(self, v: i64) -> Result<Usd, E> {
                v.to_string().parse().map_err(de::Error::custom)
            }
            fn visit_u64<E: de::Error>(self, v: u64) -> Result<Usd, E> {
                v.to_string().parse().map_err(de::Error::custom)
            }
            fn visit_bytes<E: de::Error>(self, v: &[u8]) -> Result<Usd, E> {
                if v.is_empty() || v.len() > 8 {
                    return Err(de::Error::custom("a decimal has 1 to 8 bytes"));
                }
                let mut wide = [if v.first().is_some_and(|b| b & 0x80 != 0) {
                    0xff
                } else {
                    0
                }; 8];
                wide[8 - v.len()..].copy_from_slice(v);
                let micros = i64::from_be_bytes(wide);
                if micros.unsigned_abs() > Usd::MICROS_MAX.unsigned_abs() {
                    return Err(de::Error::custom("a decimal of more than 18 digits"));
                }
                Ok(Usd(micros))
            }
        }
        if d.is_human_readable() {
            d.deserialize_any(V)
        } else {
            d.deserialize_bytes(V)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn money_is_read_and_printed_without_floats() {
        for (text, micros) in [
            ("0", 0),
            ("12.5", 12_500_000),
            ("-0.000001", -1),
            ("999999999999.999999", Usd::MICROS_MAX),
        ] {
            assert_eq!(text.parse::<Usd>(), Ok(Usd(micros)), "{text}");
        }
        assert_eq!(Usd(1_250_000).to_string(), "1.250000");
        for bad in ["", "1e3", "NaN", "1.1234567", ".5", "12 USD", "1000000000000"] {
            assert!(bad.parse::<Usd>().is_err(), "{bad}");
        }
    }

    #[test]
    fn times_are_rfc3339_in_json() {
        let at: Timestamp = serde_json::from_str("\"2026-01-31T12:00:00.000001Z\"").unwrap_or_default();
        assert_eq!(at.0 % 1_000_000, 1);
        assert_eq!(
            serde_json::to_string(&at).unwrap_or_default(),
            "\"2026-01-31T12:00:00.000001Z\""
        );
        assert!("yesterday".parse::<Timestamp>().is_err());
    }
}
