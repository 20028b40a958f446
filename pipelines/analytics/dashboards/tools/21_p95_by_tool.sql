-- title: Latency p95 by tool
-- unit: ms
-- draw: lines
-- about: Of the calls that ended in that minute.
SELECT minute AS time, tool, quantilesBFloat16Merge(0.5, 0.95, 0.99)(latency)[2] / 1000 AS p95_ms
FROM calls_1m
WHERE minute >= toStartOfMinute({from:DateTime}) AND minute < {to:DateTime}
GROUP BY time, tool
ORDER BY time, tool
