-- title: Requests per minute by what became of them
-- unit: /min
-- draw: lines
-- about: Accepted, refused, or dropped as a repeat of an idempotency key.
SELECT minute AS time, substringIndex(type, '.', -1) AS fate, sum(events) AS requests
FROM events_1m
WHERE type IN ('request.accepted', 'request.refused', 'request.duplicate') AND minute >= toStartOfMinute({from:DateTime}) AND minute < {to:DateTime}
GROUP BY time, fate
ORDER BY time, fate
