-- title: Cost by capsule and tool
-- unit: usd
-- draw: table
-- about: What is paid for what.
SELECT capsule, tool, sum(c.calls) AS calls, sum(c.cost_usd) AS total_usd, total_usd / calls AS per_call_usd
FROM calls_1m AS c
WHERE minute >= toStartOfMinute({from:DateTime}) AND minute < {to:DateTime}
GROUP BY capsule, tool
ORDER BY total_usd DESC, calls DESC, capsule, tool
