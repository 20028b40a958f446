-- title: Runs that succeeded, of those that ended
-- unit: %
-- draw: number
-- about: Denied, failed, compensated and stopped runs are the rest.
SELECT if(total = 0, 0, succeeded / total) AS share
FROM (
    SELECT uniqExactIfMerge(ended) AS total, uniqExactIfMergeIf(ended, status = 'SUCCEEDED') AS succeeded
    FROM runs_1m
    WHERE minute >= toStartOfMinute({from:DateTime}) AND minute < {to:DateTime}
)
