//! What the demo asks for: the requests of its four tenants and the dashboard's queries.

use schemas::Timestamp;
use schemas::records::Request;

/// The demo's tenants. `umbrella` is read-only by policy data.
pub(crate) const TENANTS: &[&str] = &["acme", "globex", "initech", "umbrella"];

/// Queries of the dashboard.
pub(crate) const DASHBOARD: &[&str] = &[
    "SELECT tenant, status, count() AS runs FROM runs_latest GROUP BY tenant, status ORDER BY tenant, status",
    "SELECT tenant, decision, count() AS verdicts, round(avg(score), 3) AS score FROM verdicts GROUP BY tenant, decision ORDER BY tenant, decision",
    "SELECT tool, status, count() AS calls, round(quantile(0.95)(latency_us) / 1000, 1) AS p95_ms FROM outcomes GROUP BY tool, status ORDER BY tool, status",
];

fn request(tag: &str, tenant: &str, name: &str, goal: &str, capsule: &str, inputs: &[(&str, &str)]) -> Request {
    let since = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    Request {
        tenant: tenant.to_owned(),
        actor: format!("{tenant}-operator"),
        idempotency_key: format!("{tag}-{name}"),
        goal: goal.to_owned(),
        capsule: Some(capsule.to_owned()),
        inputs: inputs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
        requested_at: Timestamp(i64::try_from(since.as_micros()).unwrap_or(i64::MAX)),
        ..Request::default()
    }
}

fn service(tag: &str, name: &str) -> String {
    format!("{name}-{}", tag.trim_start_matches("demo-"))
}

/// Allowed, denied, failing and compensated.
pub(crate) fn first_wave(tag: &str, receiver: &str) -> Vec<Request> {
    let (web, api, shop) = (service(tag, "web"), service(tag, "api"), service(tag, "shop"));
    let ok = format!("{receiver}/ok");
    let mut all = vec![
        request(
            tag,
            "acme",
            "web",
            "roll out the web front end",
            "service_rollout",
            &[("service", &web), ("replicas", "2")],
        ),
        request(
            tag,
            "globex",
            "api",
            "roll out the public API",
            "service_rollout",
            &[("service", &api), ("replicas", "3"), ("region", "us-east")],
        ),
        request(
            tag,
            "initech",
            "shop",
            "roll out the shop, whose check fails",
            "service_rollout",
            &[("service", &shop), ("replicas", "1"), ("fail_check", "true")],
        ),
        request(
            tag,
            "umbrella",
            "lab",
            "roll out the lab",
            "service_rollout",
            &[("service", &service(tag, "lab")), ("replicas", "1")],
        ),
        request(
            tag,
            "globex",
            "drop",
            "probe, then drop table users",
            "endpoint_probe",
            &[("url", &ok)],
        ),
    ];
    for tenant in TENANTS {
        all.push(request(
            tag,
            tenant,
            &format!("probe-{tenant}"),
            "see whether the endpoint is alive",
            "endpoint_probe",
            &[("url", &ok)],
        ));
    }
    all
}

/// A change to what the first wave rolled out: its plan destroys.
pub(crate) fn second_wave(tag: &str) -> Vec<Request> {
    vec![request(
        tag,
        "acme",
        "web-grow",
        "give the web front end more replicas",
        "service_rollout",
        &[("service", &service(tag, "web")), ("replicas", "5")],
    )]
}
