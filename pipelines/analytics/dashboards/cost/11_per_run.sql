-- title: Cost of a run that succeeded
-- unit: usd
-- draw: number
-- about: Mean over the runs asked for in this time.
SELECT ifNotFinite(avgIf(toFloat64(cost_usd), status = 'SUCCEEDED'), 0) AS usd
FROM runs_latest
WHERE requested_at >= {from:DateTime} AND requested_at < {to:DateTime}
