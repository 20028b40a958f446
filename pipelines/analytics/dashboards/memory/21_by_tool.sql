-- title: Memories by tool
-- unit:
-- draw: bars
-- about: What they are memories of.
SELECT tool, sum(events) AS memories
FROM events_1m
WHERE type = 'memory.indexed' AND minute >= toStartOfMinute({from:DateTime}) AND minute < {to:DateTime}
GROUP BY tool
ORDER BY memories DESC, tool
