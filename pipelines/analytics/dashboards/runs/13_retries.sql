-- title: Calls that were tries again
-- unit: %
-- draw: number
-- about: Second and later attempts, of all calls.
SELECT if(sum(calls) = 0, 0, sum(retries) / sum(calls)) AS share
FROM calls_1m
WHERE minute >= toStartOfMinute({from:DateTime}) AND minute < {to:DateTime}
