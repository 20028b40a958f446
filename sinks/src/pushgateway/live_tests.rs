//! Against a real Pushgateway: what is shown after batches, redeliveries, restarts, bad samples, outages.

use kernel::{FaultCode, RawRecord, Sink};
use schemas::Timestamp;
use schemas::records::Metric;

use super::*;
use crate::testing::{Plain, Relay, env, poison, raw, unique};

const MINUTE: i64 = 60_000_000;

fn config() -> Config {
    Config {
        url: env("SOMA_PUSHGATEWAY_URL"),
        user: String::new(),
        password: String::new(),
        pipeline: unique("p"),
        label_sets_max: 3,
        stale_after_s: 300,
        forget_after_s: 3_600,
        timeout_ms: 2_000,
    }
}

fn metric(name: &str, tenant: &str, window: i64, revision: i32, value: f64) -> Metric {
    Metric {
        name: name.into(),
        labels: [("tenant", tenant), ("type", "run.started")]
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .into(),
        window_start: Timestamp((window - 1) * MINUTE),
        window_end: Timestamp(window * MINUTE),
        value,
        revision,
        emitted_at: Timestamp(0),
    }
}

fn batch(metrics: &[Metric]) -> Vec<RawRecord> {
    metrics
        .iter()
        .zip(0..)
        .map(|(m, n)| raw("soma.metrics", 0, n, "k", m))
        .collect()
}

/// Lines of this pipeline that begin with a family's name, label order and all.
async fn lines(config: &Config, family: &str) -> Vec<String> {
    let text = reqwest::get(format!("{}/metrics", config.url))
        .await
        .unwrap()
        .text()
        .await
        .unwrap();
    let own = format!("pipeline=\"{}\"", config.pipeline);
    let mut lines: Vec<_> = text
        .lines()
        .filter(|l| l.starts_with(&format!("{family}{{")) && l.contains(&own))
        .map(|l| l.replace(&own, "").replace("instance=\"\",job=\"soma\",,", ""))
        .collect();
    lines.sort();
    lines
}

fn values(lines: &[String]) -> Vec<&str> {
    lines.iter().map(|l| l.rsplit(' ').next().unwrap()).collect()
}

#[tokio::test]
#[ignore = "needs the servers: make live"]
async fn the_latest_window_is_shown_whatever_comes_late_or_again_or_after_a_restart() {
    let config = config();
    let (name, other) = (unique("soma_events"), unique("soma_other"));
    let decoder = Plain::of::<Metric>();
    let mut sink = PushgatewaySink::connect(&config).await.unwrap();
    let first = batch(&[
        metric(&name, "a", 10, 0, 1.5),
        metric(&name, "b", 10, 0, 2.0),
        metric(&other, "a", 9, 0, 9.0),
    ]);
    for _ in 0..2 {
        assert!(sink.write(&first, &decoder).await.unwrap().is_empty());
    }
    assert_eq!(values(&lines(&config, &name).await), ["1.5", "2"]);
    // Another instance takes over: it knows nothing but what Pushgateway shows.
    let mut sink = PushgatewaySink::connect(&config).await.unwrap();
    sink.write(
        &batch(&[metric(&name, "a", 9, 5, 100.0), metric(&name, "b", 10, 1, 3.0)]),
        &decoder,
    )
    .await
    .unwrap();
    assert_eq!(values(&lines(&config, &name).await), ["1.5", "3"]);
    assert_eq!(
        values(&lines(&config, &format!("{name}_window_revision")).await),
        ["0", "1"]
    );
    assert_eq!(
        values(&lines(&config, &format!("{name}_window_end_seconds")).await),
        ["600", "600"]
    );
    assert_eq!(
        values(&lines(&config, &other).await),
        ["9"],
        "a neighbour is left alone"
    );
    sink.reassigned();
    sink.write(&batch(&[metric(&name, "a", 20, 0, 4.0)]), &decoder)
        .await
        .unwrap();
    let shown = lines(&config, &name).await;
    assert_eq!(values(&shown), ["4"], "what is stale goes");
    assert!(
        shown[0].contains("tenant=\"a\"") && shown[0].contains("type=\"run.started\""),
        "{shown:?}"
    );
}

#[tokio::test]
#[ignore = "needs the servers: make live"]
async fn beyond_the_limit_label_sets_are_one_line() {
    let config = config();
    let name = unique("soma_many");
    let metrics: Vec<_> = ["a", "b", "c", "d", "e"]
        .iter()
        .map(|t| metric(&name, t, 10, 0, 2.0))
        .collect();
    let mut sink = PushgatewaySink::connect(&config).await.unwrap();
    sink.write(&batch(&metrics), &Plain::of::<Metric>()).await.unwrap();
    let shown = lines(&config, &name).await;
    assert_eq!(values(&shown), ["4", "2", "2", "2"], "{shown:?}");
    assert!(shown[0].contains("overflow=\"true\""), "{shown:?}");
}

#[tokio::test]
#[ignore = "needs the servers: make live"]
async fn a_bad_sample_blocks_nobody() {
    let config = config();
    let name = unique("soma_good");
    let mut records = batch(&[
        metric("9 bad", "a", 1, 0, 1.0),
        metric(&name, "a\"\n\\ä", 1, 0, f64::NAN),
        metric(&name, "b", 1, 0, 1.0),
    ]);
    records.push(poison("soma.metrics", 0, 3));
    let mut sink = PushgatewaySink::connect(&config).await.unwrap();
    let rejected = sink.write(&records, &Plain::of::<Metric>()).await.unwrap();
    let codes: Vec<_> = rejected.iter().map(|r| (r.index, r.fault.code)).collect();
    assert_eq!(codes, [(0, FaultCode::RecordInvalid), (3, FaultCode::RecordNotFramed)]);
    assert_eq!(values(&lines(&config, &name).await), ["NaN", "1"]);
}

/// A name that is free for us may clash with a metric Pushgateway has in another type; it says 400 and always will.
#[tokio::test]
#[ignore = "needs the servers: make live"]
async fn a_view_pushgateway_cannot_take_is_rejected_and_the_next_one_is_shown() {
    let config = config();
    let good = unique("soma_good");
    let clash = "go_gc_duration_seconds";
    let mut sink = PushgatewaySink::connect(&config).await.unwrap();
    let records = batch(&[metric(clash, "a", 1, 0, 1.0), metric(&good, "a", 1, 0, 1.0)]);
    let rejected = sink.write(&records, &Plain::of::<Metric>()).await.unwrap();
    assert_eq!(values(&lines(&config, &good).await), ["1"]);
    assert_eq!(rejected.len(), 1, "{rejected:?}");
    assert_eq!(
        (rejected[0].index, rejected[0].fault.code),
        (0, FaultCode::RecordInvalid)
    );
}

#[tokio::test]
#[ignore = "needs the servers: make live"]
async fn an_outage_shows_quickly_and_ends_without_a_restart() {
    let mut config = config();
    let name = unique("soma_outage");
    let relay = Relay::new(&config.url).await;
    config.url = relay.url();
    let mut sink = PushgatewaySink::connect(&config).await.unwrap();
    let (decoder, records) = (Plain::of::<Metric>(), batch(&[metric(&name, "a", 1, 0, 1.0)]));
    relay.cut();
    assert_eq!(
        sink.write(&records, &decoder).await.unwrap_err().code,
        FaultCode::StoreUnavailable
    );
    assert_eq!(sink.probe().await.unwrap_err().code, FaultCode::StoreUnavailable);
    relay.mute();
    let began = std::time::Instant::now();
    assert_eq!(
        sink.write(&records, &decoder).await.unwrap_err().code,
        FaultCode::StoreUnavailable
    );
    assert!(began.elapsed().as_secs() < 5);
    relay.mend();
    assert!(sink.write(&records, &decoder).await.unwrap().is_empty());
    assert_eq!(values(&lines(&config, &name).await), ["1"]);
}

#[tokio::test]
#[ignore = "needs the servers: make live"]
async fn a_view_that_nobody_computes_any_more_is_deleted_and_others_are_not() {
    let config = config();
    let (living, dropped) = (unique("soma_living"), unique("soma_dropped"));
    let foreign = Config {
        pipeline: unique("foreign"),
        ..config.clone()
    };
    let decoder = Plain::of::<Metric>();
    let mut theirs = PushgatewaySink::connect(&foreign).await.unwrap();
    theirs
        .write(&batch(&[metric(&living, "a", 10, 0, 7.0)]), &decoder)
        .await
        .unwrap();
    let mut sink = PushgatewaySink::connect(&config).await.unwrap();
    let both = batch(&[metric(&living, "a", 10, 0, 1.0), metric(&dropped, "a", 10, 0, 2.0)]);
    sink.write(&both, &decoder).await.unwrap();
    // A group of a former grouping, with a label that is no longer used.
    let old = format!(
        "{}/metrics/job/soma/instance/old/pipeline/{}/view/x",
        config.url, config.pipeline
    );
    let body = "soma_x 1\nsoma_x_window_end_seconds 600\n";
    reqwest::Client::new()
        .put(&old)
        .body(body)
        .send()
        .await
        .unwrap()
        .error_for_status()
        .unwrap();
    // An hour less a minute later both stay; then what stood still goes.
    for (minute, kept) in [(69, 1), (72, 0)] {
        sink.write(&batch(&[metric(&living, "a", minute, 0, 3.0)]), &decoder)
            .await
            .unwrap();
        assert_eq!(values(&lines(&config, &living).await), ["3"]);
        assert_eq!(lines(&config, &dropped).await.len(), kept, "minute {minute}");
        assert_eq!(lines(&config, "soma_x").await.len(), kept, "minute {minute}");
    }
    assert_eq!(
        values(&lines(&foreign, &living).await),
        ["7"],
        "another pipeline's is left alone"
    );
    // It comes back when it is computed again.
    sink.write(&batch(&[metric(&dropped, "a", 72, 0, 4.0)]), &decoder)
        .await
        .unwrap();
    assert_eq!(values(&lines(&config, &dropped).await), ["4"]);
}
