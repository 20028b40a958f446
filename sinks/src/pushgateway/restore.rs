//! What Pushgateway already shows of a view, read back after a start: without it a push would take the neighbours of the same
//! window away, and an old correction could pass for the newest word.

use std::collections::HashMap;

use serde::Deserialize;
use serde_json::Value;

use super::board::{Labels, Sample};
use super::text::{end_of, revision_of};

/// Answer of `GET /api/v1/metrics`.
#[derive(Deserialize)]
pub(crate) struct Answer {
    data: Vec<HashMap<String, Value>>,
}

#[derive(Deserialize)]
struct Family {
    metrics: Vec<Point>,
}

#[derive(Deserialize)]
struct Point {
    #[serde(default)]
    labels: Labels,
    value: String,
}

/// The samples of one view's group; empty when it has none. What is not ours or not whole is left out.
pub(crate) fn samples(answer: &Answer, pipeline: &str, view: &str) -> Vec<(Labels, Sample)> {
    let group =
        Labels::from([("job", "soma"), ("pipeline", pipeline), ("view", view)].map(|(k, v)| (k.into(), v.into())));
    let is_ours = |g: &&HashMap<String, Value>| {
        g.get("labels")
            .is_some_and(|l| Labels::deserialize(l).is_ok_and(|labels| labels == group))
    };
    let Some(ours) = answer.data.iter().find(is_ours) else {
        return Vec::new();
    };
    let values = points(ours, view, &group);
    let (ends, revisions) = (
        points(ours, &end_of(view), &group),
        points(ours, &revision_of(view), &group),
    );
    let whole = |(labels, value): (Labels, f64)| {
        let window_end = (ends.get(&labels)? * 1e6).round() as i64;
        let revision = *revisions.get(&labels)? as i32;
        Some((
            labels,
            Sample {
                window_end,
                revision,
                value,
            },
        ))
    };
    // The overflow is a sum; what it is a sum of is not known any more, and the next window makes it anew.
    values
        .into_iter()
        .filter(|(labels, _)| !labels.contains_key("overflow"))
        .filter_map(whole)
        .collect()
}

/// The groups of a pipeline whose newest window ended before `oldest`, microseconds: of views that nobody computes any more, or of a
/// former grouping. A group without windows is not ours to judge.
pub(crate) fn stale(answer: &Answer, pipeline: &str, oldest: i64) -> Vec<Labels> {
    let labels_of = |group: &HashMap<String, Value>| group.get("labels").and_then(|l| Labels::deserialize(l).ok());
    let newest = |group: &HashMap<String, Value>| {
        let ends = group.keys().filter(|name| name.ends_with(&end_of("")));
        let values = ends.flat_map(|name| points(group, name, &Labels::new()).into_values());
        values.map(|end| (end * 1e6).round() as i64).max()
    };
    let ours = |labels: &Labels| {
        labels.get("job").is_some_and(|job| job == "soma")
            && labels.get("pipeline").is_some_and(|name| name == pipeline)
    };
    let groups = answer
        .data
        .iter()
        .filter_map(|group| Some((labels_of(group)?, newest(group)?)));
    groups
        .filter(|(labels, newest)| ours(labels) && *newest < oldest)
        .map(|(labels, _)| labels)
        .collect()
}

fn points(group: &HashMap<String, Value>, name: &str, grouping: &Labels) -> HashMap<Labels, f64> {
    let Some(family) = group.get(name).and_then(|f| Family::deserialize(f).ok()) else {
        return HashMap::new();
    };
    let own = |mut labels: Labels| {
        labels.retain(|k, _| !grouping.contains_key(k) && k != "instance");
        labels
    };
    family
        .metrics
        .into_iter()
        .filter_map(|p| Some((own(p.labels), p.value.parse().ok()?)))
        .collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_read_back_and_its_neighbours_are_not() {
        let labels = |view: &str| serde_json::json!({"job": "soma", "pipeline": "p", "view": view, "instance": "", "tenant": "acme"});
        let family = |view: &str, value: &str| serde_json::json!({"type": "GAUGE", "time_stamp": "x", "help": "h", "metrics": [{"labels": labels(view), "value": value}]});
        let group = |view: &str, value: &str| {
            serde_json::json!({
                "labels": {"job": "soma", "pipeline": "p", "view": view}, "last_push_successful": true,
                view: family(view, value), end_of(view): family(view, "1.70000004e+09"), revision_of(view): family(view, "1")
            })
        };
        let json = serde_json::json!({"status": "success", "data": [group("b", "1"), group("a", "2.5")]});
        let answer: Answer = serde_json::from_value(json).unwrap();
        let sample = Sample {
            window_end: 1_700_000_040_000_000,
            revision: 1,
            value: 2.5,
        };
        assert_eq!(
            samples(&answer, "p", "a"),
            [(Labels::from([("tenant".into(), "acme".into())]), sample)]
        );
        assert!(samples(&answer, "q", "a").is_empty());
        let end = 1_700_000_040_000_000;
        assert!(stale(&answer, "p", end).is_empty() && stale(&answer, "q", end + 1).is_empty());
        let views: Vec<_> = stale(&answer, "p", end + 1)
            .into_iter()
            .map(|mut l| l.remove("view"))
            .collect();
        assert_eq!(views, [Some("b".to_owned()), Some("a".to_owned())]);
    }
}
