//! Lengths of time as the dialect writes them (`10 minutes`, `1 hour 30 seconds`), in microseconds.

const UNITS: &[(&str, i64)] = &[
    ("microsecond", 1),
    ("millisecond", 1_000),
    ("second", 1_000_000),
    ("minute", 60_000_000),
    ("hour", 3_600_000_000),
    ("day", 86_400_000_000),
    ("week", 604_800_000_000),
];

/// Reads `text`; says what it wants when it cannot.
pub(crate) fn micros(text: &str) -> Result<i64, String> {
    let wrong = || format!("`{text}` is no length of time; write for example '90 seconds' or '1 hour 30 minutes'");
    let mut total = 0i64;
    let mut words = text.split_whitespace();
    let mut any = false;
    while let Some(number) = words.next() {
        let split = number
            .find(|c: char| c.is_alphabetic())
            .filter(|at| *at > 0)
            .map(|at| number.split_at(at));
        let (number, unit) = match split {
            Some(pair) => pair,
            None => (number, words.next().ok_or_else(wrong)?),
        };
        let number: i64 = number.parse().map_err(|_| wrong())?;
        let name = unit.to_lowercase();
        let each = UNITS
            .iter()
            .find(|(known, _)| name == *known || name.strip_suffix('s') == Some(*known))
            .ok_or_else(wrong)?
            .1;
        total = number
            .checked_mul(each)
            .and_then(|n| total.checked_add(n))
            .ok_or_else(wrong)?;
        any = true;
    }
    if any { Ok(total) } else { Err(wrong()) }
}

/// Writes it in the largest unit that divides it.
pub(crate) fn text(micros: i64) -> String {
    let (name, each) = UNITS
        .iter()
        .rev()
        .find(|(_, each)| micros % each == 0)
        .unwrap_or(&UNITS[0]);
    let count = micros / each;
    format!("{count} {name}{}", if count == 1 { "" } else { "s" })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_read_and_written() {
        for (given, wanted, written) in [
            ("10 minutes", 600_000_000, "10 minutes"),
            ("1 hour 30 seconds", 3_630_000_000, "3630 seconds"),
            ("5ms", -1, ""),
            ("1 Day", 86_400_000_000, "1 day"),
            ("ten minutes", -1, ""),
            ("", -1, ""),
            ("5", -1, ""),
            ("0 seconds", 0, "0 weeks"),
        ] {
            match micros(given) {
                Ok(found) => assert_eq!((found, text(found).as_str()), (wanted, written), "{given}"),
                Err(says) => assert!(wanted == -1 && says.contains("length of time"), "{given}: {says}"),
            }
        }
    }
}
