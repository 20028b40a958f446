-- title: Runs that wait for a human
-- unit:
-- draw: number
-- about: As of now, of the runs that were asked for in this time.
SELECT countIf(status = 'WAITING_APPROVAL') AS runs
FROM runs_latest
WHERE requested_at >= {from:DateTime} AND requested_at < {to:DateTime}
