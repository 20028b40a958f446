-- title: Calls nobody can tell the end of
-- unit:
-- draw: number
-- about: UNKNOWN: parked for a human, never repeated.
SELECT sumIf(calls, status = 'UNKNOWN') AS calls
FROM calls_1m
WHERE minute >= toStartOfMinute({from:DateTime}) AND minute < {to:DateTime}
