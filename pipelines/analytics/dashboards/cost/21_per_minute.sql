-- title: Cost per minute by tenant
-- unit: usd
-- draw: lines
-- about: In the minute in which the call ended.
SELECT minute AS time, tenant, sum(cost_usd) AS usd
FROM calls_1m
WHERE minute >= toStartOfMinute({from:DateTime}) AND minute < {to:DateTime}
GROUP BY time, tenant
ORDER BY time, tenant
