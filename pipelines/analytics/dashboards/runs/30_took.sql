-- title: Run duration
-- unit: ms
-- draw: lines
-- about: From the request to the end, of the runs that ended in that minute.
SELECT time, name, value
FROM (
    SELECT minute AS time, quantilesBFloat16IfMerge(0.5, 0.95, 0.99)(took) AS q
    FROM runs_1m
    WHERE minute >= toStartOfMinute({from:DateTime}) AND minute < {to:DateTime}
    GROUP BY time
    HAVING uniqExactIfMerge(ended) > 0
)
ARRAY JOIN ['p50', 'p95', 'p99'] AS name, q AS value
ORDER BY time, name
