-- title: What happened to steps
-- unit:
-- draw: bars
-- about: Started, succeeded, failed, tried again, undone.
SELECT type, sum(events) AS events
FROM events_1m
WHERE startsWith(type, 'step.') AND minute >= toStartOfMinute({from:DateTime}) AND minute < {to:DateTime}
GROUP BY type
ORDER BY events DESC, type
