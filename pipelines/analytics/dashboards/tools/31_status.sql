-- title: Calls by how they ended
-- unit:
-- draw: bars
-- about: With the fault code, where there is one.
SELECT tool, status, code, sum(calls) AS calls
FROM calls_1m
WHERE minute >= toStartOfMinute({from:DateTime}) AND minute < {to:DateTime}
GROUP BY tool, status, code
ORDER BY calls DESC, tool, status
