//! Prometheus' text exposition and Pushgateway's paths. Pure.

use std::fmt::Write as _;

use kernel::{Fault, RawRecord};
use schemas::records::Metric;

use super::board::{Labels, Sample};
use crate::batch;

/// Labels that Pushgateway sets from the group, and ours for what is beyond the limit.
const RESERVED: [&str; 5] = ["job", "instance", "pipeline", "view", "overflow"];
/// Families that Pushgateway keeps for itself: it would answer 200 and show its own.
const TAKEN: [&str; 2] = ["push_time_seconds", "push_failure_time_seconds"];
/// Longest label value pushed, bytes.
const LABEL_BYTES_MAX: usize = 256;

/// Refuses a metric that Prometheus could not take.
///
/// # Errors
/// `RECORD_INVALID` naming the field.
pub(crate) fn check(raw: &RawRecord, metric: &Metric) -> Result<(), Fault> {
    if !is_name(&metric.name, true) {
        let what = format!(
            "field `name`: `{}` is not a Prometheus name ([a-zA-Z_:][a-zA-Z0-9_:]*)",
            metric.name
        );
        return Err(batch::invalid(raw, what));
    }
    if TAKEN.contains(&metric.name.as_str()) {
        let what = format!("field `name`: `{}` is Pushgateway's own; choose another", metric.name);
        return Err(batch::invalid(raw, what));
    }
    for (label, value) in &metric.labels {
        if !is_name(label, false) || label.starts_with("__") || RESERVED.contains(&label.as_str()) {
            let what = format!(
                "field `labels.{label}`: not a label name, or one of {}",
                RESERVED.join(", ")
            );
            return Err(batch::invalid(raw, what));
        }
        if value.len() > LABEL_BYTES_MAX {
            return Err(batch::invalid(
                raw,
                format!("field `labels.{label}`: longer than {LABEL_BYTES_MAX} bytes"),
            ));
        }
    }
    Ok(())
}

fn is_name(text: &str, colon: bool) -> bool {
    let start = |c: char| c.is_ascii_alphabetic() || c == '_' || (colon && c == ':');
    text.chars().next().is_some_and(start) && text.chars().all(|c| start(c) || c.is_ascii_digit())
}

/// Path of a group: `/metrics/job/soma/pipeline/.../view/...`.
pub(crate) fn path(pipeline: &str, view: &str) -> String {
    format!(
        "/metrics/job/soma{}{}",
        segment("pipeline", pipeline),
        segment("view", view)
    )
}

/// Path of a group that is there already, by its labels; Pushgateway tells groups apart by all of them.
pub(crate) fn path_of(labels: &Labels) -> String {
    let others = labels.iter().filter(|(label, _)| *label != "job");
    let job = labels.get("job").map_or("", String::as_str);
    let path = format!("/metrics{}", segment("job", job));
    others.fold(path, |path, (label, value)| path + &segment(label, value))
}

/// A label of the path: as it is when that is safe, else as base64url, which also carries `/` and the empty value.
fn segment(label: &str, value: &str) -> String {
    let safe = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'~' | b':');
    if !value.is_empty() && value != "." && value != ".." && value.bytes().all(safe) {
        format!("/{label}/{value}")
    } else {
        format!("/{label}@base64/{}", base64url(value.as_bytes()))
    }
}

/// Base64 of RFC 4648 section 5, padded: Pushgateway asks for at least one character even for the empty value.
fn base64url(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    if bytes.is_empty() {
        return "=".to_owned();
    }
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let word = chunk
            .iter()
            .chain([0, 0].iter())
            .take(3)
            .fold(0u32, |word, b| word << 8 | u32::from(*b));
        for digit in 0..4 {
            let sextet = (word >> (18 - 6 * digit)) & 63;
            text.push(if digit <= chunk.len() {
                char::from(DIGITS[sextet as usize])
            } else {
                '='
            });
        }
    }
    text
}

/// Name, help and the number a sample shows.
type Family<'a> = (String, &'a str, fn(&Sample) -> f64);

/// The families of a view: its value, its windows' ends and its revisions.
pub(crate) fn exposition(name: &str, samples: &[(Labels, Sample)]) -> String {
    let mut text = String::with_capacity(samples.len() * 200);
    let families: [Family<'_>; 3] = [
        (name.to_owned(), "Value of the latest closed window.", |s| s.value),
        (end_of(name), "First instant after that window, unix seconds.", |s| {
            s.window_end as f64 / 1e6
        }),
        (revision_of(name), "Corrections of that window by late events.", |s| {
            f64::from(s.revision)
        }),
    ];
    for (family, help, number) in families {
        // Writing to a String cannot fail.
        text.push_str(&format!("# HELP {family} {help}\n# TYPE {family} gauge\n"));
        for (labels, sample) in samples {
            text.push_str(&family);
            text.push_str(&braces(labels));
            text.push_str(&format!(" {}\n", shown(number(sample))));
        }
    }
    text
}

/// Name of the family that carries the windows' ends.
pub(crate) fn end_of(name: &str) -> String {
    format!("{name}_window_end_seconds")
}

/// Name of the family that carries the revisions.
pub(crate) fn revision_of(name: &str) -> String {
    format!("{name}_window_revision")
}

fn braces(labels: &Labels) -> String {
    let mut text = String::new();
    for (name, value) in labels {
        let escaped = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
        let comma = if text.is_empty() { "" } else { "," };
        // An error here would mean that a String cannot grow.
        if write!(text, "{comma}{name}=\"{escaped}\"").is_err() {
            break;
        }
    }
    if text.is_empty() { text } else { format!("{{{text}}}") }
}

fn shown(number: f64) -> String {
    match number {
        n if n.is_nan() => "NaN".to_owned(),
        f64::INFINITY => "+Inf".to_owned(),
        f64::NEG_INFINITY => "-Inf".to_owned(),
        n => n.to_string(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use crate::testing::tombstone;

    #[test]
    fn the_text_is_what_prometheus_reads() {
        let labels = Labels::from([
            ("tenant".into(), "a\"\\\nb".into()),
            ("type".into(), "run.started".into()),
        ]);
        let sample = Sample {
            window_end: 1_700_000_040_500_000,
            revision: 2,
            value: f64::INFINITY,
        };
        let text = exposition("soma_events_per_minute", &[(labels, sample)]);
        let wanted = "# HELP soma_events_per_minute Value of the latest closed window.\n\
            # TYPE soma_events_per_minute gauge\n\
            soma_events_per_minute{tenant=\"a\\\"\\\\\\nb\",type=\"run.started\"} +Inf\n\
            # HELP soma_events_per_minute_window_end_seconds";
        assert!(text.starts_with(wanted), "{text}");
        assert!(text.contains("_window_end_seconds{tenant=\"a\\\"\\\\\\nb\",type=\"run.started\"} 1700000040.5\n"));
        assert!(text.ends_with("_window_revision{tenant=\"a\\\"\\\\\\nb\",type=\"run.started\"} 2\n"));
    }

    #[test]
    fn path_values_are_encoded_by_pushgateways_rules() {
        assert_eq!(
            path("control-tower", "soma:x"),
            "/metrics/job/soma/pipeline/control-tower/view/soma:x"
        );
        let labels = [("view", "v"), ("job", "soma"), ("instance", "a b")].map(|(k, v)| (k.to_owned(), v.to_owned()));
        assert_eq!(path_of(&labels.into()), "/metrics/job/soma/instance@base64/YSBi/view/v");
        assert_eq!(path("a/b", ""), "/metrics/job/soma/pipeline@base64/YS9i/view@base64/=");
        for (plain, coded) in [
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("\u{3f}\u{7ff}", "P9-_"),
        ] {
            assert_eq!(base64url(plain.as_bytes()), coded);
        }
    }

    #[test]
    fn what_prometheus_could_not_take_is_refused_by_field() {
        let raw = tombstone("soma.metrics", 0, 9, "k");
        let metric = |name: &str, label: &str| Metric {
            name: name.into(),
            labels: [(label.to_owned(), "x".to_owned())].into(),
            ..Metric::default()
        };
        assert!(check(&raw, &metric("soma_x", "tenant")).is_ok());
        for (name, label, word) in [
            ("9x", "tenant", "`name`"),
            ("", "tenant", "`name`"),
            ("a b", "tenant", "`name`"),
            ("push_time_seconds", "tenant", "`name`"),
            ("x", "a:b", "`labels.a:b`"),
            ("x", "job", "`labels.job`"),
            ("x", "__name__", "`labels.__name__`"),
        ] {
            let fault = check(&raw, &metric(name, label)).unwrap_err();
            assert!(
                fault.detail.contains(word) && fault.detail.contains("soma.metrics/0@9"),
                "{}",
                fault.detail
            );
        }
    }
}
