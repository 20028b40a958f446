-- title: Marked as unusual
-- unit:
-- draw: number
-- about: Minutes whose events of a tenant and type are beyond 3.5 robust deviations of the hour before.
SELECT countIf(marked) AS minutes
FROM anomalies
WHERE minute >= toStartOfMinute({from:DateTime}) AND minute < {to:DateTime}
