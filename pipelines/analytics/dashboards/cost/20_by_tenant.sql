-- title: Cost by tenant
-- unit: usd
-- draw: bars
-- about: All tools.
SELECT tenant, sum(cost_usd) AS usd
FROM calls_1m
WHERE minute >= toStartOfMinute({from:DateTime}) AND minute < {to:DateTime}
GROUP BY tenant
ORDER BY usd DESC, tenant
