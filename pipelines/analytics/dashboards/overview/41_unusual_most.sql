-- title: How unusual: robust z-score, greatest first
-- unit:
-- draw: table
-- about: Of each tenant and type its most unusual minute, marked ones first. Marked only when a quarter of an hour is known before it.
SELECT
    tenant, type, formatDateTime(top.1, '%m-%d %H:%i') AS at, top.2 AS events, top.3 AS median, top.4 AS mad, top.5 AS z, top.6 AS marked
FROM (
    SELECT tenant, type, argMax((minute, events, middle, mad, score, marked), (marked, abs(score))) AS top
    FROM anomalies
    WHERE minute >= toStartOfMinute({from:DateTime}) AND minute < {to:DateTime}
    GROUP BY tenant, type
)
ORDER BY marked DESC, abs(z) DESC, tenant, type
LIMIT 15
