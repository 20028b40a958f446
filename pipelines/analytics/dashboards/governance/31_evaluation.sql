-- title: How long judging takes
-- unit: ms
-- draw: lines
-- about: One verdict, from its record to its decision.
SELECT time, name, value / 1000 AS ms
FROM (
    SELECT minute AS time, quantilesBFloat16Merge(0.5, 0.95, 0.99)(evaluation) AS q
    FROM verdicts_1m
    WHERE minute >= toStartOfMinute({from:DateTime}) AND minute < {to:DateTime}
    GROUP BY time
)
ARRAY JOIN ['p50', 'p95', 'p99'] AS name, q AS value
ORDER BY time, name
