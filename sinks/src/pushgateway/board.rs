//! What is shown of one view: the latest window of each label set, bounded in number. Pure.

use std::collections::BTreeMap;

use schemas::records::Metric;

/// Labels of a sample.
pub(crate) type Labels = BTreeMap<String, String>;

/// The latest known window of a label set.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Sample {
    /// First instant after the window, microseconds.
    pub(crate) window_end: i64,
    /// Correction of that window.
    pub(crate) revision: i32,
    /// The number.
    pub(crate) value: f64,
}

/// One view.
#[derive(Clone, Debug)]
pub(crate) struct Board {
    samples: BTreeMap<Labels, Sample>,
    /// Label sets beyond the limit. Told apart so that a correction replaces and does not add.
    overflow: BTreeMap<Labels, Sample>,
    max: usize,
    stale_us: i64,
}

impl Board {
    /// An empty board for at most `max` label sets, each shown until it is `stale_us` behind the newest.
    pub(crate) fn new(max: usize, stale_us: i64) -> Self {
        Self {
            samples: BTreeMap::new(),
            overflow: BTreeMap::new(),
            max,
            stale_us,
        }
    }

    /// Takes a metric in; whether it changed anything. An older window or revision never replaces a newer one.
    pub(crate) fn take(&mut self, metric: &Metric) -> bool {
        let sample = Sample {
            window_end: metric.window_end.0,
            revision: metric.revision,
            value: metric.value,
        };
        let changed = self.put(metric.labels.clone(), sample);
        self.forget_stale();
        changed
    }

    /// Puts a sample under its labels, or into the overflow when there is no room.
    pub(crate) fn put(&mut self, labels: Labels, sample: Sample) -> bool {
        let room = self.samples.len() < self.max || self.samples.contains_key(&labels);
        let map = if room { &mut self.samples } else { &mut self.overflow };
        match map.get(&labels) {
            Some(old) if (old.window_end, old.revision) > (sample.window_end, sample.revision) => false,
            Some(old) if *old == sample => false,
            _ => map.insert(labels, sample).is_none_or(|_| true),
        }
    }

    /// Everything to be shown, the sum of the overflow's newest window last.
    pub(crate) fn shown(&self) -> Vec<(Labels, Sample)> {
        let mut shown: Vec<_> = self
            .samples
            .iter()
            .map(|(labels, sample)| (labels.clone(), *sample))
            .collect();
        let newest = self.overflow.values().map(|s| s.window_end).max();
        if let Some(window_end) = newest {
            let of_it = || self.overflow.values().filter(|s| s.window_end == window_end);
            let revision = of_it().map(|s| s.revision).max().unwrap_or_default();
            let value = of_it().map(|s| s.value).sum();
            shown.push((
                Labels::from([("overflow".into(), "true".into())]),
                Sample {
                    window_end,
                    revision,
                    value,
                },
            ));
        }
        shown
    }

    fn forget_stale(&mut self) {
        let ends = self
            .samples
            .values()
            .chain(self.overflow.values())
            .map(|s| s.window_end);
        let oldest = ends.max().unwrap_or(i64::MIN).saturating_sub(self.stale_us);
        self.samples.retain(|_, s| s.window_end >= oldest);
        self.overflow.retain(|_, s| s.window_end >= oldest);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use schemas::Timestamp;

    const MINUTE: i64 = 60_000_000;

    fn metric(tenant: &str, window: i64, revision: i32, value: f64) -> Metric {
        let labels = [("tenant".to_owned(), tenant.to_owned())].into();
        Metric {
            labels,
            window_end: Timestamp(window * MINUTE),
            revision,
            value,
            ..Metric::default()
        }
    }

    fn values(board: &Board) -> Vec<f64> {
        board.shown().iter().map(|(_, s)| s.value).collect()
    }

    #[test]
    fn a_correction_of_an_older_window_never_overwrites_a_newer_one() {
        let mut board = Board::new(10, 5 * MINUTE);
        assert!(board.take(&metric("a", 2, 0, 2.0)));
        assert!(!board.take(&metric("a", 1, 7, 1.0)));
        assert!(board.take(&metric("a", 2, 1, 2.5)));
        assert!(!board.take(&metric("a", 2, 0, 2.0)), "the same batch again");
        assert_eq!(values(&board), [2.5]);
    }

    #[test]
    fn what_is_stale_goes() {
        let mut board = Board::new(10, 5 * MINUTE);
        board.take(&metric("a", 1, 0, 1.0));
        board.take(&metric("b", 6, 0, 6.0));
        assert_eq!(values(&board), [1.0, 6.0]);
        board.take(&metric("b", 7, 0, 7.0));
        assert_eq!(values(&board), [7.0]);
    }

    #[test]
    fn beyond_the_limit_label_sets_are_summed_and_corrected() {
        let mut board = Board::new(2, 5 * MINUTE);
        for (n, tenant) in ["a", "b", "c", "d"].iter().enumerate() {
            board.take(&metric(tenant, 1, 0, (n + 1) as f64));
        }
        assert_eq!(values(&board), [1.0, 2.0, 7.0]);
        board.take(&metric("d", 1, 1, 10.0));
        let (labels, sample) = board.shown().pop().unwrap();
        assert_eq!(
            (labels["overflow"].as_str(), sample.value, sample.revision),
            ("true", 13.0, 1)
        );
        board.take(&metric("c", 2, 0, 5.0));
        assert_eq!(values(&board), [1.0, 2.0, 5.0], "the sum is of one window");
    }
}
