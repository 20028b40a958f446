-- title: Memories per minute by tenant
-- unit: /min
-- draw: lines
-- about: In the minute in which they were indexed.
SELECT minute AS time, tenant, sum(events) AS memories
FROM events_1m
WHERE type = 'memory.indexed' AND minute >= toStartOfMinute({from:DateTime}) AND minute < {to:DateTime}
GROUP BY time, tenant
ORDER BY time, tenant
