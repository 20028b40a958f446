-- title: Cost of runs that came to nothing
-- unit: usd
-- draw: number
-- about: Failed, compensated, unknown, killed and cancelled runs.
SELECT sumIf(toFloat64(cost_usd), status IN ('FAILED', 'COMPENSATED', 'UNKNOWN', 'KILLED', 'CANCELLED')) AS usd
FROM runs_latest
WHERE requested_at >= {from:DateTime} AND requested_at < {to:DateTime}
