-- What dashboards ask for, one table per topic. Rules for every table:
-- * `_topic`, `_partition`, `_offset`, `_at` say where on the log a row came from; the projection `positions` answers
--   "how far have we got" without reading the table.
-- * No PARTITION BY: an insert must become exactly one part, so that it is all or nothing. TTL removes old rows in merges.
-- * non_replicated_deduplication_window lets an insert be recognised by its token when it comes again.
-- * Every statement may be run twice. A file that has been applied is never changed.

CREATE TABLE IF NOT EXISTS events (
    event_id String,
    ts DateTime64(6, 'UTC'),
    tenant LowCardinality(String),
    run_id String,
    type LowCardinality(String),
    payload Map(String, String),
    _topic LowCardinality(String),
    _partition Int32,
    _offset Int64,
    _at DateTime64(6, 'UTC'),
    INDEX by_run run_id TYPE bloom_filter(0.01) GRANULARITY 4,
    PROJECTION positions (SELECT _topic, _partition, count(), max(_offset), max(_at) GROUP BY _topic, _partition)
) ENGINE = MergeTree
ORDER BY (tenant, type, ts)
TTL toDateTime(ts) + INTERVAL 90 DAY
SETTINGS non_replicated_deduplication_window = 10000;

CREATE TABLE IF NOT EXISTS runs (
    run_id String,
    revision Int64,
    plan_id String,
    tenant LowCardinality(String),
    actor String,
    goal String,
    capsule LowCardinality(String),
    idempotency_key String,
    status LowCardinality(String),
    reason String,
    fault_code LowCardinality(String),
    fault_detail String,
    steps_total UInt32,
    steps_succeeded UInt32,
    waiting UInt32,
    tools Array(LowCardinality(String)),
    steps String,
    cost_usd Decimal(18, 6),
    requested_at DateTime64(6, 'UTC'),
    created_at DateTime64(6, 'UTC'),
    updated_at DateTime64(6, 'UTC'),
    finished_at Nullable(DateTime64(6, 'UTC')),
    _topic LowCardinality(String),
    _partition Int32,
    _offset Int64,
    _at DateTime64(6, 'UTC'),
    PROJECTION positions (SELECT _topic, _partition, count(), max(_offset), max(_at) GROUP BY _topic, _partition)
) ENGINE = MergeTree
ORDER BY (tenant, run_id, revision)
TTL toDateTime(updated_at) + INTERVAL 365 DAY
SETTINGS non_replicated_deduplication_window = 10000;

CREATE TABLE IF NOT EXISTS verdicts (
    verdict_id String,
    run_id String,
    tenant LowCardinality(String),
    subject LowCardinality(String),
    subject_id String,
    decision LowCardinality(String),
    score Float64,
    severity LowCardinality(String),
    rules Array(LowCardinality(String)),
    violations String,
    reason String,
    policy_revision LowCardinality(String),
    constitution_hash LowCardinality(String),
    digest String,
    approval_id String,
    evaluation_us Int64,
    decided_at DateTime64(6, 'UTC'),
    _topic LowCardinality(String),
    _partition Int32,
    _offset Int64,
    _at DateTime64(6, 'UTC'),
    INDEX by_run run_id TYPE bloom_filter(0.01) GRANULARITY 4,
    PROJECTION positions (SELECT _topic, _partition, count(), max(_offset), max(_at) GROUP BY _topic, _partition)
) ENGINE = MergeTree
ORDER BY (tenant, decision, decided_at)
TTL toDateTime(decided_at) + INTERVAL 730 DAY
SETTINGS non_replicated_deduplication_window = 10000;

CREATE TABLE IF NOT EXISTS outcomes (
    call_id String,
    run_id String,
    tenant LowCardinality(String),
    capsule LowCardinality(String),
    step_id String,
    kind LowCardinality(String),
    attempt Int32,
    tool LowCardinality(String),
    operation LowCardinality(String),
    status LowCardinality(String),
    result String,
    fault_code LowCardinality(String),
    fault_detail String,
    idempotency_key String,
    digest String,
    latency_us Int64,
    cost_usd Decimal(18, 6),
    requested_at DateTime64(6, 'UTC'),
    finished_at DateTime64(6, 'UTC'),
    _topic LowCardinality(String),
    _partition Int32,
    _offset Int64,
    _at DateTime64(6, 'UTC'),
    INDEX by_run run_id TYPE bloom_filter(0.01) GRANULARITY 4,
    PROJECTION positions (SELECT _topic, _partition, count(), max(_offset), max(_at) GROUP BY _topic, _partition)
) ENGINE = MergeTree
ORDER BY (tenant, tool, finished_at)
TTL toDateTime(finished_at) + INTERVAL 365 DAY
SETTINGS non_replicated_deduplication_window = 10000;

CREATE TABLE IF NOT EXISTS metrics (
    name LowCardinality(String),
    labels Map(LowCardinality(String), String),
    tenant LowCardinality(String),
    type LowCardinality(String),
    window_start DateTime64(6, 'UTC'),
    window_end DateTime64(6, 'UTC'),
    value Float64,
    revision Int32,
    emitted_at DateTime64(6, 'UTC'),
    _topic LowCardinality(String),
    _partition Int32,
    _offset Int64,
    _at DateTime64(6, 'UTC'),
    PROJECTION positions (SELECT _topic, _partition, count(), max(_offset), max(_at) GROUP BY _topic, _partition)
) ENGINE = MergeTree
ORDER BY (name, tenant, type, window_start, revision)
TTL toDateTime(window_end) + INTERVAL 365 DAY
SETTINGS non_replicated_deduplication_window = 10000;
