//! `risk_band(score)`: the band the policy gate puts a score in. One file, posted to Arroyo as it stands.

#[cfg(not(test))]
use arroyo_udf_plugin::udf;

/// Band of a policy score from 0 to 1: low from 0.8, medium from 0.5, high from 0.2, else critical; NULL for no number.
#[cfg(not(test))]
#[udf]
fn risk_band(score: f64) -> Option<String> {
    plain(score)
}

/// The function itself. The bounds are those of the policy gate, which takes 1 minus the weights of the rules that matched.
pub fn plain(score: f64) -> Option<String> {
    let band = match score {
        s if s.is_nan() => return None,
        s if s >= 0.8 => "low",
        s if s >= 0.5 => "medium",
        s if s >= 0.2 => "high",
        _ => "critical",
    };
    Some(band.to_owned())
}
