-- title: Cost of calls
-- unit: usd
-- draw: number
-- about: As the tools said with their outcomes.
SELECT sum(cost_usd) AS usd
FROM calls_1m
WHERE minute >= toStartOfMinute({from:DateTime}) AND minute < {to:DateTime}
