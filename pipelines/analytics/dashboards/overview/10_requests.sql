-- title: Requests
-- unit:
-- draw: number
-- about: Requests that came in, repeats and refusals included.
SELECT sum(events) AS requests
FROM events_1m
WHERE type IN ('request.accepted', 'request.refused', 'request.duplicate') AND minute >= toStartOfMinute({from:DateTime}) AND minute < {to:DateTime}
