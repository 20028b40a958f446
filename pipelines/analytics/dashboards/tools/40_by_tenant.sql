-- title: Calls by tenant and tool
-- unit:
-- draw: bars
-- about: Who calls what.
SELECT tenant, tool, sum(calls) AS calls
FROM calls_1m
WHERE minute >= toStartOfMinute({from:DateTime}) AND minute < {to:DateTime}
GROUP BY tenant, tool
ORDER BY calls DESC, tenant, tool
