-- title: Calls that failed
-- unit: %
-- draw: number
-- about: FAILED, UNKNOWN and REFUSED, of all.
SELECT if(sum(calls) = 0, 0, sumIf(calls, status IN ('FAILED', 'UNKNOWN', 'REFUSED')) / sum(calls)) AS share
FROM calls_1m
WHERE minute >= toStartOfMinute({from:DateTime}) AND minute < {to:DateTime}
