-- title: Calls per minute by tool
-- unit: /min
-- draw: lines
-- about: Every attempt counts.
SELECT minute AS time, tool, sum(calls) AS calls
FROM calls_1m
WHERE minute >= toStartOfMinute({from:DateTime}) AND minute < {to:DateTime}
GROUP BY time, tool
ORDER BY time, tool
