-- title: Latency, 95th percentile
-- unit: ms
-- draw: number
-- about: Of all calls.
SELECT ifNotFinite(quantilesBFloat16Merge(0.5, 0.95, 0.99)(latency)[2], 0) / 1000 AS p95_ms
FROM calls_1m
WHERE minute >= toStartOfMinute({from:DateTime}) AND minute < {to:DateTime}
