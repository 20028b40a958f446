//! The demo's metrics: what the events on their topic add up to per minute, and whether `soma.metrics`, ClickHouse and
//! Pushgateway say the same.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use kernel::{Fault, FaultCode};
use schemas::records::{Event, Metric};
use schemas::topics;

use super::figures::{Topics, read};
use super::{Demo, say, script};
use crate::cli::prometheus;

const LIMIT: Duration = Duration::from_secs(120);
const MINUTE_US: i64 = 60_000_000;
const NAME: &str = "soma_events_per_minute";

/// Tenant, event type and first microsecond of the minute.
type Place = (String, String, i64);

/// Waits until the minutes of this demo have closed everywhere; prints what reached Pushgateway, returns what disagrees.
pub(super) fn check(demo: &Demo, topics: &Topics) -> Result<Vec<String>, Fault> {
    say("  (a minute closes a few seconds after it is over; waiting for it)")?;
    let deadline = Instant::now() + LIMIT;
    loop {
        let (wrong, pushed) = compare(demo, topics)?;
        if wrong.is_empty() || Instant::now() > deadline {
            for line in pushed.iter().take(12) {
                say(&format!("  {line}"))?;
            }
            return Ok(wrong);
        }
        std::thread::sleep(Duration::from_secs(1));
    }
}

fn ours(tenant: &str) -> bool {
    script::TENANTS.contains(&tenant)
}

fn compare(demo: &Demo, topics: &Topics) -> Result<(Vec<String>, Vec<String>), Fault> {
    let mut wrong = Vec::new();
    let minutes: BTreeSet<i64> = topics
        .events
        .iter()
        .map(|e| e.ts.0 - e.ts.0.rem_euclid(MINUTE_US))
        .collect();
    let mut counted: BTreeMap<Place, f64> = BTreeMap::new();
    for e in read(demo, topics::EVENTS, |e: &Event| ours(&e.tenant))? {
        let minute = e.ts.0 - e.ts.0.rem_euclid(MINUTE_US);
        if minutes.contains(&minute) {
            *counted.entry((e.tenant, e.kind, minute)).or_default() += 1.0;
        }
    }
    let mut all = read(demo, topics::METRICS, |m: &Metric| {
        m.name == NAME && m.labels.get("tenant").is_some_and(|t| ours(t))
    })?;
    all.sort_by_key(|m| m.revision);
    let label = |m: &Metric, name: &str| m.labels.get(name).cloned().unwrap_or_default();
    let said: BTreeMap<Place, f64> = all
        .iter()
        .map(|m| ((label(m, "tenant"), label(m, "type"), m.window_start.0), m.value))
        .collect();
    wrong.extend(differ("soma.metrics", &said, "soma.events add up to", &counted));
    wrong.extend(differ("ClickHouse metrics", &stored(demo)?, "soma.metrics", &said));

    let mut latest: BTreeMap<(String, String), (i64, f64)> = BTreeMap::new();
    for ((tenant, kind, minute), value) in said {
        latest.insert((tenant, kind), (minute, value));
    }
    let newest = latest.values().map(|v| v.0).max().unwrap_or_default();
    let text = pushed(demo)?;
    let lines: Vec<String> = text
        .lines()
        .filter(|l| l.starts_with(NAME))
        .map(str::to_owned)
        .collect();
    let shown: BTreeMap<(String, String), f64> = prometheus::parse(&text)
        .into_iter()
        .filter(|s| s.name == NAME && ours(s.label("tenant")))
        .map(|s| ((s.label("tenant").to_owned(), s.label("type").to_owned()), s.value))
        .collect();
    for (place, (minute, value)) in &latest {
        match shown.get(place) {
            Some(have) if have == value => {}
            // Label sets that stopped long ago are taken down.
            None if *minute < newest => {}
            have => wrong.push(format!(
                "Pushgateway shows {have:?} for {place:?}, soma.metrics {value}"
            )),
        }
    }
    let tenant = |l: &String| script::TENANTS.iter().any(|t| l.contains(&format!("tenant=\"{t}\"")));
    Ok((wrong, lines.into_iter().filter(tenant).collect()))
}

/// Every place of `want` that `have` shows otherwise.
fn differ(what: &str, have: &BTreeMap<Place, f64>, of: &str, want: &BTreeMap<Place, f64>) -> Vec<String> {
    let wrong = want.iter().filter(|(place, value)| have.get(place) != Some(value));
    wrong
        .map(|(place, value)| format!("{what}: {:?} for {place:?}, {of} {value}", have.get(place)))
        .collect()
}

fn stored(demo: &Demo) -> Result<BTreeMap<Place, f64>, Fault> {
    let reader = sinks::clickhouse::Reader::new(&crate::stores::clickhouse(&demo.at)?)?;
    let tenants: Vec<_> = script::TENANTS.iter().map(|t| format!("'{t}'")).collect();
    let sql = format!(
        "SELECT tenant, type, toInt64(toUnixTimestamp64Micro(window_start)), argMax(value, revision) FROM metrics WHERE name = '{NAME}' AND tenant IN ({}) GROUP BY ALL",
        tenants.join(",")
    );
    let answer = demo.runtime.block_on(reader.query_json(&sql))?;
    let number = |v: &serde_json::Value| v.as_f64().or_else(|| v.as_str()?.parse().ok());
    let rows = answer.rows.iter().filter_map(|r| {
        let minute = r.get(2)?;
        let minute = minute.as_i64().or_else(|| minute.as_str()?.parse().ok())?;
        let place = (r.first()?.as_str()?.to_owned(), r.get(1)?.as_str()?.to_owned(), minute);
        Some((place, number(r.get(3)?)?))
    });
    Ok(rows.collect())
}

fn pushed(demo: &Demo) -> Result<String, Fault> {
    let url = &demo.at.pushgateway.url;
    let asked = async { reqwest::get(format!("{url}/metrics")).await?.text().await };
    let answer = demo.runtime.block_on(asked);
    answer.map_err(|e| Fault::new(FaultCode::StoreUnavailable, format!("{url}: {e}")))
}
