-- title: Calls
-- unit:
-- draw: number
-- about: Outcomes of actions and of what undoes them.
SELECT sum(calls) AS calls
FROM calls_1m
WHERE minute >= toStartOfMinute({from:DateTime}) AND minute < {to:DateTime}
