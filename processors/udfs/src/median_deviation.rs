//! `median_deviation(values)`: an aggregate over a group's values. One file, posted to Arroyo as it stands.

#[cfg(not(test))]
use arroyo_udf_plugin::udf;

/// Median absolute deviation from the median, the spread a robust z-score divides by; NULL for a group without numbers.
#[cfg(not(test))]
#[udf]
fn median_deviation(values: Vec<f64>) -> Option<f64> {
    plain(values)
}

/// The function itself. It does not depend on the order of the values, so that batches and instances do not show.
pub fn plain(mut values: Vec<f64>) -> Option<f64> {
    values.retain(|v| !v.is_nan());
    let middle = median(&mut values)?;
    let mut off: Vec<f64> = values
        .iter()
        .map(|v| (v - middle).abs())
        .filter(|v| !v.is_nan())
        .collect();
    median(&mut off)
}

fn median(values: &mut [f64]) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let half = values.len() / 2;
    match values.len() {
        0 => None,
        n if n % 2 == 1 => Some(values[half]),
        _ => Some((values[half - 1] + values[half]) / 2.0),
    }
}
