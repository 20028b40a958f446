-- title: Runs that have not ended
-- unit:
-- draw: number
-- about: Of those asked for in this time.
SELECT countIf(finished_at IS NULL) AS runs
FROM runs_latest
WHERE requested_at >= {from:DateTime} AND requested_at < {to:DateTime}
