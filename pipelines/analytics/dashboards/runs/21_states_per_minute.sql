-- title: Runs per minute by state
-- unit: /min
-- draw: lines
-- about: A run counts in a minute under each state it was in.
SELECT minute AS time, status, uniqExactMerge(runs) AS runs
FROM runs_1m
WHERE minute >= toStartOfMinute({from:DateTime}) AND minute < {to:DateTime}
GROUP BY time, status
ORDER BY time, status
