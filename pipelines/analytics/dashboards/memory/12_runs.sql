-- title: Runs with memories
-- unit:
-- draw: number
-- about: Each run once.
SELECT uniqExact(run_id) AS runs
FROM events
WHERE type = 'memory.indexed' AND ts >= {from:DateTime} AND ts < {to:DateTime}
