-- title: Runs asked for
-- unit:
-- draw: number
-- about: Each run once.
SELECT count() AS runs
FROM runs_latest
WHERE requested_at >= {from:DateTime} AND requested_at < {to:DateTime}
