//! `latency_bucket(us)`: the histogram bucket of a duration. One file, posted to Arroyo as it stands.

#[cfg(not(test))]
use arroyo_udf_plugin::udf;

/// Prometheus `le` of the smallest bucket a duration in microseconds is in, in seconds; `+Inf` beyond 60 s, NULL below zero.
#[cfg(not(test))]
#[udf]
fn latency_bucket(us: i64) -> Option<String> {
    plain(us)
}

/// Upper bounds, microseconds and as Prometheus writes them: those of the histograms a process exports about itself
/// (processors/runtime/src/metrics.rs), so that counts by bucket can be laid beside them.
const BUCKETS: [(i64, &str); 15] = [
    (500, "0.0005"),
    (1_000, "0.001"),
    (2_500, "0.0025"),
    (5_000, "0.005"),
    (10_000, "0.01"),
    (25_000, "0.025"),
    (50_000, "0.05"),
    (100_000, "0.1"),
    (250_000, "0.25"),
    (500_000, "0.5"),
    (1_000_000, "1"),
    (2_500_000, "2.5"),
    (5_000_000, "5"),
    (10_000_000, "10"),
    (60_000_000, "60"),
];

/// The function itself.
pub fn plain(us: i64) -> Option<String> {
    if us < 0 {
        return None;
    }
    let at = BUCKETS.partition_point(|(bound, _)| *bound < us);
    Some(BUCKETS.get(at).map_or("+Inf", |(_, le)| le).to_owned())
}
