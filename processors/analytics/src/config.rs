//! Settings of the event-time windows, and every problem with them at once. Reads no file: the composition root hands them over.

use kernel::ConfigFault;
use schemas::Timestamp;
use serde::Deserialize;

/// 2020-01-01T00:00:00Z: older than any event of this platform.
const EARLIEST: Timestamp = Timestamp(1_577_836_800_000_000);
const DAY_MS: i64 = 86_400_000;

/// How long to wait, and what to believe.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The watermark stays this far behind the newest event, milliseconds.
    pub watermark_delay_ms: i64,
    /// A late event corrects its window until the watermark is this far past the window's end, milliseconds.
    pub allowed_lateness_ms: i64,
    /// A partition without a record for this long no longer holds the watermark back, milliseconds.
    pub idle_ms: i64,
    /// An event further ahead of now than this has a wrong clock and is not counted in a window, milliseconds.
    pub future_max_ms: i64,
    /// An event before this has a wrong clock and is not counted in a window.
    pub earliest: Timestamp,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            watermark_delay_ms: 5_000,
            allowed_lateness_ms: 3_600_000,
            idle_ms: 10_000,
            future_max_ms: DAY_MS,
            earliest: EARLIEST,
        }
    }
}

impl Config {
    /// Every problem at once; empty when there is none. Paths are relative to this section.
    pub fn check(&self) -> Vec<ConfigFault> {
        let mut faults = Vec::new();
        let mut within = |path: &str, value: i64, least: i64, most: i64| {
            if !(least..=most).contains(&value) {
                let detail = format!("{value} ms is not between {least} and {most}; set a value in that range");
                faults.push(ConfigFault::new(path, detail));
            }
        };
        within("watermark_delay_ms", self.watermark_delay_ms, 0, 3_600_000);
        // Every window that may still be corrected is held in state and written to the changelog.
        within("allowed_lateness_ms", self.allowed_lateness_ms, 0, DAY_MS);
        within("idle_ms", self.idle_ms, 100, 3_600_000);
        within("future_max_ms", self.future_max_ms, 0, 366 * DAY_MS);
        if self.earliest.0 < 0 {
            let detail = format!("{} is before 1970; set a time such as {EARLIEST}", self.earliest);
            faults.push(ConfigFault::new("earliest", detail));
        }
        faults
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_valid_and_partial_settings_keep_the_rest() {
        assert!(Config::default().check().is_empty());
        let config: Config = serde_json::from_str(r#"{"idle_ms": 2000}"#).unwrap();
        assert_eq!((config.idle_ms, config.watermark_delay_ms), (2000, 5000));
    }

    #[test]
    fn unknown_fields_and_every_value_out_of_range_are_named() {
        let unknown = serde_json::from_str::<Config>(r#"{"watermark_ms": 1}"#).unwrap_err();
        assert!(unknown.to_string().contains("watermark_ms"), "{unknown}");
        let config = Config {
            watermark_delay_ms: -1,
            idle_ms: 0,
            earliest: Timestamp(-5),
            ..Config::default()
        };
        let paths: Vec<_> = config.check().into_iter().map(|f| f.path).collect();
        assert_eq!(paths, ["watermark_delay_ms", "idle_ms", "earliest"]);
    }
}
