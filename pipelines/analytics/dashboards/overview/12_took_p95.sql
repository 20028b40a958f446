-- title: Run duration, 95th percentile
-- unit: ms
-- draw: number
-- about: From the request to the end of its run.
SELECT ifNotFinite(quantilesBFloat16IfMerge(0.5, 0.95, 0.99)(took)[2], 0) AS took_ms
FROM runs_1m
WHERE minute >= toStartOfMinute({from:DateTime}) AND minute < {to:DateTime}
