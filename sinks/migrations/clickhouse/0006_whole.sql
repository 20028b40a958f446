-- Facts and minutes whole, whatever a kill left of an insert (sinks/src/clickhouse/sink.rs, minutes.rs).
--
-- A server that is killed in the middle of an insert can be left with the insert's token and without its rows: it writes the token
-- down first. From then on it takes the insert, says so, and keeps nothing; the views it does feed, which know the token by
-- themselves. The sink sees that the rows are missing and inserts them under another token, as `_again`: the views pass over
-- such rows, since the minute tables have counted them.
--
-- A minute table can be left without a block in the same way, or because nobody was there to make the insert again. `_next` is the
-- offset behind the last record of a partition that it has counted (0: kept before this file): where it is behind the facts, the
-- sink feeds it the facts in between.

ALTER TABLE events ADD COLUMN IF NOT EXISTS _again Bool DEFAULT false;
ALTER TABLE runs ADD COLUMN IF NOT EXISTS _again Bool DEFAULT false;
ALTER TABLE verdicts ADD COLUMN IF NOT EXISTS _again Bool DEFAULT false;
ALTER TABLE outcomes ADD COLUMN IF NOT EXISTS _again Bool DEFAULT false;
ALTER TABLE metrics ADD COLUMN IF NOT EXISTS _again Bool DEFAULT false;
ALTER TABLE audit ADD COLUMN IF NOT EXISTS _again Bool DEFAULT false;
ALTER TABLE checkpoints ADD COLUMN IF NOT EXISTS _again Bool DEFAULT false;
ALTER TABLE events_1m ADD COLUMN IF NOT EXISTS _next SimpleAggregateFunction(max, Int64);
ALTER TABLE verdicts_1m ADD COLUMN IF NOT EXISTS _next SimpleAggregateFunction(max, Int64);
ALTER TABLE rules_1m ADD COLUMN IF NOT EXISTS _next SimpleAggregateFunction(max, Int64);
ALTER TABLE runs_1m ADD COLUMN IF NOT EXISTS _next SimpleAggregateFunction(max, Int64);
ALTER TABLE calls_1m ADD COLUMN IF NOT EXISTS _next SimpleAggregateFunction(max, Int64);
ALTER TABLE audit_1m ADD COLUMN IF NOT EXISTS _next SimpleAggregateFunction(max, Int64);

ALTER TABLE events_1m_feed MODIFY QUERY
SELECT
    toStartOfMinute(ts) AS minute, tenant, type,
    payload['capsule'] AS capsule, payload['tool'] AS tool, payload['code'] AS code, _partition,
    count() AS events, min(_offset) AS _first, max(_offset) + 1 AS _next
FROM events
WHERE NOT _again
GROUP BY minute, tenant, type, capsule, tool, code, _partition;

ALTER TABLE verdicts_1m_feed MODIFY QUERY
SELECT
    toStartOfMinute(decided_at) AS minute, tenant, subject, decision, severity, _partition,
    count() AS verdicts, sum(v.evaluation_us) AS evaluation_us,
    quantilesBFloat16State(0.5, 0.95, 0.99)(v.evaluation_us) AS evaluation, min(_offset) AS _first, max(_offset) + 1 AS _next
FROM verdicts AS v
WHERE NOT _again
GROUP BY minute, tenant, subject, decision, severity, _partition;

ALTER TABLE rules_1m_feed MODIFY QUERY
SELECT
    toStartOfMinute(decided_at) AS minute, tenant, arrayJoin(if(empty(rules), [''], arrayDistinct(rules))) AS rule, decision, _partition,
    count() AS verdicts, min(_offset) AS _first, max(_offset) + 1 AS _next
FROM verdicts
WHERE NOT _again
GROUP BY minute, tenant, rule, decision, _partition;

ALTER TABLE runs_1m_feed MODIFY QUERY
SELECT
    toStartOfMinute(updated_at) AS minute, tenant, capsule, status, fault_code AS code, _partition,
    count() AS states, uniqExactState(run_id) AS runs, uniqExactIfState(run_id, finished_at IS NOT NULL) AS ended,
    quantilesBFloat16IfState(0.5, 0.95, 0.99)(
        dateDiff('millisecond', requested_at, ifNull(finished_at, requested_at)), finished_at IS NOT NULL) AS took,
    min(_offset) AS _first, max(_offset) + 1 AS _next
FROM runs
WHERE NOT _again
GROUP BY minute, tenant, capsule, status, code, _partition;

ALTER TABLE calls_1m_feed MODIFY QUERY
SELECT
    toStartOfMinute(finished_at) AS minute, tenant, capsule, tool, operation, kind, status, fault_code AS code, _partition,
    count() AS calls, countIf(attempt > 1) AS retries, sum(o.cost_usd) AS cost_usd, sum(o.latency_us) AS latency_us,
    quantilesBFloat16State(0.5, 0.95, 0.99)(o.latency_us) AS latency, min(_offset) AS _first, max(_offset) + 1 AS _next
FROM outcomes AS o
WHERE NOT _again
GROUP BY minute, tenant, capsule, tool, operation, kind, status, code, _partition;

ALTER TABLE audit_1m_feed MODIFY QUERY
SELECT
    toStartOfMinute(written_at) AS minute, tenant, record, fact,
    if(record = 'Control', substringIndex(subject, ':', 1), '') AS scope, _partition,
    count() AS entries, min(_offset) AS _first, max(_offset) + 1 AS _next
FROM audit
WHERE NOT _again
GROUP BY minute, tenant, record, fact, scope, _partition;
