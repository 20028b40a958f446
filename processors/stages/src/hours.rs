//! How long something is kept, in hours or parts of one, as a pipeline file says it.

use kernel::ConfigFault;

/// Half a minute, about: less would forget what is still under way.
const LEAST: f64 = 0.01;
/// Ten years.
const MOST: f64 = 87_600.0;

/// What is wrong with a number of hours, if anything.
pub(crate) fn fault(path: &str, hours: f64) -> Option<ConfigFault> {
    let wrong = !(LEAST..=MOST).contains(&hours);
    wrong.then(|| ConfigFault::new(path, format!("{hours} is not from {LEAST} to {MOST} hours")))
}

/// The same in milliseconds.
#[allow(clippy::cast_possible_truncation, reason = "checked: a few years at most")]
pub(crate) fn ms(hours: f64) -> i64 {
    (hours * 3_600_000.0).round() as i64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hours_and_parts_of_one() {
        assert_eq!((ms(168.0), ms(0.05)), (604_800_000, 180_000));
        assert!(fault("x", 0.05).is_none() && fault("x", MOST).is_none());
        for wrong in [0.0, 0.001, -1.0, MOST + 1.0, f64::NAN, f64::INFINITY] {
            assert_eq!(fault("x", wrong).map(|f| f.path), Some("x".to_owned()), "{wrong}");
        }
    }
}
