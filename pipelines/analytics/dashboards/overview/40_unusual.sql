-- title: Marked as unusual
-- unit:
-- draw: number
-- about: Minutes of a tenant and type beyond 3.5 robust deviations of the hour before, and by ten events at least.
SELECT countIf(marked) AS minutes
FROM anomalies
WHERE minute >= toStartOfMinute({from:DateTime}) AND minute < {to:DateTime}
