-- title: Runs by capsule and tenant
-- unit:
-- draw: table
-- about: Ended, succeeded, and how long they took.
SELECT
    capsule, tenant, uniqExactIfMerge(r.ended) AS ended, uniqExactIfMergeIf(r.ended, status = 'SUCCEEDED') AS succeeded,
    ifNotFinite(quantilesBFloat16IfMerge(0.5, 0.95, 0.99)(took)[1], 0) AS p50_ms,
    ifNotFinite(quantilesBFloat16IfMerge(0.5, 0.95, 0.99)(took)[2], 0) AS p95_ms
FROM runs_1m AS r
WHERE minute >= toStartOfMinute({from:DateTime}) AND minute < {to:DateTime}
GROUP BY capsule, tenant
ORDER BY ended DESC, capsule, tenant
