-- title: Memories indexed
-- unit:
-- draw: number
-- about: One for each outcome that was worth remembering.
SELECT sum(events) AS memories
FROM events_1m
WHERE type = 'memory.indexed' AND minute >= toStartOfMinute({from:DateTime}) AND minute < {to:DateTime}
