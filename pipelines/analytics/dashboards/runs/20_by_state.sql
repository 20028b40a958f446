-- title: Runs by their latest state
-- unit:
-- draw: bars
-- about: Each run once, in the state it is in now.
SELECT status, count() AS runs
FROM runs_latest
WHERE requested_at >= {from:DateTime} AND requested_at < {to:DateTime}
GROUP BY status
ORDER BY runs DESC, status
