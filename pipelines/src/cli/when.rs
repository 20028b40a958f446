//! Times and durations as people write them: `10m`, `1h30m`, `2026-01-31T12:00:00Z`, `offset:42`. No clock is read here.

use kafka::From;
use schemas::Timestamp;

const UNITS: [(&str, i64); 5] = [
    ("ms", 1),
    ("s", 1000),
    ("m", 60_000),
    ("h", 3_600_000),
    ("d", 86_400_000),
];

/// Milliseconds of a duration such as `500ms`, `90s`, `1h30m` or `7d`.
///
/// # Errors
/// What is wrong and how durations are written.
pub(super) fn duration_ms(text: &str) -> Result<i64, String> {
    let bad = || format!("`{text}` is not a duration; write for example 30s, 10m, 1h30m or 7d");
    let mut rest = text.trim();
    let mut total: i64 = 0;
    if rest.is_empty() {
        return Err(bad());
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(bad)?;
        let number: i64 = rest[..digits].parse().map_err(|_| bad())?;
        rest = &rest[digits..];
        let letters = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        let (_, ms) = UNITS
            .iter()
            .find(|(unit, _)| *unit == &rest[..letters])
            .ok_or_else(bad)?;
        total = number
            .checked_mul(*ms)
            .and_then(|ms| total.checked_add(ms))
            .ok_or_else(bad)?;
        rest = &rest[letters..];
    }
    Ok(total)
}

/// A point in time: RFC 3339, or a duration back from `now` (`10m` and `-10m` are the same).
///
/// # Errors
/// What is wrong and how times are written.
pub(super) fn instant(text: &str, now: Timestamp) -> Result<Timestamp, String> {
    match duration_ms(text.strip_prefix('-').unwrap_or(text)) {
        Ok(ms) => Ok(now.plus_ms(-ms)),
        Err(_) => text.parse().map_err(|_| {
            format!("`{text}` is neither a time such as 2026-01-31T12:00:00Z nor a duration back from now such as 10m")
        }),
    }
}

/// A time, or a duration from now on.
///
/// # Errors
/// What is wrong and what may be written.
pub(super) fn ahead(text: &str, now: Timestamp) -> Result<Timestamp, String> {
    match duration_ms(text) {
        Ok(ms) => Ok(now.plus_ms(ms)),
        Err(_) => text.parse().map_err(|_| {
            format!("`{text}` is neither a time such as 2027-01-31T12:00:00Z nor a duration from now such as 365d")
        }),
    }
}

/// Where to begin to read: `beginning`, `end`, `offset:N`, or as [`instant`].
///
/// # Errors
/// What is wrong and what may be written.
pub(super) fn from(text: &str, now: Timestamp) -> Result<From, String> {
    match text {
        "beginning" | "start" => Ok(From::Beginning),
        "end" | "now" => Ok(From::End),
        _ => match text.strip_prefix("offset:") {
            Some(number) => match number.parse::<i64>() {
                Ok(offset) if offset >= 0 => Ok(From::Offset(offset)),
                _ => Err(format!("`{number}` is not an offset; write for example offset:42")),
            },
            None => instant(text, now)
                .map(From::Time)
                .map_err(|e| format!("{e}; beginning, end and offset:N are possible too")),
        },
    }
}

/// A duration for people: `85ms`, `1.2s`, `3m12s`, `2h05m`, `4d03h`.
pub(super) fn took(ms: i64) -> String {
    let ms = ms.max(0);
    let (s, m, h) = (ms / 1000, ms / 60_000, ms / 3_600_000);
    match ms {
        0..1000 => format!("{ms}ms"),
        1000..60_000 => format!("{}.{}s", s, ms % 1000 / 100),
        60_000..3_600_000 => format!("{m}m{:02}s", s % 60),
        3_600_000..86_400_000 => format!("{h}h{:02}m", m % 60),
        _ => format!("{}d{:02}h", h / 24, h % 24),
    }
}

/// A time for tables: to the second, UTC.
pub(super) fn shown(at: Timestamp) -> String {
    let text = at.to_string();
    text.split_once('.')
        .map_or(text.clone(), |(head, _)| format!("{}Z", head.replace('T', " ")))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, ms) in [
            ("500ms", 500),
            ("90s", 90_000),
            ("1h30m", 5_400_000),
            ("7d", 604_800_000),
        ] {
            assert_eq!(duration_ms(text), Ok(ms), "{text}");
        }
        for bad in ["", "10", "m", "1x", "-5m", "1.5h", "99999999999999d", "5 m"] {
            assert!(duration_ms(bad).unwrap_err().contains("10m"), "{bad}");
        }
    }

    #[test]
    fn where_to_begin() {
        let now = Timestamp(3_600_000_000);
        assert_eq!(from("beginning", now), Ok(From::Beginning));
        assert_eq!(from("end", now), Ok(From::End));
        assert_eq!(from("offset:42", now), Ok(From::Offset(42)));
        assert_eq!(from("-10m", now), Ok(From::Time(Timestamp(3_000_000_000))));
        assert_eq!(from("10m", now), from("-10m", now));
        assert_eq!(from("1970-01-01T00:00:01Z", now), Ok(From::Time(Timestamp(1_000_000))));
        for bad in ["offset:-1", "offset:x", "yesterday", ""] {
            assert!(from(bad, now).is_err(), "{bad}");
        }
        assert!(from("yesterday", now).unwrap_err().contains("offset:N"));
    }

    #[test]
    fn durations_for_people() {
        for (ms, text) in [
            (85, "85ms"),
            (1290, "1.2s"),
            (192_000, "3m12s"),
            (7_500_000, "2h05m"),
            (-4, "0ms"),
            (356_400_000, "4d03h"),
        ] {
            assert_eq!(took(ms), text);
        }
        assert_eq!(shown(Timestamp(1_000_001)), "1970-01-01 00:00:01Z");
    }
}
