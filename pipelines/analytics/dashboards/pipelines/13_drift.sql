-- title: Rows in which minute tables and facts differ
-- unit:
-- draw: number
-- about: Recomputed from the facts: 0 is right, `SELECT * FROM minutes_drift` shows the others.
SELECT count() AS rows
FROM minutes_drift
WHERE minute >= toStartOfMinute({from:DateTime}) AND minute < {to:DateTime}
