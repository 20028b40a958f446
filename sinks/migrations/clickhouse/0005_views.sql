-- What is asked of the minute tables and the facts together.

-- Where a minute table and its recomputation from the facts disagree; no rows when all is well. Of the last sixty days, while both
-- are kept. Quantiles and sets are compared too. A row is put right by the second statement of its table in 0004 (see there).
CREATE OR REPLACE VIEW minutes_drift AS
SELECT name, minute, what, sumForEachIf(measures, side = 'kept') AS kept, sumForEachIf(measures, side = 'facts') AS facts
FROM (
    SELECT 'kept' AS side, 'events_1m' AS name, minute,
        CAST([tenant, type, capsule, tool, code], 'Array(String)') AS what,
        [toFloat64(sum(events))] AS measures
    FROM events_1m WHERE minute >= toStartOfMinute(now() - INTERVAL 60 DAY) GROUP BY minute, what
    UNION ALL
    SELECT 'facts', 'events_1m', toStartOfMinute(ts) AS minute,
        CAST([tenant, type, payload['capsule'], payload['tool'], payload['code']], 'Array(String)') AS what,
        [toFloat64(count())]
    FROM events WHERE ts >= toStartOfMinute(now() - INTERVAL 60 DAY) GROUP BY minute, what
    UNION ALL
    SELECT 'kept' AS side, 'verdicts_1m' AS name, minute,
        CAST([tenant, subject, decision, severity], 'Array(String)') AS what,
        arrayConcat([toFloat64(sum(verdicts)), toFloat64(sum(evaluation_us))],
            arrayMap(q -> if(isNaN(q), -1., toFloat64(q)), quantilesBFloat16Merge(0.5, 0.95, 0.99)(evaluation))) AS measures
    FROM verdicts_1m WHERE minute >= toStartOfMinute(now() - INTERVAL 60 DAY) GROUP BY minute, what
    UNION ALL
    SELECT 'facts', 'verdicts_1m', toStartOfMinute(decided_at) AS minute,
        CAST([tenant, subject, decision, severity], 'Array(String)') AS what,
        arrayConcat([toFloat64(count()), toFloat64(sum(evaluation_us))],
            arrayMap(q -> if(isNaN(q), -1., toFloat64(q)), quantilesBFloat16(0.5, 0.95, 0.99)(evaluation_us)))
    FROM verdicts WHERE decided_at >= toStartOfMinute(now() - INTERVAL 60 DAY) GROUP BY minute, what
    UNION ALL
    SELECT 'kept' AS side, 'rules_1m' AS name, minute,
        CAST([tenant, rule, decision], 'Array(String)') AS what,
        [toFloat64(sum(verdicts))] AS measures
    FROM rules_1m WHERE minute >= toStartOfMinute(now() - INTERVAL 60 DAY) GROUP BY minute, what
    UNION ALL
    SELECT 'facts', 'rules_1m', toStartOfMinute(decided_at) AS minute,
        CAST([tenant, arrayJoin(if(empty(rules), [''], arrayDistinct(rules))), decision], 'Array(String)') AS what,
        [toFloat64(count())]
    FROM verdicts WHERE decided_at >= toStartOfMinute(now() - INTERVAL 60 DAY) GROUP BY minute, what
    UNION ALL
    SELECT 'kept' AS side, 'runs_1m' AS name, minute,
        CAST([tenant, capsule, status, code], 'Array(String)') AS what,
        arrayConcat([toFloat64(sum(states)), toFloat64(uniqExactMerge(runs)), toFloat64(uniqExactIfMerge(ended))],
            arrayMap(q -> if(isNaN(q), -1., toFloat64(q)), quantilesBFloat16IfMerge(0.5, 0.95, 0.99)(took))) AS measures
    FROM runs_1m WHERE minute >= toStartOfMinute(now() - INTERVAL 60 DAY) GROUP BY minute, what
    UNION ALL
    SELECT 'facts', 'runs_1m', toStartOfMinute(updated_at) AS minute,
        CAST([tenant, capsule, status, fault_code], 'Array(String)') AS what,
        arrayConcat([toFloat64(count()), toFloat64(uniqExact(run_id)), toFloat64(uniqExactIf(run_id, finished_at IS NOT NULL))],
            arrayMap(q -> if(isNaN(q), -1., toFloat64(q)), quantilesBFloat16If(0.5, 0.95, 0.99)(
            dateDiff('millisecond', requested_at, ifNull(finished_at, requested_at)), finished_at IS NOT NULL)))
    FROM runs WHERE updated_at >= toStartOfMinute(now() - INTERVAL 60 DAY) GROUP BY minute, what
    UNION ALL
    SELECT 'kept' AS side, 'calls_1m' AS name, minute,
        CAST([tenant, capsule, tool, operation, kind, status, code], 'Array(String)') AS what,
        arrayConcat([toFloat64(sum(calls)), toFloat64(sum(retries)), toFloat64(sum(cost_usd)), toFloat64(sum(latency_us))],
            arrayMap(q -> if(isNaN(q), -1., toFloat64(q)), quantilesBFloat16Merge(0.5, 0.95, 0.99)(latency))) AS measures
    FROM calls_1m WHERE minute >= toStartOfMinute(now() - INTERVAL 60 DAY) GROUP BY minute, what
    UNION ALL
    SELECT 'facts', 'calls_1m', toStartOfMinute(finished_at) AS minute,
        CAST([tenant, capsule, tool, operation, kind, status, fault_code], 'Array(String)') AS what,
        arrayConcat([toFloat64(count()), toFloat64(countIf(attempt > 1)), toFloat64(sum(cost_usd)), toFloat64(sum(latency_us))],
            arrayMap(q -> if(isNaN(q), -1., toFloat64(q)), quantilesBFloat16(0.5, 0.95, 0.99)(latency_us)))
    FROM outcomes WHERE finished_at >= toStartOfMinute(now() - INTERVAL 60 DAY) GROUP BY minute, what
    UNION ALL
    SELECT 'kept' AS side, 'audit_1m' AS name, minute,
        CAST([tenant, record, fact, scope], 'Array(String)') AS what,
        [toFloat64(sum(entries))] AS measures
    FROM audit_1m WHERE minute >= toStartOfMinute(now() - INTERVAL 60 DAY) GROUP BY minute, what
    UNION ALL
    SELECT 'facts', 'audit_1m', toStartOfMinute(written_at) AS minute,
        CAST([tenant, record, fact, if(record = 'Control', substringIndex(subject, ':', 1), '')], 'Array(String)') AS what,
        [toFloat64(count())]
    FROM audit WHERE written_at >= toStartOfMinute(now() - INTERVAL 60 DAY) GROUP BY minute, what
)
GROUP BY name, minute, what
HAVING kept != facts;

-- Every question to a human, how long it waited and what was said; `answered_at` is null while nobody has.
CREATE OR REPLACE VIEW approvals_waited AS
SELECT
    tenant, run_id, payload['subject'] AS subject,
    any(payload['capsule']) AS capsule,
    minIf(ts, type = 'run.waiting') AS asked_at,
    minOrNullIf(ts, type = 'approval.accepted' AND payload['open'] = '') AS answered_at,
    argMinIf(payload['decision'], ts, type = 'approval.accepted' AND payload['open'] = '') AS decision,
    countIf(type = 'approval.escalated') AS escalations,
    dateDiff('millisecond', asked_at, ifNull(answered_at, asked_at)) / 1000 AS waited_s
FROM events
WHERE type IN ('run.waiting', 'approval.accepted', 'approval.escalated')
GROUP BY tenant, run_id, subject
HAVING countIf(type = 'run.waiting') > 0;

-- How unusual the number of events of each minute of the last day is: the robust z-score of each tenant and type, 0.6745 (x - median)
-- / MAD over the sixty minutes before, a minute without events counted as 0. Where more than half of these are alike (MAD 0) the mean
-- deviation takes its place; where all are, the difference itself. Marked beyond 3.5 either way and by ten events at least, once a
-- quarter of an hour is known.
CREATE OR REPLACE VIEW anomalies AS
SELECT
    tenant, type, minute, events,
    if(empty(before), 0, arrayReduce('quantileExactInclusive(0.5)', before)) AS middle,
    arrayMap(x -> abs(x - middle), before) AS off,
    if(empty(off), 0, arrayReduce('quantileExactInclusive(0.5)', off)) AS mad,
    if(empty(off), 0, arrayAvg(off)) AS mean_off,
    multiIf(mad > 0, 0.6745 * (events - middle) / mad, mean_off > 0, (events - middle) / (1.2533 * mean_off), events - middle) AS score,
    length(before) >= 15 AND abs(score) > 3.5 AND abs(events - middle) >= 10 AS marked
FROM (
    SELECT
        tenant, type, minute, events,
        groupArray(toFloat64(events)) OVER (PARTITION BY tenant, type ORDER BY minute ROWS BETWEEN 60 PRECEDING AND 1 PRECEDING) AS before
    FROM (
        SELECT tenant, type, minute, sum(events) AS events
        FROM (
            SELECT tenant, type, minute, events FROM events_1m
            WHERE minute >= toStartOfMinute(now() - INTERVAL 25 HOUR) AND minute < toStartOfMinute(now())
            UNION ALL
            SELECT
                tenant, type,
                arrayJoin(arrayMap(n -> first + 60 * n, range(toUInt32(dateDiff('minute', first, toStartOfMinute(now())))))) AS minute, 0
            FROM (
                SELECT tenant, type, min(minute) AS first FROM events_1m
                WHERE minute >= toStartOfMinute(now() - INTERVAL 25 HOUR) AND minute < toStartOfMinute(now())
                GROUP BY tenant, type
            )
        )
        GROUP BY tenant, type, minute
    )
);
