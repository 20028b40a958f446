-- title: Events per minute by tenant
-- unit: /min
-- draw: lines
-- about: Everything a stage said had happened.
SELECT minute AS time, tenant, sum(events) AS events
FROM events_1m
WHERE minute >= toStartOfMinute({from:DateTime}) AND minute < {to:DateTime}
GROUP BY time, tenant
ORDER BY time, tenant
