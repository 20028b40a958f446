-- title: Operations
-- unit:
-- draw: table
-- about: Calls, failures, tries again and latency of each operation.
SELECT
    tool, operation, sum(c.calls) AS calls, sumIf(c.calls, status IN ('FAILED', 'UNKNOWN', 'REFUSED')) / calls AS failed_rate,
    sum(c.retries) / calls AS retried_rate, quantilesBFloat16Merge(0.5, 0.95, 0.99)(latency)[1] / 1000 AS p50_ms,
    quantilesBFloat16Merge(0.5, 0.95, 0.99)(latency)[2] / 1000 AS p95_ms,
    quantilesBFloat16Merge(0.5, 0.95, 0.99)(latency)[3] / 1000 AS p99_ms
FROM calls_1m AS c
WHERE minute >= toStartOfMinute({from:DateTime}) AND minute < {to:DateTime}
GROUP BY tool, operation
ORDER BY calls DESC, tool, operation
