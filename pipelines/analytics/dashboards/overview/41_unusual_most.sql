-- title: How unusual: robust z-score, greatest first
-- unit:
-- draw: table
-- about: Of each tenant and type its most unusual minute. Marked only when a quarter of an hour is known before it.
SELECT
    tenant, type, formatDateTime(argMax(minute, abs(score)), '%m-%d %H:%i') AS at, argMax(events, abs(score)) AS events,
    argMax(middle, abs(score)) AS median, argMax(mad, abs(score)) AS mad, argMax(score, abs(score)) AS z, max(marked) AS marked
FROM anomalies
WHERE minute >= toStartOfMinute({from:DateTime}) AND minute < {to:DateTime}
GROUP BY tenant, type
ORDER BY marked DESC, abs(z) DESC, tenant, type
LIMIT 15
