-- title: Runs ended per minute by state
-- unit: /min
-- draw: lines
-- about: A run counts once, in the minute in which it ended.
SELECT minute AS time, status, uniqExactIfMerge(ended) AS runs
FROM runs_1m
WHERE minute >= toStartOfMinute({from:DateTime}) AND minute < {to:DateTime}
GROUP BY time, status
HAVING runs > 0
ORDER BY time, status
