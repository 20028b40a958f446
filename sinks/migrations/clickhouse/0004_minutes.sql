-- Minute tables: what dashboards ask for again and again, counted once as rows come in. Rules for every one of them:
-- * A view feeds it from the facts' inserts. An insert carries a token and deduplicate_blocks_in_dependent_materialized_views, and
--   the minute table has a window of its own, so that an insert made again counts once (sinks/src/clickhouse/sink.rs).
-- * Every measure merges exactly, whatever the order: sums, sets, and quantiles of bfloat16 (within 0.4 % of the value), so that a
--   minute table equals its recomputation from the facts to the last digit. `minutes_drift` (0005) compares them.
-- * `_first` is the least offset of a partition that the view has seen. The INSERT below each view counts what was kept before the
--   view was there, and only that: run again it adds nothing, and of two that run it at once the token takes one. After a
--   TRUNCATE, with the sink stopped, it rebuilds the table.
-- * No PARTITION BY, as for the facts: a block stays one part. Kept two years, longer than the facts.

CREATE TABLE IF NOT EXISTS events_1m (
    minute DateTime('UTC'),
    tenant LowCardinality(String),
    type LowCardinality(String),
    capsule LowCardinality(String),
    tool LowCardinality(String),
    code LowCardinality(String),
    _partition Int32,
    events SimpleAggregateFunction(sum, UInt64),
    _first SimpleAggregateFunction(min, Int64)
) ENGINE = AggregatingMergeTree
ORDER BY (type, minute, tenant, capsule, tool, code, _partition)
TTL minute + INTERVAL 730 DAY
SETTINGS non_replicated_deduplication_window = 10000;

CREATE MATERIALIZED VIEW IF NOT EXISTS events_1m_feed TO events_1m AS
SELECT
    toStartOfMinute(ts) AS minute, tenant, type,
    payload['capsule'] AS capsule, payload['tool'] AS tool, payload['code'] AS code, _partition,
    count() AS events, min(_offset) AS _first
FROM events
GROUP BY minute, tenant, type, capsule, tool, code, _partition;

INSERT INTO events_1m (minute, tenant, type, capsule, tool, code, _partition, events, _first)
SELECT
    toStartOfMinute(ts) AS minute, tenant, type,
    payload['capsule'] AS capsule, payload['tool'] AS tool, payload['code'] AS code, _partition,
    count() AS events, min(_offset) AS _first
FROM events
LEFT JOIN (SELECT _partition, min(_first) AS seen FROM events_1m GROUP BY _partition) AS fed USING (_partition)
WHERE seen IS NULL OR _offset < seen
GROUP BY minute, tenant, type, capsule, tool, code, _partition
SETTINGS join_use_nulls = 1, insert_deduplicate = 1, insert_deduplication_token = '0004 events_1m';

CREATE TABLE IF NOT EXISTS verdicts_1m (
    minute DateTime('UTC'),
    tenant LowCardinality(String),
    subject LowCardinality(String),
    decision LowCardinality(String),
    severity LowCardinality(String),
    _partition Int32,
    verdicts SimpleAggregateFunction(sum, UInt64),
    evaluation_us SimpleAggregateFunction(sum, Int64),
    evaluation AggregateFunction(quantilesBFloat16(0.5, 0.95, 0.99), Int64),
    _first SimpleAggregateFunction(min, Int64)
) ENGINE = AggregatingMergeTree
ORDER BY (minute, tenant, subject, decision, severity, _partition)
TTL minute + INTERVAL 730 DAY
SETTINGS non_replicated_deduplication_window = 10000;

CREATE MATERIALIZED VIEW IF NOT EXISTS verdicts_1m_feed TO verdicts_1m AS
SELECT
    toStartOfMinute(decided_at) AS minute, tenant, subject, decision, severity, _partition,
    count() AS verdicts, sum(v.evaluation_us) AS evaluation_us,
    quantilesBFloat16State(0.5, 0.95, 0.99)(v.evaluation_us) AS evaluation, min(_offset) AS _first
FROM verdicts AS v
GROUP BY minute, tenant, subject, decision, severity, _partition;

INSERT INTO verdicts_1m (minute, tenant, subject, decision, severity, _partition, verdicts, evaluation_us, evaluation, _first)
SELECT
    toStartOfMinute(decided_at) AS minute, tenant, subject, decision, severity, _partition,
    count() AS verdicts, sum(v.evaluation_us) AS evaluation_us,
    quantilesBFloat16State(0.5, 0.95, 0.99)(v.evaluation_us) AS evaluation, min(_offset) AS _first
FROM verdicts AS v
LEFT JOIN (SELECT _partition, min(_first) AS seen FROM verdicts_1m GROUP BY _partition) AS fed USING (_partition)
WHERE seen IS NULL OR _offset < seen
GROUP BY minute, tenant, subject, decision, severity, _partition
SETTINGS join_use_nulls = 1, insert_deduplicate = 1, insert_deduplication_token = '0004 verdicts_1m';

-- By rule: a verdict counts once under each rule it breaks, and under none when it breaks none.
CREATE TABLE IF NOT EXISTS rules_1m (
    minute DateTime('UTC'),
    tenant LowCardinality(String),
    rule LowCardinality(String),
    decision LowCardinality(String),
    _partition Int32,
    verdicts SimpleAggregateFunction(sum, UInt64),
    _first SimpleAggregateFunction(min, Int64)
) ENGINE = AggregatingMergeTree
ORDER BY (minute, tenant, rule, decision, _partition)
TTL minute + INTERVAL 730 DAY
SETTINGS non_replicated_deduplication_window = 10000;

CREATE MATERIALIZED VIEW IF NOT EXISTS rules_1m_feed TO rules_1m AS
SELECT
    toStartOfMinute(decided_at) AS minute, tenant, arrayJoin(if(empty(rules), [''], arrayDistinct(rules))) AS rule, decision, _partition,
    count() AS verdicts, min(_offset) AS _first
FROM verdicts
GROUP BY minute, tenant, rule, decision, _partition;

INSERT INTO rules_1m (minute, tenant, rule, decision, _partition, verdicts, _first)
SELECT
    toStartOfMinute(decided_at) AS minute, tenant, arrayJoin(if(empty(rules), [''], arrayDistinct(rules))) AS rule, decision, _partition,
    count() AS verdicts, min(_offset) AS _first
FROM verdicts
LEFT JOIN (SELECT _partition, min(_first) AS seen FROM rules_1m GROUP BY _partition) AS fed USING (_partition)
WHERE seen IS NULL OR _offset < seen
GROUP BY minute, tenant, rule, decision, _partition
SETTINGS join_use_nulls = 1, insert_deduplicate = 1, insert_deduplication_token = '0004 rules_1m';

-- A run is published again and again: in a minute it counts once under each state it was in. A set of ids, so that an end which is
-- published twice is one end. `took` is of ended runs, from request to end.
CREATE TABLE IF NOT EXISTS runs_1m (
    minute DateTime('UTC'),
    tenant LowCardinality(String),
    capsule LowCardinality(String),
    status LowCardinality(String),
    code LowCardinality(String),
    _partition Int32,
    states SimpleAggregateFunction(sum, UInt64),
    runs AggregateFunction(uniqExact, String),
    ended AggregateFunction(uniqExactIf, String, UInt8),
    took AggregateFunction(quantilesBFloat16If(0.5, 0.95, 0.99), Int64, UInt8),
    _first SimpleAggregateFunction(min, Int64)
) ENGINE = AggregatingMergeTree
ORDER BY (minute, tenant, capsule, status, code, _partition)
TTL minute + INTERVAL 730 DAY
SETTINGS non_replicated_deduplication_window = 10000;

CREATE MATERIALIZED VIEW IF NOT EXISTS runs_1m_feed TO runs_1m AS
SELECT
    toStartOfMinute(updated_at) AS minute, tenant, capsule, status, fault_code AS code, _partition,
    count() AS states, uniqExactState(run_id) AS runs, uniqExactIfState(run_id, finished_at IS NOT NULL) AS ended,
    quantilesBFloat16IfState(0.5, 0.95, 0.99)(
        dateDiff('millisecond', requested_at, ifNull(finished_at, requested_at)), finished_at IS NOT NULL) AS took,
    min(_offset) AS _first
FROM runs
GROUP BY minute, tenant, capsule, status, code, _partition;

INSERT INTO runs_1m (minute, tenant, capsule, status, code, _partition, states, runs, ended, took, _first)
SELECT
    toStartOfMinute(updated_at) AS minute, tenant, capsule, status, fault_code AS code, _partition,
    count() AS states, uniqExactState(run_id) AS runs, uniqExactIfState(run_id, finished_at IS NOT NULL) AS ended,
    quantilesBFloat16IfState(0.5, 0.95, 0.99)(
        dateDiff('millisecond', requested_at, ifNull(finished_at, requested_at)), finished_at IS NOT NULL) AS took,
    min(_offset) AS _first
FROM runs
LEFT JOIN (SELECT _partition, min(_first) AS seen FROM runs_1m GROUP BY _partition) AS fed USING (_partition)
WHERE seen IS NULL OR _offset < seen
GROUP BY minute, tenant, capsule, status, code, _partition
SETTINGS join_use_nulls = 1, insert_deduplicate = 1, insert_deduplication_token = '0004 runs_1m';

-- Calls of tools, from their outcomes: the latency of a step is that of its calls.
CREATE TABLE IF NOT EXISTS calls_1m (
    minute DateTime('UTC'),
    tenant LowCardinality(String),
    capsule LowCardinality(String),
    tool LowCardinality(String),
    operation LowCardinality(String),
    kind LowCardinality(String),
    status LowCardinality(String),
    code LowCardinality(String),
    _partition Int32,
    calls SimpleAggregateFunction(sum, UInt64),
    retries SimpleAggregateFunction(sum, UInt64),
    cost_usd SimpleAggregateFunction(sum, Decimal(38, 6)),
    latency_us SimpleAggregateFunction(sum, Int64),
    latency AggregateFunction(quantilesBFloat16(0.5, 0.95, 0.99), Int64),
    _first SimpleAggregateFunction(min, Int64)
) ENGINE = AggregatingMergeTree
ORDER BY (minute, tenant, tool, operation, kind, status, capsule, code, _partition)
TTL minute + INTERVAL 730 DAY
SETTINGS non_replicated_deduplication_window = 10000;

CREATE MATERIALIZED VIEW IF NOT EXISTS calls_1m_feed TO calls_1m AS
SELECT
    toStartOfMinute(finished_at) AS minute, tenant, capsule, tool, operation, kind, status, fault_code AS code, _partition,
    count() AS calls, countIf(attempt > 1) AS retries, sum(o.cost_usd) AS cost_usd, sum(o.latency_us) AS latency_us,
    quantilesBFloat16State(0.5, 0.95, 0.99)(o.latency_us) AS latency, min(_offset) AS _first
FROM outcomes AS o
GROUP BY minute, tenant, capsule, tool, operation, kind, status, code, _partition;

INSERT INTO calls_1m (minute, tenant, capsule, tool, operation, kind, status, code, _partition,
    calls, retries, cost_usd, latency_us, latency, _first)
SELECT
    toStartOfMinute(finished_at) AS minute, tenant, capsule, tool, operation, kind, status, fault_code AS code, _partition,
    count() AS calls, countIf(attempt > 1) AS retries, sum(o.cost_usd) AS cost_usd, sum(o.latency_us) AS latency_us,
    quantilesBFloat16State(0.5, 0.95, 0.99)(o.latency_us) AS latency, min(_offset) AS _first
FROM outcomes AS o
LEFT JOIN (SELECT _partition, min(_first) AS seen FROM calls_1m GROUP BY _partition) AS fed USING (_partition)
WHERE seen IS NULL OR _offset < seen
GROUP BY minute, tenant, capsule, tool, operation, kind, status, code, _partition
SETTINGS join_use_nulls = 1, insert_deduplicate = 1, insert_deduplication_token = '0004 calls_1m';

-- What people did, from the audit chains: approvals and denials, kill switches and their scope, strikes, policies, members.
CREATE TABLE IF NOT EXISTS audit_1m (
    minute DateTime('UTC'),
    tenant LowCardinality(String),
    record LowCardinality(String),
    fact LowCardinality(String),
    scope LowCardinality(String),
    _partition Int32,
    entries SimpleAggregateFunction(sum, UInt64),
    _first SimpleAggregateFunction(min, Int64)
) ENGINE = AggregatingMergeTree
ORDER BY (record, minute, tenant, fact, scope, _partition)
TTL minute + INTERVAL 730 DAY
SETTINGS non_replicated_deduplication_window = 10000;

CREATE MATERIALIZED VIEW IF NOT EXISTS audit_1m_feed TO audit_1m AS
SELECT
    toStartOfMinute(written_at) AS minute, tenant, record, fact,
    if(record = 'Control', substringIndex(subject, ':', 1), '') AS scope, _partition,
    count() AS entries, min(_offset) AS _first
FROM audit
GROUP BY minute, tenant, record, fact, scope, _partition;

INSERT INTO audit_1m (minute, tenant, record, fact, scope, _partition, entries, _first)
SELECT
    toStartOfMinute(written_at) AS minute, tenant, record, fact,
    if(record = 'Control', substringIndex(subject, ':', 1), '') AS scope, _partition,
    count() AS entries, min(_offset) AS _first
FROM audit
LEFT JOIN (SELECT _partition, min(_first) AS seen FROM audit_1m GROUP BY _partition) AS fed USING (_partition)
WHERE seen IS NULL OR _offset < seen
GROUP BY minute, tenant, record, fact, scope, _partition
SETTINGS join_use_nulls = 1, insert_deduplicate = 1, insert_deduplication_token = '0004 audit_1m';
